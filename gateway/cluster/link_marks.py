"""Marks on their way to the chats' owners: one frame for each owner, however many devices and chats they are of.

Owns the marks of the present step that are for other workers, and their form on a link. It does not know who owns a chat.
Invariant: marks leave behind everything that was sent to the same owner before them. One that a link does not take is lost: the
device's next one says as much and more.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable

from gateway.chat.request import InternalOp, Mark, Origin, Request
from gateway.cluster.links import Links, Reply
from gateway.cluster.wire import LinkProtocolError
from gateway.protocol.identifiers import ChatId, WorkerId

MARKS_OP = 0xB3
MAX_MARKS = 1_000
"""In a frame of 40 KB."""

_MARK = struct.Struct(">QQQQQ")
"""user, device, chat, delivered, read."""


class LinkMarks:
    """``serve(worker, chat, mark)`` takes a mark that another worker sent here; ``origin`` is what it comes from."""

    def __init__(self, links: Links, serve: Callable[[WorkerId, ChatId, Request], None], origin: Origin) -> None:
        self._links = links
        self._serve = serve
        self._origin = origin
        self._collected: dict[WorkerId, list[bytes]] = {}
        links.register(MARKS_OP, self._on_marks)

    def forward(self, owner: WorkerId, request: Request) -> None:
        """With what else is for the same owner in this step."""
        if not self._collected:
            self._links.call_soon(self._send)
        mark = request.message
        assert isinstance(mark, Mark)
        packed = _MARK.pack(request.user_id, request.device_id, mark.chat_id, mark.delivered_seq, mark.read_seq)
        self._collected.setdefault(owner, []).append(packed)

    def _send(self) -> None:
        collected, self._collected = self._collected, {}
        for owner, marks in collected.items():
            for at in range(0, len(marks), MAX_MARKS):
                self._links.send(owner, MARKS_OP, b"".join(marks[at : at + MAX_MARKS]))

    def _on_marks(self, worker: WorkerId, payload: bytes, reply: Reply | None) -> None:
        if len(payload) % _MARK.size:
            raise LinkProtocolError(f"{len(payload)} bytes of marks")
        now_s = time.monotonic()
        for user_id, device_id, chat_id, delivered_seq, read_seq in _MARK.iter_unpack(payload):
            mark, device = Mark(chat_id, delivered_seq, read_seq), (user_id, device_id)
            self._serve(worker, ChatId(chat_id), Request(InternalOp.MARK, mark, device, self._origin, 0, now_s))
