"""What the SDK raises. One base, and below it: the server said no, the network is not there, the caller asked too much.

Bugs are not here: they are whatever Python raises.
"""

from __future__ import annotations

from gateway.protocol.errors import Code


class ParleyError(Exception):
    """The base of everything that the SDK raises on purpose."""


class Refused(ParleyError):
    """The server answered ERROR: ``code`` (a number of the protocol), ``message``, ``detail``, and
    ``retry_after_ms``.
    """

    def __init__(self, code: int, message: str, *, retry_after_ms: int | None = None, detail: object = None) -> None:
        super().__init__(f"{code} {name_of(code)}: {message}")
        self.code = code
        self.message = message
        self.retry_after_ms = retry_after_ms
        self.detail = detail


class OutcomeUnknown(ParleyError):
    """A message was sent and never answered, for so long, or with such answers, that trying again is no longer safe or
    sensible. It may be in the chat or not: look there.
    """


class CannotConnect(ParleyError):
    """Nobody answers at the address, or what answers is no chat server."""


class NotConnected(ParleyError):
    """The client stays away until ``Client.reconnect``, or signed out, or was closed."""


class TokenUnavailable(ParleyError):
    """For a token source to raise: no token now, ask again later."""


class OutboxFull(ParleyError):
    """``send_nowait`` found ``Options.max_outbox`` messages waiting already."""


class BrokenStore(ParleyError):
    """The file of a FileClientStore cannot be read as one."""


def name_of(code: int) -> str:
    try:
        return Code(code).name.lower()
    except ValueError:
        return "unknown"
