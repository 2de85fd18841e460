"""The doctor on a real server, and its judgement as a table."""

from __future__ import annotations

import pytest

from storage.redis.doctor import Answers, examine, judge
from storage.redis.settings import RedisSettings, parse_url
from tests.servers.addresses import free_port
from tests.servers.redis import RedisServer

HEALTHY = Answers("7.0.15", "master", "noeviction", 1 << 30, 1 << 20, 10, 1_000_000, 0.2)


def test_a_server_of_ours_is_good(redis_server: RedisServer) -> None:
    findings = examine(RedisSettings(port=redis_server.port))
    needed = [finding for finding in findings if finding.is_needed]
    assert all(finding.is_good for finding in needed), needed
    assert {"redis", "redis eviction", "redis tracking"} <= {finding.subject for finding in findings}


def test_a_server_that_evicts_is_found_out(redis_server: RedisServer) -> None:
    redis_server.command("CONFIG", "SET", "maxmemory", 1 << 30, "maxmemory-policy", "allkeys-lru")
    bad = [finding.subject for finding in examine(RedisSettings(port=redis_server.port)) if not finding.is_good]
    assert "redis eviction" in bad


def test_a_server_that_is_not_there_is_one_finding() -> None:
    (finding,) = examine(RedisSettings(port=free_port()))
    assert (finding.subject, finding.is_good) == ("redis", False)
    assert finding.mend


@pytest.mark.parametrize(
    ("answers", "bad"),
    [
        (HEALTHY, set()),
        (HEALTHY._replace(version="6.2.14"), {"redis version"}),
        (HEALTHY._replace(version="10.1.0"), set()),
        (HEALTHY._replace(role="slave"), {"redis role"}),
        (HEALTHY._replace(maxmemory_policy="volatile-ttl"), {"redis eviction"}),
        (HEALTHY._replace(maxmemory_policy="volatile-ttl", maxmemory=0), set()),
        (HEALTHY._replace(used_memory=1 << 30), {"redis memory"}),
        (HEALTHY._replace(tracked_keys=999_999), {"redis tracking"}),
        (HEALTHY._replace(tracked_keys=999_999, tracking_limit=0), set()),
        (HEALTHY._replace(latency_ms=12.0), {"redis latency"}),
    ],
)
def test_what_is_wrong_is_named(answers: Answers, bad: set[str]) -> None:
    findings = list(judge(answers))
    assert {finding.subject for finding in findings if not finding.is_good} == bad
    assert all(finding.mend for finding in findings)


@pytest.mark.parametrize(
    ("url", "settings"),
    [
        ("redis://db.example", RedisSettings(host="db.example")),
        ("redis://:p%40ss@db:7000/3", RedisSettings(host="db", port=7000, database=3, password="p@ss")),
        ("rediss://me:pw@db", RedisSettings(host="db", username="me", password="pw", is_tls=True)),
        ("unix:///run/redis.sock", RedisSettings(unix_path="/run/redis.sock")),
    ],
)
def test_a_url_says_where_and_who(url: str, settings: RedisSettings) -> None:
    assert parse_url(url) == settings


@pytest.mark.parametrize("url", ["http://db", "redis://db:port", "redis://db/name", ""])
def test_another_url_is_an_error(url: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - whichever part of it is wrong
        parse_url(url)
