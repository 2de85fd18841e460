"""The question of whether slots are still held, where an acquisition has reached one replica alone."""

from __future__ import annotations

from typing import Any

import trio
import trio.testing

from gateway.protocol.identifiers import WorkerId
from storage.scylla.ports import Statement
from storage.scylla.store import ScyllaStore
from tests.simulation.boundary import Boundary
from tests.simulation.cells import Mutation
from tests.simulation.cql import SCHEMA, read_schema
from tests.simulation.dice import Dice
from tests.simulation.executor import Plans, SimulatedExecutor
from tests.simulation.immediately import Immediately
from tests.simulation.replicas import Cluster

A, B = (WorkerId(1), 1), (WorkerId(2), 2)
SLOT = 5
PLACE = ("slots", 0)


class Choosing(SimulatedExecutor):
    """Asks the replicas 0 and 1 for marks, and 1 and 2 for rows."""

    async def read(self, statement: Statement, *values: Any) -> list[Any]:
        self.cluster.down_until_s = [0.0, 0.0, 9.0] if statement.name == "read_changed" else [9.0, 0.0, 0.0]
        try:
            return await super().read(statement, *values)
        finally:
            self.cluster.down_until_s = [0.0, 0.0, 0.0]

    cluster: Cluster


async def test_a_holder_that_saw_the_mark_of_an_acquisition_under_way_does_not_believe_beside_the_next_owner() -> None:
    cluster = Cluster(Immediately(), Dice(1), is_calm=True)
    executor = Choosing(cluster, Plans(read_schema(SCHEMA)), Boundary(lambda: 0.0))
    executor.cluster = cluster
    holder = ScyllaStore(executor)
    await holder.open()
    epochs = await holder.acquire_slots([SLOT], *A, {})
    assert await holder.still_held(epochs, *A) == {SLOT}

    seen = await holder.read_slots([SLOT])
    commit = await _half_an_acquisition(cluster, seen)
    await holder.still_held(epochs, *A)
    for replica in cluster.replicas:  # the acquisition returns
        replica[PLACE].apply(commit.rows, commit.tombstones)
    assert await holder.still_held(epochs, *A) == set()
    await holder.close()


async def _half_an_acquisition(cluster: Cluster, seen: Any) -> Mutation:
    """B's acquisition is decided, and its commit has reached replica 0 alone."""
    before = [dict(replica[PLACE].rows) for replica in cluster.replicas]
    other = ScyllaStore(SimulatedExecutor(cluster, Plans(read_schema(SCHEMA)), Boundary(lambda: 0.0)))
    await other.open()
    await other.acquire_slots([SLOT], *B, seen)
    await trio.testing.wait_all_tasks_blocked()
    commit = Mutation(PLACE, dict(cluster.replicas[0][PLACE].rows))
    for replica, rows in list(zip(cluster.replicas, before, strict=True))[1:]:
        replica[PLACE].rows = rows
    await other.close()
    return commit
