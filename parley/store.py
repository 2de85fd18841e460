"""The port for what a client keeps beyond its process: cursors, messages not yet durable, the resume token.

It must not know connections. Invariant that its users rely on: ``save`` returned means that a later ``load``, also by
another process, sees those changes; of a ``save`` that did not return, all or nothing is seen.

Without a lasting store nothing is lost either, but the burden moves: cursors are then the server's record of this
device's ACKs, and messages that were waiting in the outbox of a dead process are gone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import msgspec


class StoredSend(msgspec.Struct, frozen=True, array_like=True):
    """A message that the application handed over and the server has not answered for.

    ``queued_ms`` is wall-clock time: the server recognises a resend for 7 days only.
    """

    chat_id: int
    client_msg_id: bytes
    kind: int
    body: bytes
    target_seq: int | None
    queued_ms: int


@dataclass(slots=True)
class Snapshot:
    """Everything that a store holds. ``cursors`` is None until the first one was saved: nothing is known, which is
    not the same as holding nothing.
    """

    cursors: dict[int, int] | None = None
    outbox: dict[bytes, StoredSend] = field(default_factory=dict)
    resume_token: bytes | None = None


@dataclass(frozen=True, slots=True)
class Changes:
    """What one ``save`` adds: cursors that moved, chats that are gone, sends that were queued and ids that were
    settled.
    """

    cursors: dict[int, int]
    gone: Sequence[int]
    queued: Sequence[StoredSend]
    settled: Sequence[bytes]
    resume_token: bytes | None

    def apply_to(self, snapshot: Snapshot) -> None:
        if self.cursors or self.gone:
            if snapshot.cursors is None:
                snapshot.cursors = {}
            snapshot.cursors.update(self.cursors)
            for chat_id in self.gone:
                snapshot.cursors.pop(chat_id, None)
        for send in self.queued:
            snapshot.outbox[send.client_msg_id] = send
        for client_msg_id in self.settled:
            snapshot.outbox.pop(client_msg_id, None)
        if self.resume_token is not None:
            snapshot.resume_token = self.resume_token or None


class ClientStore(Protocol):
    """One device's memory. Used by one client at a time; calls do not overlap.

    ``load`` is called once, before the first connection. ``save`` is atomic and repeating it does no harm. An exception
    from either ends the client: what cannot be remembered must not be acknowledged.
    """

    async def load(self) -> Snapshot: ...

    async def save(self, changes: Changes) -> None: ...


class MemoryClientStore:
    """Forgets with the process. Hand the same one to two clients in turn to let the second continue the first."""

    def __init__(self) -> None:
        self._snapshot = Snapshot()

    async def load(self) -> Snapshot:
        kept = self._snapshot
        cursors = None if kept.cursors is None else dict(kept.cursors)
        return Snapshot(cursors, dict(kept.outbox), kept.resume_token)

    async def save(self, changes: Changes) -> None:
        changes.apply_to(self._snapshot)
