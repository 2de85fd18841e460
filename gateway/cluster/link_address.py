"""Where links listen, and how a connection to there begins: Unix sockets by path, TCP by ``host:port``.

Owns addresses and socket options; it must not know who speaks on a socket. Invariant: nothing here blocks. Hence hosts are
numbers: a node looks its own name up once, when it starts, and tells the others the number. (Rejected: a look-up by
whoever connects, in a thread: its answer can take longer than the time in which a lost peer is to be noticed.)
"""

from __future__ import annotations

import errno
import os
import socket

BACKLOG = 1024

REFUSALS = frozenset({errno.ECONNREFUSED, errno.ENOENT})
"""Nobody listens there. Not EAGAIN, which a Unix socket gives for a full backlog, nor anything that a network says."""


class AddressInvalid(ValueError):
    """No path, and no numeric host and port: our bug, or the configuration's."""


def is_path(address: str) -> bool:
    return "/" in address


def host_and_port(address: str) -> tuple[str, int]:
    """Of ``10.0.0.1:7900`` or ``[fd00::1]:7900``."""
    host, colon, port = address.rpartition(":")
    if not (colon and host and port.isascii() and port.isdecimal() and 0 < int(port) < 65_536):
        raise AddressInvalid(f"{address!r} is not host:port")
    if host.startswith("[") and host.endswith("]"):
        return host[1:-1], int(port)
    if ":" in host:
        raise AddressInvalid(f"{address!r}: an IPv6 address stands in brackets")
    return host, int(port)


def join_host_port(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def connect(address: str, peer_timeout_s: float) -> socket.socket:
    """A socket that is connected or will be. OSError: it will not. AddressInvalid."""
    if is_path(address):
        return _connect(socket.AF_UNIX, address, None)
    family, place = _numeric(*host_and_port(address))
    return _connect(family, place, peer_timeout_s)


def _connect(family: int, place: str | tuple[object, ...], peer_timeout_s: float | None) -> socket.socket:
    opened = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        if peer_timeout_s is not None:
            watch(opened, peer_timeout_s)
        number = opened.connect_ex(place)
        if number not in (0, errno.EINPROGRESS):
            raise OSError(number, os.strerror(number))
    except BaseException:
        opened.close()
        raise
    return opened


def listen_unix(path: str) -> socket.socket:
    """Replaces a stale file. Only this user may connect: whoever can is trusted."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        if os.path.exists(path):
            os.unlink(path)
        listener.bind(path)
        os.chmod(path, 0o600)
        listener.listen(BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


def listen_tcp(host: str, port: int, peer_timeout_s: float) -> socket.socket:
    """``host`` numeric, "" for every interface; port 0: any free one. Accepted sockets inherit how peers are watched."""
    family, place = _numeric(host or "0.0.0.0", port)
    listener = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        watch(listener, peer_timeout_s)
        listener.bind(place)
        listener.listen(BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


def watch(sock: socket.socket, peer_timeout_s: float) -> None:
    """Let the system notice a peer that is gone without a word (power, a cut network), idle or not, within the time.

    What was sent must be acknowledged in it (TCP_USER_TIMEOUT, which with keep-alive bounds the unanswered probes too): so a
    path that loses packets one way ends the connection at both ends. The system answers for a process that is slow or
    stopped, so a busy peer keeps its idle links; one that takes nothing for so long while its buffers are full does not.
    """
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, max(1, int(peer_timeout_s * 0.4)))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, max(1, int(peer_timeout_s * 0.6)))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(peer_timeout_s * 1000))


def _numeric(host: str, port: int) -> tuple[int, tuple[object, ...]]:
    try:
        found = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
        )
    except socket.gaierror as error:
        raise AddressInvalid(f"{host!r} is not a numeric address") from error
    family, _, _, _, place = found[0]
    return family, place
