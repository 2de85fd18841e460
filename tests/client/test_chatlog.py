"""The order of one chat: what is shown, held back, missing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parley.chatlog import MAX_HELD, ChatLog, Entry, Hole
from parley.events import MessageReceived
from parley.model import Message


def entry(seq: int, prev_seq: int) -> Entry:
    return Entry(seq, prev_seq, MessageReceived(Message(1, seq, 2, 20, 0, 0, b"", bytes(16))))


def shown_of(log: ChatLog, *pairs: tuple[int, int]) -> list[int]:
    """Add messages as (seq, prev_seq), and take after each."""
    seqs: list[int] = []
    for seq, prev_seq in pairs:
        log.add(entry(seq, prev_seq))
        seqs += [ready.seq for ready in log.take()]
    return seqs


@pytest.mark.parametrize(
    ("pairs", "seqs", "hole"),
    [
        pytest.param([(6, 5), (7, 6)], [6, 7], None, id="in order"),
        pytest.param([(6, 5), (6, 5), (5, 4)], [6], None, id="what comes twice is shown once"),
        pytest.param([(8, 7)], [], Hole(5, 8, 7), id="behind a hole nothing is shown"),
        pytest.param([(8, 7), (9, 8)], [], Hole(5, 8, 7), id="a hole has one beginning"),
        pytest.param([(8, 7), (6, 5), (7, 6)], [6, 7, 8], None, id="a hole that closes by itself"),
        pytest.param([(8, 3)], [8], None, id="a predecessor that was never visible is no hole"),
    ],
)
def test_messages_are_shown_in_order_and_once(pairs: list[tuple[int, int]], seqs: list[int], hole: Hole | None) -> None:
    log = ChatLog(5)
    assert shown_of(log, *pairs) == seqs
    assert log.hole == hole


def test_a_complete_page_closes_a_hole_whatever_came() -> None:
    log = ChatLog(5)
    shown_of(log, (9, 8))
    hole = log.hole
    assert hole is not None
    assert [ready.seq for ready in log.fill(hole, [], is_complete=True)] == [9]
    assert log.hole is None


def test_a_page_that_is_not_complete_leaves_the_rest_of_the_hole() -> None:
    log = ChatLog(5)
    shown_of(log, (9, 8))
    hole = log.hole
    assert hole is not None
    assert [ready.seq for ready in log.fill(hole, [entry(6, 5), entry(7, 6)], is_complete=False)] == [6, 7]
    assert log.hole == Hole(7, 9, 8)


def test_a_gap_is_a_hole_up_to_its_end() -> None:
    log = ChatLog(5)
    log.note_gap(5, 9)
    assert shown_of(log, (9, 8)) == []
    assert log.hole == Hole(5, 9, 8)


def test_a_gap_with_nothing_after_it_is_a_hole_without_an_upper_bound() -> None:
    log = ChatLog(5)
    log.note_gap(5, 9)
    assert log.hole == Hole(5, None, 8)
    log.fill(Hole(5, None, 8), [], is_complete=True)
    assert log.hole is None


def test_a_skipped_gap_is_not_asked_for() -> None:
    log = ChatLog(5)
    assert log.skip_gap(9)
    assert shown_of(log, (9, 8)) == [9]
    assert not log.skip_gap(9)


def test_a_log_that_does_not_know_its_place_waits_until_it_settles() -> None:
    log = ChatLog()
    assert shown_of(log, (50, 49), (41, 40), (42, 41)) == []
    log.settle()
    assert [ready.seq for ready in log.take()] == [41, 42]
    assert log.hole == Hole(42, 50, 49)


def test_a_log_that_does_not_know_its_place_takes_it_from_a_gap() -> None:
    log = ChatLog()
    log.note_gap(10, 41)
    shown_of(log, (41, 40))
    log.settle()
    assert log.take() == []
    assert log.hole == Hole(10, 41, 40)


def test_what_is_held_behind_a_hole_is_bounded_and_read_later() -> None:
    log = ChatLog(0)
    shown_of(log, *((seq, seq - 1) for seq in range(2, MAX_HELD + 12)))
    assert log.held_count == MAX_HELD
    hole = log.hole
    assert hole is not None
    ready = log.fill(hole, [entry(1, 0)], is_complete=True)
    assert [one.seq for one in ready] == list(range(1, MAX_HELD + 2))
    assert log.hole == Hole(MAX_HELD + 1, None, MAX_HELD + 11)


@given(st.data())
def test_whatever_is_dropped_repeated_or_reordered_all_is_shown_once_in_order(data: st.DataObject) -> None:
    seqs = sorted(data.draw(st.sets(st.integers(1, 40), min_size=1, max_size=12)))
    prev_of = dict(zip(seqs, [0, *seqs], strict=False))
    arriving = data.draw(st.lists(st.sampled_from(seqs), max_size=20))
    page_size = data.draw(st.integers(1, 5))
    log = ChatLog(0)
    shown = shown_of(log, *((seq, prev_of[seq]) for seq in arriving))
    log.note(seqs[-1])
    while (hole := log.hole) is not None:
        between = [seq for seq in seqs if hole.after_seq < seq < (hole.before_seq or 1 << 63)]
        page = [entry(seq, prev_of[seq]) for seq in between[:page_size]]
        shown += [ready.seq for ready in log.fill(hole, page, is_complete=len(between) <= page_size)]
    assert shown == seqs
