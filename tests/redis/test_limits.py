"""Rates shared by two workers, each with its own connection."""

from __future__ import annotations

import pytest

from gateway.net.limits import Rate, SharedLimitsUnavailable, Spending
from gateway.net.shared_limits import Settlement, SharedBuckets, name_number
from storage.redis.directory import RedisDirectory
from storage.redis.limits import MAX_BUCKETS
from tests.cluster.directories import RedisWorld, record
from tests.redis.conftest import until
from tests.servers.redis import RedisServer

SLOW = Rate(per_s=0.1, burst=10.0)
"""Nothing comes back while a test runs, but 6 tokens a minute."""


async def joined(world: RedisWorld, worker: int) -> RedisDirectory:
    view, _ = await world.view(worker)
    await view.join(record(worker))
    return view


def table() -> SharedBuckets[int]:
    return SharedBuckets("sends", SLOW, 1000, name_number)


async def test_what_two_workers_spent_is_counted_together(world: RedisWorld) -> None:
    one, two = await joined(world, 1), await joined(world, 2)
    assert await one.limits.settle("s", SLOW, [Spending(b"ann", 6)]) == [0.0]
    ann, bob = await two.limits.settle("s", SLOW, [Spending(b"ann", 6), Spending(b"bob", 6)])
    assert 15 < ann <= 20  # 2 tokens too many, at 0.1 a second
    assert bob == 0.0


async def test_scopes_are_counted_apart(world: RedisWorld) -> None:
    one = await joined(world, 1)
    await one.limits.settle("s", SLOW, [Spending(b"ann", 10)])
    assert await one.limits.settle("t", SLOW, [Spending(b"ann", 10)]) == [0.0]


async def test_a_debt_is_bounded_by_another_burst(world: RedisWorld) -> None:
    one = await joined(world, 1)
    (wait_s,) = await one.limits.settle("s", SLOW, [Spending(b"ann", 1000)])
    assert wait_s == pytest.approx(100, abs=5)


async def test_many_keys_are_settled_in_order(world: RedisWorld) -> None:
    one = await joined(world, 1)
    count = 2 * MAX_BUCKETS + 1
    waits = await one.limits.settle("s", SLOW, [Spending(b"%d" % n, 10 + n % 2 * 5) for n in range(count)])
    assert [wait_s > 0 for wait_s in waits] == [n % 2 == 1 for n in range(count)]


async def test_a_key_that_spent_its_share_elsewhere_is_refused_here(world: RedisWorld) -> None:
    one, two = await joined(world, 1), await joined(world, 2)
    here, there = table(), table()
    settle_here = Settlement(one.limits, [here], now_s=lambda: 0.0)
    settle_there = Settlement(two.limits, [there], now_s=lambda: 0.0)
    assert [here.take(5, 0.0) for _ in range(8)] == [there.take(5, 0.0) for _ in range(8)] == [0.0] * 8
    await settle_here.settle()
    assert here.take(5, 0.0) == 0.0
    await settle_there.settle()
    assert there.take(5, 0.0) > 50
    await settle_here.settle()
    assert here.take(5, 0.0) > 60
    assert here.take(6, 0.0) == 0.0


async def test_without_an_answer_nobody_is_refused(world: RedisWorld, redis_server: RedisServer) -> None:
    one = await joined(world, 1)
    here = table()
    settlement = Settlement(one.limits, [here], now_s=lambda: 0.0)
    redis_server.pause()
    for _ in range(10):
        here.take(5, 0.0)
    await settlement.settle()
    assert settlement.failed == 1
    with pytest.raises(SharedLimitsUnavailable):
        await one.limits.settle("s", SLOW, [Spending(b"ann", 6)])
    assert here.take(5, 100.0) == 0.0
    redis_server.resume()
    await until(lambda: one.statistics().is_listed)
    assert await one.limits.settle("s", SLOW, [Spending(b"ann", 6)]) == [0.0]
