"""How many workers, how many connections, when a worker is started again, and what the doctor says: tables."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.host import read_available_memory, read_sysctl
from gateway.node.restarts import MAX_DELAY_S, MAX_FAILED_STARTS, Restarts
from gateway.node.sizing import Sizing, size_node
from gateway.ops.capacity import Plan, PortState, Readings, judge


@pytest.mark.parametrize(
    ("max_connections", "workers", "cores", "file_limit", "expected"),
    [
        (20_000, 0, 2, 20_000, Sizing(2, 10_500, 0)),
        (20_000, 0, 8, 1 << 20, Sizing(8, 2750, 0)),
        (100_000, 0, 2, 20_000, Sizing(6, 17_313, 0)),
        (100_000, 1, 2, 20_000, Sizing(1, 19_488, 80_512)),
        (15_000, 1, 2, 20_000, Sizing(1, 15_000, 0)),
        (100, 0, 1, 256, Sizing(2, 64, 0)),
        (10_000_000, 0, 2, 1024, Sizing(1023, 512, 9_476_224)),
    ],
)
def test_workers_follow_the_cores_and_more_where_the_file_limit_asks(
    max_connections: int, workers: int, cores: int, file_limit: int, expected: Sizing
) -> None:
    assert size_node(max_connections, workers, cores, file_limit) == expected


def test_the_pause_before_a_restart_doubles_to_a_bound() -> None:
    restarts = Restarts()
    delays = [restarts.ended(1.0, was_ready=True) for _ in range(9)]
    assert delays == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, MAX_DELAY_S, MAX_DELAY_S]
    assert restarts.count == 9


def test_a_minute_of_life_forgives_the_ends_before() -> None:
    restarts = Restarts()
    restarts.ended(1.0, was_ready=True)
    restarts.ended(1.0, was_ready=True)
    assert restarts.ended(60.0, was_ready=True) == 0.1


def test_failing_before_ready_again_and_again_is_given_up() -> None:
    restarts = Restarts()
    assert None not in [restarts.ended(0.0, was_ready=False) for _ in range(MAX_FAILED_STARTS - 1)]
    assert restarts.ended(0.0, was_ready=False) is None


def test_waiting_for_a_server_of_others_is_never_given_up() -> None:
    restarts = Restarts()
    delays = [restarts.ended(0.0, was_ready=False, is_waiting=True) for _ in range(4 * MAX_FAILED_STARTS)]
    assert None not in delays
    assert delays[-1] == MAX_DELAY_S


def test_one_life_that_was_ready_starts_the_count_of_failures_anew() -> None:
    restarts = Restarts()
    for was_ready in [False] * (MAX_FAILED_STARTS - 1) + [True] + [False] * (MAX_FAILED_STARTS - 1):
        assert restarts.ended(0.0, was_ready=was_ready) is not None


HOST = Readings(
    cores=2,
    memory_available_bytes=20_000_000_000,
    disk_free_bytes=50_000_000_000,
    file_limit_soft=1024,
    file_limit_hard=20_000,
    nr_open=1 << 20,
    file_max=2_000_000,
    somaxconn=4096,
    syn_backlog=4096,
    conntrack_max=None,
    client_port=PortState.FREE,
    ops_port=PortState.FREE,
)
PLAN = Plan(max_connections=20_000, workers=0, port=7800, ops_port=7880)


@pytest.mark.parametrize(
    ("change", "connections", "what", "mend"),
    [
        ({}, 38_976, "open files of a process", "ulimit -Hn 1048576"),
        ({"nr_open": 20_000}, 38_976, "open files of a process", "sysctl -w fs.nr_open=80000"),
        ({"file_max": 30_000}, 28_464, "open files of the system", "sysctl -w fs.file-max"),
        ({"memory_available_bytes": 300_000_000}, 13_793, "memory available: 0.3 GB", "more memory"),
        ({"memory_available_bytes": 1}, 0, "memory available: 0.0 GB", "more memory"),
        ({"conntrack_max": 16_384}, 16_384, "connections that the firewall tracks", "nf_conntrack_max"),
    ],
)
def test_the_tightest_bound_is_named_with_its_mend(
    change: dict[str, int], connections: int, what: str, mend: str
) -> None:
    verdict = judge(HOST._replace(**change), PLAN)  # type: ignore[arg-type]
    assert verdict.connections == connections
    assert verdict.bound.what.startswith(what)
    assert mend in verdict.bound.mend


@pytest.mark.parametrize(
    ("change", "subject", "mend"),
    [
        ({"memory_available_bytes": 200_000_000}, "connections", "more memory"),
        ({"somaxconn": 128}, "somaxconn", "sysctl -w net.core.somaxconn=4096"),
        ({"syn_backlog": 128}, "syn backlog", "sysctl -w net.ipv4.tcp_max_syn_backlog=4096"),
        ({"disk_free_bytes": 1000}, "disk", "free space there"),
        ({"client_port": PortState.TAKEN}, "port", "choose another --port"),
        ({"ops_port": PortState.FORBIDDEN}, "ops-port", "choose --ops-port from 1024 on"),
    ],
)
def test_what_is_wrong_is_found_alone_with_its_mend(change: dict[str, object], subject: str, mend: str) -> None:
    verdict = judge(HOST._replace(**change), PLAN)  # type: ignore[arg-type]
    [finding] = [finding for finding in verdict.findings if not finding.is_good]
    assert finding.subject == subject
    assert mend in finding.mend


def test_proc_is_read_as_the_kernel_writes_it(tmp_path: Path) -> None:
    (tmp_path / "sys/net/core").mkdir(parents=True)
    (tmp_path / "sys/net/core/somaxconn").write_text("4096\n")
    (tmp_path / "meminfo").write_text("MemTotal:       24000 kB\nMemAvailable:   20000 kB\n")
    assert read_sysctl("net.core.somaxconn", tmp_path) == 4096
    assert read_sysctl("net.netfilter.nf_conntrack_max", tmp_path) is None
    assert read_available_memory(tmp_path) == 20_000 * 1024
