"""Look-ups in a directory: so many users, so many askers at once, and nobody remembers an answer.

Owns the asking, and the check of every answer. It must not know which directory it is. Where users are is asked of the
directory itself; the cache of locations that a worker has above it is not there.
"""

from __future__ import annotations

import random
import time
from array import array
from collections.abc import Callable
from typing import NamedTuple

import trio

from gateway.cluster.directory import Directory, DirectoryUnavailable, Location, Registration, WorkerRecord
from gateway.protocol.identifiers import DeviceId, SessionId, UserId, WorkerId

__all__ = ["Asked", "Directory", "DirectoryUnavailable", "Plan", "look_up"]

ME = WorkerRecord(WorkerId(1 << 10 | 1), 1, "/nowhere", False, "127.0.0.1:1")
REGISTERED_AT_ONCE = 500
SESSION = SessionId(1)
KEPT_S = 600
"""How long a user's record outlives its last word: longer than a run, and no longer than need be."""


class Plan(NamedTuple):
    users: int
    tasks: int
    users_per_call: int
    warmup_s: float
    seconds: float
    seed: int


class Asked(NamedTuple):
    """``latencies_ns``: of the measured calls. ``wrong``: answers that named another place than the user's, or none."""

    users: int
    seconds: float
    cpu_s: float
    server_cpu_s: float
    latencies_ns: array[int]
    wrong: int
    registered_per_s: float

    @property
    def worker_cores(self) -> float:
        return self.cpu_s / self.seconds

    @property
    def server_cores(self) -> float:
        return self.server_cpu_s / self.seconds


class _Account:
    def __init__(self) -> None:
        self.is_over = False
        self.reset()

    def reset(self) -> None:
        self.users = self.wrong = 0
        self.latencies_ns = array("q")


async def look_up(directory: Directory, plan: Plan, server_cpu_s: Callable[[], float]) -> Asked:
    """Join, register every user, ask for the time given. Raises DirectoryUnavailable."""
    await directory.join(ME)
    registered_per_s = await _register(directory, plan.users)
    account = _Account()
    async with trio.open_nursery() as nursery:
        for number in range(plan.tasks):
            nursery.start_soon(_ask, directory, plan, number, account)
        await trio.sleep(plan.warmup_s)
        account.reset()
        server_s, used_s, began_s = server_cpu_s(), time.process_time(), time.perf_counter()
        await trio.sleep(plan.seconds)
        seconds, cpu_s = time.perf_counter() - began_s, time.process_time() - used_s
        server_s = server_cpu_s() - server_s
        users, latencies_ns = account.users, account.latencies_ns[:]
        account.is_over = True
    await directory.leave()
    return Asked(users, seconds, cpu_s, server_s, latencies_ns, account.wrong, registered_per_s)


async def _register(directory: Directory, users: int) -> float:
    began_s = time.perf_counter()
    for first in range(1, users + 1, REGISTERED_AT_ONCE):
        numbers = range(first, min(first + REGISTERED_AT_ONCE, users + 1))
        await directory.register([_registration(number) for number in numbers])
    return users / (time.perf_counter() - began_s)


def _registration(number: int) -> Registration:
    return Registration(UserId(number), DeviceId(number), SESSION, SessionId(0), int(time.time()) + KEPT_S)


async def _ask(directory: Directory, plan: Plan, number: int, account: _Account) -> None:
    draw = random.Random(plan.seed * 1_000_003 + number)
    order = [UserId(user) for user in draw.sample(range(1, plan.users + 1), min(plan.users, 4096))]
    at = 0
    while not account.is_over:
        wanted = order[at : at + plan.users_per_call]
        at = at + plan.users_per_call if at + plan.users_per_call < len(order) else 0
        asked_ns = time.perf_counter_ns()
        located = await directory.locate(wanted)
        account.latencies_ns.append(time.perf_counter_ns() - asked_ns)
        account.users += len(wanted)
        for user_id in wanted:
            places = located.get(user_id, ())
            if len(places) != 1 or places[0] != Location(DeviceId(user_id), ME.worker_id, SESSION):
                account.wrong += 1
