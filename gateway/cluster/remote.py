"""One incarnation of a peer, as this end of a link remembers it.

Owns what belongs to the link as a whole: its two connections by number, the requests that wait, the numbered pushes both
ways. A new incarnation of the same worker is a new ``Remote``: nothing carries over.
"""

from __future__ import annotations

import random
from typing import NamedTuple

from gateway.cluster.link_requests import PendingRequests
from gateway.cluster.push_stream import PushReceiver, PushSender
from gateway.protocol.identifiers import WorkerId


class Peer(NamedTuple):
    """Who is meant, and where it listens. Of two incarnations of a worker the later has the greater number."""

    incarnation: int
    address: str


class Remote:
    __slots__ = (
        *("worker", "incarnation", "address", "is_listed", "outgoing", "incoming", "is_greeted"),
        *("opened_s", "retry_s", "pending", "sender", "receiver"),
    )

    def __init__(self, worker: WorkerId, peer: Peer, *, is_listed: bool) -> None:
        self.worker = worker
        self.incarnation, self.address = peer
        self.is_listed = is_listed
        """Named by ``set_peers`` once; until then it is known by its own HELLO only."""
        self.outgoing = self.incoming = 0
        self.is_greeted = False
        """The peer has answered the HELLO on ``outgoing``."""
        self.opened_s = self.retry_s = 0.0
        self.pending = PendingRequests(worker)
        self.sender = PushSender(random.getrandbits(63) | 1)
        self.receiver = PushReceiver()

    def take_conns(self) -> list[int]:
        """Its connections, which it has no longer."""
        conns = [conn for conn in (self.outgoing, self.incoming) if conn]
        self.outgoing = self.incoming = 0
        return conns

    def drop_conn(self, conn: int) -> None:
        if conn == self.outgoing:
            self.outgoing = 0
        elif conn == self.incoming:
            self.incoming = 0
