"""SEND frames that are patched say what encoded ones would say."""

from __future__ import annotations

import pytest

from bench.sendframe import Numbering, SendFrame
from gateway.protocol.frames import FrameReader, decode
from gateway.protocol.messages import Msg, Op, Send


@pytest.mark.parametrize("body_bytes", [8, 100, 300, 60_000])
@pytest.mark.parametrize("chat_id", [1, 1 << 62])
def test_a_patched_frame_is_a_whole_send_with_its_number_in_id_and_body(chat_id: int, body_bytes: int) -> None:
    numbering = Numbering(body_bytes)
    frames = SendFrame(chat_id, numbering)
    reader = FrameReader(max_frame=65_536)
    for number, rid in [(0, 1), (123_456, 65_535), (7, 2)]:
        reader.feed(frames.numbered(number, rid))
        frame = reader.next_frame()
        assert frame is not None
        assert (frame.op, frame.flags, frame.rid) == (Op.SEND, 0, rid)
        client_msg_id = numbering.run + number.to_bytes(8, "big")
        assert decode(Send, frame.body) == Send(chat_id, client_msg_id, 0, numbering.body_of(number))
        assert len(numbering.body_of(number)) == body_bytes
    assert reader.buffered_bytes == 0


def test_a_message_of_another_run_has_no_number() -> None:
    ours, theirs = Numbering(100), Numbering(100)
    message = Msg(1, 2, 1, 3, 4, 5, 0, ours.body_of(9), ours.run + (9).to_bytes(8, "big"))
    assert (ours.number_of(message), theirs.number_of(message)) == (9, None)


def test_a_body_too_short_for_its_number_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 8 bytes"):
        Numbering(7)
