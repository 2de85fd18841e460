"""The kernel's contract: sockets, frames and outboxes. Ints and bytes only; not a word of chat.

One epoll descriptor holds every connection. A cycle is: wait until ``fileno()`` is readable, ``poll`` once, act on the
events, ``flush`` once. Nothing is written to a socket outside ``flush`` (auto replies included).

A frame is ``length u32 | op u8 | flags u8 | rid u16 | body``, big-endian; length counts what follows it. A connection
is named by a ConnId, ``generation << 20 | index``: a stale one names nobody, and every method takes a stale ConnId as a
closed connection. Time is what the latest ``poll`` or ``sweep`` said; it never runs backwards.

Phases of a connection:
  *greeting*: from accept to ``admit``. One frame is delivered; the next is held until ``admit`` or ``release``. Frames of
      at most ``greeting_max_frame``. It ends ``greeting_timeout_s`` after accept, whatever arrives.
  *admitted*: frames flow while fewer than ``window`` requests (frames with rid != 0) are unanswered and the outbox is
      below its bound; otherwise the rest stays in the connection's buffer and the socket is not read. Any byte counts
      as activity.
  *closing*: after ``close``: no more events; the outbox is flushed, then the write side shut down, then input is
      discarded until the peer's end or ``linger_s``.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

ACCEPTED: int
"""Event 256: (conn, ACCEPTED, listener tag, packed peer address: 4 or 16 bytes, or b"" for a Unix socket)."""
CLOSED: int
"""Event 257: the peer ended or the socket failed: (conn, CLOSED, errno or 0, b""). Not sent after ``close``."""
DRAINED: int
"""Event 258: the outbox fell to a quarter of its bound: (conn, DRAINED, 0, b""). Once per ``notify_drained``."""
TOO_SHORT: int
"""Event 259: a length below 4. The connection delivers nothing more; say why and ``close`` it."""
TOO_LARGE: int
"""Event 260: a length above the connection's max_frame; tag is the length. Likewise."""

GREETING_EXPIRED: int
SILENT: int
STALLED: int

class KernelStatistics(NamedTuple):
    """What is now: connections (closing ones too), outbox_bytes, input_bytes (read and not delivered), muted,
    slab_bytes. All others only grow. dropped_frames: what was not queued because of a bound (pushes once per
    connection). accept_failures: accepts that failed; without descriptors accepting rests until a connection ends or
    the next ``sweep``.
    """

    connections: int
    accepted: int
    refused: int
    closed: int
    frames_in: int
    bytes_in: int
    frames_out: int
    bytes_out: int
    auto_replies: int
    recv_calls: int
    send_calls: int
    outbox_bytes: int
    input_bytes: int
    muted: int
    dropped_frames: int
    slab_bytes: int
    accept_failures: int

class KernelFull(Exception):
    """``adopt`` beyond ``max_connections``; the socket stays the caller's."""

class Kernel:
    def __init__(
        self,
        max_connections: int,
        *,
        auto_replies: Mapping[int, int] = ...,
        greeting_max_frame: int = 4096,
        greeting_timeout_s: int = 10,
        linger_s: int = 2,
        stall_timeout_s: int = 15,
        max_outbox_bytes: int = 262_144,
        max_total_outbox_bytes: int = 1 << 30,
        refusal: bytes = b"",
    ) -> None:
        """max_connections: 1 .. 2^20 (else ValueError). ``auto_replies`` maps an op to the op that answers it, with the
        same rid and no body, once admitted.

        ``refusal`` is sent to a connection accepted beyond ``max_connections``, which is then closed.
        """
    def fileno(self) -> int: ...
    @property
    def has_backlog(self) -> bool:
        """The next ``poll`` has work even if ``fileno()`` is not readable: poll again without waiting.

        True when a poll stopped at ``max_events`` with input read but not delivered, and when ``admit``, ``release``,
        ``send`` (a window opened) or ``flush`` (an outbox fell below its bound, DRAINED, a failed socket) made
        something deliverable.
        """
    def listen(self, fd: int, tag: int) -> None:
        """Accept from a listening, non-blocking socket that the caller keeps open; at most 16 of them (else
        ValueError)."""
    def unlisten(self, fd: int) -> None: ...
    def adopt(self, fd: int) -> int:
        """Take over a socket that is connected, or connecting: what is sent waits for it, and a connect that fails is told
        as CLOSED with its errno. The kernel will close it; it starts in the greeting phase. For outgoing links
        and clients.

        KernelFull, OSError: the socket is still the caller's.
        """
    def poll(self, max_events: int, now_s: int) -> list[tuple[int, int, int, bytes]]:
        """One bounded round of I/O. Events: (conn, op, tag, body); for a frame op < 256 and tag = flags << 16 | rid.

        At most ``max_events`` of them, in each connection's order; of one connection at most 64 KiB are read, of one
        listener at most 64 connections accepted. What is left comes with the next poll: see ``has_backlog``.

        A connection whose send failed is told here as CLOSED with that errno. ValueError after ``shutdown``.

        ``now_s``: a monotonic clock in whole seconds; all timeouts are measured on it.
        """
    def admit(self, conn: int, *, max_frame: int, window: int, timeout_s: int, max_outbox_bytes: int = 0) -> bool:
        """Enter the admitted phase. window 0: unlimited; timeout_s 0: never silent; max_outbox_bytes 0: the kernel's
        default.

        May be called again to change the numbers (a new keep-alive). Held input is delivered by the next poll.
        """
    def release(self, conn: int) -> None:
        """Let the next frame of the greeting phase through. Calling it again before that frame came changes nothing."""
    def send(self, conn: int, frame: bytes, more: bool = False) -> bool:
        """Queue a frame (or several glued ones, of which the first's rid counts). rid != 0 answers a request, unless
        ``more``.

        False: the connection is gone or closing, or its outbox would exceed its hard bound (the bound + 8 MiB, or the
        total): the frame is dropped whole, in the latter case counted, and frees no place in the window: the caller
        closes the connection. ValueError: these are not whole frames.
        """
    def answered(self, conn: int) -> None:
        """A frame with rid != 0 was no request, or was skipped: no reply will come, and it waits for none any more."""
    def fanout(self, conns: Sequence[int], frame: bytes, is_droppable: bool = False) -> list[int]:
        """Queue a push (one frame, or several glued) to many connections. Returns those that have just become *muted*:
        their outbox is at its bound; the push and all later ones skip them until ``unmute``. ``is_droppable``: a
        connection whose outbox is half full skips this one push, silently and without being muted. ValueError: these
        are not whole frames.
        """
    def unmute(self, conn: int) -> None:
        """Let pushes through again, whatever its outbox holds."""
    def outbox_bytes(self, conn: int) -> int:
        """What was queued and not taken by the socket; 0 for a stale ConnId."""
    def notify_drained(self, conn: int) -> bool:
        """Ask for one DRAINED. False: the outbox is low already, none will come."""
    def flush(self) -> None:
        """One send per connection that has something new; what the socket does not take waits for it to be writable."""
    def close(self, conn: int) -> None:
        """Enter the closing phase; the next ``flush`` begins it. Idempotent."""
    def abort(self, conn: int) -> None:
        """Close at once, outbox and all."""
    def sweep(self, now_s: int) -> list[tuple[int, int]]:
        """(conn, GREETING_EXPIRED | SILENT | STALLED) of every connection past its time, each reported once per second
        at most, and still open: the caller closes it. STALLED: something waits in the outbox and nothing of it could be
        written for stall_timeout_s. Ends by itself closing connections that wrote nothing for ``linger_s``, or are
        closing for linger_s + stall_timeout_s.
        """
    def statistics(self) -> KernelStatistics: ...
    def shutdown(self) -> None:
        """Close every socket and the epoll descriptor. Idempotent; after it every ConnId is stale."""
