"""One node under test: a process that announces itself, or one found at an address; and what it tells and uses.

Owns the process that it started: it is ended, by its id, whatever happens. It must not know what is measured, nor how
several nodes make a cluster (``cluster.py``). A node is known by its ready line (JSON, ``event`` "ready", ``port``,
``ops_port``), the server's own announcement.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from bench.faults import BenchError
from bench.machine import descendants

ROOT = Path(__file__).resolve().parent.parent
START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 30.0


class Node(NamedTuple):
    """A running node. ``pid``: of its supervisor, 0 when it is not known; then CPU and memory are not either."""

    address: tuple[str, int]
    ops_port: int
    pid: int
    data: Path | None

    def processes(self) -> list[int]:
        return descendants(self.pid) if self.pid else []

    def workers(self) -> list[int]:
        """The processes that hold connections: the supervisor's children, or the only process there is."""
        return self.processes()[1:] or self.processes()

    def metrics(self) -> dict[str, float]:
        """/metrics, summed over labels; empty where there is no operations port."""
        if not self.ops_port:
            return {}
        url = f"http://{self.address[0]}:{self.ops_port}/metrics"
        try:
            with urllib.request.urlopen(url, timeout=10) as response:
                return sum_metrics(response.read().decode())
        except (urllib.error.URLError, TimeoutError) as error:
            raise BenchError(f"{url}: {error}") from error


def sum_metrics(exposition: str) -> dict[str, float]:
    """A Prometheus exposition as one number a name: every label's value added up."""
    sums: dict[str, float] = {}
    for line in exposition.splitlines():
        if line and not line.startswith("#"):
            series, _, value = line.rpartition(" ")
            name = series.partition("{")[0]
            sums[name] = sums.get(name, 0.0) + float(value)
    return sums


@contextlib.contextmanager
def start(command: Sequence[str], log: Path) -> Iterator[tuple[tuple[str, int], int, int]]:
    """Run a command that announces itself by a ready line: (address, operations port, pid). It is ended afterwards.

    What it says goes to a file and not to a pipe: nobody has time to empty a pipe while a bench runs.
    """
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT)
    try:
        ready = _wait_ready(process, log)
        yield (str(ready.get("host") or "127.0.0.1"), _port(ready, "port")), _port(ready, "ops_port"), process.pid
    finally:
        _stop(process)


def _wait_ready(process: subprocess.Popen[bytes], log: Path) -> dict[str, object]:
    until = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < until:
        for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
            ready = _ready_line(line)
            if ready is not None:
                return ready
        if process.poll() is not None:
            break
        time.sleep(0.02)
    tail = " | ".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-5:])
    how = "was not ready in time" if process.poll() is None else f"ended with exit code {process.returncode}"
    raise BenchError(f"the node {how}; its last words: {tail}")


def _ready_line(line: str) -> dict[str, object] | None:
    if not line.startswith("{"):
        return None
    try:
        said = json.loads(line)
    except json.JSONDecodeError:
        return None
    return said if isinstance(said, dict) and said.get("event") == "ready" else None


def _port(ready: dict[str, object], name: str) -> int:
    value = ready.get(name) or 0
    if not isinstance(value, int):
        raise BenchError(f"the node announced {name} {value!r}")
    return value


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Its clients are gone: there is nobody to drain for, so that SIGTERM is quick; and SIGKILL if it is not."""
    process.terminate()
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
