"""A world in which nothing happens by chance: a script decides what reaches which replica, and who lives when.

Owns the words that scripts are written in (``scenarios.py``). All else is the world's own: the same workers, clients, end and
judge. Each mutation reaches the replicas that the script names for its table, at once, and the others never, or when the
script says so; a quorum read asks the two replicas that it names. What no quorum has taken is not acknowledged.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Collection, Sequence
from functools import partial
from typing import Any

import trio

from gateway.protocol.identifiers import ChatId, WorkerId
from gateway.protocol.messages import Op, Send
from tests.simulation.agenda import Agenda
from tests.simulation.cells import Mutation
from tests.simulation.clients import Device
from tests.simulation.dice import Dice
from tests.simulation.replicas import TIMEOUT_S, Cluster
from tests.simulation.worker import SimulatedWorker
from tests.simulation.world import CHATS, UNANSWERED, World, plans, play

SOON_S = 0.001
PATIENCE_S = 30.0
TRIES = 10

Script = Callable[["Scene"], Awaitable[None]]


class ScriptedCluster(Cluster):
    def __init__(self, agenda: Agenda, rng: Dice) -> None:
        super().__init__(agenda, rng, is_calm=True)
        self.withheld: list[tuple[int, Mutation]] = []
        """What replicas have not been reached by, since ``only`` was called last."""
        self._asked: Sequence[int] = (0, 1)
        self._table = ""
        self._reached: Collection[int] = ()

    def ask(self, *replicas: int) -> None:
        """Who answers quorum reads from now on."""
        self._asked = replicas

    def only(self, table: str, *replicas: int) -> None:
        """What is written to this table reaches no others from now on."""
        self._table, self._reached, self.withheld = table, replicas, []

    def heal(self) -> None:
        """From now on everything reaches everybody. What was withheld stays so."""
        self._table = ""

    def deliver(self, withheld: Sequence[tuple[int, Mutation]]) -> None:
        for replica, mutation in withheld:
            self._deliver(replica, mutation)

    def _short(self) -> float:
        return SOON_S

    def _pair(self, up: Sequence[int]) -> Sequence[int]:
        return self._asked

    def _delays(self, replica: int, mutation: Mutation) -> list[float]:
        if mutation.place[0] != self._table or replica in self._reached:
            return [SOON_S]
        self.withheld.append((replica, mutation))
        return []


class Scene(World):
    """One chat. ``alice`` and ``bob`` are connected to nobody yet."""

    cluster: ScriptedCluster

    def __init__(self, script: Script, *, is_traced: bool = False) -> None:
        super().__init__(0, plans(), is_traced=is_traced)
        self.chat_id = CHATS[0]
        self.alice, _, self.bob, _ = self.devices
        self._script = script
        self._calm()

    def _make_cluster(self) -> Cluster:
        return ScriptedCluster(self.agenda, self.rng)

    def _choose_chats(self) -> Sequence[ChatId]:
        return CHATS[:1]

    def _calm(self) -> None:
        self.network.mend_all()
        self.registry.calm()
        self.uplink.late = 0.0
        self.faults.end()

    async def _live(self) -> None:
        await self._script(self)
        self.cluster.heal()
        await self._end_well()

    async def until(self, condition: Callable[[], object]) -> None:
        with trio.fail_after(PATIENCE_S):
            while not condition():
                await trio.sleep(SOON_S)

    # ------------------------------------------------------------------------------------------------ workers

    async def worker(self, number: int, *clients: Device, unseen: SimulatedWorker | None = None) -> SimulatedWorker:
        """A new one, and these clients connected to it. The directory does not name it and ``unseen`` to each other."""
        self._start(WorkerId(number))
        worker = self._workers[WorkerId(number)]
        if unseen is not None:
            worker.directory.lies[unseen.worker_id] = unseen.directory.lies[worker.worker_id] = math.inf
        await self.until(lambda: worker.is_ready)
        for device in clients:
            await self.move(device, worker)
        return worker

    async def move(self, device: Device, worker: SimulatedWorker) -> None:
        await self.until(partial(self._is_seen, worker))
        with trio.fail_after(PATIENCE_S):
            while not await device.connect(worker, next(self._numbers)):
                await trio.sleep(0.1)

    def _is_seen(self, worker: SimulatedWorker) -> bool:
        return worker.worker_id in worker.directory.workers

    def end(self, worker: SimulatedWorker) -> None:
        """It is killed, and everybody hears of it."""
        self._end(worker)
        self.registry.ended(worker.record)

    async def half_written(self, worker: SimulatedWorker) -> None:
        """The next thing of it that is not to reach all replicas has left; then it is killed."""
        await self.until(lambda: self.cluster.withheld)
        await trio.sleep(0.1)
        self.end(worker)

    # ------------------------------------------------------------------------------------------------ clients

    async def send(self, device: Device, body: bytes, *, is_retry: bool = False, within_s: float = 4.0) -> int:
        """The op of the reply, or the code of its ERROR; 0: none."""
        return await device.send(Send(self.chat_id, body.rjust(16, b"."), 0, body, is_retry), within_s)

    async def insist(self, device: Device, *bodies: bytes) -> None:
        """Send each until it is acknowledged."""
        for body in bodies:
            for number in range(TRIES):
                if await self.send(device, body, is_retry=number > 0) == Op.SENT:
                    break
                await trio.sleep(0.3)
            else:
                self.judge.found.append(UNANSWERED)

    def soon(self, step: Callable[..., Awaitable[Any]], *args: Any) -> None:
        """In the background: nobody waits for its end."""
        self._nursery.start_soon(step, *args)


def lose_confirmations(scene: Scene, worker: SimulatedWorker, *, but_first_after_s: float | None = None) -> list[float]:
    """From now on the worker hears nothing when it asks whether its slots are its own, or just the first answer, late.
    Returns the moments at which the store answered, as they come."""
    answered: list[float] = []

    def decide(name: str, answer: Callable[[], None], lose: Callable[[], None]) -> None:
        if name != "read_changed":
            answer()
            return
        answered.append(scene.agenda.now_s)
        if but_first_after_s is not None and len(answered) == 1:
            scene.agenda.after(but_first_after_s, answer)
        else:
            scene.agenda.after(TIMEOUT_S, lose)

    worker.executor.fate = decide
    return answered


def violations_of(script: Script, *, is_traced: bool = False) -> list[str]:
    return play(lambda: Scene(script, is_traced=is_traced), 0).judge.violations()
