"""The way of a write: unit, group, request, and back to whoever gave it.

Owns the queue of rows that are not sent yet, and its bounds. Invariants: a unit ends exactly once; a call that is refused had
nothing sent; groups are sent oldest first, and an open one no earlier than its linger unless it is full. While a request to the
same coordinator is under way an open group goes on filling, for at most ``linger_max_s``: what arrives during one request
is the next, so that a slow cluster, or one that many workers write to, gets larger batches instead of more of them. (A request
costs the client some 200 us, a row in it 20.)
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Sequence
from functools import partial
from typing import Any

import trio
from cassandra.query import BatchStatement, BoundStatement

from storage.api import StoreConflict, StoreError, StoreUnavailable
from storage.scylla.binding import batch_of
from storage.scylla.bridge import Bridge
from storage.scylla.connecting import QUORUM
from storage.scylla.grouping import Group, Grouping, Unit
from storage.scylla.replicas import Replicas
from storage.scylla.requests import Answer, Requests
from storage.scylla.settings import ScyllaSettings
from storage.scylla.timers import Timers

CLOSING = "the store is closing"


def statement_of(group: Group, keyspace: str) -> BatchStatement | BoundStatement:
    """Its rows, already encoded, without the driver's own binding."""
    first = group.units[0]
    if group.row_count == 1:
        statement = first.rows[0].template.single(first.rows[0].values)
    else:
        rows = ((row.template.query_id, row.values) for unit in group.units for row in unit.rows)
        statement = batch_of(rows, first.key, keyspace)
    statement.coordinator = group.coordinator
    return statement


class Writing:
    def __init__(
        self, settings: ScyllaSettings, replicas: Replicas, requests: Requests, bridge: Bridge, timers: Timers
    ) -> None:
        self._settings = settings
        self._bridge = bridge
        self._replicas = replicas
        self._requests = requests
        self._timers = timers
        self._open = Grouping(replicas.of)
        self._ready: deque[Group] = deque()
        self._wake_s = math.inf
        self._is_closed = False
        self._has_ended = False
        self._room = trio.lowlevel.ParkingLot()
        self.in_flight = 0
        self._under_way: Counter[Any] = Counter()
        """Requests by coordinator."""
        self.waiting_rows = 0
        self._waiting_bytes = 0
        self.rows = 0
        self.groups = 0

    def has_room_for(self, rows: int) -> bool:
        """One call is taken whole into an empty queue, however large."""
        return self.waiting_rows == 0 or (
            self.waiting_rows + rows <= self._settings.max_waiting_rows
            and self._waiting_bytes < self._settings.max_waiting_bytes
        )

    @property
    def _is_crowded(self) -> bool:
        """As many groups wait as may be under way: what a task brings waits outside, where it does not grow old."""
        return len(self._ready) >= self._settings.max_in_flight_writes

    def add(self, units: Sequence[Unit]) -> None:
        """To share requests with what else comes within the linger."""
        now = trio.current_time()
        self._replicas.refresh(now)
        for unit in units:
            self._count(unit)
            filled = self._open.add(unit, now)
            if filled is not None:
                self._ready.append(filled)
        self._send_what_is_due(now)

    async def add_all(self, units: Sequence[Unit]) -> None:
        """At once, in requests of their own, as there is room. Cancelled: what is not queued yet is not written."""
        self._replicas.refresh(trio.current_time())
        own = Grouping(self._replicas.of)
        for unit in units:
            filled = own.add(unit, 0.0)
            if filled is not None:
                await self._enqueue(filled)
        for group in own.pop_all():
            await self._enqueue(group)

    async def _enqueue(self, group: Group) -> None:
        while not self._is_closed and (self._is_crowded or not self.has_room_for(group.row_count)):
            await self._room.park()
        if self._is_closed:
            self._refuse(group, CLOSING)
            return
        group.opened_at = now = trio.current_time()
        self.waiting_rows += group.row_count
        self._waiting_bytes += group.size_bytes
        self._ready.append(group)
        self._send_what_is_due(now)

    def close(self) -> None:
        """Refuse what is not sent."""
        self._is_closed = True
        for group in (*self._ready, *self._open.pop_all()):
            self._uncount(group)
            self._refuse(group, CLOSING)
        self._ready.clear()
        self._room.unpark_all()

    def take_ended(self) -> bool:
        """Whether a write has ended since the last time that this was asked."""
        has_ended, self._has_ended = self._has_ended, False
        return has_ended

    # ------------------------------------------------------------------------------------------------ sending

    def _count(self, unit: Unit) -> None:
        self.waiting_rows += len(unit.rows)
        self._waiting_bytes += unit.size_bytes

    def _uncount(self, group: Group) -> None:
        self.waiting_rows -= group.row_count
        self._waiting_bytes -= group.size_bytes

    def _refuse(self, group: Group, reason: str) -> None:
        """In a later step: this may run inside another call's ``add``."""
        self._bridge.call_soon(partial(self._end, group, StoreUnavailable(reason)))

    def _end(self, group: Group, error: StoreError | None) -> None:
        self._has_ended = True
        group.end(error)

    def _send_what_is_due(self, now: float) -> None:
        while self.in_flight < self._settings.max_in_flight_writes:
            if self._ready:
                self._send(self._ready.popleft(), now)
                continue
            if not self._open:
                break
            if not self._open_groups_are_sent(now):
                break
        if self.has_room_for(1) and not self._is_crowded:
            self._room.unpark_all()

    def _open_groups_are_sent(self, now: float) -> bool:
        """One that is due, if there is one; else somebody comes when one is."""
        settings = self._settings
        earliest = math.inf
        for group in self._open.groups():
            linger_s = settings.linger_max_s if self._under_way[group.coordinator] else settings.linger_s
            if group.opened_at + linger_s <= now:
                self._send(self._open.pop(group), now)
                return True
            earliest = min(earliest, group.opened_at + linger_s)
        self._wake_at(earliest)
        return False

    def _wake_at(self, time_s: float) -> None:
        if time_s < self._wake_s:
            self._wake_s = time_s
            self._timers.call_at(time_s, self._linger_ended)

    def _linger_ended(self) -> None:
        self._wake_s = math.inf
        self._send_what_is_due(trio.current_time())

    def _send(self, group: Group, now: float) -> None:
        self._uncount(group)
        if now - group.opened_at > self._settings.request_timeout_s:
            self._refuse(group, "the cluster is too slow: the write did not come to be sent in time")
            return
        self.in_flight += 1
        self._under_way[group.coordinator] += 1
        self.rows += group.row_count
        self.groups += 1
        statement = statement_of(group, self._settings.keyspace)
        self._requests.send(statement, QUORUM, lambda outcome: self._ended(group, outcome))

    def _ended(self, group: Group, outcome: Answer | StoreError) -> None:
        self.in_flight -= 1
        self._under_way[group.coordinator] -= 1
        if isinstance(outcome, StoreConflict) and len(group.units) > 1:
            self._send_apart(group)
        else:
            self._end(group, outcome if isinstance(outcome, StoreError) else None)
        self._send_what_is_due(trio.current_time())

    def _send_apart(self, group: Group) -> None:
        """One of the rows is refused, and nothing was written: the others must not suffer for it."""
        for alone in group.apart():
            self.waiting_rows += alone.row_count
            self._waiting_bytes += alone.size_bytes
            self._ready.append(alone)
