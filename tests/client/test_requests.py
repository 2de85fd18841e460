"""Questions of the application, marks, hints and pages."""

from __future__ import annotations

import pytest
import trio
import trio.testing

import parley
from gateway.protocol import messages as wire
from gateway.protocol.events import Received
from gateway.protocol.messages import Cursor, Op
from parley.requests import Requests
from tests.client.scripted import CHAT, ME, PEER, Network, connected, msg, next_of


def test_rids_wrap_to_one_and_skip_those_in_use() -> None:
    requests = Requests(window=3)
    first, _ = requests.open(0.0)
    rids = set()
    for _ in range(65_534):
        rid, _question = requests.open(0.0)
        rids.add(rid)
        requests.answer(Received(Op.OK, rid, wire.Empty()), 0.0)
    assert (first, len(rids), max(rids)) == (1, 65_534, 65_535)
    assert requests.open(0.0)[0] == 2


def test_the_window_leaves_a_place_that_messages_do_not_take() -> None:
    requests = Requests(window=2)
    requests.open(0.0)
    assert (requests.room, requests.room_for_sends) == (1, 0)


async def test_a_question_is_asked_again_on_the_next_session(autojump_clock: trio.testing.MockClock) -> None:
    network = Network()
    async with connected(network) as (client, peer), trio.open_nursery() as nursery:
        chat_ids: list[int] = []

        async def open_chat() -> None:
            chat_ids.append(await client.open_chat(PEER))

        nursery.start_soon(open_chat)
        await peer.expect(Op.CHAT_OPEN)
        await peer.hang_up()
        next_peer = await network.accept()
        await next_peer.greet(session_id=2)
        asked = await next_peer.find(Op.CHAT_OPEN)
        assert asked.body == wire.ChatOpen(PEER)
        await next_peer.say(Op.OK, wire.ChatOpenOk(CHAT), rid=asked.rid)
        await trio.testing.wait_all_tasks_blocked()
        assert chat_ids == [CHAT]


@pytest.mark.parametrize(
    ("code", "retry_after_ms", "waits_s"), [(400, 7000, 7), (401, None, 1), (501, None, 1), (403, 2000, 2)]
)
async def test_a_question_refused_for_now_is_asked_again(
    code: int, retry_after_ms: int | None, waits_s: float, autojump_clock: trio.testing.MockClock
) -> None:
    async with connected(Network()) as (client, peer), trio.open_nursery() as nursery:
        nursery.start_soon(client.leave_chat, CHAT)
        await peer.refuse(await peer.expect(Op.CHAT_LEAVE), code, retry_after_ms=retry_after_ms)
        started_at = trio.current_time()
        asked = await peer.expect(Op.CHAT_LEAVE)
        assert trio.current_time() - started_at == pytest.approx(waits_s)
        await peer.say(Op.OK, rid=asked.rid)


@pytest.mark.parametrize("code", [300, 301, 302, 305, 403])
async def test_a_question_refused_for_good_raises(code: int, autojump_clock: trio.testing.MockClock) -> None:
    async with connected(Network()) as (client, peer), trio.open_nursery() as nursery:

        async def refuse() -> None:
            await peer.refuse(await peer.expect(Op.CHAT_INFO), code)

        nursery.start_soon(refuse)
        with pytest.raises(parley.Refused) as caught:
            await client.chat(CHAT)
        assert caught.value.code == code


async def test_a_value_that_the_protocol_does_not_allow_is_refused_unasked(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with connected(Network()) as (client, peer):
        with pytest.raises(parley.Refused) as caught:
            await client.create_group("x" * 257, [PEER])
        assert caught.value.code == 303
        assert await peer.silence(5)


async def test_a_reply_that_nobody_waits_for_is_dropped(autojump_clock: trio.testing.MockClock) -> None:
    async with connected(Network()) as (client, peer):
        await peer.say(Op.OK, rid=999)
        await peer.say(Op.ERROR, wire.Error(303, "of nothing"), rid=0)
        await peer.push(11, 10)
        await next_of(client, parley.MessageReceived)


async def test_history_pages_until_it_is_complete(autojump_clock: trio.testing.MockClock) -> None:
    async with connected(Network()) as (client, peer), trio.open_nursery() as nursery:
        seqs: list[int] = []

        async def read() -> None:
            async for message in client.history(CHAT, page=2):
                seqs.append(message.seq)  # noqa: PERF401 - what has come so far is looked at

        nursery.start_soon(read)
        asked = await peer.expect(Op.HISTORY)
        assert asked.body == wire.History(CHAT, None, None, 2)
        await peer.page(asked, 9, 8, is_complete=False)
        asked = await peer.expect(Op.HISTORY)
        assert asked.body == wire.History(CHAT, 8, None, 2)
        await peer.page(asked, 7)
        await trio.testing.wait_all_tasks_blocked()
        assert seqs == [9, 8, 7]


async def test_history_after_a_seq_reads_forward(autojump_clock: trio.testing.MockClock) -> None:
    async with connected(Network()) as (client, peer), trio.open_nursery() as nursery:

        async def serve() -> None:
            await peer.page(await peer.expect(Op.HISTORY), 6, 7, is_complete=False)
            asked = await peer.expect(Op.HISTORY)
            assert asked.body == wire.History(CHAT, None, 7, 100)
            await peer.page(asked)

        nursery.start_soon(serve)
        assert [message.seq async for message in client.history(CHAT, after=5)] == [6, 7]


async def test_chats_are_listed_over_all_pages(autojump_clock: trio.testing.MockClock) -> None:
    async with connected(Network()) as (client, peer), trio.open_nursery() as nursery:

        async def serve() -> None:
            for chat_id, cursor, next_cursor in ((1, None, b"more"), (2, b"more", None)):
                asked = await peer.expect(Op.CHAT_LIST)
                assert asked.body == wire.ChatList(cursor, 200)
                entry = wire.ChatEntry(chat_id, 1, "title", 3, 9, 8)
                await peer.say(Op.OK, wire.ChatListOk([entry], next_cursor), rid=asked.rid)

        nursery.start_soon(serve)
        chats = [chat async for chat in client.chats()]
        assert chats == [parley.ChatSummary(1, 1, "title", 3, 9, 8), parley.ChatSummary(2, 1, "title", 3, 9, 8)]


async def test_a_chat_is_described_with_its_members(autojump_clock: trio.testing.MockClock) -> None:
    async with connected(Network()) as (client, peer), trio.open_nursery() as nursery:

        async def serve() -> None:
            asked = await peer.expect(Op.CHAT_INFO)
            members = [wire.MemberEntry(ME, 1, 5, 4), wire.MemberEntry(PEER, 0, 3, 0)]
            await peer.say(Op.OK, wire.ChatInfoOk(CHAT, 1, "title", 2, members, 5), rid=asked.rid)

        nursery.start_soon(serve)
        chat = await client.chat(CHAT)
        assert [(member.user_id, member.is_admin) for member in chat.members] == [(ME, True), (PEER, False)]


async def test_read_marks_are_told_together_and_again_until_confirmed(autojump_clock: trio.testing.MockClock) -> None:
    network = Network()
    async with connected(network) as (client, peer):
        client.mark_read(CHAT, 4)
        client.mark_read(CHAT, 6)
        client.mark_read(CHAT, 5)
        assert (await peer.expect(Op.READ)).body == wire.Read([Cursor(CHAT, 6)])
        await peer.hang_up()
        next_peer = await network.accept()
        await next_peer.greet(session_id=2)
        asked = await next_peer.find(Op.READ)
        assert asked.body == wire.Read([Cursor(CHAT, 6)])
        await next_peer.say(Op.OK, rid=asked.rid)
        client.mark_read(CHAT, 6)
        assert await next_peer.silence(5)


async def test_typing_is_told_every_five_seconds_at_most_and_its_end_once(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with connected(Network()) as (client, peer):
        for _ in range(60):
            client.typing(CHAT)
            await trio.sleep(0.1)
        client.typing(CHAT, False)
        client.typing(CHAT, False)
        told = [(await peer.expect(Op.TYPING)).body for _ in range(3)]
        assert told == [wire.Typing(CHAT, ME, True), wire.Typing(CHAT, ME, True), wire.Typing(CHAT, ME, False)]
        assert await peer.silence(5)


async def test_receipts_and_typing_of_others_are_events(autojump_clock: trio.testing.MockClock) -> None:
    async with connected(Network()) as (client, peer):
        await peer.say(Op.RECEIPT, wire.Receipt(CHAT, 1, 9, PEER))
        await peer.say(Op.TYPING, wire.Typing(CHAT, PEER, True))
        assert await next_of(client, parley.ReceiptChanged) == parley.ReceiptChanged(CHAT, 1, 9, PEER)
        assert await next_of(client, parley.TypingChanged) == parley.TypingChanged(CHAT, PEER, True)


async def test_an_abandoned_history_leaves_nothing_behind(autojump_clock: trio.testing.MockClock) -> None:
    async with connected(Network()) as (client, peer), trio.open_nursery() as nursery:

        async def serve() -> None:
            asked = await peer.expect(Op.HISTORY)
            await peer.say(Op.PAGE, wire.Page(CHAT, False, [msg(9, 8), msg(8, 7)]), rid=asked.rid)

        nursery.start_soon(serve)
        async for message in client.history(CHAT):
            assert message.seq == 9
            break
        assert await peer.silence(5)
