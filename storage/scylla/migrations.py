"""Numbered schema files, applied forward, statement by statement, by one worker at a time.

Owns the table ``migrations``: one partition with the lock (a static column) and a row for each file begun. Blocks; runs in a
thread.

Invariants. Every statement of a file may be executed again (IF NOT EXISTS), and is counted only after the nodes agree on the
schema: whoever takes over goes on where the last one's count ends. The lock is a conditional write with a time to live, renewed
before each statement, so a worker that was killed holds up the others for LOCK_TTL_S and no longer. Each step of the count is
conditional on the lock: one that was stopped for longer than that finds out before it counts anything.

Many workers start at once. On Cassandra two nodes that make one table at the same time give it two identities, and the loser's
rows are lost: hence the table of the lock itself is made with an identity that follows from its name, and all others under
the lock.
"""

from __future__ import annotations

import contextlib
import secrets
import threading
import time
import uuid
from collections.abc import Sequence
from importlib.resources import files
from typing import NamedTuple

from cassandra import ConfigurationException, InvalidRequest, OperationTimedOut
from cassandra.cluster import Session
from cassandra.protocol import SyntaxException

from storage.api import SchemaTooNew, StoreUnavailable
from storage.scylla.connecting import SERIAL
from storage.scylla.errors import DRIVER_ERRORS, first_line
from storage.scylla.servers import identify

LOCK_TTL_S = 30
STATEMENT_TIMEOUT_S = 25.0
"""Below the lock's time: whoever waits for a statement still has the lock when it ends."""
POLL_S = 0.25
FAMILY = "schema"
_NAMESPACE = uuid.UUID("6f1d9f0e-4c1b-5a35-9a0f-0f9a4f1f6a52")
"""Any constant: with a keyspace's name it makes an identity that all workers agree on."""


class Migration(NamedTuple):
    number: int
    statements: tuple[str, ...]


def load_migrations() -> list[Migration]:
    """The files ``storage/schema/scylla/NNNN_name.cql`` by number."""
    folder = files("storage").joinpath("schema", "scylla")
    names = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".cql"))
    return [Migration(int(name[:4]), split(folder.joinpath(name).read_text("utf-8"))) for name in names]


def split(text: str) -> tuple[str, ...]:
    """A statement ends in a semicolon at a line's end; a line that begins with two dashes is a comment."""
    statements: list[str] = []
    lines: list[str] = []
    for line in text.splitlines():
        if not line.strip() or line.lstrip().startswith("--"):
            continue
        lines.append(line)
        if line.rstrip().endswith(";"):
            statements.append("\n".join(lines).rstrip().removesuffix(";"))
            lines = []
    if lines:
        raise ValueError(f"a statement without its end: {lines[0]}")
    return tuple(statements)


class _LockLost(Exception):
    """It ran out while we were stopped, or somebody stopped us."""


class Migrator:
    """Brings the session's keyspace to the last of ``migrations``. ``stop``: set by whoever does not want the result any more."""

    def __init__(self, session: Session, migrations: Sequence[Migration], stop: threading.Event) -> None:
        self._session = session
        self._migrations = migrations
        self._stop = stop
        self._holder = secrets.token_hex(8)

    def run(self, timeout_s: float) -> None:
        """Raises SchemaTooNew; StoreUnavailable when it is not done in time."""
        deadline = time.monotonic() + timeout_s
        reason = "another worker migrates"
        while True:
            try:
                if self._advance():
                    return
            except _LockLost:
                reason = "the lock of the migration was lost"
            except DRIVER_ERRORS as error:
                reason = first_line(error)
            if time.monotonic() > deadline or self._stop.wait(POLL_S):
                raise StoreUnavailable(f"the schema is not ready: {reason}")

    def _advance(self) -> bool:
        """Whether the schema is at its last version now; if not, ask again."""
        if self._is_complete(self._counts()):
            return True
        if not self._take_lock():
            return False
        try:
            counts = self._counts()
            self._is_complete(counts)
            for migration in self._migrations:
                self._apply(migration, counts.get(migration.number, 0))
        finally:
            with contextlib.suppress(*DRIVER_ERRORS):  # it runs out by itself
                self._decide("SET holder = null", (), number=None)
        return True

    # -------------------------------------------------------------------------------------------------- steps

    def _counts(self) -> dict[int, int]:
        """Statements done, by file."""
        question = f"SELECT number, statements_done FROM migrations WHERE family = '{FAMILY}'"  # noqa: S608
        try:
            rows = self._session.execute(question, execution_profile=SERIAL)
        except InvalidRequest:  # there is no such table yet
            self._make_table()
            rows = self._session.execute(question, execution_profile=SERIAL)
        return {number: done or 0 for number, done in rows if number is not None}

    def _is_complete(self, counts: dict[int, int]) -> bool:
        newest, found = self._migrations[-1].number, max(counts, default=0)
        if found > newest:
            raise SchemaTooNew(
                f"the keyspace has schema {found}, this release knows {newest}: start the newer release, or restore a backup"
            )
        return all(counts.get(migration.number, 0) >= len(migration.statements) for migration in self._migrations)

    def _apply(self, migration: Migration, done: int) -> None:
        for count, statement in enumerate(migration.statements[done:], start=done + 1):
            if self._stop.is_set() or not self._renew_lock():
                raise _LockLost
            define(self._session, statement)
            if not self._decide("SET statements_done = %s", (count,), migration.number):
                raise _LockLost

    def _make_table(self) -> None:
        identity = ""
        if not identify(self._session).is_scylla:  # it makes tables one after the other by itself
            identity = f" WITH id = {uuid.uuid5(_NAMESPACE, self._session.keyspace)}"
        define(
            self._session,
            "CREATE TABLE IF NOT EXISTS migrations (family text, number int, statements_done int, holder text STATIC,"
            f" PRIMARY KEY ((family), number)){identity}",
        )

    # --------------------------------------------------------------------------------------------------- lock

    def _take_lock(self) -> bool:
        """Also when it is ours already, from an attempt whose answer was lost."""
        taken = self._session.execute(
            f"UPDATE migrations USING TTL {LOCK_TTL_S} SET holder = %s WHERE family = '{FAMILY}' IF holder = null",  # noqa: S608
            (self._holder,),
        )
        return taken.was_applied or self._renew_lock()

    def _renew_lock(self) -> bool:
        return self._decide("SET holder = %s", (self._holder,), number=None, ttl=f"USING TTL {LOCK_TTL_S}")

    def _decide(self, change: str, values: tuple[object, ...], number: int | None, ttl: str = "") -> bool:
        """Make a change if the lock is ours."""
        row = "" if number is None else f" AND number = {number}"
        cql = f"UPDATE migrations {ttl} {change} WHERE family = '{FAMILY}'{row} IF holder = %s"
        return bool(self._session.execute(cql, (*values, self._holder)).was_applied)


def use_keyspace(session: Session, keyspace: str, replication_factor: int) -> None:
    """Make the session's keyspace ``keyspace``, and that itself where there is none. Many may do so at once: a keyspace's
    identity is its name."""
    try:
        session.set_keyspace(keyspace)
    except InvalidRequest:
        _make_keyspace(session, keyspace, replication_factor)
        session.set_keyspace(keyspace)


def _make_keyspace(session: Session, keyspace: str, replication_factor: int) -> None:
    (datacenter,) = session.execute("SELECT data_center FROM system.local WHERE key = 'local'").one()
    replication = f"{{'class': 'NetworkTopologyStrategy', '{datacenter}': {replication_factor}}}"
    cql = f'CREATE KEYSPACE IF NOT EXISTS "{keyspace}" WITH replication = {replication}'
    if identify(session).is_scylla:
        try:
            # most versions refuse conditional writes on tablets
            define(session, f"{cql} AND tablets = {{'enabled': false}}")
        except (InvalidRequest, ConfigurationException, SyntaxException):
            define(session, cql)  # a version before tablets
    else:
        define(session, cql)


def define(session: Session, cql: str) -> None:
    """A change of the schema, and the nodes' agreement on it."""
    result = session.execute(cql, timeout=STATEMENT_TIMEOUT_S)
    if not result.response_future.is_schema_agreed:
        raise OperationTimedOut({"schema": "the nodes do not agree on the schema"})
