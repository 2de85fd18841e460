"""The greeting phase: one frame at a time until admission, and not for ever."""

from __future__ import annotations

import socket

from gateway._framing_values import GREETING_EXPIRED
from tests.kernel.rig import PING, PONG, MakeRig, Rig, frame, read_all


def admit(rig: Rig, conn: int, window: int = 0) -> bool:
    return rig.kernel.admit(conn, max_frame=65_536, window=window, timeout_s=0)


def test_the_frame_after_the_first_is_held_until_admission(rig: Rig) -> None:
    conn, peer = rig.greet()
    peer.sendall(frame(1) + frame(2) + frame(3 + 2))
    assert rig.poll() == [(conn, 1, 0, b"")]
    assert rig.poll() == []
    assert not rig.kernel.has_backlog
    assert admit(rig, conn)
    assert rig.kernel.has_backlog
    assert rig.poll() == [(conn, 2, 0, b""), (conn, 5, 0, b"")]


def test_release_delivers_one_more_frame(rig: Rig) -> None:
    conn, peer = rig.greet()
    peer.sendall(frame(1) + frame(2) + frame(5))
    rig.poll()
    rig.kernel.release(conn)
    assert rig.kernel.has_backlog
    assert rig.poll() == [(conn, 2, 0, b"")]
    assert rig.poll() == []


def test_release_delivers_a_frame_that_comes_later(rig: Rig) -> None:
    conn, peer = rig.greet()
    peer.sendall(frame(1))
    rig.poll()
    peer.sendall(frame(2))
    assert rig.poll() == []
    rig.kernel.release(conn)
    assert rig.poll() == [(conn, 2, 0, b"")]


def test_a_held_greeting_does_not_keep_the_kernel_busy(rig: Rig) -> None:
    _, peer = rig.greet()
    peer.sendall(frame(1))
    rig.poll()
    peer.sendall(frame(2))
    rig.poll()
    assert not rig.is_readable()
    assert not rig.kernel.has_backlog


def test_a_stranger_fills_no_more_than_about_one_frame(rig: Rig) -> None:
    _, peer = rig.greet()
    peer.sendall(frame(1) + frame(2) * 5000)
    for _ in range(5):
        rig.poll()
    assert rig.kernel.statistics().input_bytes <= 4100


def test_a_ping_before_admission_is_an_ordinary_frame(rig: Rig) -> None:
    conn, peer = rig.greet()
    peer.sendall(frame(PING, 9))
    assert rig.poll() == [(conn, PING, 9, b"")]
    rig.kernel.flush()
    assert read_all(peer) == b""


def test_a_ping_held_by_the_greeting_is_answered_after_admission(rig: Rig) -> None:
    conn, peer = rig.greet()
    peer.sendall(frame(1) + frame(PING, 9))
    rig.poll()
    admit(rig, conn)
    assert rig.poll() == []
    rig.kernel.flush()
    assert read_all(peer) == frame(PONG, 9)


def test_a_reply_can_be_sent_before_admission(rig: Rig) -> None:
    conn, peer = rig.greet()
    assert rig.kernel.send(conn, frame(6, 0, b"no"))
    rig.kernel.flush()
    assert read_all(peer) == frame(6, 0, b"no")


def test_the_greeting_counts_as_a_request_until_it_is_answered(rig: Rig) -> None:
    conn, peer = rig.greet()
    peer.sendall(frame(1, 1) + frame(2, 2))
    rig.poll()
    admit(rig, conn, window=1)
    assert rig.poll() == []
    rig.kernel.send(conn, frame(2, 1))
    assert rig.poll() == [(conn, 2, 2, b"")]


def test_a_greeting_expires_whatever_arrives(make_rig: MakeRig) -> None:
    rig = make_rig(greeting_timeout_s=10)
    conn, peer = rig.greet()
    rig.now_s += 9
    peer.sendall(frame(1)[:3])
    rig.poll()
    assert rig.sweep(0) == []
    assert rig.sweep(1) == [(conn, GREETING_EXPIRED)]


def test_an_expired_greeting_is_reported_once_a_second_and_stays_open(rig: Rig) -> None:
    conn, _ = rig.greet()
    assert rig.sweep(10) == [(conn, GREETING_EXPIRED)]
    assert rig.sweep(0) == []
    assert rig.sweep(1) == [(conn, GREETING_EXPIRED)]
    assert rig.kernel.send(conn, frame(6))


def test_an_admitted_connection_has_no_greeting_to_expire(rig: Rig) -> None:
    rig.connect()
    assert rig.sweep(1000) == []


def test_a_connection_adopted_before_time_is_known_starts_with_the_first_poll(make_rig: MakeRig) -> None:
    rig = make_rig()
    fresh = type(rig.kernel)(10)
    try:
        ours, peer = socket.socketpair()
        rig.keep(peer)
        conn = fresh.adopt(ours.detach())
        fresh.poll(10, 1_000_000)
        assert fresh.sweep(1_000_009) == []
        assert fresh.sweep(1_000_010) == [(conn, GREETING_EXPIRED)]
    finally:
        fresh.shutdown()
