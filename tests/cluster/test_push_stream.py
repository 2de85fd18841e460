"""Pushes: nothing is dropped in silence, nothing arrives twice. The stream alone, and over links that break."""

from __future__ import annotations

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from gateway.cluster.links import LinkSettings, Peer
from gateway.cluster.push_stream import ACK_BYTES, ACK_PUSHES, PushReceiver, PushSender
from gateway.cluster.remote import OUTBOX_BYTES
from gateway.cluster.wire import REQUEST_ID_BYTES, LinkOp, LinkProtocolError, unpack_push
from gateway.protocol.identifiers import WorkerId
from tests.cluster.processes import TCP, UNIX, Cluster, Inbox, Process, answer_nothing

ONE, TWO = WorkerId(1), WorkerId(2)
HEADER_BYTES = 8
MIB = 1 << 20


@pytest.fixture(params=[UNIX, TCP], ids=["unix", "tcp"])
def settings(request: pytest.FixtureRequest) -> LinkSettings:
    chosen: LinkSettings = request.param
    return chosen


async def cut_and_notice(cluster: Cluster, sender: Process, receiver: Process) -> None:
    """Cut the connection at the receiver; let the sender notice, and its back-off pass."""
    noticed = Inbox()
    sender.links.on_lost = noticed
    while not receiver.conns or not receiver.links.owns(receiver.conns[-1]):
        await trio.lowlevel.checkpoint()
    receiver.links.on_swept(receiver.conns[-1])
    await noticed.get()
    cluster.clock.now_s += 1


def payload_of(frame: bytes) -> bytes:
    return frame[HEADER_BYTES + REQUEST_ID_BYTES :]


def op_of(frame: bytes) -> int:
    return frame[4]


@given(
    st.lists(st.tuples(st.integers(0, 2**63 - 1), st.integers(0, 2**63 - 1)), max_size=40),
    st.binary(max_size=200),
)
def test_a_push_unpacks_to_what_was_packed(recipients: list[tuple[int, int]], frame: bytes) -> None:
    assert unpack_push(payload_of(PushSender(5).push(recipients, frame))) == (1, recipients, frame)


@given(st.binary(max_size=80))
def test_arbitrary_bytes_are_a_push_or_the_peers_fault(payload: bytes) -> None:
    try:
        _, recipients, frame = unpack_push(payload)
    except LinkProtocolError:
        return
    assert 12 + 16 * len(recipients or ()) + len(frame) == len(payload)


def test_what_was_acknowledged_is_not_sent_again() -> None:
    sender = PushSender(5)
    for number in range(3):
        last = sender.push([(1, 1)], b"%d" % number)
        sender.sent(last)
    sender.acknowledged(5, 2)
    assert sender.unacknowledged == (last,)
    sender.acknowledged(5, 1)
    assert sender.unacknowledged == (last,)
    sender.acknowledged(5, 3)
    assert not sender.owes_something


def test_an_acknowledgement_of_another_stream_counts_nothing() -> None:
    sender = PushSender(5)
    sender.sent(sender.push([(1, 1)], b""))
    sender.acknowledged(4, 1)
    assert len(sender.unacknowledged) == 1


def test_past_the_bound_the_oldest_pushes_are_not_kept_and_the_receiver_sees_the_hole() -> None:
    sender, receiver = PushSender(5, retained_bytes=200), PushReceiver()
    for _ in range(10):
        sender.sent(sender.push([(1, 1)], b"x" * 20))
    assert sum(map(len, sender.unacknowledged)) <= 200
    receiver.start(5)
    verdicts = [receiver.receive(unpack_push(payload_of(frame))[0], 1) for frame in sender.unacknowledged]
    assert verdicts[0] == (True, True)
    assert set(verdicts[1:]) == {(True, False)}


def test_the_receiver_drops_what_it_has_seen_and_acknowledges_it_again() -> None:
    receiver = PushReceiver()
    receiver.start(5)
    assert receiver.receive(1, 10) == (True, False)
    receiver.ack_sent()
    assert not receiver.owes_ack
    assert receiver.receive(1, 10) == (False, False)
    assert receiver.owes_ack


def test_another_stream_after_something_arrived_may_have_lost_something() -> None:
    receiver = PushReceiver()
    assert not receiver.start(5)
    receiver.receive(1, 10)
    assert not receiver.start(5)
    assert receiver.start(6)
    assert receiver.receive(1, 10) == (True, False)


@pytest.mark.parametrize(("count", "size"), [(ACK_PUSHES, 1), (1, ACK_BYTES)])
def test_an_acknowledgement_is_due_after_enough_pushes_or_bytes(count: int, size: int) -> None:
    receiver = PushReceiver()
    receiver.start(5)
    for number in range(1, count + 1):
        assert not receiver.is_ack_due
        receiver.receive(number, size)
    assert receiver.is_ack_due


def test_those_who_lost_a_push_are_named_once_and_past_the_bound_everybody_is() -> None:
    sender = PushSender(5, max_lost=3)
    sender.lose([(1, 1), (2, 2)])
    sender.lose([(1, 1)])
    notice = sender.loss_notice()
    assert op_of(notice) == LinkOp.LOST
    assert unpack_push(payload_of(notice))[1] == [(1, 1), (2, 2)]
    sender.lose([(3, 3), (4, 4)])
    assert unpack_push(payload_of(sender.loss_notice()))[1] is None
    sender.loss_told()
    assert not sender.has_lost


async def test_pushes_arrive_once_with_their_recipients(cluster: Cluster) -> None:
    one, two = await cluster.start_all(1, 2)
    inbox = Inbox()
    two.links.on_push = inbox
    recipients = [(2**63 - 1, 1), (5, 2**63 - 1)]
    one.links.push(TWO, b"frame", recipients)
    assert await inbox.get() == (ONE, recipients, b"frame")


async def test_a_connection_that_breaks_under_a_burst_loses_and_doubles_nothing(cluster: Cluster) -> None:
    one, two = await cluster.start_all(1, 2)
    inbox, lost = Inbox(), Inbox()
    two.links.on_push, two.links.on_lost_pushes = inbox, lost
    for number in range(2000):
        one.links.push(TWO, b"%d" % number, [(1, 1)])
        if number % 500 == 250:
            await cut_and_notice(cluster, one, two)
    while inbox.seen[-1:] != [(ONE, [(1, 1)], b"1999")]:
        await inbox.get()
    assert [frame for _, _, frame in inbox.seen] == [b"%d" % number for number in range(2000)]
    assert lost.seen == []


async def test_after_a_break_the_kept_pushes_are_sent_again_without_a_new_push(cluster: Cluster) -> None:
    one, two = await cluster.start_all(1, 2)
    inbox = Inbox()
    two.links.on_push = inbox
    one.links.push(TWO, b"first", [(1, 1)])
    await inbox.get()
    one.links.push(TWO, b"second", [(1, 1)])
    await cut_and_notice(cluster, one, two)  # before the second was flushed
    one.links.tick()
    assert await inbox.get() == (ONE, [(1, 1)], b"second")
    assert len(inbox.seen) == 2


async def test_acknowledged_pushes_are_forgotten_by_the_sender(cluster: Cluster) -> None:
    one, two = await cluster.start_all(1, 2)
    inbox, lost = Inbox(), Inbox()
    two.links.on_push, two.links.on_lost_pushes = inbox, lost
    for number in range(ACK_PUSHES):
        one.links.push(TWO, b"%d" % number, [(1, 1)])
    await inbox.take(ACK_PUSHES)
    two.links.register(0xB1, answer_nothing)
    await one.links.call(TWO, 0xB1, b"")  # the acknowledgement went before the answer
    before = two.kernel.statistics().frames_in
    await cut_and_notice(cluster, one, two)
    await one.links.call(TWO, 0xB1, b"")
    proofs = 1 if cluster.settings.keys else 0
    assert two.kernel.statistics().frames_in - before == 2 + proofs  # HELLO and the request


@pytest.mark.parametrize("is_open", [True, False])
async def test_a_full_link_names_those_who_lost_something_when_it_drains(cluster: Cluster, is_open: bool) -> None:
    one, two = await cluster.start_all(1, 2)
    inbox, lost = Inbox(), Inbox()
    two.links.on_push, two.links.on_lost_pushes = inbox, lost
    if is_open:
        two.links.register(0xB1, answer_nothing)
        await one.links.call(TWO, 0xB1, b"")
    sent = OUTBOX_BYTES // MIB + 8 + 4
    for number in range(sent):  # no checkpoint: nothing is flushed
        one.links.push(TWO, b"x" * MIB, [(number, 1)])
    dropped = one.links.statistics().lost_pushes
    assert 0 < dropped < (8 if is_open else 16)
    (recipients,) = await lost.get()
    assert recipients == [(number, 1) for number in range(sent - dropped, sent)]
    assert len(inbox.seen) == sent - dropped


async def test_a_droppable_push_is_dropped_without_a_word(cluster: Cluster) -> None:
    one, two = await cluster.start_all(1, 2)
    inbox, lost = Inbox(), Inbox()
    two.links.on_push, two.links.on_lost_pushes = inbox, lost
    two.links.register(0xB1, answer_nothing)
    await one.links.call(TWO, 0xB1, b"")
    for number in range(OUTBOX_BYTES // MIB + 8 + 4):
        one.links.push(TWO, b"x" * MIB, [(number, 1)], is_droppable=True)
    assert one.links.statistics().lost_pushes == 0
    assert one.links.statistics().refused > 0
    await inbox.take(OUTBOX_BYTES // MIB)
    await one.links.call(TWO, 0xB1, b"")
    assert lost.seen == []


async def test_pushes_to_a_peer_that_cannot_be_reached_are_named_when_it_can(cluster: Cluster) -> None:
    (one,) = await cluster.start_all(1)
    one.links.set_peers({TWO: Peer(1, str(cluster.directory / "2-1.sock"))})
    one.links.push(TWO, b"", [(7, 7)])
    two = await cluster.start(2)
    lost = Inbox()
    two.links.on_lost_pushes = lost
    cluster.clock.now_s += 1
    one.links.tick()
    assert await lost.get() == ([(7, 7)],)
