"""Requests under way: sent once, heard of once, ended in time.

Owns the driver's futures. The driver calls back on its own thread; the ending crosses the bridge and is heard on the Trio thread.
Invariant: ``ended`` of a request is called exactly once, on the Trio thread, in a later step than ``send``: with the first of
the driver's answer and our own deadline. The driver may call back twice (a time-out that races an answer), or never (its
thread is stuck): whatever comes after the first is dropped.

``execute_async`` is called on the Trio thread: it encodes and appends to a connection's queue. It would block where a connection
has no stream left (32,768 a connection; the lanes hold some hundreds) or is closed (``routing`` leaves those nodes out).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import trio
from cassandra import OperationTimedOut, ReadTimeout, Unavailable, WriteTimeout
from cassandra.cluster import NoHostAvailable, ResponseFuture, ResultSet, Session

from storage.api import StoreError, StoreTimedOut
from storage.scylla.bridge import Bridge
from storage.scylla.errors import DRIVER_ERRORS, translate
from storage.scylla.ports import Row
from storage.scylla.routing import Routing
from storage.scylla.timers import Timers

GRACE_S = 0.25
"""The driver's own timer comes first: it also takes the request's stream out of use, which ours cannot."""

NO_QUORUM = (ReadTimeout, WriteTimeout, Unavailable)
"""What a coordinator says that did not hear of enough replicas. It may be cut off from them itself: the next request, which
may be the same one again, is better coordinated by another."""


class Answer(NamedTuple):
    rows: list[Row]
    next_page: bytes | None
    """More is to be had from here on."""


Ended = Callable[["Answer | StoreError"], None]


class _Request:
    __slots__ = ("deadline", "ended")

    def __init__(self, ended: Ended, deadline: float) -> None:
        self.ended = ended
        self.deadline = deadline


def _release(future: ResponseFuture) -> None:
    """It has ended. The driver keeps it for the whole of its time-out, in the queue of a timer that was cancelled, and with it
    every row that it carried; and it refers to itself. A worker that stores 5,000 messages a second stopped 400 ms for the
    collector, every fifteen seconds."""
    future.query = future.message = future._timer = None
    future._callbacks.clear()
    future._errbacks.clear()


class Requests:
    def __init__(self, session: Session, routing: Routing, bridge: Bridge, timers: Timers, timeout_s: float) -> None:
        self._session = session
        self._routing = routing
        self._bridge = bridge
        self._timers = timers
        self._timeout_s = timeout_s
        self._under_way: dict[_Request, None] = {}
        self._is_sweep_due = False
        self.requests = 0
        self.timeouts = 0

    @property
    def under_way(self) -> int:
        return len(self._under_way)

    def send(self, statement: Any, profile: str, ended: Ended, page: bytes | None = None) -> None:
        deadline = trio.current_time() + self._timeout_s + GRACE_S
        request = _Request(ended, deadline)
        self._under_way[request] = None
        self.requests += 1
        if not self._is_sweep_due:
            self._is_sweep_due = True
            self._timers.call_at(deadline, self._sweep)
        try:
            future = self._session.execute_async(
                statement, timeout=self._timeout_s, execution_profile=profile, paging_state=page
            )
        except DRIVER_ERRORS as error:
            self._bridge.call_soon(partial(self._end, request, translate(error, was_sent=False)))
        else:
            future.add_callbacks(
                self._answered, self._failed, callback_args=(request, future), errback_args=(request, future)
            )

    # ---------------------------------------------------------------------------- on the driver's threads

    def _answered(self, rows: Any, request: _Request, future: ResponseFuture) -> None:
        next_page = (
            None if rows is None else ResultSet(future, rows).paging_state
        )  # a page may be empty and not the last
        _release(future)
        self._bridge.call_soon(partial(self._end, request, Answer(rows or [], next_page)))

    def _failed(self, error: Exception, request: _Request, future: ResponseFuture) -> None:
        if isinstance(error, OperationTimedOut):
            self._routing.suspect(error.last_host)
        elif isinstance(error, NO_QUORUM):
            self._routing.suspect(future.coordinator_host)
        if isinstance(error, DRIVER_ERRORS):
            outcome = translate(error, was_sent=not isinstance(error, NoHostAvailable))
        else:  # a bug, here or in the driver: the request was sent all the same
            outcome = StoreTimedOut(f"the driver failed: {error!r}")
        _release(future)
        self._bridge.call_soon(partial(self._end, request, outcome))

    # ------------------------------------------------------------------------------------- on Trio's thread

    def _end(self, request: _Request, outcome: Answer | StoreError) -> None:
        if request not in self._under_way:
            return
        del self._under_way[request]
        if isinstance(outcome, StoreTimedOut):
            self.timeouts += 1
        request.ended(outcome)

    def _sweep(self) -> None:
        """Oldest first: all have the same time."""
        now = trio.current_time()
        overdue = []
        self._is_sweep_due = False
        for request in self._under_way:
            if request.deadline > now:
                self._is_sweep_due = True
                self._timers.call_at(request.deadline, self._sweep)
                break
            overdue.append(request)
        for request in overdue:
            self._bridge.call_soon(
                partial(self._end, request, StoreTimedOut("no answer from the cluster, nor from its driver, in time"))
            )
