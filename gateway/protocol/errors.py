"""The codes of ERROR and CLOSE, and the exceptions that carry them.

This file owns the numbers and which of them end a connection. What a client does after one is ``policy.py``; sending
one is the session's work. It imports nothing of the project.

Two families live here. ``ProtocolError`` is the peer's fault or a refusal that the peer is told about: it has a code.
``LocalProtocolError`` is our own bug: it has none, because there is nobody to tell.
"""

from __future__ import annotations

import enum


class Code(enum.IntEnum):
    """What went wrong. The hundred is the class, by which a code that a reader does not know is treated."""

    NORMAL = 0

    MALFORMED = 100
    TOO_LARGE = 101
    UNKNOWN_OP = 102
    NOT_READY = 103
    UNSUPPORTED_VERSION = 104

    UNAUTHENTICATED = 200
    EXPIRED = 201
    REVOKED = 202
    REPLACED = 203
    RESUME_FAILED = 204

    FORBIDDEN = 300
    NOT_FOUND = 301
    CONFLICT = 302
    INVALID = 303
    BLOCKED = 304
    TOO_MANY_MEMBERS = 305
    ID_REUSED = 306

    RATE_LIMITED = 400
    OVERLOADED = 401
    SLOW_CONSUMER = 402
    QUOTA = 403

    INTERNAL = 500
    UNAVAILABLE = 501
    MOVED = 502
    TIMED_OUT = 503


ENDS_CONNECTION: frozenset[Code] = frozenset(
    {
        Code.MALFORMED,
        Code.TOO_LARGE,
        Code.NOT_READY,
        Code.UNSUPPORTED_VERSION,
        Code.UNAUTHENTICATED,
        Code.EXPIRED,
        Code.REVOKED,
        Code.REPLACED,
        Code.SLOW_CONSUMER,
    }
)
"""An ERROR with one of these is the last frame of a connection, unless it answers REAUTH (``ends_connection``)."""

_IDENTITY_CLASS = 2


def ends_connection(code: int, *, is_reauth_reply: bool = False) -> bool:
    """Whether an ERROR with ``code`` ends the connection. Every CLOSE does.

    Unknown codes of the identity class end it, since all of that class but RESUME_FAILED do; other unknown codes do
    not: a server that wants to hang up hangs up.
    """
    if code // 100 == _IDENTITY_CLASS:
        return code != Code.RESUME_FAILED and not is_reauth_reply
    return code in ENDS_CONNECTION


class ProtocolError(Exception):
    """The peer did, or asked for, what it may not. ``code`` goes on the wire; so do the other attributes if not None.

    ``detail`` is anything that MessagePack can carry without floats, at most six levels deep.
    """

    def __init__(self, code: Code, message: str, *, retry_after_ms: int | None = None, detail: object = None) -> None:
        super().__init__(f"{code.value} {code.name.lower()}: {message}")
        self.code = code
        self.message = message
        self.retry_after_ms = retry_after_ms
        self.detail = detail


class LocalProtocolError(Exception):
    """Our own side tried what the protocol does not allow: a bug here, never the peer's fault."""
