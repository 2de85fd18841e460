"""Where other processes connect, and those who have connected and not yet said (on TCP: proved) who they are.

Owns the listeners and these strangers. It tells nobody of a stranger before its handshake is done. Invariant: strangers are at
most ``MAX_STRANGERS``, each is held to one small frame at a time by the kernel's greeting phase, and each is gone after
the time-out whatever it sends.
"""

from __future__ import annotations

import ipaddress
import os
import socket
from typing import TYPE_CHECKING, NamedTuple

from gateway.cluster.handshake import NONCE_BYTES, Accepting, HandshakeFailed, Party, Reason, refusal_frame
from gateway.cluster.link_address import join_host_port, listen_tcp, listen_unix
from gateway.cluster.refusals import Refusals

if TYPE_CHECKING:
    from gateway._framing import Kernel

LINK_LISTENER = 1
LINK_TCP_LISTENER = 2
LINK_LISTENERS = frozenset({LINK_LISTENER, LINK_TCP_LISTENER})
"""The kernel's listener tags of the links' sockets: processes of this node, and other nodes."""

MAX_STRANGERS = 64
"""A handshake takes milliseconds, so so many at once are a flood or a fault. The oldest makes room: a flood of silent
connections costs itself its places, and a node that comes in between has the time that a handshake takes."""


class Stranger(NamedTuple):
    accepting: Accepting
    since_s: float
    peer: str


class Reception:
    def __init__(self, kernel: Kernel, party: Party, refusals: Refusals, timeout_s: float) -> None:
        self.address = self.host_address = ""
        self._kernel = kernel
        self._party = party
        self._refusals = refusals
        self._timeout_s = timeout_s
        self._listeners: list[socket.socket] = []
        self._strangers: dict[int, Stranger] = {}

    # ---------------------------------------------------------------------------------------- listening

    def listen(self, path: str) -> None:
        self._start(listen_unix(path), LINK_LISTENER)
        self.address = path

    def listen_tcp(self, host: str, port: int, advertised: str) -> int:
        if not self._party.keys:
            raise ValueError("links between nodes need a key that the nodes share")
        listener = listen_tcp(host, port, self._timeout_s)
        bound_host, bound_port = listener.getsockname()[:2]
        self._start(listener, LINK_TCP_LISTENER)
        self.host_address = join_host_port(advertised or bound_host, bound_port)
        return int(bound_port)

    def _start(self, listener: socket.socket, tag: int) -> None:
        try:
            self._kernel.listen(listener.fileno(), tag)
        except BaseException:
            listener.close()
            raise
        self._listeners.append(listener)

    def close(self) -> None:
        """Stop listening; connections are the caller's. Idempotent."""
        for listener in self._listeners:
            self._kernel.unlisten(listener.fileno())
            listener.close()
        if self._listeners and self.address and os.path.exists(self.address):
            os.unlink(self.address)
        self._listeners.clear()
        self._strangers.clear()

    # ---------------------------------------------------------------------------------------- strangers

    def accepted(self, conn: int, tag: int, packed_address: bytes, now_s: float) -> int:
        """A new stranger. Returns the one that has to go for it, or 0."""
        if tag == LINK_TCP_LISTENER:
            accepting = Accepting(self._party, self.host_address, os.urandom(NONCE_BYTES))
            peer = str(ipaddress.ip_address(packed_address))
        else:
            accepting, peer = Accepting(self._party, self.address, None), "a process of this node"
        self._strangers[conn] = Stranger(accepting, now_s, peer)
        if len(self._strangers) <= MAX_STRANGERS:
            return 0
        oldest = next(iter(self._strangers))
        self._note(oldest, HandshakeFailed(Reason.CROWD, f"{MAX_STRANGERS} connections have not said who they are"))
        return oldest

    def receive(self, conn: int, op: int, payload: bytes) -> Accepting | None:
        """A frame of a stranger; its handshake, if that is done now. HandshakeFailed, LinkProtocolError: ``refuse`` it."""
        accepting = self._strangers[conn].accepting
        answer = accepting.receive(op, payload)
        if answer:
            self._kernel.send(conn, answer)
        if accepting.is_done:
            return accepting
        self._kernel.release(conn)
        return None

    def refuse(self, conn: int, failed: HandshakeFailed) -> None:
        """Say why, and close."""
        self._note(conn, failed)
        self._kernel.send(conn, refusal_frame(failed.reason))
        self._kernel.close(conn)
        self.forget(conn)

    def forget(self, conn: int) -> None:
        """It has ended, or is a stranger no more."""
        self._strangers.pop(conn, None)

    def overdue(self, now_s: float) -> list[int]:
        """Who said nothing, or not enough, for too long: to be cut."""
        late = [conn for conn, stranger in self._strangers.items() if now_s - stranger.since_s > self._timeout_s]
        for conn in late:
            self._note(conn, HandshakeFailed(Reason.TIMEOUT, f"no handshake within {self._timeout_s} s"))
        return late

    def _note(self, conn: int, failed: HandshakeFailed) -> None:
        self._refusals.note(failed.reason, self._strangers[conn].peer, str(failed))
