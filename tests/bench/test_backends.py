"""The benches of a worker's directory and store, as small as can be, against real servers. Nothing is timed."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import pytest
from typer.testing import CliRunner

from bench.cli import app
from bench.report import EXIT_FAILED, Result, read_json


class Server(Protocol):
    host: str
    port: int


def run(json: Path, *arguments: str) -> Result:
    outcome = CliRunner().invoke(app, [*arguments, "--json", str(json)])
    assert json.exists(), outcome.output
    return read_json(json)


LOOKUPS = ("lookups", "--users", "200", "--tasks", "5", "--users-per-call", "2", "--seconds", "0.3", "--warmup", "0.1")


def test_look_ups_are_measured_and_checked_in_an_embedded_nodes_directory(tmp_path: Path) -> None:
    result = run(tmp_path / "json", *LOOKUPS)
    assert (result.violations, result.evidence) == (0, [])
    assert result.figures["lookups_per_s"] > 0


def test_look_ups_are_measured_and_checked_over_redis(redis_server: Server, tmp_path: Path) -> None:
    result = run(tmp_path / "json", *LOOKUPS, "--redis", f"{redis_server.host}:{redis_server.port}")
    assert (result.violations, result.evidence) == (0, [])
    assert result.figures["lookups_per_s"] > 0
    assert result.figures["embedded_lookups_per_s"] > 0


def test_a_redis_that_is_not_there_is_said_in_one_line() -> None:
    outcome = CliRunner().invoke(app, [*LOOKUPS, "--redis", "127.0.0.1:1"])
    assert (outcome.exit_code, "did not answer" in outcome.output) == (EXIT_FAILED, True)


def test_rows_are_stored_and_the_cost_of_one_is_told(cassandra: Server, keyspace: str, tmp_path: Path) -> None:
    options = ["--chats", "4", "--rate", "100", "--seconds", "0.5", "--warmup", "0.1", "--keyspace", keyspace]
    place = ["--cassandra", f"{cassandra.host}:{cassandra.port}"]
    result = run(tmp_path / "json", "rows", *options, *place)
    assert result.figures["statements_per_row"] == pytest.approx(2, abs=0.1)
    assert result.figures["client_cpu_us_per_row"] > 0
