"""Vectors of chats: CHAT_OPEN to CHAT_LIST. Their replies are among those of OK."""

from __future__ import annotations

from gateway.protocol import messages as m
from gateway.protocol.errors import Code
from gateway.protocol.messages import Op
from tests.vectors.cases import CLIENT, Cases, Vector, bad_types

CHAT = 5001
CREATE_ID = bytes.fromhex("00112233445566778899aabbccddeeff")


def _open() -> Cases:
    cases = Cases(Op.CHAT_OPEN, CLIENT).good("with a peer", m.ChatOpen(43), rid=60)
    cases.also("a field from the future", [43, 1], m.ChatOpen(43), rid=60)
    bad_types(cases, [43], 1)
    return cases.bad("user 0", [0], Code.INVALID, rid=60)


def _create() -> Cases:
    longest = "é" * 128
    cases = Cases(Op.CHAT_CREATE, CLIENT)
    cases.good("a group of three", m.ChatCreate(CREATE_ID, "Team", [43, 44]), rid=61)
    cases.good("the longest title, nobody else", m.ChatCreate(CREATE_ID, longest, []), rid=61)
    cases.also("a field from the future", [CREATE_ID, "Team", [43], 1], m.ChatCreate(CREATE_ID, "Team", [43]), rid=61)
    bad_types(cases, [CREATE_ID, "Team", [43, 44]], 3)
    cases.bad("a title as bytes", [CREATE_ID, b"Team", []], Code.MALFORMED, rid=61)
    cases.bad("a title that is not UTF-8", b"\x93\xc4\x10" + CREATE_ID + b"\xa1\xff\x90", Code.MALFORMED, rid=61)
    cases.bad("a title of 257 bytes", [CREATE_ID, longest + "x", []], Code.INVALID, rid=61)
    cases.bad("an id of 4 bytes", [b"abcd", "Team", []], Code.INVALID, rid=61)
    cases.bad("user 0", [CREATE_ID, "Team", [43, 0]], Code.INVALID, rid=61)
    return cases.bad("too many users", [CREATE_ID, "Team", list(range(1, 2002))], Code.INVALID, rid=61)


def _change() -> Cases:
    cases = Cases(Op.CHAT_CHANGE, CLIENT)
    cases.good("add and remove", m.ChatChange(CHAT, 3, [45], [43]), rid=62)
    cases.good("promote and demote", m.ChatChange(CHAT, None, None, None, [44], [42]), rid=62)
    cases.good("a new title", m.ChatChange(CHAT, None, None, None, None, None, "Crew"), rid=62)
    cases.also("without optional fields", [CHAT], m.ChatChange(CHAT), rid=62)
    bad_types(cases, [CHAT, 3, [45], [43]], 1)
    cases.bad("501 users to add", [CHAT, None, list(range(1, 502))], Code.INVALID, rid=62)
    cases.bad("a negative version", [CHAT, -1], Code.INVALID, rid=62)
    cases.bad("the same user in and out", [CHAT, None, [45], [45]], Code.INVALID, rid=62)
    return cases.bad("a title of 257 bytes", [CHAT, *[None] * 5, "x" * 257], Code.INVALID, rid=62)


def _leave_and_ask() -> list[Vector]:
    vectors: list[Vector] = []
    for op, message in ((Op.CHAT_LEAVE, m.ChatLeave(CHAT)), (Op.CHAT_INFO, m.ChatInfo(CHAT))):
        cases = Cases(op, CLIENT).good("a chat", message, rid=63)
        cases.also("a field from the future", [CHAT, 1], message, rid=63)
        bad_types(cases, [CHAT], 1)
        vectors += cases.bad("chat 0", [0], Code.INVALID, rid=63).vectors
    return vectors


def _list() -> Cases:
    cases = Cases(Op.CHAT_LIST, CLIENT)
    cases.good("the first page", m.ChatList(None, 100), rid=64)
    cases.good("the next page", m.ChatList(b"\x01\x02", 200), rid=64)
    cases.also("a field from the future", [None, 100, 1], m.ChatList(None, 100), rid=64)
    bad_types(cases, [None, 100], 2)
    cases.bad("a cursor as text", ["next", 100], Code.MALFORMED, rid=64)
    cases.bad("a limit of 0", [None, 0], Code.INVALID, rid=64)
    return cases.bad("a limit of 201", [None, 201], Code.INVALID, rid=64)


def chat_vectors() -> list[Vector]:
    return [*_open().vectors, *_create().vectors, *_change().vectors, *_leave_and_ask(), *_list().vectors]
