"""``lookups``: what a worker can ask of its directory when its cache of locations is empty."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import redis
import trio

from bench.backends.asking import Asked, DirectoryUnavailable, Plan, look_up
from bench.backends.embedded import embedded_directory
from bench.backends.over_redis import redis_directory
from bench.cluster import REDIS_PORT, parse_host
from bench.faults import BenchError
from bench.figures import Histogram
from bench.machine import cpu_s
from bench.report import Header, Result, finish
from bench.violations import Rule, Violations

__all__ = ["Plan", "run_lookups"]


BUSY_CORES = 0.8
WHY_IDLE = (
    f"neither the worker nor the directory's server used {BUSY_CORES} cores: the machine was busy with something else"
)


def run_lookups(header: Header, server: str, plan: Plan) -> Result:
    """``server``: HOST:PORT of a Redis; empty: only an embedded node's directory, which is measured anyway, to compare."""
    figures: dict[str, float] = {}
    wrong = Violations()
    embedded = _measure(_ask_embedded, plan)
    main = embedded
    if server:
        main, bytes_per_user = _measure_redis(server, plan)
        figures |= {**_figures("", main, wrong), "server_bytes_per_user": bytes_per_user}
    figures |= _figures("embedded_" if server else "", embedded, wrong)
    invalid = [] if max(main.worker_cores, main.server_cores) > BUSY_CORES else [WHY_IDLE]
    cost = {
        "seconds": round(main.seconds, 3),
        "worker_cores": round(main.worker_cores, 3),
        "server_cores": round(main.server_cores, 3),
    }
    return finish(header, figures, cost, (len(wrong), wrong.lines()), invalid)


async def _ask_embedded(plan: Plan) -> Asked:
    async with embedded_directory() as (directory, pid):
        return await look_up(directory, plan, lambda: cpu_s(pid))


def _measure_redis(server: str, plan: Plan) -> tuple[Asked, float]:
    """By the server's own account of itself: it need not be on this machine. Bytes: the keys, and the tracking of them."""
    host, port = parse_host(server, REDIS_PORT)
    used_bytes: list[int] = []

    def server_cpu_s() -> float:
        with redis.Redis(host=host, port=port) as client:
            used = client.info()
        used_bytes.append(int(used["used_memory"]))
        return float(used["used_cpu_user"]) + float(used["used_cpu_sys"])

    async def ask(plan: Plan) -> Asked:
        server_cpu_s()
        async with redis_directory(host, port) as directory:
            return await look_up(directory, plan, server_cpu_s)

    asked = _measure(ask, plan)
    return asked, (used_bytes[-1] - used_bytes[0]) / plan.users


def _measure(ask: Callable[[Plan], Awaitable[Asked]], plan: Plan) -> Asked:
    try:
        return trio.run(ask, plan)
    except* (DirectoryUnavailable, redis.RedisError, OSError, trio.TooSlowError) as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        raise BenchError(f"the directory did not answer: {error}") from group


def _figures(prefix: str, asked: Asked, wrong: Violations) -> dict[str, float]:
    if asked.wrong:
        wrong.add(Rule.CONTENT, f"{prefix}directory: {asked.wrong} of {asked.users} look-ups named another place")
    times = Histogram()
    for latency_ns in asked.latencies_ns:
        times.record(latency_ns // 1000)
    figures = {
        "lookups_per_s": asked.users / asked.seconds,
        "cpu_us_per_lookup": asked.cpu_s * 1e6 / max(1, asked.users),
        "server_us_per_lookup": asked.server_cpu_s * 1e6 / max(1, asked.users),
        **times.milliseconds(50, 99),
        "registrations_per_s": asked.registered_per_s,
    }
    return {prefix + name: value for name, value in figures.items()}
