"""The lease protocol: several workers, one store, real links."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

import pytest
import trio
from trio.testing import MockClock

from gateway.cluster.directory_local import LocalDirectory
from gateway.cluster.slots import ACQUIRE_TIMEOUT_S, HandOverTimedOut, NotOwner, Slots
from gateway.cluster.tenure import Tenure
from gateway.protocol.identifiers import Epoch, WorkerId
from storage.api import SlotLost, SlotRow, StoreError, StoreUnavailable
from tests.cluster.directories import record
from tests.cluster.processes import Cluster, Inbox
from tests.cluster.slot_world import SOME, Member, SlotWorld, acquire_all, slots_of


@pytest.fixture
def world(cluster: Cluster) -> SlotWorld:
    return SlotWorld(cluster)


async def test_the_first_tenure_of_a_slot_has_epoch_one_and_may_append(world: SlotWorld) -> None:
    one = await world.join(1)
    tenure = await one.slots.acquire(7)
    assert (tenure.slot, tenure.epoch, tenure.is_lost) == (7, 1, False)
    assert one.slots.tenure(7) is tenure
    assert await one.append(tenure) is None


async def test_acquisitions_of_one_step_share_a_call_of_the_store(world: SlotWorld) -> None:
    one = await world.join(1)
    tenures = await acquire_all(one, [*SOME, *SOME])
    assert len(tenures) == len(SOME)
    assert [sorted(call) for call in one.store.acquisitions] == [list(SOME)]


async def test_a_slot_that_belongs_elsewhere_is_not_taken(world: SlotWorld) -> None:
    one, two = await world.join(1), await world.join(2)
    await trio.testing.wait_all_tasks_blocked()
    for slot in slots_of(two):
        with pytest.raises(NotOwner) as refused:
            await one.slots.acquire(slot)
        assert refused.value.owner == 2
    assert one.store.acquisitions == []


async def test_before_anybody_has_joined_nobody_owns_a_slot(world: SlotWorld) -> None:
    one = await world.start(1)
    with pytest.raises(NotOwner) as refused:
        await one.slots.acquire(7)
    assert refused.value.owner is None


async def test_a_worker_that_joins_gets_its_slots_and_nothing_else_moves(world: SlotWorld) -> None:
    one = await world.join(1)
    before = await acquire_all(one, SOME)
    two = await world.join(2)
    after = await acquire_all(two, slots_of(two))
    assert {tenure.epoch for tenure in after.values()} == {2}
    assert all(before[slot].is_lost for slot in after)
    assert sorted(slot for stopped in one.stopped for slot in stopped) == sorted(after)
    assert sorted(one.slots.held) == sorted(set(SOME) - set(after))
    assert not any(before[slot].is_lost for slot in one.slots.held)


async def test_a_living_holder_is_asked_even_if_it_has_not_been_told_yet(world: SlotWorld) -> None:
    one = await world.join(1)
    await acquire_all(one, SOME)
    one.directory.events.on_workers = told = Inbox()
    two = await world.join(2)
    slot = slots_of(two)[0]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(two.slots.acquire, slot)
        await told.get()
        while two.process.kernel.statistics().frames_in < 2:  # it was asked, and did not agree
            await trio.lowlevel.checkpoint()
        assert one.slots.tenure(slot) is not None
        one.on_workers()
    assert two.slots.tenure(slot) is not None


async def test_nothing_is_released_before_the_chat_layer_has_stopped(world: SlotWorld) -> None:
    one = await world.join(1)
    tenures = await acquire_all(one, SOME)
    may_stop, stopping = trio.Event(), trio.Event()

    async def stop(slots: Sequence[int]) -> None:
        stopping.set()
        await may_stop.wait()
        for slot in slots:
            assert not tenures[slot].is_lost
            assert await one.append(tenures[slot]) is None  # a batch in flight ends under its tenure

    one.slots.on_stop = stop
    two = await world.join(2)
    slot = slots_of(two)[0]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(two.slots.acquire, slot)
        await stopping.wait()
        assert one.slots.tenure(slot) is None
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert two.slots.tenure(slot) is None
        may_stop.set()
    assert world.database.slots[slot].worker == 2
    assert await one.append(tenures[slot]) is not None


async def stop_never(slots: Sequence[int]) -> None:
    await trio.sleep_forever()


async def test_a_holder_that_does_not_let_go_in_time_keeps_the_slot(mock_clock: MockClock, world: SlotWorld) -> None:
    one = await world.join(1)
    await acquire_all(one, SOME)
    one.slots.on_stop = stop_never
    two = await world.join(2)
    with pytest.raises(ExceptionGroup) as failed:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(two.slots.acquire, slots_of(two)[0])
            await trio.testing.wait_all_tasks_blocked(0.01)
            mock_clock.jump(ACQUIRE_TIMEOUT_S + 0.1)
    assert failed.group_contains(HandOverTimedOut)
    assert world.database.slots[slots_of(two)[0]].worker == 1


async def test_a_dead_workers_slots_are_overtaken_under_a_higher_epoch(world: SlotWorld) -> None:
    one, two = await world.join(1), await world.join(2)
    await trio.testing.wait_all_tasks_blocked()
    theirs = slots_of(one)
    old = await acquire_all(one, theirs)
    await world.drop(one)
    new = await acquire_all(two, theirs)
    assert all(new[slot].epoch == old[slot].epoch + 1 for slot in theirs)
    assert isinstance(await one.append(old[theirs[0]]), SlotLost)


async def test_a_restarted_worker_raises_the_epoch_of_its_own_slots(world: SlotWorld) -> None:
    one = await world.join(1)
    await acquire_all(one, SOME)
    await world.drop(one)
    again = await world.join(1, incarnation=2)
    assert {tenure.epoch for tenure in (await acquire_all(again, SOME)).values()} == {2}


async def test_rows_of_an_earlier_node_are_taken_at_once(world: SlotWorld) -> None:
    world.database.slots[7] = SlotRow(5, WorkerId(9), 1, False)
    one = await world.join(1, incarnation=2)
    assert (await one.slots.acquire(7)).epoch == 6


async def test_a_holder_that_we_have_not_heard_of_is_given_a_moment(world: SlotWorld) -> None:
    one = await world.join(1)
    await acquire_all(one, SOME)
    two = await world.join(2, incarnation=5)
    slot = slots_of(two)[0]
    two_tenure = await two.slots.acquire(slot)
    stale = LocalDirectory(world.hub)  # a view from before worker 2
    stale.take_workers({WorkerId(1): record(1)})
    late = Slots(one.store, (WorkerId(1), 1), stale, (await world.cluster.start(1, incarnation=9)).links)
    late.on_workers()
    world.cluster.nursery.start_soon(late.run)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(late.acquire, slot)
        await trio.testing.wait_all_tasks_blocked(0.02)
        assert await two.append(two_tenure) is None
        nursery.cancel_scope.cancel()


async def test_a_lost_tenure_is_over_and_the_next_one_has_a_higher_epoch(world: SlotWorld) -> None:
    one = await world.join(1)
    tenure = await one.slots.acquire(7)
    one.slots.lost(7, Epoch(99))
    assert not tenure.is_lost
    one.slots.lost(7, tenure.epoch)
    assert tenure.is_lost
    assert one.slots.tenure(7) is None
    assert (await one.slots.acquire(7)).epoch == 2


async def test_what_the_store_refuses_ends_the_acquisition_with_its_error(world: SlotWorld) -> None:
    one = await world.join(1)
    one.store.acquire_fails = StoreUnavailable("disk full")
    with pytest.raises(StoreUnavailable, match="disk full"):
        await one.slots.acquire(7)
    one.store.acquire_fails = None
    assert (await one.slots.acquire(7)).epoch == 1


async def test_an_acquisition_of_unknown_outcome_is_read_again(world: SlotWorld) -> None:
    one = await world.join(1)
    one.store.acquire_times_out_after_it_happened = True
    tenure = await one.slots.acquire(7)
    assert tenure.epoch == 2
    assert await one.append(tenure) is None


async def test_a_slot_that_the_store_gave_without_our_knowing_is_released_when_asked_for(world: SlotWorld) -> None:
    one, two = await world.join(1), await world.join(2)
    await trio.testing.wait_all_tasks_blocked()
    slot = slots_of(two)[0]
    world.database.slots[slot] = SlotRow(3, one.worker, one.incarnation, False)
    assert (await two.slots.acquire(slot)).epoch == 4
    assert one.stopped == []


async def test_a_release_that_the_store_refused_is_written_when_asked_for(world: SlotWorld) -> None:
    one = await world.join(1)
    await acquire_all(one, SOME)
    one.store.release_fails = StoreUnavailable("disk full")
    two = await world.join(2)
    slot = slots_of(two)[0]
    while not one.stopped:
        await trio.lowlevel.checkpoint()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(two.slots.acquire, slot)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert two.slots.tenure(slot) is None
        one.store.release_fails = None
    assert two.slots.tenure(slot) is not None
    assert len(one.stopped) == 1


async def test_a_draining_worker_hands_everything_over_and_may_not_take_any_more(world: SlotWorld) -> None:
    one, two = await world.join(1), await world.join(2)
    await trio.testing.wait_all_tasks_blocked()
    await acquire_all(one, slots_of(one))
    await one.directory.drain()
    await acquire_all(two, SOME)
    assert one.slots.held == ()
    with pytest.raises(NotOwner):
        await one.slots.acquire(7)


async def test_after_release_all_the_slots_are_free_and_stay_so(world: SlotWorld) -> None:
    one = await world.join(1)
    tenures = await acquire_all(one, SOME)
    await one.slots.release_all()
    assert all(tenure.is_lost for tenure in tenures.values())
    assert all(world.database.slots[slot].is_released for slot in SOME)
    with pytest.raises(NotOwner) as refused:
        await one.slots.acquire(7)
    assert refused.value.owner is None


async def test_a_cancelled_acquisition_leaves_the_others_waiting(world: SlotWorld) -> None:
    one = await world.join(1)
    with trio.CancelScope() as scope:
        scope.cancel()
        await one.slots.acquire(7)
    assert (await one.slots.acquire(7)).slot == 7


async def test_a_hand_over_under_load_fails_no_request(world: SlotWorld) -> None:
    members = {1: await world.join(1)}
    is_over = False
    answered = 0
    in_flight = Counter[int]()
    is_quiet: dict[int, trio.Event] = {}

    async def append(owner: Member, tenure: Tenure) -> None:
        """A batch: begun under a tenure that is named, and waited for by ``on_stop``."""
        in_flight[tenure.slot] += 1
        assert await owner.append(tenure) is None
        in_flight[tenure.slot] -= 1
        if tenure.slot in is_quiet:
            is_quiet[tenure.slot].set()

    async def stop(slots: Sequence[int]) -> None:
        for slot in slots:
            while in_flight[slot]:
                is_quiet[slot] = trio.Event()
                await is_quiet[slot].wait()

    members[1].slots.on_stop = stop

    async def send_to(slot: int) -> None:
        nonlocal answered
        while not is_over:
            owner = members[members[1].slots.owner_of(slot) or 0]
            try:
                tenure = await owner.slots.acquire(slot)
                await append(owner, tenure)
                answered += 1
            except NotOwner:
                await trio.lowlevel.checkpoint()  # the request is forwarded again

    async with trio.open_nursery() as nursery:
        for slot in SOME:
            nursery.start_soon(send_to, slot)
        members[2] = await world.start(2)
        await members[2].join()
        theirs = slots_of(members[2])
        while not set(theirs) <= set(members[2].slots.held):
            await trio.lowlevel.checkpoint()
        is_over = True
    assert answered >= len(SOME)


class Schedule:
    """Workers come, drain, die and restart at random while all of them append to all slots."""

    def __init__(self, world: SlotWorld, seed: int) -> None:
        self.world = world
        self.random = random.Random(seed)
        self.members: dict[int, Member] = {}
        self.incarnation = 0
        self.answered = 0
        self.is_over = False

    async def run(self, steps: int) -> None:
        for worker in (1, 2):
            await self.come(worker)
        async with trio.open_nursery() as nursery:
            for slot in range(8):
                nursery.start_soon(self.send_to, slot)
            for _ in range(steps):
                await self.step()
                answered = self.answered
                while self.answered < answered + self.random.randrange(40):
                    await trio.lowlevel.checkpoint()
            self.is_over = True

    async def step(self) -> None:
        worker = self.random.randrange(1, 5)
        member = self.members.get(worker)
        if member is None:
            await self.come(worker)
        elif len(self.members) > 1:
            action = self.random.choice(["kill", "drain", "leave", "stale"])
            if action == "kill":
                del self.members[worker]
                self.world.kill(member)
            elif action == "drain":
                await member.directory.drain()
            elif action == "leave":
                del self.members[worker]
                await member.slots.release_all()
                member.die()
                await member.directory.leave()
            else:
                member.slots.lost(self.random.randrange(8))

    async def come(self, worker: int) -> None:
        self.incarnation += 1
        member = await self.world.join(worker, self.incarnation)
        self.members[worker] = member

    async def send_to(self, slot: int) -> None:
        """A request for the slot, to whoever owns it in the eyes of a worker chosen at random; again until it is taken."""
        while not self.is_over:
            member = self.random.choice(list(self.members.values()))
            owner = self.members.get(member.slots.owner_of(slot) or 0)
            if owner is not None:
                with trio.move_on_after(1):
                    await self.attempt(owner, slot)
            await trio.lowlevel.checkpoint()

    async def attempt(self, owner: Member, slot: int) -> None:
        try:
            tenure = await owner.slots.acquire(slot)
        except (NotOwner, StoreError):
            return
        error = await owner.append(tenure)
        if isinstance(error, SlotLost):
            owner.slots.lost(slot, tenure.epoch)
        self.answered += error is None


@pytest.mark.parametrize("seed", range(12))
async def test_under_random_schedules_an_epoch_is_one_workers_and_epochs_only_rise(world: SlotWorld, seed: int) -> None:
    await Schedule(world, seed).run(steps=25)
    holders: dict[tuple[int, int], tuple[int, int]] = {}
    highest: dict[int, int] = {}
    for slot, epoch, worker, incarnation in world.appended:
        assert holders.setdefault((slot, epoch), (worker, incarnation)) == (worker, incarnation)
        assert epoch >= highest.get(slot, 0)
        highest[slot] = epoch
    assert len(world.appended) > 100
