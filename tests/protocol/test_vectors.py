"""The published vectors: current, complete, true in both directions, and read alike by an independent MessagePack."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import msgpack
import pytest

import tests.vectors
from gateway.protocol.errors import Code, ProtocolError
from gateway.protocol.frames import IGNORABLE, Frame, FrameReader, encode, encode_payload
from gateway.protocol.messages import CLIENT_OPS, OK_FIELDS, SERVER_OPS, Empty, Hello, Op, Welcome
from gateway.protocol.session import Event, Pause, Received, Refused, Session, Side, Skipped
from tests.vectors.__main__ import all_vectors, render
from tests.vectors.meaning import from_meaning, to_meaning

FOLDER = pathlib.Path(next(iter(tests.vectors.__path__)))
PUBLISHED: list[dict[str, Any]] = [
    entry for path in sorted(FOLDER.glob("*.json")) for entry in json.loads(path.read_text(encoding="utf-8"))
]
MEANINGFUL = [entry for entry in PUBLISHED if "meaning" in entry]
HELLO = Hello(1, "jwt", "token", 7, [])
WELCOME = Welcome(1, 42, 7, 9001, [], 270, 65_536, 64, 1, b"t", False, 60)


def _name(entry: dict[str, Any]) -> str:
    return f"{entry['direction']}-{entry['name']}"


def _op_name(op: int) -> str | int:
    return Op(op).name if op in set(Op) else op


def _message_type(entry: dict[str, Any]) -> Any:
    op = Op[entry["op"]]
    if op is Op.OK:
        return OK_FIELDS[Op[entry["answers"]]]
    return (CLIENT_OPS if entry["direction"] == "client" else SERVER_OPS)[op]


def _reader(entry: dict[str, Any]) -> Session:
    """The end of a session that receives this vector, in the state and with the open request that it supposes."""
    if entry["direction"] == "client":
        session = Session(Side.SERVER)
        if entry["state"] == "live":
            session.receive_bytes(encode(Op.HELLO, HELLO))
            session.next_event()
            session.send(Op.WELCOME, WELCOME)
        return session
    session = Session(Side.CLIENT)
    answers = Op[entry["answers"]] if "answers" in entry else None
    session.send(Op.HELLO, HELLO, rid=entry["rid"] if answers is Op.HELLO else 0)
    if entry["state"] == "live":
        session.receive_bytes(encode(Op.WELCOME, WELCOME))
        session.next_event()
        if answers is not None and entry["rid"]:
            _ask(session, answers, entry["rid"])
    return session


def _ask(session: Session, op: Op, rid: int) -> None:
    if CLIENT_OPS[op] is Empty:
        session.send(op, rid=rid)
        return
    for entry in MEANINGFUL:
        if entry["op"] == op.name and entry["direction"] == "client":
            session.send(op, from_meaning(CLIENT_OPS[op], entry["meaning"]), rid=rid)
            return
    raise AssertionError(f"no vector of {op.name}")


def _read(entry: dict[str, Any]) -> Event | ProtocolError:
    session = _reader(entry)
    session.receive_bytes(bytes.fromhex(entry["bytes"]))
    try:
        event = session.next_event()
    except ProtocolError as error:
        return error
    assert not isinstance(event, Pause)
    return event.error if isinstance(event, Refused) else event


@pytest.mark.parametrize("file_name", sorted(all_vectors()))
def test_the_published_file_is_what_the_tables_say(file_name: str) -> None:
    published = (FOLDER / file_name).read_text(encoding="utf-8")
    assert published == render(all_vectors()[file_name]), "run python -m tests.vectors"


def test_names_are_unique_in_a_direction() -> None:
    names = [_name(entry) for entry in PUBLISHED]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("op", "direction"),
    [(op, "client") for op in CLIENT_OPS] + [(op, "server") for op in SERVER_OPS],
    ids=lambda value: value.name if isinstance(value, Op) else value,
)
def test_every_op_has_good_and_bad_vectors_and_readers_alternatives(op: Op, direction: str) -> None:
    mine = [entry for entry in PUBLISHED if entry["op"] == op.name and entry["direction"] == direction]
    assert any(entry.get("canonical") for entry in mine)
    assert any("error" in entry for entry in mine)
    assert any(entry.get("canonical") is False for entry in mine)


@pytest.mark.parametrize("entry", PUBLISHED, ids=_name)
def test_the_bytes_have_the_outcome_that_the_vector_states(entry: dict[str, Any]) -> None:
    outcome = _read(entry)
    if "error" in entry:
        assert isinstance(outcome, ProtocolError)
        assert outcome.code == entry["error"]
    elif "skip" in entry:
        assert isinstance(outcome, Skipped)
    elif isinstance(outcome, Received):
        assert to_meaning(outcome.message) == entry["meaning"]
        assert outcome.rid == entry["rid"]
    else:
        # CLOSE, and an ERROR that ends the session, come out as the end.
        meaning = entry["meaning"]
        assert outcome._asdict() == {"detail": None, **meaning, "code": meaning["code"]}


@pytest.mark.parametrize("entry", MEANINGFUL, ids=_name)
def test_the_meaning_written_by_us_is_the_canonical_bytes(entry: dict[str, Any]) -> None:
    type_ = _message_type(entry)
    message = from_meaning(type_, entry["meaning"])
    body = None if type_ is Empty else message
    written = encode(Op[entry["op"]], body, rid=entry["rid"], flags=entry["flags"] & IGNORABLE)
    assert (written.hex() == entry["bytes"]) == entry["canonical"]


@pytest.mark.parametrize("entry", [entry for entry in MEANINGFUL if entry["canonical"]], ids=_name)
def test_another_messagepack_finds_the_same_fields_in_order(entry: dict[str, Any]) -> None:
    body = bytes.fromhex(entry["bytes"])[8:] or b"\x90"
    fields = msgpack.unpackb(body, strict_map_key=False)
    assert to_meaning(fields) == _by_position(entry["meaning"])


def _by_position(meaning: Any) -> Any:
    """A message without its names. A map of envelopes, whose keys are numbers, stays one."""
    if isinstance(meaning, dict) and not any(key.isdigit() for key in meaning):
        meaning = list(meaning.values())
    return [_by_position(item) for item in meaning] if isinstance(meaning, list) else meaning


@pytest.mark.parametrize("entry", [e for e in PUBLISHED if "error" not in e], ids=_name)
def test_the_header_says_what_the_vector_says(entry: dict[str, Any]) -> None:
    reader = FrameReader(65_536)
    reader.feed(bytes.fromhex(entry["bytes"]))
    frame = reader.next_frame()
    assert frame is not None
    assert (_op_name(frame.op), frame.rid, frame.flags) == (entry["op"], entry["rid"], entry["flags"])
    assert reader.buffered_bytes == 0


def test_every_request_with_result_fields_has_a_vector_of_its_ok() -> None:
    answered = {entry["answers"] for entry in MEANINGFUL if entry["op"] == "OK"}
    assert answered == {op.name for op in OK_FIELDS}


def test_every_code_that_the_bytes_alone_can_cause_is_shown() -> None:
    shown = {entry["error"] for entry in PUBLISHED if "error" in entry}
    assert shown == {
        Code.MALFORMED,
        Code.TOO_LARGE,
        Code.UNKNOWN_OP,
        Code.NOT_READY,
        Code.UNSUPPORTED_VERSION,
        Code.INVALID,
    }


def test_a_changed_byte_is_noticed_so_these_tests_can_fail() -> None:
    entry = next(e for e in MEANINGFUL if e["name"] == "SENT: stored")
    broken = {**entry, "bytes": entry["bytes"][:-2] + "00"}
    outcome = _read(broken)
    assert isinstance(outcome, Received)
    assert to_meaning(outcome.message) != entry["meaning"]


def test_the_frame_of_an_unknown_op_carries_its_body_untouched() -> None:
    reader = FrameReader(65_536)
    reader.feed(encode_payload(0x7F, b"\x91\x01", rid=5, flags=1))
    assert reader.next_frame() == Frame(0x7F, 1, 5, b"\x91\x01")
