"""What a bench runs against: a node of its own, a node at an address, or the stand-in; and who may log in there.

Owns the choice and the credentials. Devices and users are numbered from the run's seed, so that a second run against
the same node meets none of the first one's chats.
"""

from __future__ import annotations

import contextlib
import itertools
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from bench.faults import BenchError
from bench.node import Node, serve, start
from parley.faults import CommandError
from parley.tokens import Credential, Mint, identities, read_credentials

_STANDIN_SECRET = b"the stand-in verifies nothing at all"
_USERS_A_SEED = 1_000_000


class Place(NamedTuple):
    """Where to run. ``connect`` empty: start a node with ``workers``."""

    workers: int
    connect: str = ""
    tokens: Path | None = None
    data: Path | None = None
    ops_port: int = 0
    pid: int = 0


class Target:
    def __init__(self, node: Node, credentials: Iterator[Credential]) -> None:
        self.node = node
        self._credentials = credentials

    def credentials(self, n: int) -> list[Credential]:
        """``n`` new users, with a device each. Minted here, before any clock starts."""
        taken = list(itertools.islice(self._credentials, n))
        if len(taken) < n:
            raise BenchError(f"{n} credentials are needed and only {len(taken)} left: make more with `parley token`")
        return taken


@contextlib.contextmanager
def target(place: Place, seed: int) -> Iterator[Target]:
    if place.connect:
        yield _found(place, seed)
        return
    with serve(place.workers) as node:
        if node.data is None:
            raise BenchError("the node has no data directory")
        yield Target(node, _minted(Mint.of(node.data), seed))


@contextlib.contextmanager
def standin_target(fault: str = "none", seed: int = 0) -> Iterator[Target]:
    """A process of its own, like a node: sharing one interpreter would halve what both can do."""
    with tempfile.TemporaryDirectory(prefix="parley-bench-") as directory:
        command = [sys.executable, "-m", "bench.standin", fault]
        with start(command, Path(directory) / "log") as (address, ops_port, pid):
            yield Target(Node(address, ops_port, pid, None), _minted(Mint(_STANDIN_SECRET), seed))


def _found(place: Place, seed: int) -> Target:
    host, _, port = place.connect.rpartition(":")
    if not port.isdigit():
        raise BenchError(f"--connect {place.connect}: write HOST:PORT")
    node = Node((host or "127.0.0.1", int(port)), place.ops_port, place.pid, place.data)
    try:
        if place.tokens is not None:
            return Target(node, iter(read_credentials(place.tokens)))
        if place.data is not None:
            return Target(node, _minted(Mint.of(place.data), seed))
    except CommandError as error:
        raise BenchError(str(error)) from error
    raise BenchError("--connect needs --tokens (from `parley token`) or --data (the node's data directory)")


def _minted(mint: Mint, seed: int) -> Iterator[Credential]:
    first = 1 + seed * _USERS_A_SEED
    return map(mint.sign, identities(range(first, first + _USERS_A_SEED), range(first, first + 1)))
