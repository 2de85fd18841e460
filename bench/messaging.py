"""The benches that send messages: fanout, pairs and rate. Each sets its scene, runs its loop, and names its figures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from bench.closedloop import Duration, run_closed_loop
from bench.faults import BenchError
from bench.figures import Histogram
from bench.generator import Generator, generator
from bench.keepalive import KeepAlive
from bench.openloop import Schedule, run_open_loop
from bench.report import Header, Result, finish
from bench.scene import Chat, create_group, open_pairs
from bench.session import Session, login_of, open_sessions
from bench.target import Target
from bench.traffic import Traffic
from bench.usage import Meter, Usage, why_invalid, why_late, why_refused

IDLE_PERIOD_S = 60.0
"""Idle sessions beside a measurement PING once a minute: four times as often as the default keep-alive asks for."""


class Load(NamedTuple):
    window: int
    body_bytes: int
    do_ack: bool
    duration: Duration


class Pairs(NamedTuple):
    pairs: int
    do_both_send: bool = False
    idle: int = 0
    """Idle connections beside."""
    is_relative: bool = False
    """Measure without the idle ones too, before and after."""


class Round(NamedTuple):
    """One measurement."""

    traffic: Traffic
    usage: Usage
    lateness: Histogram | None = None
    """Of an open loop."""

    @property
    def late(self) -> Histogram:
        return self.lateness or Histogram()

    @property
    def messages_per_s(self) -> float:
        return self.traffic.acknowledged.count / self.usage.seconds

    @property
    def deliveries_per_s(self) -> float:
        return self.traffic.deliveries / self.usage.seconds

    def work(self) -> dict[str, float]:
        """What a message cost the workers."""
        return self.usage.work.figures(self.traffic.acknowledged.count)


def run_fanout(header: Header, target: Target, receivers: int, load: Load) -> Result:
    with generator(target.cluster.addresses, receivers + 16) as clients:
        sender, *members = log_in(clients, target, receivers + 1, load.window)
        chats = [create_group(clients, sender, members)]
        round_ = _closed_round(clients, chats, load, target, [])
        figures = {
            "deliveries_per_s": round_.deliveries_per_s,
            "messages_per_s": round_.messages_per_s,
            **_prefixed("delivery_", round_.traffic.delivered.milliseconds(50, 99)),
            **_prefixed("sent_", round_.traffic.acknowledged.milliseconds(50, 99)),
            **round_.work(),
        }
        return _result(header, clients, target, [round_], figures)


def run_pairs(header: Header, target: Target, plan: Pairs, load: Load) -> Result:
    with generator(target.cluster.addresses, 2 * plan.pairs + plan.idle + 16) as clients:
        sessions = log_in(clients, target, 2 * plan.pairs, load.window)

        def measure(idle: Sequence[Session]) -> Round:
            chats = open_pairs(clients, sessions, do_both_send=plan.do_both_send)
            return _closed_round(clients, chats, load, target, idle)

        alone = [measure([])] if plan.is_relative else []
        idle = log_in(clients, target, plan.idle, load.window)
        main = measure(idle)
        figures = _pairs_figures(main)
        if plan.is_relative:
            for session in idle:
                clients.kernel.close(session.conn)
            alone.append(measure([]))
            without = sum(round_.messages_per_s for round_ in alone) / len(alone)
            figures |= {"alone_messages_per_s": without, "relative": main.messages_per_s / without}
        return _result(header, clients, target, [main, *alone], figures)


def run_rate(header: Header, target: Target, pairs: int, rate: float, load: Load) -> Result:
    with generator(target.cluster.addresses, 2 * pairs + 16) as clients:
        sessions = log_in(clients, target, 2 * pairs, load.window)
        round_ = open_round(clients, sessions, load, target, (rate, header.seed))
        figures = {
            **_prefixed("delivery_", round_.traffic.delivered.milliseconds(50, 90, 99, 99.9)),
            "messages_per_s": round_.traffic.measured / load.duration.seconds,
            **_prefixed("sent_", round_.traffic.acknowledged.milliseconds(50, 99)),
            **_prefixed("lateness_", round_.late.milliseconds(50, 99)),
            **round_.work(),
        }
        return _result(header, clients, target, [round_], figures)


def run_ceiling(header: Header, target: Target, load: Load) -> Result:
    """Fan-out and pairs, as figures of the generator: per second of its own CPU."""
    with generator(target.cluster.addresses, 512) as clients:
        sessions = log_in(clients, target, 257, load.window)
        group = _closed_round(clients, [create_group(clients, sessions[0], sessions[1:])], load, target, [])
        chats = open_pairs(clients, sessions[:100], do_both_send=False)
        pairs = _closed_round(clients, chats, load, target, [])
        figures = {
            "received_per_s": group.deliveries_per_s,
            "received_per_cpu_s": group.deliveries_per_s / group.usage.generator_cores,
            "sends_per_s": pairs.messages_per_s,
            "sends_per_cpu_s": pairs.messages_per_s / pairs.usage.generator_cores,
        }
        result = _result(header, clients, target, [group, pairs], figures)
        result.invalid.clear()
        return result


def log_in(clients: Generator, target: Target, n: int, window: int) -> list[Session]:
    sessions = open_sessions(clients, [login_of(credential) for credential in target.credentials(n)])
    if sessions and sessions[0].window < window:
        raise BenchError(f"the node grants a window of {sessions[0].window}: --window {window} cannot be had")
    return sessions


def _closed_round(
    clients: Generator, chats: Sequence[Chat], load: Load, target: Target, idle: Sequence[Session]
) -> Round:
    traffic = Traffic(clients, chats, load.body_bytes, do_ack=load.do_ack)
    beside = KeepAlive(clients, idle, IDLE_PERIOD_S)
    usage = run_closed_loop(clients, traffic, load.window, load.duration, Meter(target.cluster), beside)
    return Round(traffic, usage)


def open_round(
    clients: Generator, sessions: Sequence[Session], load: Load, target: Target, offered: tuple[float, int]
) -> Round:
    """Pairs of these sessions, in an open loop; ``offered``: messages a second, and the seed of their order."""
    chats = open_pairs(clients, sessions, do_both_send=False)
    traffic = Traffic(clients, chats, load.body_bytes, do_ack=load.do_ack)
    schedule = Schedule(list(traffic.channels.values()), *offered)
    usage, lateness = run_open_loop(clients, traffic, schedule, load.duration, Meter(target.cluster))
    return Round(traffic, usage, lateness)


def _pairs_figures(round_: Round) -> dict[str, float]:
    return {
        "messages_per_s": round_.messages_per_s,
        **_prefixed("sent_", round_.traffic.acknowledged.milliseconds(50, 99)),
        **_prefixed("delivery_", round_.traffic.delivered.milliseconds(50, 99)),
        **round_.work(),
    }


def _prefixed(prefix: str, figures: dict[str, float]) -> dict[str, float]:
    return {prefix + name: value for name, value in figures.items()}


def _result(
    header: Header, clients: Generator, target: Target, rounds: Sequence[Round], figures: dict[str, float]
) -> Result:
    """The first round is the one that the figures are of; all are judged."""
    figures["generator_cycle_p99_ms"] = clients.busy.percentile_us(99) / 1000
    evidence, invalid = judge(rounds, is_node_known=target.cluster.is_known)
    return finish(header, figures, rounds[0].usage.figures(), evidence, invalid)


def judge(rounds: Sequence[Round], *, is_node_known: bool) -> tuple[tuple[int, list[str]], list[str]]:
    """(violations and the first of them, why the figures do not count) of all rounds."""
    invalid: list[str] = []
    for round_ in rounds:
        invalid += why_invalid(round_.usage, is_node_known=is_node_known)
        invalid += why_refused(round_.traffic.refused)
        invalid += why_late(round_.lateness) if round_.lateness is not None else []
    violations = sum(len(round_.traffic.found) for round_ in rounds)
    return (violations, [line for round_ in rounds for line in round_.traffic.found.lines()]), invalid
