"""One incarnation of a peer, as this end of a link remembers it.

Owns what belongs to the link as a whole: its two connections by number, what waits for the one that is being opened, the
requests that wait for an answer, the numbered pushes both ways. A new incarnation of the same worker is a new ``Remote``:
nothing carries over.
"""

from __future__ import annotations

import random
from typing import NamedTuple

from gateway.cluster.handshake import Opening
from gateway.cluster.link_requests import PendingRequests
from gateway.cluster.push_stream import PushReceiver, PushSender
from gateway.cluster.reachability import Reachability
from gateway.protocol.identifiers import WorkerId

OUTBOX_BYTES = 64 << 20
"""What may wait for a peer: until its connection is open, and again in its outbox."""


class Peer(NamedTuple):
    """Who is meant, and where it listens: the path of a Unix socket (it has a "/"), or ``host:port`` with a numeric host.

    Of two incarnations of a worker the later has the greater number.
    """

    incarnation: int
    address: str


class WaitingFrames:
    """Frames for a connection that is not open yet, in order, within a bound of bytes."""

    __slots__ = ("_bytes", "_frames")

    def __init__(self) -> None:
        self._frames: list[bytes] = []
        self._bytes = 0

    def __bool__(self) -> bool:
        return bool(self._frames)

    def add(self, frame: bytes) -> bool:
        if self._bytes + len(frame) > OUTBOX_BYTES:
            return False
        self._frames.append(frame)
        self._bytes += len(frame)
        return True

    def take(self) -> list[bytes]:
        taken, self._frames, self._bytes = self._frames, [], 0
        return taken


class Remote:
    __slots__ = (
        *("worker", "incarnation", "address", "is_listed", "outgoing", "incoming", "opening", "version", "waiting"),
        *("opened_s", "retry_s", "asked_s", "reachability", "pending", "sender", "receiver"),
    )

    def __init__(self, worker: WorkerId, peer: Peer, *, is_listed: bool) -> None:
        self.worker = worker
        self.incarnation, self.address = peer
        self.is_listed = is_listed
        """Named by ``set_peers`` once; until then it is known by its own HELLO only."""
        self.outgoing = self.incoming = 0
        self.opening: Opening | None = None
        """The handshake on ``outgoing``, until it is done."""
        self.version = 0
        """Spoken on ``outgoing`` or ``incoming``, whichever was opened last; 0: neither was yet."""
        self.waiting = WaitingFrames()
        self.opened_s = self.retry_s = 0.0
        self.asked_s = float("-inf")
        """When somebody last wanted to know whether its process is gone."""
        self.reachability = Reachability()
        self.pending = PendingRequests(worker)
        self.sender = PushSender(random.getrandbits(63) | 1)
        self.receiver = PushReceiver()

    def __str__(self) -> str:
        return f"worker {self.worker}.{self.incarnation} at {self.address}"

    @property
    def is_opening(self) -> bool:
        """Nothing that was sent has left: it waits for the handshake."""
        return self.opening is not None

    def take_conns(self) -> list[int]:
        """Its connections, which it has no longer."""
        conns = [conn for conn in (self.outgoing, self.incoming) if conn]
        self.outgoing = self.incoming = 0
        self.opening = None
        return conns

    def drop_conn(self, conn: int) -> None:
        if conn == self.outgoing:
            self.outgoing, self.opening = 0, None
        elif conn == self.incoming:
            self.incoming = 0
