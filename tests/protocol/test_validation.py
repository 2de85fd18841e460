"""Which values are good: the edges of every bound, and that nothing is left out of the table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.protocol import messages as m
from gateway.protocol.errors import Code, ProtocolError
from gateway.protocol.frames import decode, encode_body
from gateway.protocol.validation import validate, validate_send
from tests.protocol.strategies import ALL_TYPES, messages

if TYPE_CHECKING:
    import msgspec

TOP = (1 << 63) - 1
MAX_BODY = 65_280
ID = bytes(16)
JWT = "token"


def _send(**changes: Any) -> m.Send:
    fields: dict[str, Any] = {"chat_id": 1, "client_msg_id": ID, "kind": 0, "body": b""}
    return m.Send(**fields | changes)


def _code_of(message: msgspec.Struct, max_body: int = MAX_BODY) -> Code | None:
    try:
        validate(message, max_body)
    except ProtocolError as error:
        return error.code
    return None


GOOD: list[msgspec.Struct] = [
    _send(chat_id=TOP, kind=TOP),
    _send(body=bytes(MAX_BODY)),
    _send(kind=1, target_seq=1),
    _send(kind=0, target_seq=0),
    _send(kind=64, target_seq=TOP, notify=0, envelopes={TOP: b""}),
    _send(envelopes={1: bytes(MAX_BODY)}),
    _send(envelopes=dict.fromkeys(range(1, 2001), b"")),
    m.Hello(1, "jwt", JWT, 0, [], 15, 1),
    m.Hello(9, "resume", b"", TOP, ["c"] * 2000, 1800, TOP),
    m.State(True, 15),
    m.State(False, 1800),
    m.Ack([m.Cursor(1, 0)] * 2000),
    m.Read([m.Cursor(TOP, TOP)]),
    m.Typing(1, -1, True),
    m.Sync([m.Cursor(1, 0)] * 2000, None, 0, TOP),
    m.History(1, 0, TOP, 1),
    m.History(1, None, None, 200),
    m.ChatCreate(ID, "x" * 256, list(range(1, 2001))),
    m.ChatCreate(ID, "", []),
    m.ChatChange(1, 0, *[list(range(1, 501)), list(range(501, 1001))] * 2),
    m.ChatList(None, 200),
    m.Goaway("", 5, 5, []),
]

BAD: list[msgspec.Struct] = [
    _send(chat_id=0),
    _send(chat_id=-1),
    _send(chat_id=TOP + 1),
    _send(client_msg_id=bytes(15)),
    _send(client_msg_id=bytes(17)),
    _send(kind=-1),
    _send(kind=4),
    _send(kind=TOP + 1),
    _send(kind=1),
    _send(kind=2),
    _send(kind=3, target_seq=0),
    _send(target_seq=-1),
    _send(target_seq=TOP + 1),
    _send(notify=-1),
    _send(body=bytes(MAX_BODY + 1)),
    _send(envelopes={0: b""}),
    _send(envelopes={1: bytes(MAX_BODY), 2: b"x"}),
    _send(envelopes=dict.fromkeys(range(1, 2002), b"")),
    m.Hello(1, "basic", JWT, 0, []),
    m.Hello(1, "jwt", JWT, -1, []),
    m.Hello(1, "jwt", JWT, 0, ["c"] * 2001),
    m.Hello(1, "jwt", JWT, 0, [], 14),
    m.Hello(1, "jwt", JWT, 0, [], 1801),
    m.Hello(1, "jwt", JWT, 0, [], None, 0),
    m.State(True, 14),
    m.State(True, 1801),
    m.Reauth("resume", JWT),
    m.Ack([m.Cursor(1, 0)] * 2001),
    m.Ack([m.Cursor(1, 0), m.Cursor(0, 0)]),
    m.Read([m.Cursor(1, -1)]),
    m.Typing(0, 1, True),
    m.Sync([m.Cursor(1, 0)] * 2001),
    m.Sync(None, None, -1),
    m.Sync(None, None, None, TOP + 1),
    m.History(1, None, None, 0),
    m.History(1, None, None, 201),
    m.History(1, -1, None, 1),
    m.History(1, None, TOP + 1, 1),
    m.ChatOpen(0),
    m.ChatCreate(bytes(8), "", []),
    m.ChatCreate(ID, "é" * 128 + "x", []),
    m.ChatCreate(ID, "", list(range(1, 2002))),
    m.ChatCreate(ID, "", [1, 0]),
    m.ChatChange(1, None, list(range(1, 502))),
    m.ChatChange(1, None, None, None, None, [-1]),
    m.ChatChange(1, None, [5], [4, 5]),
    m.ChatChange(1, None, None, None, [5], [5]),
    m.ChatChange(1, None, None, [5], [5]),
    m.ChatChange(1, -1),
    m.ChatLeave(0),
    m.ChatInfo(TOP + 1),
    m.ChatList(None, 0),
    m.ChatList(None, 201),
    m.Goaway("", 6, 5, []),
    m.Msg(1, 1, 0, 1, 0, 0, 0, bytes(MAX_BODY + 1), ID),
    m.Page(1, True, [m.Msg(1, 0, 0, 1, 0, 0, 0, b"", ID)]),
]


@pytest.mark.parametrize("message", GOOD, ids=lambda message: repr(message)[:60])
def test_a_value_at_its_bound_is_good(message: msgspec.Struct) -> None:
    assert _code_of(message) is None


@pytest.mark.parametrize("message", BAD, ids=lambda message: repr(message)[:60])
def test_a_value_beyond_its_bound_is_invalid(message: msgspec.Struct) -> None:
    assert _code_of(message) is Code.INVALID


def test_the_body_may_grow_with_the_sessions_max_frame() -> None:
    assert _code_of(_send(body=bytes(MAX_BODY + 1)), max_body=MAX_BODY + 1) is None


def test_a_version_before_the_first_is_named_before_anything_else() -> None:
    with pytest.raises(ProtocolError) as caught:
        validate(m.Hello(0, "basic", b"", -1, []))
    assert (caught.value.code, caught.value.detail) == (Code.UNSUPPORTED_VERSION, [1, 1])


@pytest.mark.parametrize(("auth_kind", "credential"), [("jwt", b"x"), ("resume", "x")])
def test_a_credential_of_the_other_type_is_malformed(auth_kind: str, credential: str | bytes) -> None:
    assert _code_of(m.Hello(1, auth_kind, credential, 0, [])) is Code.MALFORMED


@pytest.mark.parametrize("field", [name for name in m.Send.__struct_fields__ if name in ("chat_id", "kind")])
@pytest.mark.parametrize("number", [-(1 << 63), -1, 1 << 63, (1 << 64) - 1])
def test_what_messagepack_can_hold_and_the_protocol_cannot_is_invalid(field: str, number: int) -> None:
    assert _code_of(decode(m.Send, encode_body(_send(**{field: number})))) is Code.INVALID


@given(messages)
def test_every_type_has_rules_and_they_say_invalid_or_nothing(message: msgspec.Struct) -> None:
    assert _code_of(message) in (None, Code.INVALID, Code.MALFORMED, Code.UNSUPPORTED_VERSION)


@pytest.mark.parametrize("type_", ALL_TYPES)
def test_every_number_of_every_message_is_bounded(type_: type[msgspec.Struct]) -> None:
    """Set one number after the other to 2^63: each is refused, but for those that may say anything."""
    unbounded = {("Hello", "proto"), ("Typing", "user_id")}
    for message in (message for message in GOOD_OF_EACH if type(message) is type_):
        for name in message.__struct_fields__:
            value = getattr(message, name)
            if type(value) is int and (type_.__name__, name) not in unbounded:
                fields = {field: getattr(message, field) for field in message.__struct_fields__}
                assert _code_of(type_(**fields | {name: 1 << 63})) is Code.INVALID, name


GOOD_OF_EACH: list[msgspec.Struct] = [
    *GOOD,
    m.Welcome(1, 1, 1, 1, [], 270, 65_536, 64, 1, b"", False, 1),
    m.Error(1, "", 1),
    m.Close(1, "", 1),
    m.Throttle("send", 1),
    m.Sent(1, 1, 1, False, 1),
    m.Msg(1, 1, 1, 1, 1, 1, 1, b"", ID, 1),
    m.Receipt(1, 1, 1, 1, 1),
    m.Gap(1, 1, 1),
    m.Page(1, True, []),
    m.ChatOpen(1),
    m.ChatLeave(1),
    m.ChatInfo(1),
    m.SystemBody(0, 1, []),
    m.StateOk(1),
    m.ReauthOk(1),
    m.ChatOpenOk(1),
    m.ChatCreateOk(1, 1),
    m.ChatChangeOk(1),
    m.ChatInfoOk(1, 1, "", 1, [], 1),
]


@pytest.mark.parametrize(
    "message",
    [
        m.SyncDone([m.ChatNews(1, 1, 1 << 63)]),
        m.SyncDone([], None, [0]),
        m.ChatInfoOk(1, 1, "", 1, [m.MemberEntry(0, 1, 1, 1)], 1),
        m.ChatListOk([m.ChatEntry(1, 1, "", 1, 1, -1)]),
        m.Receipt(1, 1, 1, None, None, [0]),
    ],
)
def test_entries_of_a_list_are_judged_too(message: msgspec.Struct) -> None:
    assert _code_of(message) is Code.INVALID


@given(st.integers(-2, 7), st.integers(0, 40), st.none() | st.integers(-1, 2), st.none() | st.just({1: b"x"}))
def test_the_short_way_through_send_never_accepts_what_the_long_way_refuses(
    kind: int, size: int, target: int | None, envelopes: dict[int, bytes] | None
) -> None:
    """The long way is forced by a harmless notify; both must agree."""
    fields: dict[str, Any] = {"kind": kind, "body": bytes(size), "target_seq": target, "envelopes": envelopes}
    assert _code_of(_send(**fields), 30) == _code_of(_send(**fields, notify=1), 30)


def test_validate_send_is_validate() -> None:
    with pytest.raises(ProtocolError):
        validate_send(_send(chat_id=0), MAX_BODY)
    validate_send(_send(), MAX_BODY)
