"""Frames out of bytes: however the bytes come, the events are the same; a bad length ends it."""

from __future__ import annotations

import socket
import struct

import pytest

from gateway._framing_values import TOO_LARGE, TOO_SHORT
from tests.kernel.rig import Event, Rig, frame

STREAM = frame(16, 1, b"one") + frame(19) + frame(255, 65_535, b"x" * 300, flags=255) + frame(0, 0, b"\0")
EVENTS = [(16, 1, b"one"), (19, 0, b""), (255, 255 << 16 | 65_535, b"x" * 300), (0, 0, b"\0")]


def of(conn: int, events: list[tuple[int, int, bytes]]) -> list[Event]:
    return [(conn, *event) for event in events]


def feed(rig: Rig, peer: socket.socket, stream: bytes, size: int) -> list[Event]:
    events = []
    for start in range(0, len(stream), size):
        peer.sendall(stream[start : start + size])
        events += rig.poll()
    return events


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 8, 9, 100, 1000])
def test_frames_are_the_same_however_they_are_cut(rig: Rig, size: int) -> None:
    conn, peer = rig.connect()
    assert feed(rig, peer, STREAM, size) == of(conn, EVENTS)


def test_a_tail_waits_for_its_rest(rig: Rig) -> None:
    conn, peer = rig.connect()
    tail = frame(20, 2, b"the tail")
    peer.sendall(STREAM + tail[:5])
    assert rig.poll() == of(conn, EVENTS)
    assert rig.kernel.statistics().input_bytes == 5
    peer.sendall(tail[5:])
    assert rig.poll() == [(conn, 20, 2, b"the tail")]
    assert rig.kernel.statistics().input_bytes == 0


@pytest.mark.parametrize("size", [1 << 16, 100_000, 1 << 20])
def test_a_frame_larger_than_one_read_comes_whole(rig: Rig, size: int) -> None:
    conn, peer = rig.connect(max_frame=1 << 21)
    body = bytes(range(256)) * (size // 256)
    received = feed(rig, peer, frame(1, 1, body) + frame(2, 2, b"after"), 50_000)
    assert received == [(conn, 1, 1, body), (conn, 2, 2, b"after")]


def test_a_large_frame_in_crumbs_comes_whole(rig: Rig) -> None:
    conn, peer = rig.connect()
    body = bytes(range(256)) * 16
    assert feed(rig, peer, frame(1, 1, body) + frame(2), 11) == [(conn, 1, 1, body), (conn, 2, 0, b"")]


@pytest.mark.parametrize("length", [0, 1, 3])
def test_a_length_below_four_is_too_short(rig: Rig, length: int) -> None:
    conn, peer = rig.connect()
    peer.sendall(frame(1) + struct.pack(">I", length))
    assert rig.poll() == [(conn, 1, 0, b""), (conn, TOO_SHORT, length, b"")]


@pytest.mark.parametrize("length", [65_537, 0x80000000, 0xFFFFFFFF])
def test_a_length_above_the_limit_is_too_large_before_its_bytes_come(rig: Rig, length: int) -> None:
    conn, peer = rig.connect()
    peer.sendall(struct.pack(">I", length))
    assert rig.poll() == [(conn, TOO_LARGE, length, b"")]


@pytest.mark.parametrize(("length", "op"), [(4096, 1), (4097, TOO_LARGE)])
def test_the_limit_is_the_greetings_before_admission(rig: Rig, length: int, op: int) -> None:
    conn, peer = rig.greet()
    peer.sendall(frame(1, 0, bytes(length - 4)))
    assert [event[:2] for event in rig.poll()] == [(conn, op)]


@pytest.mark.parametrize(("length", "op"), [(65_536, 1), (65_537, TOO_LARGE)])
def test_the_limit_is_the_granted_one_after_admission(rig: Rig, length: int, op: int) -> None:
    conn, peer = rig.connect()
    peer.sendall(frame(1, 0, bytes(length - 4)))
    assert [event[:2] for event in rig.poll_until(1)] == [(conn, op)]


def test_a_frame_held_by_the_greeting_is_measured_by_the_granted_limit(rig: Rig) -> None:
    conn, peer = rig.greet()
    peer.sendall(frame(1) + frame(2, 0, bytes(5000)))
    assert [event[:2] for event in rig.poll()] == [(conn, 1)]
    rig.kernel.admit(conn, max_frame=65_536, window=0, timeout_s=0)
    assert [event[:2] for event in rig.poll_until(1)] == [(conn, 2)]


def test_nothing_is_delivered_or_read_after_a_bad_length(rig: Rig) -> None:
    conn, peer = rig.connect()
    peer.sendall(struct.pack(">I", 2) + frame(1))
    assert rig.poll() == [(conn, TOO_SHORT, 2, b"")]
    peer.sendall(frame(1))
    assert rig.poll() == []
    assert not rig.is_readable()
    assert rig.kernel.send(conn, frame(6, 0, b"why"))


def test_a_bad_length_of_one_connection_leaves_the_others_alone(rig: Rig) -> None:
    _, bad = rig.connect()
    conn, good = rig.connect()
    good.sendall(frame(1)[:6])
    rig.poll()
    bad.sendall(struct.pack(">I", 2))
    good.sendall(frame(1)[6:])
    assert (conn, 1, 0, b"") in rig.poll()
