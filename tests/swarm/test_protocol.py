"""Who becomes a contact, and how: by answering and proving, never by asking."""

from __future__ import annotations

import asyncio
import stat
from pathlib import Path

import pytest
from kademlia.node import Node

from p2pkv import wire
from p2pkv.errors import P2pkvError, RemoteError
from p2pkv.limits import CONTACTS_REMEMBERED_MAX, GREETINGS_MAX
from p2pkv.swarm.contact import Contact
from p2pkv.swarm.identity import Identity, verify
from p2pkv.swarm.server import PeerServer
from tests.swarm.rig import PORT, Rig, Socket

A, B, C, D = "10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4"
TARGET = b"t" * 20


def ids(server: PeerServer) -> set[bytes]:
    return {contact.id for contact in server.contacts()}


def test_both_know_each_other_after_one_asked(net: Rig) -> None:
    one, other = net.ours(A), net.ours(B)
    contact = net.meet(one, other)
    assert (contact.kind, contact.verified, contact.public_key) == ("p2pkv", True, other.identity.public_key)
    net.sleep(1)
    assert (ids(one), ids(other)) == ({other.node.id}, {one.node.id})


def test_who_asks_and_does_not_answer_is_no_contact(net: Rig) -> None:
    ours, asker = net.ours(A), net.socket(B)
    extension = wire.Extension(wire.VERSION, b"x" * 20)
    request = wire.request_frame(bytes(20), wire.request_body("ping", (b"x" * 20,)), wire.trailer(extension))
    asker.transport.sendto(request, (A, PORT))
    net.sleep(30)
    assert ours.contacts() == []
    assert sum(len(data) for data, _ in asker.got) <= 5 * len(request), "its answer, and one ping resent once"


class Copycat(Socket):
    """Answers pings in another peer's name, without that peer's key."""

    def __init__(self, claimed: bytes, identity: Identity | None) -> None:
        super().__init__()
        self.claimed = claimed
        self.identity = identity

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        super().datagram_received(data, addr)
        frame = wire.parse_frame(data)
        extension = wire.Extension(wire.VERSION, self.claimed)
        if self.identity and frame.extension:
            text = wire.proof_text(frame.message_id, self.claimed, frame.extension.node_id)
            key = self.identity.public_key
            extension = wire.Extension(wire.VERSION, self.claimed, 0, b"", b"", key, self.identity.sign(text))
        answer = wire.reply_frame(frame.message_id, wire.encode(self.claimed), wire.trailer(extension))
        self.transport.sendto(answer, addr)


@pytest.mark.parametrize("signs", [False, True])
def test_an_id_that_is_not_proven_is_no_contact(net: Rig, signs: bool) -> None:
    ours, victim = net.ours(A), net.ours(B)
    copycat = Copycat(victim.node.id, Identity(b"c" * 32) if signs else None)
    net.run(net.network.open_socket(copycat, (C, PORT)))
    with pytest.raises(RemoteError, match="not proven"):
        net.run(ours.protocol.greet_address((C, PORT)))
    assert ours.contacts() == []
    known = net.meet(ours, victim)
    with pytest.raises(RemoteError):
        net.run(ours.protocol.greet_address((C, PORT)))
    assert ours.contacts() == [known], "and it moves nobody"


def test_who_came_as_a_stock_peer_proves_its_id_before_it_counts_as_more(net: Rig) -> None:
    """A stock peer's id is only claimed. By claiming another peer's, and then speaking as p2pkv peers do, nobody moves
    that peer to his own address."""

    class Chameleon(Socket):
        stock = True

        def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
            frame = wire.parse_frame(data)
            if frame.kind == wire.REQUEST:
                trailer = b"" if self.stock else wire.trailer(wire.Extension(wire.VERSION, victim.node.id))
                self.transport.sendto(wire.reply_frame(frame.message_id, wire.encode(victim.node.id), trailer), addr)

    ours, victim = net.ours(A), net.ours(B)
    known = net.meet(ours, victim)
    chameleon = Chameleon()
    net.run(net.network.open_socket(chameleon, (C, PORT)))

    async def claim() -> Contact:
        contact = ours.protocol.contact_for(victim.node.id, (C, PORT))
        assert await ours.protocol.call_ping(contact) == (True, victim.node.id)
        return contact

    contact = net.run(claim())
    assert contact.kind == "stock"
    chameleon.stock = False
    for _ in range(3):
        assert net.run(ours.protocol.call_ping(contact)) == (False, None)
    net.sleep(30)
    assert not contact.verified
    assert ours.contacts() == [known]


def test_a_proof_cannot_be_kept_and_shown_again(net: Rig) -> None:
    text = wire.proof_text(b"1" * 20, b"p" * 20, b"a" * 20)
    identity = Identity(b"c" * 32)
    proof = identity.sign(text)
    assert verify(identity.public_key, text, proof)
    for other in (wire.proof_text(b"2" * 20, b"p" * 20, b"a" * 20), wire.proof_text(b"1" * 20, b"p" * 20, b"b" * 20)):
        assert not verify(identity.public_key, other, proof)
    assert not verify(b"short", text, proof)
    assert not verify(identity.public_key, text, b"short")


def test_an_ephemeral_peer_is_served_and_kept_by_nobody(net: Rig) -> None:
    ours = net.ours(A)
    guest = net.ours(B, bootstrap=[(A, PORT)], ephemeral=True)
    net.run(guest.wait_connected(10))
    net.sleep(30)
    assert (ids(guest), ids(ours)) == ({ours.node.id}, set())


def test_another_peer_at_a_known_address_ends_the_old_contact(net: Rig) -> None:
    ours, first = net.ours(A), net.ours(B)
    contact = net.meet(ours, first)
    net.run(first.close())
    second = net.ours(B)
    assert net.run(ours.protocol.call_ping(contact)) == (False, None)
    assert first.node.id not in ids(ours)
    net.meet(ours, second)
    assert second.node.id in ids(ours)


def test_find_node_names_the_k_nearest_and_not_the_asker(net: Rig) -> None:
    ours = net.ours(A, k=8)
    others = [net.ours(f"10.1.{number}.1") for number in range(30)]
    for other in others:
        net.meet(ours, other)
    asker = others[0]
    contact = net.meet(asker, ours)
    happened, nodes = net.run(asker.protocol.call_find_node(contact, Node(TARGET)))
    expected = sorted((o.node for o in others[1:]), key=Node(TARGET).distance_to)[:8]
    assert happened
    assert [node.node_id for node in nodes] == [node.id for node in expected]


def test_named_nodes_become_contacts_only_when_they_answer(net: Rig) -> None:
    ours, middle, far = net.ours(A), net.ours(B), net.ours(C)
    net.meet(middle, far)
    phantom = Contact(b"p" * 20, "10.9.9.9", 9)
    middle.protocol.router.add_contact(phantom)
    contact = net.meet(ours, middle)
    _, nodes = net.run(ours.protocol.call_find_node(contact, Node(TARGET)))
    assert {node.node_id for node in nodes} == {far.node.id, phantom.id}
    net.sleep(30)
    assert ids(ours) == {middle.node.id, far.node.id}


def test_unusable_addresses_in_an_answer_are_left_out(net: Rig) -> None:
    ours, middle = net.ours(A), net.ours(B)
    for host, port in (("0.0.0.0", 5), ("224.0.0.1", 5), ("name.example", 5), ("10.0.0.9", 0), ("10.0.0.8", 5)):
        middle.protocol.router.add_contact(Contact(host.encode().ljust(20), host, port))
    contact = net.meet(ours, middle)
    _, nodes = net.run(ours.protocol.call_find_node(contact, Node(TARGET)))
    assert [node.host for node in nodes] == ["10.0.0.8"]


def test_silences_at_the_same_time_count_once(net: Rig) -> None:
    ours, other = net.ours(A), net.ours(B)
    contact = net.meet(ours, other)
    net.network.silence(B)

    async def burst() -> None:
        await asyncio.gather(*(ours.protocol.call_ping(contact) for _ in range(20)))

    net.run(burst())
    assert contact.failures == 1
    assert ours.contacts() == [contact]


def test_round_trip_times_survive_between_lookups_in_bounded_memory(net: Rig) -> None:
    ours = net.ours(A)

    async def remember() -> None:
        contact = ours.protocol.contact_for(TARGET, (B, 5))
        contact.rtt.observe(0.5)
        assert ours.protocol.contact_for(TARGET, (B, 5)) is contact
        for number in range(2 * CONTACTS_REMEMBERED_MAX):
            ours.protocol.contact_for(number.to_bytes(20, "big"), (B, 5))

    net.run(remember())
    assert len(ours.protocol._introductions.remembered) == CONTACTS_REMEMBERED_MAX


def test_a_flood_of_strangers_is_greeted_within_bounds(net: Rig) -> None:
    ours = net.ours(A)

    async def flood() -> int:
        for number in range(1000):
            node_id = number.to_bytes(20, "big")
            request = wire.request_frame(node_id, wire.request_body("ping", (node_id,)), b"")
            ours.protocol.datagram_received(request, (f"10.9.{number // 250}.{number % 250}", 9))
        return ours.protocol._introductions.under_way

    assert net.run(flood()) == GREETINGS_MAX
    net.sleep(60)
    assert ours.protocol._introductions.under_way == 0


def test_hooks_hear_of_new_contacts(net: Rig) -> None:
    one, other = net.ours(A), net.ours(B)
    heard: list[Contact] = []
    one.protocol.on_contact_added.append(heard.append)
    assert heard == []
    contact = net.meet(one, other)
    net.run(one.protocol.call_ping(contact))
    assert heard == [contact]


def test_a_replacement_that_gets_a_place_is_announced_too(net: Rig) -> None:
    ours, other = net.ours(A, k=1), net.ours(B)
    contact = net.meet(ours, other)
    waiting = Contact(bytes([other.node.id[0] ^ 1]) + bytes(19), C, 5)
    bucket = ours.protocol.router.bucket_of(contact)
    bucket.replacement_nodes[waiting.id] = waiting
    heard: list[Contact] = []
    ours.protocol.on_contact_added.append(heard.append)
    net.run(other.close())
    net.sleep(1)
    net.run(ours.protocol.call_ping(contact))
    net.sleep(60)
    assert heard[0] is waiting
    assert contact.id not in ids(ours)


# --- identity ---


def test_an_identity_stays_the_same_and_is_private(tmp_path: Path) -> None:
    path = tmp_path / "identity.key"
    identity = Identity.load_or_create(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert Identity.load_or_create(path).node_id == identity.node_id
    assert [entry.name for entry in tmp_path.iterdir()] == ["identity.key"]


def test_a_damaged_identity_is_an_error_with_its_mend(tmp_path: Path) -> None:
    path = tmp_path / "identity.key"
    path.write_bytes(b"half")
    with pytest.raises(P2pkvError, match="damaged") as caught:
        Identity.load_or_create(path)
    assert "backup" in caught.value.mend
    assert path.read_bytes() == b"half"
