"""The nodes under test, seen as one: started over given servers, or found at their addresses.

Owns the configuration that the nodes are started with (``configs/bench.toml`` and what makes them a cluster) and their
end. It starts no database and no Redis: it is given addresses. Invariant: nodes of one cluster share the keys that
tokens and links are signed with, so that any client may log in at any node; nothing of a run is seen by the next but the
rows in the store.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from bench.faults import BenchError
from bench.machine import cpu_s, pss_bytes
from bench.node import ROOT, Node, start

BENCH_CONFIG = ROOT / "configs" / "bench.toml"
SHARED_SECRETS = ("auth.key", "resume.key")
"""Files of a data directory: whoever signs with the one and resumes with the other is known at every node."""

CASSANDRA_PORT = 9042
REDIS_PORT = 6379


class Shape(NamedTuple):
    """How many nodes, and how many workers each of them has."""

    nodes: int = 1
    workers: int = 1

    def __str__(self) -> str:
        return f"{self.nodes}x{self.workers}"


class Backends(NamedTuple):
    """What the nodes stand on. ``cassandra`` and ``redis`` are HOST:PORT; of Cassandra several, separated by commas."""

    store: str = "sqlite"
    cassandra: str = ""
    redis: str = ""
    keyspace: str = "parley_bench"


class Cluster(NamedTuple):
    nodes: tuple[Node, ...]

    @property
    def addresses(self) -> list[tuple[str, int]]:
        return [node.address for node in self.nodes]

    @property
    def is_known(self) -> bool:
        """What it uses can be read: every node's process is known."""
        return all(node.pid for node in self.nodes)

    @property
    def data(self) -> Path | None:
        """The data directory of one of them."""
        return self.nodes[0].data

    def cpu_s(self) -> dict[int, float]:
        """By process, supervisors included."""
        return {pid: cpu_s(pid) for node in self.nodes for pid in node.processes()}

    def workers_cpu_s(self) -> float:
        return sum(cpu_s(pid) for node in self.nodes for pid in node.workers())

    def pss_bytes(self) -> int:
        return pss_bytes(pid for node in self.nodes for pid in node.workers())

    def metrics(self) -> dict[str, float]:
        """/metrics, summed over labels and nodes; empty where a node has no operations port."""
        if not all(node.ops_port for node in self.nodes):
            return {}
        total: dict[str, float] = {}
        for node in self.nodes:
            for name, value in node.metrics().items():
                total[name] = total.get(name, 0.0) + value
        return total


def parse_shape(text: str) -> Shape:
    """``2x4``: two nodes of four workers each."""
    nodes, _, workers = text.partition("x")
    if not (nodes.isdigit() and workers.isdigit() and int(nodes) and int(workers)):
        raise BenchError(f"{text!r} is no shape: write NODESxWORKERS, as in 2x4")
    return Shape(int(nodes), int(workers))


@contextlib.contextmanager
def serve(shape: Shape, backends: Backends) -> Iterator[Cluster]:
    """New nodes, each on a new data directory and free ports; ended afterwards."""
    _check(shape, backends)
    settings = BENCH_CONFIG.read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory(prefix="parley-bench-") as directory, contextlib.ExitStack() as running:
        shared = {name: secrets.token_hex(32) for name in SHARED_SECRETS}
        common = SharedSettings(backends, secrets.token_hex(4), secrets.token_hex(32))
        nodes = []
        for number in range(1, shape.nodes + 1):
            place = Path(directory) / f"node{number}"
            data = place / "data"
            data.mkdir(parents=True)
            for name, secret in shared.items():
                _write_secret(data / name, secret)
            config = place / "node.toml"
            config.write_text(settings + common.toml_of(number), encoding="utf-8")
            command = serve_command(config, data, shape.workers)
            address, ops_port, pid = running.enter_context(start(command, place / "log"))
            nodes.append(Node(address, ops_port, pid, data))
        yield Cluster(tuple(nodes))


def serve_command(config: Path, data: Path, workers: int) -> list[str]:
    """``parley serve`` on any free ports."""
    options = ["--config", str(config), "--data", str(data), "--host", "127.0.0.1", "--workers", str(workers)]
    return [sys.executable, "-m", "parley.cli", "serve", *options, "--port", "0", "--ops-port", "0"]


def _check(shape: Shape, backends: Backends) -> None:
    is_replicated = backends.store == "scylla"
    if backends.store not in ("sqlite", "memory", "scylla"):
        raise BenchError(f"--store {backends.store}: one of sqlite, memory, scylla")
    if is_replicated and not (backends.cassandra and backends.redis):
        raise BenchError(
            "--store scylla needs --cassandra HOST:PORT and --redis HOST:PORT (`make bench-cluster` starts both)"
        )
    if shape.nodes > 1 and not is_replicated:
        raise BenchError(f"{shape.nodes} nodes need a store that they share: --store scylla")


def _write_secret(path: Path, secret: str) -> None:
    path.touch(mode=0o600)
    path.write_text(secret, encoding="ascii")


class SharedSettings(NamedTuple):
    """What the nodes of one cluster have in common."""

    backends: Backends
    name: str
    link_secret: str

    def toml_of(self, number: int) -> str:
        """The tables that make the node one of a cluster; none for an embedded one."""
        if self.backends.store != "scylla":
            return f'\n[store]\nbackend = "{self.backends.store}"\n'
        hosts, port = parse_hosts(self.backends.cassandra, CASSANDRA_PORT)
        redis_host, redis_port = parse_host(self.backends.redis, REDIS_PORT)
        return f"""
[cluster]
node = {number}
host = "127.0.0.1"
link_keys = [{{ id = "bench", secret = "{self.link_secret}" }}]

[store]
backend = "scylla"

[store.scylla]
contact_points = {json.dumps(hosts)}
port = {port}
keyspace = "{self.backends.keyspace}"
replication_factor = 1

[directory]
backend = "redis"

[directory.redis]
host = "{redis_host}"
port = {redis_port}
prefix = "bench-{self.name}"
"""


def parse_hosts(text: str, default_port: int) -> tuple[list[str], int]:
    """HOST:PORT,HOST:PORT as (hosts, their one port). Raises BenchError."""
    places = [parse_host(part, default_port) for part in text.split(",")]
    if len({port for _, port in places}) > 1:
        raise BenchError(f"{text}: all servers of one cluster listen on one port")
    return [host for host, _ in places], places[0][1]


def parse_host(text: str, default_port: int) -> tuple[str, int]:
    """HOST or HOST:PORT. Raises BenchError."""
    host, _, port = text.strip().partition(":")
    if not host or (port and not port.isdigit()):
        raise BenchError(f"{text!r}: write HOST:PORT")
    return host, int(port or default_port)
