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

Who is dead. A worker that the directory does not name, or names under another incarnation. A directory is told by the
supervisor, who saw the process end, or misses its signs of life. It can be behind for a moment: an incarnation that is
greater than ours and that we have never heard of may have joined after we were told last, so that one is given
``UNKNOWN_GRACE_S`` first. (Overtaking it would be safe, as above, and rude.)

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

What a replicated store adds. There the acquisition and an append are separate rounds on separate replicas, and an append
does not check the epoch: whatever a former owner still writes is fenced by the next one when it loads a chat (see
``storage/scylla/adoption.py``). What remains is that the former owner must not *say* anything that the next one may
contradict. The store's ``SlotTerms`` see to that, by two times and no message between the two:
  the wait     Unless the row says ``released``, a new owner serves nothing until ``wait_s`` after its acquisition returned.
  the belief   A holder confirms its epochs twice a second (``belief.py``) and says nothing later than ``belief_s`` after
               it sent the question that was answered last. Past that it is silent: no SENT, MSG, page, head or duplicate
               leaves, and an acknowledgement of the store counts only after a later confirmation. Then it goes on.
A question that was sent after the acquisition returned sees it; the last one before it covers less time than the wait. So
the former owner is silent before the new one speaks, whatever was paused, suspended, cut off or late meanwhile; clocks
are only asked how much time has passed, never what time it is. An acquisition whose outcome is unknown is simply made
again, under one epoch more, and the wait is due in full from the one that returned.
An end to which nobody can object is refusal: a process whose socket refuses connections has ended (``Links.is_refused``),
and need not be waited for as long as a directory that is told by time-outs would take (``suspects.py``).
Whoever has taken a slot and has not waited for its former owner yet must not write ``released``: the next one would not wait
at all, and might speak beside that former owner. It lets go when its own wait is over.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial

import trio

from gateway.cluster.belief import Beliefs
from gateway.cluster.directory import Directory
from gateway.cluster.link_requests import LinkLost, LinkRefused
from gateway.cluster.links import Links, Reply
from gateway.cluster.placement import Placement
from gateway.cluster.promise import Promise
from gateway.cluster.suspects import Suspects
from gateway.cluster.tenure import FOREVER_S, Tenure
from gateway.cluster.wire import LinkOp, SlotList, decode, encode
from gateway.protocol.errors import Code
from gateway.protocol.identifiers import Epoch, WorkerId
from storage.api import SLOTS, SlotRow, SlotStore, StoreError, StoreTimedOut, StoreUnavailable
from storage.clocks import boottime_s

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


async def _stop_nothing(slots: Sequence[int]) -> None:
    await trio.lowlevel.checkpoint()


class Slots:
    """See the module. ``on_workers`` must be called when the directory tells of a change; ``run`` must be running."""

    def __init__(
        self,
        store: SlotStore,
        owner: tuple[WorkerId, int],
        directory: Directory,
        links: Links,
        *,
        clock: Callable[[], float] = boottime_s,
    ) -> None:
        """``owner``: this worker and its incarnation. ``clock``: what belief is measured on; it must not stand still while the
        process does."""
        self.on_stop: Callable[[Sequence[int]], Awaitable[None]] = _stop_nothing
        """Stop serving these slots for good; return when no batch of theirs is in flight. Must end within seconds."""
        self.on_lost: Callable[[int, Epoch], None] = lambda slot, epoch: None
        """The store does not confirm this slot under this epoch: its tenure is over."""
        self.on_gone: Callable[[frozenset[WorkerId]], None] = lambda workers: None
        """The listed workers whose sockets refuse are these now."""
        self._store = store
        self._me, self._incarnation = owner
        self._clock = clock
        self._terms = store.terms
        self._beliefs = (
            Beliefs(store, owner, self._terms, clock, self._all_tenures, self._dispossess) if self._terms else None
        )
        self._directory = directory
        self._links = links
        self._placement = Placement()
        self._suspects = Suspects(links.is_refused, self._take_gone)
        self._tenures: dict[int, Tenure] = {}
        self._settling: dict[int, Tenure] = {}
        """Won, and not served yet: a former owner may still speak."""
        self._settling_ended = trio.Event()
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
        self._nursery: trio.Nursery | None = None
        links.register(LinkOp.RELEASE, self._on_release)
        links.add_lost_listener(self.suspect)

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

    @property
    def lapses(self) -> int:
        """How often a slot had to be silent because the store did not confirm it in time."""
        return self._beliefs.lapses if self._beliefs else 0

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
        """The directory's set of live workers has changed: let go of what belongs elsewhere."""
        self._suspects.look()
        self._place()

    def suspect(self, worker: WorkerId) -> None:
        """There is cause to look whether this worker's process has ended, though the directory lists it."""
        if worker in self._directory.workers:
            self._suspects.suspect(worker)

    def _take_gone(self) -> None:
        self._place()
        self.on_gone(self._suspects.gone)

    def _place(self) -> None:
        workers = self._directory.workers.values()
        self._placement.update(record for record in workers if record.worker_id not in self._suspects.gone)
        misplaced = [slot for slot in self._tenures if self.owner_of(slot) != self._me]
        if misplaced:
            self._release_soon(misplaced, None)

    def lost(self, slot: int, epoch: Epoch | None = None) -> None:
        """An append or a load under this epoch ended in SlotLost. Of another epoch than the one held: late news, ignored."""
        for tenures in (self._tenures, self._settling):
            tenure = tenures.get(slot)
            if tenure is not None and epoch in (None, tenure.epoch):
                tenure.is_lost = True
                del tenures[slot]
        self._announce_settled()

    def _dispossess(self, tenure: Tenure) -> None:
        """The store does not confirm it. Of one that we are letting go ourselves that says nothing."""
        if tenure in (self._tenures.get(tenure.slot), self._settling.get(tenure.slot)):
            self.lost(tenure.slot, tenure.epoch)
            self.on_lost(tenure.slot, tenure.epoch)

    def _all_tenures(self) -> list[Tenure]:
        return [*self._tenures.values(), *self._settling.values()]

    async def release_all(self) -> None:
        """Let go of everything, for good: from now on ``acquire`` raises NotOwner. Raises StoreError."""
        self._is_closed = True
        await self._release([*self._tenures, *self._settling])
        for stopped in list(self._stopping.values()):
            await stopped.wait()

    # ---------------------------------------------------------------------------------------------- running

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Acquire and release what is asked for, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._run_releases, nursery)
            nursery.start_soon(self._suspects.run)
            if self._beliefs:
                nursery.start_soon(self._beliefs.run)
            self._nursery = nursery
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
        slots = [slot for slot in slots if slot not in self._settling]
        if not slots:
            return
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
            return self._links.is_refused(row.worker)
        is_unheard_of = row.incarnation > max(self._incarnation, holder.incarnation if holder is not None else 0)
        return not is_unheard_of or waited_s >= UNKNOWN_GRACE_S

    async def _take(self, slots: list[int], seen: dict[int, SlotRow]) -> None:
        slots = [slot for slot in slots if not self._is_taken(slot)]
        if not slots:
            return
        known = {slot: seen[slot] for slot in slots if slot in seen}
        self._taking.update(slots)
        asked_at_s = self._clock()
        try:
            won = await self._store.acquire_slots(slots, self._me, self._incarnation, known)
        finally:
            self._taking.difference_update(slots)
        until_s = asked_at_s + self._terms.belief_s if self._terms else FOREVER_S
        tenures = [Tenure(slot, epoch, believed_until_s=until_s, clock=self._clock) for slot, epoch in won.items()]
        for tenure in tenures:
            row = known.get(tenure.slot)
            tenure.is_inherited = row is not None and not row.is_released
        inherited = [tenure for tenure in tenures if tenure.is_inherited]
        if self._terms and inherited:
            self._settling.update((tenure.slot, tenure) for tenure in inherited)
            assert self._nursery is not None
            self._nursery.start_soon(self._hold_after, self._terms.wait_s, inherited)
            tenures = [tenure for tenure in tenures if not tenure.is_inherited]
        self._hold_all(tenures)

    def _is_taken(self, slot: int) -> bool:
        """Ours, in one of the ways in which it is not acquired anew."""
        return slot in self._stopping or slot in self._taking or slot in self._settling or slot in self._tenures

    async def _hold_after(self, wait_s: float, tenures: list[Tenure]) -> None:
        await trio.sleep(wait_s)
        settled = [tenure for tenure in tenures if self._settling.get(tenure.slot) is tenure]  # not lost, nor won again
        for tenure in settled:
            del self._settling[tenure.slot]
        self._hold_all(settled)
        self._announce_settled()

    def _announce_settled(self) -> None:
        self._settling_ended.set()
        self._settling_ended = trio.Event()

    def _hold_all(self, tenures: list[Tenure]) -> None:
        for tenure in tenures:
            self._hold(tenure)
        misplaced = [t.slot for t in tenures if self._is_closed or self.owner_of(t.slot) != self._me]
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
        """Let go of those that are held, or that the store believes are; wait for those that are being let go already.

        One that still settles is let go when its wait is over: ``released`` tells the next owner that nobody before it may
        speak any more, and of a former owner's belief that is not true earlier.
        """
        while any(slot in self._settling for slot in slots):
            await self._settling_ended.wait()
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
        return slot in self._wanted or slot in self._acquiring or self._is_taken(slot)

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
