"""What the workers did and used while a bench measured, divided by its messages and by the rows that were stored.

Owns the names of the nodes' own counters that a bench relies on, and the division. CPU is utime + stime of the workers'
processes (threads included: a driver's threads are the store's client), from proc(5) in ticks of 10 ms; supervisors,
the store's and the directory's servers are not in it. Invariant: a figure whose counter the nodes do not tell is absent,
never zero.
"""

from __future__ import annotations

from typing import NamedTuple

from bench.cluster import Cluster

SENDS = "parley_sends_total"
ROWS = "parley_commit_rows_sum"
PER_MESSAGE = {
    "forwards_per_message": "parley_forwarded_requests_total",
    "link_frames_per_message": "parley_link_frames_total",
    "statements_per_message": "parley_store_statements_total",
    "store_requests_per_message": "parley_store_requests_total",
}


class Work(NamedTuple):
    """Totals. ``counters``: the nodes' own, by the name that /metrics gives them."""

    workers_cpu_s: float = 0.0
    counters: tuple[tuple[str, float], ...] = ()

    def since(self, before: Work) -> Work:
        then = dict(before.counters)
        counters = tuple((name, value - then.get(name, 0.0)) for name, value in self.counters)
        return Work(self.workers_cpu_s - before.workers_cpu_s, counters)

    def figures(self, acknowledged: int) -> dict[str, float]:
        """``acknowledged``: messages by the generator's count, for nodes that do not tell theirs."""
        told = dict(self.counters)
        messages = told.get(SENDS) or float(acknowledged)
        figures = {}
        if self.workers_cpu_s and messages:
            figures["cpu_us_per_message"] = self.workers_cpu_s * 1e6 / messages
        if self.workers_cpu_s and told.get(ROWS):
            figures["cpu_us_per_row"] = self.workers_cpu_s * 1e6 / told[ROWS]
        if messages:
            figures |= {name: told[counter] / messages for name, counter in PER_MESSAGE.items() if counter in told}
        return figures


def work_before(cluster: Cluster) -> Work:
    """To be followed by what is measured: being asked for figures is work too, and comes before it."""
    counters = _counters(cluster)
    return Work(cluster.workers_cpu_s(), counters)


def work_since(before: Work, cluster: Cluster) -> Work:
    cpu_s = cluster.workers_cpu_s()
    return Work(cpu_s, _counters(cluster)).since(before)


def _counters(cluster: Cluster) -> tuple[tuple[str, float], ...]:
    counted = cluster.metrics()
    wanted = (SENDS, ROWS, *PER_MESSAGE.values())
    return tuple((name, counted[name]) for name in wanted if name in counted)
