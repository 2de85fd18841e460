"""The directory's server emptied, restarted with nothing, gone, hung, full or slow: ownership does not rest on it.

Who is connected where, and which workers live, must be known again afterwards; chats are served on meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.faults.conftest import Gather, Judge, StartCluster, mend
from tests.nodes import ClusterProcess, Servers
from tests.servers.redis import RedisServer
from tests.servers.toxiproxy import Proxy, Toxiproxy

TALK_S = 2.0
KILLED_S = 10.0
PAUSED_S = 5.0
FULL_S = 5.0
SLOW_S = 5.0


@pytest.fixture(scope="module")
def way(_toxiproxy: Toxiproxy, redis_of_file: RedisServer) -> Iterator[Proxy]:
    """To Redis, the only one that the cluster knows."""
    _toxiproxy.resume()
    proxy = _toxiproxy.proxy(redis_of_file.host, redis_of_file.port)
    yield proxy
    proxy.close()


@pytest.fixture(scope="module")
def _cluster(start_cluster: StartCluster, servers_of_file: Servers, way: Proxy) -> ClusterProcess:
    return start_cluster(servers_of_file._replace(redis_host=way.host, redis_port=way.port))


@pytest.fixture
def cluster(_cluster: ClusterProcess, way: Proxy, redis_of_file: RedisServer) -> ClusterProcess:
    way.heal()
    if not redis_of_file.process.is_running:
        redis_of_file.start()
    redis_of_file.resume()
    redis_of_file.limit_memory(0)
    return mend(_cluster)


def test_a_directory_that_is_emptied_costs_no_message(
    cluster: ClusterProcess, gather: Gather, judge: Judge, redis_of_file: RedisServer
) -> None:
    people = gather(cluster)
    people.talk_for(TALK_S)
    with people.through() as outage:
        redis_of_file.flush()
        people.talk_for(TALK_S)
    judge("Redis: FLUSHALL", people, outage)


def test_a_directory_that_is_restarted_with_nothing_costs_no_message(
    cluster: ClusterProcess, gather: Gather, judge: Judge, redis_of_file: RedisServer
) -> None:
    people = gather(cluster)
    people.talk_for(TALK_S)
    with people.through() as outage:
        redis_of_file.restart()
        people.talk_for(TALK_S)
    judge("Redis: restarted with nothing", people, outage)


def test_a_directory_that_is_gone_for_ten_seconds_costs_no_message(
    cluster: ClusterProcess, gather: Gather, judge: Judge, redis_of_file: RedisServer
) -> None:
    people = gather(cluster)
    people.talk_for(TALK_S)
    with people.through() as outage:
        redis_of_file.kill()
        people.talk_for(KILLED_S)
        redis_of_file.start()
    judge("Redis: killed, back with nothing after 10 s", people, outage)


def test_a_directory_that_hangs_costs_no_message(
    cluster: ClusterProcess, gather: Gather, judge: Judge, redis_of_file: RedisServer
) -> None:
    people = gather(cluster)
    people.talk_for(TALK_S)
    with people.through() as outage:
        redis_of_file.pause()
        people.talk_for(PAUSED_S)
        redis_of_file.resume()
    judge("Redis: stopped for 5 s", people, outage)


def test_a_directory_that_is_full_costs_no_message(
    cluster: ClusterProcess, gather: Gather, judge: Judge, redis_of_file: RedisServer
) -> None:
    people = gather(cluster)
    people.talk_for(TALK_S)
    with people.through() as outage:
        redis_of_file.limit_memory()
        people.talk_for(FULL_S)
        redis_of_file.limit_memory(0)
    judge("Redis: -OOM for 5 s", people, outage)


@pytest.mark.parametrize(("delay_ms", "told"), [(300, "0.3 s"), (1500, "1.5 s")])
def test_a_directory_that_is_slow_costs_no_message(
    cluster: ClusterProcess, gather: Gather, judge: Judge, way: Proxy, delay_ms: int, told: str
) -> None:
    people = gather(cluster)
    people.talk_for(TALK_S)
    with people.through() as outage:
        way.delay(delay_ms, 0, "downstream")
        people.talk_for(SLOW_S)
        way.heal()
    judge(f"Redis: every answer {told} late for 5 s", people, outage)
