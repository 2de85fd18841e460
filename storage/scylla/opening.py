"""Connect, migrate, prepare: all that blocks before an executor can work, in one thread.

Owns an attempt that can be given up. Invariant: of an attempt that was given up, or failed, no connection and no thread is left,
whichever comes first, the giving up or the end.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import NamedTuple

from cassandra.cluster import Session

from storage.api import StoreUnavailable
from storage.scylla.binding import Template
from storage.scylla.connecting import Connected, connect
from storage.scylla.errors import DRIVER_ERRORS, first_line, translate
from storage.scylla.migrations import Migration, Migrator, use_keyspace
from storage.scylla.ports import Statement
from storage.scylla.settings import ScyllaSettings


class Opened(NamedTuple):
    connected: Connected
    templates: dict[str, Template]
    """By CQL."""


class Opening:
    def __init__(
        self, settings: ScyllaSettings, statements: Sequence[Statement], migrations: Sequence[Migration]
    ) -> None:
        self._settings = settings
        self._statements = statements
        self._migrations = migrations
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._opened: Opened | None = None

    def run(self) -> Opened:
        """Raises StoreUnavailable, SchemaTooNew."""
        connected = connect(self._settings)
        try:
            opened = Opened(connected, self._prepare_schema(connected))
        except BaseException as error:
            connected.cluster.shutdown()
            if isinstance(error, DRIVER_ERRORS):
                raise StoreUnavailable(f"the cluster cannot be used: {first_line(error)}") from error
            raise
        with self._lock:
            self._opened = opened
            is_given_up = self._stop.is_set()
        if is_given_up:
            connected.cluster.shutdown()
        return opened

    def give_up(self) -> None:
        """Nobody will take the result. Does not wait."""
        with self._lock:
            self._stop.set()
            opened = self._opened
        if opened is not None:
            threading.Thread(target=opened.connected.cluster.shutdown, daemon=True).start()

    def _prepare_schema(self, connected: Connected) -> dict[str, Template]:
        session = connected.session
        use_keyspace(session, self._settings.keyspace, self._settings.replication_factor)
        if self._migrations:
            Migrator(session, self._migrations, self._stop).run(self._settings.migration_timeout_s)
        return {statement.cql: prepare(session, statement) for statement in self._statements}


def prepare(session: Session, statement: Statement) -> Template:
    """Blocks. Raises StoreError."""
    try:
        return Template(statement, session.prepare(statement.cql))
    except DRIVER_ERRORS as error:
        raise translate(error, was_sent=False) from error
