"""How sessions end, what they are refused, and what a draining node says."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from itertools import count

import jwt
import pytest

from gateway.protocol.errors import Code
from gateway.protocol.frames import decode, encode
from gateway.protocol.messages import (
    Close,
    Error,
    Goaway,
    Kind,
    Msg,
    Op,
    Reauth,
    State,
    Throttle,
    Typing,
)
from tests.node.wire import Wire, code_of, hello, message, refusal_of
from tests.nodes import NodeProcess

Login = Callable[..., Wire]
Connect = Callable[..., Wire]
NewUser = Callable[[], int]
MakeNode = Callable[..., NodeProcess]

FORGED = jwt.encode({"sub": "1", "dev": 1, "exp": 4_000_000_000}, "x" * 32, algorithm="HS256", headers={"kid": "local"})
RATES = """
[limits]
device_sends = { per_s = 1.0, burst = 3 }
device_requests = { per_s = 1.0, burst = 3 }
"""


# ---------------------------------------------------------------------------------------------- the ends of it


def test_who_says_nothing_in_time_is_closed_with_503(make_node: MakeNode, connect: Connect, new_user: NewUser) -> None:
    node = make_node(config="[session]\nhello_timeout_s = 1\n")
    silent, slow, refused = connect(node), connect(node), connect(node)
    slow.write(encode(Op.HELLO, hello(node.token(new_user(), 1)), rid=1)[:-1])
    assert code_of(refused.greet(bytes(64))) == Code.RESUME_FAILED
    assert [wire.ending() for wire in (silent, slow, refused)] == [(Op.CLOSE, Code.TIMED_OUT)] * 3


@pytest.mark.slow
def test_a_connection_silent_for_one_and_a_half_keepalives_is_closed_with_503(
    node: NodeProcess, connect: Connect, new_user: NewUser
) -> None:
    silent, pinging, dribbling = connect(node), connect(node), connect(node)
    for wire in (silent, pinging, dribbling):
        wire.send(Op.HELLO, hello(node.token(new_user(), wire.socket.fileno()), keepalive_s=15), rid=1)
        assert wire.reply(1).op == Op.WELCOME
    dribbled = iter(encode(Op.PING, rid=9))
    while not silent.is_ended:
        pinging.barrier()
        dribbling.write(bytes([next(dribbled, 0)]))  # every byte counts, also one in the middle of a frame
        try:
            silent.receive(time.monotonic() + 5)
        except TimeoutError:
            continue
    assert silent.ending() == (Op.CLOSE, Code.TIMED_OUT)
    pinging.barrier()


def test_a_session_ends_with_201_when_its_token_does(make_node: MakeNode, connect: Connect, new_user: NewUser) -> None:
    node = make_node(config="[auth]\nleeway_s = 0\n")
    short, renewed, shortened = connect(node), connect(node), connect(node)
    users = [new_user() for _ in range(3)]
    short.welcome(node.token(users[0], 1, ttl_s=2))
    renewed.welcome(node.token(users[1], 2, ttl_s=2))
    renewed.request(Op.REAUTH, Reauth("jwt", node.token(users[1], 2, ttl_s=600)))
    shortened.welcome(node.token(users[2], 3, ttl_s=600))
    shortened.request(Op.REAUTH, Reauth("jwt", node.token(users[2], 3, ttl_s=2)))
    assert short.ending() == (Op.ERROR, Code.EXPIRED)
    assert shortened.ending() == (Op.ERROR, Code.EXPIRED)
    renewed.barrier()


def test_sends_beyond_the_rate_are_400_with_a_wait_and_rid_0_is_throttled_once(
    make_node: MakeNode, login: Login, new_user: NewUser
) -> None:
    node = make_node(config=RATES)
    wire = login(node, new_user())
    chat_id = wire.open_direct(new_user())
    for _ in range(3):
        wire.say(chat_id)
    error = refusal_of(lambda: wire.say(chat_id))
    assert error.code == Code.RATE_LIMITED
    assert error.retry_after_ms is not None
    assert 0 < error.retry_after_ms <= 1000
    for _ in range(5):
        wire.send(Op.SEND, message(chat_id))
    assert wire.expect(Op.THROTTLE, Throttle).scope == "send"
    wire.barrier()
    assert not wire.frames


def test_other_requests_have_a_rate_of_their_own_and_cursors_none(
    make_node: MakeNode, login: Login, new_user: NewUser
) -> None:
    node = make_node(config=RATES)
    wire = login(node, new_user())
    chat_id = wire.open_direct(new_user())
    wire.history(chat_id)
    wire.history(chat_id)
    error = refusal_of(lambda: wire.history(chat_id))
    assert error.code == Code.RATE_LIMITED
    assert error.retry_after_ms
    for _ in range(10):
        wire.ack(chat_id, 0)
        wire.read(chat_id, 0)
        wire.barrier()
        wire.request(Op.STATE, State(True))
    wire.send(Op.TYPING, Typing(chat_id, 0, True))
    assert wire.expect(Op.THROTTLE, Throttle).scope == "session"
    wire.say(chat_id)


def test_connections_of_one_address_beyond_the_rate_are_closed_with_400(make_node: MakeNode, connect: Connect) -> None:
    node = make_node(workers=1, config="[limits]\naddress_connects = { per_s = 0.01, burst = 2 }\n")
    for _ in range(2):
        connect(node)
    refused = connect(node).until_end()
    assert [frame.op for frame in refused] == [Op.CLOSE]
    close = decode(Close, refused[0].body)
    assert close.code == Code.RATE_LIMITED
    assert close.retry_after_ms is not None
    assert close.retry_after_ms > 0


def test_hellos_of_one_user_beyond_the_rate_are_400_and_may_be_said_again(
    make_node: MakeNode, connect: Connect, new_user: NewUser
) -> None:
    node = make_node(workers=1, config="[limits]\nuser_connects = { per_s = 2.0, burst = 1 }\n")
    user_id = new_user()
    connect(node).welcome(node.token(user_id, 1))
    wire, token = connect(node), node.token(user_id, 2)
    tries = count(1)
    while (answer := wire.greet(token, rid=next(tries))).op != Op.WELCOME:
        assert code_of(answer) == Code.RATE_LIMITED
        assert decode(Error, answer.body).retry_after_ms
    assert next(tries) > 2


def test_beyond_max_connections_the_node_says_401_and_lets_in_who_comes_after_an_end(
    make_node: MakeNode, login: Login, connect: Connect, new_user: NewUser
) -> None:
    node = make_node(workers=1, config="[serve]\nmax_connections = 2\n")
    first, _greeting = login(node, new_user()), connect(node)
    refused = connect(node).until_end()
    assert [frame.op for frame in refused] == [Op.CLOSE]
    close = decode(Close, refused[0].body)
    assert (close.code, close.retry_after_ms) == (Code.OVERLOADED, 5000)
    first.send(Op.CLOSE, Close(0, ""))
    first.until_end()
    login(node, new_user()).barrier()


# -------------------------------------------------------------------------------------------------- draining


def test_sigterm_says_goaway_and_serves_until_the_clients_have_gone(
    make_node: MakeNode, login: Login, new_user: NewUser
) -> None:
    node = make_node(config="[session]\ndrain_spread_ms = 4321\n")
    first, second = node.worker_pids()
    alice, bob = new_user(), new_user()
    one, other = login(node, alice, worker=first), login(node, bob, worker=second)
    chats = [one.open_direct(bob), *(one.create_group(bob) for _ in range(6))]
    one.sync()
    other.sync()
    with node.stopping() as ended:
        for wire in (one, other):
            goaway = wire.expect(Op.GOAWAY, Goaway)
            assert (goaway.delay_min_ms, goaway.delay_max_ms, goaway.addresses) == (0, 4321, [])
        for chat_id in chats * 2:
            sent = one.say(chat_id, b"before we go")
            while (heard := other.expect(Op.MSG, Msg)).kind == Kind.SYSTEM:
                pass  # that a group began, told late
            assert heard.seq == sent.seq
        one.send(Op.CLOSE, Close(0, ""))
        other.send(Op.CLOSE, Close(0, ""))
        assert ended() == 0


def test_who_stays_until_the_end_of_the_drain_is_told_501(make_node: MakeNode, login: Login, new_user: NewUser) -> None:
    node = make_node(config="[serve]\ndrain_timeout_s = 1.0\n")
    wire = login(node, new_user())
    with node.stopping() as ended:
        assert wire.expect(Op.GOAWAY, Goaway).delay_max_ms > 0
        assert wire.ending() == (Op.CLOSE, Code.UNAVAILABLE)
        assert ended() == 0


def test_metrics_count_refused_tokens_and_sessions(
    make_node: MakeNode, login: Login, connect: Connect, new_user: NewUser
) -> None:
    node = make_node()
    for _ in range(3):
        login(node, new_user()).barrier()
    connect(node).greet(FORGED)
    page = node.metrics()
    assert re.search(r'parley_auth_failures_total\{.*reason="bad_signature".*\} 1\.0', page)
    assert node.counted("parley_sessions_total") == 3
