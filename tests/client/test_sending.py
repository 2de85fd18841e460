"""From ``send`` to SENT, over connections that break."""

from __future__ import annotations

import pytest
import trio
import trio.testing

import parley
from gateway.protocol import messages as wire
from gateway.protocol.messages import Op
from tests.client.scripted import CHAT, ME, MY_DEVICE, Network, connected, next_of, next_seqs


async def test_send_returns_when_the_message_is_durable(autojump_clock: trio.testing.MockClock) -> None:
    async with connected(Network()) as (client, peer), trio.open_nursery() as nursery:
        sent: list[parley.Sent] = []

        async def say() -> None:
            sent.append(await client.send(CHAT, "hello"))

        nursery.start_soon(say)
        asked = await peer.expect(Op.SEND)
        assert isinstance(asked.body, wire.Send)
        assert (asked.body.body, asked.body.retry) == (b"hello", None)
        await trio.sleep(5)
        assert sent == []
        await peer.store(asked, 11, 10)
        event = await next_of(client, parley.MessageSent)
        await trio.testing.wait_all_tasks_blocked()
        assert sent == [parley.Sent(CHAT, 11, 0, False, asked.body.client_msg_id)]
        assert (event.message.sender_id, event.message.sender_device) == (ME, MY_DEVICE)
        assert event.message.text == "hello"


async def test_an_unanswered_send_is_repeated_with_its_id_and_retry(autojump_clock: trio.testing.MockClock) -> None:
    network = Network()
    async with connected(network) as (client, peer):
        pending = client.send_nowait(CHAT, b"x")
        first = await peer.expect(Op.SEND)
        await peer.hang_up()
        second_peer = await network.accept()
        await second_peer.greet(session_id=2)
        second = await second_peer.expect(Op.SEND)
        assert isinstance(first.body, wire.Send)
        assert isinstance(second.body, wire.Send)
        assert second.body.client_msg_id == first.body.client_msg_id
        assert second.body.retry is True
        await second_peer.store(second, 11, 10, is_duplicate=True)
        sent = await pending.sent()
        assert (sent.seq, sent.is_duplicate) == (11, True)


async def test_a_lost_reply_to_send_leaves_one_message(autojump_clock: trio.testing.MockClock) -> None:
    network = Network()
    async with connected(network) as (client, peer):
        pending = client.send_nowait(CHAT, b"x")
        asked = await peer.expect(Op.SEND)
        await peer.hang_up()
        next_peer = await network.accept()
        await next_peer.expect(Op.HELLO)
        await next_peer.welcome(session_id=2)
        sync = await next_peer.find(Op.SYNC)
        # The first attempt was stored: SYNC brings it back as a message of this device.
        assert isinstance(asked.body, wire.Send)
        stored = wire.Msg(CHAT, 11, 10, ME, MY_DEVICE, 0, 0, b"x", asked.body.client_msg_id)
        await next_peer.say(Op.MSG, stored)
        await next_peer.synced(sync, (CHAT, 11))
        again = await next_peer.find(Op.SEND)
        await next_peer.store(again, 11, 10, is_duplicate=True)
        assert (await pending.sent()).seq == 11
        await next_peer.push(12, 11)
        assert await next_seqs(client, 2) == [11, 12]


async def test_messages_of_a_chat_keep_their_order_over_a_refusal(autojump_clock: trio.testing.MockClock) -> None:
    async with connected(Network()) as (client, peer):
        client.send_nowait(CHAT, b"a")
        client.send_nowait(CHAT, b"b")
        first = await peer.expect(Op.SEND)
        await peer.refuse(first, 400, retry_after_ms=30_000)
        started_at = trio.current_time()
        bodies = []
        for seq in (11, 12):
            asked = await peer.expect(Op.SEND)
            assert isinstance(asked.body, wire.Send)
            bodies.append((asked.body.body, asked.body.retry))
            await peer.store(asked, seq, seq - 1)
        assert bodies == [(b"a", True), (b"b", None)]
        assert trio.current_time() - started_at == pytest.approx(30)


async def test_the_servers_window_is_respected(autojump_clock: trio.testing.MockClock) -> None:
    async with connected(Network(), window=4) as (client, peer):
        for chat_id in range(1, 8):
            client.send_nowait(chat_id, b"x")
        asked = [await peer.expect(Op.SEND) for _ in range(3)]  # one place is left for other requests
        assert await peer.silence(5)
        await peer.store(asked[0], 1, 0)
        await peer.expect(Op.SEND)
        assert await peer.silence(5)


async def test_a_full_outbox_makes_send_wait_and_send_nowait_raise(autojump_clock: trio.testing.MockClock) -> None:
    options = parley.Options(max_outbox=1)
    async with connected(Network(), options=options) as (client, peer), trio.open_nursery() as nursery:
        client.send_nowait(CHAT, b"a")
        with pytest.raises(parley.OutboxFull):
            client.send_nowait(CHAT, b"b")
        nursery.start_soon(client.send, CHAT, b"c")
        for seq, body in ((11, b"a"), (12, b"c")):
            asked = await peer.expect(Op.SEND)
            assert isinstance(asked.body, wire.Send)
            assert asked.body.body == body
            await peer.store(asked, seq, seq - 1)


async def test_a_send_cancelled_before_it_went_out_is_taken_back(autojump_clock: trio.testing.MockClock) -> None:
    async with connected(Network()) as (client, peer):
        client.send_nowait(CHAT, b"a")
        with trio.move_on_after(1):
            await client.send(CHAT, b"b")
        client.send_nowait(CHAT, b"c")
        bodies = []
        for seq in (11, 12):
            asked = await peer.expect(Op.SEND)
            assert isinstance(asked.body, wire.Send)
            bodies.append(asked.body.body)
            await peer.store(asked, seq, seq - 1)
        assert bodies == [b"a", b"c"]


async def test_a_send_cancelled_on_the_wire_still_arrives_once(autojump_clock: trio.testing.MockClock) -> None:
    network = Network()
    async with connected(network) as (client, peer):
        with trio.move_on_after(1):
            await client.send(CHAT, b"a", client_msg_id=bytes(15) + b"1")
        await peer.expect(Op.SEND)
        await peer.hang_up()
        next_peer = await network.accept()
        await next_peer.greet(session_id=2)
        joined = client.send_nowait(CHAT, b"a", client_msg_id=bytes(15) + b"1")
        asked = await next_peer.expect(Op.SEND)
        await next_peer.store(asked, 11, 10)
        assert (await joined.sent()).seq == 11
        assert await next_peer.silence(5)


async def test_a_refused_send_raises_and_the_session_goes_on(autojump_clock: trio.testing.MockClock) -> None:
    async with connected(Network()) as (client, peer):
        pending = client.send_nowait(CHAT, b"a")
        await peer.refuse(await peer.expect(Op.SEND), 300)
        with pytest.raises(parley.Refused) as caught:
            await pending.sent()
        assert caught.value.code == 300
        client.send_nowait(CHAT, b"b")
        await peer.expect(Op.SEND)


@pytest.mark.parametrize(
    ("chat_id", "body", "kind"),
    [(0, b"", 0), (1 << 63, b"", 0), (CHAT, bytes(65_536 - 255), 0), (CHAT, b"", parley.Kind.SYSTEM)],
)
async def test_what_the_protocol_does_not_allow_is_refused_before_it_is_sent(
    chat_id: int, body: bytes, kind: int, autojump_clock: trio.testing.MockClock
) -> None:
    async with connected(Network()) as (client, peer):
        with pytest.raises(parley.Refused) as caught:
            client.send_nowait(chat_id, body, kind=kind)
        assert caught.value.code == 303
        assert await peer.silence(5)


async def test_an_id_of_the_callers_may_have_been_sent_before(autojump_clock: trio.testing.MockClock) -> None:
    async with connected(Network()) as (client, peer):
        client.send_nowait(CHAT, b"a", client_msg_id=bytes(16))
        asked = await peer.expect(Op.SEND)
        assert isinstance(asked.body, wire.Send)
        assert asked.body.retry is True


async def test_a_throttled_chat_waits_while_others_go_on(autojump_clock: trio.testing.MockClock) -> None:
    async with connected(Network()) as (client, peer):
        client.send_nowait(CHAT, b"a")
        await peer.store(await peer.expect(Op.SEND), 11, 10)
        client.send_nowait(CHAT, b"b")
        second = await peer.expect(Op.SEND)
        client.send_nowait(CHAT, b"c")
        await peer.say(Op.THROTTLE, wire.Throttle(f"chat:{CHAT}", 20_000))
        assert (await next_of(client, parley.Throttled)).retry_in_s == 20
        await peer.store(second, 12, 11)
        client.send_nowait(CHAT + 1, b"elsewhere")
        elsewhere = await peer.expect(Op.SEND)
        assert isinstance(elsewhere.body, wire.Send)
        assert elsewhere.body.chat_id == CHAT + 1
        await peer.store(elsewhere, 1, 0)
        started_at = trio.current_time()
        await peer.expect(Op.SEND)
        assert trio.current_time() - started_at == pytest.approx(20)


async def test_unsent_messages_of_an_earlier_process_go_out_as_retries(autojump_clock: trio.testing.MockClock) -> None:
    store = parley.MemoryClientStore()
    async with connected(Network(), store=store) as (client, peer):
        client.send_nowait(CHAT, b"a")
        client.send_nowait(CHAT, b"b")
        first = await peer.expect(Op.SEND)
    async with connected(Network(), store=store) as (_, peer):
        asked = await peer.expect(Op.SEND)
        assert isinstance(first.body, wire.Send)
        assert isinstance(asked.body, wire.Send)
        assert (asked.body.client_msg_id, asked.body.retry) == (first.body.client_msg_id, True)
        await peer.store(asked, 11, 10, is_duplicate=True)
        asked = await peer.expect(Op.SEND)
        assert isinstance(asked.body, wire.Send)
        assert (asked.body.body, asked.body.retry) == (b"b", True)
        await peer.store(asked, 12, 11)
        await next_of(_, parley.MessageSent)
        await next_of(_, parley.MessageSent)
    assert (await store.load()).outbox == {}
