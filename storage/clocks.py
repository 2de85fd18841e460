"""The machine's clocks, as the default of whoever lets a test or a simulation give another.

Owns what each clock is good for: which may be compared with what is stored, and which with itself alone.
"""

from __future__ import annotations

import time

DAY_MS = 86_400_000


def wall_clock_ms() -> int:
    """ms since the Unix epoch: what messages are dated with."""
    return time.time_ns() // 1_000_000


def boottime_s() -> float:
    """Seconds since the machine's start. Not CLOCK_MONOTONIC: a machine that was suspended must not believe what it knew."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
