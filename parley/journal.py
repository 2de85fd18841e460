"""When things become lasting: the store first, then the server is told.

Owns the calls of ``ClientStore.save``, which never overlap. Invariant: a cursor is acknowledged, and a message is put
on the wire, only after a ``save`` that held it has returned. Everything that changed meanwhile goes into the next
save as one.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import trio

from gateway.protocol.messages import Send
from parley.cursors import Cursors
from parley.outbox import Outbox
from parley.store import Changes, ClientStore, StoredSend


def wall_ms() -> int:
    return time.time_ns() // 1_000_000


def age_s(kept: StoredSend) -> float:
    return max(0.0, (wall_ms() - kept.queued_ms) / 1000)


class Journal:
    def __init__(self, store: ClientStore, cursors: Cursors, outbox: Outbox) -> None:
        self._store = store
        self._cursors = cursors
        self._outbox = outbox
        self._queued: list[StoredSend] = []
        self._resume_token: bytes | None = None
        self._unacknowledged: dict[int, int] = {}
        self._lock = trio.Lock()

    def note_queued(self, send: Send) -> None:
        stored = StoredSend(send.chat_id, send.client_msg_id, send.kind, send.body, send.target_seq, wall_ms())
        self._queued.append(stored)

    def note_resume_token(self, token: bytes) -> None:
        """Of the latest WELCOME; an empty one forgets it."""
        self._resume_token = token

    def take_unacknowledged(self) -> dict[int, int]:
        """Saved cursors that the server was not told of yet, since the last call."""
        unacknowledged, self._unacknowledged = self._unacknowledged, {}
        return unacknowledged

    async def save(self) -> None:
        """Everything that changed before this call is lasting when it returns. What the store raises is raised."""
        async with self._lock:
            moved, gone = self._cursors.take_moved()
            queued, self._queued = self._queued, []
            settled = self._outbox.take_settled()
            token, self._resume_token = self._resume_token, None
            if not (moved or gone or queued or settled or token is not None):
                return
            # Shielded: half a save that a lost connection cancelled would be remembered by neither side.
            with trio.CancelScope(shield=True):
                await self._store.save(Changes(moved, gone, queued, settled, token))
            self._unacknowledged.update(moved)

    async def run(self, acknowledge: Callable[[], None]) -> None:
        """Save cursors as they move, at most every 200 ms or 64 messages, and acknowledge after each time."""
        while True:
            await self._cursors.wait_due()
            await self.save()
            acknowledge()
