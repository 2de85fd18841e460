"""A ClientStore in one small file, replaced as a whole.

For bots and terminals: some hundreds of chats and messages. Every ``save`` writes the file anew, syncs it, renames it
over the old one and syncs the folder, so that a crash at any point leaves the old state or the new one. The file
holds the resume token, which is a credential: mode 0600.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import trio

from parley.errors import BrokenStore
from parley.store import Changes, Snapshot, StoredSend

FORMAT = 1


class _File(msgspec.Struct, array_like=True):
    format: int
    cursors: dict[int, int] | None
    outbox: list[StoredSend]
    resume_token: bytes | None


class FileClientStore:
    """Used by one client at a time. Raises BrokenStore for a file that is not one of these, and OSError as it comes."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        self._snapshot = Snapshot()

    async def load(self) -> Snapshot:
        self._snapshot = await trio.to_thread.run_sync(self._read)
        kept = self._snapshot
        return Snapshot(None if kept.cursors is None else dict(kept.cursors), dict(kept.outbox), kept.resume_token)

    async def save(self, changes: Changes) -> None:
        changes.apply_to(self._snapshot)
        kept = self._snapshot
        content = msgspec.msgpack.encode(_File(FORMAT, kept.cursors, list(kept.outbox.values()), kept.resume_token))
        await trio.to_thread.run_sync(self._replace, content)

    def _read(self) -> Snapshot:
        try:
            content = self._path.read_bytes()
        except FileNotFoundError:
            return Snapshot()
        try:
            file = msgspec.msgpack.decode(content, type=_File)
        except msgspec.DecodeError as error:
            raise BrokenStore(f"{self._path} is not a client's store: {error}") from error
        if file.format != FORMAT:
            raise BrokenStore(f"{self._path} has format {file.format}, this version reads {FORMAT}")
        return Snapshot(file.cursors, {send.client_msg_id: send for send in file.outbox}, file.resume_token)

    def _replace(self, content: bytes) -> None:
        beside = self._path.with_name(self._path.name + ".new")
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, self._path)
        folder = os.open(self._path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
