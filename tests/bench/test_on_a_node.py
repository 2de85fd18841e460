"""Each bench, as small as can be, against a real node: that it works and finds the node right. Nothing is timed."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import pytest
from typer.testing import CliRunner

from bench.cli import app
from bench.report import read_json


class RunningNode(Protocol):
    host: str
    port: int
    ops_port: int
    data_dir: Path


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("fanout", ["--receivers", "8", "--window", "4", "--seconds", "0.3", "--warmup", "0.1"]),
        ("pairs", ["--pairs", "3", "--window", "4", "--seconds", "0.3", "--warmup", "0.1"]),
        ("pairs", ["--pairs", "3", "--window", "4", "--seconds", "0.3", "--warmup", "0.1", "--both"]),
        ("pairs", ["--pairs", "2", "--idle", "10", "--relative", "--seconds", "0.3", "--warmup", "0.1"]),
        ("rate", ["--pairs", "5", "--rate", "100", "--seconds", "0.5", "--warmup", "0.1"]),
        ("connect", ["--connections", "30", "--in-flight", "8"]),
        ("connect", ["--connections", "30", "--in-flight", "8", "--resume"]),
        ("idle", ["--connections", "20", "--seconds", "0.5"]),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_a_bench_finds_a_real_node_right(node: RunningNode, command: str, options: list[str], tmp_path: Path) -> None:
    json = tmp_path / "result.json"
    place = ["--connect", f"{node.host}:{node.port}", "--data", str(node.data_dir), "--ops-port", str(node.ops_port)]
    outcome = CliRunner().invoke(app, [command, *options, *place, "--json", str(json)])
    assert json.exists(), outcome.output
    result = read_json(json)
    assert (result.violations, result.evidence) == (0, [])
    assert any(value > 0 for value in result.figures.values())


def test_the_pings_of_idle_connections_never_reach_a_nodes_python(node: RunningNode, tmp_path: Path) -> None:
    json = tmp_path / "result.json"
    place = ["--connect", f"{node.host}:{node.port}", "--data", str(node.data_dir), "--ops-port", str(node.ops_port)]
    outcome = CliRunner().invoke(app, ["idle", "--connections", "20", "--seconds", "0.5", *place, "--json", str(json)])
    assert json.exists(), outcome.output
    figures = read_json(json).figures
    assert figures["pings"] >= 20
    assert figures["pings_given_to_python"] == 0


def test_what_a_message_costs_on_more_workers_is_measured_in_turns(tmp_path: Path) -> None:
    json = tmp_path / "result.json"
    sides = ["--store", "sqlite", "--few", "1x1", "--many", "1x2"]
    load = ["--pairs", "4", "--rate", "100", "--rounds", "2", "--seconds", "0.8", "--warmup", "0.1"]
    outcome = CliRunner().invoke(app, ["spread", *sides, *load, "--json", str(json)])
    assert json.exists(), outcome.output
    result = read_json(json)
    assert (result.violations, result.evidence) == (0, [])
    assert result.figures["relative_min"] <= result.figures["relative_max"]
    assert result.figures["few_forwards_per_message"] == 0
