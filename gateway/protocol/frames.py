"""Frames: eight bytes of header and one MessagePack array.

This file owns the bytes: how a frame is cut out of a stream, and how a body becomes a typed message. It knows no
socket and no session, and does not ask whether a value makes sense (``validation.py``).

Invariant: whatever bytes arrive, the outcome is a frame, a message, or a ``ProtocolError`` with MALFORMED or TOO_LARGE;
nothing of MessagePack's or Python's own leaks out.
"""

from __future__ import annotations

import functools
import struct
from typing import Any, NamedTuple, TypeVar, cast

import msgspec

from gateway.protocol.errors import Code, LocalProtocolError, ProtocolError
from gateway.protocol.messages import Error

HEADER = struct.Struct(">IBBH")
"""length, op, flags, rid. ``length`` counts what follows itself: 4 bytes of header and the body."""

_LENGTH = struct.Struct(">I")

LENGTH_BYTES = 4
MIN_LENGTH = HEADER.size - LENGTH_BYTES
IGNORABLE = 1
"""Bit 0 of flags: a reader that does not know the op skips the frame instead of refusing it."""

RID_LIMIT = 1 << 16
MAX_FRAME_BEFORE_WELCOME = 4096
MIN_GRANTED_MAX_FRAME = 65_536
BODY_MARGIN = 256
"""A message's body, or all its envelopes together, stay this far below max_frame: a MSG around them always fits."""

MAX_DEPTH = 8
"""Nesting of arrays and maps, the body's own array included."""

_EMPTY_ARRAY = b"\x90"
_ENCODER = msgspec.msgpack.Encoder()

T = TypeVar("T")


class Frame(NamedTuple):
    """One frame as it came. ``body`` is undecoded; it may be empty, which stands for an array of no fields."""

    op: int
    flags: int
    rid: int
    body: bytes


def encode(op: int, body: msgspec.Struct | None = None, *, rid: int = 0, flags: int = 0) -> bytes:
    """A whole frame. Absent optional fields are written as nil. LocalProtocolError for what no frame can hold."""
    return encode_payload(op, b"" if body is None else encode_body(body), rid=rid, flags=flags)


def encode_body(body: msgspec.Struct) -> bytes:
    """The MessagePack of a message alone: integers, strings and bins in their shortest form."""
    try:
        return _ENCODER.encode(body)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise LocalProtocolError(f"{type(body).__name__} cannot be encoded: {error}") from error


def encode_payload(op: int, payload: bytes, *, rid: int = 0, flags: int = 0) -> bytes:
    """A whole frame around a body that is encoded already (the same MSG goes to many sessions)."""
    try:
        return HEADER.pack(MIN_LENGTH + len(payload), op, flags, rid) + payload
    except struct.error as error:
        raise LocalProtocolError(f"op {op}, flags {flags}, rid {rid} do not fit a header") from error


@functools.cache
def _decoder_of(type_: type[Any]) -> msgspec.msgpack.Decoder[Any]:
    return msgspec.msgpack.Decoder(type_)


def decode(type_: type[T], body: bytes) -> T:
    """The message of a frame's body; an empty body is an empty array.

    Raises ProtocolError(MALFORMED) for anything but one array of ``type_``'s fields: a wrong type, a missing or nil
    required field, bytes after the array, broken UTF-8, too deep. Values are not judged here. What an unknown trailing
    field holds is skipped unread: judging it would cost every message a second pass to protect nobody.
    """
    try:
        message: T = _decoder_of(type_).decode(body or _EMPTY_ARRAY)  # type: ignore[arg-type]  # type[T] is hashable
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, TypeError) as error:
        # TypeError: a map key that Python cannot hash, possible where a field may hold anything.
        raise ProtocolError(Code.MALFORMED, str(error)) from None
    if type_ is Error:
        check_plain(cast("Error", message).detail, MAX_DEPTH - 1)
    return message


def check_plain(value: object, depth: int) -> None:
    """Refuse as MALFORMED what the protocol has no room for in a field of any type: floats, exts, timestamps, more than
    ``depth`` levels of arrays and maps. Typed fields need none of this: their types leave no place for it.
    """
    if value is None or isinstance(value, (bool, int, str, bytes)):
        return
    if depth == 0:
        raise ProtocolError(Code.MALFORMED, f"nested deeper than {MAX_DEPTH}")
    if isinstance(value, (list, tuple)):
        for item in value:
            check_plain(item, depth - 1)
    elif isinstance(value, dict):
        for key, item in value.items():
            check_plain(key, depth - 1)
            check_plain(item, depth - 1)
    else:
        raise ProtocolError(Code.MALFORMED, f"{type(value).__name__} is not a type of this protocol")


class FrameReader:
    """Cuts frames out of a stream. Feed it what the socket gave, then take frames until there is none.

    ``max_frame`` (bytes after the length field) may be changed between frames; it counts for those not yet taken, also
    if their bytes are here already. Each byte is copied twice whatever the cuts are: into the buffer, and out as a
    body.
    """

    def __init__(self, max_frame: int = MAX_FRAME_BEFORE_WELCOME) -> None:
        self.max_frame = max_frame
        self._buffer = bytearray()
        self._start = 0
        self._error: ProtocolError | None = None

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        """Add what arrived. After an error it is thrown away: there are no frame boundaries any more."""
        if self._error is not None:
            return
        if self._start:
            # Once per feed, not per frame; dropping the front of a bytearray moves a pointer, not the bytes.
            del self._buffer[: self._start]
            self._start = 0
        self._buffer += data

    def next_frame(self) -> Frame | None:
        """The next whole frame, or None until more is fed.

        Raises ProtocolError, now and at every later call: MALFORMED for a length below 4, TOO_LARGE for one above
        ``max_frame``, as soon as the length is here.
        """
        if self._error is not None:
            raise self._error
        start = self._start
        available = len(self._buffer) - start
        if available < LENGTH_BYTES:
            return None
        (length,) = _LENGTH.unpack_from(self._buffer, start)
        if not MIN_LENGTH <= length <= self.max_frame:
            self._fail(length)
        if available - LENGTH_BYTES < length:
            return None
        _, op, flags, rid = HEADER.unpack_from(self._buffer, start)
        self._start = start + LENGTH_BYTES + length
        with memoryview(self._buffer) as view:
            return Frame(op, flags, rid, bytes(view[start + HEADER.size : self._start]))

    def _fail(self, length: int) -> None:
        self._buffer.clear()
        if length < MIN_LENGTH:
            self._error = ProtocolError(Code.MALFORMED, f"a frame's length is at least {MIN_LENGTH}, not {length}")
        else:
            self._error = ProtocolError(Code.TOO_LARGE, f"a frame of {length} bytes, the limit is {self.max_frame}")
        raise self._error

    @property
    def buffered_bytes(self) -> int:
        """What was fed and not yet taken. Not 0 at the end of the stream: the last frame was cut off."""
        return len(self._buffer) - self._start
