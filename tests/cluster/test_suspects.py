"""Workers whose sockets refuse while the directory still lists them."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from gateway.cluster.suspects import LOOK_EVERY_S, LOOK_S, Suspects
from gateway.protocol.identifiers import WorkerId
from tests.cluster.processes import Cluster
from tests.cluster.slot_world import SlotWorld, slots_of

ONE, TWO = WorkerId(1), WorkerId(2)


class Sockets:
    def __init__(self) -> None:
        self.refusing: set[WorkerId] = set()
        self.asked: list[WorkerId] = []
        self.changes = 0

    def is_refused(self, worker: WorkerId) -> bool:
        self.asked.append(worker)
        return worker in self.refusing

    def changed(self) -> None:
        self.changes += 1


@pytest.fixture
def sockets() -> Sockets:
    return Sockets()


@pytest.fixture
async def suspects(sockets: Sockets, nursery: trio.Nursery) -> Suspects:
    suspects = Suspects(sockets.is_refused, sockets.changed)
    nursery.start_soon(suspects.run)
    await wait_all_tasks_blocked()
    return suspects


async def test_nobody_is_looked_at_without_a_cause(
    suspects: Suspects, sockets: Sockets, autojump_clock: MockClock
) -> None:
    await trio.sleep(10)
    assert sockets.asked == []


async def test_who_refuses_some_time_after_the_cause_is_gone(
    suspects: Suspects, sockets: Sockets, autojump_clock: MockClock
) -> None:
    suspects.suspect(ONE)
    await trio.sleep(0.5)
    assert suspects.gone == set()
    sockets.refusing.add(ONE)
    await trio.sleep(2 * LOOK_EVERY_S)
    assert suspects.gone == {ONE}
    assert sockets.changes == 1


async def test_who_does_not_refuse_is_let_alone_after_a_while(
    suspects: Suspects, sockets: Sockets, autojump_clock: MockClock
) -> None:
    suspects.suspect(ONE)
    await trio.sleep(LOOK_S + 1)
    asked = len(sockets.asked)
    await trio.sleep(10)
    assert len(sockets.asked) == asked
    assert sockets.changes == 0


async def test_who_is_gone_is_looked_at_until_a_new_life_answers(
    suspects: Suspects, sockets: Sockets, autojump_clock: MockClock
) -> None:
    sockets.refusing.add(ONE)
    suspects.suspect(ONE)
    await trio.sleep(60)
    assert suspects.gone == {ONE}
    sockets.refusing.clear()
    suspects.look()
    assert suspects.gone == set()
    assert sockets.changes == 2


async def test_slots_of_a_worker_that_refuses_are_taken_though_the_directory_lists_it(cluster: Cluster) -> None:
    world = SlotWorld(cluster)
    one, two = await world.join(1), await world.join(2)
    slot = slots_of(two)[0]
    await two.slots.acquire(slot)
    two.die()
    while one.slots.owner_of(slot) != ONE:  # as a forwarded request that ends in LinkLost does
        one.slots.suspect(TWO)
        cluster.clock.now_s += 0.1
        one.process.links.tick()
        await trio.testing.wait_all_tasks_blocked(0.01)
    assert (await one.slots.acquire(slot)).epoch == 2
    assert TWO in one.directory.workers
