"""Listeners: who was accepted and from where; a full kernel; no descriptors left."""

from __future__ import annotations

import os
import resource
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gateway._framing_values import ACCEPTED
from tests.kernel.rig import LONGEST_WAIT_S, MakeRig, Rig, frame


@contextmanager
def no_descriptor_left() -> Iterator[None]:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_free = os.open("/dev/null", os.O_RDONLY)
    os.close(lowest_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_a_connection_is_told_with_the_listeners_tag_and_the_peers_address(rig: Rig) -> None:
    listener = rig.listen(tag=42)
    rig.dial(listener)
    ((conn, op, tag, address),) = rig.poll_until(1)
    assert (op, tag, address) == (ACCEPTED, 42, bytes([127, 0, 0, 1]))
    assert conn >= 1 << 20


def test_frames_sent_with_the_connect_come_after_it(rig: Rig) -> None:
    peer = rig.dial(rig.listen())
    peer.sendall(frame(1, 0, b"hello"))
    events = rig.poll_until(2)
    assert [event[1] for event in events] == [ACCEPTED, 1]


@pytest.mark.parametrize(("host", "packed"), [("::1", bytes(15) + b"\1"), ("127.0.0.1", bytes([127, 0, 0, 1]))])
def test_one_peer_has_one_address_over_either_ip(rig: Rig, host: str, packed: bytes) -> None:
    if not socket.has_dualstack_ipv6():
        pytest.skip("no IPv6 on this machine")
    rig.dial(rig.listen(socket.AF_INET6, "::"), host)
    assert rig.poll_until(1)[0][3] == packed


def test_a_unix_peer_has_no_address(rig: Rig, tmp_path: Path) -> None:
    listener = rig.keep(socket.socket(socket.AF_UNIX))
    listener.bind(str(tmp_path / "link"))
    listener.listen()
    listener.setblocking(False)
    rig.kernel.listen(listener.fileno(), 1)
    peer = rig.keep(socket.socket(socket.AF_UNIX))
    peer.connect(str(tmp_path / "link"))
    assert [event[1:] for event in rig.poll_until(1)] == [(ACCEPTED, 1, b"")]


def test_two_listeners_are_told_apart(rig: Rig) -> None:
    first, second = rig.listen(tag=1), rig.listen(tag=2)
    rig.dial(second)
    rig.dial(first)
    assert sorted(event[2] for event in rig.poll_until(2)) == [1, 2]


def test_small_frames_are_not_delayed_on_tcp(rig: Rig) -> None:
    listener = rig.listen()
    client = rig.dial(listener)
    watch = rig.keep(client.dup())
    rig.kernel.adopt(client.detach())
    assert watch.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0


def test_the_accepts_of_one_poll_are_bounded(rig: Rig) -> None:
    listener = rig.listen()
    for _ in range(6):
        rig.dial(listener)
    assert len(rig.poll(4)) == 4
    assert len(rig.poll_until(2, 4)) == 2


def test_a_full_kernel_says_why_and_closes(make_rig: MakeRig) -> None:
    rig = make_rig(max_connections=1, refusal=frame(6, 0, b"full"))
    listener = rig.listen()
    rig.dial(listener)
    rig.poll_until(1)
    refused = rig.dial(listener)
    refused.sendall(frame(1, 0, b"unread, this would reset the connection"))
    assert rig.is_readable(LONGEST_WAIT_S)
    assert rig.poll() == []
    assert refused.recv(100) == frame(6, 0, b"full")
    assert refused.recv(100) == b""
    statistics = rig.kernel.statistics()
    assert (statistics.connections, statistics.accepted, statistics.refused) == (1, 1, 1)


def test_a_place_that_became_free_is_given_again(make_rig: MakeRig) -> None:
    rig = make_rig(max_connections=1)
    listener = rig.listen()
    rig.dial(listener)
    rig.kernel.abort(rig.poll_until(1)[0][0])
    rig.dial(listener)
    assert rig.poll_until(1)[0][1] == ACCEPTED


def test_without_descriptors_accepting_waits_for_the_sweep_and_never_spins(rig: Rig) -> None:
    listener = rig.listen()
    rig.dial(listener)
    assert rig.is_readable(LONGEST_WAIT_S)
    with no_descriptor_left():
        assert rig.poll() == []
        assert not rig.is_readable()
        assert rig.kernel.statistics().accept_failures == 1
    assert rig.sweep(1) == []
    assert rig.poll_until(1)[0][1] == ACCEPTED


def test_without_descriptors_accepting_resumes_when_a_connection_ends(rig: Rig) -> None:
    conn, _ = rig.connect()
    rig.dial(rig.listen())
    assert rig.is_readable(LONGEST_WAIT_S)
    with no_descriptor_left():
        rig.poll()
        rig.kernel.abort(conn)
        assert rig.poll_until(1)[0][1] == ACCEPTED


def test_a_listener_that_was_taken_off_accepts_nobody(rig: Rig) -> None:
    listener = rig.listen()
    rig.dial(listener)
    rig.kernel.unlisten(listener.fileno())
    rig.kernel.unlisten(listener.fileno())
    assert rig.poll() == []
    assert not rig.is_readable()


def test_one_listener_is_not_watched_twice(rig: Rig) -> None:
    listener = rig.listen()
    with pytest.raises(ValueError, match="listening"):
        rig.kernel.listen(listener.fileno(), 1)


@pytest.mark.parametrize("max_connections", [0, -1, (1 << 20) + 1])
def test_the_number_of_connections_has_limits(make_rig: MakeRig, max_connections: int) -> None:
    with pytest.raises(ValueError, match="max_connections"):
        make_rig(max_connections=max_connections)


def test_an_idle_connection_holds_no_buffer_and_at_most_96_bytes(make_rig: MakeRig) -> None:
    rig = make_rig(max_connections=512)
    pairs = [rig.connect() for _ in range(512)]
    for conn, peer in pairs:
        peer.sendall(frame(3) + frame(16, 0, b"x")[:6])
        rig.poll()
        peer.sendall(frame(16, 0, b"x")[6:])
        rig.poll()
        rig.kernel.send(conn, frame(18))
    rig.kernel.flush()
    statistics = rig.kernel.statistics()
    assert (statistics.connections, statistics.input_bytes, statistics.outbox_bytes) == (512, 0, 0)
    assert statistics.slab_bytes <= 512 * 96 + 64
