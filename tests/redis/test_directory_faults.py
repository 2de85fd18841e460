"""A real Redis that is emptied, restarted, full, hung, cut off: nobody is dropped, everything comes back by itself."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import trio

from gateway.cluster.directory import (
    DirectoryUnavailable,
    Location,
    Outcome,
    Registered,
    Registration,
    Replaced,
)
from gateway.protocol.identifiers import DeviceId, SessionId, UserId, WorkerId
from storage.redis.directory import RedisDirectory, superseded
from storage.redis.settings import RedisSettings
from tests.cluster.directories import Recorder, RedisWorld, record
from tests.redis.conftest import until
from tests.servers.redis import RedisServer

ANN, BOB = UserId(2**63 - 1), UserId(2)
PHONE = DeviceId(2**62)
BIG = 2**62
"""Session ids that differ where a double sees no difference."""


def session(session_id: int, *, user: int = ANN, expires_s: int = 10_000) -> Registration:
    return Registration(UserId(user), PHONE, SessionId(session_id), SessionId(0), expires_s)


def at(worker: int, session_id: int) -> Location:
    return Location(PHONE, WorkerId(worker), SessionId(session_id))


async def joined(world: RedisWorld, worker: int, incarnation: int = 1) -> tuple[RedisDirectory, Recorder]:
    view, recorder = await world.view(worker, incarnation)
    await view.join(record(worker, incarnation))
    return view, recorder


async def pair(world: RedisWorld) -> tuple[RedisDirectory, Recorder, RedisDirectory, Recorder]:
    one, ones = await joined(world, 1)
    two, twos = await joined(world, 2)
    await ones.workers.take(2)
    return one, ones, two, twos


async def in_thread(call: Callable[[], object]) -> None:
    await trio.to_thread.run_sync(call)


async def locate(view: RedisDirectory, user: int = ANN) -> tuple[Location, ...]:
    return (await view.locate([UserId(user)]))[UserId(user)]


def told(recorder: Recorder) -> list[set[int]]:
    return [set(seen[0]) for seen in recorder.workers.seen]  # type: ignore[call-overload]


async def test_an_emptied_directory_is_rebuilt_and_nobody_is_dropped(
    world: RedisWorld, redis_server: RedisServer
) -> None:
    one, ones, two, twos = await pair(world)
    await one.register([session(5)])
    assert await locate(two) == (at(1, 5),)
    await in_thread(redis_server.flush)
    assert await twos.moved.get() == ([ANN],)
    await ones.generation.get()
    await twos.generation.get()
    await one.register([session(5)])
    assert await locate(two) == (at(1, 5),)
    assert told(ones) == [{1}, {1, 2}]
    assert told(twos) == [{1, 2}]


async def test_a_server_that_comes_back_with_nothing_is_filled_again_and_nobody_is_dropped(
    world: RedisWorld, redis_server: RedisServer
) -> None:
    one, ones, two, twos = await pair(world)
    await one.register([session(5)])
    await in_thread(redis_server.kill)
    with pytest.raises(DirectoryUnavailable):
        while True:
            await locate(two)
    assert set(one.workers) == set(two.workers) == {1, 2}
    await in_thread(redis_server.start)
    await ones.generation.get()
    await twos.generation.get()
    assert await locate(two) == ()
    await one.register([session(5)])
    await until(lambda: two.statistics().is_listed)
    assert await locate(two) == (at(1, 5),)
    assert told(ones) == [{1}, {1, 2}]
    assert told(twos) == [{1, 2}]


async def test_a_server_that_comes_back_with_what_it_knew_is_not_believed_about_earlier_locations(
    make_redis: Callable[..., RedisServer], nursery: trio.Nursery
) -> None:
    server = make_redis(appendonly="yes", appendfsync="always")
    world = RedisWorld(RedisSettings(port=server.port, settle_s=0), nursery)
    one, ones = await joined(world, 1)
    await one.register([session(5), session(6, user=BOB)])
    await in_thread(server.kill)
    await until(lambda: not one.statistics().is_listed)
    one.unregister(ANN, PHONE, SessionId(5))
    await in_thread(server.start)
    await ones.generation.get()
    assert await one.locate([ANN, BOB]) == {ANN: (), BOB: ()}
    assert await one.register([session(6, user=BOB)]) == [Registered(Outcome.ACCEPTED, SessionId(6))]
    assert await locate(one, BOB) == (at(1, 6),)
    nursery.cancel_scope.cancel()


async def test_a_lost_connection_is_joined_again_and_keeps_the_locations(
    world: RedisWorld, redis_server: RedisServer
) -> None:
    one, ones, two, twos = await pair(world)
    await one.register([session(5)])
    await in_thread(redis_server.drop_clients)
    await ones.generation.get()
    await twos.generation.get()
    assert await locate(two) == (at(1, 5),)
    await one.register([session(6)])
    assert await twos.moved.get() == ([ANN],)
    assert told(twos) == [{1, 2}]


async def test_an_end_that_could_not_be_said_is_said_in_the_next_life(
    world: RedisWorld, redis_server: RedisServer
) -> None:
    one, ones, two, _ = await pair(world)
    await one.register([session(5)])
    redis_server.pause()
    one.unregister(ANN, PHONE, SessionId(5))
    await until(lambda: not one.statistics().is_listed)
    redis_server.resume()
    await ones.generation.get()
    await until(lambda: one.statistics().unsaid_endings == 0 and two.statistics().is_listed)
    assert await locate(two) == ()


async def test_a_full_server_refuses_registrations_and_answers_lookups(
    world: RedisWorld, redis_server: RedisServer
) -> None:
    one, ones, two, twos = await pair(world)
    await one.register([session(5)])
    await in_thread(redis_server.limit_memory)
    with pytest.raises(DirectoryUnavailable, match="OOM"):
        await one.register([session(6)])
    assert await locate(two) == (at(1, 5),)
    await in_thread(lambda: redis_server.limit_memory(0))
    assert await one.register([session(6)]) == [Registered(Outcome.ACCEPTED, SessionId(6))]
    assert await locate(two) == (at(1, 6),)
    assert ones.generation.seen == twos.generation.seen == []
    assert set(one.workers) == set(two.workers) == {1, 2}


async def test_sessions_that_a_full_server_refused_are_registered_when_it_is_full_no_more(
    world: RedisWorld, redis_server: RedisServer
) -> None:
    one, ones = await joined(world, 1)
    one.sessions = lambda: [session(5)]
    await in_thread(redis_server.limit_memory)
    with pytest.raises(DirectoryUnavailable, match="OOM"):
        await one.register([session(5)])
    assert await locate(one) == ()
    await in_thread(lambda: redis_server.limit_memory(0))
    assert await ones.moved.get() == ([ANN],)
    assert await locate(one) == (at(1, 5),)
    assert ones.generation.seen == []


async def test_a_hung_server_is_given_up_in_bounded_time_and_taken_back(
    world: RedisWorld, redis_server: RedisServer
) -> None:
    one, ones, two, twos = await pair(world)
    await one.register([session(5)])
    redis_server.pause()
    with trio.fail_after(5), pytest.raises(DirectoryUnavailable):
        await one.register([session(6)])
    with trio.fail_after(5), pytest.raises(DirectoryUnavailable):
        await locate(one)
    assert set(one.workers) == {1, 2}
    redis_server.resume()
    await ones.generation.get()
    await until(lambda: two.statistics().is_listed)
    # What was not answered may have been done: repeating it is what the port allows.
    assert await one.register([session(6)]) == [Registered(Outcome.ACCEPTED, SessionId(6))]
    assert await locate(two) == (at(1, 6),)
    assert told(ones) == [{1}, {1, 2}]
    assert told(twos) == [{1, 2}]


@pytest.mark.parametrize("turns", range(2, 8))
async def test_scripts_that_the_server_forgot_are_sent_again_in_order(
    world: RedisWorld, redis_server: RedisServer, turns: int
) -> None:
    """However far the registration has come when the session ends; two turns are what it takes to be made at all."""
    one, ones, two, _ = await pair(world)
    await in_thread(lambda: redis_server.command("SCRIPT", "FLUSH"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.register, [session(5)])
        for _ in range(turns):
            await trio.lowlevel.checkpoint()
        one.unregister(ANN, PHONE, SessionId(5))
    await until(lambda: one.statistics().unsaid_endings == 0)
    assert await locate(two) == ()
    assert ones.generation.seen == []


async def test_without_a_server_joining_fails_as_unavailable(nursery: trio.Nursery) -> None:
    world = RedisWorld(RedisSettings(unix_path="/nowhere/redis.sock"), nursery)
    view, _ = await world.view(1)
    with trio.fail_after(10), pytest.raises(DirectoryUnavailable):
        await view.join(record(1))
    nursery.cancel_scope.cancel()


async def test_before_joining_nothing_can_be_registered(world: RedisWorld) -> None:
    view, _ = await world.view(1)
    with pytest.raises(DirectoryUnavailable):
        await view.register([session(5)])
    with pytest.raises(DirectoryUnavailable):
        await view.locate([ANN])


async def test_a_life_that_was_reported_as_ended_or_replaced_cannot_join(world: RedisWorld) -> None:
    await world.kill(1, 3)
    ended, _ = await world.view(1, 3)
    with pytest.raises(DirectoryUnavailable, match="ended"):
        await ended.join(record(1, 3))
    await joined(world, 1, 5)
    earlier, _ = await world.view(1, 4)
    with pytest.raises(DirectoryUnavailable, match="later"):
        await earlier.join(record(1, 4))


async def test_a_worker_that_was_replaced_by_a_later_life_cannot_register(world: RedisWorld) -> None:
    earlier, _ = await joined(world, 1, 1)
    await joined(world, 1, 2)
    await until(lambda: not earlier.statistics().is_listed)
    with pytest.raises(DirectoryUnavailable):
        await earlier.register([session(5)])


async def test_session_ids_above_the_doubles_are_told_apart(world: RedisWorld) -> None:
    one, _ = await joined(world, 1)
    outcomes = await one.register([session(BIG + 1), session(BIG), session(BIG + 2), session(BIG + 1)])
    assert [(result.outcome, result.session_id - BIG) for result in outcomes] == [
        *((Outcome.ACCEPTED, 1), (Outcome.SUPERSEDED, 1), (Outcome.ACCEPTED, 2), (Outcome.SUPERSEDED, 2))
    ]


async def test_a_session_that_was_superseded_while_the_directory_was_empty_is_reported_to_its_worker(
    world: RedisWorld, redis_server: RedisServer
) -> None:
    one, ones, two, _ = await pair(world)
    mine = [session(5), session(7, user=BOB)]
    await one.register(mine)
    await in_thread(redis_server.flush)
    await two.register([session(9)])
    await ones.generation.get()
    results = await one.register(mine)
    assert superseded(mine, results) == [Replaced(ANN, PHONE, SessionId(5), SessionId(9))]


async def test_a_refresh_keeps_records_from_running_out_and_reports_the_superseded(
    world: RedisWorld, redis_server: RedisServer
) -> None:
    one, ones = await joined(world, 1)
    await one.register([session(5), session(7, user=BOB)])
    one.sessions = lambda: [session(5), session(6, user=BOB)]
    (key,) = redis_server.command("KEYS", f"*u:{ANN}")  # type: ignore[misc]
    redis_server.command("EXPIRE", str(key), 60)
    await one.refresh()
    assert int(str(redis_server.command("TTL", str(key)))) > 3600
    assert await ones.replaced.get() == ([Replaced(BOB, PHONE, SessionId(6), SessionId(7))],)


async def test_every_key_has_a_time_to_live(world: RedisWorld, redis_server: RedisServer) -> None:
    one, _, _, _ = await pair(world)
    await one.register([session(5), session(6, user=BOB)])
    one.unregister(BOB, PHONE, SessionId(6))
    await world.kill(2)
    assert await locate(one) == (at(1, 5),)
    keys = redis_server.command("KEYS", "*")
    assert len(keys) == 5  # type: ignore[arg-type]
    assert [key for key in keys if int(str(redis_server.command("TTL", key))) <= 0] == []  # type: ignore[attr-defined]


async def test_only_lookups_are_tracked(world: RedisWorld, redis_server: RedisServer) -> None:
    one, _, two, _ = await pair(world)
    await one.register([session(5), session(6, user=BOB)])
    assert "tracking_total_keys:0\r\n" in str(redis_server.command("INFO", "stats"))
    await two.locate([ANN])
    assert "tracking_total_keys:1\r\n" in str(redis_server.command("INFO", "stats"))


async def test_a_record_that_is_not_ours_is_nobody_and_is_written_over(
    world: RedisWorld, redis_server: RedisServer
) -> None:
    one, _ = await joined(world, 1)
    await one.register([session(5)])
    (key,) = redis_server.command("KEYS", f"*u:{ANN}")  # type: ignore[misc]
    redis_server.command("SET", str(key), "something else")
    assert await locate(one) == ()
    await one.register([session(6)])
    assert await locate(one) == (at(1, 6),)


# ------------------------------------------------------------------------------------------- who is dropped, and when


class State:
    """The directory's own times, moved by hand: nobody waits for ten seconds here."""

    def __init__(self, server: RedisServer) -> None:
        self._server = server

    def now_ms(self) -> int:
        seconds, micros = self._server.command("TIME")  # type: ignore[misc]
        return int(seconds) * 1000 + int(micros) // 1000  # type: ignore[has-type]

    def was_up_for(self, milliseconds: int) -> None:
        self._server.command("HSET", "{parley}:cluster", "up", self.now_ms() - milliseconds)

    def last_beat_of_anybody(self, ago_ms: int) -> None:
        self._server.command("HSET", "{parley}:cluster", "last", self.now_ms() - ago_ms)

    def add_silent(self, worker: int, silent_ms: int) -> None:
        member = f"{1:019d}abcdefghij0/nowhere\0"
        self._server.command("HSET", "{parley}:cluster", f"w{worker:07d}", member)
        self._server.command("HINCRBY", "{parley}:cluster", "version", 1)
        self._server.command("ZADD", "{parley}:alive", self.now_ms() - silent_ms, f"{worker:07d}")
        self._server.command("PUBLISH", "{parley}:news", "1")


async def test_a_silent_worker_is_dropped_once_the_directory_has_been_up_long_enough(
    world: RedisWorld, redis_server: RedisServer
) -> None:
    one, ones = await joined(world, 1)
    state = State(redis_server)
    state.add_silent(2, 60_000)
    await until(lambda: set(one.workers) == {1, 2})
    beats = one.statistics().connection.commands
    await until(lambda: one.statistics().connection.commands > beats + 3)
    assert set(one.workers) == {1, 2}  # up for a moment only
    state.was_up_for(10_000)
    await until(lambda: set(one.workers) == {1})
    assert told(ones) == [{1}, {1, 2}, {1}]


async def test_a_worker_whose_key_went_less_than_two_seconds_ago_stays(
    world: RedisWorld, redis_server: RedisServer
) -> None:
    one, _ = await joined(world, 1)
    state = State(redis_server)
    state.was_up_for(60_000)
    state.add_silent(2, 3_000)
    state.add_silent(3, 5_000)
    await until(lambda: set(one.workers) == {1, 2})


async def test_when_nobody_could_beat_the_directory_was_away_and_nobody_is_dropped(
    world: RedisWorld, settings: RedisSettings, redis_server: RedisServer
) -> None:
    async with trio.open_nursery() as life:
        await joined(RedisWorld(settings, life), 1)
        life.cancel_scope.cancel()
    state = State(redis_server)
    state.was_up_for(60_000)
    state.add_silent(2, 60_000)
    state.last_beat_of_anybody(5_000)
    one, _ = await joined(world, 1, 2)
    assert set(one.workers) == {1, 2}


async def test_the_loss_of_the_times_alone_drops_nobody(world: RedisWorld, redis_server: RedisServer) -> None:
    one, _, _, _ = await pair(world)
    state = State(redis_server)
    state.was_up_for(60_000)
    state.add_silent(3, 1_000)
    await until(lambda: set(one.workers) == {1, 2, 3})
    redis_server.command("DEL", "{parley}:alive")
    await until(lambda: redis_server.command("ZCARD", "{parley}:alive") == 3)
    assert set(one.workers) == {1, 2, 3}


async def test_a_worker_that_does_not_come_back_to_an_emptied_directory_is_dropped_when_that_has_been_up(
    world: RedisWorld, redis_server: RedisServer
) -> None:
    one, ones = await joined(world, 1)
    state = State(redis_server)
    state.add_silent(2, 0)
    await until(lambda: set(one.workers) == {1, 2})
    await in_thread(redis_server.flush)
    await ones.generation.get()
    assert set(one.workers) == {1, 2}
    state.was_up_for(10_000)
    await until(lambda: set(one.workers) == {1})


async def test_who_joins_a_young_directory_waits_until_others_can_have_come_back(
    redis_server: RedisServer, nursery: trio.Nursery
) -> None:
    world = RedisWorld(RedisSettings(port=redis_server.port, settle_s=60), nursery)
    one, _ = await world.view(1)
    async with trio.open_nursery() as waiting:
        waiting.start_soon(one.join, record(1))
        await until(lambda: one.statistics().is_listed)
        assert not one.workers
        State(redis_server).was_up_for(60_000)
    assert set(one.workers) == {1}
    nursery.cancel_scope.cancel()
