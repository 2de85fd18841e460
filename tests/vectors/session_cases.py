"""Vectors of the session: HELLO to OK."""

from __future__ import annotations

from gateway.protocol import messages as m
from gateway.protocol.errors import Code
from gateway.protocol.messages import Op
from tests.vectors.cases import CLIENT, SERVER, Cases, Vector, bad_types

ID_LIMIT = 1 << 63
TIME_MS = 1_790_000_000_123
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiI0MiJ9.c2lnbmF0dXJl"
TOKEN = bytes(range(32))


def _frame(length: int, op: int, tail: bytes = b"") -> bytes:
    return length.to_bytes(4, "big") + bytes([op, 0, 0, 0]) + tail


def _hello() -> Cases:
    fields = [1, "jwt", JWT, 7, []]
    cases = Cases(Op.HELLO, CLIENT, state="greeting")
    cases.good("with a JWT", m.Hello(1, "jwt", JWT, 7, [], 270, 64, "demo/1.0"), rid=1)
    cases.good("with a resume token", m.Hello(1, "resume", TOKEN, 7, ["reactions"]), rid=1)
    cases.good("the token says which device", m.Hello(1, "jwt", JWT, 0, []), rid=1)
    cases.good("of a client that speaks more versions", m.Hello(3, "jwt", JWT, 7, []), rid=1)
    cases.also("without optional fields", fields, m.Hello(1, "jwt", JWT, 7, []), rid=1)
    cases.also("a field from the future", [*fields, None, None, None, {"x": [1]}], m.Hello(1, "jwt", JWT, 7, []), rid=1)
    bad_types(cases, fields, 5)
    cases.bad("a JWT as bytes", [1, "jwt", JWT.encode(), 7, []], Code.MALFORMED)
    cases.bad("a resume token as text", [1, "resume", "token", 7, []], Code.MALFORMED)
    cases.bad("a version before the first", [0, "jwt", JWT, 7, []], Code.UNSUPPORTED_VERSION, rid=1)
    cases.bad("an unknown kind of credential", [1, "password", "secret", 7, []], Code.INVALID, rid=1)
    cases.bad("a negative device", [1, "jwt", JWT, -1, []], Code.INVALID, rid=1)
    cases.bad("keep-alive below 15 s", [*fields, 14], Code.INVALID, rid=1)
    cases.bad("keep-alive above 1800 s", [*fields, 1801], Code.INVALID, rid=1)
    cases.bad("a window of 0", [*fields, None, 0], Code.INVALID, rid=1)
    cases.bad("too many capabilities", [1, "jwt", JWT, 7, ["c"] * 2001], Code.INVALID, rid=1)
    return cases.raw("larger than 4,096 bytes before WELCOME", _frame(4097, Op.HELLO), Code.TOO_LARGE)


def _out_of_turn() -> list[Vector]:
    second = Cases(Op.HELLO, CLIENT).bad("a second one", [1, "jwt", JWT, 7, []], Code.NOT_READY, rid=2)
    ping = Cases(Op.PING, CLIENT, state="greeting").bad("before HELLO", b"", Code.NOT_READY)
    unknown = Cases(0x2A, CLIENT, state="greeting").bad("unknown, before HELLO", b"", Code.NOT_READY, flags=1)
    early = Cases(Op.LAGGED, SERVER, state="greeting").bad("before WELCOME", b"", Code.NOT_READY)
    return [*second.vectors, *ping.vectors, *unknown.vectors, *early.vectors]


def _unknown_ops() -> list[Vector]:
    vectors = []
    for op in (0x00, 0x0B, 0x26, 0x7F):
        vectors += Cases(op, CLIENT).bad("unknown", [1], Code.UNKNOWN_OP, rid=5).vectors
        vectors += Cases(op, CLIENT).skip("unknown, IGNORABLE", [1], flags=1).vectors
        vectors += Cases(op, SERVER).skip("unknown to the client", [1], flags=0).vectors
    for op in (Op.WELCOME, Op.MSG, Op.OK, 0x80, 0xFF):
        vectors += Cases(op, CLIENT).bad("not a client's", b"", Code.UNKNOWN_OP, rid=5).vectors
        vectors += (
            Cases(op, CLIENT).bad("not a client's, though IGNORABLE", b"", Code.UNKNOWN_OP, rid=6, flags=1).vectors
        )
    vectors += Cases(0x80, SERVER).skip("unknown to the client", b"", flags=0).vectors
    return vectors


def _welcome() -> Cases:
    fields = [1, 42, 7, 9001, [], 270, 65_536, 64, TIME_MS, TOKEN, False, 3600]
    message = m.Welcome(1, 42, 7, 9001, [], 270, 65_536, 64, TIME_MS, TOKEN, False, 3600)
    cases = Cases(Op.WELCOME, SERVER, state="greeting", answers=Op.HELLO)
    cases.good("a new session", message, rid=1)
    cases.also("a field from the future", [*fields, "later"], message, rid=1)
    bad_types(cases, fields, 12)
    cases.bad("max_frame below 65,536", [*fields[:6], 65_535, *fields[7:]], Code.INVALID, rid=1)
    cases.bad("user 0", [1, 0, *fields[2:]], Code.INVALID, rid=1)
    return cases.bad("a version that was not offered", [2, *fields[1:]], Code.INVALID, rid=1)


def _heartbeats() -> list[Vector]:
    vectors: list[Vector] = []
    for op, direction in ((Op.PING, CLIENT), (Op.PONG, CLIENT), (Op.PING, SERVER), (Op.PONG, SERVER)):
        asked = Op.PING if (op, direction) == (Op.PONG, SERVER) else None
        cases = Cases(op, direction, answers=asked)
        cases.good("with a rid", m.Empty(), rid=258)
        if asked is None:
            cases.good("with rid 0", m.Empty())
        cases.also("an empty array", b"\x90", m.Empty(), rid=258)
        cases.raw("a length that leaves no room for the header", _frame(3, op)[:7], Code.MALFORMED)
        cases.raw("larger than max_frame", _frame(65_537, op), Code.TOO_LARGE)
        vectors += cases.vectors
    return vectors


def _goaway() -> Cases:
    fields = ["restart", 1000, 30_000, ["chat1.example:7800"]]
    cases = Cases(Op.GOAWAY, SERVER)
    cases.good("to the same address", m.Goaway("restart", 1000, 30_000, []))
    cases.good("to other addresses", m.Goaway("drain", 0, 60_000, ["chat1.example:7800", "[2001:db8::1]:7800"]))
    cases.also("a field from the future", [*fields, 1], m.Goaway("restart", 1000, 30_000, ["chat1.example:7800"]))
    bad_types(cases, fields, 4)
    return cases.bad("a range that ends before it begins", ["x", 2, 1, []], Code.INVALID)


def _error() -> list[Vector]:
    cases = Cases(Op.ERROR, SERVER, answers=Op.SEND)
    cases.good("a request is refused", m.Error(303, "title too long"), rid=9)
    cases.good("slow down", m.Error(400, "sending too fast", 1500), rid=9)
    cases.good("envelopes for a wrong set of devices", m.Error(302, "devices changed", None, [[11], [12, 13]]), rid=9)
    cases.good("a code that this client does not know", m.Error(399, "from the future"), rid=9)
    cases.also("without optional fields", [303, "no"], m.Error(303, "no"), rid=9)
    bad_types(cases, [303, "no", None, None], 2)
    cases.bad("a negative code", [-1, "no"], Code.INVALID, rid=9)
    cases.bad("a float as detail", [303, "no", None, 1.5], Code.MALFORMED, rid=9)
    cases.bad("a detail nine levels deep in all", [303, "no", None, [[[[[[[[1]]]]]]]]], Code.MALFORMED, rid=9)
    last = Cases(Op.ERROR, SERVER)
    last.good("another session of this device took over", m.Error(203, "replaced", None, 9002))
    last.good("this reader is too slow", m.Error(402, "slow consumer", 2000))
    greeting = Cases(Op.ERROR, SERVER, state="greeting", answers=Op.HELLO)
    greeting.good("the resume token is no longer good", m.Error(204, "resume failed"), rid=1)
    greeting.good("the version is not spoken here", m.Error(104, "version", None, [1, 1]), rid=1)
    return [*cases.vectors, *last.vectors, *greeting.vectors]


def _close() -> list[Vector]:
    vectors: list[Vector] = []
    for direction in (CLIENT, SERVER):
        cases = Cases(Op.CLOSE, direction)
        cases.good("normal", m.Close(0, "bye"))
        cases.good("come back later", m.Close(501, "shutting down", 5000))
        cases.also("without optional fields", [0, ""], m.Close(0, ""))
        bad_types(cases, [0, "bye", None], 2)
        cases.bad("a wait that is negative", [501, "later", -1], Code.INVALID)
        vectors += cases.vectors
    return vectors


def _state() -> Cases:
    cases = Cases(Op.STATE, CLIENT)
    cases.good("to the background", m.State(False, 900), rid=3)
    cases.good("to the foreground", m.State(True), rid=3)
    cases.also("without optional fields", [True], m.State(True), rid=3)
    bad_types(cases, [True, 270], 1)
    cases.bad("a number instead of a bool", [1], Code.MALFORMED)
    cases.bad("keep-alive below 15 s", [False, 14], Code.INVALID, rid=3)
    return cases.bad("keep-alive above 1800 s", [False, 1801], Code.INVALID, rid=3)


def _throttle() -> Cases:
    cases = Cases(Op.THROTTLE, SERVER)
    cases.good("sending in one chat", m.Throttle("chat:9223372036854775807", 250))
    cases.good("the whole session", m.Throttle("session", 1000))
    cases.also("a field from the future", ["send", 250, 1], m.Throttle("send", 250))
    bad_types(cases, ["send", 250], 2)
    return cases.bad("a negative wait", ["send", -250], Code.INVALID)


def _reauth() -> Cases:
    cases = Cases(Op.REAUTH, CLIENT)
    cases.good("a new JWT", m.Reauth("jwt", JWT), rid=4)
    cases.also("a field from the future", ["jwt", JWT, 1], m.Reauth("jwt", JWT), rid=4)
    bad_types(cases, ["jwt", JWT], 2)
    cases.bad("a JWT as bytes", ["jwt", JWT.encode()], Code.MALFORMED)
    return cases.bad("anything but a JWT", ["resume", "token"], Code.INVALID, rid=4)


def _ok() -> list[Vector]:
    members = [m.MemberEntry(42, 1, 9, 9), m.MemberEntry(43, 0, 9, 5)]
    chats = [m.ChatEntry(5001, 1, "Team", 3, 9, 9), m.ChatEntry(5002, 0, "", 1, 4, 2)]
    answers: list[
        tuple[
            Op,
            m.StateOk
            | m.ReauthOk
            | m.Empty
            | m.ChatInfoOk
            | m.ChatListOk
            | m.ChatOpenOk
            | m.ChatCreateOk
            | m.ChatChangeOk,
        ]
    ] = [
        (Op.STATE, m.StateOk(900)),
        (Op.REAUTH, m.ReauthOk(3600)),
        (Op.ACK, m.Empty()),
        (Op.READ, m.Empty()),
        (Op.TYPING, m.Empty()),
        (Op.CHAT_OPEN, m.ChatOpenOk(5002)),
        (Op.CHAT_CREATE, m.ChatCreateOk(5001, 1)),
        (Op.CHAT_CHANGE, m.ChatChangeOk(4)),
        (Op.CHAT_LEAVE, m.Empty()),
        (Op.CHAT_INFO, m.ChatInfoOk(5001, 1, "Team", 3, members, 9)),
        (Op.CHAT_LIST, m.ChatListOk(chats, b"\x01\x02")),
    ]
    vectors: list[Vector] = []
    for request, message in answers:
        vectors += Cases(Op.OK, SERVER, answers=request).good(f"to {request.name}", message, rid=12).vectors
    more = Cases(Op.OK, SERVER, answers=Op.CHAT_OPEN)
    more.also("a field from the future", [5002, 1], m.ChatOpenOk(5002), rid=12)
    more.bad("a chat id that is text", ["5002"], Code.MALFORMED, rid=12)
    more.bad("chat 0", [0], Code.INVALID, rid=12)
    more.bad("without the result", b"", Code.MALFORMED, rid=12)
    last_page = Cases(Op.OK, SERVER, answers=Op.CHAT_LIST)
    last_page.also("no cursor: the last page", [[]], m.ChatListOk([]), rid=12)
    return [*vectors, *more.vectors, *last_page.vectors]


def _header() -> list[Vector]:
    ping = Cases(Op.PING, CLIENT)
    ping.raw("a length of 0", bytes(4), Code.MALFORMED)
    ping.raw("the largest length", b"\xff\xff\xff\xff", Code.TOO_LARGE)
    flags = Cases(Op.PING, CLIENT).also("flag bits of the future", b"", m.Empty(), rid=1, flags=0xFE)
    return [*ping.vectors, *flags.vectors]


def session_vectors() -> list[Vector]:
    one_op_each = [_hello(), _welcome(), _goaway(), _state(), _throttle(), _reauth()]
    return [
        *(vector for cases in one_op_each for vector in cases.vectors),
        *_heartbeats(),
        *_error(),
        *_close(),
        *_ok(),
    ]


def framing_vectors() -> list[Vector]:
    return [*_header(), *_out_of_turn(), *_unknown_ops()]
