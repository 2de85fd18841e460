"""What a chat does while the store has not confirmed in time who owns it: nothing leaves, and nothing is lost by that."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio
from trio.testing import MockClock

from gateway.chat.actors import PARKED_TIMEOUT_S
from gateway.chat.request import InternalOp, View
from gateway.cluster.tenure import FOREVER_S, Tenure
from gateway.protocol.errors import Code
from gateway.protocol.messages import ChatInfo, Op, Typing
from storage.api import TAIL_ROWS, slot_of
from tests.chat.world import A1, B1, CHAT, ROOM, Places, Worker, add_chat, answered, id_of, log_of, sent

Restart = Callable[[], Awaitable[Worker]]


def tenure_of(worker: Worker) -> Tenure:
    return worker.tenures[slot_of(CHAT)]


def silence(worker: Worker) -> None:
    tenure_of(worker).believed_until_s = 0.0


def confirm(worker: Worker) -> None:
    tenure_of(worker).believed_until_s = FOREVER_S


async def test_what_was_stored_in_silence_leaves_when_the_tenure_is_confirmed(
    worker: Worker, autojump_clock: MockClock
) -> None:
    await sent(worker, "z")
    worker.out.left.clear()
    worker.database.is_paused = True
    in_flight, queued = worker.send("a"), worker.send("b")
    await worker.settle()
    silence(worker)
    worker.store.resume()
    await trio.sleep(1)
    assert log_of(worker)[:2] == ["z", "a"]
    assert worker.out.left == []
    confirm(worker)
    await answered(worker, in_flight, queued)
    assert in_flight.seq < queued.seq
    assert [message.body for message in worker.out.messages_to(*B1)] == [b"a", b"b"]


async def test_a_head_is_not_moved_by_what_was_stored_in_silence(worker: Worker) -> None:
    (seq,) = await sent(worker, "z")
    worker.database.is_paused = True
    worker.send("a")
    await worker.settle()
    silence(worker)
    worker.store.resume()
    await worker.settle()
    actor = worker.actors.loaded(CHAT)
    assert actor is not None
    assert actor.head == seq


async def test_silence_that_ends_in_loss_says_moved_and_the_message_counts_once(
    worker: Worker, restart: Restart
) -> None:
    await sent(worker, "z")
    worker.database.is_paused = True
    in_flight = worker.send("a")
    await worker.settle()
    silence(worker)
    worker.store.resume()
    await worker.settle()
    tenure_of(worker).is_lost = True
    await answered(worker, in_flight)
    assert in_flight.code == Code.MOVED
    later = await restart()
    again = later.send("a", retry=True)
    await answered(later, again)
    assert again.sent.duplicate
    assert log_of(later) == ["z", "a"]


async def test_in_silence_memory_answers_nothing(worker: Worker) -> None:
    await sent(worker, "a")
    silence(worker)
    resend = worker.send("a")
    answers = [
        worker.ask(Op.CHAT_INFO, ChatInfo(CHAT), A1),
        worker.ask(InternalOp.VIEW, View(CHAT), A1),
        worker.ask(Op.TYPING, Typing(CHAT, 0, True), A1),
    ]
    await worker.settle()
    assert [answer.code for answer in answers] == [Code.MOVED] * 3
    assert resend.op is None
    confirm(worker)
    await answered(worker, resend)
    assert resend.sent.duplicate


async def test_who_waits_through_a_long_silence_is_told_that_the_outcome_is_unknown(
    worker: Worker, autojump_clock: MockClock
) -> None:
    await sent(worker, "z")
    worker.database.is_paused = True
    in_flight, queued = worker.send("a"), worker.send("b")
    await worker.settle()
    silence(worker)
    worker.store.resume()
    await trio.sleep(PARKED_TIMEOUT_S + 1)
    assert [in_flight.code, queued.code] == [Code.MOVED] * 2
    confirm(worker)
    again = worker.send("a", retry=True), worker.send("b", retry=True)
    await answered(worker, *again)
    assert [answer.sent.duplicate for answer in again] == [True, True]
    assert log_of(worker) == ["z", "a", "b"]
    assert [message.body for message in worker.out.messages_to(*B1)] == [b"z", b"a", b"b"]


async def test_a_look_up_that_ends_in_silence_is_made_again(worker: Worker, restart: Restart) -> None:
    await sent(worker, "old")
    for number in range(TAIL_ROWS):
        worker.send(f"m{number}")
    await worker.settle()
    later = await restart()
    await sent(later, "new")
    again = later.send("old", retry=True)
    later.actors.advance_dirty()
    silence(later)
    await later.settle()
    assert again.op is None
    confirm(later)
    await answered(later, again)
    assert again.sent.duplicate
    assert later.store.lookups[-2:] == [[id_of("old")]] * 2


async def test_what_waited_for_places_waits_for_the_confirmation_too(
    worker: Worker, places: Places, autojump_clock: MockClock
) -> None:
    places.is_slow = True
    waiting = worker.send("a")
    await worker.settle()
    silence(worker)
    places.answer()
    await worker.settle()
    assert waiting.op is None
    assert worker.out.messages_to(*B1) == []
    confirm(worker)
    places.is_slow = False
    await trio.sleep(1)
    while places.is_asked:
        places.answer()
    await answered(worker, waiting)
    assert [message.body for message in worker.out.messages_to(*B1)] == [b"a"]


async def test_a_chat_that_was_read_in_silence_opens_when_the_tenure_is_confirmed(
    worker: Worker, autojump_clock: MockClock
) -> None:
    silence(worker)
    waiting = worker.send("a")
    await trio.sleep(1)
    assert waiting.op is None
    confirm(worker)
    await answered(worker, waiting)
    assert log_of(worker) == ["a"]


async def test_a_chat_that_is_not_confirmed_for_long_is_not_opened(worker: Worker, autojump_clock: MockClock) -> None:
    silence(worker)
    waiting = worker.send("a")
    await trio.sleep(PARKED_TIMEOUT_S + 1)
    assert waiting.code == Code.UNAVAILABLE
    assert log_of(worker) == []
    confirm(worker)
    assert len(await sent(worker, "b")) == 1


async def test_a_slot_that_the_store_does_not_confirm_takes_its_chats_with_it(worker: Worker) -> None:
    await sent(worker, "a")
    worker.database.is_paused = True
    in_flight = worker.send("b")
    await worker.settle()
    tenure = tenure_of(worker)
    tenure.is_lost = True
    worker.actors.slot_lost(tenure.slot, tenure.epoch)
    assert in_flight.code == Code.MOVED
    assert len(worker.actors) == 0


# ---------------------------------------------------------------------------------------------- repeating


async def test_a_new_owner_repeats_what_its_predecessor_may_not_have_told(worker: Worker, restart: Restart) -> None:
    await sent(worker, "a", "b")
    later = await restart()
    tenure_of(later).is_inherited = True
    await sent(later, "c")
    assert [message.body for message in later.out.messages_to(*B1)] == [b"a", b"b", b"c"]


async def test_what_was_handed_over_is_not_repeated(worker: Worker, restart: Restart) -> None:
    await sent(worker, "a", "b")
    later = await restart()
    await sent(later, "c")
    assert [message.body for message in later.out.messages_to(*B1)] == [b"c"]


async def test_what_is_old_was_told_long_ago(worker: Worker, restart: Restart) -> None:
    await sent(worker, "a")
    worker.actors.clock_ms += 60_000
    await sent(worker, "b")
    later = await restart()
    later.actors.clock_ms = worker.actors.clock_ms + 1_000
    tenure_of(later).is_inherited = True
    await sent(later, "c")
    assert [message.body for message in later.out.messages_to(*B1)] == [b"b", b"c"]


async def test_a_chat_that_is_named_is_loaded_for_what_it_may_have_to_repeat(worker: Worker, restart: Restart) -> None:
    await sent(worker, "a")
    later = await restart()
    tenure_of(later).is_inherited = True
    later.actors.wake(CHAT, tenure_of(later))
    await later.settle()
    assert [message.body for message in later.out.messages_to(*B1)] == [b"a"]


async def test_nothing_is_repeated_of_a_chat_that_was_lost_while_it_was_read(worker: Worker, restart: Restart) -> None:
    await sent(worker, "a")
    later = await restart()
    tenure_of(later).is_inherited = True
    later.actors.wake(CHAT, tenure_of(later))
    tenure_of(later).is_lost = True
    await later.settle()
    assert later.out.messages_to(*B1) == []


async def test_what_an_owner_told_itself_is_not_repeated_when_it_reads_the_chat_again(
    start_worker: Callable[..., Awaitable[Worker]],
) -> None:
    worker = await start_worker(1, ROOM._replace(max_actors=1))
    neighbour = CHAT + (1 << 14)
    add_chat(worker.database, neighbour)
    tenure_of(worker).is_inherited = True
    await sent(worker, "a")
    worker.send("b", chat_id=neighbour)
    await worker.settle()
    assert worker.actors.evictions == 1
    await sent(worker, "c")
    assert [message.body for message in worker.out.messages_to(*B1)] == [b"a", b"b", b"c"]
