"""The session: every state with every step, at both ends, and the conversations that the table stands for."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.protocol import messages as m
from gateway.protocol.errors import Code, LocalProtocolError, ProtocolError
from gateway.protocol.frames import Frame, encode, encode_payload
from gateway.protocol.messages import CLIENT_OPS, SERVER_OPS, Op
from gateway.protocol.session import (
    HELD_FRAMES,
    TRANSITIONS,
    Ended,
    Event,
    OpClass,
    Pause,
    Received,
    Refused,
    Session,
    Side,
    Skipped,
    State,
    Step,
    classify_client_op,
    transition,
)

if TYPE_CHECKING:
    import msgspec

JWT_HELLO = m.Hello(1, "jwt", "token", 7, [])
RESUME_HELLO = m.Hello(1, "resume", b"token", 7, [])
WELCOME = m.Welcome(1, 42, 7, 9001, [], 270, 65_536, 64, 1, b"t", False, 60)
STALE = ProtocolError(Code.RESUME_FAILED, "stale")
REPLACED = ProtocolError(Code.REPLACED, "replaced", detail=9002)
GREETING, AUTHENTICATING, REGREETING = State.GREETING, State.AUTHENTICATING, State.REGREETING
LIVE, CLOSING, CLOSED = State.LIVE, State.CLOSING, State.CLOSED

EXPECTED: dict[tuple[State, Step], State | None] = {
    (GREETING, Step.HELLO): AUTHENTICATING,
    (GREETING, Step.REQUEST): None,
    (GREETING, Step.CLIENT_CLOSE): None,
    (GREETING, Step.WELCOME): None,
    (GREETING, Step.REFUSAL): None,
    (GREETING, Step.PUSH): None,
    (GREETING, Step.SERVER_END): CLOSING,
    (GREETING, Step.END): CLOSED,
    (AUTHENTICATING, Step.HELLO): None,
    (AUTHENTICATING, Step.REQUEST): AUTHENTICATING,
    (AUTHENTICATING, Step.CLIENT_CLOSE): CLOSING,
    (AUTHENTICATING, Step.WELCOME): LIVE,
    (AUTHENTICATING, Step.REFUSAL): REGREETING,
    (AUTHENTICATING, Step.PUSH): None,
    (AUTHENTICATING, Step.SERVER_END): CLOSING,
    (AUTHENTICATING, Step.END): CLOSED,
    (REGREETING, Step.HELLO): AUTHENTICATING,
    (REGREETING, Step.REQUEST): REGREETING,
    (REGREETING, Step.CLIENT_CLOSE): CLOSING,
    (REGREETING, Step.WELCOME): None,
    (REGREETING, Step.REFUSAL): None,
    (REGREETING, Step.PUSH): None,
    (REGREETING, Step.SERVER_END): CLOSING,
    (REGREETING, Step.END): CLOSED,
    (LIVE, Step.HELLO): None,
    (LIVE, Step.REQUEST): LIVE,
    (LIVE, Step.CLIENT_CLOSE): CLOSING,
    (LIVE, Step.WELCOME): None,
    (LIVE, Step.REFUSAL): None,
    (LIVE, Step.PUSH): LIVE,
    (LIVE, Step.SERVER_END): CLOSING,
    (LIVE, Step.END): CLOSED,
    **{(CLOSING, step): CLOSING for step in Step if step is not Step.END},
    (CLOSING, Step.END): CLOSED,
    **{(CLOSED, step): None for step in Step if step is not Step.END},
    (CLOSED, Step.END): CLOSED,
}

CLIENT_STEPS: dict[Step, tuple[Op, msgspec.Struct | None]] = {
    Step.HELLO: (Op.HELLO, JWT_HELLO),
    Step.REQUEST: (Op.SYNC, m.Sync()),
    Step.CLIENT_CLOSE: (Op.CLOSE, m.Close(0, "bye")),
}
SERVER_STEPS: dict[Step, tuple[Op, msgspec.Struct | None]] = {
    Step.WELCOME: (Op.WELCOME, WELCOME),
    Step.REFUSAL: (Op.ERROR, m.Error(204, "stale")),
    Step.PUSH: (Op.LAGGED, None),
    Step.SERVER_END: (Op.ERROR, m.Error(203, "replaced")),
}
WAY: dict[State, list[Step]] = {
    GREETING: [],
    AUTHENTICATING: [Step.HELLO],
    REGREETING: [Step.HELLO, Step.REFUSAL],
    LIVE: [Step.HELLO, Step.WELCOME],
    CLOSING: [Step.HELLO, Step.WELCOME, Step.SERVER_END],
    CLOSED: [Step.END],
}


def _take(session: Session, step: Step) -> Event | Pause | bytes | None:
    """Send what is ours to send, receive what is the peer's."""
    if step is Step.END:
        return session.receive_end()
    is_clients = step in CLIENT_STEPS
    op, body = (CLIENT_STEPS | SERVER_STEPS)[step]
    if is_clients == (session.side is Side.CLIENT):
        return session.send(op, body)
    return session.receive_frame(_frame(encode(op, body)))


def _frame(encoded: bytes) -> Frame:
    return Frame(encoded[4], encoded[5], int.from_bytes(encoded[6:8], "big"), encoded[8:])


def _session_in(state: State, side: Side) -> Session:
    session = Session(side)
    for step in WAY[state]:
        _take(session, step)
    assert session.state is state
    return session


def _live() -> tuple[Session, Session]:
    """A client and a server that have greeted each other."""
    client, server = Session(Side.CLIENT), Session(Side.SERVER)
    server.receive_bytes(client.send(Op.HELLO, JWT_HELLO, rid=1))
    assert isinstance(server.next_event(), Received)
    client.receive_bytes(server.send(Op.WELCOME, WELCOME, rid=1))
    assert client.next_event() == Received(Op.WELCOME, 1, WELCOME, Op.HELLO)
    return client, server


# ------------------------------------------------------------------------------------------------ the table


@pytest.mark.parametrize(("state", "step"), list(itertools.product(State, Step)), ids=lambda value: value.name)
def test_the_table_has_exactly_these_transitions(state: State, step: Step) -> None:
    assert transition(state, step) is EXPECTED[state, step]


def test_every_state_is_reached_from_the_first() -> None:
    reached = {GREETING}
    while more := {to for state in reached for to in TRANSITIONS[state].values()} - reached:
        reached |= more
    assert reached == set(State)


OWN = [(side, state, step) for side in Side for state in State for step in Step if step is not Step.END]


@pytest.mark.parametrize(("side", "state", "step"), OWN, ids=lambda value: value.name)
def test_both_ends_take_every_step_as_the_table_says(side: Side, state: State, step: Step) -> None:
    session = _session_in(state, side)
    is_ours = (step in CLIENT_STEPS) == (side is Side.CLIENT)
    expected = EXPECTED[state, step]
    is_held_back = side is Side.SERVER and state is AUTHENTICATING and not is_ours
    # A refusal is one by its place: the same ERROR is a mere push once the session is live.
    if step is Step.REFUSAL and state is LIVE:
        expected = LIVE
    if is_ours and (expected is None or state is CLOSING):
        with pytest.raises(LocalProtocolError):
            _take(session, step)
        assert session.state is state
    elif state is CLOSED or is_held_back:
        with pytest.raises(LocalProtocolError):
            _take(session, step)
    elif expected is None:
        with pytest.raises(ProtocolError) as caught:
            _take(session, step)
        assert caught.value.code is Code.NOT_READY
    else:
        _take(session, step)
        assert session.state is expected


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("side", Side)
def test_the_end_of_the_stream_is_taken_everywhere(state: State, side: Side) -> None:
    session = _session_in(state, side)
    ended = session.receive_end()
    assert session.state is CLOSED
    assert (ended is None) == (state in (CLOSING, CLOSED))
    assert ended is None or ended.code == Code.UNAVAILABLE


# ---------------------------------------------------------------------------------------------- op classes


@pytest.mark.parametrize("op", range(256))
def test_every_op_of_a_client_has_its_class(op: int) -> None:
    if op in CLIENT_OPS:
        expected = (OpClass.CLIENT, OpClass.CLIENT)
    elif op in SERVER_OPS or op >= 0x80:
        expected = (OpClass.UNKNOWN, OpClass.UNKNOWN)
    else:
        expected = (OpClass.UNKNOWN, OpClass.IGNORE)
    assert (classify_client_op(op, 0), classify_client_op(op, 1)) == expected
    assert (classify_client_op(op, 0xFE), classify_client_op(op, 0xFF)) == expected


@pytest.mark.parametrize("op", [op for op in range(256) if op != Op.HELLO])
@pytest.mark.parametrize("flags", [0, 1])
def test_nothing_but_hello_comes_first(op: int, flags: int) -> None:
    session = Session(Side.SERVER)
    session.receive_bytes(encode_payload(op, b"", rid=3, flags=flags))
    with pytest.raises(ProtocolError) as caught:
        session.next_event()
    assert caught.value.code is Code.NOT_READY
    session.send_error(caught.value, rid=3)
    assert session.state is CLOSING


def test_an_unknown_op_is_refused_and_the_session_goes_on() -> None:
    _, server = _live()
    server.receive_bytes(encode_payload(0x7F, b"", rid=3) + encode(Op.PING, rid=4))
    event = server.next_event()
    assert isinstance(event, Refused)
    assert (event.rid, event.error.code) == (3, Code.UNKNOWN_OP)
    assert server.next_event() == Received(Op.PING, 4, m.Empty())


def test_a_client_drops_ops_that_it_does_not_know_in_any_state() -> None:
    client = Session(Side.CLIENT)
    assert client.receive_frame(Frame(0x7F, 0, 0, b"\xff")) == Skipped(0x7F)
    assert client.state is GREETING


# ------------------------------------------------------------------------------------------- conversations


def test_frames_behind_hello_wait_for_welcome_in_order() -> None:
    client, server = Session(Side.CLIENT), Session(Side.SERVER)
    stream = client.send(Op.HELLO, JWT_HELLO, rid=1) + client.send(Op.SYNC, m.Sync(), rid=2) + client.send(Op.PING)
    server.receive_bytes(stream)
    assert server.next_event() == Received(Op.HELLO, 1, JWT_HELLO)
    assert server.next_event() is Pause.PAUSED
    server.send(Op.WELCOME, WELCOME, rid=1)
    assert server.next_event() == Received(Op.SYNC, 2, m.Sync())
    assert server.next_event() == Received(Op.PING, 0, m.Empty())
    assert server.next_event() is Pause.NEED_DATA


def test_a_refused_resume_is_followed_by_a_jwt_and_nothing_sent_meanwhile_is_lost() -> None:
    client, server = Session(Side.CLIENT), Session(Side.SERVER)
    server.receive_bytes(client.send(Op.HELLO, RESUME_HELLO, rid=1) + client.send(Op.SYNC, m.Sync(), rid=2))
    assert server.next_event() == Received(Op.HELLO, 1, RESUME_HELLO)
    client.receive_bytes(server.send_error(STALE, rid=1))
    assert client.next_event() == Received(Op.ERROR, 1, m.Error(204, "stale"), Op.HELLO)
    assert (client.state, server.state) == (REGREETING, REGREETING)
    assert server.next_event() is Pause.NEED_DATA
    server.receive_bytes(client.send(Op.HELLO, JWT_HELLO, rid=1))
    assert server.next_event() == Received(Op.HELLO, 1, JWT_HELLO)
    client.receive_bytes(server.send(Op.WELCOME, WELCOME, rid=1))
    assert isinstance(client.next_event(), Received)
    assert server.next_event() == Received(Op.SYNC, 2, m.Sync())
    assert (client.state, server.state) == (LIVE, LIVE)


def test_whoever_cuts_frames_itself_gets_the_held_ones_at_once() -> None:
    server = _session_in(REGREETING, Side.SERVER)
    sync = _frame(encode(Op.SYNC, m.Sync(), rid=2))
    assert server.receive_frame(sync) is None
    with pytest.raises(LocalProtocolError):
        server.take_held()
    _take(server, Step.HELLO)
    _take(server, Step.WELCOME)
    assert server.take_held() == [sync]
    assert server.take_held() == []


def test_no_more_than_so_many_frames_are_held() -> None:
    server = _session_in(REGREETING, Side.SERVER)
    for _ in range(HELD_FRAMES):
        assert server.receive_frame(_frame(encode(Op.PING))) is None
    with pytest.raises(ProtocolError) as caught:
        server.receive_frame(_frame(encode(Op.PING)))
    assert caught.value.code is Code.NOT_READY


def test_a_hello_with_a_bad_value_is_refused_and_may_be_said_again() -> None:
    server = Session(Side.SERVER)
    server.receive_bytes(encode(Op.HELLO, m.Hello(1, "jwt", "token", 7, [], 5)))
    event = server.next_event()
    assert isinstance(event, Refused)
    server.send_error(event.error, rid=event.rid)
    assert server.state is REGREETING


def test_a_version_before_the_first_ends_the_connection() -> None:
    server = Session(Side.SERVER)
    server.receive_bytes(encode(Op.HELLO, m.Hello(0, "jwt", "token", 7, [])))
    with pytest.raises(ProtocolError) as caught:
        server.next_event()
    server.send_error(caught.value)
    assert server.state is CLOSING


def test_a_request_with_a_bad_value_is_refused_and_one_of_a_bad_type_is_the_end() -> None:
    _, server = _live()
    server.receive_bytes(encode(Op.CHAT_OPEN, m.ChatOpen(0), rid=5) + encode_payload(Op.CHAT_OPEN, b"\x90", rid=6))
    event = server.next_event()
    assert isinstance(event, Refused)
    assert (event.rid, event.error.code, server.state) == (5, Code.INVALID, LIVE)
    with pytest.raises(ProtocolError) as caught:
        server.next_event()
    assert caught.value.code is Code.MALFORMED


def test_a_failed_reauth_leaves_the_session_alone_at_both_ends() -> None:
    client, server = _live()
    server.receive_bytes(client.send(Op.REAUTH, m.Reauth("jwt", "expired"), rid=8))
    assert isinstance(server.next_event(), Received)
    client.receive_bytes(server.send_error(ProtocolError(Code.EXPIRED, "expired"), rid=8))
    assert client.next_event() == Received(Op.ERROR, 8, m.Error(201, "expired"), Op.REAUTH)
    assert (client.state, server.state) == (LIVE, LIVE)
    client.receive_bytes(server.send_error(ProtocolError(Code.EXPIRED, "the session's token")))
    assert client.next_event() == Ended(201, "the session's token")
    assert (client.state, server.state) == (CLOSING, CLOSING)


@pytest.mark.parametrize("code", [Code.UNAUTHENTICATED, Code.EXPIRED, Code.REVOKED])
def test_a_refused_jwt_is_the_end(code: Code) -> None:
    client, server = Session(Side.CLIENT), Session(Side.SERVER)
    server.receive_bytes(client.send(Op.HELLO, JWT_HELLO, rid=1))
    server.next_event()
    client.receive_bytes(server.send_error(ProtocolError(code, "no"), rid=1))
    assert client.next_event() == Ended(code, "no")


def test_the_reason_of_an_end_reaches_the_client_whole() -> None:
    client, server = _live()
    client.receive_bytes(server.send_error(REPLACED))
    assert client.next_event() == Ended(203, "replaced", None, 9002)
    assert client.receive_end() is None


def test_after_the_last_word_input_is_dropped_and_nothing_may_be_sent() -> None:
    client, server = _live()
    client.receive_bytes(server.send(Op.CLOSE, m.Close(501, "restart", 2000)))
    server.receive_bytes(client.send(Op.PING))
    assert server.next_event() == Skipped(Op.PING)
    assert client.next_event() == Ended(501, "restart", 2000)
    for session in (client, server):
        with pytest.raises(LocalProtocolError):
            session.send(Op.PING)


def test_a_client_that_closes_is_heard() -> None:
    client, server = _live()
    server.receive_bytes(client.send(Op.CLOSE, m.Close(0, "bye")))
    assert server.next_event() == Ended(0, "bye")
    assert server.state is CLOSING


# ------------------------------------------------------------------------------------------------- requests


def test_an_ok_is_read_by_the_request_that_it_answers() -> None:
    client, server = _live()
    client.send(Op.STATE, m.State(False, 900), rid=2)
    client.send(Op.CHAT_OPEN, m.ChatOpen(43), rid=3)
    client.receive_bytes(server.send(Op.OK, m.ChatOpenOk(5002), rid=3) + server.send(Op.OK, m.StateOk(900), rid=2))
    assert client.next_event() == Received(Op.OK, 3, m.ChatOpenOk(5002), Op.CHAT_OPEN)
    assert client.next_event() == Received(Op.OK, 2, m.StateOk(900), Op.STATE)


def test_a_rid_in_use_is_refused_and_free_again_once_answered() -> None:
    client, server = _live()
    client.send(Op.PING, rid=2)
    with pytest.raises(LocalProtocolError):
        client.send(Op.PING, rid=2)
    assert client.unanswered == 1
    client.receive_bytes(server.send(Op.PONG, rid=2))
    client.next_event()
    assert client.unanswered == 0
    client.send(Op.PING, rid=2)


def test_a_sync_is_answered_by_its_last_sync_done() -> None:
    client, server = _live()
    client.send(Op.SYNC, m.Sync(), rid=2)
    client.receive_bytes(server.send(Op.SYNC_DONE, m.SyncDone([], True), rid=2))
    client.next_event()
    assert client.unanswered == 1
    client.receive_bytes(server.send(Op.SYNC_DONE, m.SyncDone([]), rid=2))
    client.next_event()
    assert client.unanswered == 0


def test_a_reply_that_nobody_waits_for_is_dropped() -> None:
    client, server = _live()
    client.receive_bytes(server.send(Op.PONG, rid=77))
    assert client.next_event() == Skipped(Op.PONG)


def test_the_servers_ping_keeps_its_own_rid() -> None:
    client, server = _live()
    server.receive_bytes(client.send(Op.REAUTH, m.Reauth("jwt", "expired"), rid=77))
    server.next_event()
    client.receive_bytes(server.send(Op.PING, rid=77))
    assert client.next_event() == Received(Op.PING, 77, m.Empty())
    server.receive_bytes(client.send(Op.PONG, rid=77))
    assert server.next_event() == Received(Op.PONG, 77, m.Empty())
    assert client.unanswered == 1
    client.receive_bytes(server.send_error(ProtocolError(Code.EXPIRED, "expired"), rid=77))
    assert client.next_event() == Received(Op.ERROR, 77, m.Error(201, "expired"), Op.REAUTH)
    assert (client.state, server.state) == (LIVE, LIVE)


# ---------------------------------------------------------------------------------------------------- sizes


def test_max_frame_follows_welcome_in_both_directions_at_both_ends() -> None:
    body = bytes(60_000)
    client, server = Session(Side.CLIENT), Session(Side.SERVER)
    server.receive_bytes(client.send(Op.HELLO, JWT_HELLO))
    server.next_event()
    send = m.Send(1, bytes(16), 0, body)
    with pytest.raises(LocalProtocolError):
        client.send(Op.SEND, send)
    # WELCOME and a long frame right behind it arrive in one piece.
    message = m.Msg(1, 1, 0, 43, 8, 1, 0, body, bytes(16))
    client.receive_bytes(server.send(Op.WELCOME, WELCOME) + server.send(Op.MSG, message))
    assert client.next_event() == Received(Op.WELCOME, 0, WELCOME)
    assert client.next_event() == Received(Op.MSG, 0, message)
    server.receive_bytes(client.send(Op.SEND, send))
    assert server.next_event() == Received(Op.SEND, 0, send)


def test_a_frame_larger_than_the_greetings_bound_is_refused_before_welcome() -> None:
    server = Session(Side.SERVER)
    server.receive_bytes((4097).to_bytes(4, "big"))
    with pytest.raises(ProtocolError) as caught:
        server.next_event()
    assert caught.value.code is Code.TOO_LARGE


def test_the_body_is_bounded_by_what_welcome_granted() -> None:
    server = Session(Side.SERVER)
    server.receive_bytes(encode(Op.HELLO, JWT_HELLO))
    server.next_event()
    server.send(Op.WELCOME, m.Welcome(1, 42, 7, 9001, [], 270, 100_000, 64, 1, b"t", False, 60))
    server.receive_bytes(encode(Op.SEND, m.Send(1, bytes(16), 0, bytes(99_744)), rid=1))
    assert isinstance(server.next_event(), Received)
    server.receive_bytes(encode(Op.SEND, m.Send(1, bytes(16), 0, bytes(99_745)), rid=1))
    assert isinstance(server.next_event(), Refused)


@pytest.mark.parametrize("side", Side)
def test_neither_end_sends_the_others_ops(side: Side) -> None:
    session = _session_in(LIVE, side)
    with pytest.raises(LocalProtocolError):
        session.send(Op.SENT if side is Side.CLIENT else Op.SEND)


def test_a_whole_conversation_fed_byte_by_byte_is_the_same_conversation() -> None:
    client, server = Session(Side.CLIENT), Session(Side.SERVER)
    seen: list[Op] = []
    stream = client.send(Op.HELLO, JWT_HELLO) + client.send(Op.PING, rid=1) + client.send(Op.CLOSE, m.Close(0, ""))
    for byte in stream:
        server.receive_bytes(bytes([byte]))
        event = server.next_event()
        if isinstance(event, Received):
            seen.append(event.op)
            if event.op is Op.HELLO:
                server.send(Op.WELCOME, WELCOME)
    assert seen == [Op.HELLO, Op.PING]
    assert server.state is CLOSING


@given(
    st.lists(st.tuples(st.integers(0, 255), st.integers(0, 3), st.integers(0, 3), st.binary(max_size=12)), max_size=8)
)
def test_whatever_a_client_sends_is_an_event_or_a_protocol_error(frames: list[tuple[int, int, int, bytes]]) -> None:
    server = Session(Side.SERVER)
    server.receive_bytes(encode(Op.HELLO, JWT_HELLO))
    server.next_event()
    server.send(Op.WELCOME, WELCOME)
    server.receive_bytes(b"".join(encode_payload(op, body, rid=rid, flags=flags) for op, flags, rid, body in frames))
    seen = 0
    try:
        while server.next_event() is not Pause.NEED_DATA:
            seen += 1
    except ProtocolError as error:
        server.send_error(error)
        assert server.state is CLOSING
    else:
        assert seen == len(frames)
