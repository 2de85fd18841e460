"""Which worker should own a slot: rendezvous hashing, computed alike by everybody from the same set of workers.

Owns that function and its cache. Invariant: when a worker comes or goes, only the slots that it wins or held change
owner (Thaler and Ravishankar, "A name-based mapping scheme for rendezvous", 1996).
"""

from __future__ import annotations

from collections.abc import Iterable

from gateway.cluster.directory import WorkerRecord
from gateway.protocol.identifiers import WorkerId
from storage.api import SLOTS

_MASK = (1 << 64) - 1


class Placement:
    """The owners under the set of workers that ``update`` told last. A worker that drains owns nothing, unless all of them do:
    then they serve on.

    An owner is computed when it is first asked for, over all workers; after that a change of the set costs one comparison
    for a slot and a worker that came, and a computation anew for the slots of those that left. (Anew for every slot it is
    13 s of CPU with 1,600 workers, in each of them, at every step of a rolling restart.)
    """

    def __init__(self, workers: Iterable[WorkerRecord] = ()) -> None:
        self._candidates: set[WorkerId] = set()
        self._owners: list[WorkerId | None] = [None] * SLOTS
        self.update(workers)

    def update(self, workers: Iterable[WorkerRecord]) -> None:
        records = list(workers)
        staying = {record.worker_id for record in records if not record.is_draining}
        candidates = staying or {record.worker_id for record in records}
        came, left = candidates - self._candidates, self._candidates - candidates
        self._candidates = candidates
        for slot, owner in enumerate(self._owners):
            if owner in left:
                self._owners[slot] = None
            elif owner is not None and came:
                self._owners[slot] = max(owner, *came, key=lambda worker: _weight(slot, worker))

    def owner_of(self, slot: int) -> WorkerId | None:
        """None: no worker is known."""
        owner = self._owners[slot]
        if owner is None and self._candidates:
            owner = self._owners[slot] = max(self._candidates, key=lambda worker: _weight(slot, worker))
        return owner


def _weight(slot: int, worker: int) -> int:
    """A 64-bit mix (the finalizer of splitmix64). By the worker's number, not its incarnation: a restart moves nothing."""
    mixed = (slot << 32 | worker) * 0x9E3779B97F4A7C15 & _MASK
    mixed = (mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9 & _MASK
    mixed = (mixed ^ mixed >> 27) * 0x94D049BB133111EB & _MASK
    return mixed ^ mixed >> 31
