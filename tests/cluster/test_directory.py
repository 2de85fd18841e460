"""What every directory promises: the port's docstrings as tests, on each implementation."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import trio

from gateway.cluster.directory import Directory, Location, Outcome, Registered, Registration, Replaced
from gateway.cluster.directory_table import DirectoryTable
from gateway.protocol.identifiers import DeviceId, SessionId, UserId, WorkerId
from storage.redis.settings import RedisSettings
from tests.cluster.directories import LinkedWorld, LocalWorld, Recorder, RedisWorld, World, record
from tests.cluster.processes import Cluster
from tests.servers.redis import RedisServer

ANN, BOB = UserId(2**63 - 1), UserId(2)
PHONE, DESK = DeviceId(2**62), DeviceId(20)
FAR_S = 10_000


KINDS = ["local", "links", "redis"]


@pytest.fixture(params=KINDS)
async def world(request: pytest.FixtureRequest, cluster: Cluster, nursery: trio.Nursery) -> AsyncIterator[World]:
    yield await make_world(request, cluster, nursery, 0)
    nursery.cancel_scope.cancel()


@pytest.fixture(params=KINDS)
async def world_of_two(request: pytest.FixtureRequest, cluster: Cluster, nursery: trio.Nursery) -> AsyncIterator[World]:
    yield await make_world(request, cluster, nursery, 2)
    nursery.cancel_scope.cancel()


async def make_world(
    request: pytest.FixtureRequest, cluster: Cluster, nursery: trio.Nursery, expected_workers: int
) -> World:
    table = DirectoryTable(expected_workers=expected_workers)
    if request.param == "local":
        return LocalWorld(table)
    if request.param == "links":
        linked = LinkedWorld(table, cluster)
        await linked.start()
        return linked
    server: RedisServer = request.getfixturevalue("redis_server")
    world = RedisWorld(RedisSettings(port=server.port, settle_s=0), nursery, expected_workers)
    await world.start()
    return world


async def joined(world: World, worker: int, incarnation: int = 1) -> tuple[Directory, Recorder]:
    view, recorder = await world.view(worker, incarnation)
    await view.join(record(worker, incarnation))
    return view, recorder


def session(
    session_id: int, *, user: int = ANN, device: int = PHONE, resumed_from: int = 0, expires_s: int = FAR_S
) -> Registration:
    return Registration(UserId(user), DeviceId(device), SessionId(session_id), SessionId(resumed_from), expires_s)


def at(worker: int, session_id: int, device: int = PHONE) -> Location:
    return Location(DeviceId(device), WorkerId(worker), SessionId(session_id))


async def outcome(view: Directory, registration: Registration) -> tuple[Outcome, int]:
    (result,) = await view.register([registration])
    return result.outcome, result.session_id


async def test_joining_tells_the_workers_and_everybody_else(world: World) -> None:
    one, ones = await joined(world, 1)
    assert dict(one.workers) == {1: record(1)}
    two, _ = await joined(world, 2)
    assert dict(two.workers) == {1: record(1), 2: record(2)}
    await ones.workers.take(2)
    assert dict(one.workers) == {1: record(1), 2: record(2)}


async def test_nobody_is_told_until_all_expected_workers_have_joined(world_of_two: World) -> None:
    one, ones = await world_of_two.view(1)
    two, _ = await world_of_two.view(2)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.join, record(1))
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert not one.workers
        nursery.start_soon(two.join, record(2))
    assert set(one.workers) == set(two.workers) == {1, 2}
    assert len(ones.workers.seen) == 1


async def test_those_who_wait_are_told_when_the_wait_is_over(world_of_two: World) -> None:
    one, _ = await world_of_two.view(1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.join, record(1))
        await trio.testing.wait_all_tasks_blocked(0.01)
        world_of_two.settle()
    assert set(one.workers) == {1}


async def test_a_draining_worker_stays_and_is_marked(world: World) -> None:
    one, _ = await joined(world, 1)
    two, twos = await joined(world, 2)
    await one.drain()
    await twos.workers.take(2)
    assert two.workers[WorkerId(1)].is_draining


async def test_a_worker_that_leaves_takes_its_locations_with_it(world: World) -> None:
    one, _ = await joined(world, 1)
    two, twos = await joined(world, 2)
    await one.register([session(5)])
    assert await two.locate([ANN]) == {ANN: (at(1, 5),)}
    await one.leave()
    assert await twos.moved.get() == ([ANN],)
    assert await two.locate([ANN]) == {ANN: ()}
    await twos.workers.take(2)
    assert set(two.workers) == {2}


async def test_a_worker_that_dies_takes_its_locations_with_it(world: World) -> None:
    one, _ = await joined(world, 1)
    two, twos = await joined(world, 2)
    await one.register([session(5), session(6, user=BOB)])
    await two.locate([BOB, ANN])
    await world.kill(1)
    (moved,) = await twos.moved.get()
    assert sorted(moved) == [BOB, ANN]  # type: ignore[call-overload]
    assert await two.locate([ANN, BOB]) == {ANN: (), BOB: ()}


async def test_the_death_of_an_earlier_life_leaves_the_later_alone(world: World) -> None:
    one, _ = await joined(world, 1, incarnation=2)
    await one.register([session(5)])
    await world.kill(1, incarnation=1)
    assert await one.locate([ANN]) == {ANN: (at(1, 5),)}


async def test_a_later_life_of_a_worker_starts_without_the_locations_of_the_earlier(world: World) -> None:
    earlier, _ = await joined(world, 1)
    await earlier.register([session(5)])
    later, _ = await joined(world, 1, incarnation=2)
    assert await later.locate([ANN]) == {ANN: ()}


async def test_a_user_is_located_on_every_device(world: World) -> None:
    one, _ = await joined(world, 1)
    two, _ = await joined(world, 2)
    await one.register([session(5)])
    await two.register([session(7, device=DESK)])
    located = await one.locate([BOB, ANN])
    assert set(located[ANN]) == {at(1, 5), at(2, 7, DESK)}
    assert located[BOB] == ()


async def test_who_located_a_user_is_told_once_that_it_moved(world: World) -> None:
    one, ones = await joined(world, 1)
    await one.locate([ANN, BOB])
    await one.register([session(5)])
    assert await ones.moved.get() == ([ANN],)
    await one.register([session(6)])
    one.unregister(ANN, PHONE, SessionId(6))
    assert await one.locate([ANN]) == {ANN: ()}
    assert len(ones.moved.seen) == 1
    await one.register([session(7)])
    assert await ones.moved.get() == ([ANN],)


async def test_registering_the_same_session_again_moves_nobody(world: World) -> None:
    one, ones = await joined(world, 1)
    assert await outcome(one, session(5)) == (Outcome.ACCEPTED, 5)
    await one.locate([ANN])
    assert await outcome(one, session(5)) == (Outcome.ACCEPTED, 5)
    assert await one.locate([ANN]) == {ANN: (at(1, 5),)}
    assert ones.moved.seen == []
    assert ones.replaced.seen == []


async def test_the_higher_session_replaces_the_lower_and_its_worker_is_told(world: World) -> None:
    one, ones = await joined(world, 1)
    two, twos = await joined(world, 2)
    await one.register([session(5)])
    assert await outcome(two, session(9)) == (Outcome.ACCEPTED, 9)
    assert await ones.replaced.get() == ([Replaced(ANN, PHONE, SessionId(5), SessionId(9))],)
    assert await two.locate([ANN]) == {ANN: (at(2, 9),)}
    assert twos.replaced.seen == []


async def test_the_worker_of_both_sessions_is_told_too(world: World) -> None:
    one, ones = await joined(world, 1)
    await one.register([session(5)])
    await one.register([session(6)])
    assert await ones.replaced.get() == ([Replaced(ANN, PHONE, SessionId(5), SessionId(6))],)


async def test_a_lower_session_is_superseded_and_evicts_nobody(world: World) -> None:
    one, ones = await joined(world, 1)
    two, _ = await joined(world, 2)
    await one.register([session(5)])
    assert await outcome(two, session(4)) == (Outcome.SUPERSEDED, 5)
    assert await outcome(two, session(5)) == (Outcome.SUPERSEDED, 5)
    assert await one.locate([ANN]) == {ANN: (at(1, 5),)}
    assert ones.replaced.seen == []


async def test_a_lower_session_is_superseded_after_the_higher_has_ended_too(world: World) -> None:
    one, _ = await joined(world, 1)
    await one.register([session(5)])
    one.unregister(ANN, PHONE, SessionId(5))
    assert await outcome(one, session(4)) == (Outcome.SUPERSEDED, 5)
    assert await one.locate([ANN]) == {ANN: ()}


async def test_the_results_are_in_the_order_of_the_registrations(world: World) -> None:
    one, _ = await joined(world, 1)
    results = await one.register([session(5), session(3), session(8, user=BOB), session(6)])
    assert results == [
        Registered(Outcome.ACCEPTED, SessionId(5)),
        Registered(Outcome.SUPERSEDED, SessionId(5)),
        Registered(Outcome.ACCEPTED, SessionId(8)),
        Registered(Outcome.ACCEPTED, SessionId(6)),
    ]


async def test_the_end_of_another_session_than_the_registered_one_is_ignored(world: World) -> None:
    one, _ = await joined(world, 1)
    await one.register([session(5)])
    await one.register([session(6)])
    one.unregister(ANN, PHONE, SessionId(5))
    assert await one.locate([ANN]) == {ANN: (at(1, 6),)}


async def test_an_older_resume_token_is_good_until_a_later_one_was_used(world: World) -> None:
    one, _ = await joined(world, 1)
    await one.register([session(5)])
    assert await outcome(one, session(6, resumed_from=5)) == (Outcome.ACCEPTED, 6)
    assert await outcome(one, session(7, resumed_from=5)) == (Outcome.ACCEPTED, 7)
    assert await outcome(one, session(8, resumed_from=6)) == (Outcome.ACCEPTED, 8)
    assert await outcome(one, session(9, resumed_from=5)) == (Outcome.RESUME_STALE, 8)
    assert await one.locate([ANN]) == {ANN: (at(1, 8),)}
    assert await outcome(one, session(10)) == (Outcome.ACCEPTED, 10)


async def test_an_outdated_token_is_recognised_until_it_expires_without_a_session(world: World) -> None:
    one, _ = await joined(world, 1)
    await one.register([session(8, resumed_from=6, expires_s=2000)])
    one.unregister(ANN, PHONE, SessionId(8))
    assert await outcome(one, session(9, resumed_from=5)) == (Outcome.RESUME_STALE, 8)
    world.now_s = 2001.0
    assert await outcome(one, session(9, resumed_from=5)) == (Outcome.ACCEPTED, 9)


async def test_many_concurrent_calls_get_their_own_answers(world: World) -> None:
    one, _ = await joined(world, 1)
    answers: dict[int, list[Registered]] = {}

    async def register(user: int) -> None:
        answers[user] = await one.register([session(user, user=user), session(user, user=user, device=DESK)])

    async with trio.open_nursery() as nursery:
        for user in range(1, 3001):
            nursery.start_soon(register, user)
    assert all(results == [(Outcome.ACCEPTED, user)] * 2 for user, results in answers.items())
    users = [UserId(user) for user in range(1, 10_001)]
    located = await one.locate(users)
    assert list(located) == users
    assert sum(map(len, located.values())) == 6000
