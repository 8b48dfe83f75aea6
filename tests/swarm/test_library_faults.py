"""Each known fault of kademlia 2.2.3 and rpcudp 5.0.1: the stock class has it, ours has not."""

from __future__ import annotations

import asyncio
import pickle
import random
from pathlib import Path
from typing import Any

import pytest
import umsgpack
from kademlia.crawling import ValueSpiderCrawl
from kademlia.network import Server
from kademlia.node import Node
from kademlia.protocol import KademliaProtocol
from kademlia.routing import RoutingTable
from kademlia.storage import ForgetfulStorage
from rpcudp.protocol import RPCProtocol

from p2pkv import wire
from p2pkv.errors import RemoteError
from p2pkv.swarm.contact import Contact
from p2pkv.swarm.identity import Identity
from p2pkv.swarm.protocol import PeerProtocol
from p2pkv.swarm.routing import PeerTable
from p2pkv.swarm.rpc import RpcProtocol
from tests.swarm.rig import PORT, Rig, storage_of

A, B, C = "10.0.0.1", "10.0.0.2", "10.0.0.3"
PLACE = bytes(19) + b"\x07"


def node_id(number: int) -> bytes:
    return number.to_bytes(20, "big")


def know(server: Server, *nodes: Node) -> None:
    for node in nodes:
        server.protocol.router.add_contact(node)


def stock_node(server: Server, host: str) -> Node:
    return Node(server.node.id, host, PORT)


# --- Server ---


def test_set_says_true_when_every_store_failed(net: Rig) -> None:
    class Refusing(KademliaProtocol):
        def rpc_store(self, sender: Any, nodeid: bytes, key: bytes, value: Any) -> bool:
            return False

    stock, full = net.stock(A), net.stock(B)
    full.protocol.__class__ = Refusing
    know(stock, stock_node(full, B))
    assert net.run(stock.set("key", "value")) is True

    ours, refusing = net.ours(C), net.ours("10.0.0.4")

    async def refuse(place: bytes, value: Any) -> bool:
        return False

    refusing.protocol.stock_store = ours.protocol.stock_store = refuse
    net.meet(ours, refusing)
    assert net.run(ours.set("key", "value")) is False
    assert net.run(ours.store_digest(PLACE, "value")) == 0


def test_set_raises_when_nobody_answers(net: Rig) -> None:
    stock = net.stock(A)
    know(stock, Node(node_id(5), "10.9.9.9", PORT))
    with pytest.raises(ValueError, match="empty"):
        net.run(stock.set("key", "value"))

    ours, dead = net.ours(B), net.ours(C)
    net.meet(ours, dead)
    net.network.silence(C)
    assert net.run(ours.set("key", "value")) is False


def test_an_empty_store_is_silently_replaced(net: Rig) -> None:
    class Sized(ForgetfulStorage):  # type: ignore[misc]
        def __len__(self) -> int:
            return len(self.data)

    given = Sized()
    assert net.stock(A, storage=given).storage is not given
    assert net.ours(B, storage=given).protocol.storage is given


def test_load_state_unpickles_the_file(net: Rig, tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "went off",)

    path = tmp_path / "state"
    path.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(TypeError):
        net.run(Server.load_state(str(path), 0))
    assert (tmp_path / "went off").exists()
    (tmp_path / "went off").unlink()

    ours = net.ours(A)
    assert ours.load_contacts(path) == []
    with pytest.raises(NotImplementedError):
        net.run(type(ours).load_state(str(path), 0))
    assert not (tmp_path / "went off").exists()


def test_a_lost_bootstrap_ping_leaves_a_peer_alone_for_ever(net: Rig) -> None:
    stock, first = net.stock(A), net.stock(B)
    net.network.weather.loss = 1.0
    net.run(stock.bootstrap([(B, PORT)]))
    net.network.weather.loss = 0.0
    net.sleep(600)
    assert first.bootstrappable_neighbors() == stock.bootstrappable_neighbors() == []

    net.network.weather.loss = 1.0
    known = net.ours(C)
    ours = net.ours("10.0.0.4", bootstrap=[(C, PORT)])
    net.sleep(60)
    net.network.weather.loss = 0.0
    net.run(ours.wait_connected(60))
    assert [contact.id for contact in ours.contacts()] == [known.node.id]


def test_host_names_are_not_resolved(net: Rig) -> None:
    known, stock = net.ours(A), net.stock(B)
    net.network.names["first.example"] = [A]
    net.run(stock.bootstrap([("first.example", PORT)]))
    assert stock.bootstrappable_neighbors() == []
    ours = net.ours(C, bootstrap=[("first.example", PORT)])
    net.run(ours.wait_connected(10))
    assert [contact.id for contact in ours.contacts()] == [known.node.id]


def test_republishing_makes_old_values_young_again(net: Rig) -> None:
    stock, other = net.stock(A), net.stock(B)
    know(stock, stock_node(other, B))
    for storage in (stock.storage, other.storage):
        storage[PLACE] = "value"
        storage.data[PLACE] = (storage.data[PLACE][0] - 4000, "value")
    net.run(stock._refresh_table())
    assert list(other.storage.iter_older_than(3600)) == [], "so a value that is never put again never expires"

    ours, peer = net.ours(C, storage=storage_of(1)), net.ours("10.0.0.4", bootstrap=[(C, PORT)])
    net.sleep(4000)
    assert peer.protocol.storage.get(node_id(0)) is None, "replication is not the table's refresh"
    assert len(ours.contacts()) == 1


# --- RPC ---


def test_a_lost_datagram_costs_five_seconds_and_the_contact(net: Rig) -> None:
    stock, other = net.stock(A), net.stock(B)
    know(stock, stock_node(other, B))

    async def lose_first() -> None:
        net.network.weather.loss = 1.0
        await asyncio.sleep(0.1)
        net.network.weather.loss = 0.0

    async def ask(server: Server, node: Node) -> Any:
        losing = asyncio.create_task(lose_first())
        answer = await server.protocol.call_find_node(node, Node(PLACE))
        await losing
        return answer

    began_s = net.now_s
    assert net.run(ask(stock, stock_node(other, B)))[0] is False
    assert net.now_s - began_s >= 5
    assert stock.bootstrappable_neighbors() == []

    ours, peer = net.ours(C), net.ours("10.0.0.4")
    contact, began_s = net.meet(ours, peer), net.now_s
    assert net.run(ask(ours, contact))[0] is True
    assert net.now_s - began_s < 1
    assert ours.contacts() == [contact]


def test_one_silence_evicts(net: Rig) -> None:
    stock, other = net.stock(A), net.stock(B)
    know(stock, stock_node(other, B))
    net.network.silence(B)
    net.run(stock.protocol.call_ping(stock_node(other, B)))
    assert stock.bootstrappable_neighbors() == []

    ours, peer = net.ours(C), net.ours("10.0.0.4")
    contact = net.meet(ours, peer)
    net.network.silence("10.0.0.4")
    assert net.run(ours.protocol.call_ping(contact)) == (False, None)
    assert ours.contacts() == [contact]
    net.network.restore("10.0.0.4")
    net.sleep(10)
    assert contact.failures == 0
    net.network.silence("10.0.0.4")
    net.run(ours.protocol.call_ping(contact))
    net.sleep(30)
    assert ours.contacts() == [], "repeated silence does"


def test_faults_of_a_handler_and_unknown_methods_are_silence(net: Rig) -> None:
    class Broken(RPCProtocol):  # type: ignore[misc]
        def rpc_broken(self, sender: Any) -> None:
            raise RuntimeError("a bug")

    stock, caller = Broken(), net.stock(A)
    net.run(net.network.open_socket(stock, (B, PORT)))
    net.sleep(0.1)
    began_s = net.now_s
    assert net.run(lambda: caller.protocol.broken((B, PORT))) == (False, None)
    assert net.run(lambda: caller.protocol.no_such_method((B, PORT))) == (False, None)
    assert net.now_s - began_s >= 10

    ours, peer = net.ours(C), net.ours("10.0.0.4")
    contact = net.meet(ours, peer)
    broken = wire.Method("broken", wire.PingArgs, wire.PingArgs)
    unknown = wire.Method("unknown", wire.PingArgs, wire.PingArgs)

    def fail(sender: Any, request: wire.PingArgs) -> wire.PingArgs:
        raise RuntimeError("a bug")

    peer.protocol.register(broken, fail)
    began_s = net.now_s
    for method, code in ((broken, "failed"), (unknown, "unknown-method")):
        with pytest.raises(RemoteError) as caught:
            net.run(ours.protocol.call(contact, method, wire.PingArgs(PLACE)))
        assert caught.value.code == code
    assert net.now_s - began_s < 0.2


def test_a_cancelled_request_raises_in_its_timer(net: Rig) -> None:
    async def cancelled(protocol: Any) -> None:
        task = asyncio.ensure_future(protocol.ping(("10.9.9.9", PORT), PLACE))
        await asyncio.sleep(0.1)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    net.run(cancelled(net.stock(A).protocol))
    net.sleep(10)
    assert [type(context["exception"]) for context in net.broken] == [asyncio.InvalidStateError]
    net.broken.clear()

    ours = net.ours(B)
    net.run(cancelled(ours.protocol))
    assert ours.protocol._outstanding == {}
    net.sleep(10)
    assert net.broken == []


def test_a_reply_from_elsewhere_is_believed(net: Rig) -> None:
    async def ask(protocol: Any, spy: Any) -> Any:
        task = asyncio.ensure_future(protocol.ping((B, PORT), PLACE))
        await asyncio.sleep(0.1)
        message_id = spy.got[0][0][1:21]
        forger.transport.sendto(b"\x01" + message_id + umsgpack.packb(node_id(666)), (host, PORT))
        return await task

    spy, forger = net.socket(B), net.socket("10.6.6.6")
    host = A
    assert net.run(ask(net.stock(A).protocol, spy)) == (True, node_id(666))
    spy.got.clear()
    host = C
    ours = net.ours(C)
    assert net.run(ask(ours.protocol, spy)) == (False, None)
    assert ours.protocol.counters["replies_from_others"] == 1


def test_every_misspelt_attribute_becomes_a_remote_call(net: Rig) -> None:
    stock: Any = net.stock(A).protocol
    assert hasattr(stock, "rooter")
    assert callable(stock.rooter)
    ours: Any = net.ours(B).protocol
    assert not hasattr(ours, "rooter")
    with pytest.raises(AttributeError, match="rooter"):
        _ = ours.rooter
    assert callable(ours.find_node), "the library's own manner of calling still works"


def test_find_value_answers_a_forged_sender_a_hundredfold(net: Rig) -> None:
    def answer_bytes(host: str) -> tuple[int, int]:
        request = b"\x00" + bytes(20) + umsgpack.packb(["find_value", [node_id(9), PLACE]])
        victim.transport.sendto(request, (host, PORT))
        net.sleep(30)
        got, victim.got = victim.got, []
        return len(request), sum(len(data) for data, _ in got)

    victim = net.socket("10.7.7.7")
    stock, ours = net.stock(A), net.ours(B)
    stock.storage[PLACE] = ours.protocol.storage[PLACE] = b"x" * 6000
    request_bytes, got_bytes = answer_bytes(A)
    assert got_bytes > 60 * request_bytes
    request_bytes, got_bytes = answer_bytes(B)
    assert got_bytes <= 8 * request_bytes, "two pings, one resend each, and no value before the address has answered"


# --- protocol ---


def test_a_newcomer_gets_every_key_at_once(net: Rig) -> None:
    stock = net.stock(A, storage=storage_of(500))
    newcomer = net.socket(B)
    newcomer.transport.sendto(b"\x00" + bytes(20) + umsgpack.packb(["ping", [node_id(9)]]), (A, PORT))
    net.sleep(0.1)
    assert len(newcomer.got) == 501

    ours = net.ours(C)
    for number in range(500):
        ours.protocol.storage[node_id(number)] = "value"
    newcomer.got.clear()
    newcomer.transport.sendto(b"\x00" + bytes(20) + umsgpack.packb(["ping", [node_id(9)]]), (C, PORT))
    net.sleep(0.1)
    assert len(newcomer.got) == 2, "its answer, and a ping that verifies it"
    assert stock is not None


@pytest.mark.parametrize("bad_id", [b"short", bytes(21)])
def test_ids_of_a_wrong_length_become_contacts(net: Rig, bad_id: bytes) -> None:
    asker = net.socket("10.7.7.7")
    request = b"\x00" + bytes(20) + umsgpack.packb(["find_node", [bad_id, PLACE]])
    stock, ours = net.stock(A), net.ours(B)
    for host in (A, B):
        asker.transport.sendto(request, (host, PORT))
    net.sleep(10)
    assert stock.bootstrappable_neighbors() == [("10.7.7.7", PORT)]
    assert ours.contacts() == []
    assert ours.protocol.counters["refused_malformed"] == 1
    assert [address for _, address in asker.got] == [(A, PORT)], "no ping for such an id either"


NODES_THAT_RAISE: list[Any] = [[1, 2], "text", [[b"", A, 1]]]
NODES_THAT_ARE_ASKED: list[Any] = [[[b"short", A, 1]], [[PLACE, A]], [[PLACE, A, 70_000]], [[PLACE, 5, 5]]]


@pytest.mark.parametrize("nodes", NODES_THAT_RAISE + NODES_THAT_ARE_ASKED)
def test_malformed_node_lists_raise_in_the_caller_or_are_asked(net: Rig, nodes: Any) -> None:
    class Liar(KademliaProtocol):  # type: ignore[misc]
        def rpc_find_node(self, sender: Any, nodeid: bytes, key: bytes) -> Any:
            return nodes

    liar, stock, ours = net.stock(A), net.stock(C), net.ours(B)
    liar.protocol.__class__ = Liar
    began_s = net.now_s
    if nodes in NODES_THAT_RAISE:
        with pytest.raises((TypeError, AttributeError, ValueError)):
            net.run(stock.bootstrap([(A, PORT)]))
    else:
        net.run(stock.bootstrap([(A, PORT)]))
        assert net.now_s - began_s > 5, "it waited for a node that cannot be one"

    contact = net.run(ours.protocol.greet_address((A, PORT)))
    with pytest.raises(RemoteError) as caught:
        net.run(ours.protocol.call_find_node(contact, Node(PLACE)))
    assert caught.value.code == "misbehaved"


def test_a_stored_list_makes_get_raise(net: Rig) -> None:
    request = umsgpack.packb(["store", [node_id(9), PLACE, ["a", "list"]]])
    stock, holder = net.stock(A), net.stock(B)
    sender, ours = net.socket("10.7.7.7"), net.ours(C)
    for host in (B, C):
        sender.transport.sendto(b"\x00" + bytes(20) + request, (host, PORT))
    net.sleep(0.1)
    assert holder.storage.get(PLACE) == ["a", "list"]
    assert ours.protocol.storage.get(PLACE) is None

    spider = ValueSpiderCrawl(stock.protocol, Node(PLACE), [stock_node(holder, B)], 20, 3)
    with pytest.raises(TypeError, match="unhashable"):
        net.run(spider.find())
    contact = net.run(ours.protocol.greet_address((B, PORT)))
    with pytest.raises(RemoteError) as caught:
        net.run(ours.protocol.call_find_value(contact, Node(PLACE)))
    assert caught.value.code == "misbehaved"


# --- routing ---


class Deaf:
    async def call_ping(self, node: Node) -> None:
        """The library pings the head of a full bucket."""


def tables(k: int, own: int = 1) -> tuple[RoutingTable, PeerTable]:
    return RoutingTable(Deaf(), k, Node(node_id(own))), PeerTable(None, k, Node(node_id(own)), lambda: 0.0)


async def test_find_neighbors_returns_the_first_met_and_not_the_nearest() -> None:
    rng = random.Random(7)
    stock, ours = tables(20, own=rng.getrandbits(160))
    for number in range(200):
        id_ = rng.randbytes(20)
        stock.add_contact(Node(id_, "h", number))
        ours.add_contact(Contact(id_, f"10.0.{number}.1", 1))
    await asyncio.sleep(0)
    wrong = {"stock": 0, "ours": 0}
    for _ in range(100):
        target = Node(rng.randbytes(20))
        for name, table in (("stock", stock), ("ours", ours)):
            known = [node for bucket in table.buckets for node in bucket.get_nodes()]
            exact = sorted(node.long_id ^ target.long_id for node in known)[:20]
            wrong[name] += [node.long_id ^ target.long_id for node in table.find_neighbors(target)] != exact
    assert wrong["stock"] > 50
    assert wrong["ours"] == 0


def test_the_midpoint_falls_into_the_wrong_bucket() -> None:
    midpoint = 1 << 159
    stock, ours = tables(1, own=midpoint - 1)
    stock.add_contact(Node(node_id(midpoint)))
    ours.ksize = 1
    ours.flush()
    stock.split_bucket(0)
    ours.add_contact(Contact(node_id(midpoint), A, 1))
    ours.split_bucket(0)
    node = Node(node_id(midpoint))
    assert stock.is_new_node(node), "it was added, but is looked for in the other bucket"
    assert not ours.is_new_node(node)
    assert ours.buckets[0].range[1] == ours.buckets[1].range[0]


def test_the_head_of_a_full_bucket_never_moves_and_addresses_never_change(net: Rig) -> None:
    stock, other = net.stock(A), net.stock(B)
    know(stock, stock_node(other, B), Node(node_id(1 << 100), C, 1))
    bucket = stock.protocol.router.buckets[0]
    assert net.run(stock.protocol.call_ping(bucket.head()))[0] is True
    assert bucket.head().id == other.node.id, "heard just now, and still the least recently seen"
    moved = Node(other.node.id, "10.0.0.99", PORT)
    stock.protocol.welcome_if_new(moved)
    assert bucket.head().ip == B

    ours, one, two = net.ours("10.0.1.1"), net.ours("10.0.1.2"), net.ours("10.0.1.3")
    first, second = net.meet(ours, one), net.meet(ours, two)
    table = ours.protocol.router
    assert list(table.buckets[0].nodes.values()) == [first, second]
    net.sleep(2)
    net.run(ours.protocol.call_ping(first))
    assert list(table.buckets[0].nodes.values()) == [second, first]


def test_a_moved_peer_is_known_by_its_new_address_when_it_has_proven_its_id(net: Rig) -> None:
    ours, peer = net.ours(A), net.ours(B)
    net.meet(ours, peer)

    async def move() -> None:
        await peer.close()
        moved = type(peer)(net.network.environment("moved"), peer.identity)
        await moved.listen_on([(C, PORT)])
        net.servers.append(moved)

    net.run(move())
    net.meet(ours, net.servers[-1])
    assert [(contact.id, contact.ip) for contact in ours.contacts()] == [(peer.node.id, C)]
    impostor = net.ours("10.0.0.5")
    impostor.node = Node(peer.node.id)
    impostor.protocol.source_node = impostor.node
    net.run(ours.protocol.call_ping(Node(peer.node.id, "10.0.0.5", PORT)))
    assert [contact.ip for contact in ours.contacts()] == [C]


def test_our_classes_are_the_librarys() -> None:
    assert issubclass(PeerProtocol, KademliaProtocol)
    assert issubclass(RpcProtocol, RPCProtocol)
    assert issubclass(PeerTable, RoutingTable)
    assert issubclass(Contact, Node)
    assert Identity.generate().node_id != Identity.generate().node_id
