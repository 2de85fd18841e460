"""How many connections a host can hold, what bounds them, and the commands that raise the bound.

Owns the judgement over numbers that ``gateway/host.py`` reads; pure functions, tested with tables. Figures per
connection: 4.8 KB of kernel memory for an idle socket and under 1 KB in the worker, both measured
(docs/benchmarks.md).
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from typing import NamedTuple

from gateway.node.sizing import KERNEL_CONNECTIONS, RESERVED_FILES, size_node
from gateway.ops.findings import Finding

SOCKET_BYTES = 4_800
SESSION_BYTES = 1_000
WORKER_BYTES = 80_000_000
"""A worker without connections: the interpreter, the modules, the caches' start."""
USABLE_MEMORY = 0.8

WANTED_BACKLOG = 4096
WANTED_DISK_BYTES = 1 << 30


class PortState(enum.Enum):
    FREE = "free"
    TAKEN = "taken"
    FORBIDDEN = "forbidden"


class Readings(NamedTuple):
    """What a host says of itself. None: this kernel has no such setting."""

    cores: int
    memory_available_bytes: int
    disk_free_bytes: int
    file_limit_soft: int
    file_limit_hard: int
    nr_open: int
    """The highest value that any process' limit can be raised to."""
    file_max: int
    """Open files of the whole system."""
    somaxconn: int
    syn_backlog: int
    conntrack_max: int | None
    client_port: PortState
    ops_port: PortState


class Bound(NamedTuple):
    what: str
    connections: int
    mend: str
    """A command, or words."""


class Plan(NamedTuple):
    """What the configuration asks for."""

    max_connections: int
    workers: int
    """0: chosen by the node."""
    port: int
    ops_port: int


class Verdict(NamedTuple):
    connections: int
    """That this host can hold, with the workers that the plan would have."""
    bound: Bound
    findings: list[Finding]


def judge(readings: Readings, plan: Plan) -> Verdict:
    workers = size_node(plan.max_connections, plan.workers, readings.cores, readings.file_limit_hard).workers
    bound = min(_bounds(readings, workers), key=lambda bound: bound.connections)
    return Verdict(bound.connections, bound, list(_findings(readings, plan, bound, workers)))


def _bounds(readings: Readings, workers: int) -> Iterator[Bound]:
    """Everything that limits the number of connections, each as if it were the only one."""
    per_worker = max(0, readings.file_limit_hard - RESERVED_FILES)
    yield Bound(
        f"open files of a process: {readings.file_limit_hard:,} x {workers} workers",
        workers * min(per_worker, KERNEL_CONNECTIONS),
        _raise_file_limit(readings, workers),
    )
    yield Bound(
        f"open files of the system: {readings.file_max:,}",
        max(0, readings.file_max - RESERVED_FILES * (workers + 1)),
        "sysctl -w fs.file-max=4000000",
    )
    memory = readings.memory_available_bytes * USABLE_MEMORY - workers * WORKER_BYTES
    yield Bound(
        f"memory available: {readings.memory_available_bytes / 1e9:.1f} GB",
        max(0, int(memory / (SOCKET_BYTES + SESSION_BYTES))),
        "more memory",
    )
    if readings.conntrack_max is not None:
        yield Bound(
            f"connections that the firewall tracks: {readings.conntrack_max:,}",
            readings.conntrack_max,
            "sysctl -w net.netfilter.nf_conntrack_max=4000000",
        )


def _raise_file_limit(readings: Readings, workers: int) -> str:
    if readings.file_limit_hard < readings.nr_open:
        return f"ulimit -Hn {readings.nr_open} (as root, or LimitNOFILE= in the service's unit)"
    return f"sysctl -w fs.nr_open={4 * readings.nr_open}, then ulimit -Hn; or --workers {2 * workers}"


def _findings(readings: Readings, plan: Plan, bound: Bound, workers: int) -> Iterator[Finding]:
    yield Finding(
        "connections",
        bound.connections >= plan.max_connections,
        f"{bound.connections:,} fit with {workers} workers, {plan.max_connections:,} are configured ({bound.what})",
        bound.mend,
    )
    yield Finding(
        "somaxconn",
        readings.somaxconn >= WANTED_BACKLOG,
        f"{readings.somaxconn:,} connections may wait to be accepted, after an outage thousands do",
        f"sysctl -w net.core.somaxconn={WANTED_BACKLOG}",
        is_needed=False,
    )
    yield Finding(
        "syn backlog",
        readings.syn_backlog >= WANTED_BACKLOG,
        f"{readings.syn_backlog:,} handshakes may be under way at once",
        f"sysctl -w net.ipv4.tcp_max_syn_backlog={WANTED_BACKLOG}",
        is_needed=False,
    )
    yield Finding(
        "disk",
        readings.disk_free_bytes >= WANTED_DISK_BYTES,
        f"{readings.disk_free_bytes / 1e9:.1f} GB are free where the data are; a full disk refuses messages (501)",
        "free space there, or choose another --data",
    )
    yield _port_finding("port", plan.port, readings.client_port)
    yield _port_finding("ops-port", plan.ops_port, readings.ops_port)


def _port_finding(option: str, port: int, state: PortState) -> Finding:
    mends = {
        PortState.FREE: "",
        PortState.TAKEN: f"stop what listens there (a running node?), or choose another --{option}",
        PortState.FORBIDDEN: f"choose --{option} from 1024 on, or sysctl -w net.ipv4.ip_unprivileged_port_start={port}",
    }
    return Finding(option, state is PortState.FREE, f"{port} is {state.value}", mends[state])
