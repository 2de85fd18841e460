"""What goes wrong in a schedule, and when.

Owns the choice. It knows workers, cluster, network and directory by what can be done to them; it knows no rule. A fault at
the moment that matters (a batch or an adoption has just left for the store) is drawn apart: by chance alone it would be rare.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

import trio

from gateway.protocol.identifiers import WorkerId
from storage.scylla.ports import Statement
from tests.simulation.agenda import Agenda
from tests.simulation.dice import Dice
from tests.simulation.directory import Registry
from tests.simulation.links import Network
from tests.simulation.replicas import REPLICAS, TIMEOUT_S, Cluster
from tests.simulation.worker import SimulatedWorker

MATTERS = frozenset({"put_message", "put_changing_message", "fence"})


class Stage(Protocol):
    """What faults happen to."""

    agenda: Agenda
    rng: Dice
    cluster: Cluster
    network: Network
    registry: Registry

    def living(self) -> Sequence[SimulatedWorker]: ...
    def kill(self, worker: SimulatedWorker) -> None: ...
    def say(self, text: str) -> None: ...


class Faults:
    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._random = rng = stage.rng
        self._gap_s = rng.setting(3.0, 1.2, 0.6)
        self._hits = rng.setting(0.0, 0.15, 0.4)
        self._is_over = False
        anything = [(3, self._pause), (1, self._kill), (4, self._deny), (1, self._move), (1, self._take_down)]
        anything += [(2, self._evict), (1, self._cut), (1, self._empty), (2, self._muffle)]
        ownership = [(3, self._pause), (6, self._deny), (4, self._muffle), (1, self._evict)]
        half_written = [(4, self._kill), (2, self._pause), (1, self._take_down), (1, self._deny), (1, self._evict)]
        weights = rng.choice((anything, ownership, half_written))
        self._kinds = [kind for weight, kind in weights for _ in range(weight)]

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await trio.sleep(self._random.uniform(0.05, self._gap_s * 2))
            self._random.choice(self._kinds)()

    def end(self) -> None:
        """Heal everything."""
        self._is_over = True
        stage = self._stage
        stage.cluster.calm()
        stage.network.mend_all()
        stage.registry.calm()
        for worker in stage.living():
            worker.boundary.resume()

    def watch(self, worker: SimulatedWorker) -> None:
        """Something of this worker's leaves for the store: a good moment."""
        worker.executor.on_write = partial(self._on_write, worker)

    def _on_write(self, worker: SimulatedWorker, statement: Statement) -> None:
        if self._is_over or statement.name not in MATTERS or self._random.random() >= self._hits:
            return
        delay_s = self._random.uniform(0, 0.03)
        self._stage.cluster.is_doomed = self._random.random() < 0.5
        if self._random.random() < 0.6:
            self._stage.agenda.after(delay_s, partial(self._pause_one, worker, self._random.uniform(2, 6)))
        else:
            self._stage.agenda.after(delay_s, partial(self._stage.kill, worker))

    def _one(self) -> SimulatedWorker | None:
        living = self._stage.living()
        return self._random.choice(living) if living else None

    def _pause(self) -> None:
        worker, rng = self._one(), self._random
        if worker is not None:
            self._pause_one(worker, rng.choice((rng.uniform(0.1, 2), rng.uniform(2, 4), rng.uniform(3, 7))))

    def _pause_one(self, worker: SimulatedWorker, seconds: float) -> None:
        if self._is_over or worker.boundary.is_paused or worker.boundary.is_ended:
            return
        self._stage.say(f"worker {worker.worker_id} pauses for {seconds:.2f} s")
        worker.boundary.pause()
        self._stage.agenda.after(seconds, worker.boundary.resume)
        if self._random.random() < 0.8:  # it shows no sign of life
            self._deny_one(worker.worker_id, seconds + self._random.uniform(-0.5, 0.5))

    def _kill(self) -> None:
        worker = self._one()
        if worker is not None:
            self._stage.kill(worker)

    def _deny(self) -> None:
        worker = self._one()
        if worker is not None:
            self._deny_one(worker.worker_id, self._random.uniform(0.2, 5))

    def _deny_one(self, worker: WorkerId, seconds: float) -> None:
        self._stage.say(f"the directory denies worker {worker} for {seconds:.2f} s")
        self._stage.registry.deny(worker, max(seconds, 0.1), is_to_all=self._random.random() < 0.8)

    def _move(self) -> None:
        """A planned move: the worker drains, and later does not."""
        worker = self._one()
        if worker is not None:
            self._stage.say(f"worker {worker.worker_id} drains")
            registry = self._stage.registry
            registry.joined(worker.record._replace(is_draining=True))
            self._stage.agenda.after(self._random.uniform(0.3, 4), partial(self._stay, worker))

    def _stay(self, worker: SimulatedWorker) -> None:
        if not worker.boundary.is_ended:
            self._stage.registry.joined(worker.record)

    def _take_down(self) -> None:
        replica, seconds = self._random.randrange(REPLICAS), self._random.uniform(0.3, 5)
        self._stage.say(f"replica {replica} is down for {seconds:.2f} s")
        self._stage.cluster.down_until_s[replica] = self._stage.agenda.now_s + seconds

    def _evict(self) -> None:
        for worker in self._stage.living():
            if not worker.boundary.is_paused:
                worker.evict()

    def _cut(self) -> None:
        living = self._stage.living()
        if len(living) > 1:
            one, other = self._random.sample(living, 2)
            seconds = self._random.uniform(0.05, 3)
            self._stage.say(f"workers {one.worker_id} and {other.worker_id} are cut off for {seconds:.2f} s")
            self._stage.network.cut(one.worker_id, other.worker_id, seconds)

    def _muffle(self) -> None:
        """What the store answers to one worker is late or lost, while all else goes on."""
        worker, seconds = self._one(), self._random.uniform(1, 5)
        if worker is not None:
            self._stage.say(f"worker {worker.worker_id} hardly hears the store for {seconds:.2f} s")
            until_s = self._stage.agenda.now_s + seconds
            worker.executor.fate = partial(self._decide, worker, until_s)

    def _decide(
        self, worker: SimulatedWorker, until_s: float, _name: str, answer: Callable[[], None], lose: Callable[[], None]
    ) -> None:
        agenda, dice = self._stage.agenda, self._random.random()
        if self._is_over or agenda.now_s > until_s or dice < 0.1:
            answer()
        elif dice < 0.6:
            agenda.after(TIMEOUT_S, lose)
        else:
            agenda.after(self._random.uniform(0, 1.9), answer)

    def _empty(self) -> None:
        self._stage.say("the directory forgets everything")
        self._stage.registry.forget_everything()
