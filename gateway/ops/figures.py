"""What the node tells about itself: the workers' figures gathered, the supervisor's own added, alive, ready.

Owns the three pages' content. It knows workers by what ``NodeView`` shows of them. Every worker is asked at once, and
has a second to answer: one that is dead, hung or babbling costs its own series, and ``parley_worker_up`` says 0.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from typing import NamedTuple, Protocol

import structlog
import trio
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from gateway.cluster.links import LinkLost, LinkRefused, Links
from gateway.cluster.wire import LinkOp
from gateway.metrics import gauge
from gateway.ops.http import Response, Route
from gateway.ops.scrape import TextUnreadable, merge, parse
from gateway.protocol.identifiers import WorkerId

WORKER_TIMEOUT_S = 1.0

log = structlog.get_logger(__name__)


class WorkerState(NamedTuple):
    worker_id: WorkerId
    is_ready: bool
    restarts: int


class NodeView(Protocol):
    """The supervisor, as the pages see it."""

    @property
    def is_draining(self) -> bool: ...

    def worker_states(self) -> Sequence[WorkerState]: ...

    def directory_sizes(self) -> tuple[int, int] | None:
        """(workers, devices) that the directory knows; None: it is not this node's."""
        ...


class Pages:
    def __init__(self, links: Links, node: NodeView) -> None:
        self._links = links
        self._node = node

    def routes(self) -> dict[str, Route]:
        return {"/metrics": self.metrics, "/healthz": self.healthz, "/readyz": self.readyz}

    async def healthz(self) -> Response:
        """The supervisor's loop turns: nothing else is said by an answer."""
        return Response(200, b"ok\n")

    async def readyz(self) -> Response:
        """Every worker serves, and none is asked to leave."""
        if self._node.is_draining:
            return Response(503, b"draining\n")
        waiting = [str(state.worker_id) for state in self._node.worker_states() if not state.is_ready]
        if waiting:
            return Response(503, f"not ready: worker {', '.join(waiting)}\n".encode())
        return Response(200, b"ready\n")

    async def metrics(self) -> Response:
        families: dict[int, list[Metric]] = {}
        async with trio.open_nursery() as nursery:
            for state in self._node.worker_states():
                if state.is_ready:
                    nursery.start_soon(self._ask, state.worker_id, families)
        own = supervisor_families(self._node.worker_states(), families, self._node.directory_sizes())
        return Response(200, merge(families, own), CONTENT_TYPE_PLAIN_0_0_4)

    async def _ask(self, worker: WorkerId, families: dict[int, list[Metric]]) -> None:
        with trio.move_on_after(WORKER_TIMEOUT_S) as scope:
            try:
                families[worker] = parse(await self._links.call(worker, LinkOp.METRICS, b""))
            except (LinkLost, LinkRefused, TextUnreadable) as error:
                log.warning("worker_not_scraped", worker=worker, error=str(error))
        if scope.cancelled_caught:
            log.warning("worker_not_scraped", worker=worker, error=f"no answer within {WORKER_TIMEOUT_S:g} s")


def supervisor_families(
    states: Sequence[WorkerState], answered: Container[int], directory_sizes: tuple[int, int] | None
) -> Iterator[Metric]:
    """``answered``: the workers that answered this scrape. ``directory_sizes``: (workers, devices), of an embedded one."""
    up = GaugeMetricFamily("parley_worker_up", "did the worker answer this scrape", labels=["worker"])
    restarts = CounterMetricFamily("parley_worker_restarts", "ends of the worker's process", labels=["worker"])
    for state in states:
        up.add_metric([str(state.worker_id)], float(state.worker_id in answered))
        restarts.add_metric([str(state.worker_id)], state.restarts)
    yield up
    yield restarts
    yield gauge("parley_workers", "workers that the node should have", len(states))
    if directory_sizes is not None:
        workers, devices = directory_sizes
        yield gauge("parley_directory_workers", "workers that have joined the embedded directory", workers)
        yield gauge(
            "parley_directory_devices", "devices that the embedded directory remembers, connected or not", devices
        )
