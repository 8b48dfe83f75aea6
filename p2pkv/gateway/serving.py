"""What all requests to one gateway share: the peer, the token, the streams that must end when the peer stops."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from p2pkv.errors import UnreachableError
from p2pkv.gateway.metrics import Metrics
from p2pkv.gateway.pipe import Pipe
from p2pkv.gateway.ports import PeerLike
from p2pkv.gateway.routes import Route


class Serving:
    """The state of one gateway."""

    def __init__(
        self,
        peer: PeerLike,
        token: str,
        config: Mapping[str, Any],
        routes: Sequence[Route],
        request_stop: Callable[[], None],
    ) -> None:
        self.peer = peer
        self.request_stop = request_stop
        self.token = token
        self.config = dict(config)
        self.routes = routes
        self.metrics = Metrics(peer.status)
        self.requests = 0  # being answered now
        self._pipes: set[Pipe] = set()
        self._stopped = False

    @contextmanager
    def ended_at_stop(self, pipe: Pipe) -> Iterator[None]:
        """Inside, the stopping of the peer ends the pipe, so that its reader gets a last line."""
        self._pipes.add(pipe)
        if self._stopped:
            self._end(pipe)
        try:
            yield
        finally:
            self._pipes.discard(pipe)

    def end_streams(self) -> None:
        self._stopped = True
        for pipe in self._pipes:
            self._end(pipe)

    @staticmethod
    def _end(pipe: Pipe) -> None:
        pipe.end(UnreachableError("the peer stops", "start it again with `p2pkv start`, or ask another peer"))
