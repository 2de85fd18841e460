"""Pushes on their way out: which connection takes one, and what is told when none does.

Owns the sending half of ``push_stream.py``'s rules on a link. It knows frames and whether they were taken, no socket.
Invariant: a push that was not droppable is numbered and kept, or its recipients are remembered as having lost something.
"""

from __future__ import annotations

from collections.abc import Callable

from gateway.cluster.remote import Remote
from gateway.cluster.wire import Recipients, acked_frame, push_frame

Transmit = Callable[[Remote, bytes], bool]


class LinkPushes:
    """``transmit`` gives a frame to the peer's connection, opening one if need be: False, nothing took it."""

    def __init__(
        self, transmit: Transmit, connect: Callable[[Remote], bool], notify_drained: Callable[[int], bool]
    ) -> None:
        self.lost = 0
        self._transmit = transmit
        self._connect = connect
        self._notify_drained = notify_drained

    def push(self, remote: Remote, frame: bytes, recipients: Recipients, *, is_droppable: bool) -> None:
        if is_droppable:
            self._transmit(remote, push_frame(0, recipients, frame))
            return
        # Connected first: what is owed from before goes ahead, and the number is taken behind it.
        if remote.outgoing or self._connect(remote):
            numbered = remote.sender.push(recipients, frame)
            if self._transmit(remote, numbered):
                remote.sender.sent(numbered)
                return
        self.lost += 1
        remote.sender.lose(recipients)
        if remote.outgoing:
            self._notify_drained(remote.outgoing)

    def acknowledge(self, remote: Remote) -> None:
        if self._transmit(remote, acked_frame(remote.receiver.stream, remote.receiver.last)):
            remote.receiver.ack_sent()

    def tell_losses(self, remote: Remote | None) -> None:
        if remote is None or not remote.outgoing or not remote.sender.has_lost:
            return
        notice = remote.sender.loss_notice()
        if self._transmit(remote, notice):
            remote.sender.sent(notice)
            remote.sender.loss_told()
