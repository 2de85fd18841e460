"""The closed loop: every sender keeps ``window`` messages under way, and sends the next when one is acknowledged.

It finds out how much the node can do, because it never asks for more. It says nothing about latency under a given load:
a slow answer delays the next question (coordinated omission); ``openloop.py`` is for that.
"""

from __future__ import annotations

import time
from typing import NamedTuple

from bench.generator import Generator
from bench.keepalive import KeepAlive
from bench.traffic import Traffic
from bench.usage import Meter, Usage


class Duration(NamedTuple):
    warmup_s: float
    seconds: float
    drain_s: float = 30.0
    """How long the last message may take to arrive before it counts as lost."""


def run_closed_loop(
    generator: Generator, traffic: Traffic, window: int, duration: Duration, meter: Meter, beside: KeepAlive
) -> Usage:
    """Warm up, measure, and drain. The clock stops when the last message has arrived.

    Between warm-up and measuring nothing is under way, so that what the node uses is used for what is counted.
    """
    _keep_sending(traffic, window, duration.warmup_s, beside)
    traffic.settle(duration.drain_s)
    meter.start()
    traffic.measure_from_now()
    generator.forget_busy()
    _keep_sending(traffic, window, duration.seconds, beside)
    traffic.drain(duration.drain_s)
    return meter.read()


def _keep_sending(traffic: Traffic, window: int, seconds: float, beside: KeepAlive) -> None:
    for channel in traffic.channels.values():
        for _ in range(window):
            traffic.send(channel, time.perf_counter_ns())
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        traffic.turn(0.05)
        now_ns = time.perf_counter_ns()
        for channel in traffic.answered:
            traffic.send(channel, now_ns)
        beside.send_due()
