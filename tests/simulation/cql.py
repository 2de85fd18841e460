"""Just enough CQL to carry out the statements of ``storage/scylla``: tables, and statements as plans.

Owns the reading of text; it knows no replica. A plan is made from a statement's own CQL and the schema files, once for each
name. Rejected: a table of what every statement does, kept by hand. It would be checked by nobody, and the mistakes that
matter (a timestamp in the wrong place, a column left out, a bound that should exclude) are in the text.

What is not understood is an error, never skipped.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tests.simulation.cells import MARKER, Bound, Cells, Key, Tombstone

SCHEMA = Path(__file__).parents[2] / "storage" / "schema" / "scylla"
_TOKEN = re.compile(r"\s*(?:([A-Za-z_][A-Za-z_0-9]*|\d+|\?|<=|>=|[<>=(),*;{}:.])|'((?:[^']|'')*)')")
_COMMENT = re.compile(r"--[^\n]*")
_LITERALS = {"true": True, "false": False}


class CqlError(Exception):
    """Our bug: a statement that this file does not understand."""


class Table(NamedTuple):
    name: str
    partition: tuple[str, ...]
    clustering: tuple[str, ...]
    statics: frozenset[str]
    columns: tuple[str, ...]
    """Partition key, clustering, static, then regular ones by name: the order of ``*``."""
    is_descending: bool


class Source(NamedTuple):
    """Where a value comes from: a ``?``, by its number, or the text itself."""

    index: int
    literal: Any = None

    def of(self, values: Sequence[Any]) -> Any:
        return self.literal if self.index < 0 else values[self.index]


class Condition(NamedTuple):
    column: str
    operator: str
    source: Source


class Slice(NamedTuple):
    """Rows between two bounds of the first clustering column."""

    low: Bound | None
    high: Bound | None


WHOLE = Slice(None, None)


class Put(NamedTuple):
    """INSERT or UPDATE."""

    table: Table
    sources: dict[str, Source]
    timestamp: Source | None
    is_insert: bool
    conditions: tuple[Condition, ...] | None
    """None: unconditional. (): IF NOT EXISTS."""

    def place(self, values: Sequence[Any]) -> tuple[Any, ...]:
        return self.table.name, *(self.sources[name].of(values) for name in self.table.partition)

    def key(self, values: Sequence[Any]) -> Key:
        if all(name in self.sources for name in self.table.clustering):
            return tuple(self.sources[name].of(values) for name in self.table.clustering)
        return None  # a static column

    def rows(self, values: Sequence[Any], timestamp: int) -> dict[Key, Cells]:
        table, key = self.table, self.key(values)
        cells: Cells = {MARKER: (timestamp, False, True)} if self.is_insert and key is not None else {}
        for name, source in self.sources.items():
            if name not in table.partition and name not in table.clustering:
                if (key is None) != (name in table.statics):
                    raise CqlError(f"{name} of {table.name} in a row that it is not of")
                value = source.of(values)
                cells[name] = (timestamp, value is None, value)
        return {key: cells}


class Erase(NamedTuple):
    """DELETE of a range of rows."""

    table: Table
    where: tuple[Condition, ...]
    timestamp: Source | None

    def place(self, values: Sequence[Any]) -> tuple[Any, ...]:
        return (self.table.name, *(_equal(self.where, name).source.of(values) for name in self.table.partition))

    def tombstone(self, values: Sequence[Any], timestamp: int) -> Tombstone:
        (one,) = _slices(self.table, self.where, values)
        return Tombstone(one.low, one.high, timestamp)


class Select(NamedTuple):
    table: Table
    columns: tuple[str, ...]
    where: tuple[Condition, ...]
    limit: Source | None
    is_descending: bool
    is_distinct: bool

    def places(self, values: Sequence[Any]) -> list[tuple[Any, ...]]:
        """The partitions that it reads."""
        keys: list[tuple[Any, ...]] = [()]
        for name in self.table.partition:
            condition = next(c for c in self.where if c.column == name)
            value = condition.source.of(values)
            options = dict.fromkeys(value) if condition.operator == "IN" else [value]
            keys = [(*key, option) for key in keys for option in options]
        return [(self.table.name, *key) for key in keys]

    def slices(self, values: Sequence[Any]) -> list[Slice]:
        return _slices(self.table, self.where, values)


Plan = Put | Erase | Select


def _equal(where: Sequence[Condition], name: str) -> Condition:
    return next(c for c in where if c.column == name and c.operator == "=")


def _slices(table: Table, where: Sequence[Condition], values: Sequence[Any]) -> list[Slice]:
    low = high = None
    for column, operator, source in where:
        if column not in table.clustering:
            continue
        if column != table.clustering[0]:
            raise CqlError(f"only the first clustering column of {table.name} may be asked for")
        value = source.of(values)
        if operator == "IN":
            return [Slice(Bound(one, True), Bound(one, True)) for one in dict.fromkeys(value)]
        if operator in ("=", ">", ">="):
            low = Bound(value, operator != ">")
        if operator in ("=", "<", "<="):
            high = Bound(value, operator != "<")
    return [Slice(low, high)]


# --------------------------------------------------------------------------------------------------- reading


class _Words:
    """The tokens of one statement, taken one by one."""

    def __init__(self, text: str) -> None:
        self._words = list(_tokens(text))
        self._at = 0
        self.marks = 0

    def peek(self) -> str:
        return self._words[self._at][0] if self._at < len(self._words) else ""

    def take(self) -> str:
        word = self.peek()
        self._at += 1
        return word

    def has(self, *words: str) -> bool:
        """Take these words if they come next."""
        ahead = [word.upper() for word, _ in self._words[self._at : self._at + len(words)]]
        if ahead != list(words):
            return False
        self._at += len(words)
        return True

    def expect(self, *words: str) -> None:
        if not self.has(*words):
            raise CqlError(f"{' '.join(words)} expected at {[w for w, _ in self._words[self._at :]][:6]}")

    def source(self) -> Source:
        word, is_quoted = self._words[self._at]
        self._at += 1
        if is_quoted:
            return Source(-1, word)
        if word == "?":
            self.marks += 1
            return Source(self.marks - 1)
        if word.isdigit():
            return Source(-1, int(word))
        if word.lower() in _LITERALS:
            return Source(-1, _LITERALS[word.lower()])
        raise CqlError(f"{word} is no value")

    def names(self, end: str) -> list[str]:
        found = [self.take()]
        while self.has(","):
            found.append(self.take())
        if end:
            self.expect(end)
        return found


def _tokens(text: str) -> Iterator[tuple[str, bool]]:
    text, at = text.rstrip(), 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise CqlError(f"not understood: {text[at : at + 30]!r}")
        yield (match[1], False) if match[1] is not None else (match[2], True)
        at = match.end()


def read_schema(folder: Path) -> dict[str, Table]:
    """The tables that the numbered files of a folder make."""
    tables = {}
    for path in sorted(folder.glob("*.cql")):
        for text in _COMMENT.sub("", path.read_text("utf-8")).split(";"):
            words = _Words(text)
            if words.has("CREATE", "TABLE"):
                words.has("IF", "NOT", "EXISTS")
                table = _read_table(words)
                tables[table.name] = table
            elif words.peek():
                raise CqlError(f"a schema statement that is no CREATE TABLE: {text.strip()[:60]}")
    return tables


def _read_table(words: _Words) -> Table:
    name, columns, statics = words.take(), [], []
    partition: list[str] = []
    clustering: list[str] = []
    words.expect("(")
    while not words.has(")"):
        if words.has("PRIMARY", "KEY", "("):
            partition = words.names(")") if words.has("(") else [words.take()]
            clustering = words.names("") if words.has(",") else []
            words.expect(")")
        else:
            columns.append(words.take())
            words.take()
            if words.has("STATIC"):
                statics.append(columns[-1])
            if words.has("PRIMARY", "KEY"):
                partition = [columns[-1]]
        words.has(",")
    is_descending = False
    while words.peek():
        if words.has("CLUSTERING", "ORDER", "BY", "("):
            words.take()
            is_descending = words.take().upper() == "DESC"
        words.take()
    regular = sorted(set(columns) - {*partition, *clustering, *statics})
    order = (*partition, *clustering, *sorted(statics), *regular)
    return Table(name, tuple(partition), tuple(clustering), frozenset(statics), order, is_descending)


def read_statement(text: str, tables: dict[str, Table]) -> Plan:
    words = _Words(text)
    plan: Plan
    if words.has("INSERT", "INTO"):
        plan = _read_insert(words, tables)
    elif words.has("UPDATE"):
        plan = _read_update(words, tables)
    elif words.has("DELETE", "FROM"):
        table = tables[words.take()]
        timestamp = _read_using(words)
        words.expect("WHERE")
        plan = Erase(table, _read_conditions(words), timestamp)
    elif words.has("SELECT"):
        plan = _read_select(words, tables)
    else:
        raise CqlError(f"not understood: {text}")
    if words.peek():
        raise CqlError(f"not understood at {words.peek()}: {text}")
    return plan


def _read_insert(words: _Words, tables: dict[str, Table]) -> Put:
    table = tables[words.take()]
    words.expect("(")
    names = words.names(")")
    words.expect("VALUES", "(")
    sources = {}
    for name in names:
        sources[name] = words.source()
        words.has(",")
    words.expect(")")
    conditions: tuple[Condition, ...] | None = () if words.has("IF", "NOT", "EXISTS") else None
    return Put(table, sources, _read_using(words), True, conditions)


def _read_update(words: _Words, tables: dict[str, Table]) -> Put:
    table = tables[words.take()]
    timestamp = _read_using(words)
    words.expect("SET")
    sources = {}
    while True:
        name = words.take()
        words.expect("=")
        sources[name] = words.source()
        if not words.has(","):
            break
    words.expect("WHERE")
    for column, operator, source in _read_conditions(words):
        if operator != "=":
            raise CqlError(f"UPDATE WHERE {column} {operator}")
        sources[column] = source
    return Put(table, sources, timestamp, False, _read_conditions(words) if words.has("IF") else None)


def _read_using(words: _Words) -> Source | None:
    """A TTL is left aside: here nothing expires."""
    timestamp = None
    if words.has("USING"):
        while True:
            if words.has("TTL"):
                words.source()
            else:
                words.expect("TIMESTAMP")
                timestamp = words.source()
            if not words.has("AND"):
                break
    return timestamp


def _read_conditions(words: _Words) -> tuple[Condition, ...]:
    found = []
    while True:
        column, operator = words.take(), words.take().upper()
        if operator not in ("=", "<", ">", "<=", ">=", "IN"):
            raise CqlError(f"{column} {operator}")
        found.append(Condition(column, operator, words.source()))
        if not words.has("AND"):
            return tuple(found)


def _read_select(words: _Words, tables: dict[str, Table]) -> Select:
    is_distinct = words.has("DISTINCT")
    columns = words.names("FROM")
    table = tables[words.take()]
    words.expect("WHERE")
    where = _read_conditions(words)
    is_descending = table.is_descending
    if words.has("ORDER", "BY"):
        words.take()
        is_descending = words.take().upper() == "DESC"
    limit = words.source() if words.has("LIMIT") else None
    return Select(table, tuple(columns), where, limit, is_descending, is_distinct)
