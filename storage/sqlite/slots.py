"""Who owns which slot: SQL. The write lock and the transaction make each compare-and-set; nothing here races."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence

from gateway.protocol.identifiers import Epoch, WorkerId
from storage.api import SlotRow
from storage.slot_rows import NEVER, is_as_seen
from storage.sqlite.rows import field, fields, pack

_SLOTS = """
SELECT slot, epoch, worker, incarnation, is_released FROM slots WHERE slot IN (SELECT value FROM json_each(?))
"""
_ACQUIRE = f"""
INSERT INTO slots (slot, epoch, worker, incarnation, is_released)
SELECT {fields(0, 1)}, ?1, ?2, 0 FROM json_each(?3) WHERE true
ON CONFLICT (slot) DO UPDATE SET
    epoch = excluded.epoch, worker = excluded.worker, incarnation = excluded.incarnation, is_released = 0
"""  # noqa: S608
_RELEASE = f"""
UPDATE slots SET is_released = 1 FROM json_each(?3) AS held
WHERE slot = {field(0, "held.value")} AND epoch = {field(1, "held.value")} AND worker = ?1 AND incarnation = ?2
"""  # noqa: S608


def select_slots(connection: sqlite3.Connection, slots: Sequence[int]) -> dict[int, SlotRow]:
    rows = connection.execute(_SLOTS, (pack(list(slots)),))
    return {
        slot: SlotRow(epoch, WorkerId(worker), incarnation, bool(is_released))
        for slot, epoch, worker, incarnation, is_released in rows
    }


def acquire_slots(
    connection: sqlite3.Connection,
    slots: Sequence[int],
    owner: tuple[WorkerId, int],
    seen: Mapping[int, SlotRow],
) -> dict[int, Epoch]:
    """``owner``: (worker, incarnation)."""
    stored = select_slots(connection, slots)
    won = {
        slot: Epoch(stored.get(slot, NEVER).epoch + 1) for slot in slots if is_as_seen(stored.get(slot), seen.get(slot))
    }
    connection.execute(_ACQUIRE, (*owner, pack(list(won.items()))))
    return won


def release_slots(connection: sqlite3.Connection, epochs: Mapping[int, Epoch], owner: tuple[WorkerId, int]) -> None:
    connection.execute(_RELEASE, (*owner, pack(list(epochs.items()))))
