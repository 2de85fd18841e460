"""Slots: which of them this worker owns, how it gets one, and how it lets one go.

Theory of operation
===================

A chat hashes to a slot. Whoever holds the slot gives the chat's messages their order. So two things are to be kept apart:
who *should* own a slot, which everybody computes from the set of live workers and which may differ from worker to worker
for a moment; and who *does*, which the store alone decides. The first is a matter of speed. Only the second is a matter
of truth, and nothing on this page can break it: a tenure is an epoch that the store gave out by compare-and-set, and rows
appended under an epoch that is not the slot's do not count. If everything here went wrong at once, workers would waste
their time taking slots from each other, and no message would be lost, doubled or out of order.

A *tenure* is (slot, epoch), and its life is: absent → acquiring → held → stopping → released; or held → lost.

Acquiring. Slots are taken at the first request for one of their chats, never in advance: most slots of a big cluster are
idle, and a restart must not cost 16,384 conditional writes at once. Requests that come in one step of the loop share two
calls of the store: read the rows, then raise the epochs of those that may be taken. A row may be taken if it is absent or
released; if it names this very worker, whatever the incarnation (an earlier life, or an acquisition whose outcome was
unknown); or if it names one that is dead. The epoch is raised every time, by the same worker too: its earlier life may
still have writes under way.

Who is dead. A worker that the directory does not name, or names under another incarnation. The directory here is told by
the supervisor, who saw the process end. It can be behind for a moment: an incarnation that is greater than ours and that
we have never heard of may have joined after we were told last, so that one is given ``UNKNOWN_GRACE_S`` first. (Over-
taking it would be safe, as above, and rude.)

A living holder is never overtaken, only asked: RELEASE over its link. It answers when it has let go of what the asker
should own in its own eyes too; if it disagrees or is not ready, the asker asks again. This repeats until the slot is won,
or this worker should no longer own it (NotOwner), or the caller's ``ACQUIRE_TIMEOUT_S`` is up (HandOverTimedOut). A holder
that hangs thus costs its slots until its supervisor ends it; a fence alone must not take them, since a hanging worker is
likelier to be slow than gone.

Stopping. To release is in this order, or it is not safe: (1) ``tenure`` stops naming the slot, so nothing new begins;
(2) ``on_stop``: the chat layer ends every batch in flight and drops its actors, for good under that epoch; (3) the tenure
is lost; (4) ``released`` is written. The next owner may begin the moment (4) is durable. When the set of workers changes,
slots that belong elsewhere go through the same four steps unasked, so that the new owner need not wait when it comes.

Losing. An append that ends in SlotLost means that somebody else holds a later epoch. The chat layer says ``lost``; the
tenure ends there and then, without a word to the store.

What a replicated store adds. With a linearizable store the check inside the append is all that is needed. A store whose
acquisition and append are separate rounds needs two waits and a belief: the new owner waits before it loads a chat unless
the row says ``released`` (between ``_take`` and ``_hold`` here), and a holder re-reads its epochs and answers nothing
past the time that its last reading covers (``Tenure.is_lost`` becomes a comparison with a clock). Neither changes what
callers see, which is why ``is_lost`` is asked after every reply of the store.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial

import trio

from gateway.cluster.directory import Directory
from gateway.cluster.link_requests import LinkLost, LinkRefused
from gateway.cluster.links import Links, Reply
from gateway.cluster.placement import Placement
from gateway.cluster.promise import Promise
from gateway.cluster.wire import LinkOp, SlotList, decode, encode
from gateway.protocol.errors import Code
from gateway.protocol.identifiers import Epoch, WorkerId
from storage.api import SLOTS, SlotRow, SlotStore, StoreError, StoreTimedOut, StoreUnavailable

ACQUIRE_TIMEOUT_S = 5.0
RETRY_S = 0.05
UNKNOWN_GRACE_S = 0.5
MAX_GROUP = 512
"""Slots per call of the store."""
MAX_GROUPS = 8
"""Groups under way at once; what comes meanwhile waits together and becomes the next group."""


class NotOwner(Exception):
    """This worker should not own the slot. ``owner`` should; None: no worker is known."""

    def __init__(self, slot: int, owner: WorkerId | None) -> None:
        super().__init__(f"slot {slot} belongs to worker {owner}")
        self.slot = slot
        self.owner = owner


class HandOverTimedOut(StoreUnavailable):
    """The slot's holder lives and has not let go in time, or the store could not say. Nothing was written; try later."""


class Tenure:
    """This worker's hold of a slot under one epoch."""

    __slots__ = ("epoch", "is_lost", "slot")

    def __init__(self, slot: int, epoch: Epoch) -> None:
        self.slot = slot
        self.epoch = epoch
        self.is_lost = False
        """Nothing may be answered under it any more. Never goes back to False."""


async def _stop_nothing(slots: Sequence[int]) -> None:
    await trio.lowlevel.checkpoint()


class Slots:
    """See the module. ``on_workers`` must be called when the directory tells of a change; ``run`` must be running."""

    def __init__(self, store: SlotStore, me: WorkerId, incarnation: int, directory: Directory, links: Links) -> None:
        self.on_stop: Callable[[Sequence[int]], Awaitable[None]] = _stop_nothing
        """Stop serving these slots for good; return when no batch of theirs is in flight. Must end within seconds."""
        self._store = store
        self._me = me
        self._incarnation = incarnation
        self._directory = directory
        self._links = links
        self._placement = Placement(())
        self._tenures: dict[int, Tenure] = {}
        self._wanted: dict[int, list[Promise[Tenure]]] = {}
        self._acquiring: dict[int, list[Promise[Tenure]]] = {}
        self._taking: set[int] = set()
        """The store is being asked to raise their epochs."""
        self._stopping: dict[int, trio.Event] = {}
        self._has_wanted = trio.Event()
        self._releases: list[tuple[list[int], Reply | None]] = []
        self._has_releases = trio.Event()
        self._groups = trio.Semaphore(MAX_GROUPS)
        self._is_closed = False
        links.register(LinkOp.RELEASE, self._on_release)

    # ---------------------------------------------------------------------------------------------- asking

    def owner_of(self, slot: int) -> WorkerId | None:
        """Who should own it, by what the directory told last. None: no worker is known."""
        return self._placement.owner_of(slot)

    def tenure(self, slot: int) -> Tenure | None:
        """What this worker holds now. Not a promise: the append decides."""
        return self._tenures.get(slot)

    @property
    def held(self) -> Sequence[int]:
        return tuple(self._tenures)

    async def acquire(self, slot: int) -> Tenure:
        """The slot's tenure, taken if need be. Concurrent calls share it, and share the store's calls.

        Raises NotOwner, StoreError (HandOverTimedOut within 5 s at the latest). Cancelled, the slot may still be taken.
        """
        with trio.move_on_after(ACQUIRE_TIMEOUT_S):
            while True:
                tenure = self._tenures.get(slot)
                if tenure is not None:
                    return tenure
                self._check_owner(slot)
                # What was won may be stopping again by the time that this task runs: hence the loop.
                await self._want(slot).wait()
        raise HandOverTimedOut(f"slot {slot} was not handed over in {ACQUIRE_TIMEOUT_S} s")

    def _want(self, slot: int) -> Promise[Tenure]:
        promise: Promise[Tenure] = Promise()
        if slot in self._acquiring:
            self._acquiring[slot].append(promise)
        else:
            self._wanted.setdefault(slot, []).append(promise)
            self._has_wanted.set()
        return promise

    # ---------------------------------------------------------------------------------------------- telling

    def on_workers(self) -> None:
        """The set of live workers has changed: let go of what belongs elsewhere."""
        self._placement = Placement(self._directory.workers.values())
        misplaced = [slot for slot in self._tenures if self.owner_of(slot) != self._me]
        if misplaced:
            self._release_soon(misplaced, None)

    def lost(self, slot: int, epoch: Epoch | None = None) -> None:
        """An append or a load under this epoch ended in SlotLost. Of another epoch than the one held: late news, ignored."""
        tenure = self._tenures.get(slot)
        if tenure is not None and epoch in (None, tenure.epoch):
            tenure.is_lost = True
            del self._tenures[slot]

    async def release_all(self) -> None:
        """Let go of everything, for good: from now on ``acquire`` raises NotOwner. Raises StoreError."""
        self._is_closed = True
        await self._release(list(self._tenures))
        for stopped in list(self._stopping.values()):
            await stopped.wait()

    # ---------------------------------------------------------------------------------------------- running

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Acquire and release what is asked for, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._run_releases, nursery)
            task_status.started()
            while True:
                await self._has_wanted.wait()
                await self._groups.acquire()
                if len(self._wanted) <= MAX_GROUP:
                    self._has_wanted = trio.Event()
                group = list(self._wanted)[:MAX_GROUP]
                for slot in group:
                    self._acquiring[slot] = self._wanted.pop(slot)
                nursery.start_soon(self._acquire_group, group)

    async def _run_releases(self, nursery: trio.Nursery) -> None:
        while True:
            await self._has_releases.wait()
            self._has_releases = trio.Event()
            releases, self._releases = self._releases, []
            for slots, reply in releases:
                nursery.start_soon(self._release_and_answer, slots, reply)

    # ---------------------------------------------------------------------------------------------- acquiring

    async def _acquire_group(self, slots: list[int]) -> None:
        started = trio.current_time()
        try:
            with trio.move_on_after(ACQUIRE_TIMEOUT_S):
                while slots := self._still_wanted(slots):
                    await self._try_acquire(slots, trio.current_time() - started)
                    if slots := self._still_wanted(slots):
                        await trio.sleep(RETRY_S)
        finally:
            self._groups.release()
            for slot in slots:
                self._fail(slot, partial(HandOverTimedOut, f"slot {slot} was not handed over"))

    def _still_wanted(self, slots: Iterable[int]) -> list[int]:
        """Those of a group that have neither been won nor failed; fails what belongs elsewhere by now."""
        for slot in slots:
            if slot in self._acquiring and (self._is_closed or self.owner_of(slot) != self._me):
                self._fail(slot, partial(NotOwner, slot, self._other_owner(slot)))
        return [slot for slot in slots if slot in self._acquiring]

    async def _try_acquire(self, slots: list[int], waited_s: float) -> None:
        """One round: take what may be taken, and ask the living holders of the rest."""
        try:
            seen = await self._store.read_slots(slots)
            held = {slot: row for slot, row in seen.items() if not self._may_take(row, waited_s)}
            await self._take([slot for slot in slots if slot not in held], seen)
        except StoreTimedOut:
            return  # an unknown outcome: the next round reads what became of it
        except StoreError as error:
            for slot in slots:
                self._fail(slot, partial(type(error), str(error)))
            return
        await self._ask_holders(held)

    def _may_take(self, row: SlotRow, waited_s: float) -> bool:
        if row.is_released or row.epoch == 0 or row.worker == self._me:
            return True
        holder = self._directory.workers.get(row.worker)
        if holder is not None and holder.incarnation == row.incarnation:
            return False
        is_unheard_of = row.incarnation > max(self._incarnation, holder.incarnation if holder is not None else 0)
        return not is_unheard_of or waited_s >= UNKNOWN_GRACE_S

    async def _take(self, slots: list[int], seen: dict[int, SlotRow]) -> None:
        slots = [slot for slot in slots if slot not in self._stopping and slot not in self._taking]
        if not slots:
            return
        known = {slot: seen[slot] for slot in slots if slot in seen}
        self._taking.update(slots)
        try:
            won = await self._store.acquire_slots(slots, self._me, self._incarnation, known)
        finally:
            self._taking.difference_update(slots)
        for slot, epoch in won.items():
            self._hold(Tenure(slot, epoch))
        misplaced = [slot for slot in won if self._is_closed or self.owner_of(slot) != self._me]
        if misplaced:
            self._release_soon(misplaced, None)

    def _hold(self, tenure: Tenure) -> None:
        self._tenures[tenure.slot] = tenure
        for promise in self._acquiring.pop(tenure.slot, ()):
            promise.set(tenure)

    def _fail(self, slot: int, make_error: Callable[[], Exception]) -> None:
        for promise in self._acquiring.pop(slot, ()):
            promise.fail(make_error())

    async def _ask_holders(self, held: dict[int, SlotRow]) -> None:
        by_holder: dict[WorkerId, list[int]] = {}
        for slot, row in held.items():
            if row.worker in self._directory.workers:
                by_holder.setdefault(row.worker, []).append(slot)
        async with trio.open_nursery() as nursery:
            for holder, slots in by_holder.items():
                nursery.start_soon(self._ask_holder, holder, slots)

    async def _ask_holder(self, holder: WorkerId, slots: list[int]) -> None:
        try:
            await self._links.call(holder, LinkOp.RELEASE, encode(SlotList(slots)))
        except (LinkLost, LinkRefused):
            return  # the next round reads whether it let go, and asks again

    # ---------------------------------------------------------------------------------------------- releasing

    def _on_release(self, worker: WorkerId, payload: bytes, reply: Reply | None) -> None:
        """Let go of what the asker should own in our eyes too; for the rest the asker has to ask again."""
        asked = decode(SlotList, payload).slots
        self._release_soon([slot for slot in asked if 0 <= slot < SLOTS and self.owner_of(slot) == worker], reply)

    def _release_soon(self, slots: list[int], reply: Reply | None) -> None:
        self._releases.append((slots, reply))
        self._has_releases.set()

    async def _release_and_answer(self, slots: list[int], reply: Reply | None) -> None:
        try:
            await self._release(slots)
        except StoreError as error:
            # The tenures are over, and the rows still name us. Whoever wants the slots asks, and then we write again.
            if reply is not None:
                reply.refuse(Code.UNAVAILABLE, str(error))
            return
        if reply is not None:
            reply.reply(b"")

    async def _release(self, slots: list[int]) -> None:
        """Let go of those that are held, or that the store believes are; wait for those that are being let go already."""
        stopping = [self._stopping[slot] for slot in slots if slot in self._stopping]
        idle = [slot for slot in slots if not self._is_under_way(slot)]
        held = [self._tenures.pop(slot) for slot in slots if slot in self._tenures]
        stopped = trio.Event()
        self._stopping.update(dict.fromkeys([*idle, *(tenure.slot for tenure in held)], stopped))
        try:
            if held:
                await self.on_stop([tenure.slot for tenure in held])
            for tenure in held:
                tenure.is_lost = True
            await self._write_released({tenure.slot: tenure.epoch for tenure in held} | await self._forgotten(idle))
        finally:
            for slot in [slot for slot, event in self._stopping.items() if event is stopped]:
                del self._stopping[slot]
            stopped.set()
        for event in stopping:
            await event.wait()

    def _is_under_way(self, slot: int) -> bool:
        is_wanted = slot in self._wanted or slot in self._acquiring
        return is_wanted or slot in self._taking or slot in self._stopping or slot in self._tenures

    async def _forgotten(self, slots: list[int]) -> dict[int, Epoch]:
        """Those that the store gave this worker without its knowing: an acquisition that timed out, a release that failed."""
        rows = await self._store.read_slots(slots) if slots else {}
        mine = self._me, self._incarnation
        return {
            slot: Epoch(row.epoch)
            for slot, row in rows.items()
            if not row.is_released and (row.worker, row.incarnation) == mine
        }

    async def _write_released(self, epochs: dict[int, Epoch]) -> None:
        slots = list(epochs)
        for start in range(0, len(slots), MAX_GROUP):
            group = {slot: epochs[slot] for slot in slots[start : start + MAX_GROUP]}
            await self._store.release_slots(group, self._me, self._incarnation)

    # ---------------------------------------------------------------------------------------------- ownership

    def _check_owner(self, slot: int) -> None:
        if self._is_closed or self.owner_of(slot) != self._me:
            raise NotOwner(slot, self._other_owner(slot))

    def _other_owner(self, slot: int) -> WorkerId | None:
        owner = self.owner_of(slot)
        return owner if owner != self._me else None
