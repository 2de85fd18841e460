"""Workers that lease slots of one store over real links, and a chat layer that appends one row at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import trio
import trio.testing

from gateway.cluster.directory_local import LocalDirectory, LocalDirectoryHub
from gateway.cluster.directory_table import DirectoryTable
from gateway.cluster.links import Peer
from gateway.cluster.slots import Slots
from gateway.cluster.tenure import Tenure
from gateway.protocol.identifiers import Epoch, WorkerId, seq_of
from storage.api import Appended, Batch, Message, SlotLost, SlotRow, StoreError, StoreTimedOut
from storage.memory import MemoryDatabase, MemoryStore
from tests.cluster.directories import record
from tests.cluster.processes import Cluster

SOME = range(64)


class CountingStore(MemoryStore):
    """Counts the calls for slots, and fails them on demand."""

    def __init__(self, database: MemoryDatabase) -> None:
        super().__init__(database)
        self.acquisitions: list[list[int]] = []
        self.acquire_fails: StoreError | None = None
        self.acquire_times_out_after_it_happened = False
        self.release_fails: StoreError | None = None

    async def acquire_slots(
        self, slots: Sequence[int], worker: WorkerId, incarnation: int, seen: Mapping[int, SlotRow]
    ) -> dict[int, Epoch]:
        self.acquisitions.append(list(slots))
        if self.acquire_fails is not None:
            raise self.acquire_fails
        won = await super().acquire_slots(slots, worker, incarnation, seen)
        if self.acquire_times_out_after_it_happened:
            self.acquire_times_out_after_it_happened = False
            raise StoreTimedOut("no answer")
        return won

    async def release_slots(self, epochs: Mapping[int, Epoch], worker: WorkerId, incarnation: int) -> None:
        if self.release_fails is not None:
            raise self.release_fails
        await super().release_slots(epochs, worker, incarnation)


class Member:
    """A worker: slots on a store, a directory and links, with a chat layer that appends one row at a time."""

    def __init__(self, world: SlotWorld, worker: int, incarnation: int) -> None:
        self.world = world
        self.worker = WorkerId(worker)
        self.incarnation = incarnation
        self.store = CountingStore(world.database)
        self.stopped: list[list[int]] = []

    async def start(self) -> None:
        self.process = await self.world.cluster.start(self.worker, self.incarnation)
        await self.store.open()
        self.directory = LocalDirectory(self.world.hub)
        self.directory.events.on_workers = lambda workers: self.on_workers()
        self.slots = Slots(self.store, (self.worker, self.incarnation), self.directory, self.process.links)
        self.slots.on_stop = self.on_stop
        self.scope = trio.CancelScope()
        await self.world.cluster.nursery.start(self.run)

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        with self.scope:
            await self.slots.run(task_status=task_status)

    async def join(self) -> None:
        await self.directory.join(record(self.worker, self.incarnation)._replace(address=self.process.address))

    def on_workers(self) -> None:
        workers = self.directory.workers.values()
        self.process.links.set_peers({one.worker_id: Peer(one.incarnation, one.address) for one in workers})
        self.slots.on_workers()

    async def on_stop(self, slots: Sequence[int]) -> None:
        self.stopped.append(list(slots))
        for slot in slots:
            assert not self.world.database.slots[slot].is_released
        await trio.lowlevel.checkpoint()

    def die(self) -> None:
        self.scope.cancel()
        self.process.stop()

    async def append(self, tenure: Tenure) -> StoreError | SlotLost | None:
        """One row in the chat that has the slot's number, recorded if the store took it."""
        counter = self.world.next_counter()
        seq = seq_of(tenure.epoch, counter)
        row = Message(tenure.slot, seq, 0, 1, 1, 0, 0, b"", counter.to_bytes(16, "big"), None, b"")
        ended: list[Appended] = []
        done = trio.Event()

        def note(appended: Sequence[Appended]) -> None:
            ended.extend(appended)
            if ended[0].error is None:
                self.world.appended.append((tenure.slot, tenure.epoch, self.worker, self.incarnation))
            done.set()

        self.store.append(Batch(tenure.slot, tenure.epoch, 0, [row]), note)
        await done.wait()
        return ended[0].error


class SlotWorld:
    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.database = MemoryDatabase()
        self.table = DirectoryTable()
        self.hub = LocalDirectoryHub(self.table)
        self.appended: list[tuple[int, int, int, int]] = []
        """(slot, epoch, worker, incarnation) in the order in which the store took them."""
        self._counter = 0

    def next_counter(self) -> int:
        self._counter += 1
        return self._counter

    async def start(self, worker: int, incarnation: int = 1) -> Member:
        member = Member(self, worker, incarnation)
        await member.start()
        return member

    async def join(self, worker: int, incarnation: int = 1) -> Member:
        member = await self.start(worker, incarnation)
        await member.join()
        return member

    def kill(self, member: Member) -> None:
        member.die()
        self.hub.remove(member.worker, member.incarnation)

    async def drop(self, member: Member) -> None:
        """As ``kill``, and everybody has been told."""
        self.kill(member)
        await trio.testing.wait_all_tasks_blocked()


def slots_of(member: Member) -> list[int]:
    return [slot for slot in SOME if member.slots.owner_of(slot) == member.worker]


async def acquire_all(member: Member, slots: Sequence[int]) -> dict[int, Tenure]:
    tenures: dict[int, Tenure] = {}

    async def acquire(slot: int) -> None:
        tenures[slot] = await member.slots.acquire(slot)

    async with trio.open_nursery() as nursery:
        for slot in slots:
            nursery.start_soon(acquire, slot)
    return tenures
