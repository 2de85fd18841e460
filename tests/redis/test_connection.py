"""The connection: time-outs, cuts, callers that give up, servers that are not fit."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from storage.redis.connection import Connection, Greeting
from storage.redis.errors import ErrorReply, RedisUnavailable
from storage.redis.pipeline import pack
from storage.redis.settings import RedisSettings
from tests.redis.certificates import make_certificate
from tests.redis.conftest import Connect, until
from tests.redis.fake import CUT, FakeRedis, bulk, greet
from tests.servers.addresses import free_port
from tests.servers.redis import RedisServer


def echo(text: bytes) -> bytes:
    return pack(b"ECHO", text)


def answering(first: bytes, answer: bytes | None) -> Callable[[list[bytes]], bytes | None]:
    """As ``greet``, but for commands that begin with ``first``."""
    return lambda command: answer if command[0] == first else greet(command)


async def test_commands_are_answered_by_a_real_server(connect: Connect, settings: RedisSettings) -> None:
    connection = await connect(settings)
    assert await connection.call(echo(b"hello")) == b"hello"


async def test_nobody_gets_anothers_reply_whoever_gives_up(connect: Connect, settings: RedisSettings) -> None:
    connection = await connect(settings)
    chance = random.Random(7)
    answered = 0

    async def ask(name: int) -> None:
        nonlocal answered
        for turn in range(20):
            text = b"%d.%d" % (name, turn)
            with trio.CancelScope() as scope:
                if chance.random() < 0.5:
                    scope.deadline = trio.current_time() + chance.random() * 0.002
                assert await connection.call(echo(text)) == text
                answered += 1

    async with trio.open_nursery() as nursery:
        for name in range(50):
            nursery.start_soon(ask, name)
    assert answered > 400
    assert await connection.call(echo(b"last")) == b"last"
    assert connection.lives == 1


async def test_nobody_gets_anothers_reply_over_lost_connections(
    connect: Connect, settings: RedisSettings, redis_server: RedisServer
) -> None:
    connection = await connect(settings)
    is_over = False

    async def ask(name: int) -> None:
        turn = 0
        while not is_over:
            turn += 1
            text = b"%d.%d" % (name, turn)
            try:
                assert await connection.call(echo(text)) == text
            except RedisUnavailable:
                await trio.sleep(0.001)

    async with trio.open_nursery() as nursery:
        for name in range(20):
            nursery.start_soon(ask, name)
        for lives in range(2, 6):
            await trio.to_thread.run_sync(redis_server.drop_clients)
            await until(lambda lives=lives: connection.lives >= lives and connection.is_up)  # type: ignore[misc]
        is_over = True


async def test_a_connection_cut_in_the_middle_of_a_reply_ends_those_who_wait_and_is_opened_again(
    connect: Connect, fake: FakeRedis
) -> None:
    connection = await connect(fake.settings)
    fake.answer = answering(b"ECHO", b"$5\r\nfi" + CUT)
    with pytest.raises(RedisUnavailable):
        await connection.call(echo(b"first"))
    fake.answer = greet
    await until(lambda: connection.is_up)
    assert await connection.call(echo(b"second")) == b"second"
    assert fake.connections == connection.lives == 2


async def test_a_command_that_is_not_answered_in_time_ends_the_connection_and_all_who_wait(
    connect: Connect, fake: FakeRedis
) -> None:
    connection = await connect(fake.settings._replace(command_timeout_s=0.1))
    fake.answer = answering(b"ECHO", None)
    failures = 0

    async def ask() -> None:
        nonlocal failures
        with pytest.raises(RedisUnavailable):
            await connection.call(echo(b"x"))
        failures += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        nursery.start_soon(ask)
    assert failures == 2
    assert connection.statistics().timeouts == 1
    await until(lambda: connection.is_up)


async def test_without_a_connection_asking_fails_at_once(connect: Connect, fake: FakeRedis) -> None:
    connection = await connect(fake.settings)
    fake.answer = lambda command: CUT
    with pytest.raises(RedisUnavailable):
        await connection.call(echo(b"x"))
    with pytest.raises(RedisUnavailable):
        connection.submit(echo(b"x"), lambda reply: None)
    assert connection.statistics().refused == 1


@pytest.mark.parametrize("said", [b"-LOADING Redis is loading\r\n", b"-READONLY no\r\n", b"-MASTERDOWN x\r\n"])
async def test_a_server_that_says_it_is_not_fit_is_left_and_tried_again(
    connect: Connect, fake: FakeRedis, said: bytes
) -> None:
    connection = await connect(fake.settings)
    fake.answer = answering(b"ECHO", said)
    with pytest.raises(ErrorReply):
        await connection.call(echo(b"x"))
    fake.answer = answering(b"PING", said)  # and still so on the next attempts
    connections = fake.connections
    await until(lambda: fake.connections >= connections + 2)
    assert not connection.is_up
    fake.answer = greet
    await until(lambda: connection.is_up)
    assert await connection.call(echo(b"x")) == b"x"


async def test_other_errors_are_their_callers_alone(connect: Connect, fake: FakeRedis) -> None:
    connection = await connect(fake.settings)
    fake.answer = answering(b"ECHO", b"-OOM full\r\n")
    with pytest.raises(ErrorReply) as caught:
        await connection.call(echo(b"x"))
    assert caught.value.code == "OOM"
    assert (connection.is_up, connection.lives) == (True, 1)


async def test_after_moved_the_named_server_is_asked(connect: Connect, fake: FakeRedis, nursery: trio.Nursery) -> None:
    other = FakeRedis()
    await other.start(nursery)
    connection = await connect(fake.settings)
    fake.answer = answering(b"ECHO", b"-MOVED 1 127.0.0.1:%d\r\n" % other.port)
    with pytest.raises(ErrorReply):
        await connection.call(echo(b"x"))
    await until(lambda: connection.is_up)
    assert await connection.call(echo(b"there")) == b"there"
    assert [b"ECHO", b"there"] in other.heard


async def test_when_the_server_named_by_moved_is_gone_the_configured_one_is_asked(
    connect: Connect, fake: FakeRedis
) -> None:
    connection = await connect(fake.settings)
    fake.answer = answering(b"ECHO", b"-MOVED 1 127.0.0.1:%d\r\n" % free_port())
    with pytest.raises(ErrorReply):
        await connection.call(echo(b"x"))
    fake.answer = greet
    await until(lambda: connection.is_up)
    assert await connection.call(echo(b"back")) == b"back"


async def test_garbage_ends_the_connection(connect: Connect, fake: FakeRedis) -> None:
    connection = await connect(fake.settings)
    fake.answer = answering(b"ECHO", b"HTTP/1.1 400 Bad Request\r\n\r\n")
    with pytest.raises(RedisUnavailable):
        await connection.call(echo(b"x"))
    fake.answer = greet
    await until(lambda: connection.is_up)


async def test_a_refused_subscription_is_not_taken_for_a_reply(fake: FakeRedis, nursery: trio.Nursery) -> None:
    fake.answer = answering(b"SUBSCRIBE", b"-NOPERM no channels\r\n")
    connection = Connection(fake.settings)
    connection.events.greeting = lambda: Greeting((), (b"news",))
    await nursery.start(connection.run)
    await until(lambda: fake.connections >= 2)
    assert connection.lives == 0


async def test_pushes_around_a_reply_go_to_the_listener(fake: FakeRedis, nursery: trio.Nursery) -> None:
    connection = Connection(fake.settings)
    push = b">2\r\n+message\r\n" + bulk(b"news")
    fake.answer = answering(b"ECHO", push + bulk(b"x") + push)
    pushes: list[Any] = []
    connection.events.on_push = pushes.append
    await nursery.start(connection.run)
    await until(lambda: connection.is_up)
    assert await connection.call(echo(b"x")) == b"x"
    await until(lambda: len(pushes) == 2)


async def test_what_waits_is_bounded(connect: Connect, fake: FakeRedis) -> None:
    connection = await connect(fake.settings._replace(max_waiting_commands=3))
    fake.answer = answering(b"ECHO", None)
    for _ in range(3):
        connection.submit(echo(b"x"), lambda reply: None)
    with pytest.raises(RedisUnavailable, match="too much"):
        connection.submit(echo(b"x"), lambda reply: None)


async def test_bytes_that_a_server_does_not_take_are_bounded(connect: Connect, fake: FakeRedis) -> None:
    connection = await connect(fake.settings._replace(max_unsent_bytes=1000))
    connection.submit(echo(bytes(2000)), lambda reply: None)
    with pytest.raises(RedisUnavailable, match="too much"):
        connection.submit(echo(b"x"), lambda reply: None)


async def test_a_password_is_said(connect: Connect, make_redis: Callable[..., RedisServer], tmp_path: Path) -> None:
    socket = tmp_path / "redis.sock"
    server = make_redis(unixsocket=str(socket))
    server.command("ACL", "SETUSER", "parley", "on", ">secret", "+@all", "~*", "&*")
    server.command("ACL", "SETUSER", "default", "off")
    known = RedisSettings(port=server.port, username="parley", password="secret")
    connection = await connect(known)
    assert await connection.call(pack(b"ACL", b"WHOAMI")) == b"parley"
    over_unix = await connect(known._replace(unix_path=str(socket), port=1, database=3))
    assert b"db=3" in bytes(await over_unix.call(pack(b"CLIENT", b"INFO")))


async def test_tls_with_both_certificates(
    connect: Connect, make_redis: Callable[..., RedisServer], tmp_path: Path
) -> None:
    certificate, key = make_certificate(tmp_path)
    port = free_port()
    make_redis(tls_port=str(port), tls_cert_file=certificate, tls_key_file=key, tls_ca_cert_file=certificate)
    ours = {"tls_ca_path": certificate, "tls_certificate_path": certificate, "tls_key_path": key}
    connection = await connect(RedisSettings(port=port, is_tls=True, **ours))  # type: ignore[arg-type]
    assert await connection.call(echo(b"hidden")) == b"hidden"


async def test_a_certificate_of_nobody_known_is_not_accepted(
    make_redis: Callable[..., RedisServer], tmp_path: Path, nursery: trio.Nursery
) -> None:
    certificate, key = make_certificate(tmp_path)
    port = free_port()
    make_redis(tls_port=str(port), tls_cert_file=certificate, tls_key_file=key, tls_ca_cert_file=certificate)
    reasons: list[str] = []
    connection = Connection(RedisSettings(port=port, is_tls=True))
    connection.events.on_failed = reasons.append
    await nursery.start(connection.run)
    await until(lambda: len(reasons) >= 1)
    assert "certificate" in reasons[0].lower()
    assert connection.lives == 0
    nursery.cancel_scope.cancel()
