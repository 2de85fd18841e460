"""What the twin of the kernel remembers of a connection, its deadlines, and the pure rules on frames.

It must not do I/O: that is ``_framing_py`` and ``_framing_py_sockets``. Invariant: ``may_deliver`` alone knows flow control.
"""

from __future__ import annotations

import select
import socket
import struct
from enum import Enum
from typing import NamedTuple

from gateway._framing_values import GREETING_EXPIRED, SILENT, STALLED

RECV_BYTES = 65_536
ACCEPTS_PER_POLL = 64
SOCKETS_PER_POLL = 1024
HARD_MARGIN_BYTES = 8 << 20
INDEX_BITS = 20

LENGTH = struct.Struct(">I")
HEADER = struct.Struct(">IBBH")
LENGTH_BYTES, HEADER_BYTES = 4, 8


class Phase(Enum):
    GREETING = 0
    ADMITTED = 1
    CLOSING = 2
    FREE = 3


class Connection:
    """One socket and what the kernel remembers of it."""

    def __init__(self, number: int, sock: socket.socket, now_s: int, kernel_defaults: tuple[int, int]) -> None:
        self.number = number
        self.sock = sock
        self.phase = Phase.GREETING
        self.max_frame, self.outbox_bound = kernel_defaults
        self.allowance = 1  # frames that may still be delivered in the greeting phase
        self.window = 0
        self.unanswered = 0
        self.timeout_s = 0
        self.since_s = now_s  # greeting: accept; admitted: last input; closing: the call of close()
        self.progress_s = now_s  # the outbox was empty or shrank
        self.reported_s = -1
        self.inbox = bytearray()
        self.outbox = bytearray()
        self.failure: int | None = None  # a failed send, to be told by the next poll
        self.interest = select.EPOLLIN
        self.is_broken = False
        self.is_muted = False
        self.is_drain_wanted = False
        self.is_drained = False
        self.has_ended = False  # the peer's end was read while closing

    @property
    def index(self) -> int:
        return self.number & (1 << INDEX_BITS) - 1

    @property
    def is_open(self) -> bool:
        return self.phase in (Phase.GREETING, Phase.ADMITTED) and self.failure is None

    @property
    def is_low(self) -> bool:
        """What DRAINED tells."""
        return len(self.outbox) <= self.outbox_bound // 4

    @property
    def may_deliver(self) -> bool:
        """The one rule of flow control: it stops delivering and reading alike."""
        if self.is_broken or self.failure is not None:
            return False
        if self.phase is Phase.GREETING:
            return self.allowance > 0
        has_room = len(self.outbox) < self.outbox_bound
        return has_room and (self.window == 0 or self.unanswered < self.window)

    @property
    def has_whole_frame(self) -> bool:
        """A frame, or a length that is an error, is at the head of the inbox."""
        if len(self.inbox) < LENGTH_BYTES:
            return False
        (length,) = LENGTH.unpack_from(self.inbox)
        return not 4 <= length <= self.max_frame or len(self.inbox) - LENGTH_BYTES >= length


class Deadlines(NamedTuple):
    """How long a connection may take over what, in whole seconds."""

    greeting_timeout_s: int
    linger_s: int
    stall_timeout_s: int

    def is_past_linger(self, connection: Connection, now_s: int) -> bool:
        """Past it without progress; or, as crumbs of progress could go on for hours, past it and the stall time in all."""
        longest_s = self.stall_timeout_s + self.linger_s
        return now_s - connection.progress_s >= self.linger_s or now_s - connection.since_s >= longest_s

    def overdue(self, connection: Connection, now_s: int) -> int | None:
        if connection.phase is Phase.GREETING:
            return GREETING_EXPIRED if now_s - connection.since_s >= self.greeting_timeout_s else None
        if connection.outbox and now_s - connection.progress_s >= self.stall_timeout_s:
            return STALLED
        if connection.timeout_s and now_s - connection.since_s >= connection.timeout_s:
            return SILENT
        return None


def count_frames(glued: bytes) -> int:
    """How many frames these are. A rest that is no frame is our bug: the peer could never find the next one."""
    frames = 0
    position = 0
    while position < len(glued):
        rest = len(glued) - position
        length = LENGTH.unpack_from(glued, position)[0] if rest >= HEADER_BYTES else 0
        if length < 4 or length > rest - LENGTH_BYTES:
            raise ValueError(f"byte {position} does not start a whole frame")
        position += LENGTH_BYTES + length
        frames += 1
    if not frames:
        raise ValueError("no frame to send")
    return frames
