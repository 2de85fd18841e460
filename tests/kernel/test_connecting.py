"""Sockets that are handed over while they are still connecting: what is sent waits, and a refusal is told as an end."""

from __future__ import annotations

import errno
import socket

import pytest

from gateway._framing_values import CLOSED
from tests.kernel.rig import LONGEST_WAIT_S, Rig, frame


def connecting(rig: Rig, host: str, port: int, family: int = socket.AF_INET) -> int:
    """An adopted socket whose connect has just begun."""
    opened = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    assert opened.connect_ex((host, port)) in (0, errno.EINPROGRESS)
    return rig.kernel.adopt(opened.detach())


def unused_port(rig: Rig) -> int:
    """Bound and not listening: whoever connects is refused."""
    bound = rig.keep(socket.socket())
    bound.bind(("127.0.0.1", 0))
    return int(bound.getsockname()[1])


def listener_that_is_full(rig: Rig) -> socket.socket:
    """Its backlog is taken: the system drops whoever else comes, so that connects wait."""
    listener = rig.keep(socket.socket())
    listener.bind(("127.0.0.1", 0))
    listener.listen(0)
    rig.keep(socket.create_connection(listener.getsockname(), timeout=LONGEST_WAIT_S))
    return listener


@pytest.mark.parametrize("is_sending", [True, False])
def test_a_refused_connect_is_an_end_with_its_errno(rig: Rig, is_sending: bool) -> None:
    conn = connecting(rig, "127.0.0.1", unused_port(rig))
    if is_sending:
        rig.kernel.send(conn, frame(18))
    rig.kernel.flush()
    assert rig.poll_until(1) == [(conn, CLOSED, errno.ECONNREFUSED, b"")]
    assert rig.kernel.statistics().connections == 0
    assert not rig.kernel.send(conn, frame(18))


@pytest.mark.parametrize("is_flushed", [True, False])
def test_a_frame_sent_before_the_connection_is_there_arrives(rig: Rig, is_flushed: bool) -> None:
    listener = rig.keep(socket.create_server(("127.0.0.1", 0)))
    conn = connecting(rig, *listener.getsockname())
    assert rig.kernel.send(conn, frame(18, 0, b"early"))
    if is_flushed:
        rig.kernel.flush()
    peer = rig.keep(listener.accept()[0])
    rig.kernel.flush()
    while rig.kernel.outbox_bytes(conn):
        assert rig.is_readable(LONGEST_WAIT_S)
        rig.poll()
    peer.settimeout(LONGEST_WAIT_S)
    assert peer.recv(100) == frame(18, 0, b"early")
    peer.sendall(frame(19))
    assert rig.poll_until(1) == [(conn, 19, 0, b"")]


def test_a_frame_waits_for_as_long_as_the_connection_takes_and_costs_no_polls(rig: Rig) -> None:
    listener = listener_that_is_full(rig)
    conn = connecting(rig, *listener.getsockname())
    assert rig.kernel.send(conn, frame(18))
    rig.kernel.flush()
    assert rig.poll() == []
    assert not rig.is_readable()
    assert rig.kernel.outbox_bytes(conn) == len(frame(18))
    rig.kernel.abort(conn)
    assert rig.kernel.statistics().outbox_bytes == 0


def test_one_that_is_connecting_for_too_long_is_swept_as_any_greeting(rig: Rig) -> None:
    conn = connecting(rig, *listener_that_is_full(rig).getsockname())
    assert [swept for swept, _ in rig.sweep(60)] == [conn]
