"""What this host says of itself: limits, sysctls, ports, memory, disk; and ``parley doctor``, which shows it.

Owns the reading and the showing, nothing of the judgement (``gateway/ops/capacity.py``). Changes nothing.
"""

from __future__ import annotations

import os
import resource
import shutil
from collections.abc import Sequence
from pathlib import Path

from gateway.config import Config, ServeConfig
from gateway.node import ports
from gateway.ops.capacity import Plan, PortState, Readings, Verdict, judge
from gateway.ops.findings import Finding

PROC = Path("/proc")
UNLIMITED = 1 << 40


def doctor(config: Config, elsewhere: Sequence[Finding] = ()) -> int:
    """Print what this host can hold and how to raise it, and ``elsewhere``: what was found of the servers that it needs. Exit
    status 1: the node would not serve as configured."""
    verdict = examine(config.serve)
    print(f"This host can hold {verdict.connections:,} connections; bounded by {verdict.bound.what}.")
    print(f"To raise that: {verdict.bound.mend}\n")
    findings = [*verdict.findings, *elsewhere]
    width = max(12, *(len(finding.subject) for finding in findings))
    for finding in findings:
        print(f"{'ok  ' if finding.is_good else 'MEND'}  {finding.subject:<{width}} {finding.found}")
        if not finding.is_good:
            print(f"      {'':<{width}} {finding.mend}")
    return 0 if all(finding.is_good for finding in findings if finding.is_needed) else 1


def examine(serve: ServeConfig) -> Verdict:
    """What this host can do for such a node."""
    plan = Plan(serve.max_connections, serve.workers, serve.port, serve.ops_port)
    return judge(read_host(serve), plan)


def read_host(serve: ServeConfig, proc: Path = PROC) -> Readings:
    soft, hard = (
        UNLIMITED if limit == resource.RLIM_INFINITY else limit for limit in resource.getrlimit(resource.RLIMIT_NOFILE)
    )
    return Readings(
        cores=len(os.sched_getaffinity(0)),
        memory_available_bytes=read_available_memory(proc),
        disk_free_bytes=shutil.disk_usage(_existing(Path(serve.data))).free,
        file_limit_soft=soft,
        file_limit_hard=hard,
        nr_open=read_sysctl("fs.nr_open", proc) or hard,
        file_max=min(UNLIMITED, read_sysctl("fs.file-max", proc) or UNLIMITED),
        somaxconn=read_sysctl("net.core.somaxconn", proc) or 0,
        syn_backlog=read_sysctl("net.ipv4.tcp_max_syn_backlog", proc) or 0,
        conntrack_max=read_sysctl("net.netfilter.nf_conntrack_max", proc),
        client_port=port_state(serve.host, serve.port),
        ops_port=port_state(serve.ops_host, serve.ops_port),
    )


def read_sysctl(name: str, proc: Path = PROC) -> int | None:
    """The first number of a sysctl; None: this kernel does not have it, or does not show it."""
    try:
        text = (proc / "sys" / name.replace(".", "/")).read_text()
    except OSError:
        return None
    return int(text.split()[0])


def read_available_memory(proc: Path = PROC) -> int:
    """MemAvailable in bytes: what can be used without swapping (proc(5))."""
    for line in (proc / "meminfo").read_text().splitlines():
        name, _, rest = line.partition(":")
        if name == "MemAvailable":
            return int(rest.split()[0]) * 1024
    return 0


def port_state(host: str, port: int) -> PortState:
    try:
        ports.reserve(host, port, "port").close()
    except ports.PortUnavailable as error:
        return PortState.FORBIDDEN if isinstance(error.__cause__, PermissionError) else PortState.TAKEN
    return PortState.FREE


def _existing(path: Path) -> Path:
    """The directory itself, or the nearest one above that exists."""
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path
