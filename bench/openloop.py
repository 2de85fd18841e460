"""The open loop: messages leave when they are due, whatever became of the ones before.

Latency counts from the moment a message was due, not from when it left: the wait of a message that a slow node (or a
late generator) held up is part of what its sender saw. After wrk2, https://github.com/giltene/wrk2 (coordinated
omission). How late messages left is measured too: beyond a bound, it is the generator that was measured.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence

from bench.closedloop import Duration
from bench.figures import Histogram
from bench.generator import Generator
from bench.traffic import Channel, Traffic
from bench.usage import Meter, Usage

MAX_WAIT_S = 0.05


class Schedule:
    """Which channel sends at which moment: evenly in time, in a shuffled order of the channels, again and again."""

    def __init__(self, channels: Sequence[Channel], rate: float, seed: int) -> None:
        self._channels = list(channels)
        random.Random(seed).shuffle(self._channels)
        self._interval_ns = 1e9 / rate
        self._start_ns = time.perf_counter_ns()
        self._sent = 0

    def resume(self) -> None:
        """The next message is due now: nothing was due during the pause."""
        self._start_ns = time.perf_counter_ns() - int(self._sent * self._interval_ns)

    @property
    def due_ns(self) -> int:
        return self._start_ns + int(self._sent * self._interval_ns)

    def take(self) -> Channel:
        channel = self._channels[self._sent % len(self._channels)]
        self._sent += 1
        return channel


def run_open_loop(
    generator: Generator, traffic: Traffic, schedule: Schedule, duration: Duration, meter: Meter
) -> tuple[Usage, Histogram]:
    """Warm up, measure, and drain; also how late the measured messages left.

    Between warm-up and measuring nothing is under way, so that what the node uses is used for what is counted.
    """
    _keep_time(traffic, schedule, duration.warmup_s)
    traffic.settle(duration.drain_s)
    meter.start()
    traffic.measure_from_now()
    generator.forget_busy()
    schedule.resume()
    lateness = _keep_time(traffic, schedule, duration.seconds)
    traffic.drain(duration.drain_s)
    return meter.read(), lateness


def _keep_time(traffic: Traffic, schedule: Schedule, seconds: float) -> Histogram:
    lateness = Histogram()
    until_ns = schedule.due_ns + int(seconds * 1e9)
    while schedule.due_ns < until_ns:
        now_ns = time.perf_counter_ns()
        while (due_ns := schedule.due_ns) <= now_ns and due_ns < until_ns:
            traffic.send(schedule.take(), due_ns)
            lateness.record((now_ns - due_ns) // 1000)
        wait_ns = schedule.due_ns - time.perf_counter_ns()
        traffic.turn(min(MAX_WAIT_S, max(0.0, wait_ns / 1e9)))
    return lateness
