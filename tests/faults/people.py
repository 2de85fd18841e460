"""People who talk without end while things break, at all doors of a cluster, under the delivery checker.

Owns the pace of the talk and who is in which chat. A device's own life is ``citizen.py``, the measure ``outage.py``. One
thread drives all devices and waits for none of them: who cannot come in is tried again later, while the others talk on.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TypeVar

from gateway.protocol.identifiers import epoch_of
from gateway.protocol.messages import Msg, Sent
from tests.faults.citizen import Citizen, Refusal
from tests.faults.doors import Door, Doors
from tests.faults.outage import Outage
from tests.node.devices import Device, Devices, Outgoing, as_seen
from tests.node.wire import Ended, Refused, Wire

__all__ = ["Door", "Doors", "People"]

PAUSE_S = 0.3
"""Between two messages of one device in one chat."""
OUTSTANDING = 4
"""Of a device in a chat: one that has no answer must not take the window of those that have."""
PATIENCE_S = 60.0
TURN_S = 0.02
ASK_AGAIN_S = 0.2

T = TypeVar("T")


class People(Devices):
    """Citizens, in turn at each door. ``close`` when they are done."""

    def __init__(self, doors: Doors, user_ids: Sequence[int]) -> None:
        super().__init__(doors, _refuse, ())  # type: ignore[arg-type]
        self.citizens = [Citizen(doors, self.checker, user_id, number) for number, user_id in enumerate(user_ids)]
        self.all = list(self.citizens)
        self.come_back = False  # by themselves: see Citizen.tend
        for citizen in self.citizens:
            citizen.on_answered = self._on_answered
        self._outage: Outage | None = None
        self._epochs: dict[int, int] = {}
        self._said_s: dict[tuple[int, int], float] = {}
        self._numbers = itertools.count()

    def gather(self) -> None:
        """Everybody comes in; a chat of each two, and a group of all; then all chats have answered once."""
        self.run_until(lambda: not any(citizen.is_away for citizen in self.citizens))
        for one, other in itertools.combinations(self.citizens, 2):
            self.open_direct(one, other)
        self.open_group(*self.citizens)
        self.talk_until(lambda: self._epochs.keys() == self.chats.keys())

    def close(self) -> None:
        for citizen in self.citizens:
            citizen.close()

    # -------------------------------------------------------------------------------------- talking

    def turn(self, timeout_s: float = TURN_S) -> None:
        for citizen in self.citizens:
            citizen.tend()
        if all(citizen.is_away for citizen in self.citizens):
            time.sleep(timeout_s)  # there is no socket to wait for
        super().turn(timeout_s)

    def run_until(self, is_done: Callable[[], bool], patience_s: float = PATIENCE_S) -> None:
        deadline = time.monotonic() + patience_s
        for citizen in self.citizens:
            if not citizen.is_away:
                citizen.take_in()
        while not is_done():
            assert time.monotonic() < deadline, self._state()
            self.turn()

    def talk_until(self, is_done: Callable[[], bool], patience_s: float = PATIENCE_S) -> None:
        """Everybody says something in every chat of theirs, again and again."""

        def is_last_turn() -> bool:
            self._say_more()
            return is_done()

        self.run_until(is_last_turn, patience_s)

    def talk_for(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        self.talk_until(lambda: time.monotonic() > end, seconds + PATIENCE_S)

    def talk_while(self, is_so: Callable[[], bool]) -> None:
        self.talk_until(lambda: not is_so())

    def _say_more(self) -> None:
        now_s = time.monotonic()
        for chat_id, members in self.chats.items():
            for citizen in members:
                key = chat_id, citizen.device_id
                is_free = citizen.outstanding[chat_id] < OUTSTANDING  # type: ignore[attr-defined]
                if is_free and now_s - self._said_s.get(key, 0.0) > PAUSE_S:
                    self._said_s[key] = now_s
                    citizen.say(chat_id, b"%d" % next(self._numbers))

    # -------------------------------------------------------------------------------------- measuring

    @contextlib.contextmanager
    def through(self, patience_s: float = PATIENCE_S) -> Iterator[Outage]:
        """A fault happens inside, and is mended at the end; then people talk until it is over for every chat."""
        outage = self._outage = Outage(time.monotonic(), self.chats, self._epochs)
        yield outage
        outage.mended(time.monotonic())
        self.talk_until(lambda: outage.is_over, patience_s)
        self._outage = None

    def _on_answered(self, outgoing: Outgoing, sent: Sent, said_s: float) -> None:
        self._epochs[outgoing.chat_id] = epoch_of(sent.seq)
        if self._outage is not None:
            self._outage.answered(outgoing.chat_id, sent.seq, said_s, time.monotonic())

    @property
    def sent_errors(self) -> list[Refusal]:
        return [error for citizen in self.citizens for error in citizen.sent_errors]

    def _state(self) -> str:
        """For a failure: who is where, and what they were told."""
        lines = [f"still out: {self._outage.still_out}" if self._outage else "no fault"]
        for citizen in self.citizens:
            told = Counter((error.code, error.message) for error in citizen.sent_errors[-50:])
            where = "away" if citizen.is_away else "here"
            waits = {chat_id: count for chat_id, count in citizen.outstanding.items() if count}
            lines.append(f"device {citizen.device_id} {where}, waits {waits}, {dict(citizen.refusals)}, {dict(told)}")
        return "\n".join(lines)

    # -------------------------------------------------------------------------------------- the verdict

    def violations(self) -> list[str]:
        """After ``settle``. A node that has just come back may hand a chat over meanwhile: who is refused asks again."""
        for chat_id, members in self.chats.items():
            for device in members:
                self._ask(partial(device.repair, chat_id))
            log = self._ask(partial(_whole_log, members[0], chat_id))
            self.checker.final_log(chat_id, map(as_seen, log))
        self.checker.conclude()
        return self.checker.lines()

    def _ask(self, ask: Callable[[], T]) -> T:
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                return ask()
            except (Refused, Ended, OSError):
                if time.monotonic() > deadline:
                    raise
            again_s = time.monotonic() + ASK_AGAIN_S
            self.run_until(partial(self._is_quiet_after, again_s))

    def _is_quiet_after(self, moment_s: float) -> bool:
        return self.are_quiet and time.monotonic() > moment_s


def _whole_log(device: Device, chat_id: int) -> list[Msg]:
    return device.wire.whole_log(chat_id)


def _refuse(*_: object, **__: object) -> Wire:
    raise OSError("citizens open their own connections")
