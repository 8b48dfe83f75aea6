"""Every bound of p2pkv, with its arithmetic. A loop, queue, cache or size set by a stranger has its bound here."""

from __future__ import annotations

KIB = 1024
MIB = 1024 * KIB

# --- Kademlia ---
K_DEFAULT = 8  # replicas, and contacts in an answer
ALPHA_DEFAULT = 3  # requests in flight of one lookup
K_MAX = 64

# --- Records ---
KEY_BYTES_MAX = KIB
NAME_BYTES_MAX = KIB
INLINE_BYTES_MAX = KIB  # a longer value becomes chunks
BODY_BYTES_MAX = KIB  # what a version carries inline: the value, or the chunk list
META_BYTES_MAX = 512
SIGNATURE_BYTES_MAX = 512  # a plain Ed25519 signature takes 64; a batch signature adds a Merkle path
# name + body + meta + signature + author 32 + clock 9 + flags, expiry, size 24 + msgpack heads 24
VERSION_BYTES_MAX = NAME_BYTES_MAX + BODY_BYTES_MAX + META_BYTES_MAX + SIGNATURE_BYTES_MAX + 32 + 9 + 24 + 24
CLOCK_DRIFT_S_MAX = 300.0  # a version from further in the future is refused
TOMBSTONE_S = 30 * 86_400.0  # longer than a replica may be away and come back with its data

# --- Chunks and files ---
CHUNK_BYTES_MAX = MIB  # plain bytes of one chunk
CHUNK_OVERHEAD_BYTES_MAX = 64  # codec byte, AEAD tag and nonce
STORED_CHUNK_BYTES_MAX = CHUNK_BYTES_MAX + CHUNK_OVERHEAD_BYTES_MAX
CHUNK_LIST_LEVELS_MAX = 4  # 25 entries in a record, then about 25,000 a level: far beyond any disk
SHARDS_MAX = 32  # of one chunk: ISA-L's own bound
SHARD_SALTS = 256  # one byte
SHARD_PATIENCE = 3.0  # times what shards usually take: then others are fetched beside those that have not come
SHARD_PATIENCE_MIN_S = 0.2
ASSUMED_LIFE_S = 90 * 86_400.0  # of a peer, until it goes for good: for the loss that an upload expects
ASSUMED_REPAIR_S = 3600.0  # from there until what it held is rebuilt
VALUE_IN_MEMORY_BYTES_MAX = 8 * MIB  # `Record.value` holds values up to this; longer ones are streamed

# --- RPC ---
RPC_PAYLOAD_BYTES_MAX = 8 * KIB  # rpcudp's own bound on a request, kept for replies too
RPC_EXTENSION_BYTES_MAX = 512
# type 1 + message id 20 + payload + extension + its length and mark 3
RPC_DATAGRAM_BYTES_MAX = 1 + 20 + RPC_PAYLOAD_BYTES_MAX + RPC_EXTENSION_BYTES_MAX + 3
RPC_OUTSTANDING_PER_CONTACT_MAX = 64
RPC_OUTSTANDING_MAX = 4096
RPC_ANSWERS_CACHED_MAX = 4096  # answers kept for repeated ids, all contacts together
RPC_ANSWERS_CACHED_BYTES_MAX = 8 * MIB
RPC_ANSWER_CACHE_S = 15.0  # longer than the last resend of a request can be late
RPC_RTO_INITIAL_S = 0.25  # before the first sample: loopback, LAN and most of the Internet answer faster
RPC_RTO_MIN_S = 0.02
RPC_RTO_MAX_S = 2.0
RTT_SAMPLES_FEW = 4  # round trips after which a contact's quickest answer is believed
RTT_SAMPLES_MANY = 32  # and its whole estimate: of the first sample 1.4 % is left in it then
RPC_BACKOFF_S_MAX = 0.5  # between two resends of one call, to a contact that is not slower: 12 fit its deadline
RPC_RESENDS_MAX = 12  # over some 4 s; under 20 % loss each way one call in 500,000 fails
RPC_DEADLINE_S = 5.0  # a request ends at the latest then, whatever its resends
RPC_WORKING_S_MAX = 30.0  # so long a peer is waited for that says again and again that it is at work
AMPLIFICATION_MAX = 3  # answer bytes per request byte to an address that is not proven
COOKIE_EPOCH_S = 300.0  # a cookie holds for one to two of these
COOKIES_CACHED_MAX = 4096  # addresses whose cookie is not computed anew for every answer: some 1.5 MB
HANDLERS_RUNNING_MAX = 1024  # requests being worked on, all contacts together; beyond it the answer is "busy"

# --- Routing ---
CONTACT_FAILURES_MAX = 3  # silences in a row before a contact is evicted
REPLACEMENTS_PER_BUCKET_MAX = 16
CONTACTS_UNVERIFIED_MAX = 512  # addresses we have heard from and not yet had an answer from
CONTACTS_REMEMBERED_MAX = 4096  # heard of in lookups, kept for their round-trip times: some 4 MB
CONTACTS_FORMER_MAX = 64  # evicted ones that are tried again when no other is left, and at every refresh
CUT_OFF_WITHIN_S = 60.0  # where half of all that are known fall silent within this time, the network has parted
CUT_OFF_HEARD_SHARE = 0.9  # of those that it knew: when so many are heard again, it is cut off no more
CUT_OFF_SAMPLE = 12  # contacts that are asked whether they live where a put needs others in place of its replicas
CUT_OFF_PING_S = 0.3  # how long they are waited for
CUT_OFF_CHECK_S = 0.1  # between two looks at who is silent
LOST_S = 3600.0  # so long an evicted contact counts among the replicas of a swarm that is smaller than k
GREETINGS_MAX = 64  # verifying pings under way
GREETING_INTERVAL_S = 5.0  # between two verifying pings to one address: a forged sender brings nobody more
GREETINGS_REMEMBERED_MAX = 4096
CHECKS_MAX = 256  # silent contacts being asked again whether they live
CHECK_INTERVAL_S = 2.0
BUCKET_HEAD_STALE_S = 60.0  # a full bucket's least recently seen contact is asked whether it lives after this
NEIGHBOURS_CACHED_MAX = 512  # answers of the routing table, until it changes
CONTACTS_PER_ADDRESS_MAX = 64  # of one IP address in the whole table, loopback excepted
REFRESH_S = 900.0
ADVERTISE_S = 300.0  # between two tellings of a contact where we are reached: it may have started anew
ADVERTISED_AT_ONCE_MAX = 64  # pings to addresses that others advertise, under way
CONTACTS_QUESTIONED_MAX = 8  # asked at once how they see us
CONTACTS_SAVED_MAX = 256
CONTACTS_FIRST_SAVED_S = 10.0  # after joining: a peer that is killed finds its swarm again without a bootstrap
CONTACTS_FILE_BYTES_MAX = 256 * CONTACTS_SAVED_MAX
SETTLE_PAUSE_S = 0.2  # between the first two looks around of a peer that joins; doubled each time
SETTLE_ROUNDS_MAX = 4  # so 5 s at most
ELSEWHERE_ASKED = 2  # of all contacts, for each far place, beside those near it
FAR_TARGETS_MAX = 32  # lookups of one refresh in the parts of the id space that are not ours: enough for 2**32 peers
BOOTSTRAP_BACKOFF_MIN_S = 0.5  # between two attempts to join, doubled
BOOTSTRAP_BACKOFF_MAX_S = 30.0
BOOTSTRAP_ADDRESSES_MAX = 64  # asked in one attempt

# --- Lookup ---
LOOKUP_CANDIDATES_MAX = 256  # kept by one lookup, nearest first: 4 times K_MAX
LOOKUP_ASKED_MAX = 256  # questions of one lookup: invented nodes cannot keep it busy for ever
LOOKUP_PATIENCE_MIN_S = 0.01  # for a contact; what is nearer than this is not told from a busy machine
LOOKUP_DOUBT_PATIENCES = 8.0  # three transmissions went unanswered by then: two of at least 20 ms, doubled, and a third
LOOKUP_DOUBT_S_MAX = 0.3  # beyond its patience: an estimate from a crowded moment must not cost seconds
LOOKUPS_LINGERING_MAX = 1024  # questions that go on behind lookups that have ended, all together
LOOKUP_LINGER_S = 10.0  # how long a lookup goes on behind its outcome: twice a request's deadline
SILENT_CONTACTS_MAX = 1024  # contacts remembered as silent, so that lookups pass them by
SILENT_S = 2.0  # until it is probed, doubled at every further silence: three of them evict it in some 10 s
SILENT_S_MAX = 900.0
RETURNED_S = 30.0  # after a silence: until then a peer has compared with its neighbours, and has what it missed
PROBE_INTERVAL_S = 1.0  # how often a peer with lookups to do looks whom to probe
PROBES_AT_ONCE_MAX = 8

# --- Socket ---
SOCKET_BUFFER_BYTES = 8 * MIB  # asked for; the system may give less
SENDS_WAITING_BYTES_MAX = 4 * MIB  # until a socket is writable; what comes beyond is lost
SOCKET_BUFFER_BYTES_SMALL = MIB  # below this `doctor` and the log complain

# --- Files ---
# a list as a chunk: head 32; an entry is array head 1 + id 34 + size 9 at most
CHUNK_LIST_ENTRIES_MAX = (CHUNK_BYTES_MAX - 32) // 44
CHUNKS_IN_FLIGHT_MAX = 16  # of one process's transfers together: 16 MiB of plain bytes
FILES_IN_FLIGHT_MAX = 32  # of one folder
CHUNK_GET_ATTEMPTS_MAX = 3  # then the chunk is called unreachable
CHUNK_PUT_ATTEMPTS_MAX = 3  # for its acks; replicas that have it are not sent it again
CHUNKS_REMEMBERED_MAX = 1 << 17  # ids of one upload, to put equal chunks once: 128 GiB of file, 16 MB of memory
READ_BYTES = 4 * CHUNK_BYTES_MAX  # of a file that is uploaded, at once
PIECES_HELD_MAX = 8  # of one download that wait in memory to be hashed in order; further ones are read again
DIRECT_FILE_BYTES_MIN = 16 * MIB  # smaller downloads are likely to be read at once and stay in the page cache
DIRECT_WRITE_BYTES_MAX = 4 * MIB  # written at once past the page cache
DIRECT_ALIGN_BYTES = 4096  # of what is written past the page cache: the largest block of common disks
FAILURES_REPORTED_MAX = 1000  # files of a folder that failed, by name; the count goes on
FOLDER_DEPTH_MAX = 128
PROGRESS_INTERVAL_S = 0.1
PROGRESS_PEERS_MAX = 32  # named in one step
# "p2pkv:" + key and name percent-encoded + "#" and 43 characters of base64
LINK_CHARS_MAX = 6 + 3 * (KEY_BYTES_MAX + NAME_BYTES_MAX) + 44

# --- Replication ---
STOCK_VALUE_BYTES_MAX = 6 * KIB  # of a value put by a stock peer: an answer that carries it fits RPC_PAYLOAD_BYTES_MAX
NODES_IN_ANSWER_MAX = 20  # 20 x about 48 bytes
# Versions of one answer: the payload less nodes, digest, cursor and msgpack heads.
RECORDS_ANSWER_BYTES_MAX = RPC_PAYLOAD_BYTES_MAX - NODES_IN_ANSWER_MAX * 48 - 160
RECORDS_STORE_BYTES_MAX = RPC_PAYLOAD_BYTES_MAX - KEY_BYTES_MAX - 160  # versions of one store request
RECORDS_STORE_LONG_BYTES_MAX = 768 * KIB  # of one request by bulk transfer: some 3,000 short ones
RECORDS_JUDGED_AT_ONCE = 128  # of one request, before others get their turn: some 3 ms
RESULT_BYTES = 24  # of the answer to one version stored: code and the usual detail
RECORDS_ANSWER_MAX = 1000  # versions of one answer
RECORDS_DIGEST_MAX = 5000  # versions that one digest request makes a replica read
RUN_RECORDS_MAX = 1024  # of one run, where many are asked for together
RUN_BYTES_MAX = 128 * KIB  # of one of them: some 500 short records, 50 long ones
RUN_LONG_BYTES_MAX = 896 * KIB  # of one that is asked for alone: a page of short records in one answer
RUNS_BYTES_MAX = 384 * KIB  # of one answer, beyond which no further run begins: with the last one 512 KiB
RUNS_RECORDS_MAX = 4096  # that one answer makes a replica read: some 30 ms
# 128 times digest, heads, end and ids of batches (3,300 bytes at most) are 420 KiB more: an answer fits 1 MiB.
RUNS_ASKED_MAX = 128
RUN_PATIENCE_S = 1.0  # for one run: then a spare replica is asked beside those that did not answer
RUNS_DOUBT_S = 0.3  # a contact that owes an answer for so long is asked only where others are too few
RUNS_SHORT_RECORDS = 24  # what mostly fits a datagram: a request for no more goes by RPC where it is alone
RUNS_CALLS_AT_ONCE_MAX = 2  # to one contact: it works on the next while an answer travels
RUNS_WAITING_MAX = 4096  # to one contact, all reads together; beyond it the next one fails
OPENED_TOGETHER_MAX = 1024  # pages of a key that are opened together
OPENED_TOGETHER_RECORDS = 1  # of each page, at first: the first value comes soon
OPENING_SPARES = 4  # replicas beyond a read quorum that are asked at once where pages are few
OPENING_FEW_PAGES = 1  # so it costs little there to learn who lives
OPENING_PATIENCE_S = 0.02  # without any answer: then others are asked in the place of those who owe one
OPENING_DISTANCES = 2.0  # times a contact's quickest answer: so long it is waited for where others have answered
OPENING_WORK_S = 0.00025  # that peers of one machine may take for each answer owed, before any of them has come
OPENING_MOST_S = 0.1  # without a word from most of those who were asked: they are rather busy than dead
OPENING_TURN_S = 0.001  # less than this is not waited for
OPENING_PROBES_MAX = 64  # peers that are asked for runs and pinged beside that: so few, it costs nothing
SILENT_REPLICAS_RETRIES_MAX = 3  # of a read of a page where none of its replicas answers, but others do
SILENT_REPLICAS_RETRY_S = 0.5  # before the first of them, doubled: contacts that were silent are probed meanwhile
BEYOND_QUORUM_S = 0.5  # what a replica beyond the quorum is waited for where a quorum was of two minds, or empty
SUMMARIES_ASKED_MAX = 128  # pages of one request: 128 x 33 bytes
SUMMARIES_KEPT_MAX = 16_384  # pages of a replica that nothing was written to since: some 4 MB
SUMMARIES_TURN_S = 0.25  # of summing pages up for one request; the asker goes on with the next
SUMMARIES_WORTH = 8  # pages of a key from which on they are summed up together
LACKING_MENDED_MAX = 16  # records of one run: who lacks more has just come to the page, and fetches all of it itself
NAMES_ASKED_MAX = 64  # names of one request; the answer says how many of them fitted
NEWER_PAGES_ASKED_MAX = 128  # of one question for newer versions; their nodes and batches are 160 KiB at most
NEWER_NAMES_ASKED_MAX = 8192  # of all its pages: some 40 ms of a replica, in turns
NEWER_READ_AT_ONCE = 512  # of them, that a replica reads in one go: some 5 ms of a thread
NEWER_ASKED_BYTES_MAX = 512 * KIB  # of its names, and 16 bytes each
NEWER_BYTES_MAX = 384 * KIB  # of the versions of the answer, beyond which no further name is answered
CLOCK_RETRIES_MAX = 3  # puts that lost to a clock ahead of ours, tried again behind it
REPAIRS_PENDING_MAX = 256  # read repairs that wait, beyond which none is planned
REPAIRS_AT_ONCE_MAX = 32
REPAIRS_PAUSE_S = 0.1  # before each so many

# --- Upkeep ---
COMPARE_PREFIXES_MAX = 128  # of one comparison: some 30 bytes each fit RPC_PAYLOAD_BYTES_MAX
COMPARE_ITEMS_MAX = 32  # items that are named at once where few lie below a prefix: 320 bytes
COMPARE_WHOLE_ITEMS_MAX = 500  # the same where the asker has nothing: 5,000 bytes
COMPARE_ANSWER_BYTES_MAX = RPC_PAYLOAD_BYTES_MAX - 512
FETCH_ITEMS_MAX = 500  # of one request: 5,000 bytes
HOLDS_ITEMS_MAX = 8192  # of one question by bulk transfer, whether they are held: 82 KB
FETCH_ITEM_BYTES = 24  # heads of one record of an answer, beside key and version
CELLS_KEPT_MAX = 32  # cells read from the store for peers that fetch them, kept for their next request
CELLS_REFRESHED_AT_ONCE_MAX = 64  # cells that have changed and are read anew before a comparison is answered
CELLS_APART_MAX = 8  # changed cells so near to each other are read at once
CELLS_RUN_MAX = 256  # cells read at once: a 256th part of what is here
INVENTORY_STEP_PAGES = 500  # pages read in one step while the inventory is taken
INVENTORY_DUTY = 0.25  # part of the time that taking the inventory may use
INVENTORY_FOLLOW_DUTY = 0.25  # the same of following changes; at 0.1 a newcomer waits four times as long for its share
CHUNK_SETTLE_S = 10.0  # so long upkeep leaves a chunk that has just come to whoever puts it
INVENTORY_COUNT_DUTY = 0.05  # the same of counting what came and went
CELLS_COUNTED_AT_ONCE = 8  # cells whose changes are counted in one turn of the event loop: some 5 ms
CHANGES_FEW_MAX = 128  # records that came or went lately, up to which they count at once
CHANGES_MANY_MIN = 1024  # the same, from where on rounds of upkeep wait for the end of it
RECORDS_SETTLE_S = 5.0  # so long, and up to twice that, upkeep leaves a record that has just come to whoever puts it
INVENTORY_LAG_S_MAX = 10.0  # while changes go on without a pause, changed cells are read anew this often
INVENTORY_REFRESH_PAUSE_S = 0.5  # before changed cells are read anew: many changes at once are one
UPKEEP_FIRST_S = 1.0  # from the start to the first round
UPKEEP_SOON_S = 2.0  # from a change among the neighbours to the next round
UPKEEP_SOON_TURNS_MAX = 5  # so often it is put off while the neighbours go on changing
TEND_FIRST_S = 120.0  # from the start to the first look after erasure-coded chunks
TEND_S = 600.0  # between two looks; what is lost in two of them is made anew, so mostly within a quarter of an hour
TEND_SECOND_ROUNDS = 4  # the second nearest to a stripe looks every so many rounds
TEND_STRIPES_AT_ONCE_MAX = 64  # whose shards are asked for together
TEND_REMEMBERED_MAX = 65_536  # shards that are lost, or not where they belong: some 8 MB
DAY_S = 86_400.0
VOUCH_FIRST_S = 3600.0  # from the start to the first word for the chunks of the records here
VOUCH_S = DAY_S  # between two words
VOUCH_SECOND_ROUNDS = 4  # the second nearest to a record says it every so many days
VOUCHED_AT_ONCE_MAX = 4096  # ids gathered before it is said of them
CHUNK_GRACE_DAYS = 30  # without a word, after which a chunk is dropped
CHUNK_DOUBT_DAYS = 15  # without a word, after which a chunk is not brought to further peers
COLLECT_MARGIN_S = 86_400.0  # beyond TOMBSTONE_S, after which all replicas forget a tombstone
SWARM_KNOWN_WHOLE = 128  # contacts: up to so many, the table knows the replicas of any place
LEAVE_S_MAX = 10.0  # what a peer that is told to stop spends on handing on and saying so
LEAVE_WORD_S = 1.0  # how long the answer to its last word is waited for
LEAVE_PUSHES_AT_ONCE_MAX = 8
HANDOVER_GRACE_S = 600.0  # so long a peer keeps what others have become responsible for and have confirmed
HANDOVER_CELLS_MAX = 1024  # cells handed over in one round
UPKEEP_NEIGHBOURS = 4  # times k: the contacts nearest to a peer that it may share places with
UPKEEP_ROUND_S = 15.0  # between two rounds, doubled while nothing is found
UPKEEP_ROUND_S_MAX = 600.0
UPKEEP_LULL_TURNS_MAX = 150  # of UPKEEP_SOON_S each, that a round is put off while very much comes
UPKEEP_LULL_TURNS_FAILED_MAX = 15  # the same behind a round in which a neighbour did not answer
UPKEEP_PREFIX_DIGITS_MAX = 5  # a million parts of the id space: finer than the neighbourhoods of 100,000 peers
UPKEEP_WHOLE_DIGITS = (
    3  # so finely, in 4,096 parts, whatever tells replicas apart is cut; finer what the next digit tells
)
UPKEEP_PREFIXES_MAX = 1024  # parts of the id space that are compared with one neighbour
UPKEEP_FETCHES_AT_ONCE_MAX = 4  # requests for records under way, all neighbours together
UPKEEP_JUDGED_AT_ONCE = 8  # keys whose records are judged in one turn of the event loop: some 2 ms
UPKEEP_FETCH_ITEMS = 96  # of one of them: some three answers
UPKEEP_UNWANTED_MAX = 65_536  # items that were of no use here, remembered so that they are not fetched every round
UPKEEP_UNWANTED_S = 600.0

# --- Pages ---
PAGE_RECORDS_MAX = 4096  # of one page, tombstones too; one record more and it splits
PAGE_BYTES_MAX = MIB  # some 4,080 records of 32 bytes with batch signatures
PAGE_DEPTH_MAX = 8  # 16 ** 8 pages of a key; a page so deep never splits
PAGE_TREES_KEPT_MAX = 256  # keys whose splits a coordinator remembers
PAGE_TREES_KEPT_S = 600.0
PAGE_SPLITS_KNOWN_MAX = 16_384  # of one key: 262,000 leaves, a thousand million records; some 2 MB
PAGE_PLACES_KEPT_MAX = 8192  # places of pages that are not reckoned anew; some 2 MB
PAGE_HOLDINGS_MAX = 16_384  # pages whose state a replica remembers: some 3 MB
PAGE_SITES_MAX = 8192  # pages whose replicas a writer of batches remembers
PAGE_SITES_S = 30.0
PAGES_ASKED_AT_ONCE_MAX = 48  # pages of one read, count or batch that are asked at the same time
PAGES_READ_AT_ONCE_MAX = 256  # pages of one read that go on at the same time, most of them in messages with others
GROWTH_SLOTS = 65_536  # bytes, by which the names that a writer brings to a key are counted
PUT_AHEAD_RECORDS_MAX = 49_152  # values of one `put_many`, read before they are written: more than GROWTH looks for
PUT_AHEAD_BYTES_MAX = 16 * MIB  # of these
PUT_AHEAD_TURN_S = 0.02  # so long they are read before the event loop gets its turn
MOVES_AT_ONCE_MAX = 4  # split pages that a replica empties at the same time
MOVES_WAITING_MAX = 4096  # further ones; those beyond are found again when somebody reads them, or at the next start
MOVE_RECORDS_MAX = 1000  # of a split page, moved on at a time
MOVE_FIRST_S = 2.0  # a page that is split is left as it is: who filled it writes on, or reads what was put
MOVE_TURN_S = 1.0  # the replicas of a split page begin one after the other, the nearest first
MOVE_PATIENCE_S = 10.0  # so long one whose turn comes later sees nothing arrive before it carries records itself
MOVE_GIVES_WAY_S = 3.0  # nothing is moved so long after somebody read records on their way here
MOVE_GIVES_WAY_S_MAX = 10.0  # but, after so long, MOVE_RECORDS_MAX records in so long: 100 a second
MOVE_RETRY_S = 5.0  # after records could not be moved; doubled
MOVE_RETRY_S_MAX = 300.0
MOVE_RESUME_PAUSE_S = 0.05  # between two steps of the search for split pages after a start
BATCH_SIGNED_MAX = 32  # versions under one signature: 64 + 1 + 5 * 16 bytes each
BATCH_TREES_KEPT_MAX = 128  # batches whose nodes are remembered: four times 1,000 records; some 2 MB
BATCH_ROOTS_KEPT_MAX = 4096  # verified signatures of batches that are not verified again
READ_BUFFERED_RECORDS_MAX = 32_768  # of one read, all pages together: some 16 MB
READ_RUN_RECORDS_MAX = 1024  # of one page, read on in one go
READ_RUN_RECORDS_MIN = 32
READ_TURN_RECORDS = 512  # given out before the event loop gets its turn: some 10 ms of a reader that does little
READ_FIRST_RECORDS = 8  # of each page of many, at first: the first value comes soon
SPLIT_LEFTOVERS_MAX = 16_384  # records of a split page that a read takes at once: four times a page's bound
SPLIT_LEFTOVERS_ALL_MAX = 131_072  # of all split pages of a read together: some 80 MB
SPLIT_OPENED_RECORDS = 100  # of a split page, asked for at first: mostly all that it still holds
SPLIT_STRETCH_RECORDS = RUNS_RECORDS_MAX  # and then at a time
SPLIT_CHECKED_FIRST = 512  # of them, looked for below at first: the first value comes soon
SPLIT_CHECKED_GROWTH = 16  # and then so many times more, since a round takes as long whatever it asks for
SPLIT_SHARES_RETRIES_MAX = 3  # times that other replicas are found where some fail in the middle of their shares
STORE_MESSAGES_AT_ONCE_MAX = 192  # of batches, all peers together
STORE_WAITING_BYTES_MAX = 24 * MIB  # of messages of batches, those that have ended too; beyond it the next batch waits
# --- Watching ---
WATCH_LEASE_S = 20.0  # a replica pushes so long after the last renewal
WATCH_LEASE_S_MAX = 60.0
WATCH_RENEW_S = 5.0  # four renewals of a lease may fail; and how soon a watch finds out who the replicas are now
WATCH_SPARE_LEASES = 1  # beyond a read quorum: one replica may die and nothing has to be read again
WATCH_PAGES_MAX = 512  # of a key, that one watch has leases of; a key of more is read again and again
WATCH_PAGE_S = 0.02  # of a round or a pause, for each page: 50 pages a second
WATCH_DEADLINE_S = 2.0  # of the request for a lease
WATCH_S = 0.5  # between two reads of a watch that has too few leases
WATCH_SETTLE_S = RPC_DEADLINE_S + 1.0  # a put that was under way while leases began is over by then: read once more
WATCH_SWEEP_S = 60.0  # between two reads of a watch that has its leases
WATCH_OVERLAP_S = 10.0  # how far back every read goes: a put under way that long is not passed over
WATCH_SWEEP_BACK_S = 2 * CLOCK_DRIFT_S_MAX  # how far sweeps go: what a writer with a slow clock put comes late
WATCH_SWEEP_RECORDS_MAX = 5000  # beyond the overlap, a sweep goes no further back than so many records
WATCH_TOLD_MAX = 100_000  # records that a watch remembers to have told: some 50 MB; older ones are not told again
WATCH_INBOX_MAX = 4096  # versions pushed and not yet told, 12 MiB at most; beyond it the watch reads
WATCH_READ_AHEAD_MAX = 256  # versions that were read and not yet told
WATCH_MARKS_MAX = 512  # records that a cursor names one by one, at 5 bytes
WATCH_PATIENCE_S = 60.0  # how long a watch goes on while its key cannot be read
WATCH_CURSOR_CHARS_MAX = 12 * KIB  # twice the marks, and two positions with a name of 1 KiB each, in base64
LEASES_MAX = 4096  # of one replica, all watchers together
LEASES_PER_SENDER_MAX = 256  # of one address
LEASE_QUEUE_MAX = 1024  # versions waiting to be pushed to one watcher
LEASES_QUEUED_MAX = 16_384  # to all of them: 51 MB at most
PUSHES_IN_FLIGHT_MAX = 8  # messages to one watcher that are not answered yet

# --- Storage ---
STORE_COMMITS_QUEUED_MAX = 4096  # batches waiting for the disk; further callers wait their turn
STORE_CHUNKS_QUEUED_MAX = 128  # 128 MiB of memory at 1 MiB each
STORE_GROUP_WRITES_MAX = 4096  # record writes under one fsync: some 80 ms of one core
STORE_ROWS_AT_ONCE_MAX = 128  # read or written by one statement; a power of two
STORE_BLOCK_RECORDS_MIN = 4  # records of one row; fewer have rows of their own
STORE_BLOCK_RECORDS_MAX = 64
STORE_BLOCK_BYTES_MAX = 32 * KIB  # what is written anew where one of its records changes
STORE_HEADS_KEPT_MAX = 8192  # rows of pages that are not read again before they are written; some 4 MB
STORE_GROUP_CHUNK_BYTES_MAX = 16 * MIB  # chunk bytes under one fsync: some 50 ms of a plain SSD
STORE_PACK_BYTES_MAX = 256 * MIB  # what compaction rewrites in one go
STORE_PACK_LIVE_FRACTION_MIN = 0.5  # a pack with less live bytes is rewritten: at worst the disk holds twice the data
STORE_COMPACTION_CHUNKS = 16  # chunks moved at a time, so that they never crowd out others' writes
STORE_READER_THREADS = 4
STORE_QUESTIONS_QUEUED_MAX = 4096  # reads waiting for a reader thread
STORE_CACHE_PAGES_MAX = 8192
STORE_FIRST_RECORDS_KEPT_MAX = 8192  # of pages that are not kept whole; some 5 MB where records are short
STORE_CACHE_BYTES_MAX = 32 * MIB  # of encoded versions
STORE_CACHED_SOON_BYTES_MAX = 32 * KIB  # a page up to this is kept in memory from the first read on
STORE_CACHED_PAGE_BYTES_MAX = 256 * KIB  # one up to this when it is read again and again; a larger one never
STORE_CACHED_READS_MIN = 4  # so often, since it was written to
STORE_CACHED_UNREAD_WRITES_MAX = 128  # writes to a page that nobody reads, after which it is not kept in memory
STORE_SCAN_STEP = 1000  # rows of one step of a verification

# --- Log of a running peer ---
LOG_BYTES_MAX = 8 * MIB  # of one file; then it is rotated
LOG_FILES_MAX = 4

# --- Consensus ---
BALLOT_MAX = 1 << 62  # an acceptor takes no higher one
BALLOT_STEP_MAX = 1 << 32  # beyond the last promise: exhausting the numbers takes a stranger 2^30 requests a record
BALLOT_HANDED_MAX = 1 << 61  # in a register that another acceptor hands over: one that lies uses up half the numbers
REGISTERS_MERGED_MAX = 64  # of one message, as far as its bytes go
CATCH_UPS_AT_ONCE_MAX = 64  # registers that are being read from others before this peer votes on them
CATCH_UP_S_MAX = 3.0  # what one of them may take: less than the deadline of whoever waits for the vote
CAUGHT_UP_S = 10.0  # so long a register counts as read: a vote takes two requests within a second
CAUGHT_UP_KEPT_MAX = 4096
CONSENSUS_ROUNDS_MAX = 24  # ballots that one put tries before it says that others got ahead
CONSENSUS_BUSY_MAX = 3  # rounds that are tried again because acceptors were still catching up, some seconds each
CONSENSUS_BACKOFF_S = 0.02  # doubled a few times, drawn at random

# --- Atomic batches ---
ATOMIC_RECORDS_MAX = 1000  # of one batch
ATOMIC_BYTES_MAX = 64 * MIB  # values of one batch that are held at once
ATOMIC_KEYS_AT_ONCE_MAX = 16  # whose records are stored side by side
ATOMIC_BATCHES_PER_PAGE_MAX = 16  # that versions of one page wait in: their ids are in every answer of the page
ATOMIC_IDS_BYTES_MAX = 18 * ATOMIC_BATCHES_PER_PAGE_MAX  # of these, with their msgpack heads
ATOMIC_RETRIES_MAX = 3  # of a decision whose outcome is unknown
ATOMIC_RETRY_S = 1.0
ATOMIC_ROUND_S = 5.0  # between two looks at what waits here
ATOMIC_LOOK_S = 5.0  # what waits for longer may be decided already: its replicas ask
ATOMIC_PENDING_S = 60.0  # what is not decided then is aborted: its writer has gone, or is too slow
ATOMIC_TURN_S = 5.0  # later, for each replica that is nearer
ATOMIC_PAGES_MAX = 256  # looked after in one round
ATOMIC_VERDICTS_KEPT_MAX = 4096  # decisions that need not be asked for again
ATOMIC_DECISION_S = 2 * TOMBSTONE_S  # decisions outlive every replica that may come back with a pending version

# --- Chunks between peers ---
CHUNKS_ASKED_MAX = 128  # ids of one question: 128 x 34 bytes
PIECE_BYTES = RPC_PAYLOAD_BYTES_MAX - 192  # of a chunk that travels by RPC: the payload less id, numbers and heads
PIECES_IN_FLIGHT_MAX = 16  # 128 KB outstanding to one contact: the default socket buffer holds it
PIECE_CHUNKS_PER_CONTACT_MAX = 2  # so at most 32 pieces, 256 KB, outstanding: half of what a contact may have
PIECE_CHUNKS_MAX = 64  # chunks being put together, all senders: 64 MiB; the oldest gives way
PIECE_CHUNKS_CACHED_MAX = 8  # chunks kept in memory while they are read piece by piece
CALL_S_MAX = 120.0  # of one call by bulk transfer to a peer that is heard: 1 MiB at 9 KB/s
CALL_LOOK_S = 0.5  # how often a call is looked at
PULL_QUIET_S = 0.5  # nothing heard of a peer for so long while bytes are awaited: they are fetched elsewhere, too
PULL_LOOK_S = 0.25  # how often a pull is looked at
PULL_PATIENCE = 4.0  # times what pulls usually take: then, too
PULL_PATIENCE_MIN_S = 2.0
PULLS_USUAL = 16  # pulls after which it is known what they take
CHUNK_DEADLINE_S = 60.0  # 1 MiB at 17.5 KB/s; a silent peer is given up on sooner, by the transfer itself

# --- HTTP ---
# a key, a name and a prefix of 1 KiB each, percent-encoded threefold, and the other parameters
HTTP_LINE_BYTES_MAX = 16 * KIB
HTTP_FIELD_BYTES_MAX = 64 * KIB  # one header field of an answer: a file's description, percent-encoded
HTTP_REQUESTS_MAX = 512  # being answered at once, streams included; beyond it the answer is "busy"
HTTP_JSON_BYTES_MAX = 64 * KIB  # of a request in JSON: two paths of 4 KiB, escaped sixfold
HTTP_BATCH_BYTES_MAX = 4 * MIB  # a body of many records up to this is read whole before it is answered
HTTP_BATCH_LINES_MAX = PUT_AHEAD_RECORDS_MAX  # that the command line sends in one request: they are read ahead
HTTP_RECORD_LINE_BYTES_MAX = 6 * VALUE_IN_MEMORY_BYTES_MAX + KIB  # JSON escapes a control character in 6 bytes
HTTP_BLOCK_BYTES = 256 * KIB  # of a local file or stream read at a time
HTTP_PROGRESS_QUEUED_MAX = 64  # progress lines waiting for a slow reader; further ones replace the last
HTTP_EVENTS_PERIOD_S = 1.0  # how often the dashboard hears what changed
HTTP_HEARTBEAT_S = 15.0  # a silent stream says that it lives, and finds out whether its reader does
HTTP_STOP_S = 2.0  # what open connections get to end when the peer stops

# --- Peer ---
BATCH_RECORDS_MIN = 500  # records of the first batches of many: two under way are 2 MB for 8 replicas
BATCH_RECORDS_MAX = 4000  # of later ones; a replica of twenty writes 1,600 of them at once, at half the cost of 400
PUTS_APART_MAX = 8  # of one key, under way from one peer; what is put meanwhile goes together behind them
BATCH_SOON_S = 3.0  # batches that take less than this grow
BATCH_LATE_S = 10.0  # and those that take more shrink: what is under way must not fill a line for minutes
BATCH_RTO_S_MIN = 0.5  # nor sooner, but of small batches: other replicas make up for the one whose message was lost
BATCH_RTO_S_MAX = 1.0  # a message of a batch is sent again after this at the latest: five times until its deadline
BATCHES_AT_ONCE_MAX = 2  # of one `put_many`, under way: replicas have something to do while outcomes are told
EVENTS_QUEUED_MAX = 1000  # of one listener; a slow one loses events, the peer never waits
FOLDERS_READ_AHEAD_MAX = 8  # of one listing, beside those that are open
ENTRIES_READ_AHEAD_MAX = 64  # of each of those folders

# --- Bulk transfer ---
BULK_PACKET_BYTES = 1200  # fits every path: IPv6 minimum MTU 1,280 - IPv6 40 - UDP 8 - 32 to spare for tunnels
# Sizes that path-MTU discovery tries, in order: Ethernet over IPv4 (1,500 - 28), jumbo frames (9,000 - 28), and for
# loopback 3 packets to a batch of 65,000 bytes.
BULK_PACKET_BYTES_LADDER = (1472, 8972, 64_000)
BULK_MTU_PROBES_MAX = 3  # of one size that were lost, before the search stops there
BULK_MTU_RAISE_S = 600.0  # after which the search begins again (RFC 8899, section 5.1.1)
BULK_BATCH_PACKETS_MAX = 50  # of one UDP_SEGMENT send; the kernel takes 64 or 128
BULK_BATCH_BYTES_MAX = 65_000  # of one UDP_SEGMENT send: 65,535 - IP 40 - UDP 8, and to spare
BULK_BATCHES_PER_TURN_MAX = 16  # sent before the event loop gets its turn: about 1 MB, 1 ms
BULK_READS_PER_TURN_MAX = 64  # read at one readable event: single packets, or runs of them up to the bytes below
BULK_READ_BYTES_PER_TURN_MAX = MIB  # about 1 ms
CYCLES_LOOKED_FOR_AFTER = 100_000  # objects made and still there; some 20 MB
FREE_MEMORY_KEPT_BYTES = 64 * MIB  # by the C library: the chunks that are under way at once
BULK_TOPIC_BYTES_MAX = KIB  # what a push or pull says of itself, beside its data
BULK_ANSWER_BYTES_MAX = KIB  # the receiver's answer to a push
BULK_DETAIL_BYTES_MAX = 256  # of an error
# head 7 + topic + chunk
BULK_MESSAGE_BYTES_MAX = 7 + BULK_TOPIC_BYTES_MAX + STORED_CHUNK_BYTES_MAX
BULK_REPLY_BYTES_MAX = STORED_CHUNK_BYTES_MAX
BULK_SHORT_BYTES = 16 * KIB  # a message up to this size passes by the long ones, at every other turn
BULK_WINDOW_BYTES = 32 * MIB  # requests and replies that one peer may make us hold: 300 MB/s at 100 ms to be durable
BULK_WINDOW_INITIAL_BYTES = 4 * BULK_MESSAGE_BYTES_MAX  # what a peer may send before our first word of credit
BULK_HELD_BYTES_MAX = 160 * MIB  # of all peers together; a request beyond it is answered "busy"
BULK_STREAM_COST_BYTES = 4 * KIB  # what a stream counts beside its bytes: its bookkeeping
BULK_STREAMS_SENDING_MAX = 8  # large messages of one connection that are sent by turns; further ones wait
BULK_STREAMS_QUEUED_MAX = 4096  # streams of one connection, all told
BULK_CONNECTIONS_MAX = 512  # beyond it the one that idled longest gives way
BULK_ACK_RANGES_MAX = 128  # of one ack: 28 + 128 * 8 bytes fit BULK_PACKET_BYTES
BULK_ACK_RANGES = 32  # of most acks: each range is told by many, and each costs its reader time
BULK_ACK_PACKETS = 10  # an ack at least every so many packets, or
BULK_ACK_PACKETS_MAX = 64  # where many more are under way, at an eighth of those
BULK_ACK_DELAY_S = 0.002
BULK_RTT_INITIAL_S = 0.1
BULK_TIMER_S = 0.001  # what timers of an event loop are exact to
BULK_PROBE_TIMEOUT_MAX_S = 2.0
BULK_PROBE_TIMEOUTS_LOST = 3  # probe time-outs in a row after which all in flight counts as lost
BULK_REORDER_PACKETS = 3  # RFC 9002, section 6.1.1; grows where packets prove to have been late, not lost
BULK_REORDER_PACKETS_MAX = 256
BULK_HELLO_RETRY_S = 0.25  # doubled at each further hello
BULK_DEAD_S = 10.0  # nothing heard for so long while something is under way: the peer is gone
BULK_IDLE_S = 30.0  # a connection without streams ends
BULK_COOKIE_EPOCH_S = 60.0  # a cookie is good in its epoch and the next
BULK_PACKET_NUMBER_MAX = (1 << 32) - (1 << 16)  # then the connection gives way to a new one
BULK_WINDOW_PACKETS_MIN = 4  # of a congestion window
BULK_WINDOW_PACKETS_INITIAL = 32
BULK_FLIGHT_BYTES_MAX = 64 * MIB  # of one connection: 1 Gbit/s at 500 ms
BULK_HELLO_RETRY_MAX_S = 2.0
BULK_BUSY_RETRY_S = 0.05  # doubled, drawn at random, until the deadline
BULK_BUSY_RETRY_MAX_S = 2.0
BULK_PING_S = 1.0  # between pings while something is awaited and nothing is in flight
BULK_FINISHED_RANGES_MAX = 1024  # of stream numbers that have ended, kept to know their late packets
BULK_CHUNK_DEADLINE_S = 120.0  # of one chunk, with those before it on a slow line: 16 MiB at 140 KB/s
RELAY_BYTES_MIN = 64 * KIB  # of a chunk that replicas pass on; shorter ones are sooner there when sent to each
RELAYS_MAX = 32  # chunks that one peer passes on at once: what a single next peer lets it make it hold
RELAY_DEADLINE_S = 30.0  # then the uploader sends it to the others itself
BULK_SILENT_S = 3.0  # two pings in vain: nothing is pulled of this peer before it is heard again
BULK_STALL_S = 20.0  # a request that gets no further bytes for so long is given up by its receiver
