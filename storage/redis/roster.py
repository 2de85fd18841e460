"""Who lives, as one worker believes it: what the directory lists, and those that it may have forgotten.

Owns the decision when a worker is dropped. Sans-IO; it knows no clock but the directory's age that it is told.

A directory that was emptied lists nobody, and everybody comes back within seconds. So a worker that was known stays known
until its supervisor said that it ended, or a later life of it is listed, or the directory has been up for ``UP_MS`` and
still does not list it. (Of a directory that is up, the silent are dropped by the script of the beats, after their key
has been gone for two seconds.)
"""

from __future__ import annotations

from collections.abc import Mapping

from gateway.cluster.directory import WorkerRecord, Workers
from gateway.protocol.identifiers import WorkerId
from storage.redis.lua import UP_MS
from storage.redis.records import Member, unpack_member


class Roster:
    def __init__(self) -> None:
        self.workers: Workers = {}
        """Replaced, never changed: whoever was told holds one."""
        self.stays: Mapping[bytes, WorkerId] = {}
        """Of the workers that are listed; what was registered under any other is nowhere."""
        self.listed = 0
        self._missing: dict[WorkerId, WorkerRecord] = {}

    def take(self, members: Mapping[WorkerId, Member], ended: Mapping[WorkerId, int], up_ms: int) -> bool:
        """The directory's list. True: ``workers`` has changed."""
        self.stays = {member.stay: worker for worker, member in members.items()}
        self.listed = len(members)
        listed = {worker: member.record for worker, member in members.items()}
        self._missing = {
            worker: record
            for worker, record in self.workers.items()
            if worker not in listed and ended.get(worker, -1) < record.incarnation
        }
        return self._settle(listed, up_ms)

    def grow_older(self, up_ms: int) -> bool:
        """Nothing new but the directory's age. True: ``workers`` has changed."""
        if not self._missing:
            return False
        return self._settle({w: record for w, record in self.workers.items() if w not in self._missing}, up_ms)

    def _settle(self, listed: dict[WorkerId, WorkerRecord], up_ms: int) -> bool:
        if up_ms >= UP_MS:
            self._missing = {}
        before, self.workers = self.workers, {**listed, **self._missing}
        return before != self.workers


def unpack_roster(cluster: list[bytes], ended: list[bytes]) -> tuple[dict[WorkerId, Member], dict[WorkerId, int]]:
    """Both hashes, each as a flat list of fields and values. Raises ValueError."""
    members = {
        WorkerId(int(field[1:])): unpack_member(WorkerId(int(field[1:])), value)
        for field, value in zip(cluster[::2], cluster[1::2], strict=True)
        if field[:1] == b"w"
    }
    marks = {WorkerId(int(w)): int(incarnation) for w, incarnation in zip(ended[::2], ended[1::2], strict=True)}
    return members, marks
