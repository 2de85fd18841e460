"""Vectors of messages: SEND to LAGGED."""

from __future__ import annotations

from typing import Any

from gateway.protocol import messages as m
from gateway.protocol.errors import Code
from gateway.protocol.frames import encode_body
from gateway.protocol.identifiers import seq_of
from gateway.protocol.messages import Op
from tests.vectors.cases import CLIENT, SERVER, Cases, Vector, bad_types

TOP = (1 << 63) - 1
CHAT = 5001
MESSAGE_ID = bytes.fromhex("0f1e2d3c4b5a69788796a5b4c3d2e1f0")
TIME_MS = 1_790_000_000_123
SEQ = seq_of(3, 17)
PREV = seq_of(3, 16)
WIDE_42 = b"\xd3" + (42).to_bytes(8, "big")
"""42 in the longest form there is, and a signed one at that."""


def _send() -> Cases:
    fields: list[Any] = [CHAT, MESSAGE_ID, 0, b"hello"]
    plain = m.Send(CHAT, MESSAGE_ID, 0, b"hello")
    cases = Cases(Op.SEND, CLIENT)
    cases.good("a text", plain, rid=17)
    cases.good("again, after a lost connection", m.Send(CHAT, MESSAGE_ID, 0, b"hello", True), rid=18)
    cases.good("an edit", m.Send(CHAT, MESSAGE_ID, 1, b"hello!", None, SEQ), rid=19)
    cases.good("a reaction is withdrawn", m.Send(CHAT, MESSAGE_ID, 3, b"", None, SEQ), rid=20)
    cases.good(
        "envelopes for two devices", m.Send(CHAT, MESSAGE_ID, 0, b"", None, None, {8: b"\x01", 9: b"\x02"}), rid=21
    )
    cases.good("without a receipt, waking nobody", m.Send(CHAT, MESSAGE_ID, 5, b"x", None, None, None, 0), rid=22)
    cases.good("a kind of the application, the largest ids", m.Send(TOP, MESSAGE_ID, TOP, b"", False, TOP), rid=65_535)
    cases.good("nobody waits for the answer", plain)
    cases.also("without optional fields", fields, plain, rid=17)
    cases.also("a field from the future", [*fields, None, None, None, None, 9], plain, rid=17)
    wide = (
        b"\xdd\x00\x00\x00\x04" + WIDE_42 + b"\xc6\x00\x00\x00\x10" + MESSAGE_ID + b"\xcf" + bytes(8) + b"\xc5\x00\x01x"
    )
    cases.also("every length and number in a longer form", wide, m.Send(42, MESSAGE_ID, 0, b"x"), rid=17)
    bad_types(cases, fields, 4)
    cases.bad("text as body", [CHAT, MESSAGE_ID, 0, "hello"], Code.MALFORMED, rid=17)
    cases.bad("true as kind", [CHAT, MESSAGE_ID, True, b""], Code.MALFORMED, rid=17)
    cases.bad("an envelope for a device named by text", [*fields, None, None, {"8": b""}], Code.MALFORMED, rid=17)
    for name, values in {
        "chat 0": [0, MESSAGE_ID, 0, b""],
        "a negative chat": [-1, MESSAGE_ID, 0, b""],
        "a chat of 2^63": [1 << 63, MESSAGE_ID, 0, b""],
        "an id of 15 bytes": [CHAT, MESSAGE_ID[:15], 0, b""],
        "an id of 17 bytes": [CHAT, MESSAGE_ID + b"\0", 0, b""],
        "a negative kind": [CHAT, MESSAGE_ID, -1, b""],
        "the server's own kind": [CHAT, MESSAGE_ID, 4, b""],
        "an edit of nothing": [CHAT, MESSAGE_ID, 1, b""],
        "a target of 2^63": [*fields, None, 1 << 63],
        "a negative notify": [*fields, None, None, None, -1],
        "an envelope for device 0": [*fields, None, None, {0: b""}],
        "a body of max_frame - 255 bytes": [CHAT, MESSAGE_ID, 0, bytes(65_281)],
        "envelopes of max_frame - 255 bytes together": [*fields, None, None, {8: bytes(32_641), 9: bytes(32_640)}],
    }.items():
        cases.bad(name, values, Code.INVALID, rid=17)
    return cases


def _sent() -> Cases:
    fields = [CHAT, SEQ, TIME_MS, False, PREV]
    cases = Cases(Op.SENT, SERVER, answers=Op.SEND)
    cases.good("stored", m.Sent(CHAT, SEQ, TIME_MS, False, PREV), rid=17)
    cases.good("it had been stored before", m.Sent(CHAT, SEQ, TIME_MS, True, PREV), rid=17)
    cases.good("the first of its chat", m.Sent(CHAT, seq_of(1, 1), TIME_MS, False, 0), rid=17)
    cases.also("a field from the future", [*fields, 1], m.Sent(CHAT, SEQ, TIME_MS, False, PREV), rid=17)
    bad_types(cases, fields, 5)
    return cases.bad("seq 0", [CHAT, 0, TIME_MS, False, 0], Code.INVALID, rid=17)


def _msg() -> Cases:
    fields = [CHAT, SEQ, PREV, 43, 8, TIME_MS, 0, b"hello", MESSAGE_ID]
    system = encode_body(m.SystemBody(1, 4, [44, 45]))
    cases = Cases(Op.MSG, SERVER)
    cases.good("a text", m.Msg(CHAT, SEQ, PREV, 43, 8, TIME_MS, 0, b"hello", MESSAGE_ID))
    cases.good("a reaction", m.Msg(CHAT, SEQ, PREV, 43, 8, TIME_MS, 3, b"+1", MESSAGE_ID, seq_of(2, 9)))
    cases.good("a system message", m.Msg(CHAT, SEQ, PREV, 42, 0, TIME_MS, 4, system, bytes(16)))
    cases.good("a kind of the future", m.Msg(TOP, TOP, TOP - 1, TOP, TOP, TOP, 63, b"", MESSAGE_ID))
    cases.also("without optional fields", fields, m.Msg(CHAT, SEQ, PREV, 43, 8, TIME_MS, 0, b"hello", MESSAGE_ID))
    bad_types(cases, fields, 9)
    cases.bad("a time before 1970", [*fields[:5], -1, *fields[6:]], Code.INVALID)
    return cases.bad("an id of 8 bytes", [*fields[:8], bytes(8)], Code.INVALID)


def _cursors() -> list[Vector]:
    vectors: list[Vector] = []
    for op, message in ((Op.ACK, m.Ack), (Op.READ, m.Read)):
        cases = Cases(op, CLIENT)
        cases.good("of two chats", message([m.Cursor(CHAT, SEQ), m.Cursor(5002, 0)]))
        cases.good("with an answer", message([m.Cursor(CHAT, SEQ)]), rid=30)
        cases.also("fields from the future", [[[CHAT, SEQ, 1]], 2], message([m.Cursor(CHAT, SEQ)]))
        bad_types(cases, [[[CHAT, SEQ]]], 1)
        cases.bad("the pairs without their list", [[CHAT, SEQ]], Code.MALFORMED)
        cases.bad("chat 0", [[[0, SEQ]]], Code.INVALID, rid=30)
        cases.bad("a negative cursor", [[[CHAT, -1]]], Code.INVALID, rid=30)
        cases.bad("too many pairs", [[[CHAT, 1]] * 2001], Code.INVALID, rid=30)
        vectors += cases.vectors
    return vectors


def _receipt() -> Cases:
    cases = Cases(Op.RECEIPT, SERVER)
    cases.good("delivered to the peer", m.Receipt(CHAT, 0, SEQ, 43))
    cases.good("read by some of a group", m.Receipt(CHAT, 1, SEQ, None, 12, [43, 44, 45]))
    cases.also("without optional fields", [CHAT, 1, SEQ], m.Receipt(CHAT, 1, SEQ))
    bad_types(cases, [CHAT, 1, SEQ], 3)
    return cases.bad("a negative count", [CHAT, 1, SEQ, None, -1], Code.INVALID)


def _typing() -> list[Vector]:
    sent = Cases(Op.TYPING, CLIENT)
    sent.good("begins", m.Typing(CHAT, 0, True)).good("ends", m.Typing(CHAT, 0, False), rid=31)
    sent.good("whatever user it names", m.Typing(CHAT, -5, True))
    sent.also("a field from the future", [CHAT, 0, True, 1], m.Typing(CHAT, 0, True))
    bad_types(sent, [CHAT, 0, True], 3).bad("chat 0", [0, 0, True], Code.INVALID, rid=31)
    seen = Cases(Op.TYPING, SERVER).good("somebody types", m.Typing(CHAT, 43, True))
    seen.also("a field from the future", [CHAT, 43, True, 1], m.Typing(CHAT, 43, True))
    bad_types(seen, [CHAT, 43, True], 3)
    return [*sent.vectors, *seen.vectors]


def _sync() -> Cases:
    cases = Cases(Op.SYNC, CLIENT)
    cases.good("from the server's record", m.Sync(), rid=40)
    cases.good("a new install", m.Sync([]), rid=40)
    cases.good("from the client's own cursors", m.Sync([m.Cursor(CHAT, SEQ)], True, 50, 500), rid=40)
    cases.good("only what there is, no messages", m.Sync(None, None, None, 0), rid=40)
    cases.also("an empty body", b"", m.Sync(), rid=40)
    cases.also("an empty array", [], m.Sync(), rid=40)
    bad_types(cases, [[[CHAT, SEQ]], True, 50, 500], 0)
    cases.bad("a number instead of pairs", [5], Code.MALFORMED)
    cases.bad("chat 0", [[[0, 1]]], Code.INVALID, rid=40)
    cases.bad("a negative total", [None, None, None, -1], Code.INVALID, rid=40)
    return cases.bad("too many pairs", [[[CHAT, 1]] * 2001], Code.INVALID, rid=40)


def _sync_done() -> Cases:
    cases = Cases(Op.SYNC_DONE, SERVER, answers=Op.SYNC)
    news = [m.ChatNews(CHAT, SEQ, PREV)]
    cases.good("nothing new", m.SyncDone([]), rid=40)
    cases.good("a chat with news, a chat that is gone", m.SyncDone(news, None, [5003]), rid=40)
    cases.good("another one follows", m.SyncDone(news, True), rid=40)
    cases.also("without optional fields", [[[CHAT, SEQ, PREV, 9]]], m.SyncDone(news), rid=40)
    bad_types(cases, [[[CHAT, SEQ, PREV]]], 1)
    return cases.bad("chat 0", [[[0, SEQ, PREV]]], Code.INVALID, rid=40)


def _gap() -> Cases:
    cases = Cases(Op.GAP, SERVER)
    cases.good("before the messages of a SYNC", m.Gap(CHAT, seq_of(1, 4), seq_of(3, 2)))
    cases.also("a field from the future", [CHAT, 0, SEQ, 1], m.Gap(CHAT, 0, SEQ))
    bad_types(cases, [CHAT, 0, SEQ], 3)
    return cases.bad("a bound of 2^63", [CHAT, 0, 1 << 63], Code.INVALID)


def _history() -> Cases:
    cases = Cases(Op.HISTORY, CLIENT)
    cases.good("the newest", m.History(CHAT, None, None, 50), rid=50)
    cases.good("older than", m.History(CHAT, SEQ, None, 200), rid=50)
    cases.good("newer than", m.History(CHAT, None, PREV, 1), rid=50)
    cases.good("between", m.History(CHAT, SEQ, seq_of(1, 4), 100), rid=50)
    cases.also("a field from the future", [CHAT, None, None, 50, 1], m.History(CHAT, None, None, 50), rid=50)
    bad_types(cases, [CHAT, None, None, 50], 4)
    cases.bad("a limit of 0", [CHAT, None, None, 0], Code.INVALID, rid=50)
    cases.bad("a limit of 201", [CHAT, None, None, 201], Code.INVALID, rid=50)
    return cases.bad("a bound of 2^63", [CHAT, 1 << 63, None, 50], Code.INVALID, rid=50)


def _page() -> Cases:
    one = [CHAT, SEQ, PREV, 43, 8, TIME_MS, 0, b"hello", MESSAGE_ID]
    message = m.Msg(CHAT, SEQ, PREV, 43, 8, TIME_MS, 0, b"hello", MESSAGE_ID)
    cases = Cases(Op.PAGE, SERVER, answers=Op.HISTORY)
    cases.good("the last one", m.Page(CHAT, True, [message]), rid=50)
    cases.good("nothing there", m.Page(CHAT, True, []), rid=50)
    cases.also("fields from the future", [CHAT, True, [[*one, None, 1]], 2], m.Page(CHAT, True, [message]), rid=50)
    bad_types(cases, [CHAT, True, [one]], 3)
    cases.bad("a message cut short", [CHAT, True, [one[:8]]], Code.MALFORMED, rid=50)
    return cases.bad("a message with seq 0", [CHAT, True, [[CHAT, 0, *one[2:]]]], Code.INVALID, rid=50)


def _lagged() -> Cases:
    cases = Cases(Op.LAGGED, SERVER).good("SYNC is due", m.Empty())
    cases.also("an empty array", b"\x90", m.Empty()).also("a field from the future", [1], m.Empty())
    return cases.bad("a map", {}, Code.MALFORMED)


def message_vectors() -> list[Vector]:
    before = [_send(), _sent(), _msg(), _receipt()]
    after = [_sync(), _sync_done(), _gap(), _history(), _page(), _lagged()]
    return [
        *(vector for cases in before for vector in cases.vectors),
        *_cursors(),
        *_typing(),
        *(vector for cases in after for vector in cases.vectors),
    ]
