"""Requests of one session that are unanswered: their rids, and who waits for the reply.

Pure but for the events. It must not know what the ops mean. Invariant: a rid (1..65,535) names one unanswered request
at most. The window is kept by those who look at ``room`` first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import trio

from gateway.protocol.events import Received
from gateway.protocol.frames import RID_LIMIT
from parley.errors import ParleyError

OnReply: TypeAlias = Callable[[Received], None]
"""Runs in the reader, before the frame after the reply is looked at: what keeps order needs that."""


class SessionLost(ParleyError):
    """The session ended before the reply came; inside the SDK alone, which then asks again."""


class Question:
    def __init__(self, asked_at: float, on_reply: OnReply | None) -> None:
        self.asked_at = asked_at
        self._on_reply = on_reply
        self._reply: Received | None = None
        self._over = trio.Event()

    async def reply(self) -> Received:
        """The last frame that answered. Raises SessionLost."""
        await self._over.wait()
        if self._reply is None:
            raise SessionLost
        return self._reply

    def answer(self, reply: Received, *, is_last: bool) -> None:
        if is_last:
            self._reply = reply
            self._over.set()
        if self._on_reply is not None:
            self._on_reply(reply)

    def lose(self) -> None:
        self._over.set()


class Requests:
    def __init__(self, window: int) -> None:
        self._window = max(1, window)
        self._last_rid = 0
        self._open: dict[int, Question] = {}
        self._room = trio.Event()

    @property
    def room(self) -> int:
        """How many more may be asked now."""
        return self._window - len(self._open)

    @property
    def room_for_sends(self) -> int:
        """The same for messages of the outbox: one place is left to others, or SYNC would wait behind a full outbox."""
        return self.room - (self._window > 1)

    @property
    def oldest_at(self) -> float | None:
        """When the request was asked that waits the longest; replies come in any order, so look at all."""
        return min((question.asked_at for question in self._open.values()), default=None)

    def open(self, now: float, on_reply: OnReply | None = None) -> tuple[int, Question]:
        """A new request under a free rid."""
        rid = self._last_rid
        while True:
            rid = rid % (RID_LIMIT - 1) + 1
            if rid not in self._open:
                break
        self._last_rid = rid
        question = self._open[rid] = Question(now, on_reply)
        return rid, question

    def answer(self, reply: Received, now: float, *, is_last: bool = True) -> None:
        """A reply; after one that is not the last, the time to answer begins again. One that nobody awaits is
        dropped.
        """
        question = self._open.get(reply.rid)
        if question is None:
            return
        question.asked_at = now
        if is_last:
            del self._open[reply.rid]
            self._room.set()
        question.answer(reply, is_last=is_last)

    async def wait_room(self, *, is_for_sends: bool = False) -> None:
        while (self.room_for_sends if is_for_sends else self.room) <= 0:
            if self._room.is_set():
                self._room = trio.Event()  # never while others wait on it
            await self._room.wait()

    def lose_all(self) -> None:
        """The session is over."""
        for question in self._open.values():
            question.lose()
        self._open.clear()
        self._room.set()
