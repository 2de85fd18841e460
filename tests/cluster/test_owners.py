"""From a session to a chat's owner and back: two or three workers with real links, chats and slots on one store.

The invariant that SYNC rests on is tested here as well: a head is named only after the asking device is among the places to
which the owner sends.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import pytest
import trio
import trio.lowlevel
import trio.testing

from gateway.chat.actors import Actors, Surroundings
from gateway.chat.heads import HeadEntry
from gateway.chat.ports import Room
from gateway.chat.request import NOBODY, InternalOp, Mark, Request
from gateway.cluster.directory_local import LocalDirectory, LocalDirectoryHub
from gateway.cluster.directory_table import DirectoryTable
from gateway.cluster.handshake import Reason
from gateway.cluster.heads import Heads
from gateway.cluster.link_marks import MARKS_OP
from gateway.cluster.links import Peer
from gateway.cluster.locations import Locations
from gateway.cluster.placement import Placement
from gateway.cluster.routing import Router
from gateway.cluster.slots import Slots
from gateway.protocol.errors import Code
from gateway.protocol.frames import decode
from gateway.protocol.identifiers import ChatId, Epoch, UserId, WorkerId
from gateway.protocol.messages import ChatInfo, ChatInfoOk, Error, Op, Send, Sent
from storage.api import Chat, ChatKind, Head, Member, SlotRow, StoreTimedOut, slot_of
from storage.memory import MemoryDatabase, MemoryStore
from tests.cluster.directories import record
from tests.cluster.processes import Cluster

ANN, BEN = (1, 11), (2, 21)
CHATS = [ChatId(number) for number in range(1, 33)]
ROOM = Room(8, 1000, 1000, 10_000)


class WatchedStore(MemoryStore):
    """Notes whether the asking device was among the places when heads were read."""

    def __init__(self, database: MemoryDatabase) -> None:
        super().__init__(database)
        self.owner: Node | None = None
        self.places_at_reading: list[bool] = []
        self.may_acquire = trio.Event()
        self.may_acquire.set()

    async def acquire_slots(
        self, slots: Sequence[int], worker: WorkerId, incarnation: int, seen: Mapping[int, SlotRow]
    ) -> dict[int, Epoch]:
        if not self.may_acquire.is_set():
            await self.may_acquire.wait()
            raise StoreTimedOut("no answer in time")
        return await super().acquire_slots(slots, worker, incarnation, seen)

    async def heads(self, chats: Mapping[ChatId, Epoch]) -> dict[ChatId, Head]:
        assert self.owner is not None
        places = self.owner.locations.hint(UserId(ANN[0]))
        self.places_at_reading.append(any(place.device_id == ANN[1] for place in places))
        return await super().heads(chats)


class Answers:
    """The origin of all requests of a test: answers by rid."""

    def __init__(self) -> None:
        self.by_rid: dict[int, tuple[int, bytes]] = {}
        self.order: list[int] = []

    def answer(self, rid: int, op: int, payload: bytes) -> None:
        assert rid not in self.by_rid, "answered twice"
        self.by_rid[rid] = (op, payload)
        self.order.append(rid)

    async def get(self, rid: int) -> Sent | Error | ChatInfoOk:
        while rid not in self.by_rid:
            await trio.sleep(0.001)
        op, payload = self.by_rid[rid]
        if op == Op.SENT:
            return decode(Sent, payload)
        return decode(Error, payload) if op == Op.ERROR else decode(ChatInfoOk, payload)


class Node:
    """A worker without clients. ``pushed`` is what its chats' messages went to."""

    def __init__(self, world: World, worker: int, incarnation: int) -> None:
        self.world = world
        self.worker = WorkerId(worker)
        self.incarnation = incarnation
        self.store = WatchedStore(world.database)
        self.store.owner = self
        self.pushed: list[tuple[WorkerId, list[tuple[int, int]]]] = []
        self.scope = trio.CancelScope()

    async def start(self) -> None:
        cluster = self.world.cluster
        self.process = await cluster.start(self.worker, self.incarnation)
        links = self.process.links
        await self.store.open()
        self.directory = LocalDirectory(self.world.hub)
        self.slots = Slots(self.store, (self.worker, self.incarnation), self.directory, links)
        self.locations = Locations(self.directory, self.finish_cycle)
        around = Surroundings(
            store=self.store,
            locator=self.locations,
            postman=self,
            room=ROOM,
            flush=links.run_pending,
            on_sent=lambda received_s, rows: None,
            on_slot_lost=self.slots.lost,
            on_moved=lambda chat_id, request: self.router.take_back(chat_id, request),
        )
        self.actors = Actors(around)
        self.router = Router(links, self.slots, self.actors)
        self.heads = Heads(links, self.router, self.actors, self.locations, self.store)
        self.slots.on_stop = self.actors.stop
        self.directory.events.on_workers = lambda workers: self.on_workers()
        self.directory.events.on_moved = self.locations.moved
        await cluster.nursery.start(self.run)
        await self.directory.join(record(self.worker, self.incarnation)._replace(address=self.process.address))

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        with self.scope:
            async with trio.open_nursery() as nursery:
                for part in (self.slots, self.locations, self.actors, self.router, self.heads):
                    await nursery.start(part.run)
                task_status.started()

    def on_workers(self) -> None:
        workers = self.directory.workers.values()
        self.process.links.set_peers({one.worker_id: Peer(one.incarnation, one.address) for one in workers})
        self.slots.on_workers()

    def push(
        self, worker_id: WorkerId, recipients: Sequence[tuple[int, int]], frame: bytes, *, is_droppable: bool = False
    ) -> None:
        self.pushed.append((worker_id, [*recipients]))

    def finish_cycle(self) -> None:
        self.actors.finish_cycle()

    def ask(self, rid: int, chat_id: ChatId, message: Send | ChatInfo, *, received_s: float | None = None) -> None:
        op = Op.SEND if isinstance(message, Send) else Op.CHAT_INFO
        at = time.monotonic() if received_s is None else received_s
        self.router.request(chat_id, Request(op, message, ANN, self.world.answers, rid, at))
        self.finish_cycle()

    def send(self, rid: int, chat_id: ChatId, *, retry: bool = False) -> None:
        self.ask(rid, chat_id, Send(chat_id, rid.to_bytes(16, "big"), 0, b"%d" % rid, retry or None))

    def mark(self, chat_id: ChatId, seq: int) -> None:
        self.router.request(
            chat_id, Request(InternalOp.MARK, Mark(chat_id, seq, seq), ANN, NOBODY, 0, time.monotonic())
        )

    def die(self) -> None:
        self.scope.cancel()
        self.process.stop()
        self.world.hub.remove(self.worker, self.incarnation)


class World:
    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.database = MemoryDatabase()
        self.hub = LocalDirectoryHub(DirectoryTable())
        self.answers = Answers()
        for chat_id in CHATS:
            members = [Member(ANN[0], 0, 0, 0, 0), Member(BEN[0], 0, 0, 0, 0)]
            self.database.create_chat(Chat(chat_id, ChatKind.DIRECT, "", 1, 0), members)

    async def start(self, worker: int, incarnation: int = 1) -> Node:
        node = Node(self, worker, incarnation)
        await node.start()
        return node

    def log(self, chat_id: ChatId) -> list[int]:
        return [int(row.body) for row in self.database.logs.get(chat_id, [])]

    def chats_of(self, node: Node) -> list[ChatId]:
        return [chat_id for chat_id in CHATS if node.slots.owner_of(slot_of(chat_id)) == node.worker]


@pytest.fixture
async def world(cluster: Cluster) -> World:
    return World(cluster)


# ---------------------------------------------------------------------------------------------- requests


async def test_a_request_is_answered_from_whichever_worker_it_is_asked(world: World) -> None:
    one, two = await world.start(1), await world.start(2)
    await agreed(one, two)
    assert world.chats_of(one)
    assert world.chats_of(two)
    for rid, chat_id in enumerate(CHATS, 1):
        one.send(rid, chat_id)
    for rid, chat_id in enumerate(CHATS, 1):
        sent = await world.answers.get(rid)
        assert isinstance(sent, Sent)
        assert world.log(chat_id) == [rid]
    assert one.router.forwarded == len(world.chats_of(two))


async def test_the_marks_of_a_step_reach_another_owner_in_one_frame(world: World) -> None:
    one, two = await world.start(1), await world.start(2)
    await agreed(one, two)
    chats = world.chats_of(two)[:2]
    for rid, chat_id in enumerate(chats, 1):
        one.send(rid, chat_id)
    heads = {
        sent.chat_id: sent.seq for sent in [await world.answers.get(rid) for rid in (1, 2)] if isinstance(sent, Sent)
    }
    before = one.process.links.statistics().sent
    for chat_id in chats:
        one.mark(chat_id, heads[chat_id])
    await trio.testing.wait_all_tasks_blocked()
    assert one.process.links.statistics().sent - before == 1
    for rid, chat_id in enumerate(chats, 3):
        one.ask(rid, chat_id, ChatInfo(chat_id))
        info = await world.answers.get(rid)
        assert isinstance(info, ChatInfoOk)
        assert [(entry.delivered_seq, entry.read_seq) for entry in info.members if entry.user_id == ANN[0]] == [
            (heads[chat_id], heads[chat_id])
        ]


async def test_a_frame_of_marks_that_was_cut_breaks_the_link(world: World) -> None:
    one, two = await world.start(1), await world.start(2)
    await agreed(one, two)
    one.process.links.send(two.worker, MARKS_OP, bytes(41))
    await trio.testing.wait_all_tasks_blocked()
    assert two.process.links.statistics().failures[Reason.PROTOCOL] == 1


async def test_a_worker_that_ends_looks_for_no_owner_any_more(world: World) -> None:
    one = await world.start(1)
    one.scope.cancel()
    await trio.testing.wait_all_tasks_blocked()
    one.send(1, CHATS[0])
    refused = await world.answers.get(1)
    assert isinstance(refused, Error)
    assert refused.code == Code.MOVED


async def test_the_sends_of_one_asker_keep_their_order_while_a_slot_is_taken_and_over_a_link(world: World) -> None:
    one, two = await world.start(1), await world.start(2)
    await agreed(one, two)
    for chat_id in (world.chats_of(one)[0], world.chats_of(two)[0]):
        first = len(world.answers.order) + 1
        for rid in range(first, first + 20):
            one.send(rid, chat_id)
        for rid in range(first, first + 20):
            assert isinstance(await world.answers.get(rid), Sent)
        assert world.log(chat_id) == list(range(first, first + 20))


async def test_an_owner_that_dies_is_followed_by_another_and_nothing_is_written_twice(world: World) -> None:
    one, two = await world.start(1), await world.start(2)
    await agreed(one, two)
    chat_id = world.chats_of(two)[0]
    for rid in range(1, 6):
        one.send(rid, chat_id)
    await world.answers.get(5)
    for rid in range(6, 11):
        one.send(rid, chat_id)
    two.die()
    for rid in range(6, 11):
        assert isinstance(await world.answers.get(rid), Sent)
    assert world.log(chat_id) == list(range(1, 11))
    assert one.slots.tenure(slot_of(chat_id)) is not None


async def test_a_chat_moves_to_a_worker_that_joins_and_requests_find_it(world: World) -> None:
    one = await world.start(1)
    for rid, chat_id in enumerate(CHATS, 1):
        one.send(rid, chat_id)
    await world.answers.get(len(CHATS))
    two = await world.start(2)
    await agreed(one, two)
    while any(one.slots.tenure(slot_of(chat_id)) is not None for chat_id in world.chats_of(two)):
        await trio.sleep(0.001)
    for rid, chat_id in enumerate(CHATS, 101):
        one.send(rid, chat_id)
    for rid, chat_id in enumerate(CHATS, 101):
        sent = await world.answers.get(rid)
        assert isinstance(sent, Sent)
        assert world.log(chat_id) == [rid - 100, rid]
    assert {two.slots.tenure(slot_of(chat_id)) is not None for chat_id in world.chats_of(two)} == {True}


async def test_a_request_that_no_owner_takes_is_told_moved_when_its_patience_is_over(world: World) -> None:
    """The two disagree about the owner for good: each takes the other for it."""
    one, two = await world.start(1), await world.start(2)
    await agreed(one, two)
    chat_id = world.chats_of(two)[0]
    two.slots.owner_of = lambda slot: one.worker  # type: ignore[method-assign]
    one.ask(1, chat_id, ChatInfo(chat_id), received_s=time.monotonic() - 60)
    answer = await world.answers.get(1)
    assert isinstance(answer, Error)
    assert answer.code == Code.MOVED


async def test_what_waited_for_an_owner_that_another_replaced_goes_back_and_not_on(world: World) -> None:
    """Sent on, its SENT would come back over two links, behind the MSGs of the owner."""
    one, two = await world.start(1), await world.start(2)
    await agreed(one, two)
    two.store.may_acquire = trio.Event()
    moving = [chat_id for chat_id in CHATS if Placement(record(n) for n in (1, 2, 3)).owner_of(slot_of(chat_id)) == 3]
    chat_id = next(chat_id for chat_id in moving if chat_id in world.chats_of(two))
    one.send(1, chat_id)
    await trio.testing.wait_all_tasks_blocked(0.01)
    three = await world.start(3)
    await agreed(one, two, three)
    two.store.may_acquire.set()
    assert isinstance(await world.answers.get(1), Sent)
    assert world.log(chat_id) == [1]
    assert (one.router.forwarded, two.router.forwarded) == (2, 0)


# ------------------------------------------------------------------------------------------------- heads


async def test_heads_of_all_chats_come_from_their_owners(world: World) -> None:
    one, two = await world.start(1), await world.start(2)
    await agreed(one, two)
    for rid, chat_id in enumerate(CHATS[:8], 1):
        one.send(rid, chat_id)
    seqs = {}
    for rid, chat_id in enumerate(CHATS[:8], 1):
        sent = await world.answers.get(rid)
        assert isinstance(sent, Sent)
        seqs[chat_id] = sent.seq
    found = await one.heads.heads(ANN, 7, [(chat_id, False) for chat_id in CHATS])
    assert {chat_id: entry.head_seq for chat_id, entry in found.items()} == {c: seqs.get(c, 0) for c in CHATS}
    assert all(isinstance(entry, HeadEntry) for entry in found.values())


async def test_a_head_is_named_only_after_the_owner_has_added_the_place(world: World) -> None:
    one, two = await world.start(1), await world.start(2)
    await agreed(one, two)
    await one.heads.heads(ANN, 7, [(chat_id, False) for chat_id in CHATS])
    for owner in (one, two):
        assert owner.store.places_at_reading == [True]
        (place,) = owner.locations.hint(UserId(ANN[0]))
        assert (place.device_id, place.worker_id, place.session_id) == (ANN[1], one.worker, 7)
    chat_id = world.chats_of(two)[0]
    one.ask(1, chat_id, Send(chat_id, bytes(16), 0, b"1"))
    await world.answers.get(1)
    two.router.request(chat_id, Request(Op.SEND, Send(chat_id, b"b" * 16, 0, b"2"), BEN, world.answers, 2, 0.0))
    two.finish_cycle()
    await world.answers.get(2)
    assert two.pushed[-1] == (one.worker, [ANN])


async def test_a_device_that_is_not_there_any_more_is_no_place(world: World) -> None:
    one, two = await world.start(1), await world.start(2)
    await agreed(one, two)
    await one.heads.heads(ANN, 7, [(chat_id, False) for chat_id in CHATS])
    for owner in (one, two):
        one.heads.tell_gone(owner.worker, [ANN])
        while owner.locations.hint(UserId(ANN[0])):
            await trio.sleep(0.001)


async def test_heads_are_found_though_an_owner_dies_on_the_way(world: World) -> None:
    one, two = await world.start(1), await world.start(2)
    await agreed(one, two)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.heads.heads, ANN, 7, [(chat_id, False) for chat_id in CHATS])
        await trio.lowlevel.checkpoint()
        two.die()
    found = await one.heads.heads(ANN, 7, [(chat_id, False) for chat_id in CHATS])
    assert set(found) == set(CHATS)


async def agreed(*nodes: Node) -> None:
    """Wait until all of them know of each other."""
    while any(len(node.directory.workers) < len(nodes) for node in nodes):
        await trio.sleep(0.001)
