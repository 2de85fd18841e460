"""What is read from /proc and from a node's own words."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.faults import BenchError
from bench.machine import cpu_s, descendants, describe_machine, pss_bytes
from bench.node import start, sum_metrics


def test_a_child_is_a_descendant_with_memory_and_time_of_its_own() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        assert child.pid in descendants(os.getpid())
        assert pss_bytes([os.getpid(), child.pid]) > pss_bytes([os.getpid()]) > 0
    finally:
        child.communicate(b"\n")
    assert (cpu_s(child.pid), pss_bytes([child.pid])) == (0.0, 0)


def test_ones_own_cpu_time_is_the_one_that_python_knows() -> None:
    times = os.times()
    assert abs(cpu_s(os.getpid()) - times.user - times.system) < 0.1


def test_the_machine_is_described() -> None:
    machine = describe_machine()
    assert machine["cores"] == os.cpu_count()
    assert all(machine.values())


def test_metrics_are_summed_over_their_labels() -> None:
    text = '# HELP a_total x\na_total{worker="1"} 2.0\na_total{worker="2",op="SEND x"} 3\nb 1e3\n'
    assert sum_metrics(text) == {"a_total": 5.0, "b": 1000.0}


def announce(script: str) -> list[str]:
    return [sys.executable, "-c", script]


def test_a_node_is_known_by_its_ready_line_among_other_lines(tmp_path: Path) -> None:
    script = """if 1:
        print('starting'); print('{"event": "other"}'); print('{broken')
        print('{"event": "ready", "host": "127.0.0.9", "port": 5, "ops_port": 6}', flush=True)
        import time; time.sleep(60)"""
    with start(announce(script), tmp_path / "log") as (address, ops_port, pid):
        assert (address, ops_port) == (("127.0.0.9", 5), 6)
        assert pid in descendants(os.getpid())
    assert pid not in descendants(os.getpid())


def test_a_node_that_ends_instead_of_starting_is_quoted(tmp_path: Path) -> None:
    with (
        pytest.raises(BenchError, match=r"ended with exit code 1; its last words: no such port"),
        start(announce("raise SystemExit('no such port')"), tmp_path / "log"),
    ):
        pass
