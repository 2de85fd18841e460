"""The system calls of the kernel's twin: their errors become values, so that ``_framing_py`` reads as rules.

It must not know phases or frames. Invariant: no OSError of a peer leaves this module; those of our own making do.
"""

from __future__ import annotations

import errno
import os
import select
import socket
from contextlib import suppress

RECV_BYTES = 65_536
MAX_LISTENERS = 16


def prepare(sock: socket.socket) -> None:
    sock.setblocking(False)
    if sock.family in (socket.AF_INET, socket.AF_INET6):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def receive(sock: socket.socket, size: int) -> tuple[bytes | None, int]:
    """What came, and the errno of a failure or 0. None: nothing yet; b"": the peer's end, or the failure."""
    try:
        return sock.recv(size), 0
    except (BlockingIOError, InterruptedError):
        return None, 0
    except OSError as error:
        return b"", error.errno or errno.EIO


def end_writing(sock: socket.socket) -> None:
    with suppress(OSError):  # not connected any more: reading will tell
        sock.shutdown(socket.SHUT_WR)


def write(sock: socket.socket, outbox: bytearray) -> tuple[int, int]:
    """How many bytes were taken, and the errno of a failure or 0."""
    try:
        return sock.send(outbox, socket.MSG_NOSIGNAL), 0
    except (BlockingIOError, InterruptedError):
        return 0, 0
    except OSError as error:
        if error.errno in (errno.ENOBUFS, errno.ENOMEM):  # a lack that passes
            return 0, 0
        return 0, error.errno or errno.EIO


def accept(listener: socket.socket) -> tuple[socket.socket, bytes] | int | None:
    """A socket and its peer's packed address; an int: the errno of a failure; None: nobody waits."""
    try:
        sock, address = listener.accept()
    except (BlockingIOError, InterruptedError):
        return None
    except OSError as error:
        return error.errno or errno.EIO
    return sock, packed_address(sock.family, address)


def refuse(sock: socket.socket, refusal: bytes) -> None:
    """Say why, best effort: input that came already is read, as it would turn the close into a reset."""
    with sock, suppress(OSError):
        sock.setblocking(False)
        sock.send(refusal, socket.MSG_NOSIGNAL)
        sock.shutdown(socket.SHUT_WR)
        sock.recv(RECV_BYTES)


def packed_address(family: int, address: object) -> bytes:
    """4 bytes for IPv4, also where it comes mapped into IPv6: one peer has one address."""
    if family not in (socket.AF_INET, socket.AF_INET6) or not isinstance(address, tuple):
        return b""
    packed = socket.inet_pton(family, address[0].partition("%")[0])
    return packed[12:] if packed.startswith(bytes(10) + b"\xff\xff") else packed


class Listeners:
    """Listening sockets, by the caller's descriptor; suspended together while there is nothing to accept with."""

    def __init__(self, epoll: select.epoll) -> None:
        self._epoll = epoll
        self._sockets: dict[int, tuple[socket.socket, int]] = {}
        self._is_accepting = True

    def add(self, fd: int, tag: int) -> None:
        if fd in self._sockets:
            raise ValueError(f"already listening on {fd}")
        if len(self._sockets) == MAX_LISTENERS:
            raise ValueError(f"more than {MAX_LISTENERS} listeners")
        self._sockets[fd] = (socket.socket(fileno=os.dup(fd)), tag)
        self._epoll.register(fd, select.EPOLLIN if self._is_accepting else 0)

    def remove(self, fd: int) -> None:
        found = self._sockets.pop(fd, None)
        if found is not None:
            self._epoll.unregister(fd)
            found[0].close()

    def remove_all(self) -> None:
        for fd in list(self._sockets):
            self.remove(fd)

    def find(self, fd: int) -> tuple[socket.socket, int] | None:
        return self._sockets.get(fd)

    def set_accepting(self, is_accepting: bool) -> None:
        if self._is_accepting != is_accepting:
            self._is_accepting = is_accepting
            for fd in self._sockets:
                self._epoll.modify(fd, select.EPOLLIN if is_accepting else 0)
