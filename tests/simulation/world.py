"""One schedule: workers, cluster, network and clients, from one seed, to the judgement.

Owns the course of a schedule. For ``CHAOS_S`` everything goes wrong (``faults.py``) while the clients live; then nothing does
any more, and every SEND must be answered. Then all workers end, and a last one serves every chat: the clients read what they
lack. Then it ends too, the latest mutations arrive, and the judge looks.

Everything comes from the seed: ``Dice(seed)``, Trio's own shuffling seeded alike, virtual time. So a seed is a
schedule.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import structlog
import trio

from gateway.protocol.identifiers import ID_LIMIT, ChatId, UserId, WorkerId
from gateway.protocol.messages import ChatChange, Op, Role, Send
from storage.api import Chat, ChatKind, Member
from storage.scylla.store import ScyllaStore
from tests.simulation.agenda import START_S, Agenda
from tests.simulation.boundary import Boundary
from tests.simulation.clients import Device, Uplink, is_final
from tests.simulation.cql import SCHEMA, read_schema
from tests.simulation.dice import Dice
from tests.simulation.directory import Registry
from tests.simulation.executor import Plans, SimulatedExecutor
from tests.simulation.faults import Faults
from tests.simulation.judge import Group, Judge
from tests.simulation.links import Network
from tests.simulation.replicas import Cluster
from tests.simulation.worker import SimulatedWorker, Surrounding

CHAOS_S = 12.0
CALM_S = 25.0
"""After the faults, within which every SEND must be answered."""
LAST_S = 30.0
WINDOW = 3
"""SENDs of a device that may wait for their answers."""
CHANGES = 3
"""Tries of a change of members."""
ALICE, BOB, CAROL = 1, 2, 3
DEVICES = ((ALICE, 11), (ALICE, 12), (BOB, 21), (CAROL, 31))
CHATS = (ChatId(7), ChatId(7 + (1 << 14)), ChatId(8))
"""The first two share a slot."""
SCALE = {"SLOTS": 64, "BUCKET_BITS": 2, "BUCKET_ROWS": 4, "MAX_BATCH_ROWS": 3, "TAIL_ROWS": 4, "_LAST_OF_BUCKET": 3}
"""Buckets of 4 rows and batches of 3, so that their ends are met often: 4,096 and 64 in life."""
PACE = {"RETRY_S": 0.2, "AGAIN_S": 0.2, "PARKED_PERIOD_S": 0.2, "RECEIPT_PERIOD_S": 5.0, "STOPPING_PERIOD_S": 0.1}
"""What is asked again and again is asked less often than in life: most of a schedule's cost would be that."""
UNANSWERED, UNSERVED = "SENDs were never answered", "the last owner does not serve every chat"
LIVENESS = frozenset({UNANSWERED, UNSERVED})

W = TypeVar("W", bound="World")


class World:
    def __init__(self, seed: int, plans: Plans, *, is_traced: bool = False) -> None:
        self.rng = rng = Dice(seed)
        self.agenda = Agenda()
        self.cluster = self._make_cluster()
        self.network = Network(self.agenda, rng)
        self.registry = Registry(self.agenda, rng)
        chats = self._choose_chats()
        self.judge = Judge({chat_id: _group(chat_id) for chat_id in chats})
        self.answered = 0
        self._plans = plans
        self._around = Surrounding(self.agenda, rng, self.cluster, self._plans, self.network, self.registry)
        self._is_traced = is_traced
        self._workers: dict[WorkerId, SimulatedWorker] = {}
        self._workers_wanted = rng.setting(2, 2, 3)
        self._incarnations = itertools.count(1)
        self._numbers = itertools.count(1)
        self._bodies = itertools.count(1)
        self._send_gap_s = rng.setting(0.1, 0.03)
        self._changes = rng.setting(0.1, 0.25, 0.6)
        self._is_chaos = True
        self._unanswered = Counter[int]()
        self.uplink = Uplink(self.agenda, rng, self.say)
        whole = {ALICE, BOB}
        self.devices = [Device(ids, chats, self.judge, self.uplink, is_whole=ids[0] in whole) for ids in DEVICES]
        for chat_id, user_id in itertools.product(chats, whole):
            self.judge.checker.joined(user_id, chat_id)
        for user_id, device_id in DEVICES:
            self.judge.checker.connected(device_id, user_id)
        self.faults = Faults(self)

    def _make_cluster(self) -> Cluster:
        return Cluster(self.agenda, self.rng)

    def _choose_chats(self) -> Sequence[ChatId]:
        return CHATS[: self.rng.setting(3, 2, 1, 1)]

    def say(self, text: str) -> None:
        if self._is_traced:
            print(f"{self.agenda.now_s - START_S:8.3f}  {text}")

    # ------------------------------------------------------------------------------------------------ workers

    def living(self) -> Sequence[SimulatedWorker]:
        return [worker for worker in self._workers.values() if worker.is_ready]

    def kill(self, worker: SimulatedWorker) -> None:
        """SIGKILL; its supervisor starts it again, and tells the directory or does not."""
        if self._workers.get(worker.worker_id) is not worker or worker.boundary.is_ended:
            return
        self._end(worker)
        if self.rng.random() < 0.6:
            self.agenda.after(self.rng.uniform(0.05, 1), functools.partial(self.registry.ended, worker.record))
        self.agenda.after(self.rng.uniform(0.05, 3), functools.partial(self._start, worker.worker_id))

    def _end(self, worker: SimulatedWorker) -> None:
        self.say(f"worker {worker.worker_id} of incarnation {worker.incarnation} is killed")
        worker.end()
        self.network.ended(worker.worker_id)

    def _start(self, worker_id: WorkerId) -> None:
        if self._nursery is None:
            return
        worker = SimulatedWorker(self._around, worker_id, next(self._incarnations))
        self._workers[worker_id] = worker
        self.faults.watch(worker)
        self._trace(worker)
        self._nursery.start_soon(worker.run)

    def _trace(self, worker: SimulatedWorker) -> None:
        if not self._is_traced:
            return
        watch = worker.executor.on_write
        worker.executor.on_write = lambda statement: (
            self.say(f"worker {worker.worker_id} writes {statement.name}"),
            watch(statement),
        )[1]

    # ------------------------------------------------------------------------------------------------ the course

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.agenda.run)
            await self._found()
            async with trio.open_nursery() as self._nursery:
                await self._live()
                self._nursery.cancel_scope.cancel()
            self._nursery = None  # type: ignore[assignment]
            nursery.cancel_scope.cancel()
        self.agenda.finish_quietly()
        self.judge.conclude(self.cluster)

    async def _found(self) -> None:
        """Make the chats, before anything fails."""
        weather, self.cluster.weather = self.cluster.weather, Cluster(self.agenda, self.rng, is_calm=True).weather
        executor = SimulatedExecutor(self.cluster, self._plans, Boundary(self.agenda.current_time))
        store = ScyllaStore(executor)
        await store.open()
        for chat_id, group in self.judge.groups.items():
            await store.create_group(UserId(ALICE), b"%016d" % chat_id, group.chat, group.members)
        await store.close()
        self.cluster.weather = weather

    async def _live(self) -> None:
        for number in range(1, self._workers_wanted + 1):
            self._start(WorkerId(number))
        async with trio.open_nursery() as clients:
            with trio.move_on_after(CHAOS_S):
                async with trio.open_nursery() as chaos:
                    chaos.start_soon(self.faults.run)
                    for device in self.devices:
                        clients.start_soon(self._keep_up, device)
                        chaos.start_soon(self._keep_sending, device, clients)
            self.say("the faults end")
            self._is_chaos = False
            self.faults.end()
            self.uplink.late = 0.0
            with trio.move_on_after(CALM_S):
                while self._unanswered.total():
                    await trio.sleep(0.2)
            if self._unanswered.total():
                self.judge.found.append(UNANSWERED)
            clients.cancel_scope.cancel()
        await self._end_well()

    async def _end_well(self) -> None:
        """A last owner serves every chat, and everybody reads what they lack."""
        for worker in list(self._workers.values()):
            if not worker.boundary.is_ended:
                self._end(worker)
            self.registry.ended(worker.record)
        self._workers_wanted = 0
        self._start(last := WorkerId(100))
        self.say("the last owner")
        with trio.move_on_after(LAST_S) as scope:
            while not self._workers[last].is_ready:
                await trio.sleep(0.05)
            for device in self.devices:
                while not await self._catch_up(device, self._workers[last]):
                    await trio.sleep(0.3)
        if scope.cancelled_caught:
            self.judge.found.append(UNSERVED)
        self._end(self._workers[last])

    async def _catch_up(self, device: Device, worker: SimulatedWorker) -> bool:
        """False: once more."""
        is_there = device.is_connected and device.worker is worker
        if not is_there and not await device.connect(worker, next(self._numbers)):
            return False
        if not await device.sync(50):
            return False
        for chat_id in self.judge.groups:
            while device.holes.get(chat_id):
                before = device.cursor[chat_id]
                await device.fill(chat_id)
                if device.cursor[chat_id] == before:
                    return False
            if device.is_whole:
                self.judge.final_heads[chat_id] = max(device.cursor[chat_id], self.judge.final_heads.get(chat_id, 0))
        return True

    # ------------------------------------------------------------------------------------------------ clients

    async def _connected(self, device: Device) -> bool:
        if device.is_connected:
            return True
        living = self.living()
        if not living or not await device.connect(self.rng.choice(living), next(self._numbers)):
            return False
        await device.sync(self.rng.choice((2, 5, 50)))
        return device.is_connected

    async def _keep_up(self, device: Device) -> None:
        """Connect again, SYNC, fill holes, look back."""
        rng = self.rng
        while True:
            await trio.sleep(rng.uniform(0.1, 1.2))
            if not await self._connected(device):
                continue
            if device.is_lagged or rng.random() < 0.15:
                await device.sync(rng.choice((2, 5, 50)))
            for chat_id in list(device.holes):
                await device.fill(chat_id)
            if self._is_chaos and rng.random() < 0.1:
                device.hang_up()
            elif rng.random() < 0.5:
                chat_id = rng.choice([*device.cursor])
                if rng.random() < 0.3:
                    await device.page(chat_id, 0, device.cursor[chat_id] + 1, 50)
                else:
                    await device.page(chat_id, device.cursor[chat_id], ID_LIMIT - 1, 50)

    async def _keep_sending(self, device: Device, clients: trio.Nursery) -> None:
        rng = self.rng
        chats = list(self.judge.groups)
        while True:
            await trio.sleep(rng.uniform(0.02, self._send_gap_s * 2) * len(DEVICES))
            chat_id = rng.choice(chats)
            if self._unanswered[device.device_id] >= WINDOW:
                await trio.sleep(0.1)
                continue
            if device.user_id == ALICE and rng.random() < self._changes:
                wish = rng.choice(({"add": [CAROL]}, {"remove": [CAROL]}, {"title": f"title {next(self._bodies)}"}))
                change = ChatChange(chat_id, **wish)  # type: ignore[arg-type]
                clients.start_soon(self._change, device, change)
            else:
                body = b"%d" % next(self._bodies)
                self._unanswered[device.device_id] += 1
                clients.start_soon(self._deliver, device, Send(chat_id, body.rjust(16, b"."), 0, body))

    async def _change(self, device: Device, change: ChatChange) -> None:
        """It names what is to be, so it may be asked for again."""
        for _ in range(CHANGES):
            op, _ = await device.ask(Op.CHAT_CHANGE, change, 2.0)
            if op == Op.OK:
                return
            await trio.sleep(self.rng.uniform(0.2, 2))

    async def _deliver(self, device: Device, send: Send) -> None:
        """Send until it is answered, or give up."""
        rng = self.rng
        while True:
            code = await device.send(send, rng.choice((0.2, 1.5, 4.0)))
            if is_final(code):
                self.answered += code == Op.SENT
                break
            if self._is_chaos and rng.random() < 0.08:
                break  # gives up: the outcome stays unknown
            send = Send(send.chat_id, send.client_msg_id, send.kind, send.body, True)
            if rng.random() < 0.05:
                device.hang_up()
            await trio.sleep(rng.uniform(0.02, 1.5))
            while not device.is_connected:
                await trio.sleep(0.5)
        self._unanswered[device.device_id] -= 1


def _group(chat_id: ChatId) -> Group:
    members = [Member(ALICE, Role.ADMIN, 0, 0, 0), Member(BOB, Role.MEMBER, 0, 0, 0)]
    return Group(Chat(chat_id, ChatKind.GROUP, "", 1, 0), members)


@functools.cache
def plans() -> Plans:
    """Read once a process: what a statement does is the same in every schedule."""
    return Plans(read_schema(SCHEMA))


@contextlib.contextmanager
def small_scale() -> Iterator[None]:
    """The bounds of ``SCALE`` and ``PACE`` in every module of the project that has taken them over."""
    bounds = {**SCALE, **PACE}
    changed: list[tuple[Any, str, object]] = []
    for name, module in list(sys.modules.items()):
        if name.startswith(("gateway.", "storage.")):
            changed += [(module, bound, getattr(module, bound)) for bound in bounds if hasattr(module, bound)]
    for module, bound, _ in changed:
        setattr(module, bound, bounds[bound])
    try:
        yield
    finally:
        for module, bound, value in changed:
            setattr(module, bound, value)


def simulate(seed: int, *, is_traced: bool = False) -> World:
    """Run one schedule to its end."""
    return play(lambda: World(seed, plans(), is_traced=is_traced), seed)


def play(make: Callable[[], W], seed: int) -> W:
    """Run a world to its end."""
    trio._core._run._r.seed(seed)  # type: ignore[attr-defined]
    trio._core._run._ALLOW_DETERMINISTIC_SCHEDULING = True  # type: ignore[attr-defined]
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    with small_scale():
        world = make()
        trio.run(world.run, clock=world.agenda)
    return world
