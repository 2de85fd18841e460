"""What a vector is: bytes on the wire, and what they mean or which error they are."""

from __future__ import annotations

import enum
from typing import Any, NamedTuple

import msgpack
import msgspec

from gateway.protocol.errors import Code
from gateway.protocol.frames import encode, encode_payload
from gateway.protocol.messages import Op

CLIENT = "client"
SERVER = "server"


class Skip(enum.Enum):
    """The outcome of a frame that its reader drops."""

    SKIP = enum.auto()


class Vector(NamedTuple):
    """One case.

    ``direction``: who sends it. ``outcome``: the message, an error's code, or SKIP. ``is_canonical``: a writer that
    writes the meaning must write these bytes. ``state``: "greeting" (before HELLO or, at a client, before WELCOME) or
    "live". ``answers``: the request that a reply's rid stands for.
    """

    name: str
    direction: str
    frame: bytes
    op: int
    rid: int
    flags: int
    outcome: msgspec.Struct | Code | Skip
    is_canonical: bool = False
    state: str = "live"
    answers: Op | None = None


def _pack(fields: Any) -> bytes:
    return fields if isinstance(fields, bytes) else msgpack.packb(fields, use_bin_type=True)


class Cases:
    """The vectors of one op in one direction."""

    def __init__(self, op: int, direction: str, *, state: str = "live", answers: Op | None = None) -> None:
        self.op = op
        self.direction = direction
        self.state = state
        self.answers = answers
        self.vectors: list[Vector] = []

    def good(self, name: str, message: msgspec.Struct, *, rid: int = 0, flags: int = 0) -> Cases:
        """Canonical bytes of a message. No fields at all: an empty body."""
        body = message if message.__struct_fields__ else None
        return self._add(name, encode(self.op, body, rid=rid, flags=flags), message, rid, flags, is_canonical=True)

    def also(self, name: str, fields: Any, message: msgspec.Struct, *, rid: int = 0, flags: int = 0) -> Cases:
        """Bytes that a reader takes for the same message, though a writer would not write them."""
        return self._add(name, encode_payload(self.op, _pack(fields), rid=rid, flags=flags), message, rid, flags)

    def bad(self, name: str, fields: Any, code: Code, *, rid: int = 0, flags: int = 0) -> Cases:
        """A body, as the list of its fields or as bytes, that is answered by ``code``."""
        return self._add(name, encode_payload(self.op, _pack(fields), rid=rid, flags=flags), code, rid, flags)

    def skip(self, name: str, fields: Any, *, flags: int) -> Cases:
        return self._add(name, encode_payload(self.op, _pack(fields), flags=flags), Skip.SKIP, 0, flags)

    def raw(self, name: str, frame: bytes, outcome: Code) -> Cases:
        """A frame whose header itself is wrong."""
        return self._add(name, frame, outcome, 0, 0)

    def _add(self, name: str, frame: bytes, outcome: Any, rid: int, flags: int, *, is_canonical: bool = False) -> Cases:
        label = Op(self.op).name if self.op in set(Op) else f"op {self.op:02x}"
        self.vectors.append(
            Vector(
                name=f"{label}: {name}",
                direction=self.direction,
                frame=frame,
                op=self.op,
                rid=rid,
                flags=flags,
                outcome=outcome,
                is_canonical=is_canonical,
                state=self.state,
                answers=self.answers,
            )
        )
        return self


def bad_types(cases: Cases, fields: list[Any], required: int) -> Cases:
    """The mistakes that every op with fields has in common; ``fields`` is a good list of them, ``required`` how many a
    reader insists on.
    """
    if required:
        cases.bad("one required field too few", fields[: required - 1], Code.MALFORMED)
        cases.bad("a required field that is nil", [*fields[: required - 1], None, *fields[required:]], Code.MALFORMED)
    cases.bad("a map instead of an array", {1: 2}, Code.MALFORMED)
    cases.bad("nothing but a number", b"\x07", Code.MALFORMED)
    cases.bad("a nil after the array", _pack(fields) + b"\xc0", Code.MALFORMED)
    cases.bad("cut off in the middle", _pack(fields)[:-1], Code.MALFORMED)
    for index in range(required):
        cases.bad(f"field {index + 1} of another type", [*fields[:index], 1.5, *fields[index + 1 :]], Code.MALFORMED)
    return cases
