"""What travels on a link: its ops, its frames, the shapes of its bodies.

A link frame is a kernel frame with an op from 0x80 on, flags and rid 0 (the rid's 16 bits are too few for what a worker
may have outstanding), and a body of ``request id u32 | payload``. Request id 0 is one-way. All numbers are big-endian.

Owns bytes and shapes; no state, no rule about who says what when. Invariant: what ``decode`` and the unpack functions
accept is whole and typed; anything else is ``LinkProtocolError``, the peer's fault.

Versions. Nodes are upgraded one by one, so a release speaks its own version and the one before it; two ends speak the lower
of their newest. Within a version a body may get more fields at its end, with defaults: a decoder skips what it does not
know, and fills in what did not come. A new op is fine where a refusal (UNKNOWN_OP) or silence is an answer that its
sender can live with. Everything else (an op that must be understood, a field with another meaning, another order) needs
a new version, whose sender asks ``Links.version_of`` and says it in the old words to an old peer.

1  The processes of one node: HELLO up to ``address``, no proof.
2  Nodes: HELLO names a range of versions, a key and a nonce, and PROOF follows it on TCP. The head of a routed request holds
   an age, not a clock: version 1 read it as CLOCK_MONOTONIC, and of either taken for the other only a histogram is wrong.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any, TypeAlias, TypeVar

import msgspec

LINK_VERSION = 2
LINK_VERSION_MIN = 1
"""The newest and the oldest version that this release speaks: see the module."""

MAX_LINK_FRAME = 8 << 20
"""Bytes that a frame's length may count. The largest push is a glued batch of 64 messages of 64 KiB: half of it."""

Recipients: TypeAlias = "Sequence[tuple[int, int]]"
"""(user, device) each: connection numbers never leave a worker."""


class LinkOp(enum.IntEnum):
    """0x80 … 0xAF. ``routing.py`` owns 0xB0 and above."""

    HELLO = 0x80
    REPLY = 0x81
    REFUSAL = 0x82
    ACKED = 0x83
    DELIVER = 0x84
    LOST = 0x85
    PROOF = 0x86

    RELEASE = 0x88

    DIRECTORY_JOIN = 0x90
    DIRECTORY_LEAVE = 0x91
    DIRECTORY_DRAIN = 0x92
    DIRECTORY_REGISTER = 0x93
    DIRECTORY_UNREGISTER = 0x94
    DIRECTORY_LOCATE = 0x95
    DIRECTORY_WORKERS = 0x98
    DIRECTORY_MOVED = 0x99
    DIRECTORY_REPLACED = 0x9A

    METRICS = 0xA0
    DRAIN = 0xA1
    READY = 0xA2
    HEARTBEAT = 0xA3


class LinkProtocolError(Exception):
    """A peer sent what no peer of this release sends: the peer's fault. Its connection is cut."""


# ------------------------------------------------------------------------------------------------- bodies


class _Body(msgspec.Struct, array_like=True, gc=False):
    pass


class LinkHello(_Body):
    """First frame of a connection, both ways. The opener says where it listens, and whom it means to reach."""

    oldest: int
    """The oldest version that is spoken. Here version 1 has the only one that it speaks."""
    worker_id: int
    incarnation: int
    to_worker_id: int
    to_incarnation: int
    stream: int
    """Names the numbering of this end's pushes: another stream starts at 1 again. The opener's alone counts."""
    address: str
    newest: int = 0
    """0: ``oldest`` is the newest as well."""
    key_id: str = ""
    """TCP: the key of both proofs, chosen by the opener. Empty on a Unix socket."""
    nonce: bytes = b""


class LinkRefusal(_Body):
    code: int
    message: str


class WorkerEntry(_Body):
    worker_id: int
    incarnation: int
    address: str
    is_draining: bool
    host_address: str = ""


class WorkerSet(_Body):
    generation: int
    workers: list[WorkerEntry]


class RegistrationEntry(_Body):
    user_id: int
    device_id: int
    session_id: int
    resumed_from: int
    token_expires_s: int


class RegistrationList(_Body):
    entries: list[RegistrationEntry]


class RegisteredList(_Body):
    """(outcome, session_id) of each registration, in order."""

    entries: list[tuple[int, int]]


class DeviceList(_Body):
    """(user, device, session)."""

    entries: list[tuple[int, int, int]]


class UserList(_Body):
    user_ids: list[int]


class LocationLists(_Body):
    """For each user that was asked for, in order: device, worker, session, device, …"""

    entries: list[list[int]]


class ReplacedList(_Body):
    """(user, device, old session, new session)."""

    entries: list[tuple[int, int, int, int]]


class SlotList(_Body):
    slots: list[int]


B = TypeVar("B", bound=_Body)

_encoder = msgspec.msgpack.Encoder()
_DECODERS: dict[type[_Body], msgspec.msgpack.Decoder[Any]] = {
    body: msgspec.msgpack.Decoder(body)
    for body in (
        *(LinkHello, LinkRefusal, WorkerEntry, WorkerSet, RegistrationList, RegisteredList, DeviceList, UserList),
        *(LocationLists, ReplacedList, SlotList),
    )
}


def encode(body: msgspec.Struct) -> bytes:
    return _encoder.encode(body)


def decode(body: type[B], payload: bytes) -> B:
    try:
        decoded: B = _DECODERS[body].decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise LinkProtocolError(f"{body.__name__}: {error}") from error
    return decoded


# ------------------------------------------------------------------------------------------------- frames

_FRAME = struct.Struct(">IBBHI")
_LENGTH_BYTES = 4
_REQUEST_ID = struct.Struct(">I")
REQUEST_ID_BYTES = _REQUEST_ID.size
_PUSH = struct.Struct(">QI")
_ACK = struct.Struct(">QQ")
_RECIPIENT_BYTES = 16
_EVERYBODY = 0xFFFFFFFF


def link_frame(op: int, request_id: int, payload: bytes) -> bytes:
    """A whole frame. ValueError beyond MAX_LINK_FRAME: our bug, since every caller bounds what it packs together."""
    length = _FRAME.size - _LENGTH_BYTES + len(payload)
    if length > MAX_LINK_FRAME:
        raise ValueError(f"a link frame of {length} bytes, at most {MAX_LINK_FRAME} are allowed")
    return _FRAME.pack(length, op, 0, 0, request_id) + payload


def split_body(body: bytes) -> tuple[int, bytes]:
    """(request id, payload) of a frame's body."""
    if len(body) < REQUEST_ID_BYTES:
        raise LinkProtocolError("a frame without a request id")
    return _REQUEST_ID.unpack_from(body)[0], body[REQUEST_ID_BYTES:]


def push_frame(number: int, recipients: Recipients, frame: bytes) -> bytes:
    """``number u64 | count u32 | (user u64, device u64) … | client frames``. Number 0: droppable, not acknowledged."""
    return link_frame(LinkOp.DELIVER, 0, _PUSH.pack(number, len(recipients)) + _pack(recipients) + frame)


def lost_frame(number: int, recipients: Recipients | None) -> bytes:
    """Names the recipients of pushes that were dropped; None: any of the peer's."""
    count = _EVERYBODY if recipients is None else len(recipients)
    return link_frame(LinkOp.LOST, 0, _PUSH.pack(number, count) + _pack(recipients or ()))


def unpack_push(payload: bytes) -> tuple[int, list[tuple[int, int]] | None, bytes]:
    """(number, recipients or None for everybody, client frames)."""
    if len(payload) < _PUSH.size:
        raise LinkProtocolError("a push without its head")
    number, count = _PUSH.unpack_from(payload)
    if count == _EVERYBODY:
        return number, None, payload[_PUSH.size :]
    if len(payload) - _PUSH.size < count * _RECIPIENT_BYTES:
        raise LinkProtocolError(f"a push that names {count} recipients and holds fewer")
    numbers = iter(struct.unpack_from(f">{2 * count}Q", payload, _PUSH.size))
    return number, list(zip(numbers, numbers, strict=True)), payload[_PUSH.size + count * _RECIPIENT_BYTES :]


def acked_frame(stream: int, number: int) -> bytes:
    return link_frame(LinkOp.ACKED, 0, _ACK.pack(stream, number))


def unpack_acked(payload: bytes) -> tuple[int, int]:
    """(stream, number): every push of that stream up to the number has arrived."""
    if len(payload) != _ACK.size:
        raise LinkProtocolError("an acknowledgement of another size")
    stream, number = _ACK.unpack(payload)
    return stream, number


def _pack(recipients: Iterable[tuple[int, int]]) -> bytes:
    numbers = list(chain.from_iterable(recipients))
    return struct.pack(f">{len(numbers)}Q", *numbers)
