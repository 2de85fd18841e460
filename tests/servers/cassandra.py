"""Cassandra nodes that tests start, pause, kill and start again with their data.

Owns what makes a node ready; the settings are in cassandra_settings.py, several nodes in cassandra_cluster.py. Must not
know what is stored. Invariant: ``start`` returns when the node answers CQL.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tests.servers import cql
from tests.servers.cassandra_settings import (
    LOGBACK,
    NATIVE_PORT,
    QUICK_TO_START,
    Place,
    configuration,
    java_options,
)
from tests.servers.installing import Cassandra
from tests.servers.processes import Server, ServerProcess

START_TIMEOUT_S = 180.0
PROBE_TIMEOUT_S = 3.0
DAEMON = "org.apache.cassandra.service.CassandraDaemon"
LEAVES = ("data", "commitlog", "hints", "saved_caches", "cdc")

ONE_NODE_HEAP_MB = 768

PATIENT: Mapping[str, object] = {
    "read_request_timeout": "10s",
    "range_request_timeout": "20s",
    "write_request_timeout": "10s",
    "cas_contention_timeout": "5s",
    "truncate_request_timeout": "60s",
}
"""One node has no replica to wait for: a machine that is busy is no reason for an error."""


class CassandraNode(Server):
    """One node. ``start`` again after ``stop`` or ``kill``: the same data, the same address."""

    def __init__(
        self,
        installed: Cassandra,
        folder: Path,
        *,
        heap_mb: int = ONE_NODE_HEAP_MB,
        settings: Mapping[str, object] = PATIENT,
        place: Place | None = None,
        machine: Sequence[str] = QUICK_TO_START,
    ) -> None:
        place = place or Place.alone()
        self.host = place.host
        self.port = NATIVE_PORT
        self._folder = folder
        self._yaml = configuration(folder, place, settings)
        ring_delay_ms = 4000 if len(place.seeds) > 1 else 0  # with less, the second node of a cluster fails to join
        options = java_options(folder, installed.jars, heap_mb, ring_delay_ms, machine)
        classes = ":".join(str(jar) for jar in sorted(installed.jars.glob("*.jar")))
        command = [str(installed.java), *options, "-cp", classes, DAEMON]
        self.process = ServerProcess(f"Cassandra on {self.host}", command, folder)

    @property
    def contact_point(self) -> str:
        """``host:port``, as a configuration has it."""
        return f"{self.host}:{self.port}"

    def start(self) -> None:
        self.launch()
        self.wait_until(self.is_answering)

    def launch(self) -> None:
        """Start it without waiting for CQL."""
        self._folder.mkdir(parents=True, exist_ok=True)
        (self._folder / "cassandra.yaml").write_text(self._yaml)
        (self._folder / "logback.xml").write_text(LOGBACK)
        self.process.launch()

    def wait_until(self, is_so: Callable[[], bool]) -> None:
        self.process.wait_until(is_so, START_TIMEOUT_S)

    def is_answering(self) -> bool:
        """It accepts CQL and answers it, alone."""
        return self._answers("SELECT key FROM system.local", cql.ONE)

    def is_answering_with_all(self) -> bool:
        """So do all nodes, as this one sees them. The table has a replica on each of up to three."""
        return self._answers("SELECT view_name FROM system_distributed.view_build_status", cql.ALL)

    def agrees_with(self, other: CassandraNode) -> bool:
        """Both answer and know the same tables."""
        statement = "SELECT schema_version FROM system.local"
        with contextlib.suppress(cql.QueryFailed):
            versions = {node.query(statement, cql.ONE, PROBE_TIMEOUT_S) for node in (self, other)}
            return len(versions) == 1
        return False

    def _answers(self, statement: str, consistency: int) -> bool:
        with contextlib.suppress(cql.QueryFailed):
            self.query(statement, consistency, PROBE_TIMEOUT_S)
            return True
        return False

    def query(self, statement: str, consistency: int = cql.ONE, timeout_s: float = 30.0) -> bytes:
        """One statement, by this node; the undecoded result. Raises cql.QueryFailed."""
        return cql.query(self.host, self.port, statement, consistency, timeout_s)

    def close(self) -> None:
        """End it and remove its data; the log stays."""
        self.kill()
        for leaf in LEAVES:
            shutil.rmtree(self._folder / leaf, ignore_errors=True)
