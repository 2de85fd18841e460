"""Framing and decoding: whatever the cuts and whatever the bytes, a frame, a message, or one of two errors."""

from __future__ import annotations

import struct
import tracemalloc
from typing import TYPE_CHECKING, Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.protocol import messages as m
from gateway.protocol.errors import Code, LocalProtocolError, ProtocolError
from gateway.protocol.frames import (
    MAX_DEPTH,
    Frame,
    FrameReader,
    decode,
    encode,
    encode_body,
    encode_payload,
)
from tests.protocol.strategies import ALL_TYPES, messages

if TYPE_CHECKING:
    from collections.abc import Callable

    import msgspec

MAX_FRAME = 65_536
frames = st.builds(Frame, st.integers(0, 255), st.integers(0, 255), st.integers(0, 65_535), st.binary(max_size=300))


def _taken(reader: FrameReader) -> list[Frame]:
    return list(iter(reader.next_frame, None))


def _bytes(frame: Frame) -> bytes:
    return encode_payload(frame.op, frame.body, rid=frame.rid, flags=frame.flags)


def _error_of(read: Callable[[], object]) -> Code | None:
    """The code of the error that ``read`` raises; None: it read something."""
    try:
        read()
    except ProtocolError as error:
        return error.code
    return None


@given(st.lists(frames, max_size=6))
def test_frames_fed_whole_come_out_as_they_went_in(sent: list[Frame]) -> None:
    reader = FrameReader(MAX_FRAME)
    reader.feed(b"".join(map(_bytes, sent)))
    assert _taken(reader) == sent
    assert reader.buffered_bytes == 0


@given(st.lists(frames, max_size=4))
def test_frames_fed_byte_by_byte_are_the_same_frames(sent: list[Frame]) -> None:
    reader = FrameReader(MAX_FRAME)
    received = []
    for byte in b"".join(map(_bytes, sent)):
        reader.feed(bytes([byte]))
        received += _taken(reader)
    assert received == sent


@given(st.lists(frames, max_size=6), st.data())
def test_frames_cut_anywhere_are_the_same_frames(sent: list[Frame], draw: st.DataObject) -> None:
    stream = b"".join(map(_bytes, sent))
    cuts = sorted(draw.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    reader = FrameReader(MAX_FRAME)
    received = []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        reader.feed(memoryview(stream)[start:end])
        received += _taken(reader)
    assert received == sent


@given(st.binary(max_size=400))
def test_any_bytes_are_frames_or_one_of_two_errors(noise: bytes) -> None:
    reader = FrameReader(MAX_FRAME)
    reader.feed(noise)
    taken: list[Frame] = []
    if _error_of(lambda: taken.extend(_taken(reader))) is None:
        assert b"".join(map(_bytes, taken)) + noise[len(noise) - reader.buffered_bytes :] == noise
    else:
        assert _error_of(reader.next_frame) in (Code.MALFORMED, Code.TOO_LARGE)


def test_the_tail_of_a_frame_waits_for_the_rest() -> None:
    whole = encode_payload(0x10, b"body", rid=7)
    reader = FrameReader(MAX_FRAME)
    reader.feed(whole + whole[:9])
    assert _taken(reader) == [Frame(0x10, 0, 7, b"body")]
    assert reader.buffered_bytes == 9


@pytest.mark.parametrize("length", [0, 1, 2, 3])
def test_a_length_without_room_for_the_header_is_malformed(length: int) -> None:
    reader = FrameReader(MAX_FRAME)
    reader.feed(struct.pack(">I", length))
    assert _error_of(reader.next_frame) is Code.MALFORMED


def test_the_longest_frame_is_taken_and_one_byte_more_refused_before_it_arrived() -> None:
    reader = FrameReader(100)
    reader.feed(encode_payload(1, bytes(96)))
    assert len(_taken(reader)) == 1
    reader.feed(struct.pack(">I", 101))
    assert _error_of(reader.next_frame) is Code.TOO_LARGE


def test_after_an_error_nothing_comes_and_nothing_is_kept() -> None:
    reader = FrameReader(MAX_FRAME)
    reader.feed(bytes(4))
    assert _error_of(reader.next_frame) is Code.MALFORMED
    reader.feed(encode(m.Op.PING))
    assert _error_of(reader.next_frame) is Code.MALFORMED
    assert reader.buffered_bytes == 0


def test_a_new_max_frame_counts_for_bytes_that_are_here_already() -> None:
    reader = FrameReader(10)
    reader.feed(encode_payload(1, b"") + encode_payload(2, bytes(50)))
    assert reader.next_frame() == Frame(1, 0, 0, b"")
    reader.max_frame = 54
    assert reader.next_frame() == Frame(2, 0, 0, bytes(50))


def test_what_was_taken_is_let_go_of() -> None:
    """A megabyte in all, a frame at a time: the reader holds a frame or two."""
    frame = encode_payload(0x10, bytes(10_000))
    reader = FrameReader(MAX_FRAME)
    tracemalloc.start()
    try:
        for _ in range(100):
            reader.feed(frame + frame[:5])
            reader.next_frame()
            reader.feed(frame[5:])
            reader.next_frame()
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 100_000


@given(messages)
def test_a_message_survives_encoding_and_decoding(message: msgspec.Struct) -> None:
    assert decode(type(message), encode_body(message)) == message


@given(messages, st.binary(min_size=1, max_size=8))
def test_bytes_after_the_array_are_malformed(message: msgspec.Struct, tail: bytes) -> None:
    with pytest.raises(ProtocolError) as caught:
        decode(type(message), encode_body(message) + tail)
    assert caught.value.code is Code.MALFORMED


@given(messages, st.data())
def test_a_message_cut_short_is_malformed(message: msgspec.Struct, draw: st.DataObject) -> None:
    body = encode_body(message)
    cut = draw.draw(st.integers(1, len(body) - 1)) if len(body) > 1 else 1
    if cut == len(body):
        return
    with pytest.raises(ProtocolError):
        decode(type(message), body[:cut])


@given(
    messages, st.lists(st.integers().filter(lambda x: abs(x) < 1 << 62) | st.text(max_size=4), min_size=1, max_size=3)
)
def test_unknown_trailing_fields_are_ignored(message: msgspec.Struct, extra: list[Any]) -> None:
    fields = [*msgpack.unpackb(encode_body(message), strict_map_key=False), *extra]
    assert decode(type(message), msgpack.packb(fields)) == message


@given(st.sampled_from(ALL_TYPES), st.binary(max_size=60))
def test_any_bytes_are_a_message_or_malformed(type_: type[msgspec.Struct], noise: bytes) -> None:
    assert _error_of(lambda: decode(type_, noise)) in (None, Code.MALFORMED)


@given(
    st.sampled_from(ALL_TYPES), st.recursive(st.floats() | st.none() | st.binary(max_size=3), st.lists, max_leaves=20)
)
def test_any_messagepack_is_a_message_or_malformed(type_: type[msgspec.Struct], value: Any) -> None:
    assert _error_of(lambda: decode(type_, msgpack.packb(value))) in (None, Code.MALFORMED)


@pytest.mark.parametrize("type_", ALL_TYPES)
@pytest.mark.parametrize("opening", [b"\x91", b"\x81\x01", b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff\x01"])
def test_deep_and_huge_nesting_is_malformed_and_costs_nothing(type_: type[msgspec.Struct], opening: bytes) -> None:
    with pytest.raises(ProtocolError) as caught:
        decode(type_, b"\xdc\x00\x20" + opening * (60_000 // len(opening)))
    assert caught.value.code is Code.MALFORMED


def test_an_empty_body_is_an_empty_array() -> None:
    assert decode(m.Sync, b"") == m.Sync() == decode(m.Sync, b"\x90")


def test_frames_without_fields_have_no_body() -> None:
    assert encode(m.Op.PING, rid=258) == bytes.fromhex("0000000403000102")


@pytest.mark.parametrize("depth", range(1, 12))
def test_a_detail_may_fill_the_depth_that_is_left_and_no_more(depth: int) -> None:
    detail: Any = 1
    for _ in range(depth):
        detail = [detail]
    body = msgpack.packb([300, "", None, detail])
    if depth < MAX_DEPTH:
        assert decode(m.Error, body).detail == detail
        return
    with pytest.raises(ProtocolError):
        decode(m.Error, body)


@pytest.mark.parametrize("detail", [1.5, msgpack.ExtType(5, b"x"), msgpack.Timestamp(1, 2), {"a": [0.5]}, {(1, 2): 3}])
def test_a_detail_of_a_type_that_the_protocol_does_not_have_is_malformed(detail: Any) -> None:
    body = (
        msgpack.packb([300, "", None, detail])
        if detail != {(1, 2): 3}
        else b"\x94\xcd\x01\x2c\xa0\xc0\x81\x81\x01\x02\x03"
    )
    with pytest.raises(ProtocolError) as caught:
        decode(m.Error, body)
    assert caught.value.code is Code.MALFORMED


@pytest.mark.parametrize("number", [0, 1, 127, 128, 255, 256, 65_535, 65_536, (1 << 32) - 1, 1 << 32, (1 << 63) - 1])
def test_every_integer_format_of_a_number_is_read(number: int) -> None:
    forms = {"B": 0xCC, "H": 0xCD, "I": 0xCE, "Q": 0xCF, "b": 0xD0, "h": 0xD1, "i": 0xD2, "q": 0xD3}
    for form, opcode in forms.items():
        try:
            packed = struct.pack(">" + form, number)
        except struct.error:
            continue
        assert decode(m.ChatOpen, b"\x91" + bytes([opcode]) + packed) == m.ChatOpen(number)


@given(messages)
def test_writers_use_the_shortest_form(message: msgspec.Struct) -> None:
    body = encode_body(message)
    assert msgpack.packb(msgpack.unpackb(body, strict_map_key=False)) == body


@pytest.mark.parametrize("header", [{"rid": 65_536}, {"rid": -1}, {"flags": 256}])
def test_a_header_that_cannot_be_written_is_our_own_error(header: dict[str, int]) -> None:
    with pytest.raises(LocalProtocolError):
        encode(m.Op.PING, **header)


def test_a_number_that_cannot_be_written_is_our_own_error() -> None:
    with pytest.raises(LocalProtocolError):
        encode(m.Op.CHAT_OPEN, m.ChatOpen(1 << 64))
