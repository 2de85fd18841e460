"""How connections end: by the peer, by the caller, politely or at once; and what a number means afterwards."""

from __future__ import annotations

import errno
import os
import socket
import struct

import pytest

from gateway._framing_values import ACCEPTED, CLOSED, KernelFull
from tests.kernel.rig import MakeRig, Rig, frame, has_ended, read_all

EVERY_CALL = [
    ("admit", False), ("release", None), ("send", False), ("answered", None), ("fanout", []), ("unmute", None),
    ("outbox_bytes", 0), ("notify_drained", False), ("close", None), ("abort", None),
]  # fmt: skip


def call(rig: Rig, name: str, conn: int) -> object:
    if name == "admit":
        return rig.kernel.admit(conn, max_frame=4096, window=1, timeout_s=1)
    if name == "send":
        return rig.kernel.send(conn, frame(18))
    if name == "fanout":
        return rig.kernel.fanout([conn], frame(18))
    return getattr(rig.kernel, name)(conn)


def test_the_peers_end_is_told_after_its_last_frame(rig: Rig) -> None:
    conn, peer = rig.connect()
    peer.sendall(frame(16, 1))
    peer.close()
    assert rig.poll_until(2) == [(conn, 16, 1, b""), (conn, CLOSED, 0, b"")]
    assert rig.kernel.statistics().connections == 0


def test_a_reset_is_told_with_its_errno(rig: Rig) -> None:
    peer = rig.dial(rig.listen())
    ((conn, _, _, _),) = rig.poll_until(1)
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()
    assert rig.poll_until(1) == [(conn, CLOSED, errno.ECONNRESET, b"")]


@pytest.mark.parametrize("is_admitted", [True, False])
def test_a_peer_that_is_gone_is_noticed_while_its_input_is_held(rig: Rig, is_admitted: bool) -> None:
    conn, peer = rig.connect(window=1) if is_admitted else rig.greet()
    peer.sendall(frame(1, 1) + frame(2, 2))
    rig.poll()
    peer.close()
    assert rig.poll() == [(conn, CLOSED, 0, b"")]


@pytest.mark.parametrize(("name", "result"), EVERY_CALL)
def test_a_stale_number_names_nobody(rig: Rig, name: str, result: object) -> None:
    stale, _ = rig.connect()
    rig.kernel.abort(stale)
    conn, peer = rig.connect()
    assert conn & 0xFFFFF == stale & 0xFFFFF
    assert conn >> 20 == (stale >> 20) + 1
    assert call(rig, name, stale) == result
    rig.kernel.flush()
    assert read_all(peer) == b""
    assert rig.kernel.send(conn, frame(18))


@pytest.mark.parametrize(("name", "result"), EVERY_CALL)
@pytest.mark.parametrize("number", [0, 1, 0xFFFFF, 1 << 20 | 500, 1 << 52, (1 << 64) - 1])
def test_a_number_never_given_names_nobody(rig: Rig, name: str, result: object, number: int) -> None:
    assert call(rig, name, number) == result


def test_input_queued_for_a_slot_is_not_delivered_to_its_next_connection(rig: Rig) -> None:
    first, peer = rig.connect(window=1)
    peer.sendall(frame(16, 1) + frame(16, 2))
    rig.poll()
    rig.kernel.send(first, frame(17, 1))
    rig.kernel.abort(first)
    second, _ = rig.connect()
    assert rig.poll() == []
    assert second != first


def test_close_writes_the_outbox_then_ends_the_write_side(rig: Rig) -> None:
    conn, peer = rig.connect()
    rig.kernel.send(conn, frame(6, 0, b"why"))
    rig.kernel.close(conn)
    rig.kernel.flush()
    assert read_all(peer) == frame(6, 0, b"why")
    assert has_ended(peer)
    assert rig.kernel.statistics().connections == 1


def test_a_closing_connection_delivers_nothing_and_reads_on(rig: Rig) -> None:
    conn, peer = rig.connect(window=1)
    peer.sendall(frame(16, 1) + frame(16, 2))
    rig.poll()
    rig.kernel.close(conn)
    rig.kernel.flush()
    for _ in range(50):
        peer.sendall(frame(16, 3, bytes(10_000)))
        assert rig.poll() == []
    assert rig.kernel.statistics().input_bytes == 0
    peer.close()
    assert rig.poll() == []
    assert rig.kernel.statistics().connections == 0


@pytest.mark.parametrize(("name", "result"), [each for each in EVERY_CALL if each[0] != "abort"])
def test_a_closing_connection_is_closed_to_every_call(rig: Rig, name: str, result: object) -> None:
    conn, peer = rig.connect()
    rig.kernel.close(conn)
    assert call(rig, name, conn) == result
    rig.kernel.flush()
    assert read_all(peer) == b""
    assert has_ended(peer)


def test_the_linger_ends_what_the_peer_does_not(make_rig: MakeRig) -> None:
    rig = make_rig(linger_s=2)
    conn, _ = rig.connect()
    rig.kernel.close(conn)
    rig.kernel.flush()
    assert rig.sweep(1) == []
    assert rig.kernel.statistics().connections == 1
    assert rig.sweep(1) == []
    assert (rig.kernel.statistics().connections, rig.kernel.statistics().closed) == (0, 1)


def test_an_outbox_that_goes_out_extends_the_linger_but_not_for_ever(make_rig: MakeRig) -> None:
    rig = make_rig(linger_s=2, stall_timeout_s=15, max_outbox_bytes=1 << 22)
    conn, peer = rig.connect(buffer_bytes=4096)
    rig.fill(conn, 3_000_000)
    rig.kernel.close(conn)
    rig.kernel.flush()
    lasted_s = 0
    while rig.kernel.statistics().connections:
        read_all(peer)
        rig.poll()
        rig.sweep(1)
        lasted_s += 1
    assert lasted_s == 17


def test_a_peer_that_ended_first_still_gets_the_whole_outbox(rig: Rig) -> None:
    conn, peer = rig.connect(buffer_bytes=4096)
    rig.fill(conn)
    peer.shutdown(socket.SHUT_WR)
    rig.kernel.close(conn)
    rig.kernel.flush()
    received = b""
    while not received.endswith(bytes(8)) or len(received) < 60_008:
        received += read_all(peer)
        rig.poll()
    assert received == frame(9, 0, bytes(60_000))
    assert rig.kernel.statistics().connections == 0


def test_a_peer_that_ended_does_not_keep_the_kernel_busy_while_its_outbox_waits(rig: Rig) -> None:
    conn, peer = rig.connect(buffer_bytes=4096)
    rig.fill(conn)
    peer.shutdown(socket.SHUT_WR)
    rig.kernel.close(conn)
    rig.poll()
    assert not rig.is_readable()


def test_close_twice_is_close_once(rig: Rig) -> None:
    conn, peer = rig.connect()
    rig.kernel.close(conn)
    rig.kernel.close(conn)
    rig.kernel.flush()
    peer.close()
    rig.poll()
    rig.kernel.close(conn)
    assert rig.kernel.statistics().closed == 1


def test_abort_closes_at_once(rig: Rig) -> None:
    conn, peer = rig.connect()
    rig.kernel.send(conn, frame(18))
    rig.kernel.abort(conn)
    assert has_ended(peer)
    assert rig.kernel.statistics().outbox_bytes == 0
    rig.kernel.flush()
    assert rig.poll() == []


def test_a_connection_closed_between_report_and_turn_is_skipped(rig: Rig) -> None:
    pairs = [rig.connect() for _ in range(3)]
    for _, peer in pairs:
        peer.sendall(frame(16, 1))
    rig.poll(1)
    for conn, _ in pairs:
        rig.kernel.abort(conn)
    reused = [rig.connect()[0] for _ in range(3)]
    assert rig.poll() == []
    assert all(rig.kernel.send(conn, frame(18)) for conn in reused)


def test_adopting_beyond_the_limit_leaves_the_socket_to_the_caller(make_rig: MakeRig) -> None:
    rig = make_rig(max_connections=1)
    rig.connect()
    ours, peer = socket.socketpair()
    with pytest.raises(KernelFull):
        rig.kernel.adopt(ours.fileno())
    ours.sendall(b"mine")
    assert rig.keep(peer).recv(4) == b"mine"
    rig.keep(ours)


def test_adopting_what_is_no_socket_fails(rig: Rig) -> None:
    closed = os.open("/dev/null", os.O_RDONLY)
    os.close(closed)
    with pytest.raises(OSError, match="escriptor"):
        rig.kernel.adopt(closed)
    assert rig.kernel.statistics().connections == 0


def test_shutdown_closes_every_socket_and_is_idempotent(rig: Rig) -> None:
    _, greeting = rig.greet()
    conn, admitted = rig.connect()
    rig.kernel.shutdown()
    assert has_ended(greeting)
    assert has_ended(admitted)
    rig.kernel.shutdown()
    assert not rig.kernel.send(conn, frame(18))
    with pytest.raises(ValueError, match="kernel was shut down"):
        rig.poll()


def test_accepted_is_never_told_for_an_adopted_socket(rig: Rig) -> None:
    rig.greet()
    assert ACCEPTED not in [event[1] for event in rig.poll()]
