"""The two times that a store which cannot check an epoch in an append asks for: the wait, and the belief."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from gateway.cluster.belief import ASK_EVERY_S
from gateway.cluster.directory_local import LocalDirectory
from gateway.cluster.slots import NotOwner, Slots
from gateway.cluster.tenure import Tenure
from gateway.protocol.identifiers import Epoch, WorkerId
from storage.api import SlotTerms, StoreTimedOut
from storage.memory import MemoryDatabase, MemoryStore
from tests.cluster.directories import record
from tests.cluster.processes import Cluster
from tests.cluster.slot_world import SlotWorld

TERMS = SlotTerms(wait_s=2.5, belief_s=2.0)
SLOT = 7


class TermedStore(MemoryStore):
    """A store that has terms, and whose confirmations can be held back or fail."""

    def __init__(self, database: MemoryDatabase) -> None:
        super().__init__(database)
        self.is_answering = True
        self.fails = False
        self.go = trio.Event()
        self.asked = 0

    @property
    def terms(self) -> SlotTerms:
        return TERMS

    async def still_held(self, epochs: Mapping[int, Epoch], worker: WorkerId, incarnation: int) -> set[int]:
        self.asked += 1
        if self.fails:
            raise StoreTimedOut("no answer")
        confirmed = await super().still_held(epochs, worker, incarnation)
        if not self.is_answering:
            await self.go.wait()
        return confirmed


class Holder:
    """A worker's slots under Trio's clock, moved by hand."""

    def __init__(self, world: SlotWorld, clock: MockClock, worker: int) -> None:
        self.world = world
        self.clock = clock
        self.worker = WorkerId(worker)
        self.store = TermedStore(world.database)
        self.stopped_s = 0.0
        self.lost: list[tuple[int, int]] = []

    async def start(self, incarnation: int = 1) -> Holder:
        self.process = await self.world.cluster.start(self.worker, incarnation)
        await self.store.open()
        self.directory = LocalDirectory(self.world.hub)
        self.slots = Slots(
            self.store, (self.worker, incarnation), self.directory, self.process.links, clock=trio.current_time
        )
        self.slots.on_lost = lambda slot, epoch: self.lost.append((slot, epoch))
        self.directory.events.on_workers = lambda workers: self.slots.on_workers()
        await self.world.cluster.nursery.start(self.slots.run)
        await self.directory.join(record(self.worker, incarnation))
        return self

    async def acquire(self) -> Tenure:
        tenure = await self.slots.acquire(SLOT)
        await wait_all_tasks_blocked()
        return tenure

    async def pass_s(self, seconds: float) -> None:
        """In steps, so that everybody's timers fire in order."""
        while seconds > 0:
            step = min(seconds, ASK_EVERY_S / 2)
            self.clock.jump(step)
            await wait_all_tasks_blocked()
            seconds -= step


@pytest.fixture
def world(cluster: Cluster, mock_clock: MockClock) -> SlotWorld:
    return SlotWorld(cluster)


async def test_a_slot_that_nobody_held_is_served_at_once(world: SlotWorld, mock_clock: MockClock) -> None:
    one = await Holder(world, mock_clock, 1).start()
    tenure = await one.acquire()
    assert tenure.is_current
    assert not tenure.is_inherited


async def test_a_slot_that_was_not_released_is_served_after_the_wait(world: SlotWorld, mock_clock: MockClock) -> None:
    await (await Holder(world, mock_clock, 1).start()).acquire()
    world.hub.remove(WorkerId(1), 1)
    two = await Holder(world, mock_clock, 2).start()
    taken: list[Tenure] = []

    async def take() -> None:
        taken.append(await two.slots.acquire(SLOT))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(take)
        await wait_all_tasks_blocked()
        assert world.database.slots[SLOT].worker == 2
        await two.pass_s(TERMS.wait_s - 0.1)
        assert not taken
        assert two.slots.tenure(SLOT) is None
        await two.pass_s(0.2)
    assert taken[0].is_current
    assert taken[0].is_inherited


async def test_a_slot_that_was_released_is_served_at_once(world: SlotWorld, mock_clock: MockClock) -> None:
    one = await Holder(world, mock_clock, 1).start()
    await one.acquire()
    await one.slots.release_all()
    world.hub.remove(WorkerId(1), 1)
    two = await Holder(world, mock_clock, 2).start()
    tenure = await two.acquire()
    assert tenure.is_current
    assert not tenure.is_inherited


async def test_a_worker_that_starts_again_waits_for_its_earlier_life(world: SlotWorld, mock_clock: MockClock) -> None:
    await (await Holder(world, mock_clock, 1).start()).acquire()
    world.hub.remove(WorkerId(1), 1)
    again = await Holder(world, mock_clock, 1).start(incarnation=2)
    with trio.move_on_after(TERMS.wait_s - 0.1):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(again.slots.acquire, SLOT)
            await wait_all_tasks_blocked()
            mock_clock.jump(TERMS.wait_s)
    assert world.database.slots[SLOT].epoch == 2


async def test_what_is_confirmed_stays_current(world: SlotWorld, mock_clock: MockClock) -> None:
    one = await Holder(world, mock_clock, 1).start()
    tenure = await one.acquire()
    await one.pass_s(20)
    assert tenure.is_current
    assert one.slots.lapses == 0


async def test_what_is_not_confirmed_is_silent_and_goes_on_when_it_is(world: SlotWorld, mock_clock: MockClock) -> None:
    one = await Holder(world, mock_clock, 1).start()
    tenure = await one.acquire()
    one.store.fails = True
    await one.pass_s(TERMS.belief_s + 0.1)
    assert not tenure.is_current
    assert not tenure.is_lost
    assert one.slots.tenure(SLOT) is tenure
    one.store.fails = False
    await one.pass_s(ASK_EVERY_S)
    assert tenure.is_current
    assert one.slots.lapses == 1


async def test_belief_is_counted_from_before_the_question(world: SlotWorld, mock_clock: MockClock) -> None:
    one = await Holder(world, mock_clock, 1).start()
    tenure = await one.acquire()
    one.store.is_answering = False
    await one.pass_s(ASK_EVERY_S)  # asked here, answered 1.5 s later
    one.store.fails = True
    await one.pass_s(1.4)
    one.store.go.set()
    await wait_all_tasks_blocked()
    assert tenure.is_current
    await one.pass_s(TERMS.belief_s - 1.4)
    assert not tenure.is_current


async def test_an_answer_that_took_longer_than_it_is_good_for_is_worth_nothing(
    world: SlotWorld, mock_clock: MockClock
) -> None:
    one = await Holder(world, mock_clock, 1).start()
    tenure = await one.acquire()
    one.store.is_answering = False
    await one.pass_s(ASK_EVERY_S)
    one.store.fails = True
    mock_clock.jump(10.0)  # the process stood still, and every answer came meanwhile
    one.store.go.set()
    assert not tenure.is_current
    await wait_all_tasks_blocked()
    assert not tenure.is_current


async def test_a_question_that_hangs_does_not_keep_the_next_from_being_asked(
    world: SlotWorld, mock_clock: MockClock
) -> None:
    one = await Holder(world, mock_clock, 1).start()
    tenure = await one.acquire()
    one.store.is_answering = False
    await one.pass_s(ASK_EVERY_S)
    one.store.is_answering = True
    await one.pass_s(TERMS.belief_s)
    assert tenure.is_current


async def test_a_slot_that_another_took_is_lost_and_the_chats_are_told(world: SlotWorld, mock_clock: MockClock) -> None:
    one = await Holder(world, mock_clock, 1).start()
    tenure = await one.acquire()
    other = TermedStore(world.database)
    await other.open()
    await other.acquire_slots([SLOT], WorkerId(2), 1, await other.read_slots([SLOT]))
    await one.pass_s(ASK_EVERY_S)
    assert tenure.is_lost
    assert not tenure.is_current
    assert one.slots.tenure(SLOT) is None
    assert one.lost == [(SLOT, 1)]


async def test_a_slot_that_is_lost_during_the_wait_is_never_served(world: SlotWorld, mock_clock: MockClock) -> None:
    await (await Holder(world, mock_clock, 1).start()).acquire()
    world.hub.remove(WorkerId(1), 1)
    two = await Holder(world, mock_clock, 2).start()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(two.slots.acquire, SLOT)
        await wait_all_tasks_blocked()
        row = world.database.slots[SLOT]
        world.database.slots[SLOT] = row._replace(epoch=row.epoch + 1, worker=WorkerId(3))
        await two.pass_s(TERMS.wait_s + 0.2)
        assert two.slots.tenure(SLOT) is None
        nursery.cancel_scope.cancel()


async def test_a_store_without_terms_is_never_asked(world: SlotWorld, mock_clock: MockClock) -> None:
    class Plain(TermedStore):
        terms = None  # type: ignore[assignment]

    one = Holder(world, mock_clock, 1)
    one.store = Plain(world.database)
    await one.start()
    tenure = await one.acquire()
    await one.pass_s(10)
    assert tenure.is_current
    assert one.store.asked == 0


async def test_a_slot_that_was_lost_and_won_again_while_it_waited_is_served_after_its_own_wait(
    world: SlotWorld, mock_clock: MockClock
) -> None:
    await (await Holder(world, mock_clock, 1).start()).acquire()
    world.hub.remove(WorkerId(1), 1)
    two = await Holder(world, mock_clock, 2).start()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(two.slots.acquire, SLOT)
        await wait_all_tasks_blocked()
        row = world.database.slots[SLOT]
        world.database.slots[SLOT] = row._replace(epoch=row.epoch + 1, worker=WorkerId(3))
        await two.pass_s(2 * ASK_EVERY_S)  # lost, and taken again from one that nobody knows
        assert world.database.slots[SLOT] == (4, 2, 1, False)
        await two.pass_s(TERMS.wait_s + ASK_EVERY_S)
        tenure = two.slots.tenure(SLOT)
        assert tenure is not None
        assert tenure.is_current
        assert tenure.epoch == 4


async def test_a_slot_that_is_asked_for_while_it_waits_is_not_released_before_the_wait_is_over(
    world: SlotWorld, mock_clock: MockClock
) -> None:
    """``released`` would spare the next owner the wait that the first one's belief asks for."""
    await (await Holder(world, mock_clock, 1).start()).acquire()
    world.hub.remove(WorkerId(1), 1)
    two = await Holder(world, mock_clock, 2).start()

    async def acquire_in_vain() -> None:
        with pytest.raises(NotOwner):
            await two.slots.acquire(SLOT)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(acquire_in_vain)
        await wait_all_tasks_blocked()
        nursery.start_soon(two.slots.release_all)
        await two.pass_s(TERMS.wait_s - 0.1)
        assert not world.database.slots[SLOT].is_released
        await two.pass_s(0.2)
        assert world.database.slots[SLOT].is_released
        nursery.cancel_scope.cancel()
