"""An ``Executor`` over the three replicas: the tables' own statements, carried out as their CQL says.

Owns the way from a statement to mutations, wants and judgements, and back to rows. It knows no rule of the log. What one
partition gets in one call is one mutation, atomic on each replica. Nothing is ever sent twice by it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import trio

from gateway.cluster.promise import Promise
from storage.api import StoreError, StoreTimedOut, StoreUnavailable
from storage.scylla.ports import Decision, ExecutorStatistics, Row, Statement, Value, Write, WriteDone
from tests.simulation.boundary import Boundary
from tests.simulation.cells import MARKER, Cells, Key, Mutation, Partition, is_alive, value_of
from tests.simulation.cql import Erase, Plan, Put, Select, Table, read_statement
from tests.simulation.replicas import Cluster, Want

NO_LIMIT = 1 << 60
Rows = "dict[Key, Cells]"


class Plans:
    """The plan of every statement, made at its first use and kept by name."""

    def __init__(self, tables: dict[str, Table]) -> None:
        self._tables = tables
        self._plans: dict[str, Plan] = {}

    def of(self, statement: Statement) -> Plan:
        plan = self._plans.get(statement.name)
        if plan is None:
            plan = self._plans[statement.name] = read_statement(statement.cql, self._tables)
        return plan


class SimulatedExecutor:
    def __init__(self, cluster: Cluster, plans: Plans, boundary: Boundary) -> None:
        self.after_writes: Callable[[], None] = lambda: None
        self.on_write: Callable[[Statement], None] = lambda statement: None
        """Told of the first statement of every write that leaves: for faults at the moment that matters."""
        self.fate: Callable[[str, Callable[[], None], Callable[[], None]], None] = lambda name, answer, lose: answer()
        """Decides about each answer of the cluster, given the name of its first statement: calls one of the two, now or later."""
        self._cluster = cluster
        self._plans = plans
        self._boundary = boundary
        self._is_open = False
        self._in_flight = self._requests = self._statements = self._timeouts = self._refusals = self._shared = 0
        self._has_ended = trio.Event()
        self._reading: dict[tuple[object, ...], list[Promise[list[Row]]]] = {}

    async def open(self) -> None:
        await trio.lowlevel.checkpoint()
        self._is_open = True

    async def close(self) -> None:
        self._is_open = False
        while self._in_flight:
            self._has_ended = trio.Event()
            await self._has_ended.wait()
        await trio.lowlevel.checkpoint()

    def statistics(self) -> ExecutorStatistics:
        counts = self._requests, self._statements, self._timeouts, self._refusals, self._in_flight
        return ExecutorStatistics(*counts, waiting=0, shared_reads=self._shared)

    # -------------------------------------------------------------------------------------------- in and out

    def _check_open(self) -> None:
        if not self._is_open:
            self._refusals += 1
            raise StoreUnavailable("the store is not open")

    def _send(
        self,
        statement: Statement,
        request: Callable[[Callable[..., None]], None],
        done: Callable[..., None],
        unknown: object = None,
    ) -> None:
        """Hand a request to the cluster, and its answer back, each across the worker's edge. ``unknown``: what no answer says."""
        self._requests += 1
        self._in_flight += 1

        def ended(answer: object) -> None:
            self._in_flight -= 1
            if not self._in_flight:
                self._has_ended.set()
            done(answer)

        def answered(answer: object) -> None:
            cross = self._boundary.cross
            self.fate(statement.name, partial(cross, partial(ended, answer)), partial(cross, partial(ended, unknown)))

        self._boundary.cross(partial(request, answered))

    def _timed_out(self) -> StoreTimedOut:
        self._timeouts += 1
        return StoreTimedOut("no quorum answered in time")

    # ------------------------------------------------------------------------------------------------- reads

    async def read(self, statement: Statement, *values: Value) -> list[Row]:
        self._check_open()
        key = (statement.name, *map(_hashable, values))
        promise: Promise[list[Row]] = Promise()
        if statement.is_shared and key in self._reading:
            self._shared += 1
            self._reading[key].append(promise)
            return await promise.wait()
        waiting = [promise]
        if statement.is_shared:
            self._reading[key] = waiting

        def done(rows: list[Row] | None) -> None:
            if self._reading.get(key) is waiting:
                del self._reading[key]
            for one in waiting:
                if rows is None:
                    one.fail(self._timed_out())
                else:
                    one.set(rows)

        self._send(statement, partial(self._read, self._cluster.read, statement, values), done)
        return await promise.wait()

    async def read_serially(self, statement: Statement, *values: Value) -> list[Row]:
        self._check_open()
        promise: Promise[list[Row]] = Promise()
        self._send(
            statement,
            partial(self._read, self._cluster.read_serially, statement, values),
            lambda rows: promise.fail(self._timed_out()) if rows is None else promise.set(rows),
        )
        return await promise.wait()

    def _read(
        self,
        read: Callable[[Want, Callable[..., None]], None],
        statement: Statement,
        values: Sequence[Any],
        done: Callable[[list[Row] | None], None],
    ) -> None:
        plan = self._plans.of(statement)
        assert isinstance(plan, Select), statement
        places = plan.places(values)
        answers: dict[int, list[Row]] = {}
        is_over = False

        def one_done(number: int, place: tuple[Any, ...], rows: dict[Key, Cells] | None) -> None:
            nonlocal is_over
            if is_over:
                return
            if rows is None:
                is_over = True
                done(None)
                return
            answers[number] = _rows_of(plan, place, rows)
            if len(answers) == len(places):
                done([row for number in range(len(places)) for row in answers[number]])

        if not places:
            done([])
        for number, place in enumerate(places):
            read(_want(plan, place, values), partial(one_done, number, place))

    # ------------------------------------------------------------------------------------------------ writes

    async def write(self, writes: Sequence[Write]) -> None:
        self._check_open()
        if not writes:
            await trio.lowlevel.checkpoint()
            return
        promise: Promise[None] = Promise()
        self._write(writes, lambda ok: promise.set(None) if ok else promise.fail(self._timed_out()))
        await promise.wait()

    def write_then(self, writes: Sequence[Write], done: WriteDone) -> None:
        if not self._is_open:
            self._refusals += 1
            trio.lowlevel.current_trio_token().run_sync_soon(self._end_write, done, StoreUnavailable("not open"))
            return
        self._write(writes, lambda ok: self._end_write(done, None if ok else self._timed_out()))

    def _end_write(self, done: WriteDone, error: StoreError | None) -> None:
        done(error)
        self.after_writes()

    def _write(self, writes: Sequence[Write], done: Callable[[bool], None]) -> None:
        self._statements += len(writes)
        mutations = self._mutations(writes)
        self.on_write(writes[0].statement)
        self._send(writes[0].statement, lambda ended: self._cluster.write(mutations, ended), done, False)

    def _mutations(self, writes: Iterable[Write]) -> list[Mutation]:
        """One for each partition."""
        parts: dict[tuple[Any, ...], Partition] = {}
        for statement, values in writes:
            plan = self._plans.of(statement)
            assert isinstance(plan, Put | Erase), statement
            assert plan.timestamp is not None, f"{statement.name} leaves its timestamp to the coordinator's clock"
            timestamp, place = plan.timestamp.of(values), plan.place(values)
            assert place[1:] == tuple(values[position] for position in statement.key), f"{statement.name}'s key"
            part = parts.setdefault(place, Partition())
            if isinstance(plan, Put):
                part.apply(plan.rows(values, timestamp), ())
            else:
                part.tombstones.add(plan.tombstone(values, timestamp))
        return [Mutation(place, part.rows, tuple(part.tombstones)) for place, part in parts.items()]

    # --------------------------------------------------------------------------------------- conditional writes

    async def decide(self, writes: Sequence[Write]) -> Decision:
        self._check_open()
        puts = [(self._plans.of(statement), values) for statement, values in writes]
        (place,) = {plan.place(values) for plan, values in puts}  # type: ignore[union-attr]
        promise: Promise[Decision] = Promise()

        def done(answer: tuple[bool, list[Row]] | None) -> None:
            if answer is None:
                promise.fail(self._timed_out())
            else:
                promise.set(Decision(*answer))

        decide = partial(self._cluster.decide, place, partial(_judge, place, puts))
        self._send(writes[0].statement, decide, done)
        return await promise.wait()


def _judge(
    place: tuple[Any, ...], puts: Sequence[tuple[Put, Sequence[Any]]], decided: Partition, ballot: int
) -> tuple[bool, list[Row], Mutation | None]:
    """All of the statements or none."""
    if all(_holds(plan, values, decided) for plan, values in puts):
        part = Partition()
        for plan, values in puts:
            part.apply(plan.rows(values, ballot), ())
        return True, [], Mutation(place, part.rows)
    found = []
    for plan, values in puts:
        cells = decided.rows.get(plan.key(values))
        if plan.conditions is not None and cells is not None:
            found.append(_row_of(plan.table, plan.table.columns, place, plan.key(values), cells))
    return False, found, None


def _holds(plan: Put, values: Sequence[Any], decided: Partition) -> bool:
    cells = decided.rows.get(plan.key(values), {})
    if plan.conditions is None:
        return True
    if not plan.conditions:
        return not is_alive(cells)
    return all(value_of(cells, column) == source.of(values) for column, _, source in plan.conditions)


def _want(plan: Select, place: tuple[Any, ...], values: Sequence[Any]) -> Want:
    limit = NO_LIMIT if plan.limit is None else plan.limit.of(values)
    columns = frozenset((*plan.columns, MARKER))
    return Want(place, plan.slices(values), limit, plan.is_descending, plan.is_distinct, columns)


def _rows_of(plan: Select, place: tuple[Any, ...], rows: dict[Key, Cells]) -> list[Row]:
    static = rows.pop(None, None)
    if plan.is_distinct:
        return [_row_of(plan.table, plan.columns, place, None, static)] if static else []
    if not rows and static:  # a partition of which only the static row is left shows as one row of it
        return [_row_of(plan.table, plan.columns, place, None, static)]
    return [_row_of(plan.table, plan.columns, place, key, {**(static or {}), **cells}) for key, cells in rows.items()]


def _row_of(table: Table, columns: Sequence[str], place: tuple[Any, ...], key: Key, cells: Cells) -> Row:
    names = dict(zip(table.partition, place[1:], strict=True))
    names.update(zip(table.clustering, key or (None,) * len(table.clustering), strict=True))
    return tuple(names[name] if name in names else value_of(cells, name) for name in columns)


def _hashable(value: Value) -> object:
    return tuple(value) if isinstance(value, list) else value
