"""What each message of the server means to the client.

It must not wait. Messages are dispatched in the order in which they came, and take effect in that order: a SENT
counts for its chat's log before the MSG after it. What a session does not know is dropped before it comes here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import trio

from gateway.protocol import messages as wire
from gateway.protocol.events import Received
from gateway.protocol.messages import Op
from gateway.protocol.policy import goaway_wait_s
from parley.addresses import parsed
from parley.events import GoingAway, ReceiptChanged, Throttled, TypingChanged
from parley.inbox import Inbox
from parley.model import Message
from parley.outbox import Outbox
from parley.session import Session

Uniform: TypeAlias = Callable[[float, float], float]


class Dispatch:
    """``sync_again`` is called for LAGGED; ``uniform`` draws the moment at which to follow a GOAWAY."""

    def __init__(
        self, session: Session, inbox: Inbox, outbox: Outbox, sync_again: Callable[[], None], uniform: Uniform
    ) -> None:
        self._session = session
        self._inbox = inbox
        self._outbox = outbox
        self._sync_again = sync_again
        self._uniform = uniform

    def __call__(self, received: Received) -> None:
        match received.message:
            case wire.Msg() as msg:
                self._inbox.add(Message.from_wire(msg), msg.prev_seq)
            case wire.SyncDone() as done:
                self._session.requests.answer(received, trio.current_time(), is_last=not done.more)
            case _ if received.request is not None:
                self._session.requests.answer(received, trio.current_time())
            case wire.Gap() as gap:
                self._inbox.add_gap(gap)
            case wire.Receipt() as receipt:
                self._inbox.add_hint(changed(receipt))
            case wire.Typing() as typing:
                self._inbox.add_hint(TypingChanged(typing.chat_id, typing.user_id, typing.active))
            case wire.Throttle() as throttle:
                self._throttle(throttle)
            case wire.Goaway() as goaway:
                self._move(goaway)
            case _ if received.op is Op.LAGGED:
                self._sync_again()
            case _ if received.op is Op.PING:
                self._session.tell(Op.PONG, rid=received.rid)

    def _throttle(self, throttle: wire.Throttle) -> None:
        retry_in_s = throttle.retry_after_ms / 1000
        until = trio.current_time() + retry_in_s
        self._session.throttle(throttle.scope, until)
        kind, _, chat_id = throttle.scope.partition(":")
        if kind in ("session", "send"):
            self._outbox.pause(until)
        elif kind == "chat" and chat_id.isascii() and chat_id.isdigit():
            self._outbox.pause(until, int(chat_id))
        self._inbox.add_hint(Throttled(throttle.scope, retry_in_s))

    def _move(self, goaway: wire.Goaway) -> None:
        if self._session.moves_at is None:
            low, high = sorted((goaway.delay_min_ms, goaway.delay_max_ms))
            moves_in_s = goaway_wait_s(low, high, self._uniform)
            self._session.move(trio.current_time() + moves_in_s, parsed(goaway.addresses))
            self._inbox.add_hint(GoingAway(goaway.reason, moves_in_s))


def changed(receipt: wire.Receipt) -> ReceiptChanged:
    sample = tuple(receipt.sample or ())
    return ReceiptChanged(receipt.chat_id, receipt.kind, receipt.seq, receipt.user_id, receipt.count, sample)
