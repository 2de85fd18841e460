"""Sessions: how they begin, how they end, and what the client does then."""

from __future__ import annotations

import pytest
import trio
import trio.testing

import parley
from gateway.protocol import messages as wire
from gateway.protocol.messages import Op
from tests.client.scripted import CHAT, ME, MY_DEVICE, RESUME_TOKEN, Network, connected, next_of


async def test_the_client_knows_who_it_is(autojump_clock: trio.testing.MockClock) -> None:
    async with connected(Network()) as (client, _):
        assert (client.user_id, client.device_id, client.session_id) == (ME, MY_DEVICE, 1)
        assert client.is_connected


async def test_nobody_answering_is_one_clear_error(autojump_clock: trio.testing.MockClock) -> None:
    network = Network()
    network.is_down = True
    with pytest.raises(parley.CannotConnect, match="node:7800"):
        async with parley.connect("node", 7800, "token", open_stream=network.open_stream):
            pass


async def test_a_server_that_never_answers_hello_is_one_clear_error(autojump_clock: trio.testing.MockClock) -> None:
    with pytest.raises(parley.CannotConnect, match="no answer to HELLO"):
        async with parley.connect("node", 7800, "token", open_stream=Network().open_stream):
            pass


async def test_a_patient_client_tries_until_somebody_answers(autojump_clock: trio.testing.MockClock) -> None:
    network = Network()
    network.is_down = True

    async def come_up() -> None:
        await trio.sleep(100)
        network.is_down = False
        await (await network.accept()).greet()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(come_up)
        options = parley.Options(patient=True)
        async with parley.connect("node", 7800, "token", options=options, open_stream=network.open_stream) as client:
            await next_of(client, parley.Synced)
    assert len(network.dialled) > 1


async def test_credentials_that_are_not_taken_are_refused_at_once(autojump_clock: trio.testing.MockClock) -> None:
    network = Network()

    async def refuse() -> None:
        peer = await network.accept()
        await peer.refuse(await peer.expect(Op.HELLO), 200)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(refuse)
        with pytest.raises(parley.Refused) as caught:
            async with parley.connect("node", 7800, "token", open_stream=network.open_stream):
                pass
        assert caught.value.code == 200


async def test_a_lost_connection_is_resumed_with_the_token_of_the_last_welcome(
    autojump_clock: trio.testing.MockClock,
) -> None:
    network = Network()
    async with connected(network) as (client, peer):
        await peer.hang_up()
        next_peer = await network.accept()
        hello = await next_peer.greet(session_id=2)
        assert isinstance(hello.body, wire.Hello)
        assert (hello.body.auth_kind, hello.body.credential) == ("resume", RESUME_TOKEN)
        assert (await next_of(client, parley.Connected)).session_id == 2


async def test_204_falls_back_to_the_jwt_on_the_same_connection(autojump_clock: trio.testing.MockClock) -> None:
    network = Network()
    async with connected(network) as (client, peer):
        await peer.hang_up()
        next_peer = await network.accept()
        await next_peer.refuse(await next_peer.expect(Op.HELLO), 204)
        hello = await next_peer.greet(session_id=2)
        assert isinstance(hello.body, wire.Hello)
        assert (hello.body.auth_kind, hello.body.credential) == ("jwt", "token")
        assert (await next_of(client, parley.Connected)).session_id == 2
    assert len(network.dialled) == 2


async def test_failures_back_off_within_the_ceiling(autojump_clock: trio.testing.MockClock) -> None:
    network = Network()
    async with connected(network) as (client, peer):
        network.is_down = True
        await peer.hang_up()
        for failures in range(1, 14):
            lost = await next_of(client, parley.Disconnected)
            assert 0 <= lost.retry_in_s <= min(300, 2**failures)


async def test_a_close_with_a_delay_is_heeded(autojump_clock: trio.testing.MockClock) -> None:
    network = Network()
    async with connected(network) as (client, peer):
        await peer.say(Op.CLOSE, wire.Close(501, "later", 50_000))
        closed_at = trio.current_time()
        lost = await next_of(client, parley.Disconnected)
        assert (lost.code, lost.reason) == (501, "later")
        await network.accept()
        assert 50 <= trio.current_time() - closed_at <= 52


async def test_goaway_moves_at_the_moment_that_the_server_gave_to_the_address_that_it_named(
    autojump_clock: trio.testing.MockClock,
) -> None:
    network = Network()
    async with connected(network) as (client, peer):
        await peer.say(Op.GOAWAY, wire.Goaway("drain", 30_000, 30_000, ["elsewhere:7801"]))
        told_at = trio.current_time()
        assert (await next_of(client, parley.GoingAway)).moves_in_s == 30
        client.send_nowait(CHAT, b"still served")
        await peer.store(await peer.expect(Op.SEND), 1, 0)
        assert (await peer.expect(Op.CLOSE)).body == wire.Close(0, "moving, as the server asked")
        await (await network.accept()).greet(session_id=2)
        dialled_at, host, port = network.dialled[-1]
        assert (host, port) == ("elsewhere", 7801)
        assert dialled_at == pytest.approx(told_at + 30)


async def test_a_server_that_goes_before_its_goaway_is_due_is_not_missed_earlier(
    autojump_clock: trio.testing.MockClock,
) -> None:
    network = Network()
    async with connected(network) as (client, peer):
        await peer.say(Op.GOAWAY, wire.Goaway("drain", 30_000, 30_000, []))
        told_at = trio.current_time()
        await next_of(client, parley.GoingAway)
        await peer.hang_up()
        await network.accept()
        assert trio.current_time() - told_at == pytest.approx(30)


@pytest.mark.parametrize("code", [203, 104])
async def test_a_replaced_or_outdated_client_stays_away_until_it_is_told(
    code: int, autojump_clock: trio.testing.MockClock
) -> None:
    network = Network()
    async with connected(network) as (client, peer):
        await peer.say(Op.ERROR, wire.Error(code, "no more"))
        assert await next_of(client, parley.StayedAway) == parley.StayedAway(code, "no more")
        with pytest.raises(parley.NotConnected):
            await client.chat(CHAT)
        await trio.sleep(10_000)
        assert len(network.dialled) == 1
        client.reconnect()
        await (await network.accept()).greet(session_id=2)
        assert (await next_of(client, parley.Connected)).session_id == 2


async def test_two_faults_of_ours_running_keep_the_client_away(autojump_clock: trio.testing.MockClock) -> None:
    network = Network()
    async with connected(network) as (client, peer):
        await peer.say(Op.ERROR, wire.Error(100, "malformed"))
        await next_of(client, parley.Disconnected)
        next_peer = await network.accept()
        await next_peer.greet(session_id=2)
        await next_peer.say(Op.ERROR, wire.Error(100, "malformed"))
        assert (await next_of(client, parley.StayedAway)).code == 100


async def test_a_revoked_device_signs_out(autojump_clock: trio.testing.MockClock) -> None:
    store = parley.MemoryClientStore()
    options = parley.Options(max_outbox=1)
    async with connected(Network(), store=store, options=options) as (client, peer):
        pending = client.send_nowait(CHAT, b"x")
        with trio.move_on_after(1):
            await client.send(CHAT, b"no room")
        await peer.say(Op.ERROR, wire.Error(202, "revoked"))
        events = [event async for event in client.events()]
        assert events[-1] == parley.SignedOut(202, "revoked")
        with pytest.raises(parley.NotConnected):
            await pending.sent()
        with pytest.raises(parley.NotConnected):
            await client.send(CHAT, b"y")
        with pytest.raises(parley.NotConnected):
            await client.chat(CHAT)
    assert (await store.load()).resume_token is None


async def test_an_expired_session_goes_on_with_a_new_token(autojump_clock: trio.testing.MockClock) -> None:
    network = Network()
    tokens = iter(["first", "second"])

    async def source() -> str:
        return next(tokens)

    async with connected(network, token=source) as (client, peer):
        await trio.sleep(100)
        await peer.say(Op.ERROR, wire.Error(201, "expired"))
        lost = await next_of(client, parley.Disconnected)
        assert lost.retry_in_s == 0
        hello = await (await network.accept()).greet(session_id=2)
        assert isinstance(hello.body, wire.Hello)
        assert (hello.body.auth_kind, hello.body.credential) == ("jwt", "second")


async def test_an_expired_session_without_a_source_of_tokens_signs_out(autojump_clock: trio.testing.MockClock) -> None:
    async with connected(Network()) as (client, peer):
        await peer.say(Op.ERROR, wire.Error(201, "expired"))
        assert [event async for event in client.events()][-1] == parley.SignedOut(201, "expired")


async def test_a_token_is_renewed_before_it_expires(autojump_clock: trio.testing.MockClock) -> None:
    tokens = iter(["first", "second"])

    async def source() -> str:
        return next(tokens)

    async with connected(Network(), token=source, ttl_s=600) as (_, peer):
        started_at = trio.current_time()
        asked = await peer.expect(Op.REAUTH)
        assert asked.body == wire.Reauth("jwt", "second")
        assert trio.current_time() - started_at == pytest.approx(540)


async def test_a_source_without_a_token_for_now_is_asked_again(autojump_clock: trio.testing.MockClock) -> None:
    network = Network()
    calls: list[float] = []

    async def source() -> str:
        calls.append(trio.current_time())
        if len(calls) == 2:
            raise parley.TokenUnavailable("the identity service sleeps")
        return f"token {len(calls)}"

    async with connected(network, token=source) as (client, peer):
        await trio.sleep(100)
        await peer.say(Op.ERROR, wire.Error(201, "expired"))
        await network.accept()
        while (await next_of(client, parley.Disconnected)).reason != "no token: the identity service sleeps":
            pass
        hello = await (await network.accept()).greet(session_id=2)
        assert isinstance(hello.body, wire.Hello)
        assert hello.body.credential == "token 3"


async def test_a_quiet_session_is_kept_alive(autojump_clock: trio.testing.MockClock) -> None:
    async with connected(Network(), keepalive_s=100) as (client, peer):
        started_at = trio.current_time()
        for _ in range(3):
            asked = await peer.receive()
            assert asked is not None
            assert asked.op is Op.PING
            await peer.say(Op.PONG, rid=asked.rid)
        assert 250 <= trio.current_time() - started_at <= 300
        assert client.is_connected


async def test_a_dead_connection_is_found_and_replaced(autojump_clock: trio.testing.MockClock) -> None:
    network = Network()
    async with connected(network, keepalive_s=100) as (client, _):
        lost = await next_of(client, parley.Disconnected)
        assert lost == parley.Disconnected(None, "the server has been silent for 10 s", lost.retry_in_s)
        await (await network.accept()).greet(session_id=2)


async def test_a_connection_that_owes_a_reply_is_probed_soon(autojump_clock: trio.testing.MockClock) -> None:
    async with connected(Network()) as (client, peer):
        client.send_nowait(CHAT, b"x")
        await peer.receive()
        started_at = trio.current_time()
        await next_of(client, parley.Disconnected)
        assert trio.current_time() - started_at <= 30


async def test_a_request_that_is_never_answered_ends_the_session(autojump_clock: trio.testing.MockClock) -> None:
    async with connected(Network()) as (client, peer), trio.open_nursery() as nursery:
        client.send_nowait(CHAT, b"x")

        async def answer_pings_alone() -> None:
            while (asked := await peer.receive()) is not None:
                if asked.op is Op.PING:
                    await peer.say(Op.PONG, rid=asked.rid)

        nursery.start_soon(answer_pings_alone)
        assert (await next_of(client, parley.Disconnected)).reason == "a request was not answered in time"


async def test_a_ping_of_the_server_is_answered_with_its_rid(autojump_clock: trio.testing.MockClock) -> None:
    async with connected(Network()) as (_, peer):
        await peer.say(Op.PING, rid=5)
        assert (await peer.expect(Op.PONG)).rid == 5


async def test_a_server_that_breaks_the_protocol_is_left_and_tried_again(
    autojump_clock: trio.testing.MockClock,
) -> None:
    network = Network()
    async with connected(network) as (client, peer):
        await peer.say(Op.MSG, wire.ChatOpenOk(1))
        assert "broke the protocol" in (await next_of(client, parley.Disconnected)).reason
        await (await network.accept()).greet(session_id=2)
        assert (await next_of(client, parley.Connected)).session_id == 2


async def test_an_inactive_client_says_so_on_every_session(autojump_clock: trio.testing.MockClock) -> None:
    network = Network()
    async with connected(network) as (client, peer), trio.open_nursery() as nursery:
        nursery.start_soon(client.set_active, False)
        asked = await peer.expect(Op.STATE)
        assert asked.body == wire.State(False)
        await peer.say(Op.OK, wire.StateOk(1800), rid=asked.rid)
        await peer.hang_up()
        next_peer = await network.accept()
        await next_peer.greet(session_id=2)
        assert (await next_peer.find(Op.STATE)).body == wire.State(False)
