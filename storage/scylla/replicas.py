"""Which nodes hold a partition, from the driver's token metadata.

Owns a bounded cache: the driver's own search costs some microseconds a key, and the same chats and senders come again and again.
Invariant: an answer is only ever a hint of where to send; a stale one costs a hop between nodes.
"""

from __future__ import annotations

from cassandra.metadata import Metadata
from cassandra.pool import Host

MAX_KEYS = 65_536
MAX_AGE_S = 30.0
"""A keyspace's replication may change without a new token map."""


class Replicas:
    def __init__(self, metadata: Metadata, keyspace: str) -> None:
        self._metadata = metadata
        self._keyspace = keyspace
        self._token_map: object = None
        self._known: dict[bytes, tuple[Host, ...]] = {}
        self._oldest_at = 0.0

    def refresh(self, now: float) -> None:
        """Once a round of writes: forget what the topology may have moved."""
        token_map = self._metadata.token_map
        if token_map is not self._token_map or now - self._oldest_at > MAX_AGE_S or len(self._known) > MAX_KEYS:
            self._token_map = token_map
            self._oldest_at = now
            self._known = {}

    def of(self, key: bytes) -> tuple[Host, ...]:
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = tuple(self._metadata.get_replicas(self._keyspace, key))
        return found
