"""Which of the two engines answers, and in which version."""

from __future__ import annotations

from typing import NamedTuple

from cassandra import InvalidRequest
from cassandra.cluster import Session


class Server(NamedTuple):
    is_scylla: bool
    version: str

    @property
    def name(self) -> str:
        return f"{'ScyllaDB' if self.is_scylla else 'Apache Cassandra'} {self.version}"

    @property
    def major(self) -> int:
        """0 where the version says nothing that we understand."""
        head = self.version.split(".", 1)[0]
        return int(head) if head.isdigit() else 0


def identify(session: Session) -> Server:
    """Blocks. ScyllaDB calls itself Cassandra 3.0.8 in ``system.local``; ``system.versions`` is its alone."""
    try:
        rows = list(session.execute("SELECT version FROM system.versions WHERE key = 'local'"))
    except InvalidRequest:
        rows = []
    if rows:
        return Server(True, str(rows[0][0]))
    (version,) = session.execute("SELECT release_version FROM system.local WHERE key = 'local'").one()
    return Server(False, str(version))
