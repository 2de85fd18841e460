"""Who owns which slot: conditional writes, the read that confirms, and what this worker may believe.

Owns the ``slots`` table: 64 slots a partition, because one conditional batch takes any number of them, and because the
question "do I still hold these 8,192?" must not read 8,192 rows. Every acquisition and release gives its partition a new
``changed``; the question reads these numbers alone, four requests for all partitions there are, and then the rows of those
partitions whose number has moved.

Owns too until when a confirmed epoch may be believed. The holder's own silence is the caller's part (``SlotTerms``); the
store needs it where one call of its own is two writes and the second must not follow the first once the slot may be
another's: changes after their rows, and all that follows an adoption.

Invariants: an epoch rises with each acquisition and never else; belief is counted from before the question was sent.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

from gateway.protocol.identifiers import Epoch, WorkerId
from storage.api import SlotRow, SlotTerms
from storage.scylla.parallel import chunks, for_each
from storage.scylla.ports import Executor, Write
from storage.scylla.statements import (
    CLAIM_NEW_SLOT,
    CLAIM_SLOT,
    KEYS_PER_READ,
    MARK_PART,
    READ_CHANGED,
    READ_SLOTS,
    RELEASE_SLOT,
    SLOTS_PER_PART,
)
from storage.slot_rows import NEVER, is_as_seen

TERMS = SlotTerms(wait_s=2.5, belief_s=2.0)
"""2 s: four questions at two a second. The wait is longer by half a second, for whatever else the clocks do."""

ATTEMPTS = 8
"""At one partition, each without the slots that somebody else was seen to take."""

Owner = tuple[WorkerId, int]
"""(worker, incarnation)."""


class _Confirmed(NamedTuple):
    epoch: int
    asked_s: float


class _Part(NamedTuple):
    changed: int | None
    rows: dict[int, SlotRow]


_NOT_READ = _Part(None, {})


def _by_part(slots: Collection[int]) -> dict[int, list[int]]:
    parts: dict[int, list[int]] = {}
    for slot in slots:
        parts.setdefault(slot // SLOTS_PER_PART, []).append(slot)
    return parts


class Slots:
    """``clock``: seconds, on a clock that does not stand still while the process does. ``draw``: a new random number."""

    def __init__(self, executor: Executor, clock: Callable[[], float], draw: Callable[[], int]) -> None:
        self._executor = executor
        self._clock = clock
        self._draw = draw
        self._confirmed: dict[int, _Confirmed] = {}
        self._parts: dict[int, _Part] = {}
        """As read last; good for as long as ``changed`` is the same."""

    # ---------------------------------------------------------------------------------------------- believing

    def is_doubtful(self, slot: int, epoch: int) -> bool:
        """Somebody else may own the slot: what was confirmed is too old, or was not confirmed. Of an epoch that nobody asked
        this handle about it knows nothing, and the caller's word counts."""
        confirmed = self._confirmed.get(slot)
        if confirmed is None or confirmed.epoch < epoch:
            return False
        return confirmed.epoch > epoch or self._clock() - confirmed.asked_s > TERMS.belief_s

    def _doubt(self, slot: int, epoch: int) -> None:
        confirmed = self._confirmed.get(slot)
        if confirmed is None or confirmed.epoch <= epoch:
            self._confirmed[slot] = _Confirmed(epoch, -math.inf)

    # ---------------------------------------------------------------------------------------------- acquiring

    async def acquire(self, slots: Sequence[int], owner: Owner, seen: Mapping[int, SlotRow]) -> dict[int, Epoch]:
        async def acquire_part(part: tuple[int, list[int]]) -> dict[int, Epoch]:
            return await self._acquire_part(*part, owner, seen)

        won = await for_each(acquire_part, list(_by_part(dict.fromkeys(slots)).items()))
        return {slot: epoch for of_part in won for slot, epoch in of_part.items()}

    async def _acquire_part(
        self, part: int, slots: list[int], owner: Owner, seen: Mapping[int, SlotRow]
    ) -> dict[int, Epoch]:
        for _ in range(ATTEMPTS):
            asked_s = self._clock()
            claims = [self._claim(part, slot, owner, seen.get(slot)) for slot in slots]
            if (await self._decide(part, claims)).is_applied:
                won = {slot: Epoch(seen.get(slot, NEVER).epoch + 1) for slot in slots}
                self._confirmed.update((slot, _Confirmed(epoch, asked_s)) for slot, epoch in won.items())
                return won
            stored = await self._read_serially(part)
            slots = [slot for slot in slots if is_as_seen(stored.get(slot), seen.get(slot))]
            if not slots:
                break
        return {}

    def _claim(self, part: int, slot: int, owner: Owner, seen: SlotRow | None) -> Write:
        if seen is None or seen.epoch == 0:
            return Write(CLAIM_NEW_SLOT, (part, slot, 1, *owner))
        return Write(CLAIM_SLOT, (seen.epoch + 1, *owner, part, slot, *seen))

    async def _decide(self, part: int, writes: list[Write]) -> Any:
        return await self._executor.decide([*writes, Write(MARK_PART, (self._draw(), part))])

    async def read(self, slots: Sequence[int]) -> dict[int, SlotRow]:
        parts = await for_each(self._read_serially, list(_by_part(slots)))
        stored = {slot: row for of_part in parts for slot, row in of_part.items()}
        return {slot: stored[slot] for slot in slots if slot in stored}

    async def _read_serially(self, part: int) -> dict[int, SlotRow]:
        return _part_of(await self._executor.read_serially(READ_SLOTS, part)).rows

    # -------------------------------------------------------------------------------------- holding, releasing

    async def still_held(self, epochs: Mapping[int, Epoch], owner: Owner) -> set[int]:
        asked_s = self._clock()
        parts = await self._current(sorted({slot // SLOTS_PER_PART for slot in epochs}))
        held = set()
        for slot, epoch in epochs.items():
            if parts[slot // SLOTS_PER_PART].rows.get(slot) == (epoch, *owner, False):
                held.add(slot)
                self._confirmed[slot] = _Confirmed(epoch, asked_s)
            else:
                self._doubt(slot, epoch)
        return held

    async def _current(self, parts: Sequence[int]) -> dict[int, _Part]:
        answers: list[Any] = await for_each(self._read_changed, chunks(parts, KEYS_PER_READ))
        changed = {part: number for rows in answers for part, number in rows}
        current = {
            part: self._parts.get(part, _NOT_READ) for part in parts
        }  # before another call may put older ones here
        moved = [part for part, number in changed.items() if current[part].changed != number]
        current.update(zip(moved, await for_each(self._read_part, moved), strict=True))
        current.update((part, _Part(None, {})) for part in parts if part not in changed)
        self._parts.update(current)
        return current

    async def _read_changed(self, parts: Sequence[int]) -> Any:
        return await self._executor.read(READ_CHANGED, tuple(parts))

    async def _read_part(self, part: int) -> _Part:
        """Serially. A quorum read of the marks repairs just the marks that it returns: so a second quorum may know the mark
        of an acquisition, and not its rows yet. Read so, the holder would keep the old rows under the new mark, and believe
        for ever."""
        return _part_of(await self._executor.read_serially(READ_SLOTS, part))

    async def release(self, epochs: Mapping[int, Epoch], owner: Owner) -> None:
        async def release_part(part: tuple[int, list[int]]) -> None:
            await self._release_part(*part, epochs, owner)

        for slot, epoch in epochs.items():
            self._doubt(slot, epoch)
        await for_each(release_part, list(_by_part(epochs).items()))

    async def _release_part(self, part: int, slots: list[int], epochs: Mapping[int, Epoch], owner: Owner) -> None:
        """What is not the caller's any more stays so: nobody takes an epoch back, so this ends after two attempts unless
        slots are lost between them."""
        for _ in range(ATTEMPTS):
            writes = [Write(RELEASE_SLOT, (part, slot, epochs[slot], *owner)) for slot in slots]
            if (await self._decide(part, writes)).is_applied:
                return
            stored = await self._read_serially(part)
            slots = [slot for slot in slots if stored.get(slot, NEVER)[:3] == (epochs[slot], *owner)]
            if not slots:
                return


def _part_of(rows: Sequence[Any]) -> _Part:
    parsed = {
        slot: SlotRow(epoch, WorkerId(worker), incarnation, bool(is_released))
        for slot, epoch, worker, incarnation, is_released, _ in rows
        if slot is not None
    }
    return _Part(rows[0][5] if rows else None, parsed)
