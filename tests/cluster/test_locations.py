"""The cached places of users' devices, against a directory that answers when the test says so."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from gateway.cluster.directory import DirectoryUnavailable, Location
from gateway.cluster.locations import LOCATE_TIMEOUT_S, Locations
from gateway.protocol.identifiers import DeviceId, SessionId, UserId, WorkerId

ANN, BEN = UserId(1), UserId(2)


def at(worker: int, device: int = 11, session: int = 1) -> Location:
    return Location(DeviceId(device), WorkerId(worker), SessionId(session))


class SlowDirectory:
    """The ``locate`` of a Directory: each question is answered by what was true when it was asked, when ``go`` is set."""

    def __init__(self) -> None:
        self.places: dict[UserId, tuple[Location, ...]] = {}
        self.go = trio.Event()
        self.is_away = False
        self.asked: list[list[UserId]] = []

    async def locate(self, user_ids: Sequence[UserId]) -> dict[UserId, tuple[Location, ...]]:
        self.asked.append([*user_ids])
        answer = {user_id: self.places.get(user_id, ()) for user_id in user_ids}
        await self.go.wait()
        if self.is_away:
            raise DirectoryUnavailable("away")
        return answer


class World:
    def __init__(self) -> None:
        self.directory = SlowDirectory()
        self.cycles = 0
        self.done = 0
        self.locations = Locations(self.directory, self._finish_cycle)  # type: ignore[arg-type]

    def _finish_cycle(self) -> None:
        self.cycles += 1

    def ask(self, *user_ids: UserId) -> None:
        def done() -> None:
            self.done += 1

        self.locations.locate_then(user_ids, done)

    async def locate(self, *user_ids: UserId) -> None:
        self.directory.go.set()
        self.ask(*user_ids)
        await wait_all_tasks_blocked()


@pytest.fixture
async def world(nursery: trio.Nursery) -> World:
    world = World()
    await nursery.start(world.locations.run)
    return world


async def test_who_was_never_located_is_unknown_and_located_without_devices_is_known(world: World) -> None:
    assert world.locations.known(ANN) is None
    await world.locate(ANN)
    assert world.locations.known(ANN) == ()


async def test_done_is_called_later_and_the_cycle_is_finished_after_it(world: World) -> None:
    world.directory.go.set()
    world.ask(ANN)
    assert world.done == 0
    await wait_all_tasks_blocked()
    assert (world.done, world.cycles) == (1, 1)


async def test_done_is_called_though_the_directory_is_away(world: World) -> None:
    world.directory.is_away = True
    await world.locate(ANN)
    assert world.done == 1
    assert world.locations.known(ANN) is None


async def test_done_is_called_though_the_directory_does_not_answer(world: World, autojump_clock: MockClock) -> None:
    world.ask(ANN)
    await trio.sleep(LOCATE_TIMEOUT_S + 0.1)
    assert world.done == 1


async def test_who_moved_is_unknown_and_the_old_place_a_hint(world: World) -> None:
    world.directory.places[ANN] = (at(1),)
    await world.locate(ANN, BEN)
    version = world.locations.version
    world.locations.moved([ANN])
    assert world.locations.known(ANN) is None
    assert world.locations.hint(ANN) == (at(1),)
    assert world.locations.known(BEN) == ()
    assert world.locations.version > version


async def test_an_answer_that_a_move_overtook_is_a_hint(world: World) -> None:
    world.directory.places[ANN] = (at(1),)
    world.ask(ANN)
    await wait_all_tasks_blocked()
    world.locations.moved([ANN])
    world.directory.go.set()
    await wait_all_tasks_blocked()
    assert world.done == 1
    assert world.locations.known(ANN) is None
    assert world.locations.hint(ANN) == (at(1),)
    world.directory.places[ANN] = (at(2, session=2),)
    await world.locate(ANN)
    assert world.locations.known(ANN) == (at(2, session=2),)


async def test_an_answer_of_an_emptied_directory_is_a_hint(world: World) -> None:
    world.ask(ANN)
    await wait_all_tasks_blocked()
    world.locations.generation_changed()
    world.directory.go.set()
    await wait_all_tasks_blocked()
    assert world.locations.known(ANN) is None


async def test_after_a_new_generation_everything_known_is_a_hint(world: World) -> None:
    world.directory.places[ANN] = (at(1),)
    await world.locate(ANN)
    world.locations.generation_changed()
    assert (world.locations.known(ANN), world.locations.hint(ANN)) == (None, (at(1),))


async def test_an_added_place_outlives_an_older_answer(world: World) -> None:
    world.ask(ANN)
    await wait_all_tasks_blocked()
    world.locations.add(ANN, at(2, session=5))
    world.directory.go.set()
    await wait_all_tasks_blocked()
    assert world.locations.known(ANN) == (at(2, session=5),)


async def test_an_added_place_is_among_the_hints_too(world: World) -> None:
    world.directory.places[ANN] = (at(1, device=11),)
    await world.locate(ANN)
    world.locations.moved([ANN])
    world.locations.add(ANN, at(2, device=12))
    assert set(world.locations.hint(ANN)) == {at(1, device=11), at(2, device=12)}


@pytest.mark.parametrize(("told", "added", "seen"), [(5, 6, 2), (6, 5, 1)])
async def test_of_two_places_of_a_device_the_later_session_counts(
    world: World, told: int, added: int, seen: int
) -> None:
    world.directory.places[ANN] = (at(1, session=told),)
    await world.locate(ANN)
    world.locations.add(ANN, at(2, session=added))
    places = world.locations.known(ANN)
    assert places is not None
    assert [place.worker_id for place in places] == [seen]


async def test_adding_what_is_there_changes_nothing(world: World) -> None:
    await world.locate(ANN)
    world.locations.add(ANN, at(2))
    version = world.locations.version
    world.locations.add(ANN, at(2))
    assert world.locations.version == version


async def test_a_device_that_is_gone_is_forgotten_where_it_was_and_the_others_are_looked_for(world: World) -> None:
    world.directory.places[ANN] = (at(1, device=11), at(2, device=12))
    await world.locate(ANN)
    world.locations.add(ANN, at(1, device=11))
    world.locations.gone(WorkerId(1), [(ANN, 11)])
    assert world.locations.known(ANN) is None
    assert world.locations.hint(ANN) == (at(2, device=12),)
    world.directory.places[ANN] = (at(2, device=12),)
    await world.locate(ANN)
    assert world.locations.known(ANN) == (at(2, device=12),)


async def test_places_at_a_worker_that_is_gone_are_forgotten(world: World) -> None:
    world.locations.add(ANN, at(1, device=11))
    world.locations.add(ANN, at(2, device=12))
    world.locations.worker_gone(WorkerId(1))
    assert world.locations.hint(ANN) == (at(2, device=12),)
