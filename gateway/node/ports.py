"""Sockets on TCP ports: one that several workers share, and one that is ours alone.

Owns how a port is found free, kept, and bound. Knows nothing of what is served on it.

The workers bind the clients' port themselves, with SO_REUSEPORT. That option would also let a second node in beside
the first, without a word; so ``reserve`` first binds without it. The reserved socket never listens: it gets no
connection, and keeps the port (a free one, if 0 was asked for) for workers that come and go.
"""

from __future__ import annotations

import errno
import socket

from gateway.node.errors import CannotServe

LISTEN_BACKLOG = 4096


class PortUnavailable(CannotServe):
    """The operator's mistake, or another program's port. One line."""


def reserve(host: str, port: int, option: str) -> socket.socket:
    """A bound socket that does not listen. ``option`` names the setting in the error. Raises PortUnavailable."""
    with _bound(host, port, option, is_shared=False) as probe:
        port = probe.getsockname()[1]
    reserved = _bound(host, port, option, is_shared=True)
    # From here on only SO_REUSEPORT, which others of this user must ask for too, gets past it.
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
    return reserved


def bind(host: str, port: int) -> socket.socket:
    """A worker's listening, non-blocking socket on the shared port. Raises PortUnavailable."""
    listener = _bound(host, port, "port", is_shared=True)
    listener.listen(LISTEN_BACKLOG)
    listener.setblocking(False)
    return listener


def listen_alone(host: str, port: int, option: str) -> socket.socket:
    """A listening, non-blocking socket that shares with nobody. Raises PortUnavailable."""
    listener = _bound(host, port, option, is_shared=False)
    listener.listen(128)
    listener.setblocking(False)
    return listener


def _bound(host: str, port: int, option: str, *, is_shared: bool) -> socket.socket:
    bound = None
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, kind, protocol)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # past connections in TIME_WAIT do not count
        if is_shared:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        bound.bind(address)
    except OSError as error:
        if bound is not None:
            bound.close()
        raise PortUnavailable(_explain(error, host, port, option)) from error
    return bound


def _explain(error: OSError, host: str, port: int, option: str) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"{option}: {host} port {port} is in use: stop what listens there, or choose another (0: a free one)"
    if error.errno == errno.EACCES:
        return f"{option}: port {port} needs privileges: choose one from 1024 on"
    if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
        return f"{option}: {host} is no address of this host: 127.0.0.1 is, and 0.0.0.0 stands for all"
    return f"{option}: cannot bind {host} port {port}: {error.strerror}"
