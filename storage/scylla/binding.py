"""Values to bytes, and the key that says where they go.

Owns the encoding of a statement's values, worked out once from what the server said when it prepared the statement. The
driver's own ``bind`` looks every column's type up again for every row (some 25 us for a message); these packers are fixed
functions, two microseconds a row. Source of the formats: the native protocol's specification, version 4, section 6.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from cassandra.query import UNSET_VALUE, BatchStatement, BatchType, BoundStatement, PreparedStatement

from storage.api import StoreConflict
from storage.scylla.ports import Statement, Value

PROTOCOL_VERSION = 4
"""Both engines speak it. Version 5 adds a checksummed frame that the driver computes in Python; nothing of 5 is needed."""

Pack = Callable[[Any], bytes]
Encoded = list[Any]
"""bytes, None (null) or UNSET_VALUE for each ``?``."""

_INTEGERS = {"bigint": ">q", "counter": ">q", "timestamp": ">q", "int": ">i", "smallint": ">h", "tinyint": ">b"}
_LENGTH = struct.Struct(">i").pack
_SHORT = struct.Struct(">H").pack

CELL_BYTES = 16
ROW_BYTES = 40
"""What a server adds to a cell's value (timestamp, TTL, deletion time) and to a row when it measures a batch."""


def packer_of(cql_type: Any) -> Pack:
    name = cql_type.typename
    if name in _INTEGERS:
        return struct.Struct(_INTEGERS[name]).pack
    if name == "blob":
        return bytes
    if name in {"text", "varchar", "ascii"}:
        return str.encode
    if name == "boolean":
        return lambda value: b"\x01" if value else b"\x00"
    if name.startswith(("list<", "set<")):
        return _sequence_packer(packer_of(cql_type.subtypes[0]))
    return lambda value: bytes(cql_type.serialize(value, PROTOCOL_VERSION))


def _sequence_packer(pack: Pack) -> Pack:
    def pack_all(values: Sequence[Any]) -> bytes:
        parts = [_LENGTH(len(values))]
        for value in values:
            packed = pack(value)
            parts += (_LENGTH(len(packed)), packed)
        return b"".join(parts)

    return pack_all


class Bound(NamedTuple):
    """One row of a request."""

    template: Template
    values: Encoded
    size_bytes: int
    """As a server measures it, rather above."""


class Template:
    """A prepared statement. Holds the driver's own strongly: the driver keeps weak references, and prepares again on a
    server that has forgotten it only what is still there."""

    def __init__(self, statement: Statement, prepared: PreparedStatement) -> None:
        self.statement = statement
        self.prepared = prepared
        self.query_id: bytes = prepared.query_id
        self._packers = tuple(packer_of(column.type) for column in prepared.column_metadata)
        self._key = statement.key
        self._fixed_bytes = ROW_BYTES + CELL_BYTES * max(0, len(self._packers) - len(self._key) - 1)  # key, timestamp

    def encode(self, values: Sequence[Value], none: object = None) -> Encoded:
        """``none``: what a None becomes; UNSET_VALUE for a write, so that it leaves no tombstone. StoreConflict: the values
        are not the statement's."""
        packers = self._packers
        if len(values) != len(packers):
            raise StoreConflict(f"{self.statement.name} has {len(packers)} values, {len(values)} were given")
        try:
            return [none if value is None else pack(value) for pack, value in zip(packers, values, strict=True)]
        except (struct.error, TypeError, UnicodeError, AttributeError) as error:
            raise StoreConflict(f"{self.statement.name}: a value does not fit its column: {error}") from error

    def bind(self, values: Sequence[Value]) -> Bound:
        encoded = self.encode(values, UNSET_VALUE)
        try:
            size = self._fixed_bytes + sum(map(len, encoded))
        except TypeError:  # some are unset
            size = self._fixed_bytes + sum([len(value) for value in encoded if value is not UNSET_VALUE])
        return Bound(self, encoded, size)

    def routing_key(self, encoded: Encoded) -> bytes:
        """The partition's key as the cluster hashes it. StoreConflict: the statement names no single partition."""
        key = self._key
        try:
            if len(key) == 1:
                part = encoded[key[0]]
                return memoryview(part).tobytes() if type(part) is not bytes else part
            if key:
                return b"".join([part for at in key for part in (_SHORT(len(encoded[at])), encoded[at], b"\x00")])
        except TypeError:
            pass  # null, or unset
        raise StoreConflict(f"{self.statement.name} names no partition")

    def single(self, encoded: Encoded) -> BoundStatement:
        """One row as a request, without the driver's own binding."""
        bound = BoundStatement(self.prepared)
        bound.values = encoded
        return bound


def batch_of(rows: Iterable[tuple[bytes, Encoded]], routing_key: bytes, keyspace: str) -> BatchStatement:
    """Rows, each with its template's ``query_id``, as one unlogged request, likewise. ``routing_key``: of the partition whose
    replica is to coordinate it."""
    batch = BatchStatement(BatchType.UNLOGGED)
    batch._statements_and_parameters = [(True, query_id, encoded) for query_id, encoded in rows]
    batch.routing_key = routing_key
    batch.keyspace = keyspace
    return batch
