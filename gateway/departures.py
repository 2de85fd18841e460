"""Workers of other nodes that have ended, told to the directory by who saw it: for a node that went down with its supervisor.

Owns the telling. Whose socket refuses is another's finding (``gateway/cluster/suspects.py``), on which this worker has acted
by then; told of it, the directory lets everybody act, as that node's supervisor would have. Without us they wait for the silence
of the worker's key, which takes seconds longer.

Invariant: one word per life, and none of this node's own workers, whose supervisor lives.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import structlog
import trio

from gateway.cluster.directory import DirectoryUnavailable, WorkerRecord, Workers
from gateway.protocol.identifiers import WorkerId, node_of

TellEnded = Callable[[WorkerId, int], Awaitable[None]]
"""The directory is told of a worker's incarnation. Raises DirectoryUnavailable."""

log = structlog.get_logger(__name__)


class Departures:
    """``run`` must be running."""

    def __init__(self, me: WorkerId, workers: Callable[[], Workers], tell_ended: TellEnded) -> None:
        self._me = me
        self._workers = workers
        self._tell_ended = tell_ended
        self._gone: frozenset[WorkerId] = frozenset()
        self._untold: list[WorkerRecord] = []
        self._has_untold = trio.Event()

    def take(self, gone: frozenset[WorkerId]) -> None:
        """The workers whose sockets refuse now."""
        new = (self._workers().get(worker) for worker in gone - self._gone if node_of(worker) != node_of(self._me))
        self._untold += [record for record in new if record is not None]
        self._gone = gone
        if self._untold:
            self._has_untold.set()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        task_status.started()
        while True:
            await self._has_untold.wait()
            self._has_untold = trio.Event()
            untold, self._untold = self._untold, []
            for record in untold:
                await self._tell(record)

    async def _tell(self, record: WorkerRecord) -> None:
        log.warning("worker_refuses", worker=record.worker_id, incarnation=record.incarnation)
        try:
            await self._tell_ended(record.worker_id, record.incarnation)
        except DirectoryUnavailable as error:
            log.warning("end_not_told", worker=record.worker_id, error=str(error))
