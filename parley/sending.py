"""The outbox onto a session, and the answers back into the outbox and the chats' logs.

Invariant: a message is on the wire only after the journal has saved it; SENT reaches the log in the order of the wire.
"""

from __future__ import annotations

import trio

from gateway.protocol import messages as wire
from gateway.protocol.errors import Code
from gateway.protocol.events import Received
from gateway.protocol.messages import Op
from parley.errors import Refused
from parley.inbox import Inbox
from parley.journal import Journal
from parley.model import Message, Sent
from parley.outbox import Outbox, PendingSend
from parley.session import Session, answer_in


class Sender:
    def __init__(self, outbox: Outbox, inbox: Inbox, journal: Journal) -> None:
        self._outbox = outbox
        self._inbox = inbox
        self._journal = journal

    async def run(self, session: Session) -> None:
        """Put on the wire what may go: as many at once as the window leaves room for, saved together."""
        while True:
            await session.requests.wait_room(is_for_sends=True)
            batch = self._offered(session.requests.room_for_sends)
            if batch:
                await self._journal.save()
                for pending in batch:
                    self._put(session, pending)
            else:
                with trio.move_on_at(self._outbox.next_time()):
                    await self._outbox.wait_changed()

    def _offered(self, room: int) -> list[PendingSend]:
        batch: list[PendingSend] = []
        now = trio.current_time()
        while len(batch) < room and (pending := self._outbox.offer(now)) is not None:
            batch.append(pending)
        return batch

    def _put(self, session: Session, pending: PendingSend) -> None:
        def on_reply(reply: Received) -> None:
            try:
                self._stored(session, pending, answer_in(reply, wire.Sent))
            except Refused as error:
                self._outbox.refused(pending, error, trio.current_time())

        if len(pending.message.body) > session.connection.max_body:
            # It was queued on a session that granted more.
            error = Refused(Code.INVALID, f"a body is at most {session.connection.max_body} bytes on this session")
            self._outbox.refused(pending, error, trio.current_time())
        else:
            session.ask_nowait(Op.SEND, pending.message, on_reply)

    def _stored(self, session: Session, pending: PendingSend, sent: wire.Sent) -> None:
        send = pending.message
        message = Message(
            chat_id=send.chat_id,
            seq=sent.seq,
            sender_id=session.welcome.user_id,
            sender_device=session.welcome.device_id,
            time_ms=sent.time_ms,
            kind=send.kind,
            body=send.body,
            client_msg_id=send.client_msg_id,
            target_seq=send.target_seq,
        )
        self._outbox.stored(pending, Sent(send.chat_id, sent.seq, sent.time_ms, sent.duplicate, send.client_msg_id))
        self._inbox.add(message, sent.prev_seq)
