"""Prometheus metrics of a peer: what its status says, and how HTTP itself is doing. Its registry is its own."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from p2pkv.outcomes import Status

_GAUGES = {
    "uptime_s": ("uptime_seconds", "Seconds since the peer started"),
    "contacts": ("contacts", "Contacts in the routing table"),
    "swarm_size_estimate": ("swarm_peers_estimate", "Peers of the swarm, estimated"),
    "records": ("records", "Records held by this peer"),
    "keys": ("keys", "Keys of which this peer holds records"),
    "chunks": ("chunks", "Chunks held by this peer"),
    "stored_bytes": ("stored_bytes", "Bytes that the store takes"),
    "quota_bytes": ("quota_bytes", "Bytes that the store may take"),
    "connected": ("connected", "1 where the peer has contacts that answer"),
    "socket_buffer_bytes": ("socket_receive_buffer_bytes", "Receive buffer of the UDP socket"),
}
_NOT_IN_NAMES = re.compile(r"[^a-zA-Z0-9_]+")


class Metrics:
    """Counts requests and tells everything in the text format."""

    def __init__(self, status: Callable[[], Awaitable[Status]]) -> None:
        self._status = status
        self.registry = CollectorRegistry()
        labels = ["method", "route"]
        self._requests = Counter(
            "p2pkv_http_requests", "HTTP requests answered", [*labels, "status"], registry=self.registry
        )
        self._seconds = Histogram(
            "p2pkv_http_request_seconds", "Time to answer, streams whole", labels, registry=self.registry
        )

    def count(self, method: str, route: str, status: int, seconds: float) -> None:
        self._requests.labels(method, route, str(status)).inc()
        self._seconds.labels(method, route).observe(seconds)

    async def text(self) -> bytes:
        of_status = CollectorRegistry()
        of_status.register(_StatusCollector(await self._status()))
        return generate_latest(of_status) + generate_latest(self.registry)


class _StatusCollector(Collector):
    """One status, told once."""

    def __init__(self, status: Status) -> None:
        self._status = status

    def collect(self) -> Iterator[Metric]:
        status = self._status
        yield InfoMetricFamily("p2pkv_peer", "This peer", value={"node": status.node, "version": status.version})
        for field, (name, about) in _GAUGES.items():
            value = getattr(status, field)
            if value is not None:
                yield GaugeMetricFamily(f"p2pkv_{name}", about, value=float(value))
        yield GaugeMetricFamily("p2pkv_warnings", "Warnings in the peer's status", value=len(status.warnings))
        for name, count in status.counters.items():
            plain = _NOT_IN_NAMES.sub("_", name)
            yield CounterMetricFamily(f"p2pkv_{plain}", f"The peer's counter {name}", value=count)
