"""Token buckets, by hand: every time is given."""

from __future__ import annotations

import pytest

from gateway.net.limits import Buckets, Rate


def buckets(per_s: float = 2.0, burst: float = 3.0, max_keys: int = 100) -> Buckets[str]:
    return Buckets(Rate(per_s, burst), max_keys)


def test_a_burst_is_taken_at_once_and_then_the_wait_is_told() -> None:
    table = buckets()
    assert [table.take("a", 0.0) for _ in range(4)] == [0.0, 0.0, 0.0, 0.5]


def test_waiting_as_told_is_enough() -> None:
    table = buckets()
    for _ in range(3):
        table.take("a", 0.0)
    wait_s = table.take("a", 0.1)
    assert wait_s == pytest.approx(0.4)
    assert table.take("a", 0.1 + wait_s) == 0.0
    assert table.take("a", 0.1 + wait_s) > 0


def test_a_refusal_costs_nothing() -> None:
    table = buckets()
    for _ in range(3):
        table.take("a", 0.0)
    waits = [table.take("a", 0.0) for _ in range(10)]
    assert waits == [0.5] * 10
    assert table.take("a", 0.5) == 0.0


def test_a_quiet_key_gathers_no_more_than_a_burst() -> None:
    table = buckets()
    table.take("a", 0.0)
    assert [table.take("a", 1000.0) for _ in range(4)] == [0.0, 0.0, 0.0, 0.5]


def test_over_time_a_key_gets_its_rate() -> None:
    table = buckets(per_s=5.0, burst=2.0)
    allowed = sum(table.take("a", tick / 100) == 0.0 for tick in range(1000))
    assert allowed in (51, 52)


def test_keys_have_buckets_of_their_own() -> None:
    table = buckets(burst=1.0)
    assert [table.take(key, 0.0) for key in "aabb"] == [0.0, 0.5, 0.0, 0.5]


def test_the_table_is_bounded_and_the_least_recently_used_is_forgiven() -> None:
    table = buckets(burst=1.0, max_keys=2)
    table.take("a", 0.0)
    table.take("b", 0.0)
    table.take("a", 0.0)
    table.take("c", 0.0)
    assert len(table) == 2
    assert table.take("a", 0.0) > 0
    assert table.take("b", 0.0) == 0.0
