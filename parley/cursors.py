"""How far the application has got in each chat, and which of that the server has yet to be told.

Pure but for the events that wake the journal. Invariant: a cursor only grows, until its chat is forgotten.
"""

from __future__ import annotations

from collections.abc import Mapping

import trio

from gateway.protocol.messages import Cursor

MAX_PAIRS = 2000
"""Entries of one list on the wire."""

ACK_EVERY_MESSAGES = 64
ACK_EVERY_S = 0.2


class Cursors:
    def __init__(self, known: Mapping[int, int]) -> None:
        self._cursors = dict(known)  # the chat that moved last is last
        self._moved: dict[int, int] = {}
        self._gone: list[int] = []
        self._count = 0
        self._some = trio.Event()
        self._many = trio.Event()

    def __getitem__(self, chat_id: int) -> int | None:
        return self._cursors.get(chat_id)

    def advance(self, chat_id: int, seq: int) -> None:
        """The application has handled everything up to ``seq``."""
        if seq <= self._cursors.get(chat_id, 0):
            return
        self._cursors.pop(chat_id, None)
        self._cursors[chat_id] = self._moved[chat_id] = seq
        self._count += 1
        self._some.set()
        if self._count >= ACK_EVERY_MESSAGES:
            self._many.set()

    def forget(self, chat_id: int) -> None:
        """The chat is no longer visible."""
        if self._cursors.pop(chat_id, None) is not None:
            self._moved.pop(chat_id, None)
            self._gone.append(chat_id)

    def take_moved(self) -> tuple[dict[int, int], list[int]]:
        """Cursors that moved, and chats forgotten, since the last call."""
        moved, self._moved = self._moved, {}
        gone, self._gone = self._gone, []
        self._count = 0
        self._some, self._many = trio.Event(), trio.Event()
        return moved, gone

    async def wait_due(self) -> None:
        """Until something moved, and a little longer for more: 200 ms, or 64 messages."""
        await self._some.wait()
        with trio.move_on_after(ACK_EVERY_S):
            await self._many.wait()

    def pairs(self) -> list[Cursor]:
        """For SYNC: the cursors that moved last, as many as a list may hold; the server's record has the others."""
        newest = list(self._cursors.items())[-MAX_PAIRS:]
        return [Cursor(chat_id, seq) for chat_id, seq in newest]
