"""A kernel under test with the far ends of its connections in hand, and a clock that the test moves.

It knows the contract (``gateway/_framing.pyi``) alone, so that the kernel and its twin run the same tests. Socket pairs
and loopback deliver within the system call, so that nothing here waits but ``wait_readable``, which has a bound.
"""

from __future__ import annotations

import select
import socket
import struct
from collections.abc import Callable
from typing import Any, TypeAlias

from gateway import _framing, _framing_py

Event: TypeAlias = tuple[int, int, int, bytes]
Kernel: TypeAlias = "_framing.Kernel | _framing_py.Kernel"
MakeRig: TypeAlias = "Callable[..., Rig]"

KERNELS: dict[str, Any] = {"kernel": _framing.Kernel, "twin": _framing_py.Kernel}
PING, PONG = 3, 4
LONGEST_WAIT_S = 10

_HEADER = struct.Struct(">IBBH")


def frame(op: int, rid: int = 0, body: bytes = b"", flags: int = 0) -> bytes:
    return _HEADER.pack(4 + len(body), op, flags, rid) + body


class Rig:
    """``kernel``, at ``now_s``."""

    def __init__(self, make_kernel: Callable[..., Kernel], max_connections: int = 100, **settings: object) -> None:
        self.kernel = make_kernel(max_connections, auto_replies={PING: PONG}, **settings)
        self.now_s = 1000
        self._sockets: list[socket.socket] = []
        self.poll()

    def keep(self, sock: socket.socket) -> socket.socket:
        """Close it when the test ends."""
        self._sockets.append(sock)
        return sock

    def greet(self, buffer_bytes: int = 0) -> tuple[int, socket.socket]:
        """A connection in the greeting phase, and its peer. ``buffer_bytes``: what the system takes if the peer does not read."""
        ours, peer = socket.socketpair()
        if buffer_bytes:
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer_bytes)
        peer.setblocking(False)
        return self.kernel.adopt(ours.detach()), self.keep(peer)

    def connect(
        self,
        *,
        window: int = 0,
        max_frame: int = 65_536,
        timeout_s: int = 0,
        max_outbox_bytes: int = 0,
        buffer_bytes: int = 0,
    ) -> tuple[int, socket.socket]:
        """An admitted connection, and its peer."""
        conn, peer = self.greet(buffer_bytes)
        assert self.kernel.admit(
            conn, max_frame=max_frame, window=window, timeout_s=timeout_s, max_outbox_bytes=max_outbox_bytes
        )
        return conn, peer

    def listen(self, family: int = socket.AF_INET, host: str = "127.0.0.1", tag: int = 7) -> socket.socket:
        listener = self.keep(socket.socket(family, socket.SOCK_STREAM))
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        if family != socket.AF_UNIX:
            listener.bind((host, 0))
        listener.listen(64)
        listener.setblocking(False)
        self.kernel.listen(listener.fileno(), tag)
        return listener

    def dial(self, listener: socket.socket, host: str = "127.0.0.1") -> socket.socket:
        return self.keep(socket.create_connection((host, listener.getsockname()[1]), timeout=LONGEST_WAIT_S))

    def poll(self, max_events: int = 10_000) -> list[Event]:
        return self.kernel.poll(max_events, self.now_s)

    def poll_until(self, wanted: int, max_events: int = 10_000) -> list[Event]:
        """Polls until there are so many events: for TCP, which may take a moment, and for what takes several polls."""
        events: list[Event] = []
        while len(events) < wanted and (self.kernel.has_backlog or self.is_readable(LONGEST_WAIT_S)):
            events += self.poll(max_events)
        return events

    def is_readable(self, timeout_s: float = 0) -> bool:
        return bool(select.select([self.kernel.fileno()], [], [], timeout_s)[0])

    def sweep(self, after_s: int) -> list[tuple[int, int]]:
        self.now_s += after_s
        return self.kernel.sweep(self.now_s)

    def fill(self, conn: int, body_bytes: int = 60_000) -> None:
        """Queue and flush one frame that is larger than what the system takes."""
        assert self.kernel.send(conn, frame(9, 0, bytes(body_bytes)))
        self.kernel.flush()
        assert self.kernel.outbox_bytes(conn) > 0

    def close(self) -> None:
        self.kernel.shutdown()
        for sock in self._sockets:
            sock.close()


def read_all(peer: socket.socket) -> bytes:
    """What lies in the socket now."""
    parts = []
    try:
        while part := peer.recv(1 << 20):
            parts.append(part)
    except BlockingIOError:
        pass
    return b"".join(parts)


def drain(rig: Rig, peer: socket.socket) -> bytes:
    """Run cycles and read until nothing more happens; what is delivered meanwhile is dropped."""
    parts = [read_all(peer)]
    while parts[-1] or rig.kernel.has_backlog or rig.is_readable():
        rig.poll()
        rig.kernel.flush()
        parts.append(read_all(peer))
    return b"".join(parts)


def has_ended(peer: socket.socket) -> bool:
    try:
        return peer.recv(1) == b""
    except BlockingIOError:
        return False
