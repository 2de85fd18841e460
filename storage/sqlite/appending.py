"""Batches into the messages table: one statement for a commit's worth, or one by one to see which is at fault.

Owns the INSERT and the fence. Runs on the writer's thread, inside the write lock; knows no thread, no queue.

Why one statement. ``sqlite3`` gives the GIL back at every step and reset of a statement, and getting it again from a busy
Trio thread takes up to a switch interval each time: with ``executemany`` (two hand-overs a row) a commit of 256 rows took
seconds. Here the numbers of all rows travel as one JSON text and their bytes as one blob; SQLite takes them apart without
the GIL. Multi-row VALUES was the alternative: as fast alone, but 3-5 statements a commit and eleven bindings a row under
the GIL: half the rows per second beside a busy Trio thread at 1,000 rows a commit.

The statement is also the check. It stores a NULL seq where the slot's epoch is not the row's, which fails; it fails on a seq
already stored; and a statement that fails changes nothing. So in the usual case, where all is well, a commit is one
statement in autocommit mode, and only a commit with something odd in it is looked at batch by batch.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence

from gateway.protocol.identifiers import COUNTER_BITS
from storage.api import SLOTS, Batch, Message, SlotLost, StoreConflict, StoreError, slot_of
from storage.sqlite.chats import apply_change
from storage.sqlite.connection import CONTENT_ERRORS, savepoint, translate
from storage.sqlite.messages import between
from storage.sqlite.rows import field, fields, pack

_OFFSET, _ID_SIZE, _DIGEST_SIZE, _BODY_SIZE = (field(index) for index in (8, 9, 10, 11))
_INSERT = f"""
INSERT INTO messages (chat_id, seq, prev_seq, sender_id, sender_device, time_ms, kind, target_seq,
                      client_msg_id, digest, body)
SELECT {field(0)},
       CASE WHEN EXISTS (SELECT 1 FROM slots WHERE slot = {field(0)} & {SLOTS - 1}
                                               AND epoch = {field(1)} >> {COUNTER_BITS})
            THEN {field(1)} END,
       {fields(2, 3, 4, 5, 6, 7)},
       substr(?2, {_OFFSET}, {_ID_SIZE}),
       substr(?2, {_OFFSET} + {_ID_SIZE}, {_DIGEST_SIZE}),
       substr(?2, {_OFFSET} + {_ID_SIZE} + {_DIGEST_SIZE}, {_BODY_SIZE})
FROM json_each(?1)
"""  # noqa: S608
_EPOCH = "SELECT epoch FROM slots WHERE slot = ?"


def insert_rows(connection: sqlite3.Connection, rows: Iterable[Message]) -> None:
    """Store all the rows, or raise one of CONTENT_ERRORS and store none: a lost slot, a seq already there, a bad value."""
    numbers: list[tuple[int | None, ...]] = []
    parts: list[bytes] = [b"\0"]  # a blob that is never empty: substr of an empty one is NULL
    offset = 2  # of the first byte after that, as substr counts
    for chat_id, seq, prev_seq, sender_id, device_id, time_ms, kind, body, id_, target_seq, digest in rows:
        sizes = len(id_), len(digest), len(body)
        numbers.append((chat_id, seq, prev_seq, sender_id, device_id, time_ms, kind, target_seq, offset, *sizes))
        parts += (id_, digest, body)
        offset += sum(sizes)
    connection.execute(_INSERT, (pack(numbers), b"".join(parts)))


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
