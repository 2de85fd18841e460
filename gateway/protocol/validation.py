"""The values of a message: which numbers, lengths and counts of the right type are good.

This file owns every such rule, as one table by type. It needs no state but the session's max_frame: what depends on the
chat, the user or the server's settings is not decided here.

Invariant: after ``validate`` every id is in 1 … 2^63 - 1, every seq, time and count in 0 … 2^63 - 1, and every list,
map, title and body within its bound, so that what is behind it (SQLite's integers are signed 64-bit) need not ask
again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from gateway.protocol import messages as m
from gateway.protocol.errors import Code, ProtocolError
from gateway.protocol.frames import BODY_MARGIN, MIN_GRANTED_MAX_FRAME
from gateway.protocol.identifiers import ID_LIMIT

if TYPE_CHECKING:
    import msgspec

PROTO_MIN = 1
PROTO_MAX = 1
MAX_LIST = 2_000
MAX_CHANGE_IDS = 500
MAX_TITLE_BYTES = 256
MAX_RESUME_TOKEN_BYTES = 256
CLIENT_ID_BYTES = 16
KEEPALIVE_MIN_S = 15
KEEPALIVE_MAX_S = 1_800
HISTORY_LIMIT = 200
CHAT_LIST_LIMIT = 200

DEFAULT_MAX_BODY = MIN_GRANTED_MAX_FRAME - BODY_MARGIN

AUTH_JWT = "jwt"
AUTH_RESUME = "resume"

_TARGETED_KINDS = frozenset({m.Kind.EDIT, m.Kind.DELETE, m.Kind.REACTION})

Check = Callable[[str, Any], None]


def _refuse(name: str, rule: str) -> NoReturn:
    raise ProtocolError(Code.INVALID, f"{name} {rule}")


# ---------------------------------------------------------------------------------------- checks of one value


def _between(low: int, high: int) -> Check:
    def check(name: str, value: int) -> None:
        if not low <= value <= high:
            _refuse(name, f"must be in {low} .. {high}, not {value}")

    return check


_id = _between(1, ID_LIMIT - 1)
_number = _between(0, ID_LIMIT - 1)
_positive = _id


def _longest(limit: int, unit: str) -> Check:
    def check(name: str, value: Sequence[Any] | Mapping[Any, Any]) -> None:
        if len(value) > limit:
            _refuse(name, f"has {len(value)} {unit}, at most {limit} are allowed")

    return check


_list = _longest(MAX_LIST, "entries")
_resume_token = _longest(MAX_RESUME_TOKEN_BYTES, "bytes")


def _ids(limit: int) -> Check:
    longest = _longest(limit, "entries")

    def check(name: str, value: list[int]) -> None:
        longest(name, value)
        if value and not 0 < min(value) <= max(value) < ID_LIMIT:
            _refuse(name, f"must hold ids in 1 .. {ID_LIMIT - 1}")

    return check


_id_list = _ids(MAX_LIST)
_changed_ids = _ids(MAX_CHANGE_IDS)


def _client_id(name: str, value: bytes) -> None:
    if len(value) != CLIENT_ID_BYTES:
        _refuse(name, f"must be {CLIENT_ID_BYTES} bytes, not {len(value)}")


def _title(name: str, value: str) -> None:
    size = len(value.encode())
    if size > MAX_TITLE_BYTES:
        _refuse(name, f"has {size} bytes of UTF-8, at most {MAX_TITLE_BYTES} are allowed")


def _entries(name: str, value: Sequence[msgspec.Struct]) -> None:
    _list(name, value)
    for entry in value:
        _apply(entry)


_keepalive = _between(KEEPALIVE_MIN_S, KEEPALIVE_MAX_S)

# ------------------------------------------------------------------------------------------- rules of a type


def _check_hello(hello: m.Hello) -> None:
    if hello.auth_kind not in (AUTH_JWT, AUTH_RESUME):
        _refuse("auth_kind", f'must be "{AUTH_JWT}" or "{AUTH_RESUME}"')
    if type(hello.credential) is not (str if hello.auth_kind == AUTH_JWT else bytes):
        # Which of the two types is right depends on another field, so the decoder could not see it.
        raise ProtocolError(Code.MALFORMED, f"a {hello.auth_kind} credential of the wrong type")


def _check_reauth(reauth: m.Reauth) -> None:
    if reauth.auth_kind != AUTH_JWT:
        _refuse("auth_kind", f'must be "{AUTH_JWT}"')


def _check_goaway(goaway: m.Goaway) -> None:
    if goaway.delay_min_ms > goaway.delay_max_ms:
        _refuse("delay_min_ms", "must not be above delay_max_ms")


def _check_change(change: m.ChatChange) -> None:
    for one, other in (("add", "remove"), ("promote", "demote"), ("remove", "promote")):
        if not set(getattr(change, one) or ()).isdisjoint(getattr(change, other) or ()):
            _refuse(one, f"and {other} name the same user")


_PAIR_LIST: tuple[tuple[str, Check], ...] = (("pairs", _entries),)

_RULES: Mapping[type[msgspec.Struct], tuple[tuple[str, Check], ...]] = {
    m.Empty: (),
    m.Hello: (
        ("device_id", _number),
        ("caps", _list),
        ("keepalive_s", _keepalive),
        ("window", _positive),
    ),
    m.Welcome: (
        ("proto", _between(PROTO_MIN, PROTO_MAX)),
        ("user_id", _id),
        ("device_id", _id),
        ("session_id", _id),
        ("caps", _list),
        ("keepalive_s", _positive),
        ("max_frame", _between(MIN_GRANTED_MAX_FRAME, (1 << 32) - 1)),
        ("window", _positive),
        ("server_time_ms", _number),
        ("resume_token", _resume_token),
        ("auth_ttl_s", _number),
    ),
    m.Goaway: (("delay_min_ms", _number), ("delay_max_ms", _number), ("addresses", _list)),
    m.Error: (("code", _number), ("retry_after_ms", _number)),
    m.Close: (("code", _number), ("retry_after_ms", _number)),
    m.State: (("keepalive_s", _keepalive),),
    m.Throttle: (("retry_after_ms", _number),),
    m.Reauth: (),
    m.Sent: (("chat_id", _id), ("seq", _id), ("time_ms", _number), ("prev_seq", _number)),
    m.Msg: (
        ("chat_id", _id),
        ("seq", _id),
        ("prev_seq", _number),
        ("sender_id", _id),
        ("sender_device", _number),
        ("time_ms", _number),
        ("kind", _number),
        ("client_msg_id", _client_id),
        ("target_seq", _number),
    ),
    m.Cursor: (("chat_id", _id), ("seq", _number)),
    m.Ack: _PAIR_LIST,
    m.Read: _PAIR_LIST,
    m.Receipt: (
        ("chat_id", _id),
        ("kind", _number),
        ("seq", _number),
        ("user_id", _id),
        ("count", _number),
        ("sample", _id_list),
    ),
    m.Typing: (("chat_id", _id),),  # user_id says nothing when it comes from a client, whatever it is
    m.Sync: (("pairs", _entries), ("per_chat", _number), ("total", _number)),
    m.ChatNews: (("chat_id", _id), ("head_seq", _number), ("read_seq", _number)),
    m.SyncDone: (("chats", _entries), ("gone", _id_list)),
    m.Gap: (("chat_id", _id), ("after_seq", _number), ("before_seq", _number)),
    m.History: (
        ("chat_id", _id),
        ("before_seq", _number),
        ("after_seq", _number),
        ("limit", _between(1, HISTORY_LIMIT)),
    ),
    m.Page: (("chat_id", _id), ("messages", _entries)),
    m.ChatOpen: (("peer_user_id", _id),),
    m.ChatCreate: (("client_chat_id", _client_id), ("title", _title), ("user_ids", _id_list)),
    m.ChatChange: (
        ("chat_id", _id),
        ("version", _number),
        ("add", _changed_ids),
        ("remove", _changed_ids),
        ("promote", _changed_ids),
        ("demote", _changed_ids),
        ("title", _title),
    ),
    m.ChatLeave: (("chat_id", _id),),
    m.ChatInfo: (("chat_id", _id),),
    m.ChatList: (("limit", _between(1, CHAT_LIST_LIMIT)),),
    m.SystemBody: (("event", _number), ("version", _number), ("user_ids", _id_list), ("title", _title)),
    m.StateOk: (("keepalive_s", _positive),),
    m.ReauthOk: (("auth_ttl_s", _number),),
    m.ChatOpenOk: (("chat_id", _id),),
    m.ChatCreateOk: (("chat_id", _id), ("version", _number)),
    m.ChatChangeOk: (("version", _number),),
    m.MemberEntry: (("user_id", _id), ("role", _number), ("delivered_seq", _number), ("read_seq", _number)),
    m.ChatInfoOk: (
        ("chat_id", _id),
        ("kind", _number),
        ("title", _title),
        ("version", _number),
        ("members", _entries),
        ("head_seq", _number),
    ),
    m.ChatEntry: (
        ("chat_id", _id),
        ("kind", _number),
        ("title", _title),
        ("version", _number),
        ("head_seq", _number),
        ("read_seq", _number),
    ),
    m.ChatListOk: (("chats", _entries),),
}
"""Field by field; an optional field that is absent is not checked."""

_ACROSS_FIELDS: Mapping[type[msgspec.Struct], Callable[[Any], None]] = {
    m.Hello: _check_hello,
    m.Reauth: _check_reauth,
    m.Goaway: _check_goaway,
    m.ChatChange: _check_change,
}


def _apply(message: msgspec.Struct) -> None:
    for name, check in _RULES[type(message)]:
        value = getattr(message, name)
        if value is not None:
            check(name, value)


# ------------------------------------------------------------------------------------------------- public


def validate(message: msgspec.Struct, max_body: int = DEFAULT_MAX_BODY) -> None:
    """Raise ProtocolError for the first field of a decoded message whose value is bad.

    ``max_body`` is the session's max_frame - BODY_MARGIN, in bytes; it bounds SEND and MSG. The code is INVALID, but
    for HELLO: UNSUPPORTED_VERSION for a proto below ours, judged before all else since a client of another version may
    mean other things by the rest, and MALFORMED for a credential whose type is not that of its auth_kind.
    """
    if isinstance(message, m.Send):
        validate_send(message, max_body)
        return
    if isinstance(message, m.Hello):
        check_proto(message.proto)
    _apply(message)
    across = _ACROSS_FIELDS.get(type(message))
    if across is not None:
        across(message)
    if isinstance(message, m.Msg) and len(message.body) > max_body:
        _refuse("body", f"has {len(message.body)} bytes, at most {max_body} are allowed")


def check_proto(newest: int) -> None:
    """``newest`` is the newest version that a client speaks. Above ours is fine: WELCOME says which one it will be."""
    if newest < PROTO_MIN:
        raise ProtocolError(
            Code.UNSUPPORTED_VERSION,
            f"this server speaks version {PROTO_MIN} to {PROTO_MAX}, not {newest}",
            detail=[PROTO_MIN, PROTO_MAX],
        )


def validate_send(send: m.Send, max_body: int) -> None:
    """``validate`` for SEND, the one message whose check is on the hot path: one chain of comparisons accepts the usual
    message (a fraction of a microsecond), and only what fails it is looked at again, field by field.
    """
    if (
        0 < send.chat_id < ID_LIMIT
        and len(send.client_msg_id) == CLIENT_ID_BYTES
        and (send.kind == 0 or send.kind == 5)
        and len(send.body) <= max_body
        and send.target_seq is None
        and send.envelopes is None
        and send.notify is None
    ):
        return
    _id("chat_id", send.chat_id)
    _client_id("client_msg_id", send.client_msg_id)
    _number("kind", send.kind)
    if send.kind == m.Kind.SYSTEM:
        _refuse("kind", f"{send.kind} is the server's own")
    if len(send.body) > max_body:
        _refuse("body", f"has {len(send.body)} bytes, at most {max_body} are allowed")
    _check_target(send)
    if send.notify is not None:
        _number("notify", send.notify)
    if send.envelopes is not None:
        _check_envelopes(send.envelopes, max_body)


def _check_target(send: m.Send) -> None:
    if send.target_seq is not None:
        _number("target_seq", send.target_seq)
    if send.kind in _TARGETED_KINDS and not send.target_seq:
        # Stored, it would be a change of nothing that every reader has to survive for ever.
        _refuse("target_seq", f"is needed for kind {send.kind}")


def _check_envelopes(envelopes: dict[int, bytes], max_body: int) -> None:
    _list("envelopes", envelopes)
    for device_id in envelopes:
        _id("envelopes", device_id)
    size = sum(map(len, envelopes.values()))
    if size > max_body:
        _refuse("envelopes", f"have {size} bytes together, at most {max_body} are allowed")
