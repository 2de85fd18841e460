"""Three calm replicas, of which a test says which ones a write reaches and which ones answer.

Owns the control; the replicas are the simulation's. Time is virtual.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import trio

import storage
from gateway.protocol.identifiers import Epoch
from storage.scylla.ports import Statement, Write
from storage.scylla.store import ScyllaStore, Surroundings
from tests.simulation.agenda import Agenda
from tests.simulation.boundary import Boundary
from tests.simulation.cells import Mutation
from tests.simulation.cql import read_schema
from tests.simulation.dice import Dice
from tests.simulation.executor import Plans, SimulatedExecutor
from tests.simulation.replicas import TIMEOUT_S, Cluster
from tests.storage.logs import own

SCHEMA = Path(storage.__path__[0]) / "schema" / "scylla"


class Replicas(Cluster):
    """``reached``: the replicas that writes reach, at once; None: all of them, as usual. Fewer than two: it times out."""

    def __init__(self, agenda: Agenda) -> None:
        super().__init__(agenda, Dice(1), is_calm=True)
        self.reached: Sequence[int] | None = None
        self._clock = agenda

    def write(self, mutations: Sequence[Mutation], done: Callable[[bool], None]) -> None:
        if self.reached is None:
            super().write(mutations, done)
            return
        for replica, mutation in itertools.product(self.reached, mutations):
            self.replicas[replica][mutation.place].apply(mutation.rows, mutation.tombstones)
        self._clock.after(TIMEOUT_S, partial(done, len(self.reached) > 1))

    def answer_with(self, *replicas: int) -> None:
        """Only these two, or three, are up."""
        self.down_until_s = [0.0 if replica in replicas else math.inf for replica in range(3)]


class Three(Agenda):
    """Is the test's clock, as whatever a test takes that is one."""

    def __init__(self) -> None:
        super().__init__()
        self.replicas = Replicas(self)
        self.sent: list[str] = []
        """The names of the first statements of what was written."""
        self._is_running = False
        self._plans = Plans(read_schema(SCHEMA))

    def executor(self) -> SimulatedExecutor:
        if not self._is_running:
            self._is_running = True
            trio.lowlevel.spawn_system_task(self.run)
        executor = SimulatedExecutor(self.replicas, self._plans, Boundary(self.current_time))
        executor.on_write = self._note
        return executor

    async def store(self, **options: Any) -> ScyllaStore:
        """One more worker's handle."""
        marks = itertools.count(random.Random(len(self.sent)).getrandbits(60))
        surroundings = Surroundings(self.current_time, lambda: int(self.current_time() * 1e6), lambda: next(marks))
        store = ScyllaStore(self.executor(), surroundings=surroundings, **options)
        await store.open()
        return store

    async def owner(self, **options: Any) -> tuple[ScyllaStore, Epoch]:
        """One more worker, which has acquired the slot of CHAT."""
        store = await self.store(**options)
        return store, await own(store)

    async def executor_writes(self, writes: Sequence[Write]) -> None:
        """Past every rule: what somebody else may write."""
        executor = self.executor()
        await executor.open()
        await executor.write(writes)
        await executor.close()

    async def settle(self) -> None:
        """Until every replica has what is under way."""
        await trio.sleep(1)

    def _note(self, statement: Statement) -> None:
        self.sent.append(statement.name)
