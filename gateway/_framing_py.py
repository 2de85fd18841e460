"""The kernel's twin: the contract of ``_framing.pyi`` in plain Python, one obvious statement at a time.

It owns what the kernel owns: every socket handed to it, the frames on them, the outboxes. It must not know what a frame
means, nor be fast: it is the oracle that the kernel's tests compare against, and a stand-in where no extension was built.
Invariant: for the same bytes and calls it gives the same events and replies as the kernel. The reasons for the behaviour
are told once, in the essay that opens ``_framing.pyx``.
"""

from __future__ import annotations

import errno
import select
import socket
from collections import deque
from collections.abc import Mapping, Sequence

from gateway._framing_py_sockets import RECV_BYTES, Listeners, accept, end_writing, prepare, receive, refuse, write
from gateway._framing_py_state import (
    ACCEPTS_PER_POLL,
    HARD_MARGIN_BYTES,
    HEADER,
    HEADER_BYTES,
    INDEX_BITS,
    LENGTH,
    LENGTH_BYTES,
    SOCKETS_PER_POLL,
    Connection,
    Deadlines,
    Phase,
    count_frames,
)
from gateway._framing_values import (
    ACCEPTED,
    CLOSED,
    DRAINED,
    GREETING_EXPIRED,
    SILENT,
    STALLED,
    TOO_LARGE,
    TOO_SHORT,
    Event,
    KernelFull,
    KernelStatistics,
)

__all__ = [
    "ACCEPTED",
    "CLOSED",
    "DRAINED",
    "GREETING_EXPIRED",
    "SILENT",
    "STALLED",
    "TOO_LARGE",
    "TOO_SHORT",
    "Kernel",
    "KernelFull",
    "KernelStatistics",
]

FAILED = select.EPOLLHUP | select.EPOLLERR


class Kernel:
    """See ``_framing.pyi``."""

    def __init__(
        self,
        max_connections: int,
        *,
        auto_replies: Mapping[int, int] | None = None,
        greeting_max_frame: int = 4096,
        greeting_timeout_s: int = 10,
        linger_s: int = 2,
        stall_timeout_s: int = 15,
        max_outbox_bytes: int = 262_144,
        max_total_outbox_bytes: int = 1 << 30,
        refusal: bytes = b"",
    ) -> None:
        if not 1 <= max_connections <= 1 << INDEX_BITS:
            raise ValueError(f"max_connections must be 1 .. {1 << INDEX_BITS}")
        self._max_connections = max_connections
        self._auto_replies = dict(auto_replies or {})
        self._greeting_max_frame = greeting_max_frame
        self._deadlines = Deadlines(greeting_timeout_s, linger_s, stall_timeout_s)
        self._max_outbox_bytes = max_outbox_bytes
        self._max_total_outbox_bytes = max_total_outbox_bytes
        self._refusal = refusal
        self._epoll = select.epoll()
        self._listeners = Listeners(self._epoll)
        self._connections: dict[int, Connection] = {}
        self._by_fd: dict[int, int] = {}
        self._free: list[int] = []  # ConnIds to give next, last in first out
        self._ready: dict[Connection, None] = {}  # both are queues in which a connection is once at most
        self._dirty: dict[Connection, None] = {}
        self._batch: deque[tuple[int, int, int]] = deque()  # (fd, ConnId or 0 for a listener, mask)
        self._now_s = 0
        self._has_clock = False
        self._outbox_total = 0
        self._counts = dict.fromkeys(KernelStatistics._fields, 0)

    def fileno(self) -> int:
        return self._epoll.fileno()

    @property
    def has_backlog(self) -> bool:
        return bool(self._ready or self._batch)

    # Listeners and new connections

    def listen(self, fd: int, tag: int) -> None:
        self._listeners.add(fd, tag)

    def unlisten(self, fd: int) -> None:
        self._listeners.remove(fd)

    def adopt(self, fd: int) -> int:
        if len(self._connections) >= self._max_connections:
            raise KernelFull(f"all {self._max_connections} connections are in use")
        return self._open(socket.socket(fileno=fd)).number

    def _open(self, sock: socket.socket) -> Connection:
        prepare(sock)
        number = self._free.pop() if self._free else 1 << INDEX_BITS | len(self._connections)
        connection = Connection(number, sock, self._now_s, (self._greeting_max_frame, self._max_outbox_bytes))
        self._connections[number] = connection
        self._by_fd[sock.fileno()] = number
        self._epoll.register(sock.fileno(), select.EPOLLIN)
        return connection

    def _accept(self, listener: socket.socket, tag: int, events: list[Event], max_events: int) -> None:
        for _ in range(min(ACCEPTS_PER_POLL, max_events - len(events))):
            accepted = accept(listener)
            if accepted is None:
                return
            if isinstance(accepted, int):
                self._counts["accept_failures"] += 1
                if accepted in (errno.ECONNABORTED, errno.EPROTO, errno.EPERM):  # that one peer's failure
                    continue
                self._listeners.set_accepting(False)
                return
            sock, address = accepted
            if len(self._connections) >= self._max_connections:
                self._counts["refused"] += 1
                refuse(sock, self._refusal)
                continue
            self._counts["accepted"] += 1
            connection = self._open(sock)
            events.append((connection.number, ACCEPTED, tag, address))

    # Input

    def poll(self, max_events: int, now_s: int) -> list[Event]:
        if self._epoll.closed:
            raise ValueError("the kernel was shut down")
        self._set_clock(now_s)
        events: list[Event] = []
        for _ in range(len(self._ready)):
            if len(events) >= max_events:
                return events
            self._serve_ready(events, max_events)
        if not self._batch and len(events) < max_events:
            found = self._epoll.poll(0, SOCKETS_PER_POLL)
            self._batch.extend((fd, self._by_fd.get(fd, 0), mask) for fd, mask in found)
        while self._batch and len(events) < max_events:
            fd, number, mask = self._batch.popleft()
            connection = self._connections.get(number)
            if connection is not None:
                self._serve_socket(connection, mask, events, max_events)
                continue
            listening = self._listeners.find(fd) if number == 0 else None
            if listening is not None:
                self._accept(*listening, events, max_events)
        return events

    def _serve_ready(self, events: list[Event], max_events: int) -> None:
        connection = next(iter(self._ready))
        del self._ready[connection]
        if connection.phase in (Phase.CLOSING, Phase.FREE):
            return
        if connection.failure is not None:
            self._end(connection, connection.failure, events)
            return
        if connection.is_drained:
            connection.is_drained = False
            events.append((connection.number, DRAINED, 0, b""))
        self._deliver(connection, events, max_events)

    def _serve_socket(self, connection: Connection, mask: int, events: list[Event], max_events: int) -> None:
        if mask & select.EPOLLOUT:
            self._write(connection)
        if not mask & (select.EPOLLIN | FAILED) or connection.phase is Phase.FREE or connection in self._ready:
            return
        if connection.phase is Phase.CLOSING:
            self._discard(connection, mask)
        elif connection.may_deliver:
            self._receive(connection, events, max_events)
        elif mask & FAILED:
            self._end(connection, connection.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR), events)
        else:
            self._set_interest(connection, connection.interest & ~select.EPOLLIN)

    def _receive(self, connection: Connection, events: list[Event], max_events: int) -> None:
        is_greeting = connection.phase is Phase.GREETING
        limit = min(RECV_BYTES, self._greeting_max_frame + LENGTH_BYTES) if is_greeting else RECV_BYTES
        self._counts["recv_calls"] += 1
        received, failure = receive(connection.sock, limit)
        if received is None:
            return
        if not received:
            self._end(connection, failure, events)
            return
        self._counts["bytes_in"] += len(received)
        if not is_greeting:
            connection.since_s = self._now_s
        connection.inbox += received
        self._deliver(connection, events, max_events)

    def _deliver(self, connection: Connection, events: list[Event], max_events: int) -> None:
        inbox = connection.inbox
        while connection.has_whole_frame and connection.may_deliver:
            if len(events) >= max_events:
                self._ready[connection] = None
                return
            (length,) = LENGTH.unpack_from(inbox)
            if not 4 <= length <= connection.max_frame:
                connection.is_broken = True
                inbox.clear()
                events.append((connection.number, TOO_SHORT if length < 4 else TOO_LARGE, length, b""))
                return
            self._take_frame(connection, events)

    def _take_frame(self, connection: Connection, events: list[Event]) -> None:
        length, op, flags, rid = HEADER.unpack_from(connection.inbox)
        body = bytes(connection.inbox[HEADER_BYTES : LENGTH_BYTES + length])
        del connection.inbox[: LENGTH_BYTES + length]
        self._counts["frames_in"] += 1
        if connection.phase is Phase.ADMITTED and op in self._auto_replies:
            self._reply(connection, HEADER.pack(4, self._auto_replies[op], 0, rid))
            return
        if connection.phase is Phase.GREETING:
            connection.allowance -= 1
        if rid:
            connection.unanswered += 1
        events.append((connection.number, op, flags << 16 | rid, body))

    def _reply(self, connection: Connection, frame: bytes) -> None:
        if len(frame) > self._max_total_outbox_bytes - self._outbox_total:
            self._counts["dropped_frames"] += 1
            return
        self._counts["auto_replies"] += 1
        self._queue(connection, frame, 1)

    def _discard(self, connection: Connection, mask: int) -> None:
        """Closing: read and forget, so that the peer's late bytes do not reset what it has yet to read."""
        received, failure = receive(connection.sock, RECV_BYTES)
        if received is None or received:
            return
        if failure or mask & FAILED or not (connection.outbox or connection in self._dirty):
            self._release_slot(connection)
        else:
            connection.has_ended = True
            self._set_interest(connection, connection.interest & ~select.EPOLLIN)

    # Phases

    def admit(self, conn: int, *, max_frame: int, window: int, timeout_s: int, max_outbox_bytes: int = 0) -> bool:
        connection = self._find_open(conn)
        if connection is None:
            return False
        if connection.phase is Phase.GREETING:
            connection.phase = Phase.ADMITTED
            connection.since_s = self._now_s
        connection.max_frame = max_frame
        connection.window = window
        connection.timeout_s = timeout_s
        connection.outbox_bound = max_outbox_bytes or self._max_outbox_bytes
        self._resume(connection)
        return True

    def release(self, conn: int) -> None:
        connection = self._find_open(conn)
        if connection is not None and connection.phase is Phase.GREETING:
            connection.allowance = 1
            self._resume(connection)

    def close(self, conn: int) -> None:
        connection = self._connections.get(conn)
        if connection is None or connection.phase is Phase.CLOSING:
            return
        if connection.failure is not None:
            self._release_slot(connection)
            return
        connection.phase = Phase.CLOSING
        connection.inbox.clear()
        connection.is_muted = connection.is_drain_wanted = connection.is_drained = False
        connection.since_s = connection.progress_s = self._now_s
        self._set_interest(connection, connection.interest | select.EPOLLIN)
        self._dirty[connection] = None

    def abort(self, conn: int) -> None:
        connection = self._connections.get(conn)
        if connection is not None:
            self._release_slot(connection)

    def sweep(self, now_s: int) -> list[tuple[int, int]]:
        self._set_clock(now_s)
        self._listeners.set_accepting(True)
        found = []
        for connection in sorted(self._connections.values(), key=lambda connection: connection.index):
            if connection.phase is Phase.CLOSING:
                if self._deadlines.is_past_linger(connection, self._now_s):
                    self._release_slot(connection)
                continue
            reason = self._deadlines.overdue(connection, self._now_s)
            if reason is not None and connection.reported_s != self._now_s:
                connection.reported_s = self._now_s
                found.append((connection.number, reason))
        return found

    # Output

    def send(self, conn: int, frame: bytes, more: bool = False) -> bool:
        frames = count_frames(frame)
        connection = self._find_open(conn)
        if connection is None:
            return False
        if not self._has_hard_room(connection, len(frame)):
            self._counts["dropped_frames"] += frames
            return False
        self._queue(connection, frame, frames)
        if HEADER.unpack_from(frame)[3] and not more:
            self.answered(conn)
        return True

    def answered(self, conn: int) -> None:
        connection = self._find_open(conn)
        if connection is not None and connection.unanswered:
            connection.unanswered -= 1
            self._resume(connection)

    def fanout(self, conns: Sequence[int], frame: bytes, is_droppable: bool = False) -> list[int]:
        frames = count_frames(frame)
        just_muted = []
        for conn in conns:
            connection = self._find_open(conn)
            if connection is None:
                continue
            queued = len(connection.outbox)
            is_skipped = connection.is_muted or (is_droppable and queued >= connection.outbox_bound // 2)
            if is_skipped or queued >= connection.outbox_bound or not self._has_hard_room(connection, len(frame)):
                self._counts["dropped_frames"] += frames
                if not is_skipped:
                    connection.is_muted = True
                    just_muted.append(conn)
            else:
                self._queue(connection, frame, frames)
        return just_muted

    def unmute(self, conn: int) -> None:
        connection = self._connections.get(conn)
        if connection is not None:
            connection.is_muted = False

    def outbox_bytes(self, conn: int) -> int:
        connection = self._connections.get(conn)
        return len(connection.outbox) if connection is not None else 0

    def notify_drained(self, conn: int) -> bool:
        connection = self._find_open(conn)
        if connection is None or connection.is_low:
            return False
        connection.is_drain_wanted = True
        return True

    def flush(self) -> None:
        dirty, self._dirty = self._dirty, {}
        for connection in dirty:
            if connection.phase is Phase.FREE or connection.interest & select.EPOLLOUT:
                continue
            if connection.outbox:
                self._write(connection)
            elif connection.phase is Phase.CLOSING:
                self._finish_sending(connection)

    def _has_hard_room(self, connection: Connection, size: int) -> bool:
        own_room = connection.outbox_bound + HARD_MARGIN_BYTES - len(connection.outbox)
        return size <= min(own_room, self._max_total_outbox_bytes - self._outbox_total)

    def _queue(self, connection: Connection, frame: bytes, frames: int) -> None:
        if not connection.outbox:
            connection.progress_s = self._now_s
        connection.outbox += frame
        self._outbox_total += len(frame)
        self._counts["frames_out"] += frames
        self._dirty[connection] = None

    def _write(self, connection: Connection) -> None:
        self._counts["send_calls"] += 1
        sent, failure = write(connection.sock, connection.outbox)
        if failure:
            self._fail(connection, failure)
            return
        if sent:
            connection.progress_s = self._now_s
        del connection.outbox[:sent]
        self._outbox_total -= sent
        self._counts["bytes_out"] += sent
        waiting = select.EPOLLOUT if connection.outbox else 0
        self._set_interest(connection, connection.interest & ~select.EPOLLOUT | waiting)
        if connection.phase is not Phase.CLOSING:
            self._notice_room(connection)
        elif not connection.outbox:
            self._finish_sending(connection)

    def _notice_room(self, connection: Connection) -> None:
        if connection.is_drain_wanted and connection.is_low:
            connection.is_drain_wanted = False
            connection.is_drained = True
            self._ready[connection] = None
        self._resume(connection)

    def _finish_sending(self, connection: Connection) -> None:
        if connection.has_ended:
            self._release_slot(connection)
            return
        connection.progress_s = self._now_s
        end_writing(connection.sock)

    def _fail(self, connection: Connection, number: int) -> None:
        if connection.phase is Phase.CLOSING:
            self._release_slot(connection)
            return
        self._outbox_total -= len(connection.outbox)
        connection.outbox.clear()
        connection.failure = number
        self._ready[connection] = None

    # Bookkeeping

    def _find_open(self, conn: int) -> Connection | None:
        connection = self._connections.get(conn)
        return connection if connection is not None and connection.is_open else None

    def _resume(self, connection: Connection) -> None:
        if not connection.may_deliver:
            return
        self._set_interest(connection, connection.interest | select.EPOLLIN)
        if connection.has_whole_frame:
            self._ready[connection] = None

    def _set_interest(self, connection: Connection, interest: int) -> None:
        if connection.interest != interest:
            connection.interest = interest
            self._epoll.modify(connection.sock.fileno(), interest)

    def _set_clock(self, now_s: int) -> None:
        if not self._has_clock:
            self._has_clock = True
            for connection in self._connections.values():  # adopted before the first poll told the time
                connection.since_s = connection.progress_s = now_s
        self._now_s = max(self._now_s, now_s)  # time that runs backwards would expire everything

    def _end(self, connection: Connection, number: int, events: list[Event]) -> None:
        events.append((connection.number, CLOSED, number, b""))
        self._release_slot(connection)

    def _release_slot(self, connection: Connection) -> None:
        connection.phase = Phase.FREE
        del self._connections[connection.number]
        del self._by_fd[connection.sock.fileno()]
        connection.sock.close()
        self._outbox_total -= len(connection.outbox)
        connection.outbox.clear()
        connection.inbox.clear()
        self._counts["closed"] += 1
        self._free.append(connection.number + (1 << INDEX_BITS))
        self._listeners.set_accepting(True)

    def statistics(self) -> KernelStatistics:
        connections = self._connections.values()
        gauges = {
            "connections": len(connections),
            "outbox_bytes": self._outbox_total,
            "input_bytes": sum(len(connection.inbox) for connection in connections),
            "muted": sum(connection.is_muted for connection in connections),
        }
        return KernelStatistics(**{**self._counts, **gauges})

    def shutdown(self) -> None:
        for conn in list(self._connections):
            self.abort(conn)
        self._listeners.remove_all()
        for waiting in (self._ready, self._dirty, self._batch):
            waiting.clear()
        self._epoll.close()
