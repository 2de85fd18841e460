"""Rows into requests: what belongs together stays together, and what may share a request does.

Owns the shape of a write's request; knows no time and no connection. A *unit* is what one call gave for one partition: it is
never split over requests while it fits one, because one partition's rows of one request are one mutation on each replica, all
or none. A *group* is a request in the making: an unlogged batch, whose coordinator is a replica of every row in it.

Which group a unit joins: any open one whose coordinator is among the unit's replicas, else a new one at its first replica. On
three nodes with three copies that is one group for everything, ten times the rows a second of single statements; on a hundred
nodes it tends to one group a node. Grouping by the whole replica set (as the Spark connector does) gives on a hundred nodes
with 256 tokens each some thousand sets, and groups of one.

Sizes. Cassandra refuses a batch over several partitions above 50 KiB (``batch_size_fail_threshold``), as it measures it;
``Bound.size_bytes`` is above that. A batch of one partition is not measured there, and a unit may be as large as
``MAX_UNIT_BYTES``. From some hundred rows on a larger batch gains nothing (on one machine the client needs 42 us a row at 20
rows, 23 us at 100), and a time-out hits more chats.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from storage.api import StoreConflict, StoreError, StoreTimedOut
from storage.scylla.binding import Bound
from storage.scylla.ports import WriteDone

MAX_GROUP_ROWS = 128
"""A chat's largest batch is 64 messages and 64 resend ids: they share a request."""
MAX_GROUP_UNITS = 8
"""Partitions. A Cassandra that holds them itself waits for its commit log within the request, one partition after the other:
40 of them took 103 ms where one took 5 (``commitlog_sync: group``). Several requests wait side by side: with 8 instead of 16 a
node over one Cassandra stores 1.1 times the messages, although it makes twice the requests."""
MAX_GROUP_BYTES = 40 << 10
MAX_UNIT_BYTES = 128 << 10
"""A chat's largest batch: 24 KiB of bodies, as much again of columns, and what five changes of 500 members each change. ScyllaDB
measures such a batch too, and refuses it above 1 MiB."""


class Call:
    """One call of ``write``: it ends when the last of its units has."""

    def __init__(self, done: WriteDone) -> None:
        self._done = done
        self._pending = 0
        self._errors: list[StoreError] = []
        self._is_begun = False
        """Something of it was sent."""

    def expect(self, units: int) -> None:
        self._pending += units

    def unit_ended(self, error: StoreError | None) -> None:
        if error is None or error.is_unknown:
            self._is_begun = True
        if error is not None:
            self._errors.append(error)
        self._pending -= 1
        if self._pending == 0:
            self._done(self._verdict())

    def _verdict(self) -> StoreError | None:
        if not self._errors:
            return None
        for error in self._errors:
            if isinstance(error, StoreConflict):
                return error
        if self._is_begun and not any(isinstance(error, StoreTimedOut) for error in self._errors):
            return StoreTimedOut(f"a part of it was written; of the rest: {self._errors[0]}")
        return next((error for error in self._errors if isinstance(error, StoreTimedOut)), self._errors[0])


class Unit:
    __slots__ = ("call", "key", "rows", "size_bytes")

    def __init__(self, call: Call, key: bytes, rows: list[Bound]) -> None:
        self.call = call
        self.key = key
        self.rows = rows
        self.size_bytes = sum([row.size_bytes for row in rows])


class Group:
    __slots__ = ("coordinator", "opened_at", "row_count", "size_bytes", "units")

    def __init__(self, coordinator: Any, opened_at: float, first: Unit) -> None:
        self.coordinator = coordinator
        self.opened_at = opened_at
        self.units = [first]
        self.row_count = len(first.rows)
        self.size_bytes = first.size_bytes

    def has_room_for(self, unit: Unit) -> bool:
        return (
            len(self.units) < MAX_GROUP_UNITS
            and self.row_count + len(unit.rows) <= MAX_GROUP_ROWS
            and self.size_bytes + unit.size_bytes <= MAX_GROUP_BYTES
        )

    @property
    def is_full(self) -> bool:
        return self.row_count == MAX_GROUP_ROWS or len(self.units) == MAX_GROUP_UNITS

    def add(self, unit: Unit) -> None:
        self.units.append(unit)
        self.row_count += len(unit.rows)
        self.size_bytes += unit.size_bytes

    def end(self, error: StoreError | None) -> None:
        for unit in self.units:
            unit.call.unit_ended(error)

    def apart(self) -> list[Group]:
        """Each unit alone."""
        return [Group(self.coordinator, self.opened_at, unit) for unit in self.units]


def cut(call: Call, by_key: dict[bytes, list[Bound]]) -> list[Unit]:
    """A call's rows, by partition, as units: one for each partition, more where one request cannot hold it."""
    units = []
    for key, rows in by_key.items():
        unit = Unit(call, key, rows)
        if unit.size_bytes <= MAX_UNIT_BYTES or len(rows) == 1:
            units.append(unit)
        else:
            units += [Unit(call, key, part) for part in _parts(rows)]
    return units


def _parts(rows: Sequence[Bound]) -> Iterator[list[Bound]]:
    part: list[Bound] = []
    size = 0
    for row in rows:
        if part and size + row.size_bytes > MAX_UNIT_BYTES:
            yield part
            part, size = [], 0
        part.append(row)
        size += row.size_bytes
    yield part


class Grouping:
    """The open groups, oldest first. ``replicas_of``: the nodes that hold a key, its first replica first; may be empty."""

    def __init__(self, replicas_of: Callable[[bytes], Sequence[Any]]) -> None:
        self._replicas_of = replicas_of
        self._open: dict[Any, Group] = {}

    def __bool__(self) -> bool:
        return bool(self._open)

    def add(self, unit: Unit, now: float) -> Group | None:
        """Returns the group that this one filled or pushed out, if any."""
        replicas = self._replicas_of(unit.key) or (None,)
        for node in replicas:
            group = self._open.get(node)
            if group is not None and group.has_room_for(unit):
                group.add(unit)
                return self._open.pop(node) if group.is_full else None
        pushed_out = self._open.pop(replicas[0], None)
        self._open[replicas[0]] = Group(replicas[0], now, unit)
        return pushed_out

    def groups(self) -> list[Group]:
        return list(self._open.values())

    def pop(self, group: Group) -> Group:
        return self._open.pop(group.coordinator)

    def pop_all(self) -> list[Group]:
        groups = list(self._open.values())
        self._open.clear()
        return groups
