"""What each fault cost: one line for each run, in build/faults.jsonl, and the table of docs/delivery.md that is made of it.

Owns the file and its form; the promises are asserted by the tests, the seconds are not: they depend on the machine.
``python -m tests.faults.figures`` prints the table, of the last run of each fault.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from bench.violations import Rule
from tests.faults.outage import Outage
from tests.faults.people import People

FILE = Path(__file__).resolve().parents[2] / "build" / "faults.jsonl"

LOST = (Rule.LOST, Rule.SYNC)
TWICE = (Rule.TWICE, Rule.DUPLICATE)
ORDER = (Rule.ORDER, Rule.RISING, Rule.CHAIN, Rule.COUNTER)


class Figure(NamedTuple):
    """Of one fault, in one run."""

    fault: str
    messages: int
    """Acknowledged, before, through and after it."""
    lost: int
    shown_twice: int
    orders_differ: int
    other: int
    """Violations of any other kind."""
    silence_s: float
    """The longest of any chat."""
    chats: int
    moved: int
    """Chats whose slot was acquired again."""
    refused: int
    """SENDs that were answered by an ERROR, and sent again."""
    unix_s: int


def figure(fault: str, people: People, outage: Outage, violations: list[str]) -> Figure:
    found = Counter(line.partition(":")[0] for line in violations)
    lost, twice, order = (sum(found[rule.name] for rule in rules) for rules in (LOST, TWICE, ORDER))
    return Figure(
        fault,
        people.acknowledged,
        lost,
        twice,
        order,
        found.total() - lost - twice - order,
        round(outage.longest_s, 2),
        len(outage.silence_s),
        len(outage.moved),
        len(people.sent_errors),
        int(time.time()),
    )


def keep(kept: Figure) -> None:
    FILE.parent.mkdir(exist_ok=True)
    with FILE.open("a", encoding="utf-8") as file:
        file.write(json.dumps(kept._asdict()) + "\n")


def last_of_each() -> Iterator[Figure]:
    """In the order in which the faults were tried first."""
    last: dict[str, Figure] = {}
    for line in FILE.read_text(encoding="utf-8").splitlines():
        read = Figure(**json.loads(line))
        last[read.fault] = read
    yield from last.values()


def table() -> str:
    head = "| what | lost | shown twice | orders that differ | longest silence of a chat |\n|---|---|---|---|---|"
    rows = [
        f"| {row.fault} | {row.lost} | {row.shown_twice} | {row.orders_differ} | {row.silence_s:.1f} s |"
        for row in last_of_each()
    ]
    return "\n".join([head, *rows])


if __name__ == "__main__":
    sys.stdout.write(table() + "\n")
