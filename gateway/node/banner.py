"""What a person sees when the node is ready: where it is, and what to try next.

Owns the words, and the line for programs (event "ready"). Pure, but for ``announce`` and ``program_name``.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import NamedTuple

import structlog

log = structlog.get_logger(__name__)

DEFAULT_PORT = 7800
DEFAULT_DATA = "data"
ENDING = "Ctrl-C ends the node when its clients have left; twice, at once.\n"


class Ready(NamedTuple):
    """Where a node serves. ``data`` is as the operator wrote it."""

    host: str
    port: int
    ops_host: str
    ops_port: int
    workers: int
    data: str
    node: int = 0
    """Of a cluster; 0: of none."""


def announce(ready: Ready) -> None:
    """For programs in the log, for a person on stdout."""
    log.info("ready", **ready._asdict(), pid=os.getpid())
    print(banner(ready, program_name()), end="", flush=True)


def banner(ready: Ready, program: str) -> str:
    """Lines to print; ``program`` is how the CLI is called on this machine."""
    host = _reachable(ready.host)
    where = "" if (host, ready.port) == ("127.0.0.1", DEFAULT_PORT) else f" --host {host} --port {ready.port}"
    data = "" if ready.data == DEFAULT_DATA else f" --data {ready.data}"
    workers = "1 worker" if ready.workers == 1 else f"{ready.workers} workers"
    what = f"node {ready.node} of a cluster" if ready.node else f"everything kept in {ready.data}"
    head = f"""\
Parley serves clients on {_address(ready.host, ready.port)} ({workers}, {what}).
Operations: http://{_address(_reachable(ready.ops_host), ready.ops_port)}/metrics, /healthz, /readyz

"""
    return head + (ENDING if ready.node else _first_steps(program, where, data) + ENDING)


def _first_steps(program: str, where: str, data: str) -> str:
    return f"""\
Try next, each in a terminal of its own:
  {program} chat --user 1 --peer 2{where}{data}
  {program} chat --user 2 --peer 1{where}{data}

"""


def program_name() -> str:
    """``parley`` where the shell finds it, else the path from here to the one beside this Python."""
    beside = Path(sys.executable).parent / "parley"
    if shutil.which("parley") == str(beside):
        return "parley"
    return os.path.relpath(beside) if beside.exists() else f"{os.path.relpath(sys.executable)} -m parley.cli"


def _reachable(host: str) -> str:
    """An address for a client on this host."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
