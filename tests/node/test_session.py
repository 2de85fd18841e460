"""Sessions on the wire: who comes in, as what, for how long, and how each of them ends."""

from __future__ import annotations

import time
from collections.abc import Callable

import jwt
import pytest

from gateway.protocol.errors import Code
from gateway.protocol.frames import decode, encode
from gateway.protocol.messages import (
    Close,
    Hello,
    Op,
    Reauth,
    ReauthOk,
    Sent,
    State,
    StateOk,
    SyncDone,
    Welcome,
)
from gateway.protocol.messages import Sync as SyncWish
from tests.node.conftest import device_id_of
from tests.node.wire import Wire, code_of, error_of, hello, message, refusal_of
from tests.nodes import NodeProcess

Login = Callable[..., Wire]
Connect = Callable[..., Wire]
NewUser = Callable[[], int]
MakeNode = Callable[..., NodeProcess]


def _signed(
    node: NodeProcess, user_id: int, *, key: bytes | None = None, kid: object = "local", **claims: object
) -> str:
    secret = key if key is not None else (node.data_dir / "auth.key").read_bytes()
    good = {"sub": str(user_id), "dev": device_id_of(user_id), "exp": int(time.time()) + 60}
    return jwt.encode({**good, **claims}, secret, algorithm="HS256", headers={"kid": kid} if kid else None)


# ------------------------------------------------------------------------------------------------ coming in


def test_welcome_says_who_it_is_and_what_counts(node: NodeProcess, connect: Connect, new_user: NewUser) -> None:
    user_id = new_user()
    welcome = connect(node).welcome(node.token(user_id, device_id_of(user_id), ttl_s=600))
    assert (welcome.proto, welcome.user_id, welcome.device_id, welcome.caps) == (1, user_id, device_id_of(user_id), [])
    assert (welcome.keepalive_s, welcome.max_frame, welcome.window, welcome.resumed) == (270, 65_536, 64, False)
    assert 590 <= welcome.auth_ttl_s <= 600
    assert 0 < len(welcome.resume_token) <= 256
    assert abs(welcome.server_time_ms - time.time() * 1000) < 60_000


def test_keepalive_and_window_are_granted_within_the_servers_bounds(
    node: NodeProcess, connect: Connect, new_user: NewUser
) -> None:
    wire, user_id = connect(node), new_user()
    wire.send(Op.HELLO, hello(node.token(user_id, 1), keepalive_s=20, window=10**9), rid=7)
    welcome = decode(Welcome, wire.reply(7).body)
    assert (welcome.keepalive_s, welcome.window) == (20, 256)


def test_hello_with_rid_0_is_answered_with_rid_0(node: NodeProcess, connect: Connect, new_user: NewUser) -> None:
    wire = connect(node)
    wire.send(Op.HELLO, hello(node.token(new_user(), 1)), rid=0)
    frame = wire.next()
    assert (frame.op, frame.rid) == (Op.WELCOME, 0)


def test_frames_behind_hello_are_handled_after_welcome_in_order(
    node: NodeProcess, connect: Connect, new_user: NewUser
) -> None:
    wire, user_id = connect(node), new_user()
    pings = b"".join(encode(Op.PING, rid=rid) for rid in range(3, 40))
    sync = encode(Op.SYNC, SyncWish(None), rid=2)
    wire.write(encode(Op.HELLO, hello(node.token(user_id, 1)), rid=1) + sync + pings)
    assert wire.next().op == Op.WELCOME
    wire.result(2, SyncDone)
    assert [wire.take(lambda frame: frame.op == Op.PONG).rid for _ in range(3, 40)] == list(range(3, 40))


@pytest.mark.parametrize("op", [Op.PING, Op.SEND, Op.CLOSE, Op.SYNC, 0x7F])
def test_anything_before_hello_is_103_and_the_end(node: NodeProcess, connect: Connect, op: int) -> None:
    wire = connect(node)
    wire.send(op, rid=9, flags=1)
    assert wire.ending() == (Op.ERROR, Code.NOT_READY)


def test_a_second_hello_is_103_and_the_end(node: NodeProcess, login: Login, new_user: NewUser) -> None:
    user_id = new_user()
    wire = login(node, user_id)
    wire.send(Op.HELLO, hello(node.token(user_id, device_id_of(user_id))), rid=5)
    assert wire.ending() == (Op.ERROR, Code.NOT_READY)


def test_a_client_that_is_too_old_is_told_the_versions(node: NodeProcess, connect: Connect, new_user: NewUser) -> None:
    wire = connect(node)
    wire.send(Op.HELLO, hello(node.token(new_user(), 1), proto=0), rid=3)
    error = error_of(wire.until_end()[-1])
    assert (error.code, error.detail) == (Code.UNSUPPORTED_VERSION, [1, 1])


def test_a_client_of_a_newer_version_gets_version_1(node: NodeProcess, connect: Connect, new_user: NewUser) -> None:
    wire = connect(node)
    wire.send(Op.HELLO, hello(node.token(new_user(), 1), proto=9), rid=3)
    assert decode(Welcome, wire.reply(3).body).proto == 1


def test_another_device_than_the_tokens_is_200(node: NodeProcess, connect: Connect, new_user: NewUser) -> None:
    wire, user_id = connect(node), new_user()
    assert code_of(wire.greet(node.token(user_id, 5), device_id=6)) == Code.UNAUTHENTICATED
    assert wire.until_end() == []


def _forged(node: NodeProcess, user_id: int) -> str:
    return _signed(node, user_id, key=b"another secret of sufficient length!")


def _altered(node: NodeProcess, user_id: int) -> str:
    head, _, signature = _signed(node, user_id).split(".")
    return f"{head}.{_signed(node, user_id + 1).split('.')[1]}.{signature}"


def _unsigned(node: NodeProcess, user_id: int) -> str:
    claims = {"sub": str(user_id), "dev": 1, "exp": int(time.time()) + 60}
    return jwt.encode(claims, "", algorithm="none", headers={"kid": "local"})


BAD_TOKENS: dict[str, tuple[Callable[[NodeProcess, int], str], Code]] = {
    "signed by another key": (_forged, Code.UNAUTHENTICATED),
    "claims of another token": (_altered, Code.UNAUTHENTICATED),
    "algorithm none": (_unsigned, Code.UNAUTHENTICATED),
    "unknown kid": (lambda node, user: _signed(node, user, kid="elsewhere"), Code.UNAUTHENTICATED),
    "no kid": (lambda node, user: _signed(node, user, kid=None), Code.UNAUTHENTICATED),
    "no token at all": (lambda node, user: "", Code.UNAUTHENTICATED),
    "three dots": (lambda node, user: "...", Code.UNAUTHENTICATED),
    "text that is no base64": (lambda node, user: "ä.ö.ü", Code.UNAUTHENTICATED),
    "past its time": (lambda node, user: _signed(node, user, exp=int(time.time()) - 1), Code.EXPIRED),
    "without an end": (lambda node, user: _signed(node, user, exp=None), Code.UNAUTHENTICATED),
    "an end beyond every clock": (lambda node, user: _signed(node, user, exp=2**70), Code.UNAUTHENTICATED),
    "device as text": (lambda node, user: _signed(node, user, dev="7"), Code.UNAUTHENTICATED),
    "device true": (lambda node, user: _signed(node, user, dev=True), Code.UNAUTHENTICATED),
    "device 0": (lambda node, user: _signed(node, user, dev=0), Code.UNAUTHENTICATED),
    "device 2^63": (lambda node, user: _signed(node, user, dev=1 << 63), Code.UNAUTHENTICATED),
    "user 0": (lambda node, user: _signed(node, user, sub="0"), Code.UNAUTHENTICATED),
    "user -1": (lambda node, user: _signed(node, user, sub="-1"), Code.UNAUTHENTICATED),
    "user 2^63": (lambda node, user: _signed(node, user, sub=str(1 << 63)), Code.UNAUTHENTICATED),
    "user in other digits": (lambda node, user: _signed(node, user, sub="٤٢"), Code.UNAUTHENTICATED),
}


@pytest.mark.parametrize("what", BAD_TOKENS)
def test_a_token_that_is_no_good_is_refused_and_ends(
    node: NodeProcess, connect: Connect, new_user: NewUser, what: str
) -> None:
    make, code = BAD_TOKENS[what]
    wire = connect(node)
    wire.send(Op.HELLO, hello(make(node, new_user())), rid=4)
    frames = wire.until_end()
    assert [(frame.op, frame.rid) for frame in frames] == [(Op.ERROR, 4)]
    assert code_of(frames[0]) == code


@pytest.mark.parametrize(
    "field", [{"keepalive_s": 14}, {"keepalive_s": 1801}, {"window": 0}, {"auth_kind": "password"}]
)
def test_a_hello_with_a_bad_value_may_be_said_again(
    node: NodeProcess, connect: Connect, new_user: NewUser, field: dict[str, object]
) -> None:
    wire, token = connect(node), node.token(new_user(), 1)
    fields = {"proto": 1, "auth_kind": "jwt", "credential": token, "device_id": 0, "caps": []}
    wire.send(Op.HELLO, Hello(**{**fields, **field}), rid=1)  # type: ignore[arg-type]
    assert code_of(wire.reply(1)) == Code.INVALID
    assert wire.greet(token).op == Op.WELCOME


# ------------------------------------------------------------------------------------------------- resuming


def test_a_resume_token_opens_a_session_and_each_welcome_brings_a_new_one(
    node: NodeProcess, connect: Connect, new_user: NewUser
) -> None:
    user_id = new_user()
    first = connect(node).welcome(node.token(user_id, device_id_of(user_id), ttl_s=500))
    second = connect(node).welcome(first.resume_token)
    assert (second.user_id, second.device_id, second.resumed) == (user_id, device_id_of(user_id), True)
    assert second.session_id > first.session_id
    assert second.resume_token != first.resume_token
    assert second.auth_ttl_s <= 500


def test_an_older_resume_token_is_good_until_a_later_one_was_used(
    node: NodeProcess, connect: Connect, new_user: NewUser
) -> None:
    user_id = new_user()
    first = connect(node).welcome(node.token(user_id, device_id_of(user_id)))
    second = connect(node).welcome(first.resume_token)
    connect(node).welcome(first.resume_token)  # the later one has not been used yet
    connect(node).welcome(second.resume_token)
    assert code_of(connect(node).greet(first.resume_token)) == Code.RESUME_FAILED
    assert connect(node).welcome(second.resume_token).resumed


def test_after_204_hello_with_the_jwt_follows_on_the_same_connection(
    node: NodeProcess, connect: Connect, new_user: NewUser
) -> None:
    wire, user_id = connect(node), new_user()
    refused = wire.greet(b"forged" * 10)
    assert (code_of(refused), refused.rid) == (Code.RESUME_FAILED, 1)
    welcome = wire.welcome(node.token(user_id, device_id_of(user_id)))
    assert (welcome.user_id, welcome.resumed) == (user_id, False)


def test_frames_behind_a_refused_hello_are_kept_and_handled_after_welcome(
    node: NodeProcess, connect: Connect, new_user: NewUser
) -> None:
    wire, user_id = connect(node), new_user()
    kept = b"".join(encode(Op.PING, rid=rid) for rid in range(3, 66))
    refused = encode(Op.HELLO, hello(bytes(64)), rid=1)
    wire.write(refused + encode(Op.SYNC, SyncWish(None), rid=2) + kept)
    assert code_of(wire.reply(1)) == Code.RESUME_FAILED
    wire.write(encode(Op.HELLO, hello(node.token(user_id, 1)), rid=1) + encode(Op.PING, rid=100))
    assert wire.next().op == Op.WELCOME
    assert wire.result(2, SyncDone).chats == []
    pongs = [wire.take(lambda frame: frame.op == Op.PONG).rid for _ in range(64)]
    assert pongs == [*range(3, 66), 100]


def test_more_than_64_frames_behind_a_refused_hello_are_103(node: NodeProcess, connect: Connect) -> None:
    wire = connect(node)
    wire.write(encode(Op.HELLO, hello(bytes(64)), rid=1) + encode(Op.PING, rid=2) * 65)
    assert code_of(wire.reply(1)) == Code.RESUME_FAILED
    assert wire.ending() == (Op.ERROR, Code.NOT_READY)


def test_a_resume_token_of_another_device_is_200(node: NodeProcess, connect: Connect, new_user: NewUser) -> None:
    user_id = new_user()
    token = connect(node).welcome(node.token(user_id, 1)).resume_token
    assert code_of(connect(node).greet(token, device_id=2)) == Code.UNAUTHENTICATED


def test_a_resume_token_with_one_bit_changed_is_204(node: NodeProcess, connect: Connect, new_user: NewUser) -> None:
    token = bytearray(connect(node).welcome(node.token(new_user(), 1)).resume_token)
    token[7] ^= 1
    assert code_of(connect(node).greet(bytes(token))) == Code.RESUME_FAILED


# ------------------------------------------------------------------------------------- one session a device


@pytest.mark.parametrize("is_same_worker", [True, False])
def test_a_newer_session_ends_the_older_one_with_203_and_its_number(
    node: NodeProcess, login: Login, connect: Connect, new_user: NewUser, is_same_worker: bool
) -> None:
    user_id = new_user()
    first, second = node.worker_pids()
    older = login(node, user_id, worker=first)
    newer = connect(node, worker=first if is_same_worker else second)
    welcome = newer.welcome(node.token(user_id, device_id_of(user_id)))
    error = error_of(older.until_end()[-1])
    assert (error.code, error.detail) == (Code.REPLACED, welcome.session_id)
    newer.barrier()


def test_two_devices_of_a_user_live_side_by_side(node: NodeProcess, login: Login, new_user: NewUser) -> None:
    user_id = new_user()
    one, other = login(node, user_id, 1), login(node, user_id, 2)
    one.barrier()
    other.barrier()


def test_of_many_connections_of_a_device_the_last_one_lives(node: NodeProcess, login: Login, new_user: NewUser) -> None:
    user_id = new_user()
    wires = [login(node, user_id) for _ in range(8)]
    assert [wire.ending() for wire in wires[:-1]] == [(Op.ERROR, Code.REPLACED)] * 7
    wires[-1].barrier()


# ------------------------------------------------------------------------------------------ while it is live


def test_ping_is_answered_with_its_own_rid(node: NodeProcess, login: Login, new_user: NewUser) -> None:
    wire = login(node, new_user())
    for rid in (0, 1, 65_535):
        wire.send(Op.PING, rid=rid)
        frame = wire.next()
        assert (frame.op, frame.rid, frame.body) == (Op.PONG, rid, b"")


def test_a_pong_and_a_body_in_a_ping_are_taken(node: NodeProcess, login: Login, new_user: NewUser) -> None:
    wire = login(node, new_user())
    wire.send(Op.PONG, rid=77)
    wire.send_payload(Op.PING, b"whatever this is", rid=3)
    assert wire.next() == (Op.PONG, 0, 3, b"")


def test_state_answers_with_the_keepalive_that_counts(node: NodeProcess, login: Login, new_user: NewUser) -> None:
    wire = login(node, new_user())
    assert wire.request(Op.STATE, State(False, 900)) == StateOk(900)
    assert wire.request(Op.STATE, State(True)) == StateOk(270)
    assert refusal_of(lambda: wire.request(Op.STATE, State(True, 14))).code == Code.INVALID


def test_reauth_brings_a_longer_life(node: NodeProcess, login: Login, new_user: NewUser) -> None:
    user_id = new_user()
    wire = login(node, user_id)
    answer = wire.request(Op.REAUTH, Reauth("jwt", node.token(user_id, device_id_of(user_id), ttl_s=9000)))
    assert isinstance(answer, ReauthOk)
    assert 8990 <= answer.auth_ttl_s <= 9000


@pytest.mark.parametrize(
    ("what", "code"), [("forged", 200), ("expired", 201), ("another device's", 200), ("another user's", 200)]
)
def test_a_reauth_that_fails_changes_nothing(
    node: NodeProcess, login: Login, new_user: NewUser, what: str, code: int
) -> None:
    user_id = new_user()
    wire = login(node, user_id)
    tokens = {
        "forged": _forged(node, user_id),
        "expired": node.token(user_id, device_id_of(user_id), ttl_s=-1),
        "another device's": node.token(user_id, device_id_of(user_id, 2)),
        "another user's": node.token(user_id + 1, device_id_of(user_id)),
    }
    assert refusal_of(lambda: wire.request(Op.REAUTH, Reauth("jwt", tokens[what]))).code == code
    wire.send(Op.REAUTH, Reauth("jwt", tokens[what]))  # without a rid: not a word
    wire.barrier()
    assert not wire.frames


def test_more_requests_than_the_window_are_all_answered(node: NodeProcess, login: Login, new_user: NewUser) -> None:
    wire = login(node, new_user(), window=2)
    chat_id = wire.open_direct(new_user())
    rids = range(1000, 1200)
    wire.write(b"".join(encode(Op.SEND, message(chat_id), rid=rid) for rid in rids))
    seqs = [wire.result(rid, Sent).seq for rid in rids]
    assert seqs == sorted(seqs)


def test_a_client_that_says_close_is_closed_without_an_error(
    node: NodeProcess, login: Login, new_user: NewUser
) -> None:
    wire = login(node, new_user())
    wire.send(Op.CLOSE, Close(0, "bye"))
    assert wire.until_end() == []


def test_what_was_sent_before_close_is_still_done(node: NodeProcess, login: Login, new_user: NewUser) -> None:
    user_id = new_user()
    wire = login(node, user_id)
    chat_id = wire.open_direct(new_user())
    wire.write(encode(Op.SEND, message(chat_id, b"last words"), rid=9) + encode(Op.CLOSE, Close(0, "")))
    wire.until_end()
    again = login(node, user_id)
    # The store may be a moment behind the goodbye; a SEND of ours comes after it in the log.
    again.say(chat_id, b"after")
    assert [m.body for m in again.whole_log(chat_id)] == [b"last words", b"after"]
