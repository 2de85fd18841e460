"""What is wrong with a Redis before a node relies on it.

Owns the judgement over what a server says of itself, and the questions. It uses the blocking client: this is for a command
line, where nothing else runs. ``examine`` never raises for a server that cannot be reached: that is its first finding.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from gateway.ops.findings import Finding
from storage.redis.settings import RedisSettings

WANTED_VERSION = (7, 0)
"""What the tests run on. RESP3 and tracking came with 6.0."""
LATENCY_LIMIT_MS = 5.0
PINGS = 20
TRACKED_KEYS_SHARE = 0.8


class Answers(NamedTuple):
    """What a server says of itself. Empty where it may not be asked."""

    version: str
    role: str
    maxmemory_policy: str
    maxmemory: int
    used_memory: int
    tracked_keys: int
    tracking_limit: int
    """0: none."""
    latency_ms: float
    """The median of some round trips."""


def examine(settings: RedisSettings) -> list[Finding]:
    """Ask, and judge. Takes a few round trips; each is bounded by the settings' time-outs."""
    where = settings.unix_path or f"{settings.host}:{settings.port}"
    try:
        with _client(settings) as client:
            answers = _ask(client)
    except (redis.RedisError, OSError) as error:
        return [Finding("redis", False, f"{where} does not serve: {error}", "start it, or correct [directory.redis]")]
    return [Finding("redis", True, f"{where} answers, version {answers.version}"), *judge(answers)]


def judge(answers: Answers) -> Iterator[Finding]:
    yield Finding(
        "redis version",
        _version(answers.version) >= WANTED_VERSION,
        f"{answers.version}; tracking in RESP3 is what locations rely on",
        "use Redis 7.0 or later, or Valkey",
    )
    yield Finding(
        "redis role",
        answers.role in ("master", ""),
        f"it is a {answers.role or 'server that does not tell'}; every worker writes",
        "name the master, or an address that follows it",
    )
    yield Finding(
        "redis eviction",
        answers.maxmemory == 0 or answers.maxmemory_policy in ("noeviction", ""),
        f"maxmemory-policy {answers.maxmemory_policy}: an evicted key is a user that nobody finds",
        "CONFIG SET maxmemory-policy noeviction",
    )
    yield Finding(
        "redis memory",
        answers.maxmemory == 0 or answers.used_memory < 0.8 * answers.maxmemory,
        f"{answers.used_memory / 1e6:.0f} MB of {answers.maxmemory / 1e6:.0f} MB are used (0: no limit); full, it refuses logins",
        "raise maxmemory: some 300 bytes for each device",
        is_needed=False,
    )
    yield Finding(
        "redis tracking",
        answers.tracking_limit == 0 or answers.tracked_keys < TRACKED_KEYS_SHARE * answers.tracking_limit,
        f"{answers.tracked_keys:,} of {answers.tracking_limit:,} keys are tracked; beyond it cached locations are dropped early",
        "CONFIG SET tracking-table-max-keys: as many as there are users online",
        is_needed=False,
    )
    yield Finding(
        "redis latency",
        answers.latency_ms <= LATENCY_LIMIT_MS,
        f"{answers.latency_ms:.2f} ms a round trip; a message to an uncached user waits for one",
        "a Redis in the same zone, and no other work on it",
        is_needed=False,
    )


def _client(settings: RedisSettings) -> redis.Redis:
    known: dict[str, Any] = {
        "db": settings.database,
        "username": settings.username or None,
        "password": settings.password or None,
        "socket_timeout": settings.command_timeout_s,
        "socket_connect_timeout": settings.connect_timeout_s,
        "retry": Retry(NoBackoff(), 0),
        "decode_responses": True,
    }
    if settings.unix_path:
        return redis.Redis(unix_socket_path=settings.unix_path, **known)
    if settings.is_tls:
        known |= {
            "ssl": True,
            "ssl_ca_certs": settings.tls_ca_path or None,
            "ssl_certfile": settings.tls_certificate_path or None,
            "ssl_keyfile": settings.tls_key_path or None,
            "ssl_check_hostname": settings.is_tls_hostname_checked,
        }
    return redis.Redis(host=settings.host, port=settings.port, **known)


def _ask(client: redis.Redis) -> Answers:
    """Raises redis.RedisError."""
    said: Mapping[str, Any] = client.info()
    config: Mapping[Any, Any] = {}
    with contextlib.suppress(redis.ResponseError):  # a managed server allows no CONFIG; INFO says the rest
        config = client.config_get("tracking-table-max-keys")
    return Answers(
        version=str(said.get("redis_version", "")),
        role=str(said.get("role", "")),
        maxmemory_policy=str(said.get("maxmemory_policy", "")),
        maxmemory=int(said.get("maxmemory", 0)),
        used_memory=int(said.get("used_memory", 0)),
        tracked_keys=int(said.get("tracking_total_keys", 0)),
        tracking_limit=int(config.get("tracking-table-max-keys", 0)),
        latency_ms=_latency_ms(client),
    )


def _latency_ms(client: redis.Redis) -> float:
    times = []
    for _ in range(PINGS):
        began_s = time.perf_counter()
        client.ping()
        times.append(time.perf_counter() - began_s)
    return sorted(times)[PINGS // 2] * 1000


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".")[:2] if part.isdigit())
