"""Which node coordinates what, and when a failed request is sent again: never.

Owns the driver's two policies. Invariants: nothing is repeated by the driver (the caller alone knows what may be repeated and
until when); and a node without an open connection is not named at all, since the driver would wait for one, up to 2 s, in the
calling thread, which is Trio's.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

from cassandra.cluster import Session
from cassandra.policies import DCAwareRoundRobinPolicy, RetryPolicy, TokenAwarePolicy
from cassandra.pool import Host

SUSPECT_S = 5.0
"""For so long a coordinator that let a request time out is asked last. The driver's own heartbeat needs 2 to 5 s to find a node
behind a dead link; without this a third of all requests would go on timing out until then."""


class NeverRetry(RetryPolicy):  # type: ignore[misc]
    """The driver's default sends reads, and writes that it believes idempotent, again, in time that nobody counts."""

    def _rethrow(self, *args: Any, **kwargs: Any) -> tuple[int, None]:
        return self.RETHROW, None

    on_read_timeout = on_write_timeout = on_unavailable = on_request_error = _rethrow


class Routing(TokenAwarePolicy):  # type: ignore[misc]
    """A request's own ``coordinator`` first, then the other replicas of its key, then any node of the datacenter."""

    def __init__(self, local_datacenter: str) -> None:
        super().__init__(DCAwareRoundRobinPolicy(local_datacenter), shuffle_replicas=True)
        self._is_usable: Callable[[Host], bool] = lambda _: True
        self._suspects: dict[Host, float] = {}

    def watch(self, session: Session) -> None:
        """From now on leave out the nodes to which ``session`` has no open connection."""
        pools = session._pools

        def is_usable(host: Host) -> bool:
            pool = pools.get(host)
            return (
                pool is not None
                and not pool.is_shutdown
                and any(not connection.is_closed for connection in list(pool._connections.values()))
            )

        self._is_usable = is_usable

    def suspect(self, host: Host | None) -> None:
        if host is not None:
            self._suspects[host] = time.monotonic() + SUSPECT_S

    def make_query_plan(self, working_keyspace: str | None = None, query: Any = None) -> Iterator[Host]:
        if query is None:  # the driver's own: the control connection, PREPARE
            yield from super().make_query_plan(working_keyspace, query)
            return
        first = getattr(query, "coordinator", None)
        if first is not None and not self._suspects and first.is_up and self._is_usable(first):
            yield first
        hosts = [host for host in super().make_query_plan(working_keyspace, query) if self._is_usable(host)]
        if self._suspects:
            hosts.sort(key=self._is_suspect)
        yield from hosts

    def _is_suspect(self, host: Host) -> bool:
        until = self._suspects.get(host)
        if until is None:
            return False
        if until < time.monotonic():
            self._suspects.pop(host, None)
            return False
        return True
