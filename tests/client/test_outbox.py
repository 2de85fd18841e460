"""Messages on their way to being durable, without a wire."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from gateway.protocol.messages import Send
from parley.errors import NotConnected, OutboxFull, OutcomeUnknown, Refused
from parley.model import Sent
from parley.outbox import MAX_INTERNAL_ERRORS, RESEND_FOR_S, Outbox, PendingSend


def send(chat_id: int, number: int, body: bytes = b"x") -> Send:
    return Send(chat_id, number.to_bytes(16), 0, body)


def numbers(pendings: list[PendingSend]) -> list[int]:
    return [int.from_bytes(pending.client_msg_id) for pending in pendings]


def offered(outbox: Outbox, now: float = 0.0) -> list[PendingSend]:
    pendings = []
    while (pending := outbox.offer(now)) is not None:
        pendings.append(pending)
    return pendings


def store(outbox: Outbox, pending: PendingSend) -> None:
    outbox.stored(pending, Sent(pending.chat_id, 1, 0, False, pending.client_msg_id))


def test_one_message_of_a_chat_is_unanswered_at_a_time() -> None:
    outbox = Outbox(10, 1)
    for number in (1, 2):
        outbox.add(send(1, number), 0.0)
    outbox.add(send(2, 3), 0.0)
    first = offered(outbox)
    assert numbers(first) == [1, 3]
    store(outbox, first[0])
    assert numbers(offered(outbox)) == [2]


def test_more_may_be_unanswered_when_told_so() -> None:
    outbox = Outbox(10, 2)
    for number in (1, 2, 3):
        outbox.add(send(1, number), 0.0)
    assert numbers(offered(outbox)) == [1, 2]


def test_chats_take_turns() -> None:
    outbox = Outbox(10, 3)
    for number in (1, 2, 3):
        outbox.add(send(1, number), 0.0)
    outbox.add(send(2, 4), 0.0)
    assert numbers(offered(outbox)) == [1, 4, 2, 3]


def test_a_lost_connection_offers_everything_again_in_order_as_a_retry() -> None:
    outbox = Outbox(10, 3)
    for number in (1, 2):
        outbox.add(send(1, number), 0.0)
    first = outbox.offer(0.0)
    assert first is not None
    assert not first.message.retry
    outbox.connection_lost()
    again = offered(outbox)
    assert numbers(again) == [1, 2]
    assert [bool(pending.message.retry) for pending in again] == [True, False]


@pytest.mark.parametrize(
    ("code", "retry_after_ms", "waits_s", "other_chat_waits"),
    [
        pytest.param(400, 3000, 3.0, True, id="rate_limited"),
        pytest.param(401, None, 1.0, True, id="overloaded, without a time"),
        pytest.param(403, 500, 0.5, True, id="quota with a time"),
        pytest.param(501, None, 1.0, False, id="unavailable"),
        pytest.param(599, 2000, 2.0, False, id="an unknown code of its hundred"),
    ],
)
def test_a_refusal_for_now_is_waited_out(
    code: int, retry_after_ms: int | None, waits_s: float, other_chat_waits: bool
) -> None:
    outbox = Outbox(10, 1)
    outbox.add(send(1, 1), 0.0)
    pending = outbox.offer(0.0)
    assert pending is not None
    outbox.refused(pending, Refused(code, "not now", retry_after_ms=retry_after_ms), 0.0)
    outbox.add(send(2, 2), 0.0)
    assert (offered(outbox) == []) is other_chat_waits
    assert outbox.next_time() == waits_s
    assert pending in offered(outbox, waits_s)
    assert pending.message.retry


@pytest.mark.parametrize("code", [102, 300, 301, 303, 306, 403])
async def test_a_final_refusal_lets_the_next_message_go(code: int) -> None:
    outbox = Outbox(10, 1)
    pending = outbox.add(send(1, 1), 0.0)
    outbox.add(send(1, 2), 0.0)
    assert offered(outbox) == [pending]
    outbox.refused(pending, Refused(code, "no"), 0.0)
    with pytest.raises(Refused) as caught:
        await pending.sent()
    assert caught.value.code == code
    assert numbers(offered(outbox)) == [2]


async def test_a_message_that_the_server_chokes_on_is_given_up() -> None:
    outbox = Outbox(10, 1)
    pending = outbox.add(send(1, 1), 0.0)
    for turn in range(MAX_INTERNAL_ERRORS):
        assert offered(outbox, turn * 1000.0) == [pending]
        outbox.refused(pending, Refused(500, "bug"), turn * 1000.0)
    with pytest.raises(OutcomeUnknown):
        await pending.sent()


async def test_a_message_is_not_resent_when_the_server_may_have_forgotten_its_id() -> None:
    outbox = Outbox(10, 1)
    pending = outbox.add(send(1, 1), 0.0, age_s=RESEND_FOR_S - 1)
    assert outbox.offer(2.0) is None
    with pytest.raises(OutcomeUnknown):
        await pending.sent()


def test_a_full_outbox_says_so() -> None:
    outbox = Outbox(1, 1)
    outbox.add(send(1, 1), 0.0)
    with pytest.raises(OutboxFull):
        outbox.add(send(1, 2), 0.0)


async def test_those_who_wait_for_room_get_it_one_by_one(autojump_clock: trio.testing.MockClock) -> None:
    outbox = Outbox(1, 1)
    outbox.add(send(1, 1), 0.0)

    async def add(number: int) -> None:
        await outbox.wait_room()
        outbox.add(send(1, number), 0.0)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(add, 2)
        nursery.start_soon(add, 3)
        for _ in range(3):
            await trio.testing.wait_all_tasks_blocked()
            assert len(outbox) == 1
            (pending,) = offered(outbox)
            store(outbox, pending)
    assert len(outbox) == 0


def test_the_same_id_is_the_same_message_and_other_content_is_refused() -> None:
    outbox = Outbox(10, 1)
    assert outbox.add(send(1, 1), 0.0) is outbox.add(send(1, 1), 0.0)
    with pytest.raises(Refused) as caught:
        outbox.add(send(1, 1, b"other"), 0.0)
    assert caught.value.code == 306


async def test_a_message_is_taken_back_only_before_it_was_offered() -> None:
    outbox = Outbox(10, 1)
    first = outbox.add(send(1, 1), 0.0)
    second = outbox.add(send(1, 2), 0.0)
    assert offered(outbox) == [first]
    assert not first.withdraw()
    assert second.withdraw()
    with pytest.raises(NotConnected):
        await second.sent()
    assert outbox.take_settled() == [second.client_msg_id]


def test_a_paused_chat_does_not_hold_up_another() -> None:
    outbox = Outbox(10, 1)
    outbox.add(send(1, 1), 0.0)
    outbox.add(send(2, 2), 0.0)
    outbox.pause(5.0, 1)
    assert numbers(offered(outbox)) == [2]
    assert numbers(offered(outbox, 5.0)) == [1]
