"""Swarms for tests of programs that use p2pkv.

`Swarm` starts real peers on loopback. `SimSwarm` simulates any number of complete peers in virtual time, reproducibly
by its seed; `ServerSwarm` does the same with routing and lookups alone.
"""

from __future__ import annotations

from p2pkv.real_swarm import Swarm
from p2pkv.simulation.servers import ServerPeer, ServerSwarm
from p2pkv.simulation.simulation import Seat, Simulation
from p2pkv.simulation.swarm import SimHome, SimPeer, SimSwarm

__all__ = ["Seat", "ServerPeer", "ServerSwarm", "SimHome", "SimPeer", "SimSwarm", "Simulation", "Swarm"]
