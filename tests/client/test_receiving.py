"""What the application is shown, whatever the server, the wire and the application's own pace do to it."""

from __future__ import annotations

import pytest
import trio
import trio.testing

import parley
from gateway.protocol import messages as wire
from gateway.protocol.messages import Cursor, Op
from parley.inbox import HINT_ROOM
from tests.client.scripted import CHAT, ME, PEER, Network, Peer, connected, next_of, next_seqs


def history_of(asked: object) -> tuple[int | None, int | None]:
    assert isinstance(asked, wire.History)
    return asked.after_seq, asked.before_seq


async def test_a_hole_is_closed_by_history_before_later_messages_are_shown(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with connected(Network()) as (client, peer):
        await peer.push(11, 10)
        await peer.push(14, 13)
        asked = await peer.expect(Op.HISTORY)
        assert history_of(asked.body) == (11, 14)
        await peer.push(15, 14)
        await peer.page(asked, 12, is_complete=False)
        asked = await peer.expect(Op.HISTORY)
        assert history_of(asked.body) == (12, 14)
        await peer.page(asked, 13)
        assert await next_seqs(client, 5) == [11, 12, 13, 14, 15]


async def test_a_hole_in_one_chat_does_not_hold_up_another(autojump_clock: trio.testing.MockClock) -> None:
    async with connected(Network()) as (client, peer):
        await peer.push(11, 10)
        await peer.push(14, 13)
        await peer.push(5, 4, chat_id=CHAT + 1)
        assert await next_seqs(client, 2) == [11, 5]


async def test_a_message_that_comes_twice_is_shown_once(autojump_clock: trio.testing.MockClock) -> None:
    async with connected(Network()) as (client, peer):
        for seq in (11, 11, 12, 11, 12, 13):
            await peer.push(seq, seq - 1)
        assert await next_seqs(client, 3) == [11, 12, 13]


async def test_a_hole_in_a_chat_that_is_no_longer_visible_is_closed(autojump_clock: trio.testing.MockClock) -> None:
    async with connected(Network()) as (client, peer):
        await peer.push(11, 10)
        await peer.push(14, 13)
        await peer.refuse(await peer.expect(Op.HISTORY), 301)
        assert await next_seqs(client, 2) == [11, 14]


async def test_a_repair_heeds_the_servers_wish_for_patience(autojump_clock: trio.testing.MockClock) -> None:
    async with connected(Network()) as (client, peer):
        await peer.push(11, 10)
        await peer.push(13, 12)
        await peer.refuse(await peer.expect(Op.HISTORY), 400, retry_after_ms=20_000)
        started_at = trio.current_time()
        await peer.page(await peer.expect(Op.HISTORY), 12)
        assert trio.current_time() - started_at == pytest.approx(20)
        assert await next_seqs(client, 3) == [11, 12, 13]


async def test_ones_own_message_is_a_link_of_the_chain(autojump_clock: trio.testing.MockClock) -> None:
    async with connected(Network()) as (client, peer):
        await peer.push(11, 10)
        client.send_nowait(CHAT, b"mine")
        asked = await peer.expect(Op.SEND)
        await peer.store(asked, 13, 12)
        history = await peer.expect(Op.HISTORY)
        assert history_of(history.body) == (11, 13)
        await peer.page(history, 12)
        await peer.push(14, 13)
        assert await next_seqs(client, 4) == [11, 12, 13, 14]


async def test_a_system_message_by_oneself_is_received(autojump_clock: trio.testing.MockClock) -> None:
    async with connected(Network()) as (client, peer):
        body = b"\x94\x06\x03\x90\xa4name"
        await peer.say(Op.MSG, wire.Msg(CHAT, 1, 0, ME, 0, 0, parley.Kind.SYSTEM, body, bytes(16)))
        event = await next_of(client, parley.MessageReceived)
        assert event.message.system_change == parley.SystemChange(parley.Event.TITLE, 3, (), "name")


# Catching up


async def test_lagged_leads_to_sync_with_the_handled_cursors(autojump_clock: trio.testing.MockClock) -> None:
    async with connected(Network()) as (client, peer):
        await peer.push(11, 10)
        await peer.push(12, 11)
        assert await next_seqs(client, 2) == [11, 12]  # asking for 12 has acknowledged 11
        await peer.say(Op.LAGGED)
        asked = await peer.find(Op.SYNC)
        assert asked.body == wire.Sync([Cursor(CHAT, 11)], True)
        for seq in (12, 13, 14):
            await peer.push(seq, seq - 1)
        await peer.synced(asked, (CHAT, 14))
        assert await next_seqs(client, 2) == [13, 14]


async def test_lagged_during_a_sync_leads_to_another_one_after_it(autojump_clock: trio.testing.MockClock) -> None:
    async with connected(Network()) as (_, peer):
        await peer.say(Op.LAGGED)
        first = await peer.find(Op.SYNC)
        await peer.say(Op.LAGGED)
        assert await peer.silence(5)
        await peer.synced(first)
        await peer.sync()


async def test_a_new_client_asks_for_the_servers_record(autojump_clock: trio.testing.MockClock) -> None:
    network = Network()
    async with trio.open_nursery() as nursery:

        async def serve() -> None:
            peer = await network.accept()
            await peer.expect(Op.HELLO)
            await peer.welcome()
            assert await peer.sync() == wire.Sync(None)

        nursery.start_soon(serve)
        async with parley.connect("node", 7800, "token", open_stream=network.open_stream) as client:
            await next_of(client, parley.Synced)


async def test_live_messages_that_come_before_those_of_the_sync_are_shown_after_them(
    autojump_clock: trio.testing.MockClock,
) -> None:
    network = Network()
    async with connected(network) as (client, peer):
        await peer.hang_up()
        next_peer = await network.accept()
        await next_peer.expect(Op.HELLO)
        await next_peer.welcome(session_id=2)
        await next_peer.push(14, 13)
        sync = await next_peer.find(Op.SYNC)
        for seq in (12, 13, 14):
            await next_peer.push(seq, seq - 1)
        await next_peer.synced(sync, (CHAT, 14))
        assert await next_seqs(client, 3) == [12, 13, 14]


async def sync_with_a_gap(network: Network) -> Peer:
    """The session after an absence: chat has 11 to 20, of which 19 and 20 are sent after a GAP."""
    peer = await network.accept()
    await peer.expect(Op.HELLO)
    await peer.welcome(session_id=2)
    sync = await peer.find(Op.SYNC)
    await peer.say(Op.GAP, wire.Gap(CHAT, 10, 19))
    await peer.push(19, 18)
    await peer.push(20, 19)
    await peer.synced(sync, (CHAT, 20))
    return peer


async def test_a_gap_is_filled_before_what_follows_it(autojump_clock: trio.testing.MockClock) -> None:
    network = Network()
    async with connected(network) as (client, peer):
        await peer.push(10, 9)
        assert await next_seqs(client, 1) == [10]
        await peer.hang_up()
        next_peer = await sync_with_a_gap(network)
        asked = await next_peer.find(Op.HISTORY)
        assert history_of(asked.body) == (10, 19)
        await next_peer.page(asked, *range(11, 19))
        assert await next_seqs(client, 10) == list(range(11, 21))


async def test_a_gap_can_be_skipped_and_is_told(autojump_clock: trio.testing.MockClock) -> None:
    network = Network()
    async with connected(network, options=parley.Options(fill_gaps=False)) as (client, peer):
        await peer.push(10, 9)
        assert await next_seqs(client, 1) == [10]
        await peer.hang_up()
        next_peer = await sync_with_a_gap(network)
        assert await next_of(client, parley.GapSkipped) == parley.GapSkipped(CHAT, 10, 19)
        assert await next_seqs(client, 2) == [19, 20]
        ack = await next_peer.find(Op.ACK)
        assert ack.body == wire.Ack([Cursor(CHAT, 19)])


async def test_a_head_that_was_not_sent_is_read_from_the_log(autojump_clock: trio.testing.MockClock) -> None:
    async with connected(Network()) as (client, peer):
        await peer.push(10, 9)
        assert await next_seqs(client, 1) == [10]
        await peer.say(Op.LAGGED)
        await peer.sync((CHAT, 12))
        asked = await peer.find(Op.HISTORY)
        assert history_of(asked.body) == (10, None)
        await peer.page(asked, 11, 12)
        assert await next_seqs(client, 2) == [11, 12]


async def test_a_chat_that_is_gone_is_forgotten(autojump_clock: trio.testing.MockClock) -> None:
    store = parley.MemoryClientStore()
    async with connected(Network(), store=store) as (client, peer):
        await peer.push(10, 9)
        await peer.push(5, 4, chat_id=CHAT + 1)
        assert await next_seqs(client, 2) == [10, 5]
        await peer.say(Op.LAGGED)
        await peer.sync(gone=[CHAT])
        assert (await next_of(client, parley.Synced)).gone == (CHAT,)
    assert (await store.load()).cursors == {CHAT + 1: 5}


async def test_a_slow_application_loses_nothing_and_its_own_requests_are_answered(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with connected(Network(), options=parley.Options(max_events=4)) as (client, peer):
        for seq in range(11, 21):
            await peer.push(seq, seq - 1)
        pending = client.send_nowait(CHAT + 1, b"x")
        await peer.store(await peer.expect(Op.SEND), 1, 0)
        assert (await pending.sent()).seq == 1
        shown: list[int] = []

        async def read() -> None:
            while len(shown) < 10:
                event = await client.next_event()
                if isinstance(event, parley.MessageReceived):
                    shown.append(event.message.seq)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            while len(shown) < 10:
                with trio.move_on_after(5):
                    asked = await peer.find(Op.HISTORY)
                    assert isinstance(asked.body, wire.History)
                    if asked.body.chat_id == CHAT:
                        assert asked.body.after_seq is not None
                        await peer.page(asked, *range(asked.body.after_seq + 1, 21))
                    else:
                        await peer.page(asked)
        assert shown == list(range(11, 21))


async def test_hints_that_do_not_fit_are_dropped_and_counted(autojump_clock: trio.testing.MockClock) -> None:
    async with connected(Network(), options=parley.Options(max_events=4)) as (client, peer):
        for _ in range(4 + HINT_ROOM + 3):
            await peer.say(Op.TYPING, wire.Typing(CHAT, PEER, True))
        await trio.testing.wait_all_tasks_blocked()
        assert client.statistics() == parley.Statistics(4 + HINT_ROOM, 0, 3)


async def test_a_chat_that_is_new_to_a_full_client_is_read_from_where_it_began(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with connected(Network(), options=parley.Options(max_events=1)) as (client, peer):
        await peer.push(11, 10)
        await peer.push(6, 5, chat_id=CHAT + 1)
        await trio.testing.wait_all_tasks_blocked()
        assert await next_seqs(client, 1) == [11]
        asked = await peer.find(Op.HISTORY)
        assert asked.body == wire.History(CHAT + 1, None, 5, 200)
        await peer.page(asked, 6)
        assert await next_seqs(client, 1) == [6]


# Acknowledging


async def test_messages_are_acknowledged_together_after_they_were_handled(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = parley.MemoryClientStore()
    async with connected(Network(), store=store) as (client, peer):
        for seq in (11, 12, 13):
            await peer.push(seq, seq - 1)
        assert await next_seqs(client, 3) == [11, 12, 13]
        ack = await peer.expect(Op.ACK)
        assert (ack.rid, ack.body) == (0, wire.Ack([Cursor(CHAT, 12)]))  # 13 is still being handled
        assert (await store.load()).cursors == {CHAT: 12}
        assert await peer.silence(5)


async def test_leaving_without_an_error_acknowledges_the_last_event(autojump_clock: trio.testing.MockClock) -> None:
    store = parley.MemoryClientStore()
    async with connected(Network(), store=store) as (client, peer):
        await peer.push(11, 10)
        await next_seqs(client, 1)
    assert (await peer.find(Op.ACK)).body == wire.Ack([Cursor(CHAT, 11)])
    close = await peer.expect(Op.CLOSE)
    assert isinstance(close.body, wire.Close)
    assert close.body.code == 0
    assert (await store.load()).cursors == {CHAT: 11}


async def fail_at_a_message(network: Network, store: parley.ClientStore) -> None:
    async with parley.connect("node", 7800, "token", store=store, open_stream=network.open_stream) as client:
        await next_of(client, parley.MessageReceived)
        raise ZeroDivisionError


async def read_on(network: Network, store: parley.ClientStore) -> None:
    async with parley.connect("node", 7800, "token", store=store, open_stream=network.open_stream) as client:
        async for _ in client.events():
            pass


async def test_leaving_with_an_error_does_not_acknowledge_what_failed(autojump_clock: trio.testing.MockClock) -> None:
    store = parley.MemoryClientStore()
    network = Network()

    async def serve() -> None:
        peer = await network.accept()
        await peer.greet()
        await peer.push(11, 10)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        with pytest.raises(ZeroDivisionError):
            await fail_at_a_message(network, store)
    assert (await store.load()).cursors is None


async def test_a_store_that_fails_ends_the_client_before_anything_is_acknowledged(
    autojump_clock: trio.testing.MockClock,
) -> None:
    class FullDisk(parley.MemoryClientStore):
        async def save(self, changes: parley.Changes) -> None:
            if changes.cursors:
                raise OSError("no space left")
            await super().save(changes)

    network = Network()
    peers: list[Peer] = []

    async def serve() -> None:
        peer = await network.accept()
        peers.append(peer)
        await peer.greet()
        await peer.push(11, 10)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        with pytest.raises(OSError, match="no space left"):
            await read_on(network, FullDisk())
    while (asked := await peers[0].receive()) is not None:
        assert asked.op is not Op.ACK


async def test_one_task_at_a_time_waits_for_events(autojump_clock: trio.testing.MockClock) -> None:
    async with connected(Network()) as (client, _), trio.open_nursery() as nursery:
        nursery.start_soon(client.next_event)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError):
            await client.next_event()
        nursery.cancel_scope.cancel()


async def test_a_cancelled_wait_loses_no_event(autojump_clock: trio.testing.MockClock) -> None:
    async with connected(Network()) as (client, peer):
        with trio.move_on_after(1):
            await client.next_event()
        await peer.push(11, 10)
        await trio.testing.wait_all_tasks_blocked()
        with trio.CancelScope() as scope:
            scope.cancel()
            await client.next_event()
        assert await next_seqs(client, 1) == [11]
