"""The ids that a chat remembers: how far back they reach, and when that is far enough."""

from __future__ import annotations

import gc

import pytest

from gateway.chat.remembered import LOOK_BACK_MS, MAX_PER_CHAT, RememberedIds
from gateway.protocol.messages import Kind
from storage.api import TAIL_ROWS, Message

NOW = 10 * LOOK_BACK_MS


def row(number: int, *, time_ms: int | None = None, kind: int = Kind.CONTENT) -> Message:
    client_msg_id = bytes(16) if kind == Kind.SYSTEM else number.to_bytes(16, "big")
    return Message(7, number, number - 1, 1, 11, time_ms or number, kind, b"", client_msg_id, None, b"")


def tail_of(count: int, time_ms: int) -> list[Message]:
    return [row(number, time_ms=time_ms) for number in range(count, 0, -1)]


@pytest.mark.parametrize(
    ("rows", "time_ms", "is_retry", "is_enough"),
    [
        (0, 1, True, True),
        (TAIL_ROWS - 1, NOW, True, True),
        (TAIL_ROWS, 1, True, False),
        (TAIL_ROWS, 1, False, True),
        (TAIL_ROWS, NOW - LOOK_BACK_MS - 1, False, True),
        (TAIL_ROWS, NOW - LOOK_BACK_MS, False, False),
        (TAIL_ROWS, NOW + 1000, False, False),
    ],
)
def test_memory_is_enough_if_it_is_the_whole_log_or_reaches_back_as_far_as_one_has_to_look(
    rows: int, time_ms: int, is_retry: bool, is_enough: bool
) -> None:
    assert RememberedIds(tail_of(rows, time_ms)).is_enough(is_retry, NOW) == is_enough


def test_the_oldest_are_forgotten_first_and_memory_reaches_back_to_what_is_left() -> None:
    ids = RememberedIds(())
    for number in range(1, 6):
        ids.add(row(number, time_ms=number * 10))
    ids.forget(2)
    assert [ids.get((1, number.to_bytes(16, "big"))) is not None for number in range(1, 6)] == [False] * 2 + [True] * 3
    assert (ids.since_ms, ids.forgotten, len(ids)) == (21, 2, 3)
    assert not ids.is_enough(True, NOW)


def test_memory_does_not_claim_to_reach_further_back_after_an_id_was_used_again() -> None:
    ids = RememberedIds(())
    for number, time_ms in ((1, 10), (2, 20), (1, 30)):
        ids.add(row(number, time_ms=time_ms))
    ids.forget(1)
    ids.forget(1)
    assert ids.since_ms == 31


def test_system_rows_have_no_id_to_remember() -> None:
    assert len(RememberedIds([row(2), row(1, kind=Kind.SYSTEM)])) == 1


def test_one_chats_memory_is_bounded() -> None:
    ids = RememberedIds(())
    for number in range(1, MAX_PER_CHAT + 2):
        ids.add(row(number))
    assert len(ids) <= MAX_PER_CHAT
    assert ids.get((1, (MAX_PER_CHAT + 1).to_bytes(16, "big"))) is not None


def test_the_garbage_collector_does_not_walk_over_what_is_remembered() -> None:
    ids = RememberedIds([row(1)])
    assert not gc.is_tracked(ids.get((1, (1).to_bytes(16, "big"))))
