"""What every storage engine must do. A test module per engine subclasses `StoreConformance`."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Collection, Iterable, Sequence

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from p2pkv.core.atomic import pending
from p2pkv.core.pages import split_marker
from p2pkv.core.reconciliation import item_of
from p2pkv.core.records import SPLIT_NAME, Flag, Version, content_hash
from p2pkv.ids import ChunkID, Place, chunk_id_of, place_of_key
from p2pkv.storage.interface import (
    Cursor,
    NoWatcher,
    PutRegister,
    PutVersion,
    QuotaExceededError,
    RangeQuery,
    Result,
    Store,
    Write,
    WriteOutcome,
)
from tests.storage.model import Model
from tests.storage.samples import (
    ANNA,
    BERT,
    NAMES,
    NOW_S,
    PLACE,
    PLACES,
    Clock,
    drop,
    put,
    range_queries,
    series,
    version,
    writes,
)


class Diary(NoWatcher):
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.writes: list[Write] = []
        self.outcomes: list[WriteOutcome] = []
        self.created: list[set[Place]] = []
        self.chunks: list[ChunkID] = []

    def wrote(self, writes: Sequence[Write], outcomes: Sequence[WriteOutcome], created: Collection[Place]) -> None:
        self.writes += writes
        self.outcomes += outcomes
        self.created.append(set(created))

    def moved_chunks(self, chunk_ids: Iterable[ChunkID]) -> None:
        self.chunks += chunk_ids


class StoreConformance:
    """Subclasses give a `make_store(clock, quota_bytes=None)` method, that may be called many times, and `reopen`."""

    def make_store(self, clock: Clock, quota_bytes: int | None = None) -> Store:
        raise NotImplementedError

    @pytest.fixture
    def clock(self) -> Clock:
        return Clock()

    @pytest.fixture
    async def store(self, clock: Clock) -> AsyncIterator[Store]:
        store = self.make_store(clock)
        await store.open()
        yield store
        await store.close()

    # --- merge ---
    async def test_a_stored_version_is_read_back_whole(self, store: Store) -> None:
        written = version(meta=b"meta", signature=b"s" * 64, expires_s=NOW_S + 60, flags=Flag.OWN | 1 << 20)
        outcomes = await store.commit([put(written)])
        assert [o.result for o in outcomes] == [Result.STORED]
        assert (await store.read(RangeQuery(PLACE))).versions == [written]
        assert await store.read_name(PLACE, b"name") == [written]

    async def test_the_higher_rank_wins_in_either_order(self, store: Store) -> None:
        old, new = version(clock=1000, body=b"old"), version(clock=2000, body=b"new")
        for place, first, second in ((PLACE, old, new), (place_of_key(b"2"), new, old)):
            await store.commit([put(first, place)])
            (outcome,) = await store.commit([put(second, place)])
            assert outcome.result is (Result.STORED if second is new else Result.STALE)
            assert outcome.current == (None if second is new else new)
            assert (await store.read(RangeQuery(place))).versions == [new]

    async def test_a_retry_is_harmless(self, store: Store) -> None:
        await store.commit([put(version())])
        before = store.usage()
        assert [o.result for o in await store.commit([put(version()), put(version())])] == [Result.ALREADY] * 2
        assert store.usage() == before

    async def test_equal_clocks_are_told_apart_by_author_then_content(self, store: Store) -> None:
        anna, bert = version(author=ANNA, body=b"zzz"), version(author=BERT, body=b"aaa")
        assert (await store.commit([put(bert), put(anna)]))[1].result is Result.STALE
        one, two = sorted((version(b"x", body=b"1"), version(b"x", body=b"2")), key=content_hash)
        assert [o.result for o in await store.commit([put(two), put(one)])] == [Result.STORED, Result.STALE]

    async def test_write_once_outranks_a_later_clock(self, store: Store) -> None:
        once = version(clock=5, flags=Flag.ONCE)
        assert [o.result for o in await store.commit([put(version(clock=9)), put(once), put(version(clock=99))])] == [
            Result.STORED,
            Result.STORED,
            Result.STALE,
        ]
        assert (await store.read(RangeQuery(PLACE))).versions == [once]

    async def test_a_pending_version_lies_beside_its_record_unseen(self, store: Store) -> None:
        old, new = version(clock=7), version(clock=9, body=b"new")
        waits = pending(new, b"1" * 16)
        assert [o.result for o in await store.commit([put(old), put(waits)])] == [Result.STORED] * 2
        for query in (RangeQuery(PLACE), RangeQuery(PLACE, order="name"), RangeQuery(PLACE, reverse=True, dead=True)):
            found = await store.read(query)
            assert (found.versions, found.more, found.batches) == ([old], False, [b"1" * 16])
        assert (await store.read(RangeQuery(PLACE, pending=True))).versions == [waits]
        assert await store.read_name(PLACE, b"name") == [old, waits]
        page = await store.page(PLACE)
        assert page is not None and (page.live, page.total) == (1, 2)
        assert store.usage().records == 1
        assert [page.place for page in await store.waiting()] == [PLACE]

    async def test_a_pending_version_gives_way_to_its_plain_one_in_one_step(self, store: Store) -> None:
        old, new = version(clock=7), version(clock=9, body=b"new")
        waits = pending(new, b"1" * 16)
        await store.commit([put(old), put(waits)])
        assert [o.result for o in await store.commit([put(new), drop(waits)])] == [Result.STORED] * 2
        found = await store.read(RangeQuery(PLACE))
        assert (found.versions, found.batches) == ([new], [])
        assert await store.waiting() == []
        assert (await store.read(RangeQuery(PLACE, pending=True))).versions == []

    async def test_what_waits_outlives_a_restart(self, store: Store) -> None:
        waits = pending(version(flags=Flag.OWN), b"2" * 16)
        await store.commit([put(waits)])
        await store.close()
        await store.open()
        assert [page.place for page in await store.waiting()] == [PLACE]
        assert (await store.read(RangeQuery(PLACE, pending=True))).versions == [waits]
        assert (await store.verify()).records_damaged == []
        await store.commit([drop(waits)])
        assert await store.page(PLACE) is None

    async def test_owners_do_not_compete_for_a_name(self, store: Store) -> None:
        shared = version(author=BERT, clock=7)
        anna, bert = (version(author=author, flags=Flag.OWN, clock=clock) for author, clock in ((ANNA, 9), (BERT, 8)))
        await store.commit([put(bert), put(anna), put(shared)])
        assert await store.read_name(PLACE, b"name") == [shared, anna, bert]
        assert (await store.read(RangeQuery(PLACE, order="time"))).versions == [shared, bert, anna]
        assert (await store.read(RangeQuery(PLACE, order="name"))).versions == [shared, anna, bert]

    async def test_a_batch_takes_effect_in_order(self, store: Store) -> None:
        first, second = version(clock=1), version(clock=2)
        outcomes = await store.commit([put(first), drop(first), put(second), drop(first)])
        assert [o.result for o in outcomes] == [Result.STORED, Result.STORED, Result.STORED, Result.STALE]
        assert (await store.read(RangeQuery(PLACE))).versions == [second]

    async def test_concurrent_commits_all_take_effect(self, store: Store) -> None:
        versions = series(200)
        await asyncio.gather(*(store.commit([put(v)]) for v in versions))
        assert (await store.read(RangeQuery(PLACE))).versions == versions

    async def test_an_empty_batch_is_nothing(self, store: Store) -> None:
        assert await store.commit([]) == []

    async def test_a_drop_forgets_only_the_version_it_names(self, store: Store) -> None:
        old, new = version(clock=1), version(clock=2)
        await store.commit([put(new)])
        (stale,) = await store.commit([drop(old)])
        assert (stale.result, stale.current) == (Result.STALE, new)
        assert (await store.commit([drop(new)]))[0].result is Result.STORED
        assert (await store.commit([drop(new)]))[0].result is Result.ALREADY
        assert await store.page(PLACE) is None
        assert store.usage().size_bytes == store.usage().records == store.usage().keys == 0

    async def test_stock_values_have_an_empty_name_and_a_long_body(self, store: Store) -> None:
        stock = version(b"", author=b"", flags=Flag.STOCK, body=b"x" * 8000, size_bytes=8000)
        await store.commit([put(stock, key=b"")])
        assert (await store.read(RangeQuery(PLACE))).versions == [stock]
        assert await store.read_name(PLACE, b"") == [stock]

    # --- ranges ---
    async def test_orders_and_reverse(self, store: Store) -> None:
        a, b, c = version(b"a", 3), version(b"b", 1), version(b"c", 2)
        await store.commit([put(a), put(b), put(c)])
        for order, wanted in (("time", [b, c, a]), ("name", [a, b, c])):
            assert (await store.read(RangeQuery(PLACE, order=order))).versions == wanted  # type: ignore[arg-type]
            reverse = RangeQuery(PLACE, order=order, reverse=True)  # type: ignore[arg-type]
            assert (await store.read(reverse)).versions == wanted[::-1]

    @pytest.mark.parametrize("order", ["time", "name"])
    @pytest.mark.parametrize("reverse", [False, True])
    async def test_paging_by_cursor_gives_every_record_once(self, store: Store, order: str, reverse: bool) -> None:
        versions = [msgspec.structs.replace(v, clock=v.clock & ~(7 << 20)) for v in series(500)]
        await store.commit([put(v) for v in versions])
        read: list[Version] = []
        query = RangeQuery(PLACE, order=order, reverse=reverse, limit=37)  # type: ignore[arg-type]
        while True:
            result = await store.read(query)
            read += result.versions
            if not result.more:
                break
            last = read[-1]
            query = msgspec.structs.replace(query, after=Cursor(last.clock, last.name, last.owner))
        wanted = sorted(versions, key=lambda v: (v.clock, v.name) if order == "time" else v.name, reverse=reverse)
        assert read == wanted

    async def test_until_is_inclusive_and_after_exclusive(self, store: Store) -> None:
        versions = series(10)
        await store.commit([put(v) for v in versions])
        at = [Cursor(v.clock, v.name, v.owner) for v in versions]
        result = await store.read(RangeQuery(PLACE, after=at[2], until=at[5]))
        assert (result.versions, result.more) == (versions[3:6], False)
        result = await store.read(RangeQuery(PLACE, after=at[5], until=at[2], reverse=True))
        assert (result.versions, result.more) == (versions[4:1:-1], False)

    async def test_many_ranges_at_once_are_the_same_ranges(self, store: Store) -> None:
        places = [Place(bytes([number]) * 20) for number in range(6)]
        for number, place in enumerate(places[:5]):
            versions = [PutVersion(place, b"k", version) for version in series(3 * number + 1)]
            await store.commit(versions)
        await store.read(RangeQuery(places[1]))  # one is in memory, where an engine does such a thing
        queries = [RangeQuery(place, limit=4, reverse=place == places[3], dead=True) for place in places]
        wanted = [await store.read(query) for query in queries]
        assert await store.read_many(queries, 1000, 1 << 20) == wanted
        assert await store.read_many(queries, 1, 1 << 20) == wanted[:1]
        assert await store.read_many(queries, 5, 1 << 20) == wanted[:2]
        assert await store.read_many(queries, 1000, 1) == wanted[:1]

    async def test_limits_of_count_and_bytes(self, store: Store) -> None:
        versions = series(10)
        await store.commit([put(v) for v in versions])
        size = len(msgspec.msgpack.encode(versions[0]))
        for query, count in (
            (RangeQuery(PLACE, limit=3), 3),
            (RangeQuery(PLACE, bytes_max=size * 4), 4),
            (RangeQuery(PLACE, bytes_max=1), 1),
            (RangeQuery(PLACE, limit=10), 10),
        ):
            result = await store.read(query)
            assert (result.versions, result.more) == (versions[:count], count < 10)

    async def test_prefix_at_the_edges_of_bytes(self, store: Store) -> None:
        names = [b"a", b"a\xff", b"a\xff\xff", b"b", b"\xff", b"\xff\xff", b"\xff\xffz"]
        versions = {name: version(name, i + 1) for i, name in enumerate(names)}
        await store.commit([put(v) for v in versions.values()])
        for prefix in (b"a", b"a\xff", b"\xff", b"\xff\xff", b"c"):
            wanted = [versions[name] for name in names if name.startswith(prefix)]
            for order in ("time", "name"):
                result = await store.read(RangeQuery(PLACE, prefix=prefix, order=order))  # type: ignore[arg-type]
                assert (result.versions, result.more) == (wanted, False)

    async def test_dead_and_expired_are_left_out_until_asked_for(self, store: Store, clock: Clock) -> None:
        alive, dying = version(b"a", 1), version(b"b", 2, expires_s=NOW_S + 10)
        dead = version(b"c", 3, flags=Flag.TOMBSTONE)
        await store.commit([put(v) for v in (alive, dying, dead)])
        assert (await store.read(RangeQuery(PLACE))).versions == [alive, dying]
        clock.now_s += 10
        assert (await store.read(RangeQuery(PLACE, limit=1))).more is False
        assert (await store.read(RangeQuery(PLACE))).versions == [alive]
        assert (await store.read(RangeQuery(PLACE, dead=True))).versions == [alive, dying, dead]
        info = await store.page(PLACE)
        assert info is not None
        assert (info.live, info.total, info.key) == (1, 3, b"key")

    async def test_an_absent_page_is_empty(self, store: Store) -> None:
        result = await store.read(RangeQuery(PLACE))
        assert (result.versions, result.more) == ([], False)
        assert await store.read_name(PLACE, b"name") == []
        assert await store.page(PLACE) is None

    # --- registers ---
    async def test_registers(self, store: Store) -> None:
        assert await store.read_register(PLACE, b"name") is None
        await store.commit([PutRegister(PLACE, b"name", b"one"), PutRegister(PLACE, b"other", b"three")])
        await store.commit([PutRegister(PLACE, b"name", b"two")])
        assert await store.read_register(PLACE, b"name") == b"two"
        assert await store.read_register(PLACE, b"other") == b"three"
        await store.commit([PutRegister(PLACE, b"name", b""), PutRegister(PLACE, b"other", b"")])
        assert await store.read_register(PLACE, b"name") is None
        assert store.usage().size_bytes == 0

    async def test_registers_between_two_places(self, store: Store) -> None:
        places = sorted(place_of_key(b"%d" % i) for i in range(12))
        await store.commit([PutRegister(place, b"n%d" % i, b"s%d" % i) for i, place in reversed([*enumerate(places)])])
        await store.commit([PutRegister(places[0], b"also", b"s"), PutRegister(places[5], b"n5", b"")])
        found = await store.registers(b"", None, 100)
        assert [register.place for register in found] == [places[0], *places[:5], *places[6:]]
        assert found[:2] == [(places[0], b"also", b"s"), (places[0], b"n0", b"s0")]
        assert [register.place for register in await store.registers(places[1], places[4], 100)] == places[1:4]
        assert len(await store.registers(b"", None, 1)) == 2, "all of one place come together"
        assert await store.registers(places[11] + b"\0", None, 100) == []

    # --- pages and keys ---
    async def test_pages_in_the_order_of_their_places(self, store: Store) -> None:
        places = sorted(place_of_key(b"%d" % i) for i in range(20))
        await store.commit([put(version(), place, b"") for place in reversed(places)])
        first = await store.pages(limit=12)
        rest = await store.pages(after=first[-1].place)
        assert [info.place for info in first + rest] == places
        assert len(first) == 12

    async def test_a_stretch_names_all_that_replicas_have_in_common(self, store: Store) -> None:
        places = sorted(place_of_key(b"%d" % i) for i in range(6))
        await store.commit([put(version(b"n"), place, b"%d" % i) for i, place in enumerate(places)])
        await store.commit([put(version(b"", flags=Flag.STOCK, author=b""), places[0], b"")])
        await store.commit([put(version(b"m", flags=Flag.TOMBSTONE), places[1]), put(split_marker(b""), places[2])])
        whole = await store.stretch(b"", None, 100)
        held = sorted((held.place, held.key, held.version.name) for held in whole.items.values())
        assert [(places.index(place), name) for place, _, name in held] == [
            (0, b"n"),
            (1, b"m"),
            (1, b"n"),
            (2, SPLIT_NAME),
            (3, b"n"),
            (4, b"n"),
            (5, b"n"),
        ]
        assert whole.end is None
        assert all(item == item_of(h.place, content_hash(h.version)) for item, h in whole.items.items())
        first = await store.stretch(b"", None, 2)
        assert first.end == places[1]
        rest = await store.stretch(places[1] + b"\0", places[5], 4)
        assert rest.end is None
        assert {h.place for h in rest.items.values()} == set(places[2:5])

    async def test_who_watches_learns_of_every_change(self, store: Store) -> None:
        watcher = Diary()
        store.watcher = watcher
        await store.commit([put(version())])
        await store.commit([drop(version())])
        data = b"chunk"
        await store.put_chunk(chunk_id_of(data), data)
        await store.delete_chunk(chunk_id_of(data))
        assert watcher.writes == [put(version()), drop(version())]
        assert [outcome.result for outcome in watcher.outcomes] == [Result.STORED] * 2
        assert watcher.chunks == [chunk_id_of(data)] * 2

    async def test_who_watches_learns_which_pages_are_new(self, store: Store) -> None:
        other = place_of_key(b"2")
        await store.commit([put(version())])
        store.watcher = watcher = Diary()
        await store.commit([put(version(b"more")), put(version(), other)])
        await store.commit([put(version(b"more"), other)])
        await store.commit([drop(version(), other), drop(version(b"more"), other)])
        await store.commit([put(version(), other)])
        assert watcher.created == [{other}, set(), set(), {other}]

    async def test_who_watches_learns_what_was_replaced(self, store: Store) -> None:
        old, new = version(clock=1), version(clock=2)
        store.watcher = watcher = Diary()
        await store.commit([put(old)])
        await store.commit([put(new)])
        assert [outcome.replaced for outcome in watcher.outcomes] == [None, old]

    async def test_a_version_is_admitted_by_all_that_lies_under_its_name(self, store: Store) -> None:
        shared, own = version(b"n"), version(b"n", author=BERT, flags=Flag.OWN)
        await store.commit([put(own), put(shared), put(version(b"m"))])
        asked: list[tuple[Version, list[Version]]] = []

        def admit(incoming: Version, held: Sequence[Version]) -> str:
            asked.append((incoming, list(held)))
            return "no" if held else ""

        newer, other = version(b"n", clock=shared.clock + 1), version(b"else")
        outcomes = await store.commit([PutVersion(PLACE, b"key", v, admit) for v in (shared, newer, other)])
        assert [outcome.result for outcome in outcomes] == [Result.ALREADY, Result.REFUSED, Result.STORED]
        assert outcomes[1].detail == "no"
        assert asked == [(newer, [shared, own])], "asked where nothing is in the way"
        assert await store.read_name(PLACE, b"n") == [shared, own]
        assert await store.read_name(PLACE, b"else") == [other]

    async def test_batches_that_come_together_are_judged_one_behind_the_other(self, store: Store) -> None:
        versions = [version(b"n", clock=1 + number) for number in range(20)]

        def admit(incoming: Version, held: Sequence[Version]) -> str:
            return "not the next" if held and held[0].clock != incoming.clock - 1 else ""

        commits = [store.commit([PutVersion(PLACE, b"key", v, admit), put(version(b"%d" % v.clock))]) for v in versions]
        outcomes = await asyncio.gather(*commits)
        assert [pair[0].result for pair in outcomes] == [Result.STORED] * 20
        assert await store.read_name(PLACE, b"n") == [versions[-1]]
        assert store.usage().records == 21

    async def test_keys_in_their_order_by_prefix(self, store: Store) -> None:
        keys = [b"a/1", b"a/2", b"a/3", b"b", b"a\xff"]
        await store.commit([put(version(), place_of_key(key), key) for key in keys])
        await store.commit([put(version(), place_of_key(b"unknown"), b"")])
        assert [info.key for info in await store.keys()] == sorted(keys)
        assert [info.key for info in await store.keys(b"a/")] == [b"a/1", b"a/2", b"a/3"]
        assert [info.key for info in await store.keys(b"a/", limit=2)] == [b"a/1", b"a/2"]
        assert [info.key for info in await store.keys(b"a/", after=b"a/2")] == [b"a/3"]
        assert await store.keys(b"c") == []

    async def test_pages_of_one_key_are_listed_together(self, store: Store) -> None:
        places = sorted(place_of_key(b"%d" % i) for i in range(5))
        await store.commit([put(version(), place, b"split") for place in places])
        await store.commit([put(version(), PLACE, b"z")])
        assert [info.place for info in await store.keys(limit=2)] == places
        assert [info.place for info in await store.keys(after=b"split")] == [PLACE]

    async def test_a_key_learnt_later_is_kept(self, store: Store) -> None:
        await store.commit([put(version(), key=b"")])
        assert await store.keys() == []
        assert (await store.commit([put(version())]))[0].result is Result.ALREADY
        assert [info.key for info in await store.keys()] == [b"key"]
        await store.commit([put(version(b"more"), key=b"")])
        assert [info.total for info in await store.keys()] == [2]

    # --- chunks ---
    async def test_a_chunk_is_collected_only_where_nobody_wanted_it_of_late(self, store: Store) -> None:
        data = [bytes([n]) * 100 for n in range(3)]
        ids = [chunk_id_of(d) for d in data]
        for chunk_id, d in zip(ids, data, strict=True):
            await store.put_chunk(chunk_id, d)
        assert await store.chunk_days(ids) == [None] * 3
        assert not await store.collect_chunk(ids[0], 1_000_000), "when it was wanted is not known yet"
        await store.vouch_chunks([*ids[:2], chunk_id_of(b"absent")], 10)
        await store.vouch_chunks(ids[1:2], 20)
        await store.vouch_chunks(ids[1:2], 15)
        assert await store.chunk_days([*ids, chunk_id_of(b"absent")]) == [10, 20, None, None]
        assert [await store.collect_chunk(chunk_id, 11) for chunk_id in ids] == [True, False, False]
        assert await store.has_chunks(ids) == [False, True, True]
        assert store.usage().chunks == 2
        await store.put_chunk(ids[0], data[0])
        assert await store.chunk_days(ids[:1]) == [None], "it begins anew"

    async def test_chunks(self, store: Store) -> None:
        data = [os.urandom(size) for size in (1, 1000, 65536, 1 << 20)]
        ids = [chunk_id_of(d) for d in data]
        assert await asyncio.gather(*(store.put_chunk(i, d) for i, d in zip(ids, data, strict=True))) == [True] * 4
        assert await store.put_chunk(ids[0], data[0]) is False
        assert [await store.get_chunk(i) for i in ids] == data
        absent = chunk_id_of(b"absent")
        assert await store.get_chunk(absent) is None
        assert await store.has_chunks([ids[2], absent, ids[0]]) == [True, False, True]
        assert await store.chunk_ids() == sorted(ids)
        assert await store.chunk_ids(after=sorted(ids)[1], limit=1) == [sorted(ids)[2]]
        assert store.usage().size_bytes == sum(map(len, data))
        assert [await store.delete_chunk(ids[1]), await store.delete_chunk(ids[1])] == [True, False]
        assert await store.get_chunk(ids[1]) is None
        assert await store.put_chunk(ids[1], memoryview(bytearray(data[1]))) is True
        assert await store.get_chunk(ids[1]) == data[1]
        assert store.usage().chunks == 4

    async def test_the_same_chunk_put_at_once_is_stored_once(self, store: Store) -> None:
        data = os.urandom(5000)
        results = await asyncio.gather(*(store.put_chunk(chunk_id_of(data), data) for _ in range(8)))
        assert sorted(results) == [False] * 7 + [True]
        assert store.usage().size_bytes == 5000

    # --- quota ---
    async def test_quota_refuses_whole_batches_and_leaves_the_store_usable(self, clock: Clock) -> None:
        store = self.make_store(clock, 4000)
        await store.open()
        kept = version(b"kept", clock=1, body=b"x" * 500)
        await store.commit([put(kept), PutRegister(PLACE, b"r", b"old")])
        before = store.usage(), await store.page(PLACE), await store.keys()
        elsewhere = place_of_key(b"elsewhere")
        batch: list[Write] = [put(version(b"kept", clock=2)), put(version(b"new"), elsewhere, b"elsewhere")]
        batch += [drop(kept), PutRegister(PLACE, b"r", b"new"), put(version(b"z", body=b"x" * 8000))]
        with pytest.raises(QuotaExceededError):
            await store.commit(batch)
        with pytest.raises(QuotaExceededError):
            await store.put_chunk(chunk_id_of(bytes(5000)), bytes(5000))
        assert (store.usage(), await store.page(PLACE), await store.keys()) == before
        assert (await store.read(RangeQuery(PLACE))).versions == [kept]
        assert await store.read_register(PLACE, b"r") == b"old"
        assert await store.has_chunks([chunk_id_of(bytes(5000))]) == [False]
        assert (await store.commit([put(version(b"small"))]))[0].result is Result.STORED
        assert await store.put_chunk(chunk_id_of(bytes(100)), bytes(100)) is True
        await store.close()

    async def test_a_full_store_still_takes_deletes(self, clock: Clock) -> None:
        store = self.make_store(clock, 1000)
        await store.open()
        big = version(clock=1, body=b"x" * 800)
        await store.commit([put(big)])
        assert (await store.commit([put(version(clock=2, flags=Flag.TOMBSTONE))]))[0].result is Result.STORED
        assert (await store.read(RangeQuery(PLACE))).versions == []
        await store.close()

    # --- the whole ---
    async def test_usage_counts_live_records_and_all_bytes(self, store: Store) -> None:
        versions = series(3)
        dead = version(b"dead", flags=Flag.TOMBSTONE)
        await store.commit([put(v) for v in [*versions, dead]])
        await store.put_chunk(chunk_id_of(b"chunk"), b"chunk")
        usage = store.usage()
        size = sum(len(msgspec.msgpack.encode(v)) for v in [*versions, dead])
        assert (usage.keys, usage.records, usage.chunks, usage.size_bytes) == (1, 3, 1, size + 5)

    async def test_verify_of_a_sound_store(self, store: Store) -> None:
        await store.commit([put(v) for v in series(10)])
        await store.put_chunk(chunk_id_of(b"chunk"), b"chunk")
        report = await store.verify()
        assert (report.chunks_checked, report.records_checked) == (1, 10)
        assert report.chunks_damaged == report.records_damaged == []

    async def test_close_twice(self, clock: Clock) -> None:
        store = self.make_store(clock)
        await store.open()
        await store.close()
        await store.close()

    # --- against the model ---
    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
    @given(batches=st.lists(st.lists(writes, max_size=6), max_size=8), queries=st.data())
    def test_like_the_model(self, batches: list[list[Write]], queries: st.DataObject) -> None:
        asked = queries.draw(st.lists(range_queries, min_size=1, max_size=8))
        asyncio.run(self.compare(batches, asked))

    async def compare(self, batches: list[list[Write]], queries: list[RangeQuery]) -> None:
        store, model = self.make_store(Clock()), Model()
        firsts = [RangeQuery(place, limit=1, dead=True) for place in PLACES]
        await store.open()
        try:
            for batch in batches:
                assert await store.commit(batch) == model.commit(batch)
                assert await store.read_many(firsts, 10, 1 << 20) == [model.read(query, NOW_S) for query in firsts]
                for query in queries:
                    assert await store.read(query) == model.read(query, NOW_S)
            for place in PLACES:
                await self.compare_page(store, model, place)
            named = [[sorted(versions, key=lambda v: v.owner) for versions in self.named(model, p)] for p in PLACES]
            absent = place_of_key(b"absent")
            wanted = [(PLACES[0], NAMES), (absent, NAMES), (PLACES[1], NAMES)]
            assert await store.read_names(wanted) == [named[0], [[] for _ in NAMES], named[1]]
            size = sum(len(msgspec.msgpack.encode(v)) for v in model.records.values())
            assert store.usage().size_bytes == size + sum(len(state) for state in model.registers.values())
            assert store.usage().records == sum(not v.dead for v in model.records.values())
        finally:
            await store.close()

    def named(self, model: Model, place: Place) -> list[list[Version]]:
        return [[v for v in model.page(place) if v.name == name] for name in NAMES]

    async def compare_page(self, store: Store, model: Model, place: Place) -> None:
        versions = model.page(place)
        info = await store.page(place)
        live = sum(not v.dead and not v.expired(NOW_S) for v in versions)
        assert (info and (info.live, info.total)) == ((live, len(versions)) if versions else None)
        for name in NAMES:
            named = sorted((v for v in versions if v.name == name), key=lambda v: v.owner)
            assert await store.read_name(place, name) == named
            assert await store.read_names([(place, [b"none", name, name])]) == [[[], named, named]]
            assert (await store.read_register(place, name) or b"") == model.registers.get((place, name), b"")
