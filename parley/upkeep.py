"""The small tasks of a session: keep it alive, leave it when GOAWAY says so, renew its authorisation, repeat its marks.

Each ends with the session. None of them must hold up the others, nor the reader.
"""

from __future__ import annotations

from contextlib import suppress

import trio

from gateway.protocol import messages as wire
from gateway.protocol.messages import Op
from gateway.protocol.validation import AUTH_JWT
from parley.credentials import Credentials
from parley.ending import Ending
from parley.errors import Refused, TokenUnavailable
from parley.marks import ReadMarks
from parley.options import Options
from parley.session import Session

PROBE_SHARE = 0.9
"""A PING goes out after this share of the keep-alive time without another frame of ours."""

READ_EVERY_S = 0.2
RENEW_BEFORE_S = 60.0
RENEW_AGAIN_S = 30.0


class KeepAlive:
    """PINGs when this side was silent for long, or when replies are due and nothing comes; ends a session that is dead.

    It looks around every ``answer_timeout_s`` rather than being woken by every request: that costs the hot path
    nothing.
    """

    def __init__(self, options: Options) -> None:
        self._options = options

    async def run(self, session: Session) -> None:
        patience_s = self._options.answer_timeout_s
        while True:
            quiet_at = session.connection.last_sent_at + PROBE_SHARE * session.keepalive_s
            await trio.sleep(min(patience_s, max(0.0, quiet_at - trio.current_time())))
            now = trio.current_time()
            oldest_at = session.requests.oldest_at
            if oldest_at is not None and now - oldest_at >= self._options.reply_timeout_s:
                session.end(Ending(None, "a request was not answered in time"))
            is_quiet = now - session.connection.last_sent_at >= PROBE_SHARE * session.keepalive_s
            is_owed = oldest_at is not None and now - session.connection.last_received_at >= patience_s
            if is_quiet or is_owed:
                await self._probe(session, now, patience_s)

    async def _probe(self, session: Session, now: float, patience_s: float) -> None:
        session.tell(Op.PING)
        await trio.sleep(patience_s)
        if session.connection.last_received_at < now:
            session.end(Ending(None, f"the server has been silent for {patience_s:g} s"))


async def move_on_goaway(session: Session) -> None:
    """Serve until the moment that was drawn at GOAWAY, then leave."""
    await session.wait_move()
    await session.leave("moving, as the server asked")


async def tell_read(session: Session, marks: ReadMarks) -> None:
    """READ for what was marked, at most every 200 ms; again on the next session if this one ends unanswered."""
    while True:
        await marks.wait()
        await trio.sleep(READ_EVERY_S)
        pairs = marks.pending()
        with suppress(Refused):  # never for its rate: what is refused here would be refused again
            await session.ask(Op.READ, wire.Read(pairs), wire.Empty)
        marks.told(pairs)


async def tell_state(session: Session, is_active: bool) -> None:
    """Say whether a person looks. A session is active when it begins."""
    answer = await session.ask(Op.STATE, wire.State(is_active), wire.StateOk)
    session.keepalive_s = answer.keepalive_s


async def stay_authorised(session: Session, credentials: Credentials) -> None:
    """REAUTH with a new token shortly before the old one expires, so that the session goes on."""
    if not credentials.has_source:
        return
    wait_s = lead_of(session.welcome.auth_ttl_s)
    while True:
        await trio.sleep(wait_s)
        try:
            question = wire.Reauth(AUTH_JWT, await credentials.renewed())
            wait_s = lead_of((await session.ask(Op.REAUTH, question, wire.ReauthOk)).auth_ttl_s)
        except (TokenUnavailable, Refused):
            wait_s = RENEW_AGAIN_S


def lead_of(ttl_s: float) -> float:
    """How long to let a token of this remaining life be."""
    return max(1.0, ttl_s / 2, ttl_s - RENEW_BEFORE_S)
