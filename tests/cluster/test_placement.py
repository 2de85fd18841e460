"""Who should own a slot."""

from __future__ import annotations

import random
from collections import Counter

from gateway.cluster.placement import Placement
from storage.api import SLOTS
from tests.cluster.directories import record


def owners_under(placement: Placement) -> list[int | None]:
    return [placement.owner_of(slot) for slot in range(SLOTS)]


def owners(*workers: int, draining: tuple[int, ...] = ()) -> list[int | None]:
    placement = Placement(record(worker, is_draining=worker in draining) for worker in workers)
    return owners_under(placement)


def test_without_workers_nobody_owns_a_slot() -> None:
    assert set(owners()) == {None}


def test_slots_are_spread_evenly() -> None:
    counts = Counter(owners(*range(1, 9)))
    assert len(counts) == 8
    assert all(0.9 * SLOTS / 8 < count < 1.1 * SLOTS / 8 for count in counts.values())


def test_the_order_in_which_workers_are_told_does_not_matter() -> None:
    assert owners(1, 2, 3) == owners(3, 1, 2)


def test_a_worker_that_comes_takes_slots_and_moves_no_other() -> None:
    before, after = owners(1, 2, 3), owners(1, 2, 3, 4)
    assert {new for old, new in zip(before, after, strict=True) if old != new} == {4}


def test_a_draining_worker_owns_nothing() -> None:
    assert owners(1, 2, 3, draining=(2,)) == owners(1, 3)


def test_when_all_drain_they_serve_on() -> None:
    assert owners(1, 2, draining=(1, 2)) == owners(1, 2)


def test_however_a_set_of_workers_came_about_its_owners_are_the_same() -> None:
    """Everybody computes them for itself, from other histories."""
    chance = random.Random(7)
    placement = Placement()
    for _ in range(30):
        workers = chance.sample(range(1, 12), chance.randint(0, 8))
        draining = tuple(worker for worker in workers if chance.random() < 0.2)
        placement.update(record(worker, is_draining=worker in draining) for worker in workers)
        for slot in chance.sample(range(SLOTS), 200):
            placement.owner_of(slot)
    placement.update(record(worker) for worker in (2, 3, 5))
    assert owners_under(placement) == owners(2, 3, 5)
    placement.update(record(worker) for worker in (2, 3, 4, 9))
    assert owners_under(placement) == owners(2, 3, 4, 9)
