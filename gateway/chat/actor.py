"""One chat: the single place where its messages get their order.

Theory of operation
===================

An actor serves one chat under one tenure. Requests come in through ``submit`` and wait in ``_queue`` in order of arrival.
Its life is: loading → open → closed.

Loading. Nothing is known yet; everything waits. The registry reads the chat through ``open_chat``, which fences what
earlier owners may still write, and calls ``opened`` (or ``close``, and answers all who wait).

Open. ``advance`` is called once a cycle for every actor that something happened to, never per request: sixteen SENDs of
one read of a socket become one batch. It drafts the queue's head into rows (``draft.py``) and appends them. *One batch is
in flight*: until the store has said what became of it, no further row gets a seq. That one rule gives three things. The
log has no holes, because counters are used up in order. A resend of something in flight needs no table: it waits in the
queue and is recognised when the batch is committed. And a batch whose outcome is unknown can be written again, the same
bytes under the same seqs, until the store knows it.

Before a draft, SENDs that the memory of ids cannot answer for (``remembered.py``) are looked up in the store, all at once;
the queue waits meanwhile, because a session's SENDs keep their order.

The end of a batch:
  committed         the head moves; the rows go out.
  StoreUnavailable  nothing was stored. Everybody who waits for the batch is answered 501; the counters are used again.
  StoreTimedOut     unknown. The same batch is appended again after a pause, for as long as the tenure lasts, whatever
                    a later try says: that nothing was stored by one call says nothing about the one before it. The
                    queue is bounded, so that a store that is away costs refusals, not memory.
  StoreConflict     our bug. Everybody is answered 500, and the chat is read anew.
  SlotLost          somebody else owns the chat, and nothing of the batch counts. The actor closes for good; who waits is
                    sent on to the next owner.
After every answer of the store, and before anything is answered from memory, the tenure is asked. Is it lost, the actor
closes. Is it not current, because the store has not confirmed it in time, nothing leaves and nothing that the store said
counts yet: the actor is *parked*. It stays as it is, a batch that was acknowledged meanwhile included, until the tenure is
confirmed (``resume``: it goes on) or lost. Who has waited too long by then is answered that the outcome is unknown.

Repeating. A former owner may have committed rows and died before it pushed them. Under a tenure that was inherited and not
handed over, ``opened`` pushes again what is younger than ``REPEAT_MS`` or was adopted; a client drops what it holds.

Going out. SENT to the sender and MSG to everybody else leave in the order of the log, also on one connection: who has
SENT of row 8 has seen MSG of row 7. So rows wait in ``_outgoing`` until the whole audience's places are known; asking the
directory never blocks the next batch, only its delivery. Each row goes to those who may see it, which is another audience
than the present one while a change of membership is on its way out. Rows of one sender that end together are glued into one push:
the cost of a push is per connection, not per row.

Closed. Every waiting request was handed back; a late answer of the store is ignored.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from functools import partial
from itertools import islice, takewhile

import msgspec

from gateway.chat.draft import Draft, DraftedRow, answer_ending, answer_resend, digest_of
from gateway.chat.environment import Environment
from gateway.chat.membership import is_in
from gateway.chat.ports import Tenure
from gateway.chat.queries import answer_query
from gateway.chat.remembered import RememberedIds
from gateway.chat.request import InternalOp, Request
from gateway.chat.route import Route, plan_route, unknown_users
from gateway.protocol.errors import Code
from gateway.protocol.frames import encode_payload
from gateway.protocol.identifiers import ID_LIMIT, ChatId, UserId, epoch_of
from gateway.protocol.messages import Kind, Op, Send, Sent
from storage.api import (
    MAX_BATCH_ROWS,
    Batch,
    Member,
    Message,
    OpenedChat,
    SlotLost,
    StoreConflict,
    StoreError,
    Watermark,
)

MAX_GLUED_BYTES = 32_768
"""Of MSG frames in one push: well below an outbox's bound, so that a burst mutes only who is really behind."""

REPEAT_MS = 15_000
"""How far back a new owner pushes again: longer than anybody takes to notice that the former one has died."""

MAX_UNDELIVERED_ROWS = 4 * MAX_BATCH_ROWS
"""Rows that may wait for the directory before the chat takes no further batch."""

QUEUED_OPS = frozenset({Op.SEND, Op.CHAT_CHANGE, Op.CHAT_LEAVE, InternalOp.FOUND})

_MSG_FIELDS = 10
_ENCODER = msgspec.msgpack.Encoder()


class ChatActor:
    """See the module. All methods are synchronous and called on the Trio thread."""

    def __init__(self, chat_id: ChatId, tenure: Tenure, environment: Environment) -> None:
        self.chat_id = chat_id
        self.tenure = tenure
        self.is_open = False
        self.is_closed = False
        self.members: dict[int, Member] = {}
        self.marks: dict[int, Watermark] = {}
        self.head = 0
        self.head_time_ms = 0
        self.ids = RememberedIds(())
        self._environment = environment
        self._queue: deque[Request] = deque()
        self._draft: Draft | None = None
        self._looking_up: list[Request] = []
        self._outgoing: deque[DraftedRow] = deque()
        self._is_locating = False
        self._is_unconfirmed = False
        """The store has acknowledged the draft, past what the tenure was good for."""
        self._route: Route | None = None
        self._changed_seq = 0
        """The newest row that may have changed who is in: from the next one on, the audience is today's."""

    @property
    def is_idle(self) -> bool:
        """May be forgotten: nothing waits, nothing is in flight."""
        return (self.is_closed or self.is_open) and not (
            self._queue or self._draft or self._looking_up or self._outgoing
        )

    @property
    def is_in_flight(self) -> bool:
        """A batch is with the store, or what it became has not gone out."""
        return bool(self._draft or self._outgoing)

    def is_waiting_for(self, batch: Batch) -> bool:
        """Is it the batch in flight? One of an earlier tenure may still end. A seq names its epoch, so it tells."""
        return self._draft is not None and self._draft.rows[0].row.seq == batch.rows[0].seq

    # ---------------------------------------------------------------------------------------------- life

    def opened(self, opened: OpenedChat) -> None:
        """The store has read the chat. What its last owner may not have pushed goes out again."""
        self.chat = opened.chat
        self.members = {member.user_id: member for member in opened.members}
        self.marks = {mark.user_id: mark for mark in opened.watermarks}
        self.ids = RememberedIds(opened.tail)
        if opened.tail:
            self.head, self.head_time_ms = opened.tail[0].seq, opened.tail[0].time_ms
        self._changed_seq = max((max(m.joined_seq, m.left_seq) for m in opened.members), default=0)
        self.is_open = True
        waiting, self._queue = self._queue, deque()
        for request in waiting:
            self.submit(request)
        self._outgoing.extend(DraftedRow(row, []) for row in self._untold(opened))
        self._deliver()

    def _untold(self, opened: OpenedChat) -> list[Message]:
        """Oldest first."""
        adopted_from = min((row.seq for row in opened.adopted), default=ID_LIMIT)
        young_ms = self._environment.now_ms() - REPEAT_MS if self.tenure.is_inherited else ID_LIMIT
        untold = takewhile(lambda row: row.seq >= adopted_from or row.time_ms >= young_ms, opened.tail[:MAX_BATCH_ROWS])
        return [row for row in untold if epoch_of(row.seq) < self.tenure.epoch][::-1]

    def close(self) -> list[Request]:
        """Serve no more, for good. Returns who still waits, oldest first; what is committed has gone out or is in the log."""
        self.is_closed = True
        self._route = None
        waiting = [request for drafted in self._outgoing for request in drafted.waiters]
        waiting += _waiters(self._draft) if self._draft is not None else []
        waiting += self._queue
        self._draft = None
        self._outgoing.clear()
        self._queue.clear()
        self._looking_up.clear()
        for request in waiting:
            request.looked_up_at = -1  # it may have been committed since: the next owner has to look again
        return waiting

    def submit(self, request: Request) -> None:
        """Take a request. It is answered now, or in order when ``advance`` comes to it."""
        if self.is_open and request.op not in QUEUED_OPS:
            answer_query(self, request, self._environment)
        elif len(self._queue) >= self._environment.room.max_queued:
            request.refuse(Code.OVERLOADED, "too much waits in this chat", retry_after_ms=1000)
        else:
            self._queue.append(request)
            self._environment.advance_later(self)

    # ---------------------------------------------------------------------------------------------- appending

    def advance(self) -> None:
        """Start what can be started: a look-up, or a batch."""
        if self._draft or self._looking_up or not self._queue or not self.is_open or self.is_closed:
            return
        if len(self._outgoing) > MAX_UNDELIVERED_ROWS or not self._may_speak():
            return
        self._looking_up = self._unknown_resends()
        if self._looking_up:
            for request in self._looking_up:
                request.looked_up_at = self.ids.forgotten
            self._environment.look_up(self, self._looking_up)
        else:
            self._append()

    def _may_speak(self) -> bool:
        """Asked before anything leaves. False: the actor is parked, or closed."""
        if self.tenure.is_current:
            return True
        if self.tenure.is_lost:
            self._environment.lost(self)
        else:
            self._environment.park(self)
        return False

    def resume(self) -> None:
        """The tenure is current again: what was held back leaves."""
        draft = self._draft
        if draft is not None and self._is_unconfirmed:
            self._draft, self._is_unconfirmed = None, False
            self._committed(draft)
        self._deliver()
        self.advance()

    def refuse_waiting(self) -> None:
        """The tenure has not been current for long: nobody waits any longer. What is under way goes on without them."""
        drafted = [*self._outgoing, *(self._draft.rows if self._draft else ())]
        waiting = [request for row in drafted for request in row.waiters]
        waiting += [request for request, _ in self._draft.endings] if self._draft else []
        for row in drafted:
            row.waiters.clear()
        if self._draft:
            self._draft.endings.clear()
        waiting += self._queue
        self._queue.clear()
        for request in waiting:
            request.refuse(Code.MOVED, "the store does not confirm who owns the chat", retry_after_ms=1000)

    def _unknown_resends(self) -> list[Request]:
        if self.ids.since_ms == 0:
            return []
        now_ms = self._environment.now_ms()
        return [r for r in islice(self._queue, MAX_BATCH_ROWS) if r.op == Op.SEND and self._must_look_up(r, now_ms)]

    def _must_look_up(self, request: Request, now_ms: int) -> bool:
        send = request.message
        assert isinstance(send, Send)
        if request.looked_up_at == self.ids.forgotten:
            return False
        is_known = self.ids.get((request.user_id, send.client_msg_id)) is not None
        return not is_known and not self.ids.is_enough(bool(send.retry), now_ms)

    def looked_up(self, found: Sequence[Message], error: StoreError | None) -> None:
        """The store's answer to ``look_up``: the rows that some of the ids have become already."""
        asked, self._looking_up = self._looking_up, []
        if self.is_closed:
            return
        if not self.tenure.is_current:
            for request in asked:
                request.looked_up_at = -1  # an answer that came too late: it is asked again
            self._may_speak()
            return
        rows = {(row.sender_id, row.client_msg_id): row for row in found}
        settled = set()
        for request in asked:
            send = request.message
            assert isinstance(send, Send)
            row = rows.get((request.user_id, send.client_msg_id))
            if error is not None:
                request.refuse(Code.UNAVAILABLE, "the store did not answer", retry_after_ms=1000)
            elif row is not None and row.seq <= self.head:
                self._environment.duplicates += 1
                answer_resend(request, self.chat_id, row.seq, row.prev_seq, row.time_ms, row.digest == digest_of(send))
            else:
                continue
            settled.add(request)
        self._queue = deque(request for request in self._queue if request not in settled)
        self.advance()

    def _append(self) -> None:
        draft = Draft(self, self.tenure.epoch, self._environment.now_ms(), self._environment.room.max_members)
        for _ in range(min(len(self._queue), MAX_BATCH_ROWS)):  # no further than resends were looked up
            if not draft.has_room_for(self._queue[0]):
                break
            draft.take(self._queue.popleft())
            if draft.rest is not None:
                self._queue.appendleft(draft.rest)
                break
        self._environment.duplicates += draft.duplicates
        if draft.rows:
            self._draft = draft
            self._environment.append(draft.batch())
        else:
            for request, version in draft.endings:
                answer_ending(request, version)
            if self._queue:
                self._environment.advance_later(self)

    def batch_ended(self, batch: Batch, error: StoreError | SlotLost | None) -> None:
        """The store's word about the batch in flight."""
        draft = self._draft
        if draft is None or not self.is_waiting_for(batch):
            return
        if self.tenure.is_lost or isinstance(error, SlotLost):
            self._environment.lost(self)
        elif error is None and not self.tenure.is_current:
            self._is_unconfirmed = True
            self._environment.park(self)
        elif error is None:
            self._draft = None
            self._committed(draft)
            self.advance()
        elif isinstance(error, StoreConflict):
            self._environment.conflict(self)
        elif error.is_unknown or draft.is_unknown:
            draft.is_unknown = True
            self._environment.append_again(batch)
        else:
            self._draft = None
            for request in _waiters(draft):
                request.refuse(Code.UNAVAILABLE, "the store takes no messages now", retry_after_ms=1000)
            self._environment.advance_later(self)

    def _committed(self, draft: Draft) -> None:
        self.chat, self.members = draft.chat, draft.members
        if draft.changes:
            self._route = None
            self._changed_seq = draft.rows[-1].row.seq
        for drafted in draft.rows:
            row = drafted.row
            if row.kind != Kind.SYSTEM:
                self.ids.add(row)
        self.head, self.head_time_ms = row.seq, row.time_ms
        self._outgoing.extend(draft.rows)
        self._deliver()
        for request, version in draft.endings:
            answer_ending(request, version)

    # ---------------------------------------------------------------------------------------------- delivery

    def _deliver(self, asked: frozenset[int] = frozenset()) -> None:
        """Send what is outgoing, once it is known where everybody is, or ``asked`` in vain."""
        if not self._outgoing or self._is_locating or not self._may_speak():
            return
        unknown = [user_id for user_id in self._unlocated() if user_id not in asked]
        if unknown:
            self._is_locating = True
            self._environment.locator.locate_then(unknown, partial(self._located, asked.union(unknown)))
        else:
            self._send_out()

    def _unlocated(self) -> list[UserId]:
        first, route, locator = self._outgoing[0].row.seq, self._route, self._environment.locator
        if first <= self._changed_seq:
            return unknown_users(locator, (u for u, m in self.members.items() if not 0 < m.left_seq < first))
        if route is not None and route.is_complete and route.version == locator.version:
            return []
        return unknown_users(locator, self.audience())

    def _located(self, asked: frozenset[int]) -> None:
        self._is_locating = False
        if self.is_closed:
            return
        self._deliver(asked)
        self._environment.advance_later(self)

    def _send_out(self) -> None:
        """In the order of the log, in runs of one sender: SENT to it, one push of MSGs to everybody else."""
        rows, self._outgoing = self._outgoing, deque()
        while rows:
            run = _next_run(rows)
            first = run[0].row
            self._answer_senders(run)
            route = self.route() if first.seq > self._changed_seq else self._route_at(first.seq)
            but = (first.sender_id, first.sender_device) if first.sender_device else None
            frames = b"".join([encode_payload(Op.MSG, encode_row(drafted.row)) for drafted in run])
            route.push(self._environment.postman, frames, but=but)

    def _answer_senders(self, run: Sequence[DraftedRow]) -> None:
        for row, waiters in run:
            for number, request in enumerate(waiters):
                request.answer(Op.SENT, Sent(row.chat_id, row.seq, row.time_ms, number > 0, row.prev_seq))
                self._environment.sent(request)

    def route(self) -> Route:
        """To all members' devices, as far as known."""
        if self._route is None or self._route.version != self._environment.locator.version:
            self._route = plan_route(self._environment.locator, self.audience())
        return self._route

    def _route_at(self, seq: int) -> Route:
        """To the devices of those who may see this row: who joins later may not, and who is removed by it may."""
        audience = [u for u, m in self.members.items() if m.joined_seq <= seq and not 0 < m.left_seq < seq]
        return plan_route(self._environment.locator, audience)

    def audience(self) -> list[int]:
        """Who is in now."""
        return [user_id for user_id, member in self.members.items() if is_in(member)]


def encode_row(row: Message) -> bytes:
    """The body of MSG: a row's first ten fields are MSG's, in order."""
    return _ENCODER.encode(row[:_MSG_FIELDS])


def _next_run(rows: deque[DraftedRow]) -> list[DraftedRow]:
    """Take rows of one sender's device from the front, up to MAX_GLUED_BYTES. A system row goes alone: its audience is its
    own."""
    run = [rows.popleft()]
    size = len(run[0].row.body)
    if run[0].row.sender_device == 0:
        return run
    sender = run[0].row.sender_id, run[0].row.sender_device
    while rows and (rows[0].row.sender_id, rows[0].row.sender_device) == sender:
        size += len(rows[0].row.body)
        if size > MAX_GLUED_BYTES:
            break
        run.append(rows.popleft())
    return run


def _waiters(draft: Draft) -> list[Request]:
    waiting = [request for drafted in draft.rows for request in drafted.waiters]
    return waiting + [request for request, _ in draft.endings]
