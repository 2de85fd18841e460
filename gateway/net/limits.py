"""Token buckets: how often a device, a user or an address may do something.

Owns the arithmetic and the bounded tables of buckets, and the port to what all workers share. It decides nothing about
what a refusal looks like on the wire.

A bucket is two floats in one list, made at the first use: an idle phone that has sent nothing has none. Tables are
bounded; the least recently used bucket goes first, which forgives whoever it was, never punishes.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Generic, NamedTuple, Protocol, TypeVar

K = TypeVar("K")


class Rate(NamedTuple):
    per_s: float
    burst: float


class Spending(NamedTuple):
    """What one worker has let through since it last said so."""

    key: bytes
    tokens: int


class SharedLimitsUnavailable(Exception):
    """A dependency's fault: nobody answered. What was spent may have been counted; workers go on by themselves."""


class SharedLimits(Protocol):
    """The buckets of all workers together. Never asked before something is allowed, only told afterwards."""

    async def settle(self, scope: str, rate: Rate, spent: Sequence[Spending]) -> list[float]:
        """Count what was spent. For each, in order, the seconds for which the key has spent more than it had; 0: it has not.

        Atomic for each key; not idempotent: what may have been counted is not said again. Raises SharedLimitsUnavailable.
        """
        ...


class Buckets(Generic[K]):
    """One bucket a key. ``take`` costs a fraction of a microsecond for a key that is there."""

    def __init__(self, rate: Rate, max_keys: int) -> None:
        self._rate = rate
        self._max_keys = max_keys
        self._buckets: OrderedDict[K, list[float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, key: K, now_s: float) -> float:
        """0 if allowed (and counted), else the seconds after which it will be. ``now_s``: a monotonic clock."""
        bucket = self._buckets.get(key)
        if bucket is None:
            self._add(key, now_s)
            return 0.0
        self._buckets.move_to_end(key)
        per_s, burst = self._rate
        tokens = min(burst, bucket[0] + (now_s - bucket[1]) * per_s)
        bucket[1] = now_s
        if tokens >= 1.0:
            bucket[0] = tokens - 1.0
            return 0.0
        bucket[0] = tokens
        return (1.0 - tokens) / per_s

    def _add(self, key: K, now_s: float) -> None:
        self._buckets[key] = [self._rate.burst - 1.0, now_s]
        if len(self._buckets) > self._max_keys:
            self._buckets.popitem(last=False)
