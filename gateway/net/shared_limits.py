"""Rates that all workers share, without a round trip for any message.

Owns what this worker has let through and not said yet, and which keys have spent too much elsewhere. It knows no backend
(``SharedLimits``).

A key is admitted by this worker's own bucket, as ever. Four times a second the worker says what its busy keys spent, and
learns which of them are in debt in all workers together; those it refuses itself until the debt is over. So a key gets its
rate and burst, and beyond them at most what its workers let through in one interval and below the threshold: a per cent of
the burst each. The alternative, a script call per message, costs a round trip of a millisecond and the shared server's time.

Invariant: it fails open. Without an answer nobody is refused but by the own buckets, and a debt ends by itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import structlog
import trio

from gateway.net.limits import Buckets, Rate, SharedLimits, SharedLimitsUnavailable, Spending

SETTLE_S = 0.25
THRESHOLD = 0.01
"""Of the burst: what a key has spent below it waits for more."""
FORGET_ROUNDS = 40
"""After so many intervals, what stayed below the threshold is forgotten: it was slower than any rate worth sharing."""
MAX_SETTLED = 4_096
"""Keys said per interval and scope. The others wait for the next."""

K = TypeVar("K")

log = structlog.get_logger(__name__)


class SharedBuckets(Buckets[K]):
    """``Buckets`` that also keep account for the others. ``name``: a key as bytes, the same in every worker."""

    def __init__(self, scope: str, rate: Rate, max_keys: int, name: Callable[[K], bytes]) -> None:
        super().__init__(rate, max_keys)
        self.scope = scope
        self.rate = rate
        self._max_spent = max_keys
        self._name = name
        self._threshold = max(1, int(rate.burst * THRESHOLD))
        self._spent: dict[K, int] = {}
        self._debts: dict[K, float] = {}

    def take(self, key: K, now_s: float) -> float:
        if self._debts:
            until_s = self._debts.get(key, 0.0)
            if until_s > now_s:
                return until_s - now_s
        wait_s = super().take(key, now_s)
        if not wait_s:
            spent = self._spent
            if key in spent:
                spent[key] += 1
            elif len(spent) < self._max_spent:
                spent[key] = 1
        return wait_s

    def take_busy(self) -> list[tuple[K, Spending]]:
        """What is worth saying, once."""
        busy = [key for key, tokens in self._spent.items() if tokens >= self._threshold][:MAX_SETTLED]
        return [(key, Spending(self._name(key), self._spent.pop(key))) for key in busy]

    def refuse(self, waits_s: Sequence[tuple[K, float]], now_s: float) -> None:
        """What the others' spending has come to, for each key that was said."""
        self._debts = {key: until_s for key, until_s in self._debts.items() if until_s > now_s}
        self._debts.update((key, now_s + wait_s) for key, wait_s in waits_s if wait_s > 0)

    def forget(self) -> None:
        self._spent = {}


class Settlement:
    """The background task of a worker's shared buckets."""

    def __init__(
        self,
        shared: SharedLimits,
        tables: Sequence[SharedBuckets[Any]],
        *,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """``now_s``: the clock that ``take`` is given."""
        self.settled = self.failed = self.refused = 0
        self._shared = shared
        self._tables = tables
        self._now_s = now_s

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled."""
        task_status.started()
        while True:
            for _ in range(FORGET_ROUNDS):
                await trio.sleep(SETTLE_S)
                await self.settle()
            for table in self._tables:
                table.forget()

    async def settle(self) -> None:
        """Say what was spent, take what is owed. Never raises for a server that does not answer."""
        for table in self._tables:
            busy = table.take_busy()
            if not busy:
                continue
            try:
                waits_s = await self._shared.settle(table.scope, table.rate, [spending for _, spending in busy])
            except SharedLimitsUnavailable as error:
                if not self.failed:
                    log.warning("limits_not_settled", scope=table.scope, error=str(error))
                self.failed += 1
                continue
            self.settled += len(busy)
            self.refused += sum(wait_s > 0 for wait_s in waits_s)
            table.refuse([(key, wait_s) for (key, _), wait_s in zip(busy, waits_s, strict=True)], self._now_s())


def name_number(number: int) -> bytes:
    return b"%d" % number
