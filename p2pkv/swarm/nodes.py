"""Lists of nodes that other peers send: what of them may be believed enough to be asked.

Owns the check of shapes, ids, hosts and ports.
"""

from __future__ import annotations

from collections.abc import Iterable

from p2pkv.errors import RemoteError
from p2pkv.ids import ID_BYTES
from p2pkv.limits import K_MAX
from p2pkv.swarm.udp import is_usable_host
from p2pkv.wire import PORT_MAX, NodeTuple


def checked(nodes: Iterable[NodeTuple]) -> list[NodeTuple]:
    """The nodes that can be asked, K_MAX at most. Raises RemoteError where an id or a port cannot be one."""
    usable = []
    for node in nodes:
        if len(node.node_id) != ID_BYTES or not 0 <= node.port <= PORT_MAX:
            raise RemoteError("misbehaved", "a node that is none")
        if node.port and is_usable_host(node.host):
            usable.append(node)
            if len(usable) == K_MAX:
                break
    return usable
