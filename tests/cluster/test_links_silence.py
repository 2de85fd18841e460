"""Peers that are gone, and peers that only seem so: refusal as evidence, black holes, connections cut without a word.

A filter on a socket that takes nothing (SO_ATTACH_FILTER) is a network that loses every packet to it: its system sees none, so
it acknowledges none, and says so to nobody.
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct

import pytest
import trio

from gateway.cluster.handshake import Reason
from gateway.cluster.links import LinkLost, LinkSettings, Peer
from gateway.cluster.reachability import REFUSED_S, Reachability
from gateway.protocol.identifiers import WorkerId
from tests.cluster.processes import KEY, TCP, UNIX, Cluster, Inbox, Process, answer_nothing, echo

OP = 0xB0
ONE, TWO, THREE = WorkerId(1), WorkerId(2), WorkerId(3)
SO_ATTACH_FILTER = 26
QUICK = LinkSettings((KEY,), peer_timeout_s=1.0)


async def turns(count: int = 20) -> None:
    """Let the processes see what the loopback has delivered already."""
    for _ in range(count):
        await trio.lowlevel.checkpoint()


async def failures(process: Process, wanted: int) -> None:
    with trio.fail_after(5):
        while sum(process.links.statistics().failures.values()) < wanted:
            await trio.lowlevel.checkpoint()


def ends_between(process: Process, peer: Process) -> list[socket.socket]:
    """``process``'s ends of its connections with ``peer``, while no third process is connected to the peer."""
    ends = []
    for name in os.listdir("/proc/self/fd"):
        try:
            sock = socket.socket(fileno=os.dup(int(name)))
        except OSError:
            continue  # no socket, or the descriptor of the listing itself
        if sock.family == socket.AF_INET and _is_between(sock, process, peer):
            ends.append(sock)
        else:
            sock.close()
    return ends


def lose_packets_to(ends: list[socket.socket]) -> None:
    program = ctypes.create_string_buffer(struct.pack("HBBI", 6, 0, 0, 0))  # return 0: take no byte of it
    attached = struct.pack("HxxxxxxP", 1, ctypes.addressof(program))
    for sock in ends:
        with sock:
            sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, attached)


def _is_between(sock: socket.socket, process: Process, peer: Process) -> bool:
    """Is it ``process``'s end of a connection with ``peer``?"""
    if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        return False
    try:
        remote_port = sock.getpeername()[1]
    except OSError:
        return False
    local_port = sock.getsockname()[1]
    return bool(local_port == process.port or remote_port == peer.port)


class Unserved:
    """A listener that nobody serves, and its address."""

    def __init__(self, cluster: Cluster) -> None:
        if cluster.settings.keys:
            self.listener = socket.create_server(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{self.listener.getsockname()[1]}"
        else:
            self.listener, self.address = socket.socket(socket.AF_UNIX), str(cluster.directory / "mute.sock")
            self.listener.bind(self.address)
            self.listener.listen(16)

    def __enter__(self) -> tuple[socket.socket, str]:
        return self.listener, self.address

    def __exit__(self, *_: object) -> None:
        self.listener.close()


# --------------------------------------------------------------------------------------------- evidence


@pytest.mark.parametrize(
    ("events", "is_gone"),
    [
        ([], False),
        ([("refused", 1.0)], False),
        ([("refused", 1.0), ("refused", 1.0 + REFUSED_S)], True),
        ([("refused", 1.0), ("refused", 1.0 + REFUSED_S / 2)], False),
        ([("refused", 1.0), ("not_refused", 1.1), ("refused", 2.0)], False),
        ([("refused", 1.0), ("refused", 2.0), ("not_refused", 2.1)], False),
        ([("not_refused", 1.0), ("refused", 2.0), ("refused", 2.2), ("refused", 2.4)], True),
    ],
)
def test_only_refusals_without_anything_between_are_evidence(events: list[tuple[str, float]], is_gone: bool) -> None:
    reachability = Reachability()
    for event, at_s in events:
        if event == "refused":
            reachability.refused(at_s)
        else:
            reachability.not_refused()
    assert reachability.is_gone == is_gone


@pytest.mark.parametrize("settings", [UNIX, TCP], ids=["unix", "tcp"])
async def test_a_process_that_ended_is_refused_and_one_that_lives_is_not(cluster: Cluster) -> None:
    one, two, three = await cluster.start_all(1, 2, 3)
    lost = Inbox()
    one.links.on_lost = lost
    for process in (two, three):
        process.links.register(OP, echo)
        await one.links.call(process.worker, OP, b"")
    two.stop()
    assert await lost.get() == (TWO,)
    assert not one.links.is_refused(TWO)
    for asked in range(1, 6):  # asking is what makes it look; the answer is ready a little later
        cluster.clock.now_s += 0.11
        one.links.is_refused(TWO)
        await failures(one, asked)
    assert one.links.is_refused(TWO)
    assert not one.links.is_refused(THREE)
    assert not one.links.is_refused(WorkerId(7))
    assert not one.links.is_refused(ONE)


@pytest.mark.parametrize("settings", [UNIX, TCP], ids=["unix", "tcp"])
async def test_who_was_asked_about_is_tried_again_by_the_tick(cluster: Cluster) -> None:
    one, two = await cluster.start_all(1, 2)
    two.stop()
    await turns()
    one.links.is_refused(TWO)
    await failures(one, 1)
    for tried in (2, 3):
        cluster.clock.now_s += 0.25
        one.links.tick()
        await failures(one, tried)
    assert one.links.is_refused(TWO)


@pytest.mark.parametrize("settings", [UNIX, TCP], ids=["unix", "tcp"])
async def test_a_process_that_hears_nothing_is_not_refused(cluster: Cluster) -> None:
    """As one that is stopped: its system accepts for it, and nobody answers."""
    (one,) = await cluster.start_all(1)
    with Unserved(cluster) as (_, address):
        one.links.set_peers({TWO: Peer(1, address)})
        ended = Inbox()
        one.links.request(TWO, OP, b"", ended)
        for _ in range(20):
            cluster.clock.now_s += 0.5
            one.links.tick()
            await turns(5)
            assert not one.links.is_refused(TWO)
        (answer,) = await ended.get()
    assert isinstance(answer, LinkLost)
    assert not answer.is_unknown
    assert one.links.statistics().failures[Reason.TIMEOUT] >= 1


@pytest.mark.parametrize("settings", [TCP])
async def test_a_host_that_swallows_everything_is_not_refused(cluster: Cluster) -> None:
    (one,) = await cluster.start_all(1)
    with Unserved(cluster) as (listener, address):
        listener.listen(0)
        with socket.create_connection(listener.getsockname()):  # its backlog is full: who comes now is not answered
            one.links.set_peers({TWO: Peer(1, address)})
            ended = Inbox()
            one.links.request(TWO, OP, b"", ended)
            one.links.push(TWO, b"frame", [(1, 1)])
            for _ in range(20):
                cluster.clock.now_s += 0.5
                one.links.tick()
                await turns(5)
                assert not one.links.is_refused(TWO)
            (answer,) = await ended.get()
    assert isinstance(answer, LinkLost)
    assert not answer.is_unknown


@pytest.mark.parametrize("settings", [UNIX, TCP], ids=["unix", "tcp"])
async def test_a_process_that_accepted_in_between_is_not_refused(cluster: Cluster) -> None:
    (one,) = await cluster.start_all(1)
    with Unserved(cluster) as (_, address):
        pass
    one.links.set_peers({TWO: Peer(1, address)})
    one.links.is_refused(TWO)
    await failures(one, 1)
    two = await cluster.start(2)
    one.links.set_peers({TWO: two.peer})
    cluster.clock.now_s += 0.11
    two.links.register(OP, echo)
    await one.links.call(TWO, OP, b"")
    two.stop()
    await turns()
    cluster.clock.now_s += 10
    one.links.is_refused(TWO)
    await failures(one, 2)
    assert not one.links.is_refused(TWO)


@pytest.mark.parametrize("settings", [UNIX, TCP], ids=["unix", "tcp"])
async def test_who_accepts_and_hangs_up_is_not_refused_and_soon_tried_again(cluster: Cluster) -> None:
    (one,) = await cluster.start_all(1)
    with Unserved(cluster) as (listener, address):
        one.links.set_peers({TWO: Peer(1, address)})
        for tried in range(1, 7):
            assert not one.links.is_refused(TWO)
            listener.settimeout(5)
            listener.accept()[0].close()
            await failures(one, tried)
            cluster.clock.now_s += 0.11


@pytest.mark.parametrize("settings", [UNIX])
async def test_a_full_backlog_is_no_refusal_and_is_left_alone_for_a_while(cluster: Cluster) -> None:
    (one,) = await cluster.start_all(1)
    with Unserved(cluster) as (listener, address), socket.socket(socket.AF_UNIX) as first:
        listener.listen(0)
        first.connect(address)
        one.links.set_peers({TWO: Peer(1, address)})
        for after_s, tried in ((0.0, 1), (0.5, 1), (0.6, 2), (1.1, 3)):
            cluster.clock.now_s += after_s
            assert not one.links.is_refused(TWO)
            assert sum(one.links.statistics().failures.values()) == tried


# ------------------------------------------------------------------------------- what waits for a connection


@pytest.mark.parametrize("settings", [TCP])
async def test_a_request_to_a_port_where_nobody_listens_ends_as_not_sent(cluster: Cluster) -> None:
    one, two = await cluster.start_all(1, 2)
    two.stop()
    await turns()
    with pytest.raises(LinkLost) as lost:
        await one.links.call(TWO, OP, b"")
    assert not lost.value.is_unknown


@pytest.mark.parametrize("settings", [TCP])
async def test_after_a_time_out_requests_end_at_once_for_a_while(cluster: Cluster) -> None:
    (one,) = await cluster.start_all(1)
    with Unserved(cluster) as (_, address):
        one.links.set_peers({TWO: Peer(1, address)})
        ended = Inbox()
        one.links.request(TWO, OP, b"", ended)
        cluster.clock.now_s += 6
        one.links.tick()
        await ended.get()
        assert not one.links.send(TWO, OP, b"")
        with pytest.raises(LinkLost):
            await one.links.call(TWO, OP, b"")
        cluster.clock.now_s += 1.1
        assert one.links.send(TWO, OP, b"")


@pytest.mark.parametrize("settings", [UNIX, TCP], ids=["unix", "tcp"])
async def test_what_was_lost_with_a_connection_that_never_opened_is_announced(cluster: Cluster) -> None:
    (one,) = await cluster.start_all(1)
    lost = Inbox()
    one.links.on_lost = lost
    with Unserved(cluster) as (_, address):
        one.links.set_peers({TWO: Peer(1, address)})
        assert one.links.send(TWO, OP, b"one-way")
        cluster.clock.now_s += 6
        one.links.tick()
        assert await lost.get() == (TWO,)


@pytest.mark.parametrize("settings", [UNIX, TCP], ids=["unix", "tcp"])
async def test_pushes_for_a_connection_that_never_opened_go_out_with_the_next(cluster: Cluster) -> None:
    (one,) = await cluster.start_all(1)
    with Unserved(cluster) as (_, address):
        one.links.set_peers({TWO: Peer(1, address)})
        for number in range(3):
            one.links.push(TWO, b"%d" % number, [(1, 1)])
        cluster.clock.now_s += 6
        one.links.tick()
    two = await cluster.start(2)
    inbox = Inbox()
    two.links.on_push = inbox
    one.links.set_peers({TWO: two.peer})
    cluster.clock.now_s += 1.1
    one.links.tick()
    assert [frame for _, _, frame in await inbox.take(3)] == [b"0", b"1", b"2"]


@pytest.mark.parametrize("settings", [UNIX, TCP], ids=["unix", "tcp"])
async def test_requests_that_wait_for_a_connection_outlive_the_peers_own(cluster: Cluster) -> None:
    """The connection that the peer opened breaks while ours is being opened: nothing has left yet, so nothing is unknown."""
    one, two = await cluster.start_all(1, 2)
    two.links.register(OP, echo)
    one.links.register(OP, answer_nothing)
    one.links.set_peers({})
    two.links.send(ONE, OP + 1, b"hello")
    while not one.links.version_of(TWO):
        await trio.lowlevel.checkpoint()
    ended = Inbox()
    one.links.request(TWO, OP, b"waits", ended)
    one.links.on_swept(one.conns[-1])
    cluster.clock.now_s += 1  # past the peer's back-off: its answer needs a new connection
    assert await ended.get() == (b"waits",)


# ------------------------------------------------------------------------------------------ half-open


@pytest.mark.parametrize("settings", [QUICK])
@pytest.mark.parametrize("is_answer_lost", [True, False])
async def test_a_link_that_is_cut_one_way_ends_a_request_as_unknown(cluster: Cluster, is_answer_lost: bool) -> None:
    one, two = await cluster.start_all(1, 2)
    for process in (one, two):
        process.links.register(OP, echo)
    await one.links.call(TWO, OP, b"")
    await two.links.call(ONE, OP, b"")
    lose_packets_to(ends_between(one, two) if is_answer_lost else ends_between(two, one))
    ended = Inbox()
    one.links.request(TWO, OP, b"into the hole", ended)
    (answer,) = await ended.get()
    assert isinstance(answer, LinkLost)
    assert answer.is_unknown


@pytest.mark.parametrize("settings", [QUICK])
async def test_an_idle_link_that_is_cut_ends_at_both_ends_and_a_healthy_one_stays(cluster: Cluster) -> None:
    one, two = await cluster.start_all(1, 2)
    two.links.register(OP, echo)
    await one.links.call(TWO, OP, b"")
    ends = ends_between(two, one)
    assert len(ends) == 2
    three = await cluster.start(3)
    cluster.introduce(one, two, three)
    three.links.register(OP, echo)
    await one.links.call(THREE, OP, b"")
    lost_by_one, lost_by_two = Inbox(), Inbox()
    one.links.on_lost, two.links.on_lost = lost_by_one, lost_by_two
    before = three.links.statistics()
    lose_packets_to(ends)
    assert await lost_by_one.get() == (TWO,)
    assert await lost_by_two.get() == (ONE,)
    assert three.links.statistics() == before
    assert await one.links.call(THREE, OP, b"all is well") == b"all is well"
    assert three.links.statistics().connections == before.connections
