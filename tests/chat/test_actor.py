"""One chat: the order of its log, to whom its messages go, and who may write."""

from __future__ import annotations

from gateway.chat.request import Found, InternalOp, View, ViewOk
from gateway.protocol.errors import Code
from gateway.protocol.frames import decode
from gateway.protocol.identifiers import counter_of, epoch_of, seq_of
from gateway.protocol.messages import (
    ChatChange,
    ChatChangeOk,
    ChatInfo,
    ChatInfoOk,
    ChatLeave,
    Event,
    Kind,
    Msg,
    Op,
    Sent,
    SystemBody,
    Typing,
)
from tests.chat.conftest import Restart
from tests.chat.world import (
    A1,
    A2,
    ALICE,
    B1,
    BOB,
    C1,
    CAROL,
    CHAT,
    Places,
    Worker,
    id_of,
    log_of,
    sent,
)

# --------------------------------------------------------------------------------------------- order


async def test_counters_grow_by_one_and_prev_seq_chains_them(worker: Worker) -> None:
    answers = [worker.send(text) for text in "abc"]
    await worker.settle()
    seqs = [answer.seq for answer in answers]
    assert seqs == [seq_of(1, 1), seq_of(1, 2), seq_of(1, 3)]
    assert [answer.sent.prev_seq for answer in answers] == [0, *seqs[:2]]
    assert [(row.seq, row.prev_seq) for row in worker.database.logs[CHAT]] == list(
        zip(seqs, [0, *seqs[:2]], strict=True)
    )


async def test_the_next_owner_goes_on_counting_under_its_epoch(worker: Worker, restart: Restart) -> None:
    (before,) = await sent(worker, "a")
    later = await restart()
    (after,) = await sent(later, "b")
    assert (epoch_of(after), counter_of(after)) == (epoch_of(before) + 1, counter_of(before) + 1)
    assert later.database.logs[CHAT][1].prev_seq == before


async def test_time_never_falls_back_behind_the_head(worker: Worker) -> None:
    first = worker.send("a")
    await worker.settle()
    worker.actors.clock_ms -= 5000
    second = worker.send("b")
    await worker.settle()
    assert second.sent.time_ms == first.sent.time_ms


async def test_sixteen_sends_of_one_cycle_are_one_batch(worker: Worker) -> None:
    answers = [worker.send(f"m{number}") for number in range(16)]
    await worker.settle()
    assert [len(batch.rows) for batch in worker.store.batches] == [16]
    assert all(answer.seq for answer in answers)


async def test_one_batch_is_in_flight_and_what_comes_meanwhile_is_the_next(worker: Worker) -> None:
    worker.database.is_paused = True
    worker.send("a")
    await worker.settle()
    worker.send("b")
    worker.send("c")
    await worker.settle()
    assert [len(batch.rows) for batch in worker.store.batches] == [1]
    worker.store.resume()
    await worker.settle()
    assert [len(batch.rows) for batch in worker.store.batches] == [1, 2]
    assert worker.store.batches[1].base_seq == worker.store.batches[0].rows[-1].seq
    assert log_of(worker) == ["a", "b", "c"]


async def test_a_batch_ends_at_a_buckets_end(worker: Worker) -> None:
    worker.actors.clock_ms = 1
    for start in range(0, 4200, 60):
        for number in range(start, start + 60):
            worker.send(f"m{number}", rid=0)
        await worker.settle()
    assert log_of(worker) == [f"m{number}" for number in range(4200)]
    for batch in worker.store.batches:
        assert len(batch.rows) <= 64
        assert len({counter_of(row.seq) >> 12 for row in batch.rows}) == 1


# ------------------------------------------------------------------------------------------ delivery


async def test_nothing_leaves_before_the_commit(worker: Worker) -> None:
    worker.database.is_paused = True
    worker.send("a")
    await worker.settle()
    assert worker.out.left == []
    worker.store.resume()
    await worker.settle()
    assert {left.to for left in worker.out.left} == {A1, A2, B1}


async def test_the_sending_device_gets_sent_and_all_others_get_the_message(worker: Worker) -> None:
    answer = worker.send("a")
    await worker.settle()
    assert [left.op for left in worker.out.seen_by(*A1)] == [Op.SENT]
    expected = Msg(CHAT, answer.seq, 0, ALICE, 11, worker.actors.clock_ms, 0, b"a", id_of("a"), None)
    assert worker.out.messages_to(*A2) == [expected]
    assert worker.out.messages_to(*B1) == [expected]
    assert answer.sent == Sent(CHAT, answer.seq, worker.actors.clock_ms, False, 0)


async def test_rid_zero_gets_no_answer_and_the_message_is_in_the_log(worker: Worker) -> None:
    answer = worker.send("a", rid=0)
    await worker.settle()
    assert answer.op is None
    assert log_of(worker) == ["a"]
    assert worker.out.messages_to(*A1) == []
    assert len(worker.out.messages_to(*B1)) == 1


async def test_interleaved_senders_see_the_logs_order_on_every_device(worker: Worker) -> None:
    for number in range(6):
        worker.send(f"m{number}", (A1, B1, A2)[number % 3])
    await worker.settle()
    log = [row.seq for row in worker.database.logs[CHAT]]
    for device in (A1, A2, B1):
        assert [left.body.seq for left in worker.out.seen_by(*device)] == log  # type: ignore[union-attr]


async def test_rows_of_one_sender_that_end_together_are_one_push_for_each_worker(worker: Worker) -> None:
    for number in range(16):
        worker.send(f"m{number}", B1)
    await worker.settle()
    assert sorted(worker.out.pushes) == [(1, [A1]), (2, [A2])]
    assert len(worker.out.messages_to(*A1)) == 16


async def test_delivery_waits_for_the_places_and_the_next_batch_does_not(worker: Worker, places: Places) -> None:
    places.is_slow = True
    answers = [worker.send("a")]
    await worker.settle()
    answers.append(worker.send("b", B1))
    await worker.settle()
    assert log_of(worker) == ["a", "b"]
    assert worker.out.left == []
    places.answer()
    await worker.settle()
    seqs = [answer.seq for answer in answers]
    for device in (A1, A2, B1):
        assert [left.body.seq for left in worker.out.seen_by(*device)] == seqs  # type: ignore[union-attr]
    assert [left.op for left in worker.out.seen_by(*A1)] == [Op.SENT, Op.MSG]
    assert [left.op for left in worker.out.seen_by(*B1)] == [Op.MSG, Op.SENT]


async def test_somebody_who_is_lost_from_sight_while_others_are_looked_for_is_looked_for_too(
    worker: Worker, places: Places
) -> None:
    await sent(worker, "a")
    places.is_slow = True
    places.forget(ALICE)
    worker.send("b")
    await worker.settle()
    places.forget(BOB)
    places.answer()
    await worker.settle()
    assert places.questions[-2:] == [[ALICE], [BOB]]
    places.answer()
    await worker.settle()
    assert [body.body for body in worker.out.messages_to(*B1)] == [b"a", b"b"]


async def test_a_directory_that_does_not_answer_is_asked_once_and_then_the_message_goes_to_who_is_known(
    worker: Worker, places: Places
) -> None:
    await sent(worker, "a")
    places.is_silent = True
    places.forget(BOB)
    (seq,) = await sent(worker, "b")
    assert places.questions[1:] == [[BOB]]
    assert [body.seq for body in worker.out.messages_to(*A2)][-1] == seq
    assert [body.body for body in worker.out.messages_to(*B1)] == [b"a"]
    places.is_silent = False
    await sent(worker, "c")
    assert [body.body for body in worker.out.messages_to(*B1)] == [b"a", b"c"]


async def test_a_device_that_moved_gets_the_next_message_where_it_is(worker: Worker, places: Places) -> None:
    await sent(worker, "a")
    places.places[BOB] = ()
    places.forget(BOB)
    await sent(worker, "b")
    assert [body.body for body in worker.out.messages_to(*B1)] == [b"a"]


async def test_a_chat_whose_rows_nobody_can_be_found_for_takes_no_more(worker: Worker, places: Places) -> None:
    places.is_slow = True
    for round_ in range(8):
        for number in range(50):
            worker.send(f"{round_}.{number}")
        await worker.settle()
    stored = len(log_of(worker))
    assert 256 < stored <= 256 + 64
    places.answer()
    await worker.settle()
    assert len(log_of(worker)) == 400
    assert len(worker.out.messages_to(*B1)) == 400


# -------------------------------------------------------------------------------------------- rights


async def test_strangers_are_refused(worker: Worker) -> None:
    strangers = [
        worker.send("a", C1),
        worker.ask(Op.CHAT_INFO, ChatInfo(CHAT), C1),
        worker.ask(Op.TYPING, Typing(CHAT, 0, True), C1),
        worker.ask(InternalOp.VIEW, View(CHAT), C1),
        worker.ask(Op.CHAT_CHANGE, ChatChange(CHAT, title="t"), C1),
    ]
    await worker.settle()
    assert [answer.code for answer in strangers] == [Code.FORBIDDEN] * 5
    assert log_of(worker) == []


async def test_a_chat_that_nobody_made_is_not_found(worker: Worker) -> None:
    await worker.acquire(8)
    answer = worker.send("a", chat_id=8)
    await worker.settle()
    assert answer.code == Code.NOT_FOUND
    assert len(worker.actors) == 0


async def test_who_is_removed_two_rows_above_may_not_write(worker: Worker) -> None:
    before = worker.send("a", B1)
    worker.ask(Op.CHAT_CHANGE, ChatChange(CHAT, remove=[BOB]), A1)
    after = worker.send("b", B1)
    await worker.settle()
    assert before.seq
    assert after.code == Code.FORBIDDEN
    assert len(worker.store.batches) == 1


# --------------------------------------------------------------------------- membership and delivery


async def test_who_is_added_gets_the_row_that_adds_it_and_nothing_of_before(worker: Worker) -> None:
    worker.send("secret")
    change = worker.ask(Op.CHAT_CHANGE, ChatChange(CHAT, add=[CAROL]), A1)
    worker.send("welcome")
    await worker.settle()
    assert len(worker.store.batches) == 1
    assert change.fields(ChatChangeOk).version == 2
    assert [body.kind for body in worker.out.messages_to(*C1)] == [Kind.SYSTEM, Kind.CONTENT]
    assert worker.out.messages_to(*C1)[1].body == b"welcome"


async def test_what_still_waits_for_places_is_not_shown_to_who_is_added_meanwhile(
    worker: Worker, places: Places
) -> None:
    places.is_slow = True
    worker.send("secret")
    await worker.settle()
    worker.ask(Op.CHAT_CHANGE, ChatChange(CHAT, add=[CAROL]), A1)
    await worker.settle()
    while places.questions and len(worker.out.left) < 4:
        places.answer()
        await worker.settle()
    assert [body.kind for body in worker.out.messages_to(*C1)] == [Kind.SYSTEM]
    assert [body.kind for body in worker.out.messages_to(*B1)] == [Kind.CONTENT, Kind.SYSTEM]


async def test_who_is_removed_gets_what_came_before_and_the_removal_last(worker: Worker) -> None:
    worker.send("before")
    worker.ask(Op.CHAT_CHANGE, ChatChange(CHAT, remove=[BOB]), A1)
    worker.send("after")
    await worker.settle()
    seen = worker.out.messages_to(*B1)
    assert [body.kind for body in seen] == [Kind.CONTENT, Kind.SYSTEM]
    assert decode(SystemBody, seen[1].body) == SystemBody(Event.REMOVED, 2, [BOB])
    assert (seen[1].sender_id, seen[1].sender_device, seen[1].client_msg_id) == (ALICE, 0, bytes(16))


async def test_a_system_row_goes_to_the_device_that_asked_too(worker: Worker) -> None:
    await sent(worker, "a")
    worker.out.left.clear()
    worker.ask(Op.CHAT_CHANGE, ChatChange(CHAT, title="t"), A1)
    await worker.settle()
    assert [left.op for left in worker.out.seen_by(*A1)] == [Op.MSG, Op.OK]


async def test_the_row_of_a_new_group_is_written_once(worker: Worker, restart: Restart) -> None:
    for _ in range(2):
        worker.ask(InternalOp.FOUND, Found(CHAT, [ALICE, BOB]), A1)
    await worker.settle()
    later = await restart()
    again = later.ask(InternalOp.FOUND, Found(CHAT, [ALICE, BOB]), A1)
    await later.settle()
    assert again.op == Op.OK
    (row,) = later.database.logs[CHAT]
    assert decode(SystemBody, row.body) == SystemBody(Event.CREATED, 1, [ALICE, BOB], "")


async def test_a_change_that_is_in_force_is_ok_and_leaves_no_message(worker: Worker) -> None:
    answer = worker.ask(Op.CHAT_CHANGE, ChatChange(CHAT, add=[BOB], promote=[ALICE]), A1)
    gone = worker.ask(Op.CHAT_LEAVE, ChatLeave(CHAT), C1)
    await worker.settle()
    assert answer.fields(ChatChangeOk).version == 1
    assert gone.op == Op.OK
    assert log_of(worker) == []


async def test_a_change_is_the_next_owners_too(worker: Worker, restart: Restart) -> None:
    worker.ask(Op.CHAT_CHANGE, ChatChange(CHAT, add=[CAROL], promote=[CAROL], title="new"), A1)
    worker.ask(Op.CHAT_LEAVE, ChatLeave(CHAT), A1)
    await worker.settle()
    later = await restart()
    info = later.ask(Op.CHAT_INFO, ChatInfo(CHAT), C1)
    await later.settle()
    told = info.fields(ChatInfoOk)
    assert (told.title, told.version) == ("new", 3)
    assert [(member.user_id, member.role) for member in told.members] == [(BOB, 0), (CAROL, 1)]
    assert told.head_seq == later.database.logs[CHAT][-1].seq


async def test_a_member_sees_from_joining_to_leaving(worker: Worker) -> None:
    await sent(worker, "a")
    worker.ask(Op.CHAT_CHANGE, ChatChange(CHAT, add=[CAROL]), A1)
    await worker.settle()
    joined = worker.database.logs[CHAT][-1].seq
    worker.ask(Op.CHAT_LEAVE, ChatLeave(CHAT), C1)
    await worker.settle()
    left = worker.database.logs[CHAT][-1].seq
    (head,) = await sent(worker, "b")
    views = [worker.ask(InternalOp.VIEW, View(CHAT), asker) for asker in (C1, B1)]
    assert [view.fields(ViewOk) for view in views] == [ViewOk(joined, left), ViewOk(0, head)]


async def test_typing_goes_to_all_but_who_types(worker: Worker) -> None:
    await sent(worker, "a")
    worker.out.left.clear()
    answer = worker.ask(Op.TYPING, Typing(CHAT, 0, True), A1)
    assert answer.op == Op.OK
    assert [(left.to, left.body) for left in worker.out.left if left.op == Op.TYPING] == [
        (A2, Typing(CHAT, ALICE, True)),
        (B1, Typing(CHAT, ALICE, True)),
    ]
