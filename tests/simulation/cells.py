"""One partition as one replica holds it: cells with timestamps, and range tombstones.

Owns what Cassandra and ScyllaDB call reconciliation. A cell is (timestamp, is it a tombstone, value), and of two the greater
wins: the later timestamp, at a tie the tombstone, then the larger value. A range tombstone hides what is not above its
timestamp. Applying is commutative and idempotent, whatever the order: all else in this folder rests on that.

A row's key is a tuple of its clustering columns; the static row's is None. ``MARKER`` is the column that an INSERT writes to
say that the row exists; an UPDATE does not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, TypeAlias

MARKER = "*"

Key: TypeAlias = "tuple[Any, ...] | None"
Cell: TypeAlias = "tuple[int, bool, Any]"
Cells: TypeAlias = "dict[str, Cell]"


class Bound(NamedTuple):
    """An end of a range of rows: by the first clustering column. None: open."""

    value: Any
    is_inclusive: bool


class Tombstone(NamedTuple):
    """Deletes rows between two bounds, or the whole partition with its static row (both None)."""

    low: Bound | None
    high: Bound | None
    timestamp: int

    def covers(self, key: Key) -> bool:
        if key is None:
            return self.low is None and self.high is None
        return is_within(key, self.low, self.high)


def is_within(key: tuple[Any, ...], low: Bound | None, high: Bound | None) -> bool:
    first = key[0] if key else None
    if low is not None and not (first > low.value or (low.is_inclusive and first == low.value)):
        return False
    return high is None or first < high.value or (high.is_inclusive and first == high.value)


class Mutation(NamedTuple):
    """What one request does to one partition: atomic on each replica."""

    place: tuple[Any, ...]
    """(table, partition's key …)."""
    rows: dict[Key, Cells]
    tombstones: tuple[Tombstone, ...] = ()


class Partition:
    def __init__(self) -> None:
        self.rows: dict[Key, Cells] = {}
        self.tombstones: set[Tombstone] = set()

    def apply(self, rows: dict[Key, Cells], tombstones: Iterable[Tombstone]) -> None:
        for tombstone in tombstones:
            if tombstone not in self.tombstones:
                self.tombstones.add(tombstone)
                self._bury(tombstone)
        for key, cells in rows.items():
            self._put(key, cells)

    def _bury(self, tombstone: Tombstone) -> None:
        for key in [key for key in self.rows if tombstone.covers(key)]:
            left = {name: cell for name, cell in self.rows[key].items() if cell[0] > tombstone.timestamp}
            if left:
                self.rows[key] = left
            else:
                del self.rows[key]

    def _put(self, key: Key, cells: Cells) -> None:
        buried = max((t.timestamp for t in self.tombstones if t.covers(key)), default=-1)
        if buried >= 0:
            cells = {name: cell for name, cell in cells.items() if cell[0] > buried}
            if not cells:
                return  # dead on arrival
        mine = self.rows.get(key)
        if mine is None:
            self.rows[key] = cells
        elif mine != cells:
            self.rows[key] = _merged_cells(mine, cells)

    def cut(self, want: Callable[[Key], bool]) -> Partition:
        """A snapshot of some rows. Rows are never changed in place, so it is shallow."""
        part = Partition()
        part.rows = {key: cells for key, cells in self.rows.items() if want(key)}
        part.tombstones = set(self.tombstones)
        return part


def merged(parts: Iterable[Partition]) -> Partition:
    """What a coordinator makes of several replicas' answers."""
    whole = Partition()
    for part in parts:
        whole.apply(part.rows, part.tombstones)
    return whole


def is_alive(cells: Cells) -> bool:
    """Does a row with these cells show?"""
    return any(not is_dead for _, is_dead, _ in cells.values())


def value_of(cells: Cells, name: str) -> Any:
    cell = cells.get(name)
    return None if cell is None or cell[1] else cell[2]


def _merged_cells(one: Cells, other: Cells) -> Cells:
    both = dict(one)
    for name, cell in other.items():
        mine = both.get(name)
        if mine is None or mine < cell:
            both[name] = cell
    return both
