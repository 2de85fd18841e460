"""What keys have spent in all workers together: the shared half of the rate limits.

Owns the settling of many buckets in one script each; which keys are worth it is the caller's decision. A bucket is one
Redis key with the tokens left and when, and stays until it would be full again.
"""

from __future__ import annotations

from collections.abc import Sequence

from gateway.net.limits import Rate, SharedLimitsUnavailable, Spending
from storage.redis.connection import Connection
from storage.redis.errors import RedisUnavailable
from storage.redis.lua import RATES
from storage.redis.records import Keys
from storage.redis.scripts import Script

MAX_BUCKETS = 128
"""Per script: some 0.4 ms of the server's time."""


class RedisLimits:
    """A ``SharedLimits``, on the directory's connection."""

    SCRIPT = Script(RATES)

    def __init__(self, connection: Connection, keys: Keys) -> None:
        self._connection = connection
        self._prefix = keys.rate

    async def settle(self, scope: str, rate: Rate, spent: Sequence[Spending]) -> list[float]:
        waits: list[float] = []
        for at in range(0, len(spent), MAX_BUCKETS):
            waits += await self._settle(scope, rate, spent[at : at + MAX_BUCKETS])
        return waits

    async def _settle(self, scope: str, rate: Rate, spent: Sequence[Spending]) -> list[float]:
        keys = [b"%b%b:%b" % (self._prefix, scope.encode(), spending.key) for spending in spent]
        numbers = [b"%.6f" % rate.per_s, b"%.3f" % rate.burst, *(b"%d" % spending.tokens for spending in spent)]
        try:
            waits = await self.SCRIPT.call(self._connection, keys, numbers)
            return [int(wait_ms) / 1000 for wait_ms in waits]
        except (RedisUnavailable, TypeError, ValueError) as error:
            raise SharedLimitsUnavailable(str(error)) from error
