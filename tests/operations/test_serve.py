"""The whole command: `parley serve` from its first line to its exit status."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.ops.scrape import parse
from tests.nodes import ROOT, NodeProcess

MakeNode = Callable[..., NodeProcess]


def serve(*options: str) -> subprocess.CompletedProcess[str]:
    """A node that cannot start: what it says, and its exit status."""
    command = [sys.executable, "-m", "parley.cli", "serve", "--ops-port", "0", *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


def test_a_node_says_where_it_is_and_ends_well_when_told(make_node: MakeNode) -> None:
    node = make_node()
    with socket.create_connection((node.host, node.port)):
        pass
    assert node.stop() == 0
    assert any(f"chat --user 1 --peer 2 --host {node.host} --port {node.port}" in line for line in node.lines)


def test_a_running_node_tells_the_figures_of_all_its_workers(node: NodeProcess) -> None:
    told = {sample.labels.get("worker") for family in parse(node.metrics().encode()) for sample in family.samples}
    assert {"1", "2"} <= told


def test_a_second_node_on_the_same_directory_is_refused_in_one_line(node: NodeProcess) -> None:
    refused = serve("--data", str(node.data_dir), "--port", "0")
    assert refused.returncode == 1
    assert refused.stdout == ""
    [line] = refused.stderr.splitlines()
    assert f"{node.data_dir} is served by another node (process {node.pid})" in line


def test_a_port_that_is_taken_is_refused_in_one_line(node: NodeProcess, tmp_path: Path) -> None:
    refused = serve("--data", str(tmp_path / "other"), "--port", str(node.port))
    assert refused.returncode == 1
    [line] = refused.stderr.splitlines()
    assert f"port: 127.0.0.1 port {node.port} is in use" in line


@pytest.mark.parametrize("workers", [1, 3])
def test_after_the_supervisor_was_killed_the_next_start_serves_the_same_directory(
    make_node: MakeNode, workers: int
) -> None:
    node = make_node(workers=workers)
    key = (node.data_dir / "auth.key").read_bytes()
    port = node.port
    node.kill()
    node.start()
    assert node.port == port
    assert len(node.worker_pids()) == workers
    assert (node.data_dir / "auth.key").read_bytes() == key


def test_check_prints_what_would_be_in_force(tmp_path: Path) -> None:
    config = tmp_path / "node.toml"
    config.write_text("[serve]\nport = 7801\nworkers = 3\n")
    printed = serve("--config", str(config), "--workers", "5", "--check").stdout
    assert "\nport = 7801 " in printed
    assert "\nworkers = 5 " in printed
    config.write_text(printed)
    assert serve("--config", str(config), "--check").stdout == printed


def test_a_wrong_setting_is_one_line_and_no_node(tmp_path: Path) -> None:
    config = tmp_path / "node.toml"
    config.write_text("[serve]\nprot = 7801\n")
    refused = serve("--config", str(config), "--data", str(tmp_path / "data"))
    assert refused.returncode == 2
    assert refused.stderr == f"parley: {config}: unknown setting serve.prot; did you mean serve.port?\n"
    assert not (tmp_path / "data").exists()
