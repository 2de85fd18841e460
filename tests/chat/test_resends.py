"""The same message again: one row, whatever was lost or forgotten in between; and the bounds of memory."""

from __future__ import annotations

import trio
from trio.testing import MockClock

from gateway.chat.remembered import LOOK_BACK_MS
from gateway.chat.request import Request
from gateway.protocol.errors import Code
from gateway.protocol.messages import (
    ChatChange,
    ChatLeave,
    Op,
    Sent,
)
from storage.api import TAIL_ROWS, StoreUnavailable, slot_of
from tests.chat.conftest import Restart, StartWorker
from tests.chat.world import (
    A1,
    A2,
    B1,
    CHAT,
    ROOM,
    Fault,
    Worker,
    add_chat,
    answered,
    id_of,
    log_of,
    sent,
)

# ------------------------------------------------------------------------------------------- resends


async def test_a_resend_in_the_same_batch_is_one_row_and_the_second_is_the_duplicate(worker: Worker) -> None:
    first, again = worker.send("a"), worker.send("a")
    await worker.settle()
    assert log_of(worker) == ["a"]
    assert (first.sent.duplicate, again.sent.duplicate) == (False, True)
    assert first.sent.seq == again.sent.seq


async def test_a_resend_while_the_first_is_in_flight_is_the_duplicate(worker: Worker) -> None:
    worker.database.is_paused = True
    first = worker.send("a")
    await worker.settle()
    again = worker.send("a")
    await worker.settle()
    assert again.op is None
    worker.store.resume()
    await worker.settle()
    assert log_of(worker) == ["a"]
    assert again.sent == Sent(CHAT, first.seq, first.sent.time_ms, True, 0)


async def test_a_resend_after_the_commit_is_told_the_same_and_nobody_gets_it_anew(worker: Worker) -> None:
    await sent(worker, "z")
    first = worker.send("a")
    await worker.settle()
    worker.actors.clock_ms += 60_000
    again = worker.send("a", A2)
    await worker.settle()
    assert again.sent == Sent(CHAT, first.seq, first.sent.time_ms, True, first.sent.prev_seq)
    assert len(worker.out.messages_to(*B1)) == 2


async def test_the_same_id_of_another_user_is_another_message(worker: Worker) -> None:
    worker.send("a")
    other = worker.send("a", B1)
    await worker.settle()
    assert not other.sent.duplicate
    assert log_of(worker) == ["a", "a"]


async def test_a_resend_after_a_restart_is_the_duplicate(worker: Worker, restart: Restart) -> None:
    (seq,) = await sent(worker, "a")
    later = await restart()
    again = later.send("a", retry=True)
    await later.settle()
    assert (again.seq, again.sent.duplicate) == (seq, True)


async def test_a_retry_older_than_what_is_remembered_is_looked_up(worker: Worker, restart: Restart) -> None:
    (seq,) = await sent(worker, "old")
    for number in range(TAIL_ROWS):
        worker.send(f"m{number}")
    await worker.settle()
    later = await restart()
    later.actors.clock_ms = worker.actors.clock_ms + 86_400_000
    again = later.send("old", retry=True)
    await later.settle()
    assert (again.seq, again.sent.duplicate) == (seq, True)
    assert later.store.lookups == [[id_of("old")]]


async def test_a_send_without_retry_is_looked_up_while_it_may_be_ten_minutes_old(
    worker: Worker, restart: Restart
) -> None:
    (seq,) = await sent(worker, "old")
    for number in range(TAIL_ROWS):
        worker.send(f"m{number}")
    await worker.settle()
    later = await restart()
    later.actors.clock_ms = worker.actors.clock_ms + LOOK_BACK_MS
    again = later.send("old")
    await later.settle()
    assert (again.seq, again.sent.duplicate) == (seq, True)
    later.actors.clock_ms += 1
    new = later.send("new")
    await later.settle()
    assert not new.sent.duplicate
    assert len(later.store.lookups) == 1


async def test_a_look_up_keeps_the_order_of_what_waits_behind_it(worker: Worker, restart: Restart) -> None:
    (seq,) = await sent(worker, "old")
    for number in range(TAIL_ROWS):
        worker.send(f"m{number}")
    await worker.settle()
    later = await restart()
    answers = [later.send(text, retry=True) for text in ("x", "old", "y")]
    await later.settle()
    assert answers[1].seq == seq
    assert log_of(later)[-2:] == ["x", "y"]
    assert answers[0].seq < answers[2].seq


async def test_a_retry_behind_many_requests_that_write_nothing_is_looked_up_all_the_same(
    worker: Worker, restart: Restart
) -> None:
    (seq,) = await sent(worker, "old")
    for number in range(TAIL_ROWS):
        worker.send(f"m{number}")
    await worker.settle()
    later = await restart()
    await sent(later, "new")
    for _ in range(64):
        later.send("new")
    again = later.send("old", retry=True)
    await later.settle()
    assert (again.seq, again.sent.duplicate) == (seq, True)
    assert log_of(later).count("old") == 1


async def test_a_look_up_that_fails_refuses_what_it_was_for_and_nothing_else(worker: Worker, restart: Restart) -> None:
    await sent(worker, "old")
    for number in range(TAIL_ROWS):
        worker.send(f"m{number}")
    await worker.settle()
    later = await restart()
    later.store.lookup_error = StoreUnavailable("away")
    later.actors.clock_ms += 2 * LOOK_BACK_MS
    retry, fresh = later.send("old", retry=True), later.send("fresh")
    await later.settle()
    assert retry.code == Code.UNAVAILABLE
    assert fresh.seq
    assert log_of(later).count("old") == 1


async def test_other_content_under_an_id_is_refused_wherever_the_first_one_is(worker: Worker, restart: Restart) -> None:
    worker.send("a")
    in_the_batch = worker.send("a", body="other")
    await worker.settle()
    in_memory = worker.send("a", body="other")
    await worker.settle()
    for number in range(TAIL_ROWS):
        worker.send(f"m{number}")
    await worker.settle()
    later = await restart()
    in_the_store = later.send("a", body="other", retry=True)
    await later.settle()
    assert [answer.code for answer in (in_the_batch, in_memory, in_the_store)] == [Code.ID_REUSED] * 3
    assert log_of(later).count("other") == 0


async def test_a_resend_is_recognised_though_its_sender_has_left(worker: Worker) -> None:
    first = worker.send("a", B1)
    await worker.settle()
    worker.ask(Op.CHAT_LEAVE, ChatLeave(CHAT), B1)
    await worker.settle()
    again, new = worker.send("a", B1), worker.send("b", B1)
    await worker.settle()
    assert (again.seq, again.sent.duplicate) == (first.seq, True)
    assert new.code == Code.FORBIDDEN


async def test_sixteen_zeros_are_an_id_like_any_other_after_a_system_row(worker: Worker, restart: Restart) -> None:
    worker.ask(Op.CHAT_CHANGE, ChatChange(CHAT, title="t"), A1)
    await worker.settle()
    later = await restart()
    answer = later.send("\0" * 16, body="zeros")
    await later.settle()
    assert not answer.sent.duplicate


# -------------------------------------------------------------------------------------------- bounds


async def test_the_longest_idle_chat_is_forgotten_and_read_again_at_its_next_request(start_worker: StartWorker) -> None:
    worker = await start_worker(1, ROOM._replace(max_actors=2))
    for chat_id in (1, 2, 3):
        add_chat(worker.database, chat_id)
        await worker.acquire(chat_id)
        worker.send("a", chat_id=chat_id)
        await worker.settle()
    assert (len(worker.actors), worker.actors.evictions) == (2, 1)
    assert [worker.actors.loaded(chat_id) is not None for chat_id in (1, 2, 3)] == [False, True, True]  # type: ignore[arg-type]
    again = worker.send("a", chat_id=1)
    await worker.settle()
    assert again.sent.duplicate
    assert len(worker.actors) == 2


async def test_a_chat_with_something_in_flight_is_not_forgotten_and_one_too_many_is_refused(
    start_worker: StartWorker, autojump_clock: MockClock
) -> None:
    worker = await start_worker(1, ROOM._replace(max_actors=1))
    add_chat(worker.database, 8)
    await worker.acquire(8)
    worker.store.faults.append(Fault.STORED_BUT_TIMED_OUT)
    first = worker.send("a")
    await worker.settle()
    refused = worker.send("x", chat_id=8)
    assert refused.code == Code.OVERLOADED
    await answered(worker, first)
    taken = worker.send("x", chat_id=8)
    await answered(worker, taken)


async def test_remembered_ids_stay_within_their_bound_and_what_was_forgotten_is_still_a_duplicate(
    start_worker: StartWorker, autojump_clock: MockClock
) -> None:
    worker = await start_worker(1, ROOM._replace(max_remembered=10))
    for number in range(30):
        worker.send(f"m{number}")
    await worker.settle()
    await trio.sleep(5)
    actor = worker.actors.loaded(CHAT)
    assert actor is not None
    assert len(actor.ids) == 10
    again = [worker.send("m0", retry=True), worker.send("m1"), worker.send("m29")]
    await worker.settle()
    assert all(answer.sent.duplicate for answer in again)
    assert worker.store.lookups == [[id_of("m0"), id_of("m1")]]


async def test_what_comes_during_a_look_up_waits_for_it(worker: Worker, restart: Restart) -> None:
    (seq,) = await sent(worker, "old")
    for number in range(TAIL_ROWS):
        worker.send(f"m{number}")
    await worker.settle()
    later = await restart()
    await sent(later, "x")
    again = later.send("old", retry=True)
    later.actors.advance_dirty()
    behind = later.send("y")
    later.actors.advance_dirty()
    await later.settle()
    assert (again.seq, again.sent.duplicate) == (seq, True)
    assert not behind.sent.duplicate
    assert log_of(later)[-2:] == ["x", "y"]


async def test_what_a_lost_slot_gives_back_is_looked_up_anew_by_the_next_owner(worker: Worker) -> None:
    """It was looked up before, and was not there; then it was committed, and its owner did not hear of it."""
    for number in range(2 * TAIL_ROWS):
        worker.send(f"m{number}")
    await worker.settle()
    returned: list[Request] = []
    worker.on_moved = lambda _, request: returned.append(request)
    await worker.acquire()
    worker.database.is_paused = True
    in_flight = worker.send("a", retry=True)
    await worker.settle()
    assert len(worker.store.batches[-1].rows) == 1
    worker.tenures[slot_of(CHAT)].is_lost = True
    worker.store.resume()
    await worker.settle()
    assert len(returned) == 1
    assert log_of(worker)[-1] == "a"
    tenure = await worker.acquire()
    for number in range(TAIL_ROWS):
        worker.send(f"n{number}")
    await worker.settle()

    tenure = await worker.acquire()
    worker.actors.submit(CHAT, tenure, returned[0])
    await worker.settle()
    assert in_flight.sent.duplicate
    assert log_of(worker).count("a") == 1
