"""The numbered stream of pushes from one worker to another: nothing is dropped on it in silence.

Owns, for each direction, what was sent and not yet acknowledged, who lost something, and what has arrived. Sans-IO: it
makes frames and is told what became of them; ``links.py`` has the connection.

How it holds. A push gets the next number when a connection has taken it, and is kept until acknowledged, within
``RETAINED_BYTES``. After a broken connection everything kept is sent again; the receiver drops numbers that it has seen.
Where the bound has pushed something out, the receiver sees the hole in the numbers and treats everybody on it as having
lost something. A push that no connection took has no number: its recipients are remembered and named in LOST, itself a
numbered frame, as soon as the link takes one again. Droppable pushes (somebody is typing) have number 0, and no promise.

Rejected: to queue without a bound what the link does not take (a peer that hangs would end us), and to acknowledge each
push (as many frames back as forth).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from gateway.cluster.wire import Recipients, lost_frame, push_frame

RETAINED_BYTES = 8 << 20
"""Kept for a reconnection, per link: at 500 bytes a push, 16,000 pushes. An acknowledgement is due long before."""

MAX_LOST = 4096
"""Recipients remembered by name; past it the notice says everybody. About half a megabyte of tuples per link."""

ACK_PUSHES = 256
ACK_BYTES = 1 << 20
"""An acknowledgement is owed after so many pushes or bytes, or at the link's next tick."""


class PushSender:
    """Our end of the stream to one incarnation of a peer."""

    def __init__(self, stream: int, *, retained_bytes: int = RETAINED_BYTES, max_lost: int = MAX_LOST) -> None:
        self.stream = stream
        self._retained_bytes = retained_bytes
        self._max_lost = max_lost
        self._next = 1
        self._kept: deque[bytes] = deque()
        self._kept_bytes = 0
        self._lost: set[tuple[int, int]] = set()
        self._is_everybody_lost = False

    @property
    def unacknowledged(self) -> tuple[bytes, ...]:
        """To be sent again on a new connection, oldest first."""
        return tuple(self._kept)

    @property
    def has_lost(self) -> bool:
        return self._is_everybody_lost or bool(self._lost)

    @property
    def owes_something(self) -> bool:
        return self.has_lost or bool(self._kept)

    def push(self, recipients: Recipients, frame: bytes) -> bytes:
        """The frame to try next. Follow up with ``sent`` or ``lose``."""
        return push_frame(self._next, recipients, frame)

    def loss_notice(self) -> bytes:
        """The LOST frame to try next. Follow up with ``sent`` and ``loss_told`` if it was taken."""
        return lost_frame(self._next, None if self._is_everybody_lost else sorted(self._lost))

    def sent(self, numbered: bytes) -> None:
        """A connection has taken the frame that ``push`` or ``loss_notice`` made last."""
        self._next += 1
        self._kept.append(numbered)
        self._kept_bytes += len(numbered)
        while self._kept_bytes > self._retained_bytes and len(self._kept) > 1:
            self._kept_bytes -= len(self._kept.popleft())

    def loss_told(self) -> None:
        self._lost.clear()
        self._is_everybody_lost = False

    def lose(self, recipients: Iterable[tuple[int, int]]) -> None:
        """No connection took a push for these."""
        if self._is_everybody_lost:
            return
        self._lost.update(recipients)
        if len(self._lost) > self._max_lost:
            self._lost.clear()
            self._is_everybody_lost = True

    def acknowledged(self, stream: int, number: int) -> None:
        """The peer has everything up to ``number``. Of another stream: late news of an earlier one."""
        if stream != self.stream:
            return
        first_kept = self._next - len(self._kept)
        for _ in range(min(number - first_kept + 1, len(self._kept))):
            self._kept_bytes -= len(self._kept.popleft())


class PushReceiver:
    """Our end of the stream from one incarnation of a peer."""

    def __init__(self) -> None:
        self.stream = 0
        self._last = 0
        self._acknowledged = 0
        self._unacknowledged_bytes = 0

    def start(self, stream: int) -> bool:
        """A connection of this stream was opened. True: an earlier stream ended, of which something may be missing."""
        if stream == self.stream:
            return False
        is_cut = self._last > 0
        self.stream = stream
        self._last = self._acknowledged = self._unacknowledged_bytes = 0
        return is_cut

    def receive(self, number: int, size: int) -> tuple[bool, bool]:
        """(is new, is there a hole before it) of a push of ``size`` bytes."""
        if number == 0:
            return True, False
        self._unacknowledged_bytes += size
        if number <= self._last:
            self._acknowledged = min(self._acknowledged, self._last - 1)  # the acknowledgement was lost: owe it again
            return False, False
        has_hole = number > self._last + 1
        self._last = number
        return True, has_hole

    @property
    def owes_ack(self) -> bool:
        return self._last > self._acknowledged

    @property
    def is_ack_due(self) -> bool:
        return self._last - self._acknowledged >= ACK_PUSHES or self._unacknowledged_bytes >= ACK_BYTES

    @property
    def last(self) -> int:
        return self._last

    def ack_sent(self) -> None:
        self._acknowledged = self._last
        self._unacknowledged_bytes = 0
