"""Hundreds of schedules of everything that can go wrong, and proof that the simulation finds what it is there for."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from gateway.chat.actor import ChatActor
from gateway.chat.request import Request
from storage.api import Batch, SlotLost, StoreError, slot_of
from storage.memory import MemoryDatabase
from tests.chat.simulation import simulate
from tests.chat.world import ClockedActors, Worker

SEEDS = 160
GROUPS = 10


@pytest.mark.parametrize("group", range(GROUPS))
def test_whatever_fails_every_acknowledged_message_is_in_the_log_once_in_one_order(group: int) -> None:
    acknowledged = 0
    for seed in range(group, SEEDS, GROUPS):
        simulation = simulate(seed)
        acknowledged += simulation.acknowledged
        assert simulation.violations == [], f"seed {seed}"
    assert acknowledged > 50 * SEEDS // GROUPS, "the schedules do nothing"


def test_a_seed_is_a_schedule() -> None:
    logs = []
    for _ in range(2):
        database = MemoryDatabase()
        simulate(5, database)
        logs.append(database.logs)
    assert logs[0] == logs[1]


# ------------------------------------------------------------------------------------------ the test of the test


class Unfenced(MemoryDatabase):
    """A store that takes appends under any epoch."""

    def end(self, batch: Batch) -> StoreError | SlotLost | None:
        slot = slot_of(batch.chat_id)
        row = self.slots[slot]
        self.slots[slot] = row._replace(epoch=batch.epoch)
        try:
            return super().end(batch)
        finally:
            self.slots[slot] = row


class Hasty(ClockedActors):
    """Actors that take a batch for committed when the store has it."""

    def append(self, batch: Batch) -> None:
        super().append(batch)
        actor = self.loaded(batch.chat_id)  # type: ignore[arg-type]
        if actor is not None:
            actor.batch_ended(batch, None)


class Forgetful(ClockedActors):
    """Actors that do not ask the store whether a SEND is a resend."""

    def look_up(self, actor: ChatActor, requests: Sequence[Request]) -> None:
        actor.looked_up([], None)


class HastyWorker(Worker):
    actors_type = Hasty


class ForgetfulWorker(Worker):
    actors_type = Forgetful


@pytest.mark.parametrize(
    ("database_type", "worker_type"),
    [(Unfenced, Worker), (MemoryDatabase, HastyWorker), (MemoryDatabase, ForgetfulWorker)],
    ids=["without the fence", "without waiting for the commit", "without looking for resends"],
)
def test_the_simulation_finds_a_rule_that_is_taken_out(
    database_type: type[MemoryDatabase], worker_type: type[Worker]
) -> None:
    assert any(simulate(seed, database_type(), worker_type).violations for seed in range(100))
