"""The client's line to the swarm: counts what passes, and can make the swarm seem far away.

A real distance would take a second machine; here every datagram that comes in is held back for a while, so the time of
an operation tells how many round trips follow one after the other.
"""

from __future__ import annotations

import asyncio
from typing import Any

from p2pkv.swarm.environment import Address
from p2pkv.swarm.udp import open_udp_socket


class Line:
    """Stands where a peer opens its sockets: `Environment(open_socket=line.open_socket)`."""

    def __init__(self, delay_s: float = 0.0) -> None:
        self.datagrams_sent = 0
        self.sent_bytes = 0
        self.received_bytes = 0
        self._delay_s = delay_s

    async def open_socket(self, protocol: Any, local: Address) -> asyncio.DatagramTransport:
        receive, loop = protocol.datagram_received, asyncio.get_running_loop()

        def received(data: Any, address: Any) -> None:
            self.received_bytes += len(data)
            if self._delay_s:
                loop.call_later(self._delay_s, receive, bytes(data), address)
            else:
                receive(data, address)

        protocol.datagram_received = received
        transport: Any = await open_udp_socket(protocol, local)
        send = transport.sendto

        def sendto(data: Any, address: Any = None) -> None:
            self.datagrams_sent += 1
            self.sent_bytes += len(data)
            send(data, address)

        transport.sendto = sendto
        return transport  # type: ignore[no-any-return]
