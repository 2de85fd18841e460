"""Opening a connection to a peer: the socket, the handshake, and what a failure says of the peer.

Owns the connecting end up to the first payload. What waits meanwhile, and what becomes of it, is ``links.py``'s. Invariant:
until the handshake is done the kernel holds the connection in its greeting phase, so that whoever answers at that address
can make us read one small frame at a time.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from gateway.cluster.handshake import NONCE_BYTES, HandshakeFailed, Opening, Party, Reason
from gateway.cluster.link_address import REFUSALS, AddressInvalid, connect, is_path
from gateway.cluster.refusals import Refusals
from gateway.cluster.remote import Remote
from gateway.pump import KernelFull

if TYPE_CHECKING:
    from gateway._framing import Kernel

RECONNECT_S = 0.1
"""A peer that refused is left alone so long: a burst of sends to a dead peer must not be a burst of connects."""

HOLD_OFF_S = 1.0
"""So long after any other failure: what waited for a time-out once is told at once that there is no way."""

HUNG_UP = (0, errno.ECONNRESET, errno.EPIPE)
"""It accepted and ended: it may have died just then, which the next attempt will show."""


class Dialer:
    def __init__(self, kernel: Kernel, party: Party, refusals: Refusals, peer_timeout_s: float) -> None:
        self._kernel = kernel
        self._party = party
        self._refusals = refusals
        self._peer_timeout_s = peer_timeout_s

    def dial(self, remote: Remote, own_address: str, now_s: float) -> bool:
        """Begin to connect. False: there is no way now. The rest comes as events of ``remote.outgoing``."""
        if now_s < remote.retry_s:
            return False
        remote.retry_s = now_s + RECONNECT_S
        try:
            opening = self._opening(remote, own_address)
            conn = self._adopt(remote)
        except HandshakeFailed as failed:
            self.failed(remote, failed, now_s)
            return False
        except (OSError, KernelFull, AddressInvalid) as error:
            number = error.errno or 0 if isinstance(error, OSError) else 0
            self.ended(remote, number, str(error), now_s)
            return False
        remote.outgoing, remote.opening, remote.opened_s = conn, opening, now_s
        self._kernel.send(conn, opening.begin())
        return True

    def _opening(self, remote: Remote, own_address: str) -> Opening:
        to = remote.worker, remote.incarnation
        stream = remote.sender.stream
        if is_path(remote.address):
            return Opening(self._party, self._party.hello(to, own_address, stream=stream), None)
        if not self._party.keys:
            raise HandshakeFailed(Reason.KEY, "no link key is configured here")
        key = self._party.keys[0]
        hello = self._party.hello(to, own_address, stream=stream, proof=(key.key_id, os.urandom(NONCE_BYTES)))
        return Opening(self._party, hello, key)

    def _adopt(self, remote: Remote) -> int:
        opened = connect(remote.address, self._peer_timeout_s)
        try:
            conn = self._kernel.adopt(opened.fileno())
        except BaseException:
            opened.close()
            raise
        opened.detach()
        return conn

    def receive(self, remote: Remote, op: int, payload: bytes) -> bool:
        """A frame of the handshake. True: it is done, and payload may follow. HandshakeFailed, LinkProtocolError."""
        opening, conn = remote.opening, remote.outgoing
        if opening is None:
            raise HandshakeFailed(Reason.PROTOCOL, f"op {op:#x} on a connection that we opened")
        answer = opening.receive(op, payload)
        remote.reachability.not_refused()
        if answer:
            self._kernel.send(conn, answer)
        if not opening.is_done:
            self._kernel.release(conn)
            return False
        remote.opening, remote.version = None, opening.version
        return True

    def failed(self, remote: Remote, failed: HandshakeFailed, now_s: float) -> None:
        """Somebody answers there, or will not come to: it is not a refusal to connect."""
        remote.reachability.not_refused()
        remote.retry_s = now_s + HOLD_OFF_S
        self._refusals.note(failed.reason, str(remote), str(failed))

    def ended(self, remote: Remote, number: int, text: str, now_s: float) -> None:
        """The connection did not come about, or ended before the handshake did, with this errno or 0."""
        if number in REFUSALS:
            remote.reachability.refused(now_s)
        else:
            remote.reachability.not_refused()
            if number not in HUNG_UP:
                remote.retry_s = now_s + HOLD_OFF_S
        self._refusals.note(Reason.UNREACHABLE, str(remote), text)
