"""A device that lives through faults by the rules of the protocol, and never waits for anybody.

Owns when it connects, moves, gives up and sends again. What it holds and tells the delivery checker is
``tests.node.devices``. It obeys GOAWAY (connects elsewhere, then drops the old connection), LAGGED (SYNC) and
``retry_after_ms``; a session that owes it an answer for ``SILENCE_S`` is given up, as a phone's keep-alive would; it tries
one door after the other.
"""

from __future__ import annotations

import math
import random
import time
from collections import Counter, deque
from collections.abc import Callable
from typing import NamedTuple

from bench.delivery import DeliveryChecker
from gateway.protocol.errors import Code
from gateway.protocol.frames import Frame, decode
from gateway.protocol.messages import Goaway, Op, Sent
from tests.faults.doors import Attempt, Doors
from tests.node.devices import Device, Outgoing
from tests.node.wire import Wire, error_of

SILENCE_S = 6.0
TRY_AGAIN_S = 0.3
MOVE_LATE_S = 1.0
"""Who is to move waits so long for the answers that it is owed."""

Answered = Callable[[Outgoing, Sent, float], None]


class Later(NamedTuple):
    """A message that was refused, and when it may be sent again."""

    due_s: float
    outgoing: Outgoing


class Refusal(NamedTuple):
    """A SEND that was answered by an ERROR."""

    at_s: float
    code: int
    message: str


class Citizen(Device):
    """``first_door``: where it begins. Times are CLOCK_MONOTONIC. ``tend`` is to be called again and again."""

    def __init__(self, doors: Doors, checker: DeliveryChecker, user_id: int, first_door: int) -> None:
        super().__init__(doors, checker, _refuse, user_id)  # type: ignore[arg-type]
        self.on_answered: Answered = _ignore
        """A message has its SENT; when it was said."""
        self.sent_errors: list[Refusal] = []
        self.outstanding: Counter[int] = Counter()
        """By chat: what was said and has no SENT."""
        self._doors = doors
        self._door = first_door
        self._said_s: dict[bytes, float] = {}
        self._later: deque[Later] = deque()
        self._attempt: Attempt | None = None
        self._next_try_s = 0.0
        self._heard_s = 0.0
        self._move_at_s = math.inf
        self._is_lagged = False
        """Told that something was missed, and nothing was done about it yet."""

    # -------------------------------------------------------------------------------------- coming and going

    def tend(self) -> None:
        now_s = time.monotonic()
        self._give_up_on_silence(now_s)
        if self._attempt is not None:
            if self._attempt.is_over:
                attempt, self._attempt = self._attempt, None
                self._conclude(attempt, now_s)
        elif now_s >= self._next_try_s and (self.is_away or self._may_move(now_s)):
            self._attempt = self._doors.attempt(self._door, self.user_id, self.device_id)

    def _may_move(self, now_s: float) -> bool:
        is_owed = bool(self._unanswered) or self.is_syncing
        return now_s >= self._move_at_s and (not is_owed or now_s >= self._move_at_s + MOVE_LATE_S)

    def _conclude(self, attempt: Attempt, now_s: float) -> None:
        if attempt.wire is not None:
            self._enter(attempt.wire, now_s)
            return
        if attempt.refusal is not None:
            assert attempt.refusal.code >= Code.RATE_LIMITED, attempt.refusal
            self.refusals[attempt.refusal.code] += 1
        self._door += 1
        self._next_try_s = now_s + TRY_AGAIN_S

    def _enter(self, wire: Wire, now_s: float) -> None:
        if not self.is_away:
            self._gone()
        self.wire, self.is_away = wire, False
        self.connections += 1
        self._heard_s = now_s
        self._checker.connected(self.device_id, self.user_id)
        self._sync_or_go()
        self.take_in()

    def _gone(self) -> None:
        super()._gone()
        self._move_at_s, self._is_lagged = math.inf, False

    def _give_up_on_silence(self, now_s: float) -> None:
        if self.is_away or not (self._unanswered or self.is_syncing):
            self._heard_s = now_s
        elif now_s - self._heard_s > SILENCE_S:
            self._gone()
            self._door += 1

    def close(self) -> None:
        if self._attempt is not None:
            self._attempt.discard()
        if not self.is_away:
            self.wire.close()

    # -------------------------------------------------------------------------------------- out and in

    def say(self, chat_id: int, body: bytes) -> Outgoing:
        outgoing = super().say(chat_id, body)
        self._said_s[outgoing.msg_id] = time.monotonic()
        self.outstanding[chat_id] += 1
        return outgoing

    def send_some(self) -> None:
        now_s = time.monotonic()
        while self._later and self._later[0].due_s <= now_s:
            self.to_send.append(self._later.popleft().outgoing)
        if self.is_away or self._attempt is not None:
            return
        super().send_some()
        if self._is_lagged and not self.is_syncing and not self.is_away:
            self._is_lagged = False
            self._sync_or_go()

    def _sync_or_go(self) -> None:
        try:
            self.sync()
        except ConnectionError:
            self._gone()

    def read(self) -> None:
        self._heard_s = time.monotonic()
        super().read()

    def _take(self, frame: Frame) -> None:
        super()._take(frame)
        if frame.op == Op.GOAWAY:
            told = decode(Goaway, frame.body)
            self._move_at_s = time.monotonic() + random.uniform(told.delay_min_ms, told.delay_max_ms) / 1000
            self._door += 1
        elif frame.op == Op.LAGGED:
            self._is_lagged = True

    def _acknowledge(self, outgoing: Outgoing, sent: Sent) -> None:
        super()._acknowledge(outgoing, sent)
        self.outstanding[outgoing.chat_id] -= 1
        self.on_answered(outgoing, sent, self._said_s.pop(outgoing.msg_id))

    def _refused(self, frame: Frame) -> None:
        if frame.rid == self._sync_rid:
            super()._refused(frame)
            return
        error, now_s = error_of(frame), time.monotonic()
        self.refusals[error.code] += 1
        self.sent_errors.append(Refusal(now_s, error.code, error.message))
        assert error.code >= Code.RATE_LIMITED, error
        outgoing = self._unanswered.pop(frame.rid)
        outgoing.is_retry = True
        self._later.append(Later(now_s + (error.retry_after_ms or 0) / 1000, outgoing))

    @property
    def is_quiet(self) -> bool:
        return super().is_quiet and not self._later and not self._is_lagged


def _refuse(*_: object, **__: object) -> Wire:
    raise OSError("citizens open their own connections")


def _ignore(outgoing: Outgoing, sent: Sent, said_s: float) -> None:
    """Nobody measures."""
