"""What a worker remembers of its logs, and what it may forget."""

from __future__ import annotations

from gateway.protocol.identifiers import seq_of
from storage.api import Head, slot_of
from storage.scylla.committed import CommittedHeads, Known
from tests.storage.logs import CHAT, batch, row, rows_of


def head(counter: int, epoch: int = 2) -> Head:
    return Head(seq_of(epoch, counter), counter)


def test_what_was_used_least_recently_is_forgotten_at_the_bound() -> None:
    heads = CommittedHeads(known_max=2)
    heads.fenced(1, Known(2, head(1), 0))
    heads.fenced(2, Known(2, head(2), 0))
    heads.known(1, 2)
    heads.fenced(3, Known(2, head(3), 0))
    assert heads.known(1, 2) is not None
    assert heads.known(2, 2) is None


def test_a_head_and_a_bucket_never_go_back_under_one_epoch() -> None:
    heads = CommittedHeads()
    heads.fenced(CHAT, Known(2, head(9), 3))
    heads.fenced(CHAT, Known(2, head(5), 1))
    assert heads.known(CHAT, 2) == Known(2, head(9), 3)
    heads.fenced(CHAT, Known(1, head(20, epoch=1), 4))
    assert heads.known(CHAT, 2) == Known(2, head(9), 3)
    heads.fenced(CHAT, Known(3, head(8), 2))
    assert heads.known(CHAT, 3) == Known(3, head(8), 3)


def test_an_append_whose_end_is_unknown_is_remembered_until_it_is_stored() -> None:
    heads = CommittedHeads(unfinished_max=1)
    one = batch(rows_of(1, 2))
    heads.begun(one)
    heads.failed(one, True)
    heads.begun(one)
    heads.failed(one, False)  # nothing of the second try was written, which says nothing of the first
    assert heads.unfinished(CHAT, 1) is one
    assert heads.is_full(CHAT + 1)
    assert not heads.is_full(CHAT)
    heads.begun(one)
    heads.stored(one)
    assert heads.unfinished(CHAT, 1) is None
    assert not heads.is_full(CHAT + 1)


def test_an_append_that_was_refused_at_once_is_not_remembered() -> None:
    heads = CommittedHeads()
    one = batch(rows_of(1, 2))
    heads.begun(one)
    heads.failed(one, False)
    assert heads.unfinished(CHAT, 1) is None


def test_with_a_slot_goes_what_was_unfinished_under_its_epoch_and_nothing_else() -> None:
    heads = CommittedHeads()
    later, other = batch([row(1, epoch=2)]), batch(rows_of(1, 1, chat_id=CHAT + 1))
    for each in (later, other):
        heads.begun(each)
    heads.forget_slots({slot_of(CHAT): 1})
    assert heads.unfinished(CHAT, 2) is later
    heads.forget_slots({slot_of(CHAT): 2})
    assert heads.unfinished(CHAT, 2) is None
    assert heads.unfinished(CHAT + 1, 1) is other
