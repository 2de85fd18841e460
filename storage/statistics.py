"""Counting commits: the totals behind ``Store.statistics``.

Owns numbers only. Each is written by one thread (``refusals`` by Trio's, the rest by the one that commits) and read by any:
plain ints and floats, so that a reader may see a commit half counted and nothing worse.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from itertools import accumulate

from storage.api import StoreStatistics

BATCH_SIZE_BOUNDS = (1.0, 4.0, 16.0, 64.0, 256.0, 1024.0, float("inf"))
COMMIT_SECONDS_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, float("inf"))


class CommitStatistics:
    def __init__(self) -> None:
        self.commits = 0
        self.rows = 0
        self.errors = 0
        self.refusals = 0
        """Errors too, but of the Trio thread: batches that were never queued."""
        self.commit_seconds = 0.0
        self.lock_wait_seconds = 0.0
        self._sizes = [0] * len(BATCH_SIZE_BOUNDS)
        self._seconds = [0] * len(COMMIT_SECONDS_BOUNDS)

    def count_commit(self, rows: int, seconds: float, lock_wait_s: float = 0.0) -> None:
        self.commits += 1
        self.rows += rows
        self.commit_seconds += seconds
        self.lock_wait_seconds += lock_wait_s
        self._sizes[bisect_left(BATCH_SIZE_BOUNDS, rows)] += 1
        self._seconds[bisect_left(COMMIT_SECONDS_BOUNDS, seconds)] += 1

    def snapshot(self, queued_rows: int) -> StoreStatistics:
        return StoreStatistics(
            commits=self.commits,
            rows=self.rows,
            queued_rows=queued_rows,
            errors=self.errors + self.refusals,
            commit_seconds=self.commit_seconds,
            batch_size_buckets=_cumulative(BATCH_SIZE_BOUNDS, self._sizes),
            commit_seconds_buckets=_cumulative(COMMIT_SECONDS_BOUNDS, self._seconds),
            lock_wait_seconds=self.lock_wait_seconds,
        )


def _cumulative(bounds: Sequence[float], counts: Sequence[int]) -> Mapping[float, int]:
    return dict(zip(bounds, accumulate(counts), strict=True))
