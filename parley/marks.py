"""Marks that the user interface sets at every glance and every key, thinned out for the wire.

Pure but for one event. Invariants: a read mark is told until the server has confirmed it, and only the highest of a
chat; typing is told once in 5 s, and its end only if its beginning was told.
"""

from __future__ import annotations

from collections.abc import Iterable

import trio

from gateway.protocol.messages import Cursor
from parley.cursors import MAX_PAIRS

TYPING_EVERY_S = 5.0
MAX_TYPING = 64
"""Chats in which somebody types at once on one device; beyond it the oldest is forgotten, and may be told early."""


class ReadMarks:
    def __init__(self) -> None:
        self._pending: dict[int, int] = {}
        self._told: dict[int, int] = {}
        self._some = trio.Event()

    def mark(self, chat_id: int, seq: int) -> None:
        if seq > max(self._pending.get(chat_id, 0), self._told.get(chat_id, 0)):
            self._pending[chat_id] = seq
            self._some.set()

    async def wait(self) -> None:
        await self._some.wait()

    def pending(self) -> list[Cursor]:
        """What READ is to carry: at most as much as a list may."""
        return [Cursor(chat_id, seq) for chat_id, seq in list(self._pending.items())[:MAX_PAIRS]]

    def told(self, pairs: Iterable[Cursor]) -> None:
        """The server has confirmed these."""
        for pair in pairs:
            self._told[pair.chat_id] = pair.seq
            if self._pending.get(pair.chat_id) == pair.seq:
                del self._pending[pair.chat_id]
        if not self._pending:
            self._some = trio.Event()


class TypingMarks:
    def __init__(self) -> None:
        self._told_at: dict[int, float] = {}

    def is_due(self, chat_id: int, is_active: bool, now: float) -> bool:
        """Whether to tell it; counts as told if so."""
        told_at = self._told_at.pop(chat_id, None)
        if not is_active:
            return told_at is not None
        is_due = told_at is None or now - told_at >= TYPING_EVERY_S
        self._told_at[chat_id] = now if is_due or told_at is None else told_at
        if len(self._told_at) > MAX_TYPING:
            del self._told_at[next(iter(self._told_at))]
        return is_due
