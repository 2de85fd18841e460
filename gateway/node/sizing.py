"""How many workers a node has, and how many connections each of them takes.

Owns the arithmetic. Pure functions over numbers; ``raise_file_limit`` is the one that touches the process.
"""

from __future__ import annotations

import math
import resource
from typing import NamedTuple

RESERVED_FILES = 512
"""Of a worker's file descriptors, for what is no client: links to every other worker, the store, the listener."""

KERNEL_CONNECTIONS = (1 << 20) - 2048
"""A connection number has 20 bits for the index; some stay for links."""

MIN_CLIENTS = 64
MAX_WORKERS = 1023
"""A worker's number has 10 bits and begins at 1."""


class Sizing(NamedTuple):
    workers: int
    max_clients: int
    """Per worker."""
    missing: int
    """Connections of ``max_connections`` that these workers cannot take for want of file descriptors."""


def size_node(max_connections: int, workers: int, cores: int, file_limit: int) -> Sizing:
    """``workers`` 0: one per core, and as many as the file limit asks for.

    SO_REUSEPORT spreads connections by a hash, so a worker gets about its share and not exactly: each may take five
    standard deviations more, if its file limit allows.
    """
    most = max(MIN_CLIENTS, min(file_limit - RESERVED_FILES, KERNEL_CONNECTIONS))
    count = workers or min(MAX_WORKERS, max(cores, math.ceil(max_connections / most)))
    share = math.ceil(max_connections / count)
    slack = math.ceil(5 * math.sqrt(share)) if count > 1 else 0
    clients = min(most, share + slack)
    return Sizing(count, clients, max(0, max_connections - most * count))


def raise_file_limit() -> int:
    """The soft limit of open files up to the hard one, for this process and those that it starts. Returns it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 1 << 20 if hard == resource.RLIM_INFINITY else hard
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return wanted
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted
