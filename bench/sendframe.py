"""SEND frames by the ten thousand a second: encoded once, then patched.

Owns the numbering of a run's messages. A message's number is the second half of its client_msg_id and the first eight
bytes of its body, so whoever sees a MSG knows which one it is and whether its content is what was sent, without a
table. The first half of the id is the run's own. Patching costs 0.4 us, encoding with msgspec 1.2 us.
"""

from __future__ import annotations

import secrets
import struct

from gateway.protocol.frames import encode
from gateway.protocol.messages import Msg, Op, Send

NUMBER_BYTES = 8
_RID_OFFSET = 6
_pack_rid = struct.Struct(">H").pack_into
_pack_number = struct.Struct(">Q").pack_into


class Numbering:
    """What all messages of a run have in common."""

    def __init__(self, body_bytes: int) -> None:
        if body_bytes < NUMBER_BYTES:
            raise ValueError(f"a body holds its message's number: at least {NUMBER_BYTES} bytes")
        self.run = secrets.token_bytes(NUMBER_BYTES)
        self.filler = b"." * (body_bytes - NUMBER_BYTES)

    def number_of(self, message: Msg) -> int | None:
        """The message's number; None: it is none of this run's."""
        if message.client_msg_id[:NUMBER_BYTES] != self.run:
            return None
        return int.from_bytes(message.client_msg_id[NUMBER_BYTES:], "big")

    def body_of(self, number: int) -> bytes:
        return number.to_bytes(NUMBER_BYTES, "big") + self.filler


class SendFrame:
    """The SENDs of one chat."""

    def __init__(self, chat_id: int, numbering: Numbering) -> None:
        marker = secrets.token_bytes(NUMBER_BYTES)
        send = Send(chat_id, numbering.run + marker, 0, marker + numbering.filler)
        self._frame = bytearray(encode(Op.SEND, send, rid=1))
        self._id_offset = self._frame.index(marker)
        self._body_offset = self._frame.index(marker, self._id_offset + 1)

    def numbered(self, number: int, rid: int) -> bytes:
        frame = self._frame
        _pack_rid(frame, _RID_OFFSET, rid)
        _pack_number(frame, self._id_offset, number)
        _pack_number(frame, self._body_offset, number)
        return bytes(frame)
