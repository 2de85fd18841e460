"""What becomes of a batch that the store does not take, and of a chat whose slot is lost."""

from __future__ import annotations

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from gateway.chat.request import InternalOp, View
from gateway.protocol.errors import Code
from gateway.protocol.identifiers import counter_of, epoch_of
from gateway.protocol.messages import (
    ChatChange,
    ChatInfo,
    ChatInfoOk,
    Op,
    Typing,
)
from storage.api import TAIL_ROWS, slot_of
from tests.chat.conftest import Restart, StartWorker
from tests.chat.world import (
    A1,
    B1,
    CHAT,
    ROOM,
    Fault,
    Places,
    Worker,
    add_chat,
    answered,
    id_of,
    log_of,
    sent,
)

# ------------------------------------------------------------------------------------------- the end


async def test_a_worker_that_ends_refuses_what_asks_for_a_chat_that_is_not_loaded(worker: Worker) -> None:
    worker.scope.cancel()
    await trio.testing.wait_all_tasks_blocked()
    answer = worker.ask(Op.CHAT_INFO, ChatInfo(CHAT), A1)
    assert answer.code == Code.OVERLOADED


# -------------------------------------------------------------------------------- the store's faults


async def test_what_the_store_refuses_is_refused_and_its_counters_are_used_again(worker: Worker) -> None:
    await sent(worker, "a")
    worker.store.faults.append(Fault.UNAVAILABLE)
    refused = [worker.send("b"), worker.send("b"), worker.ask(Op.CHAT_CHANGE, ChatChange(CHAT, title="t"), A1)]
    await worker.settle()
    assert [answer.code for answer in refused] == [Code.UNAVAILABLE] * 3
    again = worker.send("b")
    await worker.settle()
    assert (counter_of(again.seq), again.sent.duplicate) == (2, False)
    assert log_of(worker) == ["a", "b"]
    info = worker.ask(Op.CHAT_INFO, ChatInfo(CHAT), A1)
    assert info.fields(ChatInfoOk).title == ""


async def test_a_resend_behind_a_refused_batch_is_written(worker: Worker) -> None:
    await sent(worker, "z")
    worker.store.faults.append(Fault.UNAVAILABLE)
    first = worker.send("a")
    worker.actors.finish_cycle()
    again = worker.send("a")
    await worker.settle()
    assert first.code == Code.UNAVAILABLE
    assert not again.sent.duplicate
    assert log_of(worker) == ["z", "a"]


@pytest.mark.parametrize("fault", [Fault.STORED_BUT_TIMED_OUT, Fault.LOST_AND_TIMED_OUT])
async def test_a_batch_of_unknown_outcome_is_written_again_until_it_is_known(
    worker: Worker, fault: Fault, autojump_clock: MockClock
) -> None:
    await sent(worker, "z")
    worker.store.faults.extend([fault] * 3)
    first = worker.send("a")
    worker.actors.finish_cycle()
    worker.actors.clock_ms += 5000
    second = worker.send("b")
    await answered(worker, first, second)
    batches = worker.store.batches
    assert batches[1:5] == [batches[1]] * 4
    assert log_of(worker) == ["z", "a", "b"]
    assert (counter_of(first.seq), counter_of(second.seq)) == (2, 3)


async def test_a_refusal_after_an_unknown_outcome_says_nothing_about_it(
    worker: Worker, autojump_clock: MockClock
) -> None:
    await sent(worker, "z")
    worker.store.faults.extend([Fault.STORED_BUT_TIMED_OUT, Fault.UNAVAILABLE])
    first = worker.send("a")
    worker.actors.finish_cycle()
    second = worker.send("b")
    await answered(worker, first, second)
    assert log_of(worker) == ["z", "a", "b"]
    assert (counter_of(first.seq), counter_of(second.seq)) == (2, 3)


async def test_what_happens_late_is_no_second_row(worker: Worker, autojump_clock: MockClock) -> None:
    worker.store.faults.append(Fault.LATE)
    first = worker.send("a")
    await answered(worker, first)
    worker.store.happen_late()
    second = worker.send("b")
    await answered(worker, second)
    assert log_of(worker) == ["a", "b"]


async def test_a_chat_that_contradicts_the_store_is_read_anew(worker: Worker) -> None:
    await sent(worker, "a")
    worker.store.faults.append(Fault.CONFLICT)
    refused = worker.send("b")
    worker.actors.finish_cycle()
    waiting = worker.send("c")
    await worker.settle()
    assert [refused.code, waiting.code] == [Code.INTERNAL] * 2
    again = worker.send("b", retry=True)
    await worker.settle()
    assert counter_of(again.seq) == 2
    assert worker.actors.loads == 2


async def test_a_chat_that_cannot_be_read_is_unavailable_and_read_again_next_time(
    start_worker: StartWorker, worker: Worker
) -> None:
    await worker.store.close()
    refused = worker.send("a")
    await worker.settle()
    assert refused.code == Code.UNAVAILABLE
    assert len(worker.actors) == 0


async def test_requests_beyond_the_queues_bound_are_refused_and_the_rest_is_served(start_worker: StartWorker) -> None:
    worker = await start_worker(1, ROOM._replace(max_queued=5))
    answers = [worker.send(f"m{number}") for number in range(7)]
    await worker.settle()
    assert [answer.code for answer in answers] == [None] * 5 + [Code.OVERLOADED] * 2
    assert log_of(worker) == [f"m{number}" for number in range(5)]


# ------------------------------------------------------------------------------------------- tenures


async def test_an_overtaken_owner_says_moved_and_drops_the_chats_of_the_slot(
    start_worker: StartWorker, worker: Worker
) -> None:
    other_chat = CHAT + (1 << 14)
    assert slot_of(other_chat) == slot_of(CHAT)
    add_chat(worker.database, other_chat)
    await sent(worker, "a")
    worker.send("x", chat_id=other_chat)
    await worker.settle()
    await start_worker(2)
    refused = worker.send("b")
    await worker.settle()
    assert refused.code == Code.MOVED
    assert worker.lost_slots == [(slot_of(CHAT), 1)]
    assert len(worker.actors) == 0
    assert log_of(worker) == ["a"]


async def test_past_its_tenure_nothing_leaves_though_it_was_stored(start_worker: StartWorker, worker: Worker) -> None:
    await sent(worker, "z")
    worker.out.left.clear()
    worker.database.is_paused = True
    in_flight = worker.send("a")
    await worker.settle()
    worker.tenures[slot_of(CHAT)].is_lost = True
    worker.store.resume()
    await worker.settle()
    assert log_of(worker) == ["z", "a"]
    assert in_flight.code == Code.MOVED
    assert [left.op for left in worker.out.left] == [Op.ERROR]
    later = await start_worker(2)
    again = later.send("a", retry=True)
    await later.settle()
    assert again.sent.duplicate


async def test_past_its_tenure_memory_answers_nothing(worker: Worker) -> None:
    await sent(worker, "a")
    actor = worker.actors.loaded(CHAT)
    assert actor is not None
    actor.tenure.is_lost = True  # type: ignore[misc]
    answers = [
        worker.send("a"),
        worker.ask(Op.CHAT_INFO, ChatInfo(CHAT), A1),
        worker.ask(InternalOp.VIEW, View(CHAT), A1),
        worker.ask(Op.TYPING, Typing(CHAT, 0, True), A1),
    ]
    await worker.settle()
    assert [answer.code for answer in answers] == [Code.MOVED] * 4


async def test_past_its_tenure_a_look_up_answers_nothing(worker: Worker, restart: Restart) -> None:
    await sent(worker, "old")
    for number in range(TAIL_ROWS):
        worker.send(f"m{number}")
    await worker.settle()
    later = await restart()
    later.send("new")
    await later.settle()
    again = later.send("old", retry=True)
    later.actors.advance_dirty()
    later.tenures[slot_of(CHAT)].is_lost = True
    await later.settle()
    assert later.store.lookups[-1] == [id_of("old")]
    assert again.code == Code.MOVED


async def test_past_its_tenure_what_waited_for_places_does_not_leave(worker: Worker, places: Places) -> None:
    places.is_slow = True
    waiting = worker.send("a")
    await worker.settle()
    worker.tenures[slot_of(CHAT)].is_lost = True
    places.answer()
    await worker.settle()
    assert waiting.code == Code.MOVED
    assert worker.out.messages_to(*B1) == []


async def test_a_chat_that_is_being_read_under_a_lost_tenure_says_moved(worker: Worker) -> None:
    answer = worker.send("a")
    worker.tenures[slot_of(CHAT)].is_lost = True
    await worker.settle()
    assert answer.code == Code.MOVED
    assert log_of(worker) == []


async def test_the_end_of_an_earlier_tenures_batch_is_no_word_about_the_present_one(worker: Worker) -> None:
    """The same worker and chat, twice: what the first life appended ends while the second has a batch in flight."""
    await sent(worker, "a")
    worker.database.is_paused = True
    early = worker.send("b")
    await worker.settle()
    await worker.acquire()
    late = worker.send("c")
    await worker.settle()
    assert [len(batch.rows) for batch in worker.store.batches] == [1, 1, 1]
    assert early.code == Code.MOVED
    worker.store.resume()
    await worker.settle()
    assert epoch_of(late.seq) == 2
    assert log_of(worker) == ["a", "c"]
    assert worker.lost_slots == []


async def test_a_late_loss_of_an_earlier_tenure_costs_the_present_one_nothing(worker: Worker) -> None:
    other_chat = CHAT + (1 << 14)
    add_chat(worker.database, other_chat)
    await sent(worker, "a")
    worker.database.is_paused = True
    worker.send("x", chat_id=other_chat)
    await worker.settle()
    tenure = await worker.acquire()
    new = worker.send("b")
    await worker.settle()
    worker.store.resume()
    await worker.settle()
    assert epoch_of(new.seq) == 2
    assert not tenure.is_lost
    assert log_of(worker) == ["a", "b"]


async def test_stopping_lets_what_is_in_flight_end_and_go_out(
    worker: Worker, places: Places, autojump_clock: MockClock
) -> None:
    places.is_slow = True
    answer = worker.send("a")
    worker.actors.advance_dirty()
    await worker.settle()
    async with trio.open_nursery() as stopping:
        stopping.start_soon(worker.actors.stop, [slot_of(CHAT)])
        await trio.sleep(0.5)
        assert len(worker.actors) == 1
        places.answer()
    assert answer.seq
    assert len(worker.actors) == 0


async def test_stopping_ends_in_time_though_the_store_does_not_answer(
    worker: Worker, autojump_clock: MockClock
) -> None:
    await sent(worker, "a")
    worker.database.is_paused = True
    stuck = worker.send("b")
    await worker.settle()
    await worker.actors.stop([slot_of(CHAT)])
    assert stuck.code == Code.MOVED
    worker.store.resume()
    await worker.settle()
    assert stuck.code == Code.MOVED
