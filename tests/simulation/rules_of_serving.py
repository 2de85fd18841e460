"""Rules of who may speak, and of a chat's actor, taken out one at a time. Owns nothing but the ways to break them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from gateway.chat import actor as actor_module
from gateway.chat.actor import ChatActor
from gateway.chat.draft import Draft
from gateway.chat.request import ViewOk
from gateway.cluster.belief import Beliefs
from gateway.cluster.routing import Router
from gateway.cluster.slots import Slots
from gateway.cluster.tenure import Tenure
from gateway.protocol.identifiers import ID_LIMIT
from gateway.protocol.messages import Op
from storage.api import StoreError, StoreUnavailable
from storage.scylla import slots as stored_slots
from tests.simulation import worker
from tests.simulation.rules import Patches, Rule


def no_wait(patches: Patches) -> None:
    async def hold_after(self: Slots, wait_s: float, tenures: list[Tenure]) -> None:
        await original(self, 0.0, tenures)

    original = patches.set(Slots, "_hold_after", hold_after)


def belief_from_the_reply(patches: Patches) -> None:
    def take(self: Beliefs, asked: Any, confirmed: Any, asked_at_s: float) -> None:
        original(self, asked, confirmed, self._clock())

    original = patches.set(Beliefs, "_take", take)


def clock_that_stands_still(patches: Patches) -> None:
    patches.set(worker, "clock_of", lambda agenda, boundary: boundary.running_s)


def never_silent(patches: Patches) -> None:
    patches.set(Tenure, "is_current", property(lambda self: not self.is_lost))
    patches.set(stored_slots.Slots, "is_doubtful", lambda self, slot, epoch: False)


def memory_unchecked(patches: Patches) -> None:
    """Views and heads are answered past the belief."""

    def answer_query(actor: Any, request: Any, environment: Any) -> None:
        tenure = actor.tenure
        actor.tenure = SimpleNamespace(is_lost=tenure.is_lost, is_current=not tenure.is_lost)
        try:
            original(actor, request, environment)
        finally:
            actor.tenure = tenure

    async def hold(self: Router, chat_ids: Any) -> Any:
        tenures = await original_hold(self, chat_ids)
        return [
            SimpleNamespace(slot=t.slot, epoch=t.epoch, is_lost=t.is_lost, is_current=not t.is_lost, is_inherited=False)
            for t in tenures
        ]

    original = patches.set(actor_module, "answer_query", answer_query)
    original_hold = patches.set(Router, "hold", hold)


def unconfirmed_head(patches: Patches) -> None:
    """An acknowledgement past the belief moves the head, and the next batch is formed on it. Nothing leaves."""

    def batch_ended(self: ChatActor, batch: Any, error: Any) -> None:
        draft = self._draft
        if draft is None or error is not None or self.tenure.is_current or not self.is_waiting_for(batch):
            original(self, batch, error)
            return
        self._draft = None
        self._committed(draft)
        self.advance()

    def advance(self: ChatActor) -> None:
        if self._draft or self._looking_up or not self._queue or not self.is_open or self.is_closed:
            return
        if self.tenure.is_lost or self.tenure.is_current or self._unknown_resends():
            original_advance(self)
        else:
            self._append()

    original = patches.set(ChatActor, "batch_ended", batch_ended)
    original_advance = patches.set(ChatActor, "advance", advance)


def epoch_not_raised(patches: Patches) -> None:
    """A worker that the row names goes on under its epoch."""

    def claim(self: Any, part: int, slot: int, owner: Any, seen: Any) -> Any:
        write = original(self, part, slot, owner, seen)
        if seen is not None and seen.worker == owner[0] and not seen.is_released:
            return write._replace(values=(seen.epoch, *write.values[1:]))
        return write

    async def acquire(self: Any, slots: Any, owner: Any, seen: Any) -> Any:
        won = await original_acquire(self, slots, owner, seen)
        kept = {
            slot: seen[slot].epoch
            for slot in won
            if slot in seen and seen[slot].worker == owner[0] and not seen[slot].is_released
        }
        for slot, epoch in kept.items():
            self._confirmed[slot] = self._confirmed[slot]._replace(epoch=epoch)
        return {**won, **kept}

    original = patches.set(stored_slots.Slots, "_claim", claim)
    original_acquire = patches.set(stored_slots.Slots, "acquire", acquire)


def release_that_is_not_final(patches: Patches) -> None:
    """A holder writes `released` and goes on until somebody else has the slot."""

    async def release(self: Slots, slots: list[int]) -> None:
        await self._write_released({slot: self._tenures[slot].epoch for slot in slots if slot in self._tenures})

    async def still_held(self: Any, epochs: Any, owner: Any) -> set[int]:
        held = await original(self, epochs, owner)
        for slot, epoch in epochs.items():
            row = self._parts[slot // 64].rows.get(slot)
            if row is not None and row[:3] == (epoch, *owner):
                held.add(slot)
                self._confirmed[slot] = stored_slots._Confirmed(epoch, self._clock())
        return held  # type: ignore[no-any-return]

    patches.set(Slots, "_release", release)
    original = patches.set(stored_slots.Slots, "still_held", still_held)


class _Ahead:
    """The log as it will be when the batch in flight is committed."""

    def __init__(self, actor: ChatActor, draft: Draft) -> None:
        last = draft.rows[-1].row
        self.chat, self.members, self.ids = draft.chat, draft.members, actor.ids
        self.head, self.head_time_ms = last.seq, last.time_ms
        self.committed = actor.head


def two_in_flight(patches: Patches) -> None:  # noqa: C901  # one rule, one place
    """The next batch does not wait for the end of the one before."""
    second: dict[ChatActor, Draft] = {}
    ended: dict[ChatActor, bool] = {}

    def advance(self: ChatActor) -> None:
        if self._draft is None or self in second or not self._queue or self._looking_up or self.is_closed:
            original_advance(self)
            return
        if any(request.op != Op.SEND for request in self._queue) or not self._may_speak() or self._draft.rest:
            return
        draft = Draft(_Ahead(self, self._draft), self.tenure.epoch, self._environment.now_ms(), 8)  # type: ignore[arg-type]
        while self._queue and draft.has_room_for(self._queue[0]):
            draft.take(self._queue.popleft())
        if draft.rows:
            second[self] = draft
            self._environment.append(draft.batch()._replace(base_seq=self.head))

    def is_waiting_for(self: ChatActor, batch: Any) -> bool:
        return original_waiting(self, batch) or (
            self in second and second[self].rows[0].row.seq == batch.rows[0].seq and not self.is_closed
        )

    def batch_ended(self: ChatActor, batch: Any, error: Any) -> None:
        draft = second.get(self)
        if draft is not None and draft.rows[0].row.seq == batch.rows[0].seq:
            if error is None:
                ended[self] = True
                for drafted in draft.rows:  # told at once: the batch before has not ended
                    for request in drafted.waiters:
                        row = drafted.row
                        body = actor_module.Sent(row.chat_id, row.seq, row.time_ms, False, row.prev_seq)
                        request.answer(Op.SENT, body)
                    drafted.waiters.clear()
            elif isinstance(error, StoreError):
                self._environment.append_again(batch)
            return
        original_ended(self, batch, error)
        if self._draft is None and draft is not None:
            del second[self]
            self._draft = draft
            if ended.pop(self, False):
                self._draft = None
                self._committed(draft)
                self.advance()

    original_advance = patches.set(ChatActor, "advance", advance)
    original_waiting = patches.set(ChatActor, "is_waiting_for", is_waiting_for)
    original_ended = patches.set(ChatActor, "batch_ended", batch_ended)


def seqs_used_again(patches: Patches) -> None:
    """After a time-out the batch is given up, and other rows get its seqs."""

    def batch_ended(self: ChatActor, batch: Any, error: Any) -> None:
        if isinstance(error, StoreError) and error.is_unknown:
            error = StoreUnavailable("given up")
        original(self, batch, error)

    original = patches.set(ChatActor, "batch_ended", batch_ended)


def unbounded_reads(patches: Patches) -> None:
    """HISTORY reads to the end of what the store shows."""

    def answer_view(actor: Any, request: Any) -> None:
        request.answer(Op.OK, ViewOk(0, ID_LIMIT - 2))

    from gateway.chat import queries

    patches.set(queries, "answer_view", answer_view)


def no_look_back(patches: Patches) -> None:
    """A SEND without retry is looked for in memory alone."""

    def must_look_up(self: ChatActor, request: Any, now_ms: int) -> bool:
        return bool(request.message.retry) and original(self, request, now_ms)

    original = patches.set(ChatActor, "_must_look_up", must_look_up)


RULES = (
    Rule("wait", "a new owner waits before it loads a chat", no_wait),
    Rule("before", "belief is counted from before the question was sent, not from its reply", belief_from_the_reply),
    Rule("boottime", "the clock of the belief does not stand still with the process", clock_that_stands_still),
    Rule("check", "after every reply of the store the belief is checked before anything leaves", never_silent),
    Rule("check-memory", "what is answered from memory is checked too", memory_unchecked),
    Rule("check-base", "an acknowledgement past the belief does not move the committed head", unconfirmed_head),
    Rule("raise", "every acquisition raises the epoch, a restarted worker's too", epoch_not_raised),
    Rule("release-final", "who releases has stopped for good under that epoch", release_that_is_not_final),
    Rule("inflight", "a chat has one batch in flight", two_in_flight),
    Rule("reuse", "a seq that was sent to the store is never given to another row", seqs_used_again),
    Rule("head", "nothing is read beyond the head that the owner named", unbounded_reads),
    Rule("lookback", "a SEND without retry is looked for in the store too while its chat is fresh", no_look_back),
)
