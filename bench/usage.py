"""Who used the machine while a bench measured, and whether its figures count.

Owns the one question that every load test must answer: was it the node that was measured, or the generator? Figures are
CPU cores (CPU seconds per second). What a message cost is ``work.py``.
"""

from __future__ import annotations

import time
from typing import NamedTuple

from bench.cluster import Cluster
from bench.figures import Histogram
from bench.machine import busy_s
from bench.work import Work, work_before, work_since

BUSY_CORES = 0.9
MAX_LATENESS_MS = 5.0
"""A quarter of the latency that the open loop is to stay under: beyond it the generator is what is seen."""


class Usage(NamedTuple):
    seconds: float
    generator_cores: float
    node_cores: float
    """All nodes, supervisors included."""
    busiest_cores: float
    """The busiest process of them."""
    elsewhere_cores: float
    """Everybody else on the machine: the store's and the directory's servers, the kernel's own threads."""
    work: Work = Work()

    def figures(self) -> dict[str, float]:
        return {name: round(value, 3) for name, value in self._asdict().items() if name != "work"}


class Meter:
    """A stop-watch for CPU time. Start and read it while no message is under way: then the work is all theirs."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.start()

    def start(self) -> None:
        """May take a tenth of a second: a node asks each of its workers for its figures."""
        self._work = work_before(self._cluster)
        self._began_s = time.perf_counter()
        self._generator_s = time.process_time()
        self._node_s = self._cluster.cpu_s()
        self._machine_s = busy_s()

    def read(self) -> Usage:
        seconds = max(1e-9, time.perf_counter() - self._began_s)
        generator = (time.process_time() - self._generator_s) / seconds
        now_s = self._cluster.cpu_s()
        used = [(after - self._node_s.get(pid, 0.0)) / seconds for pid, after in now_s.items()]
        machine = (busy_s() - self._machine_s) / seconds
        elsewhere = max(0.0, machine - generator - sum(used))
        work = work_since(self._work, self._cluster)
        return Usage(seconds, generator, sum(used), max(used, default=0.0), elsewhere, work)


def why_invalid(usage: Usage, *, is_node_known: bool = True) -> list[str]:
    """Of a closed loop: the generator must not be what the node waited for."""
    if usage.generator_cores <= BUSY_CORES:
        return []
    if not is_node_known:
        return [f"the generator used {usage.generator_cores:.2f} cores, and what the node used is not known (--pid)"]
    if usage.busiest_cores > BUSY_CORES:
        return []
    used = f"{usage.generator_cores:.2f} cores, the node's busiest process {usage.busiest_cores:.2f}"
    return [f"the generator was the bottleneck: it used {used}"]


def why_late(lateness: Histogram) -> list[str]:
    """Of an open loop: messages must leave when they are due."""
    p99_ms = lateness.percentile_us(99) / 1000
    if p99_ms <= MAX_LATENESS_MS:
        return []
    return [f"the generator was late: 1 % of the messages left more than {p99_ms:.1f} ms after they were due"]


def why_refused(refused: dict[str, int]) -> list[str]:
    mend = "are its limits those of configs/bench.toml?"
    return [f"the node refused {n} SENDs with {code}: {mend}" for code, n in refused.items()]
