"""Outboxes: one write a cycle, three bounds, muting, and the order of bytes through all of it."""

from __future__ import annotations

import pytest

from gateway._framing_values import CLOSED, DRAINED
from tests.kernel.rig import MakeRig, Rig, drain, frame, read_all

HARD_MARGIN_BYTES = 8 << 20  # the contract: what replies may take above the bound


def test_nothing_is_written_before_the_flush(rig: Rig) -> None:
    conn, peer = rig.connect()
    assert rig.kernel.send(conn, frame(17, 1, b"a"))
    rig.poll()
    assert read_all(peer) == b""
    rig.kernel.flush()
    assert read_all(peer) == frame(17, 1, b"a")


def test_a_flush_is_one_write_for_each_connection_that_has_something_new(rig: Rig) -> None:
    pairs = [rig.connect() for _ in range(10)]
    for _ in range(20):
        rig.kernel.fanout([conn for conn, _ in pairs[:7]], frame(18))
    rig.kernel.flush()
    assert rig.kernel.statistics().send_calls == 7
    assert [len(read_all(peer)) for _, peer in pairs] == [160] * 7 + [0] * 3
    rig.kernel.flush()
    assert rig.kernel.statistics().send_calls == 7


def test_frames_leave_in_the_order_of_the_calls(rig: Rig) -> None:
    conn, peer = rig.connect()
    rig.kernel.send(conn, frame(1))
    rig.kernel.fanout((conn,), frame(2) + frame(3))
    rig.kernel.send(conn, frame(4))
    rig.kernel.flush()
    assert read_all(peer) == frame(1) + frame(2) + frame(3) + frame(4)
    assert rig.kernel.statistics().frames_out == 4


def test_what_the_socket_does_not_take_goes_out_when_it_is_writable(rig: Rig) -> None:
    conn, peer = rig.connect(buffer_bytes=4096, max_outbox_bytes=1 << 20)
    frames = [frame(18, 0, bytes([number]) * 1000) for number in range(200)]
    for one in frames[:150]:
        rig.kernel.send(conn, one)
    rig.kernel.flush()
    for one in frames[150:]:
        rig.kernel.send(conn, one)
    rig.kernel.flush()
    assert rig.kernel.outbox_bytes(conn) > 0
    assert drain(rig, peer) == b"".join(frames)
    assert rig.kernel.outbox_bytes(conn) == rig.kernel.statistics().outbox_bytes == 0


def test_a_socket_that_takes_nothing_is_not_tried_again_until_it_is_writable(rig: Rig) -> None:
    conn, _ = rig.connect(buffer_bytes=4096)
    rig.fill(conn)
    send_calls = rig.kernel.statistics().send_calls
    rig.kernel.send(conn, frame(18))
    rig.kernel.flush()
    assert rig.kernel.statistics().send_calls == send_calls
    assert not rig.is_readable()


def test_an_outbox_filled_and_emptied_for_long_keeps_its_order(rig: Rig) -> None:
    conn, peer = rig.connect(buffer_bytes=4096, max_outbox_bytes=1 << 20)
    expected, received = b"", b""
    for number in range(500):
        one = frame(18, 0, number.to_bytes(4, "big") * 300)
        expected += one
        assert rig.kernel.send(conn, one)
        rig.kernel.flush()
        if number % 3:
            received += peer.recv(900)
            rig.poll()
    assert received + drain(rig, peer) == expected


@pytest.mark.parametrize(
    "not_frames", [b"", b"\0", frame(1)[:7], frame(1) + b"\0", b"\0\0\0\3abc", frame(1, 0, b"abc")[:-1]]
)
def test_bytes_that_are_not_whole_frames_are_refused(rig: Rig, not_frames: bytes) -> None:
    conn, peer = rig.connect()
    with pytest.raises(ValueError, match="frame"):
        rig.kernel.send(conn, not_frames)
    with pytest.raises(ValueError, match="frame"):
        rig.kernel.fanout([conn], not_frames)
    rig.kernel.flush()
    assert read_all(peer) == b""


def test_a_push_at_the_bound_mutes_and_is_reported_once(rig: Rig) -> None:
    full, _ = rig.connect(max_outbox_bytes=100)
    other, peer = rig.connect()
    push = frame(18, 0, bytes(92))
    assert rig.kernel.fanout([full, other], push) == []
    assert rig.kernel.fanout([full, other], push) == [full]
    assert rig.kernel.fanout([full, other], push) == []
    assert rig.kernel.outbox_bytes(full) == 100
    statistics = rig.kernel.statistics()
    assert (statistics.muted, statistics.dropped_frames) == (1, 2)
    rig.kernel.flush()
    assert read_all(peer) == push * 3


def test_a_muted_connection_gets_no_push_even_when_it_has_room_but_gets_replies(rig: Rig) -> None:
    conn, peer = rig.connect(max_outbox_bytes=100)
    rig.kernel.fanout([conn], frame(18, 0, bytes(92)))
    rig.kernel.fanout([conn], frame(18))
    rig.kernel.flush()
    read_all(peer)
    assert rig.kernel.fanout([conn], frame(18)) == []
    assert rig.kernel.send(conn, frame(28))
    rig.kernel.flush()
    assert read_all(peer) == frame(28)


def test_unmute_lets_pushes_through_again(rig: Rig) -> None:
    conn, peer = rig.connect(max_outbox_bytes=8)
    assert rig.kernel.fanout([conn, conn], frame(18)) == [conn]
    rig.kernel.flush()
    rig.kernel.unmute(conn)
    assert rig.kernel.statistics().muted == 0
    assert rig.kernel.fanout([conn], frame(19)) == []
    rig.kernel.flush()
    assert read_all(peer) == frame(18) + frame(19)


@pytest.mark.parametrize(("queued_bytes", "is_skipped"), [(49, False), (50, True)])
def test_a_droppable_push_skips_half_full_outboxes_silently(rig: Rig, queued_bytes: int, is_skipped: bool) -> None:
    conn, _ = rig.connect(max_outbox_bytes=100)
    rig.kernel.send(conn, frame(18, 0, bytes(queued_bytes - 8)))
    assert rig.kernel.fanout([conn], frame(22), is_droppable=True) == []
    assert rig.kernel.outbox_bytes(conn) == queued_bytes + (0 if is_skipped else 8)
    assert rig.kernel.statistics().dropped_frames == is_skipped
    assert rig.kernel.fanout([conn], frame(18)) == []


def test_replies_may_pass_the_bound_up_to_the_hard_one(rig: Rig) -> None:
    conn, _ = rig.connect(max_outbox_bytes=1000)
    half = frame(27, 1, bytes(HARD_MARGIN_BYTES // 2))
    assert rig.kernel.send(conn, half)
    assert not rig.kernel.send(conn, frame(27, 2, bytes(HARD_MARGIN_BYTES // 2 + 1000)))
    assert rig.kernel.outbox_bytes(conn) == len(half)
    assert rig.kernel.statistics().dropped_frames == 1
    rest = 1000 + HARD_MARGIN_BYTES - len(half)
    assert not rig.kernel.send(conn, frame(27, 3, bytes(rest - 7)))
    assert rig.kernel.send(conn, frame(27, 3, bytes(rest - 8)))
    assert not rig.kernel.send(conn, frame(27, 4))


def test_the_total_bound_stops_replies_and_mutes_pushes(make_rig: MakeRig) -> None:
    rig = make_rig(max_total_outbox_bytes=1000)
    first, peer = rig.connect()
    second, _ = rig.connect()
    assert rig.kernel.send(first, frame(18, 0, bytes(900)))
    assert not rig.kernel.send(second, frame(18, 0, bytes(93)))
    assert rig.kernel.fanout([second], frame(18, 0, bytes(93))) == [second]
    rig.kernel.flush()
    assert rig.kernel.send(second, frame(18, 0, bytes(93)))
    assert len(read_all(peer)) == 908


def test_drained_comes_once_when_a_quarter_is_left(rig: Rig) -> None:
    conn, peer = rig.connect(max_outbox_bytes=400_000, buffer_bytes=4096)
    rig.kernel.send(conn, frame(18, 0, bytes(300_000)))
    rig.kernel.flush()
    assert rig.kernel.notify_drained(conn)
    events = []
    while rig.kernel.outbox_bytes(conn) > 100_000:
        assert events == []
        peer.recv(4000)
        events += rig.poll()
    assert rig.kernel.has_backlog
    assert rig.poll() == [(conn, DRAINED, 0, b"")]
    drain(rig, peer)
    assert rig.poll() == []


def test_drained_is_backlog_after_the_flush_that_emptied_the_outbox(rig: Rig) -> None:
    conn, _ = rig.connect(max_outbox_bytes=100)
    rig.kernel.send(conn, frame(18, 0, bytes(92)))
    assert rig.kernel.notify_drained(conn)
    rig.kernel.flush()
    assert rig.kernel.has_backlog
    assert rig.poll() == [(conn, DRAINED, 0, b"")]


def test_what_is_to_be_told_is_bounded_by_max_events_too(rig: Rig) -> None:
    conns = [rig.connect(max_outbox_bytes=100)[0] for _ in range(3)]
    rig.kernel.fanout(conns, frame(18, 0, bytes(92)))
    assert all(rig.kernel.notify_drained(conn) for conn in conns)
    rig.kernel.flush()
    assert [rig.poll(1) for _ in conns] == [[(conn, DRAINED, 0, b"")] for conn in conns]


@pytest.mark.parametrize(("queued_bytes", "will_come"), [(25, False), (26, True)])
def test_drained_is_not_promised_when_the_outbox_is_low(rig: Rig, queued_bytes: int, will_come: bool) -> None:
    conn, _ = rig.connect(max_outbox_bytes=100)
    rig.kernel.send(conn, frame(18, 0, bytes(queued_bytes - 8)))
    assert rig.kernel.notify_drained(conn) is will_come


def test_a_failed_write_is_told_as_closed_by_the_next_poll(rig: Rig) -> None:
    conn, peer = rig.connect(window=1)
    peer.sendall(frame(16, 1))
    rig.poll()
    peer.close()
    assert rig.kernel.send(conn, frame(18))
    rig.kernel.flush()
    assert rig.kernel.has_backlog
    assert not rig.kernel.send(conn, frame(18))
    ((number, op, error, body),) = rig.poll()
    assert (number, op, body) == (conn, CLOSED, b"")
    assert error > 0
    assert rig.poll() == []
    assert rig.kernel.statistics().outbox_bytes == 0


def test_many_connections_are_written_by_one_flush(rig: Rig) -> None:
    pairs = [rig.connect() for _ in range(64)]
    rig.kernel.fanout([conn for conn, _ in pairs], frame(18, 0, b"to all"))
    rig.kernel.flush()
    assert {read_all(peer) for _, peer in pairs} == {frame(18, 0, b"to all")}
