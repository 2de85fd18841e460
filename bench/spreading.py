"""What a message costs on many workers and nodes, relative to few.

Owns the alternation: both sides run side by side over the same servers, each in a keyspace and under a Redis prefix of
its own, and are measured in turns (A B, B A, ...) under the same open loop, so that the machine's mood is on both. The
cost is the CPU of all workers of a side. While one side is measured the other is idle, and what that uses is known too:
a part of the cost that is there without any message.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from bench.cluster import Backends, Shape
from bench.faults import BenchError
from bench.generator import Generator, generator
from bench.messaging import Load, Round, judge, log_in, open_round
from bench.report import Header, Result, finish
from bench.session import Session
from bench.target import Place, Target, target
from bench.usage import Usage

COST = "cpu_us_per_message"


class Plan(NamedTuple):
    few: Shape
    many: Shape
    pairs: int
    rate: float
    rounds: int


class Side:
    """A cluster with its clients, and what was measured of it."""

    def __init__(self, name: str, found: Target, clients: Generator, sessions: Sequence[Session]) -> None:
        self.name = name
        self.target = found
        self.clients = clients
        self.sessions = sessions
        self.rounds: list[Round] = []
        self.idle_cpu_s = 0.0
        self.idle_s = 0.0

    @property
    def costs_us(self) -> list[float]:
        return [round_.work()[COST] for round_ in self.rounds]

    @property
    def idle_cores(self) -> float:
        return self.idle_cpu_s / self.idle_s

    def figures(self) -> dict[str, float]:
        """Means over the rounds; of the 99th percentiles the worst."""
        works = [round_.work() for round_ in self.rounds]
        means = {name: _mean([work[name] for work in works]) for name in works[0]}
        worst_ms = max(round_.traffic.acknowledged.percentile_us(99) / 1000 for round_ in self.rounds)
        figures = {**means, "sent_p99_ms": worst_ms, "idle_cores": self.idle_cores}
        return {f"{self.name}_{figure}": value for figure, value in figures.items()}


def run_spread(header: Header, backends: Backends, plan: Plan, load: Load) -> Result:
    with contextlib.ExitStack() as running:
        sides = [
            running.enter_context(_side(name, shape, backends, (plan.pairs, header.seed)))
            for name, shape in (("few", plan.few), ("many", plan.many))
        ]
        few, many = sides
        for number in range(plan.rounds):
            first, second = (few, many) if number % 2 == 0 else (many, few)
            for measured, resting in ((first, second), (second, first)):
                _measure(measured, resting, plan, load, header.seed)
        return _result(header, few, many)


@contextlib.contextmanager
def _side(name: str, shape: Shape, backends: Backends, plan: tuple[int, int]) -> Iterator[Side]:
    pairs, seed = plan
    own = backends._replace(keyspace=f"{backends.keyspace}_{name}")
    with target(Place(shape, own), seed) as found, generator(found.cluster.addresses, 2 * pairs + 16) as clients:
        yield Side(name, found, clients, log_in(clients, found, 2 * pairs, 1))


def _measure(side: Side, resting: Side, plan: Plan, load: Load, seed: int) -> None:
    resting.clients.turn(0)  # what had come for it meanwhile
    began_s, used_s = time.perf_counter(), resting.target.cluster.workers_cpu_s()
    round_ = open_round(side.clients, side.sessions, load, side.target, (plan.rate, seed))
    resting.idle_cpu_s += resting.target.cluster.workers_cpu_s() - used_s
    resting.idle_s += time.perf_counter() - began_s
    if COST not in round_.work():
        raise BenchError(f"side {side.name}: what its workers used is not known")
    side.rounds.append(round_)


def _result(header: Header, few: Side, many: Side) -> Result:
    ratios = [b / a for a, b in zip(few.costs_us, many.costs_us, strict=True)]
    figures = {
        "relative": _mean(many.costs_us) / _mean(few.costs_us),
        "relative_min": min(ratios),
        "relative_max": max(ratios),
        "relative_above_idle": _above_idle_us(many) / _above_idle_us(few),
        **few.figures(),
        **many.figures(),
    }
    rounds = [*few.rounds, *many.rounds]
    evidence, invalid = judge(rounds, is_node_known=True)
    return finish(header, figures, _mean_usage([round_.usage for round_ in rounds]), evidence, invalid)


def _above_idle_us(side: Side) -> float:
    """Of a message: without what the side uses when nobody writes."""
    rates = [round_.messages_per_s for round_ in side.rounds]
    return max(1.0, _mean(side.costs_us) - side.idle_cores * 1e6 / _mean(rates))


def _mean_usage(usages: Sequence[Usage]) -> dict[str, float]:
    figures = [usage.figures() for usage in usages]
    return {name: round(_mean([each[name] for each in figures]), 3) for name in figures[0]}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
