"""All chats that this worker serves now: loading, forgetting, and the one cycle in which they advance.

Owns the cache of actors and its bound, and the traffic with the store on their behalf. It knows no op's meaning.

Invariants: at most one open actor per chat; an actor that has something in flight is never forgotten; a tenure that is
lost takes all its actors with it.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple

import structlog
import trio

from gateway.chat.actor import ChatActor
from gateway.chat.marks import WriteBehind
from gateway.chat.membership import is_in
from gateway.chat.ports import Locator, Postman, Room, Tenure
from gateway.chat.request import Request, wake_request
from gateway.chat.route import push_sign
from gateway.protocol.errors import Code
from gateway.protocol.identifiers import ChatId, Epoch, UserId
from gateway.protocol.messages import ChatKind, ReceiptKind, Send
from storage.api import Appended, Batch, Message, SlotLost, Store, StoreError

APPEND_AGAIN_S = 0.1
STOP_TIMEOUT_S = 4.0
STOPPING_PERIOD_S = 0.005
BOUNDS_PERIOD_S = 2.0
PARKED_PERIOD_S = 0.05
PARKED_TIMEOUT_S = 3.0
"""Who waits in a chat whose slot the store does not confirm is answered after so long."""

log = structlog.get_logger(__name__)


class Surroundings(NamedTuple):
    """What the worker gives to the chats."""

    store: Store
    locator: Locator
    postman: Postman
    room: Room
    flush: Callable[[], None]
    on_sent: Callable[[Sequence[float], int], None]
    """Told after the flush: when each acknowledged SEND was received (CLOCK_MONOTONIC, s), and the rows committed."""
    on_slot_lost: Callable[[int, Epoch], None]
    """Told the slot and the epoch that is over; a later one may be held already."""
    on_moved: Callable[[ChatId, Request], None]
    """Takes a request that this worker can no longer serve."""


class Actors:
    """See the module; the ``Environment`` of every actor. ``run`` must be running."""

    def __init__(self, around: Surroundings) -> None:
        self.room = around.room
        self.locator = around.locator
        self.postman = around.postman
        self.marks = WriteBehind(around.store, self._push_receipt, around.flush)
        self.loads = 0
        self.evictions = 0
        self.duplicates = 0
        self._around = around
        self._store = around.store
        self._actors: OrderedDict[ChatId, ChatActor] = OrderedDict()
        self._by_slot: dict[int, dict[ChatActor, None]] = {}
        """The same actors: a worker may lose thousands of slots at once, and must not walk over all chats for each."""
        self._dirty: dict[ChatActor, None] = {}
        self._sent: list[float] = []
        self._parked: dict[ChatActor, float] = {}
        """Since when (Trio's clock). Their tenures are not current."""
        self._has_parked = trio.Event()
        self._nursery: trio.Nursery | None = None
        self._on_appended = self._appended
        self._committed_rows = 0

    def __len__(self) -> int:
        return len(self._actors)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self.marks.run)
            nursery.start_soon(self._keep_bounds)
            nursery.start_soon(self._watch_parked)
            task_status.started()

    async def _keep_bounds(self) -> None:
        try:
            while True:
                await trio.sleep(BOUNDS_PERIOD_S)
                self._forget_ids()
        finally:
            self._nursery = None  # cancelled: others of the worker may still ask, and nothing more is begun

    def _start_soon(self, function: Callable[..., Awaitable[None]], *args: Any) -> bool:
        """False, and not begun: the worker ends."""
        if self._nursery is None:
            return False
        self._nursery.start_soon(function, *args)
        return True

    def loaded(self, chat_id: ChatId) -> ChatActor | None:
        """The chat's actor if it is open; does not load it."""
        actor = self._actors.get(chat_id)
        return actor if actor is not None and actor.is_open and not actor.tenure.is_lost else None

    # ---------------------------------------------------------------------------------------------- requests

    def submit(self, chat_id: ChatId, tenure: Tenure, request: Request) -> None:
        """Hand a request to its chat, loading it first if need be."""
        actor = self._actors.get(chat_id)
        if actor is None or actor.tenure is not tenure:
            if actor is not None:
                self._close(actor, Code.MOVED, "the chat changed hands")
            actor = self._load(chat_id, tenure)
            if actor is None:
                request.refuse(Code.OVERLOADED, "too many chats are busy, or the worker ends", retry_after_ms=1000)
                return
        else:
            self._actors.move_to_end(chat_id)
        actor.submit(request)

    def _load(self, chat_id: ChatId, tenure: Tenure) -> ChatActor | None:
        if len(self._actors) >= self.room.max_actors and not self._evict():
            return None
        actor = ChatActor(chat_id, tenure, self)
        if not self._start_soon(self._open, actor):
            return None
        self._actors[chat_id] = actor
        self._by_slot.setdefault(tenure.slot, {})[actor] = None
        self.loads += 1
        return actor

    async def _open(self, actor: ChatActor) -> None:
        try:
            opened = await self._store.open_chat(actor.chat_id, actor.tenure.epoch)
        except SlotLost:
            if not actor.is_closed:
                self.lost(actor)
            return
        except StoreError as error:
            log.warning("chat_not_opened", chat_id=actor.chat_id, error=str(error))
            self._close(actor, Code.UNAVAILABLE, "the store did not answer")
            return
        if actor.is_closed:
            return
        if opened is None:
            self._close(actor, Code.NOT_FOUND, "no such chat")
        elif await self._is_confirmed(actor):
            actor.opened(opened)
            self.finish_cycle()

    async def _is_confirmed(self, actor: ChatActor) -> bool:
        """What was read may be used once the tenure is current. False: the actor was closed instead."""
        with trio.move_on_after(PARKED_TIMEOUT_S):
            while not actor.tenure.is_current and not actor.tenure.is_lost:
                await trio.sleep(PARKED_PERIOD_S)
        if actor.is_closed:
            return False
        if actor.tenure.is_lost:
            self.lost(actor)
            return False
        if not actor.tenure.is_current:
            self._close(actor, Code.UNAVAILABLE, "the store does not confirm who owns the chat")
            return False
        return True

    async def _watch_parked(self) -> None:
        """One walk for all of them: when the store is away, that is every chat."""
        while True:
            await self._has_parked.wait()
            await trio.sleep(PARKED_PERIOD_S)
            parked, self._parked = self._parked, {}
            self._has_parked = trio.Event()
            for actor, since_s in parked.items():
                self._look_after(actor, since_s)
            self.finish_cycle()

    def _look_after(self, actor: ChatActor, since_s: float) -> None:
        if actor.is_closed:
            return
        if actor.tenure.is_lost:
            self.lost(actor)
        elif actor.tenure.is_current:
            actor.resume()
        else:
            if trio.current_time() - since_s > PARKED_TIMEOUT_S:
                actor.refuse_waiting()
            self._parked[actor] = since_s
            self._has_parked.set()

    def park(self, actor: ChatActor) -> None:
        self._parked.setdefault(actor, trio.current_time())
        self._has_parked.set()

    def _evict(self) -> bool:
        for actor in self._actors.values():
            if actor.is_idle:
                actor.is_closed = True
                self._drop(actor)
                self.evictions += 1
                return True
        return False

    def _forget_ids(self) -> None:
        """Keep all actors' remembered ids within the bound: the chats that were quiet longest forget first."""
        excess = sum(len(actor.ids) for actor in self._actors.values()) - self.room.max_remembered
        for actor in self._actors.values():
            if excess <= 0:
                return
            count = min(excess, len(actor.ids))
            actor.ids.forget(count)
            excess -= count

    # ---------------------------------------------------------------------------------------------- the cycle

    def advance_later(self, actor: ChatActor) -> None:
        self._dirty[actor] = None

    def advance_dirty(self) -> None:
        """Start batches for every chat that something happened to. The worker calls it at the end of its dispatch."""
        while self._dirty:
            dirty, self._dirty = self._dirty, {}
            for actor in dirty:
                actor.advance()

    def finish_cycle(self) -> None:
        """For what happens outside of a dispatch: advance, and flush."""
        self.advance_dirty()
        self._around.flush()
        if self._sent or self._committed_rows:
            self._around.on_sent(self._sent, self._committed_rows)
            self._sent.clear()
            self._committed_rows = 0

    def append(self, batch: Batch) -> None:
        self._store.append(batch, self._on_appended)

    def append_again(self, batch: Batch) -> None:
        self._start_soon(self._append_after_a_pause, batch)

    async def _append_after_a_pause(self, batch: Batch) -> None:
        await trio.sleep(APPEND_AGAIN_S)
        actor = self._actors.get(ChatId(batch.chat_id))
        if actor is not None and actor.is_waiting_for(batch):
            self.append(batch)

    def _appended(self, ended: Sequence[Appended]) -> None:
        """All batches of one commit at once: everything that leaves because of them shares one flush."""
        for batch, error in ended:
            actor = self._actors.get(ChatId(batch.chat_id))
            if actor is None:
                continue
            if error is None:
                self._committed_rows += len(batch.rows)
            elif isinstance(error, StoreError):
                log.warning("batch_not_stored", chat_id=batch.chat_id, rows=len(batch.rows), error=str(error))
            actor.batch_ended(batch, error)
        self.finish_cycle()

    def sent(self, request: Request) -> None:
        self._sent.append(request.received_s)

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    # ---------------------------------------------------------------------------------------------- look-ups

    def look_up(self, actor: ChatActor, requests: Sequence[Request]) -> None:
        self._start_soon(self._look_up, actor, requests)

    async def _look_up(self, actor: ChatActor, requests: Sequence[Request]) -> None:
        by_sender: dict[int, list[bytes]] = {}
        for request in requests:
            assert isinstance(request.message, Send)
            by_sender.setdefault(request.user_id, []).append(request.message.client_msg_id)
        found: list[Message] = []
        failure: StoreError | None = None
        try:
            for sender_id, ids in by_sender.items():
                found += await self._store.find_sent(actor.chat_id, UserId(sender_id), ids)
        except StoreError as error:
            failure = error
        actor.looked_up(found, failure)
        self.finish_cycle()

    # ---------------------------------------------------------------------------------------------- endings

    def lost(self, actor: ChatActor) -> None:
        """The slot has another owner: nothing of it may be served any more under this tenure."""
        tenure = actor.tenure
        self._around.on_slot_lost(tenure.slot, tenure.epoch)
        self.slot_lost(tenure.slot, tenure.epoch)

    def slot_lost(self, slot: int, epoch: Epoch) -> None:
        """Somebody else owns the slot: close what was served under this epoch."""
        for actor in self._of_slots([slot]):
            if actor.tenure.epoch == epoch:
                self._close(actor, Code.MOVED, "the chat has another owner now")

    def wake(self, chat_id: ChatId, tenure: Tenure) -> None:
        """Load the chat, whose new owner then repeats what may not have been told."""
        self.submit(chat_id, tenure, wake_request(chat_id))

    def conflict(self, actor: ChatActor) -> None:
        log.error("memory_contradicts_store", chat_id=actor.chat_id, head=actor.head)
        self._close(actor, Code.INTERNAL, "the chat is read anew")

    async def stop(self, slots: Sequence[int]) -> None:
        """Serve these slots no more; return when nothing of them is in flight and their marks are written."""
        with trio.move_on_after(STOP_TIMEOUT_S):
            while any(actor.is_in_flight for actor in self._of_slots(slots)):
                await trio.sleep(STOPPING_PERIOD_S)
        for actor in self._of_slots(slots):
            self._close(actor, Code.MOVED, "the chat moves to another owner")
        await self.marks.write()

    def _of_slots(self, slots: Sequence[int]) -> list[ChatActor]:
        return [actor for slot in slots for actor in self._by_slot.get(slot, ())]

    def _drop(self, actor: ChatActor) -> None:
        if self._actors.get(actor.chat_id) is actor:
            del self._actors[actor.chat_id]
        of_slot = self._by_slot.get(actor.tenure.slot, {})
        of_slot.pop(actor, None)
        if not of_slot:
            self._by_slot.pop(actor.tenure.slot, None)

    def _close(self, actor: ChatActor, code: Code, message: str) -> None:
        """MOVED: who waits is handed on to the next owner; else ``code`` is the answer."""
        self._drop(actor)
        for request in actor.close():
            if code == Code.MOVED:
                self._around.on_moved(actor.chat_id, request)
            else:
                request.refuse(code, message, retry_after_ms=1000 if code == Code.UNAVAILABLE else None)
        self._around.flush()

    # ---------------------------------------------------------------------------------------------- receipts

    def _push_receipt(self, chat_id: int, user_id: int, device_id: int, frame: bytes, kind: ReceiptKind) -> None:
        """Direct chats: to both people's other devices. Groups: only READ, to the reader's other devices."""
        actor = self.loaded(ChatId(chat_id))
        if actor is None:
            return
        audience: tuple[int, ...] = (user_id,) if kind == ReceiptKind.READ else ()
        if actor.chat.kind == ChatKind.DIRECT:
            audience = (*audience, *(u for u, m in actor.members.items() if is_in(m) and u != user_id))
        push_sign(self.locator, self.postman, audience, frame, but=(user_id, device_id))
