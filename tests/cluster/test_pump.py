"""The pump, with a real kernel on a real socket pair."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator

import pytest
import trio
from trio.testing import MockClock

from gateway.pump import ACCEPTED, CLOSED, DRAINED, TOO_LARGE, TOO_SHORT, Event, Pump, measure_loop_lag
from tests.cluster.processes import Inbox

try:
    from gateway._framing import Kernel
except ImportError:
    from gateway._framing_py import Kernel  # type: ignore[assignment]

FRAME = struct.Struct(">IBBH")


def frame(op: int) -> bytes:
    return FRAME.pack(4, op, 0, 0)


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    kernel = Kernel(8)
    yield kernel
    kernel.shutdown()


def connect(kernel: Kernel) -> tuple[int, socket.socket]:
    ours, theirs = socket.socketpair(socket.AF_UNIX)
    conn = kernel.adopt(ours.detach())
    kernel.admit(conn, max_frame=4096, window=0, timeout_s=0)
    return conn, theirs


def test_the_events_have_the_numbers_of_the_contract() -> None:
    assert (ACCEPTED, CLOSED, DRAINED, TOO_SHORT, TOO_LARGE) == (256, 257, 258, 259, 260)


async def test_events_are_dispatched_and_what_dispatch_queues_is_flushed(kernel: Kernel, nursery: trio.Nursery) -> None:
    def answer(events: list[Event]) -> None:
        for conn, op, _, _ in events:
            kernel.send(conn, frame(op + 1))

    await nursery.start(Pump(kernel, answer).run)
    _, theirs = connect(kernel)
    with theirs, trio.fail_after(5):
        theirs.send(frame(5))
        await trio.lowlevel.wait_readable(theirs)
        assert theirs.recv(100) == frame(6)


async def test_frames_queued_outside_of_a_cycle_are_flushed_soon(kernel: Kernel, nursery: trio.Nursery) -> None:
    pump = Pump(kernel, lambda events: None)
    await nursery.start(pump.run)
    conn, theirs = connect(kernel)
    with theirs, trio.fail_after(5):
        kernel.send(conn, frame(5))
        pump.flush_soon()
        pump.flush_soon()
        await trio.lowlevel.wait_readable(theirs)
        assert theirs.recv(100) == frame(5)


async def test_input_held_back_in_the_kernel_is_polled_after_flush_soon(kernel: Kernel, nursery: trio.Nursery) -> None:
    inbox = Inbox()
    pump = Pump(kernel, inbox)
    await nursery.start(pump.run)
    ours, theirs = socket.socketpair(socket.AF_UNIX)
    conn = kernel.adopt(ours.detach())
    with theirs:
        theirs.send(frame(5) + frame(6))
        assert await inbox.get() == ([(conn, 5, 0, b"")],)  # the greeting phase delivers one
        kernel.admit(conn, max_frame=4096, window=0, timeout_s=0)
        pump.flush_soon()
        assert await inbox.get() == ([(conn, 6, 0, b"")],)


async def test_a_flood_of_input_lets_other_tasks_run_between_cycles(kernel: Kernel, nursery: trio.Nursery) -> None:
    batches: list[list[Event]] = []
    pump = Pump(kernel, batches.append, max_events=10)
    _, theirs = connect(kernel)
    with theirs:
        theirs.send(frame(5) * 1000)
        await nursery.start(pump.run)
        turns = 0
        while sum(map(len, batches)) < 1000:
            turns += 1
            await trio.lowlevel.checkpoint()
    assert all(len(batch) <= 10 for batch in batches)
    assert turns >= 50


async def test_what_dispatch_raises_ends_the_pump(kernel: Kernel) -> None:
    def fail(events: list[Event]) -> None:
        raise ZeroDivisionError

    _, theirs = connect(kernel)
    with theirs:
        theirs.send(frame(5))
        with pytest.raises(ZeroDivisionError):
            await Pump(kernel, fail).run()


async def test_loop_lag_is_how_late_the_timer_fires(mock_clock: MockClock, nursery: trio.Nursery) -> None:
    inbox = Inbox()
    nursery.start_soon(lambda: measure_loop_lag(inbox, period_s=0.1))
    await trio.testing.wait_all_tasks_blocked()
    mock_clock.jump(0.35)
    (lag,) = await inbox.get()
    assert lag == pytest.approx(0.25)
