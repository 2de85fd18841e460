"""Links between processes and between nodes, over real sockets and real kernels: what holds on any of them."""

from __future__ import annotations

import socket

import pytest
import trio

from gateway.cluster.link_requests import MAX_OUTSTANDING, REQUEST_TIMEOUT_S
from gateway.cluster.links import LinkLost, LinkRefused, LinkSettings, Peer, Reply
from gateway.cluster.wire import LINK_VERSION, MAX_LINK_FRAME, LinkHello, LinkOp, encode, link_frame
from gateway.protocol.errors import Code
from gateway.protocol.identifiers import WorkerId
from tests.cluster.processes import TCP, UNIX, Cluster, Inbox, Process, echo

OP = 0xB0
ONE, TWO, THREE = WorkerId(1), WorkerId(2), WorkerId(3)


@pytest.fixture(params=[UNIX, TCP], ids=["unix", "tcp"])
def settings(request: pytest.FixtureRequest) -> LinkSettings:
    chosen: LinkSettings = request.param
    return chosen


def never_answer(worker: WorkerId, payload: bytes, reply: Reply | None) -> None:
    pass


async def test_one_way_frames_arrive_in_the_order_of_the_calls(cluster: Cluster) -> None:
    one, two = await cluster.start_all(1, 2)
    inbox = Inbox()
    two.links.register(OP, inbox)
    for number in range(1000):
        assert one.links.send(TWO, OP, b"%d" % number)
    assert await inbox.take(1000) == [(ONE, b"%d" % number, None) for number in range(1000)]


async def test_a_request_is_answered_with_the_bytes_of_the_reply(cluster: Cluster) -> None:
    one, two = await cluster.start_all(1, 2)
    two.links.register(OP, echo)
    assert await one.links.call(TWO, OP, b"hello") == b"hello"


async def test_requests_cross_in_both_directions_at_once(cluster: Cluster) -> None:
    one, two = await cluster.start_all(1, 2)
    one.links.register(OP, echo)
    two.links.register(OP, echo)
    answers: list[bytes] = []

    async def ask(process: Process, worker: WorkerId, payload: bytes) -> None:
        answers.append(await process.links.call(worker, OP, payload))

    async with trio.open_nursery() as nursery:
        for number in range(50):
            nursery.start_soon(ask, one, TWO, b"a%d" % number)
            nursery.start_soon(ask, two, ONE, b"b%d" % number)
    assert sorted(answers) == sorted([b"%c%d" % (side, number) for side in b"ab" for number in range(50)])


async def test_the_largest_frames_cross_in_both_directions(cluster: Cluster) -> None:
    one, two = await cluster.start_all(1, 2)
    two.links.register(OP, echo)
    largest = bytes(MAX_LINK_FRAME - 8)
    assert await one.links.call(TWO, OP, largest) == largest


async def test_what_is_sent_in_one_step_is_one_system_call(cluster: Cluster) -> None:
    one, two = await cluster.start_all(1, 2)
    inbox = Inbox()
    two.links.register(OP, inbox)
    one.links.send(TWO, OP, b"open")
    await inbox.get()
    before = one.kernel.statistics().send_calls
    for _ in range(100):
        one.links.send(TWO, OP, b"together")
    await inbox.take(100)
    assert one.kernel.statistics().send_calls - before == 1


async def test_a_refusal_carries_its_code_and_message(cluster: Cluster) -> None:
    one, two = await cluster.start_all(1, 2)

    def refuse(worker: WorkerId, payload: bytes, reply: Reply | None) -> None:
        assert reply is not None
        reply.refuse(Code.MOVED, "not here")

    two.links.register(OP, refuse)
    with pytest.raises(LinkRefused) as refused:
        await one.links.call(TWO, OP, b"")
    assert (refused.value.code, refused.value.message) == (Code.MOVED, "not here")


async def test_an_op_without_a_handler_is_refused(cluster: Cluster) -> None:
    one, _ = await cluster.start_all(1, 2)
    with pytest.raises(LinkRefused) as refused:
        await one.links.call(TWO, OP, b"")
    assert refused.value.code == Code.UNKNOWN_OP


async def test_a_push_overtakes_no_answer_and_no_answer_overtakes_a_push(cluster: Cluster) -> None:
    one, two = await cluster.start_all(1, 2)
    arrived: list[object] = []
    inbox = Inbox()

    def push_then_answer(worker: WorkerId, payload: bytes, reply: Reply | None) -> None:
        assert reply is not None
        two.links.push(ONE, b"frame", [(7, 8)])
        reply.reply(payload)

    two.links.register(OP, push_then_answer)
    one.links.on_push = lambda worker, recipients, frame: arrived.append((worker, list(recipients), frame))
    one.links.request(TWO, OP, b"head", inbox)
    await inbox.get()
    assert arrived == [(TWO, [(7, 8)], b"frame")]


async def test_a_frame_to_oneself_is_handled_in_order_and_never_inside_the_call(cluster: Cluster) -> None:
    (one,) = await cluster.start_all(1)
    inbox = Inbox()
    one.links.register(OP, inbox)
    assert one.links.send(ONE, OP, b"first")
    assert one.links.send(ONE, OP, b"second")
    assert inbox.seen == []
    assert await inbox.take(2) == [(ONE, b"first", None), (ONE, b"second", None)]


async def test_a_request_to_oneself_is_answered(cluster: Cluster) -> None:
    (one,) = await cluster.start_all(1)
    one.links.register(OP, echo)
    assert await one.links.call(ONE, OP, b"mirror") == b"mirror"


async def test_a_push_to_oneself_arrives(cluster: Cluster) -> None:
    (one,) = await cluster.start_all(1)
    inbox = Inbox()
    one.links.on_push = inbox
    one.links.push(ONE, b"frame", [(1, 2)])
    assert await inbox.get() == (ONE, [(1, 2)], b"frame")


async def test_a_request_to_a_stranger_ends_as_not_sent(cluster: Cluster) -> None:
    (one,) = await cluster.start_all(1)
    with pytest.raises(LinkLost) as lost:
        await one.links.call(THREE, OP, b"")
    assert not lost.value.is_unknown


async def test_a_request_to_a_peer_that_does_not_listen_ends_as_not_sent(cluster: Cluster) -> None:
    (one,) = await cluster.start_all(1)
    one.links.set_peers({TWO: Peer(1, str(cluster.directory / "nobody.sock"))})
    with pytest.raises(LinkLost) as lost:
        await one.links.call(TWO, OP, b"")
    assert not lost.value.is_unknown
    assert not one.links.send(TWO, OP, b"")


async def test_a_peer_that_dies_ends_its_requests_as_unknown_and_is_named_lost(cluster: Cluster) -> None:
    one, two = await cluster.start_all(1, 2)
    asked, ended, lost = Inbox(), Inbox(), Inbox()
    two.links.register(OP, asked)
    one.links.on_lost = lost
    one.links.request(TWO, OP, b"", ended)
    await asked.get()
    two.stop()
    (answer,) = await ended.get()
    assert isinstance(answer, LinkLost)
    assert answer.is_unknown
    assert await lost.get() == (TWO,)


async def test_a_peer_that_is_no_longer_named_ends_its_requests(cluster: Cluster) -> None:
    one, two = await cluster.start_all(1, 2)
    asked, ended = Inbox(), Inbox()
    two.links.register(OP, asked)
    one.links.request(TWO, OP, b"", ended)
    await asked.get()
    one.links.set_peers({})
    (answer,) = await ended.get()
    assert isinstance(answer, LinkLost)
    assert not one.links.send(TWO, OP, b"")


async def test_a_request_without_an_answer_ends_when_its_time_is_up(cluster: Cluster) -> None:
    one, two = await cluster.start_all(1, 2)
    asked, ended = Inbox(), Inbox()
    two.links.register(OP, asked)
    one.links.request(TWO, OP, b"", ended)
    await asked.get()
    cluster.clock.now_s += REQUEST_TIMEOUT_S - 1
    one.links.tick()
    assert ended.seen == []
    cluster.clock.now_s += 2
    one.links.tick()
    (answer,) = await ended.get()
    assert isinstance(answer, LinkLost)
    assert answer.is_unknown


async def test_a_late_answer_is_nobodys(cluster: Cluster) -> None:
    one, two = await cluster.start_all(1, 2)
    replies: list[Reply | None] = []
    asked, ended = Inbox(), Inbox()

    def keep(worker: WorkerId, payload: bytes, reply: Reply | None) -> None:
        replies.append(reply)
        asked()

    two.links.register(OP, keep)
    two.links.register(OP + 1, echo)
    one.links.request(TWO, OP, b"", ended)
    await asked.get()
    cluster.clock.now_s += REQUEST_TIMEOUT_S + 1
    one.links.tick()
    await ended.get()
    assert replies[0] is not None
    replies[0].reply(b"late")
    await one.links.call(TWO, OP + 1, b"")
    assert len(ended.seen) == 1


async def test_requests_beyond_the_bound_are_refused_as_overloaded(cluster: Cluster) -> None:
    (one,) = await cluster.start_all(1)
    one.links.register(OP, never_answer)
    ended = Inbox()
    for _ in range(MAX_OUTSTANDING + 1):
        one.links.request(ONE, OP, b"", ended)
    (answer,) = await ended.get()
    assert isinstance(answer, LinkRefused)
    assert answer.code == Code.OVERLOADED
    assert len(ended.seen) == 1


async def test_a_cancelled_call_leaves_the_link_usable(cluster: Cluster) -> None:
    one, two = await cluster.start_all(1, 2)
    asked = Inbox()
    two.links.register(OP, asked)
    two.links.register(OP + 1, echo)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.links.call, TWO, OP, b"")
        await asked.get()
        nursery.cancel_scope.cancel()
    assert await one.links.call(TWO, OP + 1, b"still here") == b"still here"


async def test_a_later_incarnation_replaces_the_earlier_by_its_own_hello(cluster: Cluster) -> None:
    one, two = await cluster.start_all(1, 2)
    one.links.register(OP, echo)
    asked, ended = Inbox(), Inbox()
    two.links.register(OP, asked)
    one.links.request(TWO, OP, b"", ended)
    await asked.get()
    again = await cluster.start(2, incarnation=2)
    again.links.set_peers({ONE: one.peer})
    assert await again.links.call(ONE, OP, b"it is me") == b"it is me"
    (answer,) = await ended.get()
    assert isinstance(answer, LinkLost)


async def test_an_earlier_incarnation_is_never_heard_again(cluster: Cluster) -> None:
    one, two = await cluster.start_all(1, 2)
    inbox, cut = Inbox(), Inbox()
    one.links.register(OP, inbox)
    one.links.set_peers({TWO: Peer(2, str(cluster.directory / "later.sock"))})
    two.links.on_lost = cut
    two.links.send(ONE, OP, b"from the past")
    await cut.get()
    assert inbox.seen == []


async def test_a_hello_to_another_incarnation_is_cut_before_the_next_frame_is_read(cluster: Cluster) -> None:
    one, two = await cluster.start_all(1, 2)
    inbox, cut = Inbox(), Inbox()
    two.links.register(OP, inbox)
    one.links.set_peers({})
    one.links.set_peers({TWO: Peer(7, two.peer.address)})
    one.links.on_lost = cut
    one.links.send(TWO, OP, b"to another")
    await cut.get()
    assert inbox.seen == []


async def test_a_peer_that_introduced_itself_survives_an_older_set_of_peers(cluster: Cluster) -> None:
    one, two = await cluster.start(1), await cluster.start(2)
    one.links.register(OP, echo)
    two.links.set_peers({ONE: one.peer})
    assert await two.links.call(ONE, OP, b"new") == b"new"
    one.links.set_peers({})
    assert await two.links.call(ONE, OP, b"still") == b"still"


HELLO = LinkHello(LINK_VERSION, 2, 1, 1, 1, 5, "")


@pytest.mark.parametrize(
    ("meaning", "sent"),
    [
        ("no HELLO first", link_frame(OP, 0, b"")),
        ("another version", link_frame(LinkOp.HELLO, 0, encode(LinkHello(99, 2, 1, 1, 1, 5, "")))),
        ("another worker", link_frame(LinkOp.HELLO, 0, encode(LinkHello(LINK_VERSION, 2, 1, 9, 1, 5, "")))),
        ("no HELLO inside", link_frame(LinkOp.HELLO, 0, b"\xc1")),
        ("no request id", link_frame(LinkOp.HELLO, 0, encode(HELLO)) + b"\0\0\0\4\xb0\0\0\0"),
        ("a push without its head", link_frame(LinkOp.HELLO, 0, encode(HELLO)) + link_frame(LinkOp.DELIVER, 0, b"")),
        (
            "a push with fewer recipients than it says",
            link_frame(LinkOp.HELLO, 0, encode(HELLO))
            + link_frame(LinkOp.DELIVER, 0, b"\0" * 8 + b"\0\0\0\2" + b"\0" * 31),
        ),
        ("a length that is too small", b"\0\0\0\3abc"),
        ("a length that is too large", link_frame(LinkOp.HELLO, 0, encode(HELLO)) + b"\x7f\0\0\0"),
    ],
)
async def test_a_peer_that_breaks_the_protocol_is_cut(cluster: Cluster, meaning: str, sent: bytes) -> None:
    (one,) = await cluster.start_all(1)
    with trio.socket.from_stdlib_socket(socket.socket(socket.AF_UNIX)) as stranger:
        await stranger.connect(one.address)
        await stranger.send(sent)
        with trio.fail_after(5):
            while await stranger.recv(4096):
                pass
