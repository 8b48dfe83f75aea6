"""The simulated network loses, delays, doubles and cuts off as told, the same way for the same seed."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from p2pkv.simulation.loop import VirtualLoop
from p2pkv.simulation.network import DATAGRAM_BYTES_MAX, Network, Weather
from p2pkv.swarm.environment import Address

A, B, C = ("10.0.0.1", 1), ("10.0.0.2", 1), ("10.0.0.3", 1)


class Recorder(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self.received: list[tuple[bytes, Address, float]] = []
        self.errors: list[Exception] = []
        self.closed = False

    def datagram_received(self, data: bytes, addr: Address) -> None:
        self.received.append((data, addr, asyncio.get_running_loop().time()))

    def error_received(self, exc: Exception) -> None:
        self.errors.append(exc)

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True


@pytest.fixture
def loop() -> Iterator[VirtualLoop]:
    loop = VirtualLoop()
    yield loop
    loop.close()


class Hosts:
    """Three hosts with a socket each."""

    def __init__(self, loop: VirtualLoop, weather: Weather, seed: int = 1) -> None:
        self.loop = loop
        self.network = Network(loop, seed, weather)
        self.recorders = {address: Recorder() for address in (A, B, C)}
        self.transports = {
            address: loop.run_until_complete(self.network.open_socket(recorder, address))
            for address, recorder in self.recorders.items()
        }

    def send(self, source: Address, target: Address, data: bytes = b"x") -> None:
        self.transports[source].sendto(data, target)

    def run(self, duration_s: float = 1.0) -> None:
        self.loop.run_until_complete(asyncio.sleep(duration_s))

    def heard(self, address: Address) -> list[bytes]:
        return [data for data, _, _ in self.recorders[address].received]


def test_a_datagram_arrives_with_its_source_after_its_delay(loop: VirtualLoop) -> None:
    hosts = Hosts(loop, Weather(delay_s=(0.2, 0.3)))
    hosts.send(A, B, b"hello")
    hosts.run()
    ((data, source, at_s),) = hosts.recorders[B].received
    assert (data, source) == (b"hello", A)
    assert 0.2 <= at_s <= 0.31


def test_loss_and_duplication_keep_their_rates_and_datagrams_overtake(loop: VirtualLoop) -> None:
    hosts = Hosts(loop, Weather(loss=0.1, duplication=0.2))
    sent = [number.to_bytes(2, "big") for number in range(5000)]
    for data in sent:
        hosts.send(A, B, data)
    hosts.run()
    counters, heard = hosts.network.counters, hosts.heard(B)
    assert 0.08 < counters.lost / counters.sent < 0.12
    assert 0.17 < counters.duplicated / counters.delivered < 0.23
    assert len(heard) == counters.delivered == counters.sent - counters.lost + counters.duplicated
    assert heard != sorted(heard)
    assert set(heard) < set(sent)


def test_one_seed_one_trace(loop: VirtualLoop) -> None:
    def trace(seed: int) -> str:
        hosts = Hosts(VirtualLoop(), Weather(loss=0.3, duplication=0.1), seed)
        for number in range(100):
            hosts.send(A, B, bytes([number]))
        hosts.run()
        hosts.loop.close()
        return hosts.network.trace_hash

    assert trace(7) == trace(7)
    assert trace(7) != trace(8)


def test_a_partition_cuts_both_ways_until_it_heals(loop: VirtualLoop) -> None:
    hosts = Hosts(loop, Weather())
    hosts.network.partition([{A[0], B[0]}])
    for source, target in ((A, B), (A, C), (C, A)):
        hosts.send(source, target)
    hosts.run()
    assert (hosts.heard(A), hosts.heard(B), hosts.heard(C)) == ([], [b"x"], [])
    hosts.network.heal()
    hosts.send(C, A)
    hosts.run()
    assert hosts.heard(A) == [b"x"]


def test_a_silent_host_neither_hears_nor_is_heard_until_it_is_restored(loop: VirtualLoop) -> None:
    hosts = Hosts(loop, Weather())
    hosts.network.silence(B[0])
    hosts.send(A, B)
    hosts.send(B, A)
    hosts.run()
    assert hosts.network.counters.cut_off == 2
    hosts.network.restore(B[0])
    hosts.send(A, B)
    hosts.run()
    assert (hosts.heard(A), hosts.heard(B)) == ([], [b"x"])


def test_ports_are_given_taken_and_freed(loop: VirtualLoop) -> None:
    hosts = Hosts(loop, Weather())
    with pytest.raises(OSError, match="in use"):
        loop.run_until_complete(hosts.network.open_socket(Recorder(), A))
    hosts.transports[A].close()
    again = loop.run_until_complete(hosts.network.open_socket(Recorder(), A))
    free = loop.run_until_complete(hosts.network.open_socket(Recorder(), (A[0], 0)))
    assert hosts.recorders[A].closed
    assert again.get_extra_info("sockname") == A
    assert free.get_extra_info("sockname")[1] > 1024


def test_a_datagram_too_large_for_udp_is_an_error_here_and_not_sent(loop: VirtualLoop) -> None:
    hosts = Hosts(loop, Weather())
    hosts.send(A, B, bytes(DATAGRAM_BYTES_MAX + 1))
    hosts.run()
    assert len(hosts.recorders[A].errors) == 1
    assert hosts.network.counters.sent == 0


def test_names_are_resolved_from_the_table(loop: VirtualLoop) -> None:
    network = Network(loop, 1, names={"seed.example": ["10.0.0.1", "10.0.0.2"]})
    assert loop.run_until_complete(network.resolve("seed.example", 9)) == [("10.0.0.1", 9), ("10.0.0.2", 9)]
    assert loop.run_until_complete(network.resolve("10.0.0.9", 9)) == [("10.0.0.9", 9)]
    with pytest.raises(OSError, match=r"nowhere\.example"):
        loop.run_until_complete(network.resolve("nowhere.example", 9))


def test_each_peer_has_its_own_randomness_by_seed(loop: VirtualLoop) -> None:
    one, same, other = (Network(loop, 3).environment(number).random_bytes(8) for number in (1, 1, 2))
    assert one == same != other
