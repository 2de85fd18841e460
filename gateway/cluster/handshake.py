"""How the two ends of a link's connection come to know each other: who, in which version, and on TCP by proof of a key.

Owns the frames before the first payload, as two state machines without I/O: ``Opening`` for the end that connected,
``Accepting`` for the other. It knows no socket, no peer table and no clock; the bytes of a nonce are given to it.

Theory of operation
===================
::

    opener                                              acceptor
    HELLO  I am 5.1, I mean 9.4, key "b", nonce N   ->
                                                    <-  HELLO  I am 9.4, I mean 5.1, key "b", nonce M
                                                    <-  PROOF  HMAC-SHA256(b, "acceptor" + both HELLOs)
    PROOF  HMAC-SHA256(b, "opener" + both HELLOs)   ->
    payload                                         ->

On a Unix socket the proofs fall away: the file's mode is the proof. What the opener has to say waits until it knows that the
other end is who it means; the acceptor reads nothing but the next frame of this table until it knows the same.

A proof covers both HELLOs to the byte: identities, incarnations, versions, both nonces. Hence *a replayed* handshake
fails, since the other end's nonce is new each time; *a reflected* one, since the role is in it, and a HELLO to ourselves
is refused anyhow; *a downgrade*, since neither range of versions can be changed under way. Fields that a later release adds
are covered without anything to do here. The acceptor proves first: then only an owner of the key can learn a MAC over a
nonce of its choice, and what strangers get from an acceptor is of no use in the other role. (A key must not be guessable:
``MIN_SECRET_BYTES``.)

Keys have names. The opener offers its first, the acceptor takes any that it has. To change a key without a moment in
which two nodes have none in common: add the new one at the end of every node's list, then move it to the front on every
node, then remove the old one.

Rejected: TLS. The kernel that owns every socket of a process is C that speaks plain frames; TLS in user space would put a
MemoryBIO, two copies and the interpreter between each link and its socket. This handshake says who connected. It does
not hide or protect what follows: links belong on a private network or inside WireGuard or IPsec.

Invariant: ``is_done`` is true only after everything above was checked; a failure raises ``HandshakeFailed`` and names one of
a few reasons, and a handshake that has failed never succeeds.
"""

from __future__ import annotations

import enum
import hmac
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

from gateway.cluster.wire import LinkHello, LinkOp, LinkProtocolError, LinkRefusal, decode, encode, link_frame
from gateway.protocol.identifiers import WorkerId

NONCE_BYTES = 32
MIN_SECRET_BYTES = 16
MAX_KEY_ID_CHARS = 64


class Reason(enum.StrEnum):
    """Why there is no link. A label of a metric: few, and fixed."""

    PROTOCOL = "protocol"
    """Bytes that no peer sends."""
    IDENTITY = "identity"
    """Another worker or incarnation than the one that was meant."""
    VERSION = "version"
    KEY = "key"
    """Proved by a key that we do not have."""
    PROOF = "proof"
    REFUSED = "refused"
    """The other end refused us, and said so."""
    TIMEOUT = "timeout"
    CROWD = "crowd"
    """More connections than allowed that have not yet said who they are."""
    UNREACHABLE = "unreachable"
    """No connection came about."""


class HandshakeFailed(LinkProtocolError):
    """The peer's fault; or two nodes' configurations do not fit together."""

    def __init__(self, reason: Reason, text: str) -> None:
        super().__init__(text)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class LinkKey:
    """A secret that all nodes of a cluster share, and its name. ValueError: too short to be one."""

    key_id: str
    secret: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if not 1 <= len(self.key_id) <= MAX_KEY_ID_CHARS:
            raise ValueError(f"a link key's id has 1 to {MAX_KEY_ID_CHARS} characters")
        if len(self.secret) < MIN_SECRET_BYTES:
            raise ValueError(f"the link key {self.key_id!r} has {len(self.secret)} bytes, at least {MIN_SECRET_BYTES}")


@dataclass(frozen=True, slots=True)
class Party:
    """This end, as it introduces itself."""

    worker: WorkerId
    incarnation: int
    versions: tuple[int, int]
    """Oldest and newest."""
    keys: Sequence[LinkKey] = ()
    """The first is offered, any accepted."""

    def key(self, key_id: str) -> LinkKey | None:
        return next((key for key in self.keys if key.key_id == key_id), None)

    def hello(
        self, to: tuple[int, int], address: str, *, stream: int = 0, proof: tuple[str, bytes] = ("", b"")
    ) -> LinkHello:
        """``to``: worker and incarnation. ``proof``: the key's name and our nonce, on TCP."""
        oldest, newest = self.versions
        return LinkHello(oldest, self.worker, self.incarnation, *to, stream, address, newest, *proof)

    def agree(self, hello: LinkHello) -> int:
        """The version to speak. HandshakeFailed: none in common."""
        oldest, newest = self.versions
        version = min(newest, hello.newest or hello.oldest)
        if version < max(oldest, hello.oldest):
            raise HandshakeFailed(
                Reason.VERSION,
                f"it speaks versions {hello.oldest} to {hello.newest or hello.oldest}, we {oldest} to {newest}",
            )
        return version

    def check_meant(self, hello: LinkHello) -> None:
        if (hello.to_worker_id, hello.to_incarnation) != (self.worker, self.incarnation):
            meant = f"{hello.to_worker_id}.{hello.to_incarnation}"
            raise HandshakeFailed(Reason.IDENTITY, f"it means {meant}, we are {self.worker}.{self.incarnation}")


class Opening:
    """The end that connected. ``key`` None: the connection is trusted (a Unix socket)."""

    def __init__(self, party: Party, hello: LinkHello, key: LinkKey | None) -> None:
        self.version = 0
        self.is_done = False
        self._party = party
        self._hello = hello
        self._key = key
        self._sent = encode(hello)
        self._received = b""

    def begin(self) -> bytes:
        return link_frame(LinkOp.HELLO, 0, self._sent)

    def receive(self, op: int, payload: bytes) -> bytes:
        """The frames to send now. HandshakeFailed: cut the connection."""
        if op == LinkOp.REFUSAL and not self.is_done:
            raise HandshakeFailed(Reason.REFUSED, f"it refuses us: {decode(LinkRefusal, payload).message[:100]!r}")
        if op == LinkOp.HELLO and not self._received:
            self._check_hello(decode(LinkHello, payload))
            self._received = payload
            self.is_done = self._key is None
            return b""
        if op == LinkOp.PROOF and self._received and self._key is not None and not self.is_done:
            _check_proof(self._key, b"acceptor", (self._sent, self._received), payload)
            self.is_done = True
            return link_frame(LinkOp.PROOF, 0, _proof(self._key, b"opener", (self._sent, self._received)))
        raise HandshakeFailed(Reason.PROTOCOL, f"op {op:#x} out of turn")

    def _check_hello(self, hello: LinkHello) -> None:
        meant = self._hello.to_worker_id, self._hello.to_incarnation
        if (hello.worker_id, hello.incarnation) != meant:
            text = f"we mean {meant[0]}.{meant[1]}, it is {hello.worker_id}.{hello.incarnation}"
            raise HandshakeFailed(Reason.IDENTITY, text)
        self._party.check_meant(hello)
        self.version = self._party.agree(hello)
        if self._key is not None:
            _check_nonce(hello)


class Accepting:
    """The end that listened. ``nonce`` None: the connection is trusted (a Unix socket)."""

    def __init__(self, party: Party, address: str, nonce: bytes | None) -> None:
        self.version = 0
        self.is_done = False
        self.hello: LinkHello | None = None
        """What the opener says of itself: not to be believed before ``is_done``."""
        self._party = party
        self._address = address
        self._nonce = nonce
        self._key: LinkKey | None = None
        self._hellos = b"", b""

    def receive(self, op: int, payload: bytes) -> bytes:
        """The frames to send now. HandshakeFailed: refuse the connection."""
        if op == LinkOp.HELLO and self.hello is None:
            hello = decode(LinkHello, payload)
            self._check_hello(hello)
            answer = self._answer(hello, payload)
            self.hello = hello
            self.is_done = self._nonce is None
            return answer
        if op == LinkOp.PROOF and self._key is not None and not self.is_done:
            _check_proof(self._key, b"opener", self._hellos, payload)
            self.is_done = True
            return b""
        raise HandshakeFailed(Reason.PROTOCOL, f"op {op:#x} out of turn")

    def _check_hello(self, hello: LinkHello) -> None:
        self._party.check_meant(hello)
        if hello.worker_id == self._party.worker:
            raise HandshakeFailed(Reason.IDENTITY, "it says that it is us")
        self.version = self._party.agree(hello)

    def _answer(self, hello: LinkHello, received: bytes) -> bytes:
        to = hello.worker_id, hello.incarnation
        if self._nonce is None:
            return link_frame(LinkOp.HELLO, 0, encode(self._party.hello(to, self._address)))
        if hello.worker_id == 0:
            raise HandshakeFailed(Reason.IDENTITY, "a supervisor has links within its node alone")
        _check_nonce(hello)
        self._key = self._party.key(hello.key_id)
        if self._key is None:
            raise HandshakeFailed(Reason.KEY, f"it offers the key {hello.key_id[:MAX_KEY_ID_CHARS]!r}")
        sent = encode(self._party.hello(to, self._address, proof=(hello.key_id, self._nonce)))
        self._hellos = received, sent
        proof = _proof(self._key, b"acceptor", self._hellos)
        return link_frame(LinkOp.HELLO, 0, sent) + link_frame(LinkOp.PROOF, 0, proof)


def refusal_frame(reason: Reason) -> bytes:
    """What an acceptor says before it closes, so that the other end's log can say it too. It proves nothing."""
    return link_frame(LinkOp.REFUSAL, 0, encode(LinkRefusal(0, reason.value)))


def _check_nonce(hello: LinkHello) -> None:
    if len(hello.nonce) != NONCE_BYTES:
        raise HandshakeFailed(Reason.PROTOCOL, f"a nonce of {len(hello.nonce)} bytes")


def _proof(key: LinkKey, role: bytes, hellos: tuple[bytes, bytes]) -> bytes:
    """Over the opener's HELLO and the acceptor's, each behind its length: no two pairs are the same bytes."""
    opener, acceptor = hellos
    lengths = struct.pack(">II", len(opener), len(acceptor))
    return hmac.digest(key.secret, b"parley link " + role + b"\0" + lengths + opener + acceptor, "sha256")


def _check_proof(key: LinkKey, role: bytes, hellos: tuple[bytes, bytes], proof: bytes) -> None:
    if not hmac.compare_digest(_proof(key, role, hellos), proof):
        raise HandshakeFailed(Reason.PROOF, f"its proof by the key {key.key_id!r} is wrong")
