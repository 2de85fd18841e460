"""What a bench runs against: nodes of its own, nodes at addresses, or the stand-in; and who may log in there.

Owns the choice and the credentials. Devices and users are numbered from the run's seed, so that a second run against
the same nodes meets none of the first one's chats.
"""

from __future__ import annotations

import contextlib
import itertools
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from bench.cluster import Backends, Cluster, Shape, serve
from bench.faults import BenchError
from bench.node import Node, start
from parley.faults import CommandError
from parley.tokens import Credential, Mint, identities, read_credentials

_STANDIN_SECRET = b"the stand-in verifies nothing at all"
_USERS_A_SEED = 1_000_000


class Place(NamedTuple):
    """Where to run. ``connect`` empty: start nodes of this ``shape`` over these ``backends``."""

    shape: Shape = Shape()
    backends: Backends = Backends()
    connect: tuple[str, ...] = ()
    """HOST:PORT of each running node; ``ops_ports`` and ``pids`` in the same order, or none."""
    tokens: Path | None = None
    data: Path | None = None
    ops_ports: tuple[int, ...] = ()
    pids: tuple[int, ...] = ()

    def options(self) -> dict[str, str | int]:
        """Those of the command line that say what was measured, as far as they are not the defaults."""
        if self.connect:
            return {}
        usual = Place()
        said: dict[str, str | int] = {}
        if self.shape != usual.shape:
            said |= self.shape._asdict()
        if self.backends.store != usual.backends.store:
            said["store"] = self.backends.store
        return said


class Target:
    def __init__(self, cluster: Cluster, credentials: Iterator[Credential]) -> None:
        self.cluster = cluster
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
    with serve(place.shape, place.backends) as cluster:
        if cluster.data is None:
            raise BenchError("the node has no data directory")
        yield Target(cluster, _minted(Mint.of(cluster.data), seed))


@contextlib.contextmanager
def standin_target(fault: str = "none", seed: int = 0) -> Iterator[Target]:
    """A process of its own, like a node: sharing one interpreter would halve what both can do."""
    with tempfile.TemporaryDirectory(prefix="parley-bench-") as directory:
        command = [sys.executable, "-m", "bench.standin", fault]
        with start(command, Path(directory) / "log") as (address, ops_port, pid):
            yield Target(Cluster((Node(address, ops_port, pid, None),)), _minted(Mint(_STANDIN_SECRET), seed))


def _found(place: Place, seed: int) -> Target:
    cluster = Cluster(tuple(_nodes(place)))
    try:
        if place.tokens is not None:
            return Target(cluster, iter(read_credentials(place.tokens)))
        if place.data is not None:
            return Target(cluster, _minted(Mint.of(place.data), seed))
    except CommandError as error:
        raise BenchError(str(error)) from error
    raise BenchError("--connect needs --tokens (from `parley token`) or --data (the node's data directory)")


def _nodes(place: Place) -> Iterator[Node]:
    for option, values in (("--ops-port", place.ops_ports), ("--pid", place.pids)):
        if values and len(values) != len(place.connect):
            raise BenchError(f"{option} is given {len(values)} times for {len(place.connect)} nodes (--connect)")
    for index, address in enumerate(place.connect):
        host, _, port = address.rpartition(":")
        if not port.isdigit():
            raise BenchError(f"--connect {address}: write HOST:PORT")
        ops_port = place.ops_ports[index] if place.ops_ports else 0
        pid = place.pids[index] if place.pids else 0
        yield Node((host or "127.0.0.1", int(port)), ops_port, pid, place.data)


def _minted(mint: Mint, seed: int) -> Iterator[Credential]:
    first = 1 + seed * _USERS_A_SEED
    return map(mint.sign, identities(range(first, first + _USERS_A_SEED), range(first, first + 1)))
