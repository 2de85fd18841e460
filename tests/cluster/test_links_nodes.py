"""Links between nodes: keys, versions, strangers at the TCP port. On loopback, with real kernels."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import structlog
import trio

from gateway.cluster.handshake import NONCE_BYTES, Opening, Party, Reason
from gateway.cluster.link_reception import MAX_STRANGERS
from gateway.cluster.links import LinkKey, LinkLost, LinkRefused, Links, LinkSettings, Peer, Reply
from gateway.cluster.wire import LinkOp, link_frame
from gateway.protocol.errors import Code
from gateway.protocol.identifiers import WorkerId
from gateway.pump import Kernel
from tests.cluster.processes import KEY, TCP, Cluster, Inbox, Process, answer_nothing, echo

OP = 0xB0
ONE, TWO, THREE = WorkerId(1), WorkerId(2), WorkerId(3)
OTHER = LinkKey("other", b"a secret of another cluster")
IMPOSTOR = LinkKey(KEY.key_id, b"of that name, but another secret")


@pytest.fixture
def settings() -> LinkSettings:
    return TCP


@asynccontextmanager
async def dialled(process: Process) -> AsyncIterator[trio.SocketStream]:
    stream = await trio.open_tcp_stream("127.0.0.1", process.port)
    async with stream:
        yield stream


async def read_frame(stream: trio.SocketStream) -> tuple[int, bytes]:
    """(op, payload)."""
    head = await read_exactly(stream, 12)
    return head[4], await read_exactly(stream, int.from_bytes(head[:4]) - 8)


async def read_exactly(stream: trio.SocketStream, size: int) -> bytes:
    received = b""
    while len(received) < size:
        part = await stream.receive_some(size - len(received))
        assert part, "it hung up"
        received += part
    return received


async def read_to_the_end(stream: trio.SocketStream) -> None:
    with trio.fail_after(5):
        try:
            while await stream.receive_some():
                pass
        except trio.BrokenResourceError:
            return


def opening_to(process: Process, key: LinkKey = KEY) -> Opening:
    party = Party(WorkerId(9), 1, (1, 2), (key,))
    hello = party.hello(
        (process.worker, process.incarnation), "", stream=5, proof=(key.key_id, os.urandom(NONCE_BYTES))
    )
    return Opening(party, hello, key)


async def not_reached(one: Process, two: Process) -> LinkLost:
    with pytest.raises(LinkLost) as lost:
        await one.links.call(two.worker, OP, b"")
    return lost.value


# ------------------------------------------------------------------------------------------------- keys


async def test_a_stranger_that_proves_the_key_is_heard(cluster: Cluster) -> None:
    (one,) = await cluster.start_all(1)
    inbox = Inbox()
    one.links.register(OP, inbox)
    async with dialled(one) as stream:
        opening = opening_to(one)
        await stream.send_all(opening.begin())
        assert opening.receive(*await read_frame(stream)) == b""
        await stream.send_all(opening.receive(*await read_frame(stream)) + link_frame(OP, 0, b"it is me"))
        assert await inbox.get() == (WorkerId(9), b"it is me", None)


async def test_a_replayed_handshake_is_refused_and_its_payload_never_read(cluster: Cluster) -> None:
    (one,) = await cluster.start_all(1)
    inbox = Inbox()
    one.links.register(OP, inbox)
    opening = opening_to(one)
    recorded = [opening.begin()]
    async with dialled(one) as stream:
        await stream.send_all(recorded[0])
        opening.receive(*await read_frame(stream))
        recorded.append(opening.receive(*await read_frame(stream)) + link_frame(OP, 0, b"once"))
        await stream.send_all(recorded[1])
        await inbox.get()
    async with dialled(one) as stream:
        await stream.send_all(b"".join(recorded))
        await read_to_the_end(stream)
    assert len(inbox.seen) == 1
    assert one.links.statistics().failures == {Reason.PROOF: 1}


@pytest.mark.parametrize(
    ("ones", "twos", "ones_reason", "twos_reason"),
    [
        ((OTHER,), (KEY,), Reason.REFUSED, Reason.KEY),
        ((IMPOSTOR,), (KEY,), Reason.PROOF, None),
    ],
)
async def test_nodes_without_a_common_key_are_no_cluster(
    cluster: Cluster,
    ones: tuple[LinkKey, ...],
    twos: tuple[LinkKey, ...],
    ones_reason: Reason,
    twos_reason: Reason | None,
) -> None:
    one = await cluster.start(1, settings=LinkSettings(ones))
    two = await cluster.start(2, settings=LinkSettings(twos))
    cluster.introduce(one, two)
    two.links.register(OP, answer_nothing)
    assert not (await not_reached(one, two)).is_unknown
    assert one.links.statistics().failures == {ones_reason: 1}
    assert two.links.statistics().failures == ({twos_reason: 1} if twos_reason else {})


@pytest.mark.parametrize(
    ("ones", "twos"), [((OTHER,), (OTHER, KEY)), ((OTHER, KEY), (KEY, OTHER)), ((KEY, OTHER), (KEY,))]
)
async def test_nodes_in_neighbouring_steps_of_a_change_of_keys_speak_both_ways(
    cluster: Cluster, ones: tuple[LinkKey, ...], twos: tuple[LinkKey, ...]
) -> None:
    one = await cluster.start(1, settings=LinkSettings(ones))
    two = await cluster.start(2, settings=LinkSettings(twos))
    cluster.introduce(one, two)
    for process in (one, two):
        process.links.register(OP, echo)
    assert await one.links.call(TWO, OP, b"a") == b"a"
    assert await two.links.call(ONE, OP, b"b") == b"b"


async def test_without_a_key_there_is_no_way_to_or_from_other_nodes(cluster: Cluster) -> None:
    one, two = await cluster.start(1, settings=LinkSettings()), await cluster.start(2)
    cluster.introduce(one, two)
    with pytest.raises(ValueError, match="key"):
        one.links.listen_tcp("127.0.0.1", 0)
    assert not (await not_reached(one, two)).is_unknown
    assert one.links.statistics().failures == {Reason.KEY: 1}


async def test_a_peer_that_fails_again_and_again_is_counted_each_time_and_logged_now_and_then(cluster: Cluster) -> None:
    one = await cluster.start(1, settings=LinkSettings((IMPOSTOR,)))
    two = await cluster.start(2)
    cluster.introduce(one, two)
    with structlog.testing.capture_logs() as lines:
        for _ in range(9):
            await not_reached(one, two)
            cluster.clock.now_s += 1.1
    assert one.links.statistics().failures == {Reason.PROOF: 9}
    assert [(line["reason"], line["unlogged"]) for line in lines] == [("proof", 0), ("proof", 4)]


# --------------------------------------------------------------------------------------------- strangers


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.1\r\nHost: parley\r\n\r\n",
        b"\0\0\0\3abc",
        b"\0\0\0\4\xb0\0\0\0",
        link_frame(OP, 0, b"no HELLO"),
        link_frame(LinkOp.HELLO, 0, b"\xc1"),
        link_frame(LinkOp.HELLO, 0, b"\x99" + b"\x91" * 4000),
        link_frame(LinkOp.PROOF, 0, bytes(32)),
        link_frame(LinkOp.HELLO, 0, bytes(5000)),
    ],
)
async def test_garbage_at_the_port_is_cut_and_counted(cluster: Cluster, sent: bytes) -> None:
    one, two = await cluster.start_all(1, 2)
    async with dialled(one) as stream:
        await stream.send_all(sent)
        await read_to_the_end(stream)
    assert one.links.statistics().failures == {Reason.PROTOCOL: 1}
    one.links.register(OP, echo)
    assert await two.links.call(ONE, OP, b"still here") == b"still here"


async def test_payload_right_behind_the_hello_is_not_heard(cluster: Cluster) -> None:
    (one,) = await cluster.start_all(1)
    inbox = Inbox()
    one.links.register(OP, inbox)
    async with dialled(one) as stream:
        await stream.send_all(opening_to(one).begin() + link_frame(OP, 0, b"let me in"))
        await read_to_the_end(stream)
    assert inbox.seen == []


async def test_who_connects_and_says_nothing_is_cut_after_the_time_out(cluster: Cluster) -> None:
    (one,) = await cluster.start_all(1)
    async with dialled(one) as silent, dialled(one) as half:
        await half.send_all(opening_to(one).begin())
        await read_frame(half)
        while len(one.conns) < 2:
            await trio.lowlevel.checkpoint()
        cluster.clock.now_s += 4
        one.links.tick()
        assert one.links.statistics().connections == 2
        cluster.clock.now_s += 2
        one.links.tick()
        await read_to_the_end(silent)
        await read_to_the_end(half)
    assert one.links.statistics().failures == {Reason.TIMEOUT: 2}


async def test_a_crowd_of_silent_strangers_keeps_no_peer_out(cluster: Cluster) -> None:
    one, two = await cluster.start_all(1, 2)
    one.links.register(OP, echo)
    async with trio.open_nursery() as nursery:
        for _ in range(MAX_STRANGERS + 5):
            stream = await trio.open_tcp_stream("127.0.0.1", one.port)
            nursery.start_soon(read_to_the_end, stream)
        assert await two.links.call(ONE, OP, b"let me through") == b"let me through"
        statistics = one.links.statistics()
        assert statistics.connections <= MAX_STRANGERS + 2
        assert statistics.failures[Reason.CROWD] >= 5
        one.stop()


async def test_an_impostor_at_a_peers_address_hears_nothing_but_a_hello(cluster: Cluster) -> None:
    (one,) = await cluster.start_all(1)
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    one.links.set_peers({TWO: Peer(1, f"127.0.0.1:{listener.socket.getsockname()[1]}")})
    ended = Inbox()
    one.links.request(TWO, OP, b"a secret", ended)
    async with await listener.accept() as stream:
        op, payload = await read_frame(stream)
        assert op == LinkOp.HELLO
        assert b"a secret" not in payload
        await stream.send_all(link_frame(LinkOp.HELLO, 0, payload))
        with trio.fail_after(5):
            assert await stream.receive_some() == b""
    (answer,) = await ended.get()
    assert isinstance(answer, LinkLost)
    assert not answer.is_unknown
    await listener.aclose()


# ---------------------------------------------------------------------------------------------- versions


@pytest.mark.parametrize("keys", [(KEY,), ()], ids=["tcp", "unix"])
@pytest.mark.parametrize("is_older_first", [True, False])
async def test_a_release_and_the_one_before_it_speak_everything_both_ways(
    cluster: Cluster, keys: tuple[LinkKey, ...], is_older_first: bool
) -> None:
    older, newer = LinkSettings(keys, (1, 1)), LinkSettings(keys)
    one = await cluster.start(1, settings=older if is_older_first else newer)
    two = await cluster.start(2, settings=newer if is_older_first else older)
    cluster.introduce(one, two)

    def refuse(worker: WorkerId, payload: bytes, reply: Reply | None) -> None:
        assert reply is not None
        reply.refuse(Code.MOVED, "not here")

    for asker, asked in ((one, two), (two, one)):
        sent, pushed = Inbox(), Inbox()
        asked.links.register(OP, echo)
        asked.links.register(OP + 1, refuse)
        asked.links.register(OP + 2, sent)
        asked.links.on_push = pushed
        assert await asker.links.call(asked.worker, OP, b"request") == b"request"
        with pytest.raises(LinkRefused):
            await asker.links.call(asked.worker, OP + 1, b"")
        assert asker.links.send(asked.worker, OP + 2, b"one-way")
        assert await sent.get() == (asker.worker, b"one-way", None)
        asker.links.push(asked.worker, b"frame", [(7, 8)])
        assert await pushed.get() == (asker.worker, [(7, 8)], b"frame")
        asked.links.tick()  # acknowledges the push
        assert asker.links.version_of(asked.worker) == 1
    assert one.links.statistics().failures == two.links.statistics().failures == {}


async def test_a_loss_is_told_to_the_release_before(cluster: Cluster) -> None:
    one = await cluster.start(1)
    one.links.set_peers({TWO: Peer(1, str(cluster.directory / "2-1.sock"))})
    one.links.push(TWO, b"", [(7, 7)])
    two = await cluster.start(2, settings=LinkSettings((KEY,), (1, 1)))
    lost = Inbox()
    two.links.on_lost_pushes = lost
    cluster.clock.now_s += 1
    one.links.tick()
    assert await lost.get() == ([(7, 7)],)


async def test_releases_that_are_too_far_apart_refuse_each_other_and_say_why(cluster: Cluster) -> None:
    one = await cluster.start(1, settings=LinkSettings((KEY,), (1, 1)))
    two = await cluster.start(2, settings=LinkSettings((KEY,), (2, 3)))
    cluster.introduce(one, two)
    with structlog.testing.capture_logs() as lines:
        await not_reached(one, two)
        await not_reached(two, one)
    assert one.links.statistics().failures == {Reason.REFUSED: 1, Reason.VERSION: 1}
    assert two.links.statistics().failures == {Reason.REFUSED: 1, Reason.VERSION: 1}
    assert "it speaks versions 1 to 1, we 2 to 3" in [line["detail"] for line in lines]


# --------------------------------------------------------------------------------------------- addresses


async def test_links_run_over_ipv6(cluster: Cluster) -> None:
    one, two = await cluster.start_all(1, 2)
    try:
        port = two.links.listen_tcp("::1", 0)
    except OSError:
        pytest.skip("this machine has no IPv6")
    assert two.links.host_address == f"[::1]:{port}"
    one.links.set_peers({TWO: Peer(1, two.links.host_address)})
    two.links.register(OP, echo)
    assert await one.links.call(TWO, OP, b"six") == b"six"


async def test_where_others_reach_us_may_be_another_address_than_where_we_listen(cluster: Cluster) -> None:
    (one,) = await cluster.start_all(1)
    port = one.links.listen_tcp("", 0, advertised="127.0.0.1")
    assert one.links.host_address == f"127.0.0.1:{port}"


@pytest.mark.parametrize(
    "address", ["", "node-1:7900", "127.0.0.1", "127.0.0.1:0", "127.0.0.1:x", "::1:7900", "[::1]", ":7900"]
)
async def test_what_is_no_numeric_address_is_not_connected_to(cluster: Cluster, address: str) -> None:
    (one,) = await cluster.start_all(1)
    one.links.set_peers({TWO: Peer(1, address)})
    with pytest.raises(LinkLost) as lost:
        await one.links.call(TWO, OP, b"")
    assert not lost.value.is_unknown
    assert one.links.statistics().failures == {Reason.UNREACHABLE: 1}


async def test_a_worker_that_is_replaced_on_its_port_takes_it_over(cluster: Cluster) -> None:
    one, two = await cluster.start_all(1, 2)
    two.links.register(OP, echo)
    await one.links.call(TWO, OP, b"first life")
    lost = Inbox()
    one.links.on_lost = lost
    two.stop()
    await lost.get()
    kernel = Kernel(16)
    again = Links(kernel, TWO, 2, flush_soon=lambda: None, settings=TCP)
    assert again.listen_tcp("127.0.0.1", two.port) == two.port
    again.close()
    kernel.shutdown()


def test_sockets_of_links_between_nodes_watch_their_peer() -> None:
    """Accepted ones inherit it from the listener: the kernel in C sets nothing on them."""
    from gateway.cluster.link_address import connect, listen_tcp

    listener = listen_tcp("127.0.0.1", 0, 5.0)
    opened = connect(f"127.0.0.1:{listener.getsockname()[1]}", 5.0)
    listener.setblocking(True)
    accepted, _ = listener.accept()
    for sock in (opened, accepted):
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 5000
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 2
    for sock in (listener, opened, accepted):
        sock.close()
