"""The result of a bench, as JSON for machines, as a table for people, and as a row of docs/benchmarks.md.

Owns the form alone. Invariant: a result carries everything that is needed to doubt it: the command, the commit, the
machine, what both sides used, what was found wrong, and why it does not count if it does not.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

from bench.generator import IS_COMPILED
from bench.machine import commit, describe_machine

EXIT_OK, EXIT_VIOLATION, EXIT_INVALID, EXIT_FAILED = 0, 1, 2, 3


class Result(msgspec.Struct, kw_only=True):
    """``figures`` are named with their unit; the first one is the headline."""

    command: str
    options: dict[str, Any]
    seed: int
    commit: str
    machine: dict[str, str | int]
    workers: int
    figures: dict[str, float]
    cost: dict[str, float]
    """CPU cores used while measuring: the generator, the node, its busiest process, everybody else."""
    violations: int
    evidence: list[str]
    invalid: list[str]
    """Why the figures do not count; empty: they do."""

    @property
    def exit_code(self) -> int:
        if self.violations:
            return EXIT_VIOLATION
        return EXIT_INVALID if self.invalid else EXIT_OK


class Header(msgspec.Struct, frozen=True):
    """What a result says of its run, known before the run."""

    command: str
    options: dict[str, Any]
    seed: int
    workers: int


def new_seed() -> int:
    return random.SystemRandom().randrange(1 << 32)


def finish(
    header: Header,
    figures: dict[str, float],
    cost: dict[str, float],
    evidence: tuple[int, list[str]],
    invalid: list[str],
) -> Result:
    """``evidence``: how many violations there were, and the first of them."""
    return Result(
        command=header.command,
        options=header.options,
        seed=header.seed,
        commit=commit(),
        machine={**describe_machine(), "generator": "C kernel" if IS_COMPILED else "its Python twin"},
        workers=header.workers,
        figures=figures,
        cost=cost,
        violations=evidence[0],
        evidence=evidence[1],
        invalid=invalid,
    )


def write_json(result: Result, path: Path) -> None:
    path.write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=2) + b"\n")


def read_json(path: Path) -> Result:
    return msgspec.json.decode(path.read_bytes(), type=Result)


def print_table(result: Result, console: Console) -> None:
    title = f"{result.command} {_place(result)}, commit {result.commit}"
    table = Table(show_header=False)
    table.add_column("figure")
    table.add_column("value", justify="right")
    for name, value in {**result.figures, **result.cost}.items():
        table.add_row(name, _text(value))
    console.print(title, highlight=False)
    console.print(table)
    for line in result.evidence:
        console.print(f"[red]VIOLATION[/] {line}", soft_wrap=True, highlight=False)
    for reason in result.invalid:
        console.print(f"[yellow]INVALID[/] {reason}", soft_wrap=True, highlight=False)


def _place(result: Result) -> str:
    """Where it ran, as far as its options do not say it in other words."""
    nodes = result.options.get("nodes", 1)
    workers = f"{result.workers} worker{'s' if result.workers > 1 else ''}" if result.workers else "on both sides"
    return workers if nodes == 1 else f"{nodes} nodes of {workers}"


def _text(value: float) -> str:
    if float(value).is_integer():
        return f"{int(value):,}"
    return f"{value:,.3f}" if abs(value) < 100 else f"{value:,.0f}"


def markdown_row(result: Result) -> str:
    """A row of the table in docs/benchmarks.md."""
    options = " ".join(_option(name, value) for name, value in result.options.items())
    figures = ", ".join(f"{name} {_text(value)}" for name, value in result.figures.items())
    machine = "{cpu}, {cores} cores, Linux {kernel}, Python {python}".format(**result.machine)
    verdict = "violated" if result.violations else "invalid" if result.invalid else "valid"
    command = f"`python -m bench {result.command} {options}`".replace(" `", "`")
    return f"| {command} | {figures} | {verdict} | {result.commit} | {machine} |"


def _option(name: str, value: object) -> str:
    flag = f"--{name.replace('_', '-')}"
    if isinstance(value, bool):
        return flag if value else f"--no-{flag[2:]}"
    return f"{flag} {value}"
