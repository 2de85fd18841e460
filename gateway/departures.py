"""Workers of other nodes that have ended, told by who saw it: for a node that went down with its supervisor.

Owns the suspicion: whose link broke is asked about for a while, and if its host refuses connections, the directory is told
that this life is over, as its supervisor would have. Without us everybody waits for the silence of its key, which takes
seconds longer. A host that does not answer at all is no evidence (``gateway/cluster/reachability.py``): then silence decides.

Invariant: nothing is asked of a peer whose links hold; at most one word per life.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import structlog
import trio

from gateway.cluster.directory import DirectoryUnavailable, Workers
from gateway.cluster.links import Links
from gateway.protocol.identifiers import WorkerId, node_of

ASK_S = 0.1
SUSPECTED_S = 5.0
"""Later than that its silence has told everybody."""

TellEnded = Callable[[WorkerId, int], Awaitable[None]]
"""The directory is told of a worker's incarnation. Raises DirectoryUnavailable."""

log = structlog.get_logger(__name__)


class Departures:
    """``run`` must be running."""

    def __init__(self, links: Links, workers: Callable[[], Workers], tell_ended: TellEnded) -> None:
        self._links = links
        self._workers = workers
        self._tell_ended = tell_ended
        self._suspects: dict[WorkerId, float] = {}
        self._has_suspects = trio.Event()
        links.add_lost_listener(self._suspect)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        task_status.started()
        while True:
            await self._has_suspects.wait()
            self._has_suspects = trio.Event()
            while self._suspects:
                await trio.sleep(ASK_S)
                for worker in list(self._suspects):
                    await self._look_at(worker)

    def _suspect(self, worker: WorkerId) -> None:
        if node_of(worker) != node_of(self._links.me) and worker in self._workers():
            self._suspects[worker] = trio.current_time() + SUSPECTED_S
            self._has_suspects.set()

    async def _look_at(self, worker: WorkerId) -> None:
        record = self._workers().get(worker)
        if record is None or trio.current_time() > self._suspects[worker]:
            del self._suspects[worker]
        elif self._links.is_refused(worker):
            del self._suspects[worker]
            log.warning("worker_refuses", worker=worker, incarnation=record.incarnation)
            try:
                await self._tell_ended(worker, record.incarnation)
            except DirectoryUnavailable as error:
                log.warning("end_not_told", worker=worker, error=str(error))
