"""Bytes that no client should send: each is answered with the code that docs/protocol.md names, and hurts nobody else."""

from __future__ import annotations

import json
import os
import pathlib
import random
import struct
from collections.abc import Callable, Iterator
from typing import Any

import msgpack  # type: ignore[import-untyped]
import pytest

import tests.vectors
from gateway.protocol.errors import Code, ends_connection
from gateway.protocol.frames import HEADER, IGNORABLE, encode, encode_payload
from gateway.protocol.messages import CLIENT_OPS, Op, Sent, Sync
from tests.node.wire import Ended, Wire, code_of, hello, message
from tests.nodes import NodeProcess

Login = Callable[..., Wire]
Connect = Callable[..., Wire]
NewUser = Callable[[], int]

FOLDER = pathlib.Path(next(iter(tests.vectors.__path__)))
VECTORS: list[dict[str, Any]] = [
    entry
    for path in sorted(FOLDER.glob("*.json"))
    for entry in json.loads(path.read_text(encoding="utf-8"))
    if entry["direction"] == "client"
]
BAD = [entry for entry in VECTORS if "error" in entry]
GOOD = [entry for entry in VECTORS if "meaning" in entry and entry["state"] == "live" and entry["op"] != "CLOSE"]
SERVER_ONLY = sorted(op for op in Op if op not in CLIENT_OPS)
ID = bytes(range(16))
BODY_LIMIT = 65_536 - 256


@pytest.fixture(scope="module")
def bystanders(node: NodeProcess, user_ids: Iterator[int]) -> Iterator[list[tuple[Wire, int]]]:
    """Somebody else on each worker of the same node, with a chat."""
    found: dict[int | None, Wire] = {}
    while len(found) < len(node.worker_pids()):
        wire = Wire(node.port)
        found.setdefault(node.worker_of(wire.socket), wire)
    for wire in found.values():
        wire.welcome(node.token(user_id := next(user_ids), user_id))
    yield [(wire, wire.open_direct(next(user_ids))) for wire in found.values()]
    for wire in found.values():
        wire.close()


@pytest.fixture(autouse=True)
def others_do_not_notice(node: NodeProcess, bystanders: list[tuple[Wire, int]]) -> Iterator[None]:
    workers = node.worker_pids()
    yield
    for wire, chat_id in bystanders:
        wire.say(chat_id, b"all is well")
        assert not wire.frames
    assert node.worker_pids() == workers
    assert [line for line in node.lines if "request_failed" in line or "Traceback" in line] == []


def _name(entry: dict[str, Any]) -> str:
    return str(entry["name"])


def _send_whole(wire: Wire, data: bytes) -> None:
    """The server may have hung up before all of it was written."""
    try:
        wire.write(data)
    except (BrokenPipeError, ConnectionResetError):
        return


def _check_answer(wire: Wire, data: bytes, rid: int, code: int) -> None:
    """``data`` is answered with the code, which ends the connection or does not; rid 0 hears only an end."""
    _send_whole(wire, data)
    if ends_connection(code):
        assert wire.ending() == (Op.ERROR, code)
        return
    if rid:
        assert code_of(wire.reply(rid)) == code
    wire.barrier()
    assert not wire.frames


# --------------------------------------------------------------------------------------------- the vectors


@pytest.mark.parametrize("entry", BAD, ids=_name)
def test_a_bad_vector_is_answered_with_its_code(
    node: NodeProcess, login: Login, connect: Connect, new_user: NewUser, entry: dict[str, Any]
) -> None:
    data, rid, code = bytes.fromhex(entry["bytes"]), entry["rid"], entry["error"]
    if entry["state"] == "live":
        _check_answer(login(node, new_user()), data, rid, code)
        return
    wire = connect(node)
    _send_whole(wire, data)
    if ends_connection(code):
        assert wire.ending() == (Op.ERROR, code)
    else:
        assert code_of(wire.reply(rid)) == code
        assert wire.greet(node.token(new_user(), 1)).op == Op.WELCOME


@pytest.mark.parametrize("entry", GOOD, ids=_name)
def test_a_good_vector_has_one_answer_if_it_has_a_rid(
    node: NodeProcess, login: Login, new_user: NewUser, entry: dict[str, Any]
) -> None:
    """Its chat is not there, its token no good: a reply all the same, and never a fault of the server's."""
    wire = login(node, new_user())
    wire.write(bytes.fromhex(entry["bytes"]))
    if entry["rid"] and entry["op"] != "PONG":
        frame = wire.reply(entry["rid"])
        assert frame.op != Op.ERROR or code_of(frame) // 100 in (2, 3)
    wire.barrier()
    assert not [frame for frame in wire.frames if frame.op not in (Op.PONG, Op.MSG)]


# ------------------------------------------------------------------------------------------------- framing


@pytest.mark.parametrize("length", [0, 3])
@pytest.mark.parametrize("is_live", [False, True])
def test_a_length_below_4_is_100_and_the_end(
    node: NodeProcess, login: Login, connect: Connect, new_user: NewUser, length: int, is_live: bool
) -> None:
    wire = login(node, new_user()) if is_live else connect(node)
    wire.write(struct.pack(">I", length) + bytes(length))
    assert wire.ending() == (Op.ERROR, Code.MALFORMED)


@pytest.mark.parametrize("length", [4097, 65_536, (1 << 32) - 1])
def test_a_frame_above_4096_before_welcome_is_101_as_soon_as_its_length_is_there(
    node: NodeProcess, connect: Connect, length: int
) -> None:
    wire = connect(node)
    wire.write(struct.pack(">I", length))
    assert wire.ending() == (Op.ERROR, Code.TOO_LARGE)


@pytest.mark.parametrize("length", [65_537, 1 << 24, (1 << 32) - 1])
def test_a_frame_above_max_frame_is_101_as_soon_as_its_length_is_there(
    node: NodeProcess, login: Login, new_user: NewUser, length: int
) -> None:
    wire = login(node, new_user())
    wire.write(struct.pack(">I", length))
    assert wire.ending() == (Op.ERROR, Code.TOO_LARGE)


def test_a_frame_of_exactly_max_frame_is_taken(node: NodeProcess, login: Login, new_user: NewUser) -> None:
    wire = login(node, new_user())
    wire.write(HEADER.pack(65_536, Op.PING, 0, 8) + bytes(65_532))
    assert wire.reply(8).op == Op.PONG


def test_a_hello_of_exactly_4096_is_judged_and_one_of_4097_is_not(node: NodeProcess, connect: Connect) -> None:
    for length, code in ((4096, Code.MALFORMED), (4097, Code.TOO_LARGE)):
        wire = connect(node)
        _send_whole(wire, HEADER.pack(length, Op.HELLO, 0, 1) + bytes(length - 4))
        assert wire.ending() == (Op.ERROR, code)


def test_a_large_frame_behind_hello_is_judged_by_the_limit_after_welcome(
    node: NodeProcess, connect: Connect, new_user: NewUser
) -> None:
    wire = connect(node)
    large = encode_payload(Op.PING, bytes(20_000), rid=2)
    wire.write(encode(Op.HELLO, hello(node.token(new_user(), 1)), rid=1) + large)
    assert wire.reply(1).op == Op.WELCOME
    assert wire.reply(2).op == Op.PONG


def test_frames_byte_by_byte_are_the_same_frames(node: NodeProcess, connect: Connect, new_user: NewUser) -> None:
    wire = connect(node)
    stream = encode(Op.HELLO, hello(node.token(new_user(), 1)), rid=1) + encode(Op.PING, rid=2)
    for byte in stream + encode(Op.SYNC, Sync(None), rid=3):
        wire.write(bytes([byte]))
    assert [wire.next().op for _ in range(3)] == [Op.WELCOME, Op.PONG, Op.SYNC_DONE]


def test_frames_glued_and_cut_anywhere_are_the_same_frames(node: NodeProcess, login: Login, new_user: NewUser) -> None:
    wire, cuts = login(node, new_user()), random.Random(7)
    chat_id = wire.open_direct(new_user())
    rids = range(100, 150)
    stream = b"".join(encode(Op.SEND, message(chat_id, b"%d" % rid * 40), rid=rid) for rid in rids)
    while stream:
        size = cuts.choice([1, 3, 7, 8, 9, 200, 5000])
        wire.write(stream[:size])
        stream = stream[size:]
    seqs = [wire.result(rid, Sent).seq for rid in rids]
    assert seqs == sorted(set(seqs))


def test_a_connection_cut_in_the_middle_of_a_frame_stores_nothing_of_it(
    node: NodeProcess, login: Login, new_user: NewUser
) -> None:
    user_id = new_user()
    wire = login(node, user_id)
    chat_id = wire.open_direct(new_user())
    wire.write(
        encode(Op.SEND, message(chat_id, b"whole"), rid=1) + encode(Op.SEND, message(chat_id, b"cut"), rid=2)[:-1]
    )
    assert wire.result(1, Sent).seq
    wire.close()
    assert [row.body for row in login(node, user_id).whole_log(chat_id)] == [b"whole"]


@pytest.mark.parametrize("seed", range(6))
def test_random_bytes_end_only_their_own_connection(
    node: NodeProcess, login: Login, connect: Connect, new_user: NewUser, seed: int
) -> None:
    noise = random.Random(seed)
    wire = login(node, new_user()) if seed % 2 else connect(node)
    _send_whole(wire, noise.randbytes(70_000))
    frames = wire.until_end()
    assert code_of(frames[-1]) in (Code.MALFORMED, Code.TOO_LARGE, Code.NOT_READY)


@pytest.mark.parametrize("op", sorted(CLIENT_OPS))
def test_random_bodies_are_malformed_or_invalid_or_refused(
    node: NodeProcess, login: Login, new_user: NewUser, op: Op
) -> None:
    noise, user_id = random.Random(op), new_user()
    for _ in range(12):
        wire = login(node, user_id)
        for rid in range(1, 10):
            _send_whole(wire, encode_payload(op, noise.randbytes(noise.randrange(1, 40)), rid=rid))
        _send_whole(wire, encode(Op.PING, rid=500))
        try:
            wire.reply(500)
        except Ended:
            assert all(frame.op in (Op.PONG, Op.ERROR, Op.OK) for frame in wire.frames)


# -------------------------------------------------------------------------------------------------- bodies

DEEP = b"\x91" * 3000
MALFORMED: dict[str, tuple[int, bytes]] = {
    "SEND: nested 3,000 deep": (Op.SEND, DEEP),
    "SEND: nested 3,000 deep in an unknown field": (
        Op.SEND,
        b"\x99" + msgpack.packb([1, ID, 0, b"", None, None, None, None])[1:] + DEEP,
    ),
    "SEND: an array of 2^32 - 1": (Op.SEND, b"\xdd\xff\xff\xff\xff"),
    "SEND: a bin of 2^32 - 1": (Op.SEND, b"\x94\x01\xc6\xff\xff\xff\xff"),
    "SEND: a map of 2^32 - 1": (Op.SEND, b"\x97\x01\xc4\x10" + ID + b"\x00\xc4\x00\xc0\xc0\xdf\xff\xff\xff\xff"),
    "SEND: str for bin": (Op.SEND, msgpack.packb([1, "x" * 16, 0, b""])),
    "SEND: body as str": (Op.SEND, msgpack.packb([1, ID, 0, "text"])),
    "SEND: bool for int": (Op.SEND, msgpack.packb([True, ID, 0, b""])),
    "SEND: a timestamp": (Op.SEND, b"\x94\xd6\xff\x00\x00\x00\x00\xc4\x10" + ID + b"\x00\xc4\x00"),
    "SEND: the byte that MessagePack never uses": (Op.SEND, b"\xc1"),
    "HISTORY: text as limit": (Op.HISTORY, msgpack.packb([1, None, None, "9"])),
    "CHAT_CREATE: a title that is not UTF-8": (Op.CHAT_CREATE, b"\x93\xc4\x10" + ID + b"\xa2\xff\xfe\x90"),
    "CHAT_CREATE: a float among the users": (Op.CHAT_CREATE, msgpack.packb([ID, "t", [1.0]])),
    "ACK: one more array": (Op.ACK, b"\x91\x90\x90"),
    "SYNC: an array after the array": (Op.SYNC, b"\x90\x90"),
    "STATE: nothing": (Op.STATE, b""),
    "CLOSE: nothing": (Op.CLOSE, b""),
}


@pytest.mark.parametrize("what", MALFORMED)
@pytest.mark.parametrize("rid", [0, 12])
def test_a_malformed_body_is_100_and_the_end(
    node: NodeProcess, login: Login, new_user: NewUser, what: str, rid: int
) -> None:
    op, body = MALFORMED[what]
    _check_answer(login(node, new_user()), encode_payload(op, body, rid=rid), rid, Code.MALFORMED)


TOP = 1 << 63
INVALID: dict[str, tuple[int, list[Any]]] = {
    "SEND: chat 0": (Op.SEND, [0, ID, 0, b""]),
    "SEND: chat -1": (Op.SEND, [-1, ID, 0, b""]),
    "SEND: chat 2^63": (Op.SEND, [TOP, ID, 0, b""]),
    "SEND: chat 2^64 - 1": (Op.SEND, [2 * TOP - 1, ID, 0, b""]),
    "SEND: chat -2^63": (Op.SEND, [-TOP, ID, 0, b""]),
    "SEND: kind 2^63": (Op.SEND, [1, ID, TOP, b""]),
    "SEND: kind -1": (Op.SEND, [1, ID, -1, b""]),
    "SEND: kind 4, the server's own": (Op.SEND, [1, ID, 4, b""]),
    "SEND: an edit of nothing": (Op.SEND, [1, ID, 1, b"new"]),
    "SEND: target 2^64 - 1": (Op.SEND, [1, ID, 0, b"", None, 2 * TOP - 1]),
    "SEND: an id of 15 bytes": (Op.SEND, [1, ID[:15], 0, b""]),
    "SEND: an id of 17 bytes": (Op.SEND, [1, ID + b"x", 0, b""]),
    "SEND: a body that is one byte too long": (Op.SEND, [1, ID, 0, bytes(BODY_LIMIT + 1)]),
    "SEND: envelopes": (Op.SEND, [1, ID, 0, b"", None, None, {7: b"x"}]),
    "SEND: notify -1": (Op.SEND, [1, ID, 0, b"", None, None, None, -1]),
    "ACK: cursor 2^63": (Op.ACK, [[[1, TOP]]]),
    "ACK: 2,001 pairs": (Op.ACK, [[[1, 1]] * 2001]),
    "READ: chat 2^64 - 1": (Op.READ, [[[2 * TOP - 1, 1]]]),
    "TYPING: chat 0": (Op.TYPING, [0, 0, True]),
    "SYNC: per_chat 2^63": (Op.SYNC, [None, None, TOP]),
    "SYNC: total -1": (Op.SYNC, [None, None, None, -1]),
    "HISTORY: before 2^64 - 1": (Op.HISTORY, [1, 2 * TOP - 1, None, 10]),
    "HISTORY: after -1": (Op.HISTORY, [1, None, -1, 10]),
    "HISTORY: limit 0": (Op.HISTORY, [1, None, None, 0]),
    "HISTORY: limit 2^64 - 1": (Op.HISTORY, [1, None, None, 2 * TOP - 1]),
    "CHAT_OPEN: 0": (Op.CHAT_OPEN, [0]),
    "CHAT_OPEN: 2^63": (Op.CHAT_OPEN, [TOP]),
    "CHAT_CREATE: a title of 257 bytes": (Op.CHAT_CREATE, [ID, "x" * 257, []]),
    "CHAT_CREATE: a title of 129 letters, 258 bytes": (Op.CHAT_CREATE, [ID, "ä" * 129, []]),
    "CHAT_CREATE: 2,001 users": (Op.CHAT_CREATE, [ID, "", list(range(1, 2002))]),
    "CHAT_CREATE: user 2^63": (Op.CHAT_CREATE, [ID, "", [TOP]]),
    "CHAT_CREATE: user -1": (Op.CHAT_CREATE, [ID, "", [-1]]),
    "CHAT_CREATE: an id of 3 bytes": (Op.CHAT_CREATE, [b"abc", "", []]),
    "CHAT_CHANGE: 501 to add": (Op.CHAT_CHANGE, [1, None, list(range(1, 502))]),
    "CHAT_CHANGE: the same user in add and remove": (Op.CHAT_CHANGE, [1, None, [5], [5]]),
    "CHAT_CHANGE: version 2^63": (Op.CHAT_CHANGE, [1, TOP]),
    "CHAT_LEAVE: chat 0": (Op.CHAT_LEAVE, [0]),
    "CHAT_INFO: chat 2^63": (Op.CHAT_INFO, [TOP]),
    "CHAT_LIST: limit 201": (Op.CHAT_LIST, [None, 201]),
    "CHAT_LIST: a cursor of something else": (Op.CHAT_LIST, [b"cursor", 10]),
    "REAUTH: by resume token": (Op.REAUTH, ["resume", "x"]),
    "STATE: keep-alive 2^63": (Op.STATE, [True, TOP]),
}


@pytest.mark.parametrize("what", INVALID)
@pytest.mark.parametrize("rid", [0, 12])
def test_a_value_out_of_its_range_is_303_and_the_session_goes_on(
    node: NodeProcess, login: Login, new_user: NewUser, what: str, rid: int
) -> None:
    op, fields = INVALID[what]
    _check_answer(login(node, new_user()), encode_payload(op, msgpack.packb(fields), rid=rid), rid, Code.INVALID)


@pytest.mark.parametrize("number", [1 << 64, -(1 << 63) - 1])
def test_a_number_that_messagepack_has_no_integer_for_is_100(
    node: NodeProcess, login: Login, new_user: NewUser, number: int
) -> None:
    """As a float, or as a bin of nine bytes: there is no other way to write one."""
    wire = login(node, new_user())
    wire.send_payload(Op.CHAT_INFO, msgpack.packb([float(number)]), rid=3)
    assert wire.ending() == (Op.ERROR, Code.MALFORMED)


@pytest.mark.parametrize(
    "number",
    [b"\x2a", b"\xcc\x2a", b"\xcd\x00\x2a", b"\xce\x00\x00\x00\x2a", b"\xd0\x2a", b"\xd3" + bytes(7) + b"\x2a"],
)
def test_every_form_of_an_integer_is_read(node: NodeProcess, login: Login, new_user: NewUser, number: bytes) -> None:
    wire = login(node, new_user())
    wire.send_payload(Op.CHAT_INFO, b"\x91" + number, rid=3)
    assert code_of(wire.reply(3)) == Code.NOT_FOUND


def test_the_longest_body_and_title_are_taken(node: NodeProcess, login: Login, new_user: NewUser) -> None:
    alice, bob = new_user(), new_user()
    wire, other = login(node, alice), login(node, bob)
    chat_id = wire.create_group(bob, title="x" * 256)
    body = os.urandom(BODY_LIMIT)
    wire.say(chat_id, body)
    assert other.text().body == body
    page = wire.history(chat_id, limit=1)
    assert [row.body for row in page.messages] == [body]


def test_fields_from_the_future_are_skipped(node: NodeProcess, login: Login, new_user: NewUser) -> None:
    wire = login(node, new_user())
    wire.send_payload(Op.CHAT_CREATE, msgpack.packb([ID, "t", [], {"later": [1.5]}, "more"]), rid=3)
    assert wire.reply(3).op == Op.OK
    wire.send_payload(Op.SYNC, b"", rid=4)
    assert wire.reply(4).op == Op.SYNC_DONE


# --------------------------------------------------------------------------------------------- unknown ops


@pytest.mark.parametrize("op", [0x00, 0x0B, 0x26, 0x30, 0x5F, 0x7F])
def test_an_unknown_op_is_102_and_one_marked_ignorable_is_skipped(
    node: NodeProcess, login: Login, new_user: NewUser, op: int
) -> None:
    wire = login(node, new_user())
    _check_answer(wire, encode_payload(op, b"\x90", rid=9), 9, Code.UNKNOWN_OP)
    _check_answer(wire, encode_payload(op, b"\x90"), 0, Code.UNKNOWN_OP)
    wire.send_payload(op, b"\x90", rid=10, flags=IGNORABLE)
    wire.barrier()
    assert not wire.frames


@pytest.mark.parametrize("op", [*SERVER_ONLY, 0x80, 0xB0, 0xB1, 0xFF])
@pytest.mark.parametrize("flags", [0, IGNORABLE])
def test_ops_of_servers_are_102_even_if_ignorable(
    node: NodeProcess, login: Login, new_user: NewUser, op: int, flags: int
) -> None:
    wire = login(node, new_user())
    _check_answer(wire, encode_payload(op, b"\x90", rid=9, flags=flags), 9, Code.UNKNOWN_OP)


@pytest.mark.parametrize("flags", [0x02, 0xFE])
def test_other_flags_are_ignored(node: NodeProcess, login: Login, new_user: NewUser, flags: int) -> None:
    wire = login(node, new_user())
    wire.send(Op.PING, rid=9, flags=flags)
    assert wire.reply(9).op == Op.PONG
    _check_answer(wire, encode_payload(0x7F, b"", rid=10, flags=flags), 10, Code.UNKNOWN_OP)


def test_many_unknown_ops_do_not_fill_the_window(node: NodeProcess, login: Login, new_user: NewUser) -> None:
    """A skipped frame has no answer, so it must not count as waiting for one."""
    wire = login(node, new_user(), window=4)
    wire.write(encode_payload(0x7F, b"", rid=9, flags=IGNORABLE) * 50)
    wire.barrier()
    assert wire.create_group()


def test_pongs_with_a_rid_do_not_fill_the_window(node: NodeProcess, login: Login, new_user: NewUser) -> None:
    wire = login(node, new_user(), window=4)
    wire.write(encode(Op.PONG, rid=9) * 50)
    wire.barrier()
    assert wire.create_group()
