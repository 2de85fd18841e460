"""The supervisor's side of a directory on Redis: it says which of its workers have ended.

Owns nothing but that word; it neither joins nor tracks. A worker that ended is dropped by everybody at once, instead of
after the seconds of silence that others must wait.
"""

from __future__ import annotations

import trio

from gateway.cluster.directory import DirectoryUnavailable, WorkerRecord
from gateway.protocol.identifiers import WorkerId
from storage.redis.connection import Connection, Greeting
from storage.redis.errors import RedisUnavailable
from storage.redis.membership import Membership, say_ended
from storage.redis.records import Keys
from storage.redis.settings import RedisSettings

TELL_S = 10.0
"""Later than that silence has told everybody."""
RETRY_S = 0.1


class RedisSupervision:
    """``run`` must be running."""

    def __init__(self, settings: RedisSettings) -> None:
        self._keys = Keys(settings.prefix)
        self._connection = Connection(settings)
        self._connection.events.greeting = lambda: Greeting((Membership.ENDED.load,))

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        await self._connection.run(task_status=task_status)

    async def ended(self, worker_id: WorkerId, incarnation: int) -> None:
        """This process has ended, as we saw. Tried for ``TELL_S``. Idempotent; a later incarnation is left alone.

        Raises DirectoryUnavailable: nobody was told, and the others will drop the worker for its silence.
        """
        record = WorkerRecord(worker_id, incarnation, "", False)
        reason = "it was not reached"
        with trio.move_on_after(TELL_S):
            while True:
                try:
                    await say_ended(self._connection, self._keys, record)
                except RedisUnavailable as error:
                    reason = str(error)
                    await trio.sleep(RETRY_S)
                else:
                    return
        raise DirectoryUnavailable(f"the end of worker {worker_id} was not told: {reason}")
