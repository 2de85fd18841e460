"""Three replicas behind coordinators that lose, delay and repeat.

Owns what a cluster of Cassandra or ScyllaDB may do to a request, and nothing of what is asked (``executor.py``).
  A mutation reaches each replica by itself: now, late, twice or never. It is atomic on a replica; several together are not.
  A write is acknowledged when two replicas have every mutation of it. That no acknowledgement comes says nothing: the
    coordinator may have died before anything left, or the answer was lost.
  A quorum read merges the snapshots that two replicas made at different moments, and repairs, before it answers, the rows
    that it returns: no others.
  A conditional write is linearizable where it is decided; its commit then reaches the replicas like any mutation, and a
    quorum read may miss it until it has been acknowledged. The next decision or serial read of the partition completes it.
  A replica that is down takes nothing; what it missed comes as a hint when it is up again, or never.

Everything comes from the schedule's own random numbers. Virtual seconds throughout.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

from tests.simulation.agenda import Timetable
from tests.simulation.cells import Bound, Cells, Key, Mutation, Partition, Tombstone, is_alive, is_within, merged
from tests.simulation.cql import Slice
from tests.simulation.dice import Dice

TIMEOUT_S = 1.0
"""After which a coordinator, or the driver in its place, gives up."""
REPLICAS = 3
NEVER_SOON_S = 10_000.0

Judge = Callable[[Partition, int], "tuple[bool, list[Any], Mutation | None]"]
"""Given what is decided so far and a ballot: (is it applied, what was found instead, what it changes)."""


class Want(NamedTuple):
    """What a read asks one partition for."""

    place: tuple[Any, ...]
    slices: Sequence[Slice]
    limit: int
    is_descending: bool
    is_static_only: bool
    columns: frozenset[str]


class Weather:
    """How bad a schedule's cluster is."""

    def __init__(self, rng: Dice) -> None:
        self.late = rng.setting(0.0, 0.05, 0.2, 0.4)
        self.never = rng.setting(0.0, 0.03, 0.1, 0.25)
        self.twice = rng.setting(0.0, 0.05, 0.2)
        self.lost_answers = rng.setting(0.0, 0.03, 0.1)
        self.lost_requests = rng.setting(0.0, 0.03, 0.1)
        self.slow_answers = rng.setting(0.0, 0.02, 0.1)

    def clear(self) -> None:
        self.late = self.never = self.twice = self.lost_answers = self.lost_requests = self.slow_answers = 0.0


class Cluster:
    def __init__(self, agenda: Timetable, rng: Dice, *, is_calm: bool = False) -> None:
        self.weather = Weather(rng)
        if is_calm:
            self.weather.clear()
        self.replicas = [defaultdict[Any, Partition](Partition) for _ in range(REPLICAS)]
        self.down_until_s = [0.0] * REPLICAS
        self.is_doomed = False
        """The coordinator of the next write dies."""
        self._agenda = agenda
        self._random = rng
        self._decided: dict[Any, Partition] = defaultdict(Partition)
        self._uncommitted: dict[Any, Mutation] = {}
        self._ballot = 1 << 40

    def calm(self) -> None:
        """From now on nothing fails. What was late stays late."""
        self.weather.clear()
        self.down_until_s = [0.0] * REPLICAS

    def final(self, place: tuple[Any, ...], replicas: Sequence[int] = range(REPLICAS)) -> dict[Key, Cells]:
        """What these replicas together hold of a partition now: the rows that show."""
        whole = merged(self.replicas[number][place] for number in replicas)
        return {key: cells for key, cells in whole.rows.items() if is_alive(cells)}

    # ------------------------------------------------------------------------------------------------- fates

    def _short(self) -> float:
        rng = self._random
        return rng.uniform(0.001, 0.02) if rng.random() < 0.93 else rng.uniform(0.02, 0.6)

    def _long(self) -> float:
        rng = self._random
        return rng.choice((rng.uniform(0.1, 3), rng.uniform(2, 9), rng.uniform(5, 30), NEVER_SOON_S))

    def _delays(self, replica: int, mutation: Mutation) -> list[float]:
        """When a mutation reaches a replica: after each of these."""
        rng, weather = self._random, self.weather
        down_s = self.down_until_s[replica] - self._agenda.now_s
        if down_s > 0:
            return [down_s + self._short() * 20] if rng.random() < 0.7 else []
        dice = rng.random()
        delays = (
            [] if dice < weather.never else [self._long() if dice < weather.never + weather.late else self._short()]
        )
        if weather.twice and rng.random() < weather.twice:
            delays.append(self._long())
        return delays

    def _deliver(self, replica: int, mutation: Mutation) -> None:
        self.replicas[replica][mutation.place].apply(mutation.rows, mutation.tombstones)

    # ------------------------------------------------------------------------------------------------ writes

    def write(self, mutations: Sequence[Mutation], done: Callable[[bool], None]) -> None:
        """``done(True)``: a quorum has all of it. ``done(False)``: unknown."""
        rng = self._random
        is_gone = (
            self.is_doomed or rng.random() < self.weather.lost_requests
        )  # the coordinator died: some of it arrives
        self.is_doomed = False
        is_silent = rng.random() < self.weather.lost_answers
        acknowledged_s = 0.0
        for mutation in mutations:
            firsts = []
            for replica in range(REPLICAS):
                delays = (
                    rng.choice(([], [self._short()], [self._long()])) if is_gone else self._delays(replica, mutation)
                )
                for delay_s in delays:
                    self._agenda.quietly_after(delay_s, partial(self._deliver, replica, mutation))
                if delays:
                    firsts.append(min(delays))
            firsts.sort()
            acknowledged_s = max(acknowledged_s, firsts[1] if len(firsts) > 1 else NEVER_SOON_S)
        acknowledged_s += 0.001 + (rng.random() < self.weather.slow_answers) * rng.random()
        if is_silent or acknowledged_s > TIMEOUT_S:
            self._agenda.after(TIMEOUT_S, partial(done, False))
        else:
            self._agenda.after(acknowledged_s, partial(done, True))

    # ------------------------------------------------------------------------------------------------- reads

    def read(self, want: Want, done: Callable[[dict[Key, Cells] | None], None]) -> None:
        """Quorum read: the rows in order, or None: no answer."""
        rng, now_s = self._random, self._agenda.now_s
        up = [number for number in range(REPLICAS) if self.down_until_s[number] <= now_s]
        pair = self._pair(up)
        if any(number not in up for number in pair) or rng.random() < self.weather.lost_answers:
            self._agenda.after(TIMEOUT_S, partial(done, None))
            return
        snapshots: dict[int, Partition] = {}
        first_s, second_s = sorted((self._short(), self._short()))
        self._agenda.quietly_after(first_s, partial(self._snap, pair[0], want, snapshots))
        self._agenda.after(second_s, partial(self._merge, pair[1], want, snapshots, now_s + TIMEOUT_S, done))

    def _pair(self, up: Sequence[int]) -> Sequence[int]:
        """The replicas that a quorum read asks. It cannot choose well where but one is up."""
        return self._random.sample(up if len(up) > 1 else range(REPLICAS), 2)

    def _snap(self, replica: int, want: Want, snapshots: dict[int, Partition]) -> None:
        snapshots[replica] = self.replicas[replica][want.place].cut(partial(_is_wanted, want))

    def _merge(
        self,
        replica: int,
        want: Want,
        snapshots: dict[int, Partition],
        deadline_s: float,
        done: Callable[[dict[Key, Cells] | None], None],
    ) -> None:
        self._agenda.catch_up()
        self._snap(replica, want, snapshots)
        whole = merged(snapshots.values())
        rows, slices = _answer(want, whole)
        answered_s = 0.0
        for number, snapshot in snapshots.items():
            mutation = self.repair(want, slices, rows, whole, snapshot)
            if mutation is not None:
                is_late = self._random.random() < self.weather.late / 2
                delay_s = self._long() if is_late else self._short()
                answered_s = max(answered_s, delay_s)
                self._agenda.quietly_after(delay_s, partial(self._deliver, number, mutation))
        if self.weather.slow_answers and self._random.random() < self.weather.slow_answers:
            answered_s += self._random.random()
        if answered_s == 0.0:
            done(rows)
        elif self._agenda.now_s + answered_s > deadline_s:
            self._agenda.at(deadline_s, partial(done, None))
        else:
            self._agenda.after(answered_s, partial(done, rows))

    def repair(
        self, want: Want, slices: Sequence[Slice], rows: dict[Key, Cells], whole: Partition, mine: Partition
    ) -> Mutation | None:
        """What a replica lacks of the answer: of the rows returned the columns that were asked for, and what is deleted between
        them."""
        fixes = {}
        for key, cells in rows.items():
            has = mine.rows.get(key, {})
            if has != cells:
                fix = {name: cell for name, cell in cells.items() if has.get(name) != cell}
                if fix:
                    fixes[key] = fix
        clipped = []
        for tombstone in whole.tombstones - mine.tombstones:
            clipped += [part for part in (_clip(tombstone, one) for one in slices) if part is not None]
        return Mutation(want.place, fixes, tuple(clipped)) if fixes or clipped else None

    # --------------------------------------------------------------------------------------- conditional writes

    def decide(
        self, place: tuple[Any, ...], judge: Judge, done: Callable[[tuple[bool, list[Any]] | None], None]
    ) -> None:
        """``done``: (is it applied, what was found instead), or None: unknown, and it may still happen."""
        rng, weather = self._random, self.weather
        is_lost = rng.random() < weather.lost_answers + weather.lost_requests
        answer = _Once(done)
        self._agenda.after(TIMEOUT_S, partial(answer, None))
        if not is_lost or rng.random() < 0.8:
            delay_s = self._long() if is_lost and rng.random() < 0.4 else self._short()
            self._agenda.after(delay_s, partial(self._happen, place, judge, is_lost, answer))

    def _happen(self, place: tuple[Any, ...], judge: Judge, is_lost: bool, answer: _Once) -> None:
        self._complete(place)
        self._ballot += 1
        is_applied, found, mutation = judge(self._decided[place], self._ballot)
        if mutation is None:
            if not is_lost:
                self._agenda.after(self._short(), partial(answer, (is_applied, found)))
            return
        self._decided[place].apply(mutation.rows, mutation.tombstones)
        self._uncommitted[place] = mutation
        self._agenda.after(self._long() if is_lost else self._short(), partial(self._commit, mutation, is_lost, answer))

    def _commit(self, mutation: Mutation, is_lost: bool, answer: _Once) -> None:
        self.write([mutation], lambda ok: answer((True, []) if ok and not is_lost else None))

    def is_decided(self, place: tuple[Any, ...]) -> bool:
        """Was anything decided about this partition?"""
        return bool(self._decided[place].rows)

    def _complete(self, place: tuple[Any, ...]) -> None:
        """Whoever decides next, or reads serially, makes sure that a quorum has what was decided before."""
        self._agenda.catch_up()
        mutation = self._uncommitted.pop(place, None)
        if mutation is not None:
            for replica in self._random.sample(range(REPLICAS), 2):
                self._deliver(replica, mutation)

    def read_serially(self, want: Want, done: Callable[[dict[Key, Cells] | None], None]) -> None:
        """As ``read``, but it completes what is under way, and sees it."""
        self._agenda.after(self._short(), partial(self._read_decided, want, done))

    def _read_decided(self, want: Want, done: Callable[[dict[Key, Cells] | None], None]) -> None:
        self._complete(want.place)
        self.read(want, done)


class _Once:
    def __init__(self, done: Callable[[Any], None]) -> None:
        self._done: Callable[[Any], None] | None = done

    def __call__(self, value: Any) -> None:
        done, self._done = self._done, None
        if done is not None:
            done(value)


def _is_wanted(want: Want, key: Key) -> bool:
    if key is None:
        return True
    return not want.is_static_only and any(is_within(key, one.low, one.high) for one in want.slices)


def _answer(want: Want, whole: Partition) -> tuple[dict[Key, Cells], Sequence[Slice]]:
    """The rows to return, the static one first, cut to the columns; and the range that this covers."""
    alive = [key for key, cells in whole.rows.items() if key is not None and is_alive(cells)]
    alive.sort(reverse=want.is_descending)  # type: ignore[type-var]
    rows = {None: whole.rows[None]} if None in whole.rows else {}
    rows.update((key, whole.rows[key]) for key in alive[: want.limit])
    rows = {key: {name: cell for name, cell in cells.items() if name in want.columns} for key, cells in rows.items()}
    if want.is_static_only:
        return rows, ()
    if len(alive) >= want.limit and alive:
        last = Bound(alive[want.limit - 1][0], True)  # type: ignore[index]
        (one,) = want.slices
        return rows, [Slice(last, one.high) if want.is_descending else Slice(one.low, last)]
    return rows, want.slices


def _clip(tombstone: Tombstone, within: Slice) -> Tombstone | None:
    low = _later(tombstone.low, within.low)
    high = _earlier(tombstone.high, within.high)
    if low is not None and high is not None and (low.value > high.value or (low.value == high.value and low != high)):
        return None
    return Tombstone(low, high, tombstone.timestamp)


def _later(one: Bound | None, other: Bound | None) -> Bound | None:
    if one is None or other is None:
        return one or other
    if one.value == other.value:
        return one if not one.is_inclusive else other
    return max(one, other)


def _earlier(one: Bound | None, other: Bound | None) -> Bound | None:
    if one is None or other is None:
        return one or other
    if one.value == other.value:
        return one if not one.is_inclusive else other
    return min(one, other)
