"""From frames to the application: every chat's log, and the bounded queue behind ``Client.next_event``.

It must not know sockets, rids or the store. It is told what came and says what is missing (``wait_hole``).

Invariant: a log event enters the queue in its chat's order, once; the cursor of a chat moves when the application
asks for the event after it. Bounds: at ``max_events`` waiting log events, messages are noted as existing and let go,
to be read from the log when the application has caught up; at MAX_HELD_ALL entries behind holes likewise. A hint that
does not fit is lost.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

import trio

from gateway.protocol import messages as wire
from parley.chatlog import ChatLog, Entry, Hole
from parley.cursors import Cursors
from parley.events import ClientEvent, ConnectionEvent, GapSkipped, HintEvent, LogEvent, MessageReceived, MessageSent
from parley.model import Message

MAX_HELD_ALL = 4096
HINT_ROOM = 256
"""Hints and news may wait beside ``max_events`` log events."""


class Item(NamedTuple):
    """``event`` is None where only the cursor moves: a hole turned out to be empty. ``chat_id`` 0: not of a log."""

    event: ClientEvent | None
    chat_id: int = 0
    seq: int = 0


class Inbox:
    def __init__(self, cursors: Cursors, max_events: int, fill_gaps: bool) -> None:
        self.cursors = cursors
        self.user_id = 0
        self.is_syncing = True
        self.lost_hints = 0
        self._max_events = max_events
        self._fill_gaps = fill_gaps
        self._logs: dict[int, ChatLog] = {}
        self._holed: dict[int, None] = {}  # an ordered set: the oldest hole is read first
        self._queue: deque[Item] = deque()
        self._log_count = 0
        self._held_count = 0
        self._unacknowledged: Item | None = None
        self._is_waited_for = False
        self._has_ended = False
        self._some = trio.Event()
        self._repairable = trio.Event()

    # What came

    def add(self, message: Message, prev_seq: int) -> None:
        """A message of the log, by push or as the answer to SEND."""
        log = self._log_of(message.chat_id)
        held = log.held_count
        if self._has_room:
            log.add(Entry(message.seq, prev_seq, self._event_of(message)))
        else:
            log.note_gap(prev_seq, message.seq + 1)
        if not self.is_syncing:
            log.settle()
        self._show(message.chat_id, log, held)

    def add_gap(self, gap: wire.Gap) -> None:
        log = self._log_of(gap.chat_id)
        held = log.held_count
        if self._fill_gaps:
            log.note_gap(gap.after_seq, gap.before_seq)
        else:
            after_seq = gap.after_seq if log.shown is None else max(gap.after_seq, log.shown)
            if log.skip_gap(gap.before_seq):
                self._put(Item(GapSkipped(gap.chat_id, after_seq, gap.before_seq), gap.chat_id, gap.before_seq - 1))
        self._show(gap.chat_id, log, held)

    def add_hint(self, event: HintEvent | ConnectionEvent) -> None:
        """Something that no cursor counts. Lost, and counted, when the application is far behind."""
        if len(self._queue) < self._max_events + HINT_ROOM:
            self._put(Item(event))
        else:
            self.lost_hints += 1

    def sync_began(self) -> None:
        """Until ``sync_ended`` messages may come out of order: live ones before those that the SYNC repeats."""
        self.is_syncing = True

    def sync_ended(self, chats: Iterable[wire.ChatNews], gone: Iterable[int]) -> None:
        """The server has told everything up to these heads."""
        self.is_syncing = False
        for chat_id in gone:
            self._forget(chat_id)
        heads = {news.chat_id: news.head_seq for news in chats}
        for chat_id, head_seq in heads.items():
            self._log_of(chat_id).note(head_seq)
        for chat_id, log in self._logs.items():
            if log.shown is None or chat_id in heads:
                log.settle(heads.get(chat_id, 0))
                self._show(chat_id, log, log.held_count)
        self._wake_repair()

    def end(self, last: ConnectionEvent | None = None) -> None:
        """No event comes after ``last``; those in the queue can still be had."""
        if last is not None:
            self._put(Item(last))
        self._has_ended = True
        self._some.set()

    # What is missing

    async def wait_hole(self, room: int) -> tuple[int, Hole]:
        """A chat, and what to ask HISTORY for, once there is room for ``room`` messages more in the queue."""
        while True:
            if not self.is_syncing and self._log_count + min(room, self._max_events) <= self._max_events:
                for chat_id in self._holed:
                    hole = self._logs[chat_id].hole
                    if hole is not None:
                        return chat_id, hole
            self._repairable = trio.Event()
            await self._repairable.wait()

    def fill(self, chat_id: int, hole: Hole, page: Iterable[Message], is_complete: bool) -> None:
        """The answer to HISTORY for ``hole``, oldest first."""
        log = self._logs.get(chat_id)
        if log is None:
            return
        held = log.held_count
        entries = [Entry(message.seq, 0, self._event_of(message)) for message in page]
        self._enqueue(chat_id, log.fill(hole, entries, is_complete))
        if is_complete and log.shown is not None:
            self._put(Item(None, chat_id, log.shown))
        self._holed.pop(chat_id, None)  # behind the other holes, if it is still one
        self._show(chat_id, log, held)

    # The application's side

    async def next_event(self) -> ClientEvent:
        """Acknowledges the event before, and waits. Raises EndOfChannel when ended, BusyResourceError if waited for."""
        if self._is_waited_for:
            raise trio.BusyResourceError("another task waits for the next event")
        self._is_waited_for = True
        try:
            self.acknowledge()
            await trio.lowlevel.checkpoint()
            while True:
                event = self._pop()
                if event is not None:
                    return event
                if self._has_ended:
                    raise trio.EndOfChannel
                self._some = trio.Event()
                await self._some.wait()
        finally:
            self._is_waited_for = False

    def acknowledge(self) -> None:
        """The event that was taken last has been handled."""
        item, self._unacknowledged = self._unacknowledged, None
        if item is not None:
            self.cursors.advance(item.chat_id, item.seq)

    @property
    def waiting_count(self) -> int:
        return len(self._queue)

    # Inside

    @property
    def _has_room(self) -> bool:
        return self._log_count < self._max_events and self._held_count < MAX_HELD_ALL

    def _log_of(self, chat_id: int) -> ChatLog:
        log = self._logs.get(chat_id)
        if log is None:
            log = self._logs[chat_id] = ChatLog(self.cursors[chat_id])
        return log

    def _event_of(self, message: Message) -> LogEvent:
        is_own = message.sender_id == self.user_id and message.kind != wire.Kind.SYSTEM
        return MessageSent(message) if is_own else MessageReceived(message)

    def _show(self, chat_id: int, log: ChatLog, held_before: int) -> None:
        self._enqueue(chat_id, log.take())
        self._held_count += log.held_count - held_before
        if log.hole is None:
            self._holed.pop(chat_id, None)
        else:
            self._holed[chat_id] = None
            self._wake_repair()

    def _enqueue(self, chat_id: int, ready: Iterable[Entry]) -> None:
        for entry in ready:
            self._put(Item(entry.event, chat_id, entry.seq))

    def _put(self, item: Item) -> None:
        self._queue.append(item)
        self._log_count += item.chat_id != 0
        self._some.set()

    def _pop(self) -> ClientEvent | None:
        while self._queue:
            item = self._queue.popleft()
            if item.chat_id:
                self._log_count -= 1
                self._wake_repair()
            if item.event is not None:
                self._unacknowledged = item if item.chat_id else None
                return item.event
            self.cursors.advance(item.chat_id, item.seq)
        return None

    def _wake_repair(self) -> None:
        if self._holed:
            self._repairable.set()

    def _forget(self, chat_id: int) -> None:
        log = self._logs.pop(chat_id, None)
        if log is not None:
            self._held_count -= log.held_count
        self._holed.pop(chat_id, None)
        self.cursors.forget(chat_id)
