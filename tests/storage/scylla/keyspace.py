"""The tables of ``storage/scylla`` for tests: one keyspace for the session, emptied before each test.

Owns that keyspace. Making ten tables takes seconds, emptying those that a test used a tenth of one. They are truncated, not
deleted from: a tombstone of now would bury what the next test writes with the small timestamps of these tables.
"""

from __future__ import annotations

import secrets

from cassandra.cluster import Cluster, Session

from storage.scylla.settings import ScyllaSettings

PATIENCE_S = 15.0
"""A request's time in tests that are not about time: other tests share the machine."""

_TABLES = "SELECT table_name FROM system_schema.tables WHERE keyspace_name = %s"
_KEPT = "migrations"


class Keyspace:
    def __init__(self) -> None:
        self.name = f"parley_{secrets.token_hex(6)}"
        self._cluster: Cluster | None = None
        self._session: Session | None = None

    def emptied(self, host: str, port: int) -> ScyllaSettings:
        """Made by the first store that is opened with these settings."""
        if self._session is None:
            self._cluster = Cluster([host], port=port, protocol_version=4)
            self._session = self._cluster.connect()
        tables = [table for (table,) in self._session.execute(_TABLES, [self.name]) if table != _KEPT]
        for table in tables:
            if self._session.execute(f"SELECT * FROM {self.name}.{table} LIMIT 1").one() is not None:
                self._session.execute(f"TRUNCATE {self.name}.{table}", timeout=60.0)
        return ScyllaSettings(
            contact_points=(host,),
            port=port,
            keyspace=self.name,
            replication_factor=1,
            request_timeout_s=PATIENCE_S,
            connect_timeout_s=20.0,
        )

    def close(self) -> None:
        if self._session is not None and self._cluster is not None:
            self._session.execute(f"DROP KEYSPACE IF EXISTS {self.name}", timeout=60.0)
            self._cluster.shutdown()
