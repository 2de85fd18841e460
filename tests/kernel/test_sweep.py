"""Time: silence, stalls, and a clock that only goes forward."""

from __future__ import annotations

from gateway._framing_values import SILENT, STALLED
from tests.kernel.rig import PING, MakeRig, Rig, frame, read_all


def test_a_connection_without_input_for_its_timeout_is_silent(rig: Rig) -> None:
    conn, _ = rig.connect(timeout_s=30)
    assert rig.sweep(29) == []
    assert rig.sweep(1) == [(conn, SILENT)]


def test_any_byte_is_activity(rig: Rig) -> None:
    conn, peer = rig.connect(timeout_s=30)
    for byte in frame(PING)[:4]:
        rig.now_s += 29
        peer.sendall(bytes([byte]))
        rig.poll()
    assert rig.sweep(29) == []
    assert rig.sweep(1) == [(conn, SILENT)]


def test_what_is_sent_to_the_peer_is_not_its_activity(rig: Rig) -> None:
    conn, peer = rig.connect(timeout_s=30)
    rig.now_s += 29
    rig.poll()
    rig.kernel.send(conn, frame(18))
    rig.kernel.flush()
    read_all(peer)
    assert rig.sweep(1) == [(conn, SILENT)]


def test_timeout_zero_is_never_silent(rig: Rig) -> None:
    rig.connect(timeout_s=0)
    assert rig.sweep(1_000_000) == []


def test_a_new_timeout_counts_from_the_last_input(rig: Rig) -> None:
    conn, _ = rig.connect(timeout_s=30)
    rig.now_s += 20
    rig.poll()
    rig.kernel.admit(conn, max_frame=65_536, window=0, timeout_s=60)
    assert rig.sweep(39) == []
    assert rig.sweep(1) == [(conn, SILENT)]


def test_an_outbox_that_nobody_reads_is_stalled(make_rig: MakeRig) -> None:
    rig = make_rig(stall_timeout_s=15)
    conn, _ = rig.connect(buffer_bytes=4096)
    rig.fill(conn)
    assert rig.sweep(14) == []
    assert rig.sweep(1) == [(conn, STALLED)]


def test_progress_begins_the_stall_time_anew(make_rig: MakeRig) -> None:
    rig = make_rig(stall_timeout_s=15)
    conn, peer = rig.connect(buffer_bytes=4096)
    rig.fill(conn)
    rig.now_s += 14
    read_all(peer)
    rig.poll()
    assert rig.kernel.outbox_bytes(conn) > 0
    assert rig.sweep(14) == []
    assert rig.sweep(1) == [(conn, STALLED)]


def test_queueing_more_is_no_progress(make_rig: MakeRig) -> None:
    rig = make_rig(stall_timeout_s=15)
    conn, _ = rig.connect(buffer_bytes=4096)
    rig.fill(conn)
    rig.now_s += 14
    rig.poll()
    rig.kernel.send(conn, frame(18))
    rig.kernel.flush()
    assert rig.sweep(1) == [(conn, STALLED)]


def test_stalled_is_told_before_silent_and_once_a_second(rig: Rig) -> None:
    conn, _ = rig.connect(timeout_s=1, buffer_bytes=4096)
    rig.fill(conn)
    assert rig.sweep(15) == [(conn, STALLED)]
    assert rig.sweep(0) == []
    assert rig.sweep(1) == [(conn, STALLED)]


def test_time_that_runs_backwards_expires_nobody(rig: Rig) -> None:
    rig.connect(timeout_s=30)
    rig.greet()
    rig.now_s += 5
    rig.poll()
    assert rig.sweep(-1000) == []
    rig.connect(timeout_s=30)
    assert rig.sweep(1000) == []


def test_a_sweep_names_every_connection_in_question(rig: Rig) -> None:
    conns = [rig.connect(timeout_s=5)[0] for _ in range(20)]
    assert rig.sweep(5) == [(conn, SILENT) for conn in conns]
