"""What a new owner makes of a log that the one before left half written, on three replicas."""

from __future__ import annotations

import pytest
import trio

from gateway.protocol.identifiers import Epoch, UserId, seq_of
from storage.api import Batch, Chat, Member, MembershipChange, OpenedChat, SlotLost, StoreConflict, StoreTimedOut
from storage.scylla.ports import Write
from storage.scylla.rows import batch_writes, row_writes
from storage.scylla.statements import PUT_MESSAGE
from storage.scylla.store import ScyllaStore
from tests.storage.logs import CHAT, HIGH, LOW, ME, TIME_MS, append, batch, id_of, log_of, own, row, rows_of
from tests.storage.scylla.three import Three

THREE_PAIRS = [(0, 1), (1, 2), (0, 2)]


async def logs(three: Three, store: ScyllaStore) -> list[list[int]]:
    """The seqs that each pair of replicas shows."""
    seen = []
    for pair in THREE_PAIRS:
        three.replicas.answer_with(*pair)
        seen.append([message.seq for message in await log_of(store)])
    three.replicas.answer_with(0, 1, 2)
    return seen


async def half_written(three: Three, replica: int) -> Epoch:
    """Rows 1 and 2 are committed; rows 3 to 5 have reached one replica. The next epoch."""
    old, _ = await three.owner()
    await old.create_direct(LOW, HIGH, CHAT)
    assert await append(old, batch(rows_of(1, 2))) == [None]
    await trio.sleep(1)  # all replicas have it
    three.replicas.reached = [replica]
    (end,) = await append(old, batch(rows_of(3, 5)))
    assert isinstance(end, StoreTimedOut)
    three.replicas.reached = None
    return Epoch(2)


async def opened_by(store: ScyllaStore, epoch: int) -> OpenedChat:
    opened = await store.open_chat(CHAT, Epoch(epoch))
    assert opened is not None
    return opened


async def test_a_half_written_batch_that_is_seen_is_adopted_whole_and_every_pair_of_replicas_shows_it(
    three: Three,
) -> None:
    await half_written(three, 0)
    new, epoch = await three.owner()
    three.replicas.answer_with(0, 1)
    opened = await opened_by(new, epoch)
    assert sorted(opened.adopted) == rows_of(3, 5)
    assert [*reversed(opened.tail)] == rows_of(1, 5)
    assert await logs(three, new) == [[message.seq for message in rows_of(1, 5)]] * 3


async def test_a_half_written_batch_that_is_not_seen_is_buried_for_good(three: Three) -> None:
    await half_written(three, 2)
    new, epoch = await three.owner()
    three.replicas.answer_with(0, 1)
    assert [*reversed((await opened_by(new, epoch)).tail)] == rows_of(1, 2)
    three.replicas.answer_with(0, 1, 2)
    await trio.sleep(1)
    assert await logs(three, new) == [[message.seq for message in rows_of(1, 2)]] * 3
    next_row = row(3, epoch=epoch, prev_seq=seq_of(1, 2))
    assert await append(new, batch([next_row])) == [None]
    assert await log_of(new) == [*rows_of(1, 2), next_row]


async def test_the_resend_ids_of_adopted_rows_are_at_a_quorum_too(three: Three) -> None:
    await half_written(three, 0)
    new, epoch = await three.owner(now_ms=lambda: TIME_MS)
    three.replicas.answer_with(0, 1)
    await opened_by(new, epoch)
    three.replicas.answer_with(1, 2)
    assert sorted(await new.find_sent(CHAT, LOW, [id_of(n) for n in range(1, 9)])) == rows_of(1, 5)


async def test_an_old_owners_write_is_dead_on_arrival_in_this_bucket_and_the_next(three: Three) -> None:
    await half_written(three, 2)
    new, epoch = await three.owner()
    three.replicas.answer_with(0, 1)
    await opened_by(new, epoch)
    three.replicas.answer_with(0, 1, 2)
    late = [rows_of(3, 5), [row(4096), row(4097)]]
    for rows in late:
        await three.executor_writes(batch_writes(batch(rows)))
    assert await logs(three, new) == [[message.seq for message in rows_of(1, 2)]] * 3


async def test_a_late_range_delete_of_an_owner_in_between_cannot_kill_what_was_adopted(three: Three) -> None:
    """Owner 2 saw nothing beyond row 2, and its delete reached one replica; owner 3 saw and adopted rows 3 to 5."""
    await half_written(three, 0)
    between, second = await three.owner()
    three.replicas.answer_with(1, 2)
    three.replicas.reached = [2]
    with pytest.raises(StoreTimedOut):
        await between.open_chat(CHAT, second)
    three.replicas.reached = None
    three.replicas.answer_with(0, 1, 2)
    newest, third = await three.owner()
    three.replicas.answer_with(0, 1)
    await opened_by(newest, third)
    three.replicas.answer_with(0, 1, 2)
    await trio.sleep(1)
    assert await logs(three, newest) == [[message.seq for message in rows_of(1, 5)]] * 3


async def test_an_adoption_that_timed_out_is_repeated_as_it_was(three: Three) -> None:
    await half_written(three, 2)
    new, epoch = await three.owner()
    three.replicas.answer_with(0, 1)
    three.replicas.reached = [0]
    with pytest.raises(StoreTimedOut):
        await new.open_chat(CHAT, epoch)
    await new.still_held({CHAT & 0x3FFF: epoch}, ME, 7)
    three.replicas.reached = None
    three.replicas.answer_with(1, 2)  # where rows 3 to 5 show, which the first look did not see
    opened = await opened_by(new, epoch)
    assert opened.adopted == [row(2), row(1)]
    assert [*reversed(opened.tail)] == rows_of(1, 2)
    await trio.sleep(1)
    assert await logs(three, new) == [[message.seq for message in rows_of(1, 2)]] * 3


async def test_a_chat_is_fenced_once_under_an_epoch(three: Three) -> None:
    await half_written(three, 0)
    new, epoch = await three.owner()
    await opened_by(new, epoch)
    sent = len(three.sent)
    assert (await opened_by(new, epoch)).adopted == ()
    assert await new.heads({CHAT: epoch})
    assert len(three.sent) == sent


async def test_what_heads_adopted_is_named_by_the_open_chat_that_follows(three: Three) -> None:
    await half_written(three, 0)
    new, epoch = await three.owner()
    three.replicas.answer_with(0, 1)
    assert (await new.heads({CHAT: epoch}))[CHAT].seq == row(5).seq
    assert sorted((await opened_by(new, epoch)).adopted) == rows_of(3, 5)
    assert (await opened_by(new, epoch)).adopted == ()


async def test_calls_at_once_share_a_run_and_a_cancelled_one_does_not_end_it(three: Three) -> None:
    await half_written(three, 0)
    new, epoch = await three.owner()
    opened: list[OpenedChat] = []

    async def open_one() -> None:
        opened.append(await opened_by(new, epoch))

    async with trio.open_nursery() as nursery:
        with trio.move_on_after(0.001) as scope:
            await new.open_chat(CHAT, epoch)
        assert scope.cancelled_caught
        for _ in range(5):
            nursery.start_soon(open_one)
    assert [len(one.tail) for one in opened] == [len(opened[0].tail)] * 5
    assert three.sent.count("fence") + three.sent.count("put_message") - 2 == 1, "two appends and one adoption"


async def test_the_members_of_an_adopted_change_are_in_what_open_chat_returns(three: Three) -> None:
    old, _ = await three.owner()
    chat = Chat(CHAT, 1, "before", 1, 0)
    await old.create_group(LOW, id_of(1), chat, [Member(LOW, 1, 0, 0, 0)])
    joined = [Member(user_id, 0, row(1).seq, 0, 1) for user_id in range(2_000, 2_500)]
    change = MembershipChange(chat._replace(title="after", version=2, changed_counter=1), joined)
    three.replicas.reached = [0]
    (end,) = await append(old, batch([row(1, kind=4)], [change]))
    assert isinstance(end, StoreTimedOut)
    three.replicas.reached = None
    new, epoch = await three.owner()
    three.replicas.answer_with(0, 1)
    opened = await opened_by(new, epoch)
    assert opened.chat == change.chat
    assert opened.members == [Member(LOW, 1, 0, 0, 0), *joined]
    three.replicas.answer_with(1, 2)
    assert [entry.member for entry in await new.chats_of(UserId(joined[9].user_id))] == [joined[9]]


async def test_members_are_not_written_while_the_slot_may_be_another_s(three: Three) -> None:
    store, epoch = await three.owner()
    chat = Chat(CHAT, 1, "before", 1, 0)
    await store.create_group(LOW, id_of(1), chat, [Member(LOW, 1, 0, 0, 0)])
    change = MembershipChange(chat._replace(version=2, changed_counter=1), [Member(HIGH, 0, row(1).seq, 0, 1)])
    await trio.sleep(2.1)  # longer than belief lasts
    changing = batch([row(1, kind=4)], [change])
    (end,) = await append(store, changing)
    assert isinstance(end, StoreTimedOut)
    assert await store.read_chat(CHAT) == (chat, [Member(LOW, 1, 0, 0, 0)])
    assert await store.still_held({CHAT & 0x3FFF: epoch}, ME, 7) == {CHAT & 0x3FFF}
    assert await append(store, changing) == [None]
    assert await store.read_chat(CHAT) == (change.chat, [Member(LOW, 1, 0, 0, 0), change.members[0]])


async def test_nothing_is_taken_over_while_the_slot_may_be_another_s(three: Three) -> None:
    await half_written(three, 0)
    new, epoch = await three.owner()
    await trio.sleep(2.1)
    sent = len(three.sent)
    with pytest.raises(StoreTimedOut):
        await new.open_chat(CHAT, epoch)
    assert len(three.sent) == sent
    await new.still_held({CHAT & 0x3FFF: epoch}, ME, 7)
    assert await opened_by(new, epoch)


async def test_a_later_owners_row_says_that_the_slot_is_lost(three: Three) -> None:
    await half_written(three, 0)
    late, first = await three.owner()
    new, epoch = await three.owner()
    await opened_by(new, epoch)
    await append(new, batch([row(6, epoch=epoch)]))
    with pytest.raises(SlotLost):
        await late.open_chat(CHAT, first)
    with pytest.raises(SlotLost):
        await late.heads({CHAT: first})


async def test_a_chat_that_does_not_exist_is_not_fenced(three: Three) -> None:
    await own(await three.store())
    new, epoch = await three.owner()
    assert await new.open_chat(CHAT, epoch) is None
    assert await new.heads({CHAT: epoch}) == {}
    assert three.sent == []


async def test_a_head_is_never_of_a_batch_of_ones_own_that_is_not_acknowledged(three: Three) -> None:
    store, epoch = await three.owner()
    await store.create_direct(LOW, HIGH, CHAT)
    await append(store, batch(rows_of(1, 2)))
    three.replicas.reached = [0]
    (end,) = await append(store, batch(rows_of(3, 4)))
    assert isinstance(end, StoreTimedOut)
    three.replicas.reached = None
    three.replicas.answer_with(0, 1)
    assert (await store.heads({CHAT: epoch}))[CHAT].seq == row(2).seq
    assert await append(store, batch(rows_of(3, 4))) == [None]
    assert (await store.heads({CHAT: epoch}))[CHAT].seq == row(4).seq


async def test_open_chat_first_ends_an_append_of_ones_own_whose_end_is_unknown(three: Three) -> None:
    store, epoch = await three.owner()
    await store.create_direct(LOW, HIGH, CHAT)
    await append(store, batch(rows_of(1, 2)))
    three.replicas.reached = []
    (end,) = await append(store, batch(rows_of(3, 4)))
    assert isinstance(end, StoreTimedOut)
    three.replicas.reached = None
    assert [*reversed((await opened_by(store, epoch)).tail)] == rows_of(1, 4)


async def test_a_bucket_is_announced_and_acknowledged_before_its_first_row_is_written(three: Three) -> None:
    store, epoch = await three.owner()
    await store.create_direct(LOW, HIGH, CHAT)
    await opened_by(store, epoch)
    await append(store, batch([row(4094), row(4095)]))
    three.sent.clear()
    three.replicas.reached = [1]
    (end,) = await append(store, batch([row(4096)]))
    assert isinstance(end, StoreTimedOut)
    assert three.sent == ["raise_bucket"]
    three.replicas.reached = None
    assert await append(store, batch([row(4096)])) == [None]
    assert await append(store, batch([row(4097)])) == [None]
    assert three.sent == ["raise_bucket", "raise_bucket", "put_message", "put_message"]
    new, later = await three.owner()
    assert [*reversed((await opened_by(new, later)).tail)] == [row(n) for n in range(4094, 4098)]


async def test_a_bucket_that_was_announced_and_not_begun_does_not_hide_the_log(three: Three) -> None:
    store, epoch = await three.owner()
    await store.create_direct(LOW, HIGH, CHAT)
    await opened_by(store, epoch)
    await append(store, batch([row(4094), row(4095)]))
    three.replicas.reached = [0, 1]
    store.append(batch([row(4096)]), lambda ended: None)
    await trio.sleep(0.5)  # the announcement is taken; its acknowledgement, and so the rows, take a second
    three.replicas.reached = None
    new, later = await three.owner()
    assert [*reversed((await opened_by(new, later)).tail)] == [row(4094), row(4095)]
    found = await new.read_messages(CHAT, after_seq=0, before_seq=1 << 62, limit=9, is_newest_first=True)
    assert found == [row(4095), row(4094)]


@pytest.mark.parametrize(
    "malformed",
    [
        Batch(CHAT, 1, 0, [row(4095), row(4096)]),
        Batch(CHAT, 1, 0, [row(1, body=bytes(20_000)), row(2, body=bytes(5_000))]),
    ],
    ids=["two buckets", "too many bytes"],
)
async def test_a_batch_that_cannot_be_written_whole_is_a_conflict(three: Three, malformed: Batch) -> None:
    store, _ = await three.owner()
    (end,) = await append(store, malformed)
    assert isinstance(end, StoreConflict)
    assert three.sent == []


@pytest.mark.parametrize("missing", ["base_seq", "head"])
async def test_a_row_that_is_no_message_is_a_conflict_and_not_the_end_of_the_worker(three: Three, missing: str) -> None:
    """A restore, or a person, may write to these tables too."""
    owner, epoch = await three.owner()
    await owner.create_direct(LOW, HIGH, CHAT)
    (put,) = row_writes([row(1)], 0, 1, {})
    values = list(put.values)
    values[{"base_seq": 3, "head": 4}[missing]] = None
    await three.executor_writes([Write(PUT_MESSAGE, tuple(values))])
    with pytest.raises(StoreConflict):
        await owner.open_chat(CHAT, epoch)
