"""``ScyllaExecutor``: the port of ``ports.py`` over scylla-driver.

Owns the parts and their order of life; each part's file says what it is. The way of a write: ``binding`` (bytes) → ``grouping``
(which rows share a request) → ``writing`` (queue, linger) → ``requests`` (the driver) → ``bridge`` (back to Trio's thread) → the
caller's ``done``. The way of a read: ``reading`` → its lane → ``requests`` → ``bridge`` → the task.

Invariant: nothing here blocks Trio's thread, and nothing of the driver is seen by who calls.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import trio

from storage.api import StoreConflict, StoreError, StoreUnavailable
from storage.scylla.binding import Bound, Template, batch_of
from storage.scylla.bridge import Bridge
from storage.scylla.connecting import QUORUM, SERIAL
from storage.scylla.grouping import Call, Unit, cut
from storage.scylla.lanes import Lane
from storage.scylla.migrations import Migration, load_migrations
from storage.scylla.opening import Opened, Opening, prepare
from storage.scylla.ports import Decision, ExecutorStatistics, Row, Statement, Value, Write, WriteDone
from storage.scylla.reading import Question
from storage.scylla.replicas import Replicas
from storage.scylla.requests import Requests
from storage.scylla.settings import ScyllaSettings
from storage.scylla.timers import Timers
from storage.scylla.writing import CLOSING, Writing


class _Parts:
    """What exists between ``open`` and ``close``."""

    def __init__(self, settings: ScyllaSettings, opened: Opened, after_round: Callable[[], None]) -> None:
        cluster, session, routing = opened.connected
        self.cluster = cluster
        self.session = session
        self.templates = opened.templates
        self.bridge = Bridge(trio.lowlevel.current_trio_token(), after_round)
        self.timers = Timers()
        self.requests = Requests(session, routing, self.bridge, self.timers, settings.request_timeout_s)
        self.reads = Lane("reads", settings.max_in_flight_reads, settings.max_waiting_reads)
        self.decisions = Lane("conditional writes", settings.max_in_flight_decisions, settings.max_waiting_decisions)
        replicas = Replicas(cluster.metadata, settings.keyspace)
        self.writing = Writing(settings, replicas, self.requests, self.bridge, self.timers)
        self.shared: dict[tuple[object, ...], Question] = {}
        self.timers.start()


class ScyllaExecutor:
    """One worker's use of a cluster. ``statements``: prepared by ``open``; others at their first use, except by ``write_then``,
    which must not wait. ``migrations``: none leaves the schema alone; default: the project's own."""

    def __init__(
        self,
        settings: ScyllaSettings,
        statements: Sequence[Statement] = (),
        *,
        migrations: Sequence[Migration] | None = None,
    ) -> None:
        self.after_writes: Callable[[], None] = lambda: None
        self._settings = settings
        self._statements = statements
        self._migrations = migrations
        self._parts: _Parts | None = None
        self._is_closing = False
        self._is_idle = trio.Event()
        self._refusals = 0
        self._shared_reads = 0

    async def open(self) -> None:
        if self._parts is not None:
            raise RuntimeError("an executor is opened once")
        migrations = load_migrations() if self._migrations is None else self._migrations
        opening = Opening(self._settings, self._statements, migrations)
        latest_s = 2 * self._settings.connect_timeout_s + self._settings.migration_timeout_s
        try:
            with trio.fail_after(latest_s):
                opened = await trio.to_thread.run_sync(opening.run, abandon_on_cancel=True)
        except trio.TooSlowError as error:
            opening.give_up()
            raise StoreUnavailable(f"the cluster did not become ready within {latest_s:.0f} s") from error
        except trio.Cancelled:
            opening.give_up()
            raise
        self._parts = _Parts(self._settings, opened, self._after_round)

    async def close(self) -> None:
        parts = self._parts
        if parts is None:
            await trio.lowlevel.checkpoint()
            return
        with trio.CancelScope(shield=True):
            if not self._is_closing:
                self._is_closing = True
                parts.writing.close()
                for lane in (parts.reads, parts.decisions):
                    lane.refuse_waiting(StoreUnavailable(CLOSING))
                parts.bridge.call_soon(lambda: None)  # its round finds out whether all is quiet
            await self._is_idle.wait()
            await trio.to_thread.run_sync(parts.cluster.shutdown)
            parts.timers.stop()

    # -------------------------------------------------------------------------------------------------- reads

    async def read(self, statement: Statement, *values: Value) -> list[Row]:
        return await self._ask(statement, values, QUORUM)

    async def read_serially(self, statement: Statement, *values: Value) -> list[Row]:
        return await self._ask(statement, values, SERIAL)

    async def _ask(self, statement: Statement, values: Sequence[Value], profile: str) -> list[Row]:
        parts = self._opened()
        template = await self._template(parts, statement)
        encoded = template.encode(values)
        if not statement.is_shared:
            return await self._submit(parts, parts.reads, template.single(encoded), profile).wait()
        key = (statement.cql, profile, *encoded)
        question = parts.shared.get(key)
        if question is not None:
            self._shared_reads += 1
            return await question.wait()
        question = self._submit(parts, parts.reads, template.single(encoded), profile)
        if not question.is_ended:
            parts.shared[key] = question
            question.then = partial(parts.shared.pop, key)
        return await question.wait()

    def _submit(self, parts: _Parts, lane: Lane, bound: object, profile: str) -> Question:
        question = Question(bound, profile, lane, parts.requests, self._settings.request_timeout_s)
        try:
            question.submit()
        except StoreUnavailable:
            self._refusals += 1
            raise
        return question

    # ---------------------------------------------------------------------------------- conditional statements

    async def decide(self, writes: Sequence[Write]) -> Decision:
        parts = self._opened()
        templates = [await self._template(parts, write.statement) for write in writes]
        encoded = [template.encode(write.values) for template, write in zip(templates, writes, strict=True)]
        if len(writes) == 1:
            statement = templates[0].single(encoded[0])
        else:
            key = templates[0].routing_key(encoded[0])
            query_ids = [template.query_id for template in templates]
            statement = batch_of(zip(query_ids, encoded, strict=True), key, self._settings.keyspace)
        rows = await self._submit(parts, parts.decisions, statement, QUORUM).wait()
        is_applied = bool(rows) and all(row[0] for row in rows)
        return Decision(is_applied, [] if is_applied else [row[1:] for row in rows])

    # ------------------------------------------------------------------------------------------------- writes

    async def write(self, writes: Sequence[Write]) -> None:
        parts = self._opened()
        for statement in {write.statement.cql: write.statement for write in writes}.values():
            await self._template(parts, statement)
        if not writes:
            return
        ended = trio.Event()
        outcome: list[StoreError | None] = []

        def done(error: StoreError | None) -> None:
            outcome.append(error)
            ended.set()

        await parts.writing.add_all(self._units(parts, writes, done))
        await ended.wait()
        if outcome[0] is not None:
            raise outcome[0]

    def write_then(self, writes: Sequence[Write], done: WriteDone) -> None:
        parts = self._parts
        if parts is None:
            raise RuntimeError("an executor is used before open")
        if self._is_closing or not parts.writing.has_room_for(len(writes)):
            self._refusals += 1
            reason = CLOSING if self._is_closing else "the queue of writes is at its bound"
            parts.bridge.call_soon(partial(done, StoreUnavailable(reason)))
            return
        try:
            units = self._units(parts, writes, done)
        except StoreConflict as error:
            parts.bridge.call_soon(partial(done, error))
            return
        parts.writing.add(units)

    def _units(self, parts: _Parts, writes: Sequence[Write], done: WriteDone) -> list[Unit]:
        call = Call(done)
        by_key: dict[bytes, list[Bound]] = {}
        for write in writes:
            template = parts.templates[write.statement.cql]
            row = template.bind(write.values)
            by_key.setdefault(template.routing_key(row.values), []).append(row)
        units = cut(call, by_key)
        call.expect(len(units))
        return units

    # ------------------------------------------------------------------------------------------------ the rest

    def statistics(self) -> ExecutorStatistics:
        parts = self._parts
        if parts is None:
            return ExecutorStatistics(0, 0, 0, 0, 0, 0, 0)
        lanes = (parts.reads, parts.decisions)
        return ExecutorStatistics(
            requests=parts.requests.requests,
            statements=parts.writing.rows + parts.requests.requests - parts.writing.groups,
            timeouts=parts.requests.timeouts,
            refusals=self._refusals,
            in_flight=parts.requests.under_way,
            waiting=parts.writing.waiting_rows + sum(lane.waiting for lane in lanes),
            shared_reads=self._shared_reads,
        )

    def _opened(self) -> _Parts:
        if self._parts is None:
            raise RuntimeError("an executor is used before open")
        if self._is_closing:
            raise StoreUnavailable(CLOSING)
        return self._parts

    async def _template(self, parts: _Parts, statement: Statement) -> Template:
        template = parts.templates.get(statement.cql)
        if template is None:
            template = await trio.to_thread.run_sync(prepare, parts.session, statement)
            parts.templates[statement.cql] = template
        return template

    def _after_round(self) -> None:
        parts = self._parts
        if parts is None:
            return
        if parts.writing.take_ended():
            self.after_writes()
        if self._is_closing and parts.requests.under_way == 0:
            self._is_idle.set()
