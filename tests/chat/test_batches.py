"""What one batch may hold: so many rows and bytes, and nothing beyond the end of a bucket."""

from __future__ import annotations

import pytest

from gateway.protocol.identifiers import counter_of, seq_of
from gateway.protocol.messages import ChatChange, ChatChangeOk, Op, Role
from storage.api import BUCKET_BITS, MAX_BATCH_BYTES, MAX_BATCH_ROWS, Batch, Message
from tests.chat.world import A1, ALICE, BOB, CAROL, CHAT, DAVE, Worker, answered, sent

BUCKET_ROWS = 1 << BUCKET_BITS


def fill_up_to(worker: Worker, counter: int) -> None:
    """The chat's newest row has this counter."""
    seq = seq_of(worker.tenures[CHAT].epoch, counter)
    row = Message(CHAT, seq, seq - 1, ALICE, 11, 1, 0, b"", counter.to_bytes(16, "big"), None, bytes(16))
    worker.database.logs[CHAT] = [row]


def buckets_of(batch: Batch) -> set[int]:
    return {counter_of(row.seq) >> BUCKET_BITS for row in batch.rows}


async def test_messages_that_wait_together_are_cut_into_batches_by_their_bytes(worker: Worker) -> None:
    await sent(worker, "first")
    size = MAX_BATCH_BYTES // 3
    answers = [worker.send(f"big {number}", body="x" * size) for number in range(7)]
    await worker.settle()
    await answered(worker, *answers)
    assert [len(batch.rows) for batch in worker.store.batches[1:]] == [3, 3, 1]


async def test_a_message_larger_than_a_batch_may_be_goes_alone(worker: Worker) -> None:
    await sent(worker, "first")
    texts = [("small", 10), ("large", 2 * MAX_BATCH_BYTES), ("other", 10)]
    answers = [worker.send(text, body="x" * size) for text, size in texts]
    await answered(worker, *answers)
    assert [len(batch.rows) for batch in worker.store.batches[1:]] == [1, 1, 1]


async def test_a_change_of_members_does_not_join_messages_that_fill_the_batch(worker: Worker) -> None:
    await sent(worker, "first")
    message = worker.send("big", body="x" * (MAX_BATCH_BYTES // 2))
    change = worker.ask(Op.CHAT_CHANGE, ChatChange(CHAT, add=[CAROL]), A1)
    await answered(worker, message, change)
    assert [len(batch.rows) for batch in worker.store.batches[1:]] == [1, 1]


@pytest.mark.parametrize("left", [1, 2, 5, MAX_BATCH_ROWS])
async def test_a_batch_ends_with_its_bucket(worker: Worker, left: int) -> None:
    fill_up_to(worker, BUCKET_ROWS - 1 - left)
    answers = [worker.send(f"m{number}") for number in range(left + 3)]
    await answered(worker, *answers)
    assert [len(buckets_of(batch)) for batch in worker.store.batches] == [1, 1]
    assert [counter_of(answer.seq) for answer in answers] == list(range(BUCKET_ROWS - left, BUCKET_ROWS + 3))


@pytest.mark.parametrize("left", [1, 2, 3, 4])
async def test_a_change_of_members_that_a_buckets_end_cuts_is_ended_in_the_next(worker: Worker, left: int) -> None:
    """Four system rows, of which so many fit: it is one change to whoever asked, and all of it is made."""
    fill_up_to(worker, BUCKET_ROWS - 1 - left)
    change = ChatChange(CHAT, 1, add=[CAROL, DAVE], promote=[CAROL], remove=[BOB], title="new")
    answer = worker.ask(Op.CHAT_CHANGE, change, A1)
    await answered(worker, answer)
    assert answer.fields(ChatChangeOk).version >= 2
    assert all(len(buckets_of(batch)) == 1 for batch in worker.store.batches)
    assert sum(len(batch.rows) for batch in worker.store.batches) == 4
    members = worker.database.members[CHAT]
    assert [members[user].left_seq > 0 for user in (ALICE, BOB, CAROL, DAVE)] == [False, True, False, False]
    assert members[CAROL].role == Role.ADMIN
    assert worker.database.chats[CHAT].title == "new"
