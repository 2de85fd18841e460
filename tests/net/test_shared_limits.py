"""What a worker says of its rates, and what it makes of the answers."""

from __future__ import annotations

from collections.abc import Sequence

import trio

from gateway.net.limits import Rate, SharedLimitsUnavailable, Spending
from gateway.net.shared_limits import Settlement, SharedBuckets, name_number

RATE = Rate(per_s=100.0, burst=1000.0)


class Ledger:
    """A ``SharedLimits`` that answers what it is told to."""

    def __init__(self) -> None:
        self.said: list[tuple[str, Rate, list[Spending]]] = []
        self.waits_s: dict[bytes, float] = {}
        self.is_away = False

    async def settle(self, scope: str, rate: Rate, spent: Sequence[Spending]) -> list[float]:
        self.said.append((scope, rate, list(spent)))
        if self.is_away:
            raise SharedLimitsUnavailable("away")
        return [self.waits_s.get(spending.key, 0.0) for spending in spent]


def buckets(max_keys: int = 100) -> SharedBuckets[int]:
    return SharedBuckets("sends", RATE, max_keys, name_number)


def spend(table: SharedBuckets[int], key: int, tokens: int, now_s: float = 0.0) -> None:
    for _ in range(tokens):
        assert table.take(key, now_s) == 0.0


async def test_busy_keys_are_said_once_and_quiet_ones_when_they_add_up() -> None:
    ledger, table = Ledger(), buckets()
    settlement = Settlement(ledger, [table], now_s=lambda: 0.0)
    spend(table, 1, 10)
    spend(table, 2, 9)
    await settlement.settle()
    assert ledger.said == [("sends", RATE, [Spending(b"1", 10)])]
    spend(table, 2, 1)
    await settlement.settle()
    await settlement.settle()
    assert ledger.said[1:] == [("sends", RATE, [Spending(b"2", 10)])]


async def test_what_was_refused_is_not_spent() -> None:
    table = SharedBuckets("sends", Rate(1.0, 20.0), 100, name_number)
    for _ in range(50):
        table.take(1, 0.0)
    assert [spending for _, spending in table.take_busy()] == [Spending(b"1", 20)]


async def test_a_key_in_debt_is_refused_until_it_is_over() -> None:
    ledger, table = Ledger(), buckets()
    ledger.waits_s[b"1"] = 2.0
    spend(table, 1, 10)
    spend(table, 2, 10)
    await Settlement(ledger, [table], now_s=lambda: 50.0).settle()
    assert [table.take(1, 50.0), table.take(1, 51.5), table.take(1, 52.0)] == [2.0, 0.5, 0.0]
    assert table.take(2, 50.0) == 0.0


async def test_a_server_that_is_away_refuses_nobody() -> None:
    ledger, table = Ledger(), buckets()
    ledger.is_away = True
    settlement = Settlement(ledger, [table, buckets()], now_s=lambda: 0.0)
    spend(table, 1, 10)
    await settlement.settle()
    assert settlement.failed == 1
    assert table.take(1, 0.0) == 0.0


async def test_quiet_spending_is_forgotten_in_the_end() -> None:
    table = buckets()
    spend(table, 1, 9)
    table.forget()
    spend(table, 1, 9)
    assert table.take_busy() == []


async def test_what_is_kept_account_of_is_bounded_and_more_is_let_through() -> None:
    table = buckets(max_keys=1)
    spend(table, 1, 10)
    spend(table, 2, 10)
    assert [spending for _, spending in table.take_busy()] == [Spending(b"1", 10)]


async def test_a_settlement_runs_by_itself(autojump_clock: object) -> None:
    ledger, table = Ledger(), buckets()
    spend(table, 1, 10)
    async with trio.open_nursery() as running:
        await running.start(Settlement(ledger, [table]).run)
        await trio.sleep(0.3)
        running.cancel_scope.cancel()
    assert len(ledger.said) == 1
