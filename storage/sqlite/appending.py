"""Batches into the messages table: one statement for a commit's worth, or one by one to see which is at fault.

Owns the INSERT and the fence. Runs on the writer's thread, inside the write lock; knows no thread, no queue.

Why one statement. ``sqlite3`` gives the GIL back at every step and reset of a statement, and getting it again from a busy
Trio thread takes up to a switch interval each time: with ``executemany`` (two hand-overs a row) a commit of 256 rows beside
a busy loop took seconds. So all rows of a commit are one INSERT of a prepared shape, filled up to that shape with rows of
NULLs which the statement leaves out. Alternatives: 16 rows a statement cost 1.5 us of CPU a row less but 25 statements for
400 rows; one JSON text with all numbers cost 3 us a row more.

The statement is also the check. It stores a NULL seq where the slot's epoch is not the row's, which fails; it fails on a seq
already stored; and a statement that fails changes nothing. So in the usual case, where all is well, a commit is one
statement in autocommit mode, and only a commit with something odd in it is looked at batch by batch.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from itertools import chain

from gateway.protocol.identifiers import COUNTER_BITS
from storage.api import MAX_BATCH_ROWS, SLOTS, Batch, Message, SlotLost, StoreConflict, StoreError, slot_of
from storage.sqlite.chats import apply_change
from storage.sqlite.connection import CONTENT_ERRORS, savepoint, translate
from storage.sqlite.messages import between

COMMIT_ROWS = 1_024
"""A commit takes no further batch once it has so many rows."""

_COLUMNS = Message._fields
_WIDTH = len(_COLUMNS)
_SHAPES = (4, 16, 64, 128, 256, 384, 512, 768, COMMIT_ROWS + MAX_BATCH_ROWS)
"""Rows of the prepared statements; the last is the most that a commit can have (11,968 of 32,766 variables)."""

_EPOCH = "SELECT epoch FROM slots WHERE slot = ?"


def _insert_of(shape: int) -> str:
    rows = ", ".join([f"({', '.join('?' * _WIDTH)})"] * shape)
    rest = ", ".join(f"column{number}" for number in range(3, _WIDTH + 1))
    return f"""
INSERT INTO messages ({", ".join(_COLUMNS)})
SELECT column1,
       CASE WHEN EXISTS (SELECT 1 FROM slots WHERE slot = column1 & {SLOTS - 1} AND epoch = column2 >> {COUNTER_BITS})
            THEN column2 END,
       {rest}
FROM (VALUES {rows}) WHERE column1 IS NOT NULL
"""  # noqa: S608


_INSERTS = {shape: _insert_of(shape) for shape in _SHAPES}


def insert_rows(connection: sqlite3.Connection, rows: Sequence[Message]) -> None:
    """Store all the rows, or raise one of CONTENT_ERRORS and store none: a lost slot, a seq already there, a bad value."""
    shape = next(shape for shape in _SHAPES if shape >= len(rows))
    values: list[object] = list(chain.from_iterable(rows))
    values += [None] * ((shape - len(rows)) * _WIDTH)
    connection.execute(_INSERTS[shape], values)


def append_one(connection: sqlite3.Connection, batch: Batch) -> StoreError | SlotLost | None:
    """Store one batch with its changes, inside a transaction, and say how that ended. Raises engine errors only."""
    try:
        with savepoint(connection):
            _append(connection, batch)
    except (StoreConflict, SlotLost) as error:
        return error
    except CONTENT_ERRORS as error:
        return translate(error)
    return None


def _append(connection: sqlite3.Connection, batch: Batch) -> None:
    missing = _missing(connection, batch)
    if missing:
        held = connection.execute(_EPOCH, (slot_of(batch.chat_id),)).fetchone()
        if held is None or held[0] != batch.epoch:
            raise SlotLost(f"slot {slot_of(batch.chat_id)} is not held under epoch {batch.epoch}")
        insert_rows(connection, missing)
    for change in batch.changes:
        apply_change(connection, change)


def _missing(connection: sqlite3.Connection, batch: Batch) -> Sequence[Message]:
    """The rows that are not stored yet; a batch comes again after an unknown outcome."""
    rows = batch.rows
    stored = {row.seq: row for row in between(connection, batch.chat_id, rows[0].seq - 1, rows[-1].seq + 1)}
    for row in rows:
        if stored.get(row.seq, row) != row:
            raise StoreConflict(f"chat {batch.chat_id}: stored seq {row.seq} was appended again with other content")
    return [row for row in rows if row.seq not in stored]
