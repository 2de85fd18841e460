"""What follows when a connection ended, beyond ``gateway.protocol.policy``: what this client can do about it.

Pure. It must not know sockets or tokens; it is told what it needs. Invariant: every ending has exactly one next step.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass

from gateway.protocol import messages as wire
from gateway.protocol.errors import Code
from gateway.protocol.events import Ended
from gateway.protocol.policy import STABLE_SESSION_S, AfterEnd, after_end, backoff_s

_PROTOCOL = 1


@dataclass(frozen=True, slots=True)
class Ending:
    """Why a connection ended. ``code`` None: the server did not say, which counts as 501.

    ``lasted_s`` counts from WELCOME; None: there was none. ``not_before``: the Trio time at which GOAWAY asks for the
    next connection.
    """

    code: int | None
    reason: str
    retry_after_ms: int | None = None
    lasted_s: float | None = None
    not_before: float | None = None

    @classmethod
    def told(cls, body: wire.Error | Ended) -> Ending:
        return cls(body.code, body.message, body.retry_after_ms)


class Step(enum.Enum):
    """What to do next."""

    RETRY = enum.auto()
    RENEW_TOKEN = enum.auto()
    """At once."""
    RENEW_TOKEN_LATER = enum.auto()
    STAY_AWAY = enum.auto()
    SIGN_OUT = enum.auto()


_STEPS = {
    AfterEnd.RECONNECT: Step.RETRY,
    AfterEnd.RENEW_TOKEN: Step.RENEW_TOKEN,
    AfterEnd.RENEW_TOKEN_LATER: Step.RENEW_TOKEN_LATER,
    AfterEnd.WAIT_FOR_USER: Step.STAY_AWAY,
    AfterEnd.STAY_AWAY: Step.STAY_AWAY,
    AfterEnd.SIGN_OUT: Step.SIGN_OUT,
}


class Judge:
    """Remembers failures since the last stable session, and how often running the server found fault with this client.

    ``uniform(low, high)`` is the source of chance.
    """

    def __init__(self, uniform: Callable[[float, float], float], *, can_renew_token: bool) -> None:
        self._uniform = uniform
        self._can_renew_token = can_renew_token
        self._failures = 0
        self._protocol_ends = 0

    def next_step(self, ending: Ending, token_age_s: float) -> Step:
        """Once for each ending."""
        code = Code.UNAVAILABLE if ending.code is None else ending.code
        self._failures = 0 if (ending.lasted_s or 0.0) >= STABLE_SESSION_S else self._failures + 1
        self._protocol_ends = self._protocol_ends + 1 if code // 100 == _PROTOCOL else 0
        step = _STEPS[after_end(code, protocol_ends=self._protocol_ends, token_age_s=token_age_s)]
        if step in (Step.RENEW_TOKEN, Step.RENEW_TOKEN_LATER) and not self._can_renew_token:
            return Step.SIGN_OUT
        return step

    def wait_s(self, ending: Ending, now: float) -> float:
        """How long to wait before the next connection: until GOAWAY's moment, else what the code came with, and
        back-off.
        """
        if ending.not_before is not None:
            return max(0.0, ending.not_before - now)
        return backoff_s(self._failures, self._uniform, retry_after_ms=ending.retry_after_ms)
