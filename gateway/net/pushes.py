"""Frames on their last metre: from a list of devices to the outboxes of their connections.

Owns what a session does not get: who is muted hears LAGGED once and no MSG until its next SYNC; who is inactive gets no
TYPING, and its RECEIPTs merged when it becomes active. Invariant: a push that does not arrive is never silent: LAGGED to the
session, or GONE to whoever sent it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from gateway.metrics import WorkerMetrics
from gateway.net.sessions import Session, SessionTable
from gateway.protocol.frames import HEADER, decode, encode
from gateway.protocol.identifiers import WorkerId
from gateway.protocol.messages import Op, Receipt

if TYPE_CHECKING:
    from gateway._framing import Kernel

LAGGED_FRAME = encode(Op.LAGGED)
MAX_KEPT_RECEIPTS = 256
_OP_OFFSET = 4

GoneTo = Callable[[WorkerId, Sequence[tuple[int, int]]], None]


class Pushes:
    def __init__(
        self, kernel: Kernel, sessions: SessionTable, metrics: WorkerMetrics, gone: GoneTo, burst_bytes: int
    ) -> None:
        """``gone``: tells a chat's owner which devices are not here. ``burst_bytes``: well below an outbox's bound."""
        self._kernel = kernel
        self._sessions = sessions
        self._metrics = metrics
        self._gone = gone
        self._burst_bytes = burst_bytes
        self._unflushed_bytes = 0

    def deliver(self, owner: WorkerId, recipients: Sequence[tuple[int, int]], frames: bytes) -> None:
        """One frame, or several glued MSGs, to some devices."""
        op = frames[_OP_OFFSET]
        if op == Op.MSG:
            self._deliver_messages(owner, recipients, frames)
        else:
            self._deliver_signs(op, recipients, frames)
        self._unflushed_bytes += len(frames)
        if self._unflushed_bytes > self._burst_bytes:
            # A burst of one cycle would fill an outbox whose socket has not been tried: its reader is not slow.
            self._unflushed_bytes = 0
            self._kernel.flush()

    def _deliver_messages(self, owner: WorkerId, recipients: Sequence[tuple[int, int]], frames: bytes) -> None:
        of_device = self._sessions.of_device
        conns, missing = [], []
        for user_id, device_id in recipients:
            session = of_device(user_id, device_id)
            if session is None:
                missing.append((user_id, device_id))
            elif not session.is_lagged:
                conns.append(session.conn)
        muted = self._kernel.fanout(conns, frames)
        self._metrics.deliveries += len(conns) * _count_frames(frames)
        for conn in muted:
            session = self._sessions.of_conn(conn)
            if session is not None:
                self._say_lagged(session)
        if missing:
            self._gone(owner, missing)

    def _deliver_signs(self, op: int, recipients: Sequence[tuple[int, int]], frame: bytes) -> None:
        """TYPING and RECEIPT: dropped where the outbox is half full, kept from who does not look."""
        conns = []
        for user_id, device_id in recipients:
            session = self._sessions.of_device(user_id, device_id)
            if session is None:
                continue
            if session.is_active:
                conns.append(session.conn)
            elif op == Op.RECEIPT:
                _keep_receipt(session, frame)
        self._kernel.fanout(conns, frame, True)

    def became_active(self, session: Session) -> None:
        kept, session.kept_receipts = session.kept_receipts, None
        if kept:
            self._kernel.fanout([session.conn], b"".join(kept.values()), True)

    def lost(self, recipients: Sequence[tuple[int, int]] | None) -> None:
        """A link dropped pushes for these devices; None: for any of ours."""
        if recipients is None:
            lagging = list(self._sessions)
        else:
            found = (self._sessions.of_device(user_id, device_id) for user_id, device_id in recipients)
            lagging = [session for session in found if session is not None]
        for session in lagging:
            self._say_lagged(session)

    def _say_lagged(self, session: Session) -> None:
        if session.is_lagged:
            return
        session.is_lagged = True
        self._metrics.lagged += 1
        self._kernel.send(session.conn, LAGGED_FRAME)

    def caught_up(self, session: Session) -> None:
        """A SYNC begins: from now on messages go to the session again."""
        session.is_lagged = False
        self._kernel.unmute(session.conn)


def _keep_receipt(session: Session, frame: bytes) -> None:
    """Receipts are cumulative: the latest of a chat, kind and user says all."""
    receipt = decode(Receipt, frame[HEADER.size :])
    kept = session.kept_receipts
    if kept is None:
        kept = session.kept_receipts = {}
    key = (receipt.chat_id, receipt.kind, receipt.user_id or 0)
    if key in kept or len(kept) < MAX_KEPT_RECEIPTS:
        kept[key] = frame


def _count_frames(frames: bytes) -> int:
    count = at = 0
    while at < len(frames):
        at += 4 + _LENGTH.unpack_from(frames, at)[0]
        count += 1
    return count


_LENGTH = struct.Struct(">I")
