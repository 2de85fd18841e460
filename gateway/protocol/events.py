"""What a session makes of what the peer sent: four typed events, and two reasons why there is none."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import msgspec

    from gateway.protocol.errors import ProtocolError
    from gateway.protocol.messages import Op


class Received(NamedTuple):
    """A message that is well-formed and whose values are good.

    ``request`` is, at a client, the op that a reply with a rid answers; else None.
    """

    op: Op
    rid: int
    message: msgspec.Struct
    request: Op | None = None


class Refused(NamedTuple):
    """At a server: a request to be answered by ERROR; the connection goes on. With rid 0 a live session says nothing,
    but a HELLO is answered whatever its rid is.
    """

    rid: int
    error: ProtocolError


class Skipped(NamedTuple):
    """A frame to be dropped: an op that this side does not know, a reply that nobody waits for, or input after the
    end.
    """

    op: int


class Ended(NamedTuple):
    """The peer said its last: ERROR, CLOSE, or the end of the stream, which counts as UNAVAILABLE.

    ``code`` is a number, not a Code: a newer peer may know more of them.
    """

    code: int
    message: str
    retry_after_ms: int | None = None
    detail: object = None


class Pause(enum.Enum):
    NEED_DATA = enum.auto()
    """Feed more bytes."""
    PAUSED = enum.auto()
    """At a server: answer the HELLO first."""


Event = Received | Refused | Skipped | Ended
