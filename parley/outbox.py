"""Messages on their way to being durable: kept from ``send`` until the server's last word.

Pure but for the events that wake waiters; times are given by the caller. It must not know connections or rids.

Invariant: the messages of a chat are offered in the order of ``add``, at most ``per_chat`` unanswered at once, and
none is dropped but by an answer, by ``withdraw`` before it was offered, or by age: the server recognises a resend for
7 days, after which sending again could store a message twice. Bound: ``limit`` messages in all.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from itertools import islice

import trio

from gateway.protocol.errors import Code
from gateway.protocol.messages import Send
from gateway.protocol.policy import AfterError, after_error, retry_wait_s
from parley.errors import NotConnected, OutboxFull, OutcomeUnknown, ParleyError, Refused
from parley.model import Sent

RESEND_FOR_S = 7 * 24 * 3600.0 - 3600.0
"""The server's 7 days, less an hour for clocks and for the way."""

MAX_INTERNAL_ERRORS = 5
"""Answers 500 after which a message is given up: it is more likely the cause than the victim."""


class PendingSend:
    """A message in the outbox. ``await pending.sent()`` as often as you like."""

    def __init__(self, send: Send, lane: Lane, expires_at: float) -> None:
        self.message = send
        self.expires_at = expires_at
        self.is_in_flight = False
        self.was_offered = False
        self.refusals = 0
        self.waiters = 0
        self.lane = lane
        self._settled = trio.Event()
        self._outcome: Sent | ParleyError = NotConnected("not settled yet")

    @property
    def chat_id(self) -> int:
        return self.message.chat_id

    @property
    def client_msg_id(self) -> bytes:
        return self.message.client_msg_id

    @property
    def is_settled(self) -> bool:
        return self._settled.is_set()

    async def sent(self) -> Sent:
        """Wait until the message is durable. Raises Refused, OutcomeUnknown or NotConnected. Cancelling changes
        nothing.
        """
        self.waiters += 1
        try:
            await self._settled.wait()
        finally:
            self.waiters -= 1
        if isinstance(self._outcome, ParleyError):
            raise self._outcome.with_traceback(None)
        return self._outcome

    def withdraw(self) -> bool:
        """Take the message back. False if it may have gone out already: then it stays, and may arrive."""
        if self.was_offered or self.is_settled:
            return False
        self.lane.settle(self, NotConnected("withdrawn before it was sent"))
        return True

    def settle(self, outcome: Sent | ParleyError) -> None:
        self._outcome = outcome
        self._settled.set()


@dataclass(slots=True)
class Lane:
    """The messages of one chat, in order."""

    outbox: Outbox
    not_before: float = 0.0
    sends: deque[PendingSend] = field(default_factory=deque)

    def next_at(self, per_chat: int) -> PendingSend | None:
        """The message that may go next, if one may."""
        for pending in islice(self.sends, per_chat):
            if not pending.is_in_flight:
                return pending
        return None

    def settle(self, pending: PendingSend, outcome: Sent | ParleyError) -> None:
        self.sends.remove(pending)
        pending.settle(outcome)
        self.outbox.note_settled(pending)


class Outbox:
    def __init__(self, limit: int, per_chat: int) -> None:
        self._limit = limit
        self._per_chat = per_chat
        self._not_before = 0.0
        self._lanes: dict[int, Lane] = {}
        self._by_id: dict[tuple[int, bytes], PendingSend] = {}
        self._settled_ids: list[bytes] = []
        self._room = trio.Event()
        self._changed = trio.Event()

    def __len__(self) -> int:
        return len(self._by_id)

    def add(self, send: Send, now: float, *, age_s: float = 0.0) -> PendingSend:
        """Queue a message; the same id with the same content is the message that waits already.

        Raises OutboxFull, and Refused (id_reused) for a waiting id with other content.
        """
        waiting = self._by_id.get((send.chat_id, send.client_msg_id))
        if waiting is not None:
            if _content(waiting.message) != _content(send):
                raise Refused(Code.ID_REUSED, "this client_msg_id waits with other content")
            return waiting
        if len(self._by_id) >= self._limit:
            raise OutboxFull(f"{self._limit} messages wait to be sent")
        lane = self._lanes.setdefault(send.chat_id, Lane(self))
        pending = PendingSend(send, lane, now + RESEND_FOR_S - age_s)
        lane.sends.append(pending)
        self._by_id[send.chat_id, send.client_msg_id] = pending
        self._changed.set()
        return pending

    async def wait_room(self) -> None:
        while len(self._by_id) >= self._limit:
            if self._room.is_set():
                self._room = trio.Event()  # never while others wait on it
            await self._room.wait()

    async def wait_changed(self) -> None:
        self._changed = trio.Event()
        await self._changed.wait()

    def offer(self, now: float) -> PendingSend | None:
        """The next message to put on the wire, chats in turn; it counts as in flight from here."""
        if now < self._not_before:
            return None
        for chat_id, lane in self._lanes.items():
            pending = lane.next_at(self._per_chat) if now >= lane.not_before else None
            if pending is not None:
                self._lanes[chat_id] = self._lanes.pop(chat_id)
                return self._launch(lane, pending, now)
        return None

    def next_time(self) -> float:
        """When a paused chat may go on, to call ``offer`` again; infinity if none is paused."""
        lanes = (lane.not_before for lane in self._lanes.values() if lane.next_at(self._per_chat) is not None)
        return max(self._not_before, min(lanes, default=float("inf")))

    def _launch(self, lane: Lane, pending: PendingSend, now: float) -> PendingSend | None:
        if now >= pending.expires_at:
            lane.settle(pending, OutcomeUnknown("not answered for 7 days"))
            return self.offer(now)
        if pending.was_offered:
            pending.message.retry = True
        pending.is_in_flight = pending.was_offered = True
        return pending

    # The server's word

    def stored(self, pending: PendingSend, sent: Sent) -> None:
        pending.lane.settle(pending, sent)

    def refused(self, pending: PendingSend, error: Refused, now: float) -> None:
        """ERROR. A final one lets the next message of the chat go on. Not stored for now (4xx): every chat waits,
        since the limit may be of the whole device. The server could not (5xx): the outcome is unknown, the chat tries
        again later.
        """
        pending.is_in_flight = False
        until = now + retry_wait_s(error.retry_after_ms, pending.refusals)
        pending.refusals += 1
        match after_error(error.code, retry_after_ms=error.retry_after_ms):
            case AfterError.WAIT:
                self.pause(until)
            case AfterError.RESEND if error.code == Code.INTERNAL and pending.refusals >= MAX_INTERNAL_ERRORS:
                pending.lane.settle(pending, OutcomeUnknown(str(error)))
            case AfterError.RESEND:
                self.pause(until, pending.chat_id)
            case _:
                pending.lane.settle(pending, error)

    def pause(self, until: float, chat_id: int | None = None) -> None:
        """Offer nothing (of this chat) before ``until``."""
        if chat_id is None:
            self._not_before = max(self._not_before, until)
        elif chat_id in self._lanes:
            self._lanes[chat_id].not_before = max(self._lanes[chat_id].not_before, until)
        self._changed.set()

    def connection_lost(self) -> None:
        """What was in flight has an unknown outcome and will be offered again, in the same order."""
        for pending in self._by_id.values():
            pending.is_in_flight = False
        self._changed.set()

    def close(self, error: ParleyError) -> None:
        """Nobody will send these any more from here. A store still has them."""
        for pending in self._by_id.values():
            pending.settle(error)
        self._by_id.clear()
        self._lanes.clear()
        self._room.set()

    def note_settled(self, pending: PendingSend) -> None:
        self._by_id.pop((pending.chat_id, pending.client_msg_id), None)
        lane = self._lanes.get(pending.chat_id)
        if lane is not None and not lane.sends:
            del self._lanes[pending.chat_id]
        self._settled_ids.append(pending.client_msg_id)
        self._room.set()
        self._changed.set()

    def take_settled(self) -> list[bytes]:
        """Ids that the store may forget, since the last call."""
        settled, self._settled_ids = self._settled_ids, []
        return settled


def _content(send: Send) -> tuple[int, bytes, int | None]:
    return send.kind, send.body, send.target_seq
