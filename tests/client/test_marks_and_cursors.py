"""What is thinned out and what is remembered, without a wire."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from gateway.protocol.messages import Cursor
from parley.addresses import parsed
from parley.cursors import MAX_PAIRS, Cursors
from parley.ending import Ending, Judge, Step
from parley.marks import MAX_TYPING, TypingMarks


def test_a_cursor_only_grows() -> None:
    cursors = Cursors({1: 5})
    for seq in (4, 7, 6):
        cursors.advance(1, seq)
    assert cursors.take_moved() == ({1: 7}, [])
    assert cursors.take_moved() == ({}, [])


def test_a_sync_names_the_chats_that_moved_last() -> None:
    cursors = Cursors(dict.fromkeys(range(1, MAX_PAIRS + 2), 1))
    cursors.advance(1, 2)
    pairs = cursors.pairs()
    assert len(pairs) == MAX_PAIRS
    assert pairs[-1] == Cursor(1, 2)
    assert Cursor(2, 1) not in pairs


async def test_cursors_are_due_after_200_ms_or_64_messages(autojump_clock: trio.testing.MockClock) -> None:
    cursors = Cursors({})
    cursors.advance(1, 1)
    await cursors.wait_due()
    assert trio.current_time() == pytest.approx(0.2)
    for seq in range(2, 66):
        cursors.advance(1, seq)
    await cursors.wait_due()
    assert trio.current_time() == pytest.approx(0.2)


def test_typing_marks_are_bounded() -> None:
    marks = TypingMarks()
    for chat_id in range(MAX_TYPING + 1):
        assert marks.is_due(chat_id, True, 0.0)
    assert not marks.is_due(MAX_TYPING, True, 1.0)
    assert marks.is_due(0, True, 1.0)  # forgotten, hence told early


@pytest.mark.parametrize(
    ("addresses", "pairs"),
    [
        (["a.example:7800", "[::1]:7801"], [("a.example", 7800), ("::1", 7801)]),
        (["nonsense", ":1", "host:", "host:0", "host:65536", "host:\u0661"], []),
    ],
)
def test_addresses_that_are_none_are_left_out(addresses: list[str], pairs: list[tuple[str, int]]) -> None:
    assert parsed(addresses) == pairs


@pytest.mark.parametrize(
    ("code", "can_renew", "token_age_s", "step"),
    [
        (None, True, 0.0, Step.RETRY),
        (0, True, 0.0, Step.RETRY),
        (100, True, 0.0, Step.RETRY),
        (104, True, 0.0, Step.STAY_AWAY),
        (200, True, 5.0, Step.RENEW_TOKEN_LATER),
        (201, True, 500.0, Step.RENEW_TOKEN),
        (201, False, 500.0, Step.SIGN_OUT),
        (202, True, 500.0, Step.SIGN_OUT),
        (203, True, 500.0, Step.STAY_AWAY),
        (299, True, 500.0, Step.RENEW_TOKEN),
        (402, True, 0.0, Step.RETRY),
        (501, True, 0.0, Step.RETRY),
        (999, True, 0.0, Step.RETRY),
    ],
)
def test_every_ending_has_a_next_step(code: int | None, can_renew: bool, token_age_s: float, step: Step) -> None:
    judge = Judge(lambda low, high: high, can_renew_token=can_renew)
    assert judge.next_step(Ending(code, "why"), token_age_s) is step


def test_the_wait_doubles_to_its_ceiling_and_a_stable_session_resets_it() -> None:
    judge = Judge(lambda low, high: high, can_renew_token=False)
    waits = []
    for _ in range(10):
        judge.next_step(Ending(None, "lost"), 0.0)
        waits.append(judge.wait_s(Ending(None, "lost"), 0.0))
    assert waits == [2, 4, 8, 16, 32, 64, 128, 256, 300, 300]
    judge.next_step(Ending(None, "lost", lasted_s=60.0), 0.0)
    assert judge.wait_s(Ending(None, "lost"), 0.0) == 1
