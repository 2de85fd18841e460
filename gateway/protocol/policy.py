"""What a client does after an error: pure functions of the code and of what the client knows.

This file owns the decisions, no timers and no sockets: a client asks, waits by its own monotonic clock, and acts. An
unknown code is treated by its hundred.

Invariant: nothing here ever answers "again, at once": every way back to the server is behind a wait, a new token or the
user.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

from gateway.protocol.errors import Code

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_BACKOFF_S = 300.0
STABLE_SESSION_S = 60.0
"""A session that lasted this long sets the count of failures back to 0."""
FRESH_TOKEN_S = 60.0
"""A token refused when it is younger than this will be refused again: its successor waits for the back-off."""
MAX_PROTOCOL_ENDS = 2
FIRST_WAIT_S = 1.0

_PROTOCOL, _IDENTITY, _REQUEST, _SLOW_DOWN = 1, 2, 3, 4


class AfterEnd(enum.Enum):
    """What follows the end of a connection."""

    RECONNECT = enum.auto()
    """Reconnect after the back-off."""
    RENEW_TOKEN = enum.auto()
    """Get a new token, then reconnect at once."""
    RENEW_TOKEN_LATER = enum.auto()
    """Wait for the back-off, get a new token, then reconnect."""
    WAIT_FOR_USER = enum.auto()
    """Reconnect when the user opens the app."""
    SIGN_OUT = enum.auto()
    """Forget the credentials: this device is not welcome any more."""
    STAY_AWAY = enum.auto()
    """Do not reconnect until the client was upgraded or restarted."""


class AfterError(enum.Enum):
    """What follows an ERROR that answers a request and leaves the connection open."""

    SHOW = enum.auto()
    """Tell the user or the caller: the same request will fail again."""
    DROP = enum.auto()
    """Never send that request again: one of the two ends has a bug."""
    WAIT = enum.auto()
    """Nothing was stored: send it again after the wait."""
    RESEND = enum.auto()
    """The outcome is unknown: send the same bytes again after the wait, with retry = true."""
    GREET_WITH_JWT = enum.auto()
    """Send HELLO again on the same connection, with the JWT."""
    RENEW_TOKEN = enum.auto()
    """The token given to REAUTH is not good: get another one."""


def after_end(code: int, *, protocol_ends: int = 0, token_age_s: float = 0.0) -> AfterEnd:
    """What to do after a connection that ended with ``code`` (ERROR or CLOSE; UNAVAILABLE if it just ended).

    ``protocol_ends``: how many connections in a row ended with a protocol code, this one included. ``token_age_s``:
    how long ago this client got the token that it used. A connection that the client has itself replaced is not asked
    about: REPLACED of such a one means nothing.
    """
    hundred = code // 100
    if hundred == _PROTOCOL:
        is_hopeless = code == Code.UNSUPPORTED_VERSION or protocol_ends >= MAX_PROTOCOL_ENDS
        return AfterEnd.STAY_AWAY if is_hopeless else AfterEnd.RECONNECT
    if hundred == _IDENTITY:
        return _after_identity_end(code, token_age_s)
    return AfterEnd.RECONNECT


def _after_identity_end(code: int, token_age_s: float) -> AfterEnd:
    if code == Code.REVOKED:
        return AfterEnd.SIGN_OUT
    if code == Code.REPLACED:
        return AfterEnd.WAIT_FOR_USER
    return AfterEnd.RENEW_TOKEN_LATER if token_age_s < FRESH_TOKEN_S else AfterEnd.RENEW_TOKEN


def after_error(code: int, *, retry_after_ms: int | None = None) -> AfterError:
    """What to do about a request that was answered by ERROR ``code``, when the connection goes on."""
    hundred = code // 100
    if hundred == _PROTOCOL:
        return AfterError.DROP
    if hundred == _IDENTITY:
        return AfterError.GREET_WITH_JWT if code == Code.RESUME_FAILED else AfterError.RENEW_TOKEN
    if hundred == _REQUEST:
        return AfterError.SHOW
    if hundred == _SLOW_DOWN:
        is_final = code == Code.QUOTA and retry_after_ms is None
        return AfterError.SHOW if is_final else AfterError.WAIT
    return AfterError.RESEND


def retry_wait_s(retry_after_ms: int | None, attempt: int) -> float:
    """Seconds to wait before the same request goes out again: what the server said, else 1, 2, 4 … up to 300.

    ``attempt`` counts from 0 and is the number of waits that came before for this request.
    """
    if retry_after_ms is not None:
        return retry_after_ms / 1000
    return min(MAX_BACKOFF_S, FIRST_WAIT_S * 2.0 ** min(attempt, 16))


def backoff_ceiling_s(failures: int) -> float:
    """The longest wait before the next connection; ``failures`` since a session that lasted STABLE_SESSION_S."""
    return min(MAX_BACKOFF_S, 2.0 ** min(failures, 16))


def backoff_s(failures: int, uniform: Callable[[float, float], float], *, retry_after_ms: int | None = None) -> float:
    """Seconds to wait before the next connection: uniform in 0 … ceiling ("full jitter", M. Brooker, AWS Architecture
    Blog, 2015: of the jitters compared there, the one with the least work for the server).

    ``uniform`` is ``random.Random().uniform``. What the server asked for in CLOSE or ERROR comes first and the jitter
    is added to it: a server in need sends the same number to everybody.
    """
    floor_s = (retry_after_ms or 0) / 1000
    return floor_s + uniform(0.0, backoff_ceiling_s(failures))


def goaway_wait_s(delay_min_ms: int, delay_max_ms: int, uniform: Callable[[float, float], float]) -> float:
    """Seconds after GOAWAY until the client moves to a new connection; the old one serves until then."""
    return uniform(delay_min_ms, delay_max_ms) / 1000
