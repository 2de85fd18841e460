"""The schedules: who sends when, whatever the other side does."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from bench.generator import Generator
from bench.keepalive import MAX_BURST, KeepAlive
from bench.openloop import Schedule
from bench.session import Session
from bench.traffic import Channel

SECOND_NS = 1_000_000_000


@pytest.fixture
def clients() -> Iterator[Generator]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        made = Generator([listener.getsockname()[:2]], 16)
        yield made
        made.close()


def session(clients: Generator, device_id: int) -> Session:
    return Session(clients.connect(), device_id, device_id, 64, b"")


def test_an_open_loop_is_due_at_even_moments_whatever_was_late() -> None:
    schedule = Schedule([object()], 1000.0, seed=1)  # type: ignore[list-item]
    due = []
    for _ in range(4):
        due.append(schedule.due_ns)
        schedule.take()
    assert [at - due[0] for at in due] == [0, 1_000_000, 2_000_000, 3_000_000]


def test_every_channel_has_its_turn_in_an_order_that_the_seed_repeats() -> None:
    channels: list[Channel] = [object() for _ in range(20)]  # type: ignore[misc]
    orders = []
    for seed in (5, 5, 6):
        schedule = Schedule(channels, 10.0, seed)
        orders.append([schedule.take() for _ in range(40)])
    assert orders[0] == orders[1] != orders[2]
    assert orders[0][:20] == orders[0][20:]
    assert set(orders[0][:20]) == set(channels)


def test_keepalives_are_spread_over_their_period(clients: Generator) -> None:
    start_ns = clients.now_ns
    keepalive = KeepAlive(clients, [session(clients, device_id) for device_id in (1, 2, 3, 4)], period_s=4.0)
    sent = []
    for second in range(5):
        clients.now_ns = start_ns + second * SECOND_NS
        keepalive.send_due()
        sent.append(keepalive.sent)
    assert sent == [1, 2, 3, 4, 5]


def test_keepalives_after_a_long_pause_come_in_bounded_bursts(clients: Generator) -> None:
    keepalive = KeepAlive(clients, [session(clients, 1)], period_s=0.001)
    clients.now_ns += 10 * SECOND_NS
    keepalive.send_due()
    assert keepalive.sent == MAX_BURST
