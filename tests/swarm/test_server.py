"""One peer's server: joining, saved contacts, stock peers in the same swarm, real sockets."""

from __future__ import annotations

import asyncio
import json
import socket
from pathlib import Path
from typing import Any

import pytest
from kademlia.network import Server
from kademlia.node import Node

from p2pkv.errors import P2pkvError, UnreachableError
from p2pkv.limits import REFRESH_S
from p2pkv.swarm.environment import Environment
from p2pkv.swarm.identity import Identity
from p2pkv.swarm.server import PeerServer
from tests.swarm.rig import PORT, Rig

A, B, C = "10.0.0.1", "10.0.0.2", "10.0.0.3"


def test_nobody_answers_and_the_error_says_whom_we_asked(net: Rig) -> None:
    ours = net.ours(A, bootstrap=[("10.9.9.9", 9)])
    with pytest.raises(UnreachableError, match=r"10\.9\.9\.9:9") as caught:
        net.run(ours.wait_connected(3))
    assert caught.value.mend


def test_peers_that_were_all_down_at_the_start_find_together(net: Rig) -> None:
    net.network.weather.loss = 1.0
    servers = [net.ours(f"10.1.0.{number}", bootstrap=[("10.1.0.1", PORT)]) for number in range(1, 5)]
    net.sleep(300)
    net.network.weather.loss = 0.0
    net.sleep(90)
    assert [len(server.contacts()) for server in servers] == [3, 3, 3, 3]


def test_a_peer_whose_bootstrap_is_down_is_connected_when_another_comes_to_it(net: Rig) -> None:
    ours = net.ours(A, bootstrap=[("10.9.9.9", 9)])
    net.sleep(120)
    net.ours(B, bootstrap=[(A, PORT)])
    net.run(ours.wait_connected(3))
    assert len(ours.contacts()) == 1


def test_a_peer_that_lost_everyone_joins_again(net: Rig) -> None:
    first = net.ours(A)
    ours = net.ours(B, bootstrap=[(A, PORT)])
    net.run(ours.wait_connected(10))
    net.network.silence(A)
    net.run(ours.protocol.call_ping(ours.contacts()[0]))
    net.sleep(60)
    assert ours.contacts() == []
    net.network.restore(A)
    net.sleep(60)
    assert [contact.id for contact in ours.contacts()] == [first.node.id]


def test_saved_contacts_bring_a_peer_back_without_its_bootstrap(net: Rig, tmp_path: Path) -> None:
    path = tmp_path / "contacts.json"
    one, other = net.ours(A), net.ours(B)
    net.meet(one, other)
    one.save_contacts(path)
    assert json.loads(path.read_text())["contacts"] == [{"node": other.node.id.hex(), "host": B, "port": PORT}]
    again = net.ours(C)
    net.run(_join(again, path))
    net.run(again.wait_connected(10))
    assert other.node.id in {contact.id for contact in again.contacts()}


async def _join(server: PeerServer, path: Path) -> None:
    server.join([], path)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"version": 1, "contacts": [{"node": 5}]}', b"\x80\x04junk"])
def test_a_damaged_contacts_file_is_an_empty_one(net: Rig, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "contacts.json"
    path.write_bytes(content)
    assert net.ours(A).load_contacts(path) == []


def test_a_refresh_looks_into_lonely_buckets(net: Rig) -> None:
    servers = [net.ours(f"10.1.0.{number}", bootstrap=[("10.1.0.1", PORT)]) for number in range(1, 8)]
    net.sleep(20)
    asked = servers[0].protocol.counters["requests_sent"]
    net.sleep(1.2 * REFRESH_S)
    assert servers[0].protocol.counters["requests_sent"] > asked


def test_contact_infos_tell_what_users_ask_for(net: Rig) -> None:
    one, other = net.ours(A), net.ours(B)
    net.meet(one, other)

    async def infos() -> Any:
        return one.contact_infos()

    (info,) = net.run(infos())
    assert (info.node, info.address, info.kind, info.failures) == (other.node.id.hex(), f"{B}:{PORT}", "p2pkv", 0)
    assert 20 <= info.rtt_ms <= 40
    assert one.swarm_size_estimate() == 2


# --- stock peers ---


def test_a_stock_server_joins_is_found_and_values_go_both_ways(net: Rig) -> None:
    servers = [net.ours(f"10.1.0.{number}", bootstrap=[("10.1.0.1", PORT)]) for number in range(1, 12)]
    net.sleep(20)
    stock = net.stock("10.2.0.1", k=8)
    assert net.run(stock.bootstrap([("10.1.0.3", PORT)]))
    net.sleep(10)
    assert len(net.run(stock.bootstrap([("10.1.0.3", PORT)]))) == 8, "it has answered our pings, so it is told all"
    contact = servers[2].protocol.router.get(stock.node.id)
    assert contact is not None
    assert (contact.kind, contact.verified) == ("stock", True)
    found = net.run(servers[7].lookups.find_nodes(stock.node.id))
    assert found.contacts[0].id == stock.node.id
    assert net.run(servers[2].protocol.call_ping(contact)) == (True, stock.node.id)

    for value in ("text", b"bytes", 5, 2.5, True, "x" * 6000):
        assert net.run(stock.set("from stock", value)) is True
        assert net.run(servers[5].get("from stock")) == value
        assert net.run(servers[8].set("from ours", value)) is True
        assert net.run(stock.get("from ours")) == value


def test_a_stock_answer_of_our_table_is_a_list_that_the_library_reads(net: Rig) -> None:
    ours, other = net.ours(A), net.ours(B)
    net.meet(ours, other)
    stock = net.stock(C)
    net.run(stock.bootstrap([(A, PORT)]))
    net.sleep(5)
    happened, nodes = net.run(lambda: stock.protocol.find_node((A, PORT), stock.node.id, other.node.id))
    assert happened
    assert nodes == [[other.node.id, B, PORT]]


# --- real sockets ---


async def real(host: str = "127.0.0.1", port: int = 0) -> PeerServer:
    server = PeerServer(Environment(), Identity.generate())
    await server.listen_on([(host, port)])
    return server


async def test_real_sockets_join_by_name_beside_a_stock_server() -> None:
    one, other = await real(), await real()
    one.join([])
    other.join([("localhost", one.bound[0][1])])
    stock = Server(ksize=8)
    await stock.listen(0, interface="127.0.0.1")
    try:
        await other.wait_connected(10)
        assert await stock.bootstrap(one.bound)
        assert await stock.set("key", "value")
        assert await other.get("key") == "value"
        assert one.endpoint.buffer_bytes > 0
    finally:
        stock.stop()
        await asyncio.gather(one.close(), other.close())


async def test_a_port_in_use_is_an_error_with_its_mend() -> None:
    one = await real()
    with pytest.raises(P2pkvError, match="in use") as caught:
        await real(port=one.bound[0][1])
    assert "port" in caught.value.mend
    await one.close()


@pytest.mark.parametrize("wish", [[("127.0.0.1", 0), ("::1", 0)]])
async def test_one_peer_serves_both_families(wish: list[tuple[str, int]]) -> None:
    if not _has_ipv6():
        wish = wish[:1]
    server = PeerServer(Environment(), Identity.generate())
    await server.listen_on(wish)
    caller = PeerServer(Environment(), Identity.generate())
    await caller.listen_on([(host, 0) for host, _ in wish])
    for address in server.bound:
        contact = await caller.protocol.greet_address(address)
        assert contact.id == server.node.id
    assert await caller.protocol.call_ping(Node(b"n" * 20, "not an address", 5)) == (False, None)
    assert caller.endpoint.unsendable > 0
    await asyncio.gather(server.close(), caller.close())


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True
