"""One request to the owner of a chat, and the way back to whoever asked.

Owns the pairing of a request with exactly one answer. It does not know whether the asker is a session of this worker or
of another one: that is the ``Origin``'s business.

Invariant: a request is answered once; rid 0 asks for no answer and gets none.
"""

from __future__ import annotations

import enum
import time
from typing import Protocol

import msgspec

from gateway.protocol.errors import Code
from gateway.protocol.frames import encode_body
from gateway.protocol.messages import Error, Op


class InternalOp(enum.IntEnum):
    """What workers ask a chat's owner beyond the client's ops. Above 0xFF: no client can name them."""

    VIEW = 0x100
    """How far may this user read? Answered by ViewOk."""
    FOUND = 0x101
    """A group was created: put its first row into the log, unless the log has one. Answered by OK."""
    MARK = 0x102
    """Cursors and marks of one device, folded. No answer."""
    WAKE = 0x103
    """Load the chat: its former owner may have died before it told what it committed. Answered by OK."""


class View(msgspec.Struct, array_like=True, gc=False):
    chat_id: int


class ViewOk(msgspec.Struct, array_like=True, gc=False):
    """Both bounds inclusive; 0 … head for a member from the beginning."""

    first_seq: int
    last_seq: int


class Found(msgspec.Struct, array_like=True, gc=False):
    chat_id: int
    user_ids: list[int]


class Wake(msgspec.Struct, array_like=True, gc=False):
    chat_id: int


class Mark(msgspec.Struct, array_like=True, gc=False):
    """``delivered_seq`` and ``read_seq``: 0 says nothing."""

    chat_id: int
    delivered_seq: int
    read_seq: int


class Origin(Protocol):
    def answer(self, rid: int, op: int, payload: bytes) -> None: ...


class Request:
    """``message`` is the decoded body of ``op``; ``received_s`` is this worker's CLOCK_MONOTONIC; links carry an age."""

    __slots__ = ("device_id", "looked_up_at", "message", "number", "op", "origin", "received_s", "rid", "user_id")

    def __init__(
        self, op: int, message: msgspec.Struct, asker: tuple[int, int], origin: Origin, rid: int, received_s: float
    ) -> None:
        self.op = op
        self.message = message
        self.user_id, self.device_id = asker
        self.origin = origin
        self.rid = rid
        self.received_s = received_s
        self.number = 0
        """Order of arrival in this worker; set where requests may have to wait."""
        self.looked_up_at = -1
        """How many ids the chat had forgotten when the store was asked whether this SEND is a resend; -1: it was not."""

    def answer(self, op: int, body: msgspec.Struct | None = None) -> None:
        if self.rid:
            self.origin.answer(self.rid, op, b"" if body is None else encode_body(body))

    def refuse(self, code: Code, message: str, *, retry_after_ms: int | None = None, detail: object = None) -> None:
        self.answer(Op.ERROR, Error(code, message, retry_after_ms, detail))


class _Nobody:
    def answer(self, rid: int, op: int, payload: bytes) -> None:
        """Nobody waits for it."""


NOBODY: Origin = _Nobody()
"""An origin that hears no answer."""


def wake_request(chat_id: int) -> Request:
    """It has a rid, so that it is brought to the next owner as anybody's request is."""
    return Request(InternalOp.WAKE, Wake(chat_id), (0, 0), NOBODY, 1, time.monotonic())
