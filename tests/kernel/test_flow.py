"""Flow control: the window, the outbox's bound, and the bounds of one poll."""

from __future__ import annotations

from contextlib import suppress

import pytest

from tests.kernel.rig import PING, PONG, MakeRig, Rig, drain, frame, read_all


def requests(first: int, last: int) -> bytes:
    return b"".join(frame(16, rid) for rid in range(first, last + 1))


def test_no_more_requests_are_delivered_than_the_window(rig: Rig) -> None:
    conn, peer = rig.connect(window=3)
    peer.sendall(requests(1, 5))
    assert rig.poll() == [(conn, 16, rid, b"") for rid in (1, 2, 3)]
    assert rig.poll() == []


def test_each_reply_lets_one_held_request_through(rig: Rig) -> None:
    conn, peer = rig.connect(window=2)
    peer.sendall(requests(1, 4))
    rig.poll()
    assert rig.kernel.send(conn, frame(17, 1))
    assert rig.kernel.has_backlog
    assert rig.poll() == [(conn, 16, 3, b"")]
    assert rig.poll() == []


@pytest.mark.parametrize(
    ("reply", "more"), [(frame(18, 1), True), (frame(18, 0), False), (frame(18) + frame(18, 1), False)]
)
def test_a_push_or_a_part_of_a_reply_opens_no_window(rig: Rig, reply: bytes, more: bool) -> None:
    conn, peer = rig.connect(window=1)
    peer.sendall(requests(1, 2))
    rig.poll()
    assert rig.kernel.send(conn, reply, more)
    assert rig.poll() == []


def test_a_request_that_gets_no_reply_is_answered_all_the_same(rig: Rig) -> None:
    conn, peer = rig.connect(window=1)
    peer.sendall(requests(1, 3))
    rig.poll()
    rig.kernel.answered(conn)
    assert rig.kernel.has_backlog
    assert rig.poll() == [(conn, 16, 2, b"")]


def test_more_answers_than_requests_widen_no_window(rig: Rig) -> None:
    conn, peer = rig.connect(window=1)
    rig.kernel.answered(conn)
    rig.kernel.send(conn, frame(17, 1))
    peer.sendall(requests(1, 2))
    assert rig.poll() == [(conn, 16, 1, b"")]


def test_frames_without_a_rid_need_no_window(rig: Rig) -> None:
    _, peer = rig.connect(window=1)
    peer.sendall(frame(19) * 5 + frame(16, 1))
    assert len(rig.poll()) == 6


def test_a_full_window_holds_frames_without_a_rid_too_so_that_order_stays(rig: Rig) -> None:
    conn, peer = rig.connect(window=1)
    peer.sendall(frame(16, 1) + frame(19) + frame(16, 2))
    assert rig.poll() == [(conn, 16, 1, b"")]
    rig.kernel.send(conn, frame(17, 1))
    assert rig.poll() == [(conn, 19, 0, b""), (conn, 16, 2, b"")]


def test_a_full_window_stops_the_reading_and_costs_nothing(rig: Rig) -> None:
    conn, peer = rig.connect(window=1)
    peer.sendall(frame(16, 1))
    rig.poll()
    peer.sendall(requests(2, 500))
    rig.poll()
    assert rig.kernel.statistics().input_bytes == 0
    assert not rig.is_readable()
    rig.kernel.send(conn, frame(17, 1))
    assert rig.poll() == [(conn, 16, 2, b"")]


def test_window_zero_is_unlimited(rig: Rig) -> None:
    _, peer = rig.connect(window=0)
    peer.sendall(requests(1, 500))
    assert len(rig.poll()) == 500


def test_a_wider_window_lets_held_requests_through(rig: Rig) -> None:
    conn, peer = rig.connect(window=1)
    peer.sendall(requests(1, 5))
    rig.poll()
    rig.kernel.admit(conn, max_frame=65_536, window=4, timeout_s=0)
    assert rig.poll() == [(conn, 16, rid, b"") for rid in (2, 3, 4)]


@pytest.mark.parametrize("rid", [0, 1, 65_535])
def test_a_ping_is_answered_with_its_rid_and_delivered_to_nobody(rig: Rig, rid: int) -> None:
    _, peer = rig.connect(window=1)
    peer.sendall(frame(PING, rid) * 3)
    assert rig.poll() == []
    assert read_all(peer) == b""
    rig.kernel.flush()
    assert read_all(peer) == frame(PONG, rid) * 3
    assert rig.kernel.statistics().auto_replies == 3


def test_an_answered_ping_takes_no_place_in_the_window(rig: Rig) -> None:
    conn, peer = rig.connect(window=1)
    peer.sendall(frame(PING, 1) * 3 + frame(16, 2))
    assert rig.poll() == [(conn, 16, 2, b"")]


def test_an_outbox_at_its_bound_stops_delivery_until_it_is_written(rig: Rig) -> None:
    conn, peer = rig.connect(max_outbox_bytes=1000)
    rig.kernel.send(conn, frame(9, 0, bytes(1000)))
    peer.sendall(frame(16, 1))
    assert rig.poll() == []
    rig.kernel.flush()
    assert rig.poll() == [(conn, 16, 1, b"")]


def test_input_held_by_a_full_outbox_is_backlog_after_the_flush(rig: Rig) -> None:
    conn, peer = rig.connect(max_outbox_bytes=16)
    peer.sendall(frame(PING) * 2 + frame(16, 1))
    assert rig.poll() == []
    assert not rig.kernel.has_backlog
    rig.kernel.flush()
    assert rig.kernel.has_backlog
    assert rig.poll() == [(conn, 16, 1, b"")]


def test_a_ping_flood_with_a_stopped_reader_is_bounded_and_all_answered_in_the_end(rig: Rig) -> None:
    conn, peer = rig.connect(max_outbox_bytes=4000, buffer_bytes=4096)
    flood, sent = frame(PING, 5) * 100_000, 0
    with suppress(BlockingIOError):
        while True:
            sent += peer.send(flood[sent : sent + 4000])
            rig.poll()
            rig.kernel.flush()
            assert rig.kernel.outbox_bytes(conn) <= 4008
    assert rig.kernel.statistics().input_bytes <= 65_536
    assert not rig.is_readable()
    assert drain(rig, peer) == frame(PONG, 5) * (sent // 8)


def test_a_poll_returns_no_more_than_max_events_and_keeps_the_rest(rig: Rig) -> None:
    conn, peer = rig.connect()
    peer.sendall(requests(1, 10))
    assert rig.poll(4) == [(conn, 16, rid, b"") for rid in (1, 2, 3, 4)]
    assert rig.kernel.has_backlog
    assert rig.poll(4) == [(conn, 16, rid, b"") for rid in (5, 6, 7, 8)]
    assert rig.poll(4) == [(conn, 16, rid, b"") for rid in (9, 10)]
    assert not rig.kernel.has_backlog


def test_sockets_that_a_poll_did_not_reach_are_backlog(rig: Rig) -> None:
    pairs = [rig.connect() for _ in range(5)]
    for _, peer in pairs:
        peer.sendall(frame(16, 1))
    events = rig.poll(2)
    assert rig.kernel.has_backlog
    events += rig.poll(2) + rig.poll(2)
    assert sorted(events) == [(conn, 16, 1, b"") for conn, _ in pairs]


def test_one_connection_gives_one_read_a_poll(rig: Rig) -> None:
    _, peer = rig.connect()
    peer.sendall(frame(16, 0, bytes(1000)) * 100)
    rig.poll()
    assert rig.kernel.statistics().bytes_in <= 65_536


def test_floods_do_not_starve_a_quiet_connection(rig: Rig) -> None:
    flooders = [rig.connect()[1] for _ in range(3)]
    conn, quiet = rig.connect()
    for flooder in flooders:
        flooder.sendall(frame(19) * 8000)
    rig.poll(10)
    quiet.sendall(frame(16, 1))
    for _ in range(300):
        for flooder in flooders:
            with suppress(BlockingIOError):
                flooder.send(frame(19) * 8000)
        if (conn, 16, 1, b"") in rig.poll(1000):
            return
    pytest.fail("the quiet connection was not served in 300 polls")


def test_total_outbox_bound_drops_a_pong_rather_than_grow(make_rig: MakeRig) -> None:
    rig = make_rig(max_total_outbox_bytes=100)
    conn, peer = rig.connect()
    rig.kernel.send(conn, frame(9, 0, bytes(92)))
    peer.sendall(frame(PING))
    rig.poll()
    statistics = rig.kernel.statistics()
    assert (statistics.outbox_bytes, statistics.dropped_frames) == (100, 1)
