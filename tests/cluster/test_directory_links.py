"""What only a directory over links has: broken links, missed events, another generation."""

from __future__ import annotations

import pytest
import trio

from gateway.cluster.directory import DirectoryUnavailable, Registration
from gateway.cluster.directory_client import DirectoryClient
from gateway.cluster.directory_table import DirectoryTable
from gateway.cluster.links import Peer
from gateway.protocol.identifiers import DeviceId, SessionId, UserId, WorkerId
from tests.cluster.directories import LinkedWorld, record
from tests.cluster.processes import Cluster

NOBODYS_OP = 0xFE
ANN, PHONE = UserId(1), DeviceId(1)


def session(session_id: int) -> Registration:
    return Registration(ANN, PHONE, SessionId(session_id), SessionId(0), 10_000)


@pytest.fixture
async def world(cluster: Cluster) -> LinkedWorld:
    world = LinkedWorld(DirectoryTable(), cluster)
    await world.start()
    return world


async def test_without_a_supervisor_joining_fails_as_unavailable(cluster: Cluster) -> None:
    one = await cluster.start(1)
    client = DirectoryClient(one.links, Peer(1, str(cluster.directory / "nobody.sock")))
    with pytest.raises(DirectoryUnavailable):
        await client.join(record(1))


async def test_before_joining_nothing_can_be_registered(world: LinkedWorld) -> None:
    one, _ = await world.view(1)
    with pytest.raises(DirectoryUnavailable):
        await one.register([session(5)])


async def test_after_a_broken_link_the_worker_joins_again_and_is_told_to_register(world: LinkedWorld) -> None:
    one, ones = await world.view(1)
    await one.join(record(1))
    await one.register([session(5)])
    process = world.processes[1]
    process.links.on_swept(process.conns[0])
    world.cluster.clock.now_s += 1
    await ones.generation.get()
    assert await one.locate([ANN]) == {ANN: ()}
    await one.register([session(5)])
    assert len((await one.locate([ANN]))[ANN]) == 1


async def test_a_worker_that_an_event_did_not_reach_is_asked_to_join_again(world: LinkedWorld) -> None:
    one, ones = await world.view(1)
    two, _ = await world.view(2)
    await one.join(record(1))
    await two.join(record(2))
    for size in (1 << 20, 1 << 10, 1):
        while world.supervisor.links.send(WorkerId(1), NOBODYS_OP, bytes(size)):
            pass  # no checkpoint: nothing is flushed
    await world.kill(2)
    with trio.fail_after(5):
        while set(one.workers) != {1}:
            await trio.lowlevel.checkpoint()
            world.server.tell_uninformed()
    await ones.generation.get()


async def test_the_peers_of_the_links_follow_the_workers(world: LinkedWorld) -> None:
    one, ones = await world.view(1)
    two, _ = await world.view(2)
    addresses = {worker: process.address for worker, process in world.processes.items()}
    await one.join(record(1)._replace(address=addresses[1]))
    await two.join(record(2)._replace(address=addresses[2]))
    await ones.workers.take(2)
    assert world.processes[1].links.send(WorkerId(2), 0xB0, b"")
    await world.kill(2)
    await ones.workers.get()
    assert not world.processes[1].links.send(WorkerId(2), 0xB0, b"")


async def test_a_registration_and_its_end_in_one_step_leave_nothing(world: LinkedWorld) -> None:
    one, _ = await world.view(1)
    await one.join(record(1))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.register, [session(5)])
        await trio.lowlevel.checkpoint()
        one.unregister(ANN, PHONE, SessionId(5))
    assert await one.locate([ANN]) == {ANN: ()}
