"""The life of a client: connect, serve, do what the ending asks for, and again.

Owns the parts and the one current session. It must not know ops beyond what the parts ask of it. Invariant: at most
one connection at any time; a new one is dialled when the old one has ended. (A second connection beside the first
would spare half a second at a GOAWAY and make it doubtful on which of the two an answer counts.)
"""

from __future__ import annotations

import random
from dataclasses import replace

import trio

from gateway.protocol import messages as wire
from gateway.protocol.errors import Code
from parley import upkeep
from parley.addresses import Dialer
from parley.catchup import CatchUp
from parley.connection import Connection
from parley.credentials import Credentials
from parley.cursors import MAX_PAIRS, Cursors
from parley.dispatch import Dispatch
from parley.ending import Ending, Judge, Step
from parley.errors import CannotConnect, NotConnected, Refused, TokenUnavailable
from parley.events import Connected, Disconnected, SignedOut, StayedAway
from parley.handshake import greet
from parley.inbox import Inbox
from parley.journal import Journal, age_s
from parley.marks import ReadMarks
from parley.options import Options
from parley.outbox import Outbox
from parley.sending import Sender
from parley.session import CLOSE_S, Session
from parley.store import ClientStore, Snapshot


class Lifecycle:
    def __init__(
        self, dialer: Dialer, credentials: Credentials, store: ClientStore, snapshot: Snapshot, options: Options
    ) -> None:
        self.session: Session | None = None
        self.welcome: wire.Welcome | None = None
        self.is_active = True
        self.inbox = Inbox(Cursors(snapshot.cursors or {}), options.max_events, options.fill_gaps)
        self.outbox = Outbox(max(options.max_outbox, len(snapshot.outbox)), options.sends_per_chat)
        self.journal = Journal(store, self.inbox.cursors, self.outbox)
        self.reads = ReadMarks()
        self._dialer = dialer
        self._credentials = credentials
        self._options = options
        self._uniform = random.Random().uniform  # spreads clients over time, keeps no secret
        self._judge = Judge(self._uniform, can_renew_token=credentials.has_source)
        self._sender = Sender(self.outbox, self.inbox, self.journal)
        self._absence: str | None = None  # why; set while no session will come by itself
        self._is_done = False
        self._changed = trio.Event()
        self._nudge = trio.Event()
        self._over = trio.Event()
        for kept in snapshot.outbox.values():
            # Of an earlier process: each may have been sent, hence retry = true.
            send = wire.Send(kept.chat_id, kept.client_msg_id, kept.kind, kept.body, True, kept.target_seq)
            self.outbox.add(send, trio.current_time(), age_s=age_s(kept))

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Stay connected until ``aclose`` or SignedOut. Started with the first session.

        Raises CannotConnect and Refused before that, and whatever the store or the token source raises, at any time.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.journal.run, self.acknowledge)
            while not self._is_done:
                ending = await self._attempt(task_status)
                if not self._is_done:
                    await self._follow(ending)
            await self.journal.save()
            nursery.cancel_scope.cancel()
        self._over.set()

    async def aclose(self) -> None:
        """Acknowledge what was handled, and take leave. Waits CLOSE_S at most."""
        self.inbox.acknowledge()
        with trio.move_on_after(CLOSE_S):
            await self.journal.save()
            self.acknowledge()
            self._is_done = True
            self._nudge.set()
            if self.session is not None:
                await self.session.leave("closed by the application")
            await self._over.wait()
        self._leave("the client was closed")
        self.inbox.end()

    @property
    def latest_welcome(self) -> wire.Welcome:
        """What the current session, or the last one, was granted. Raises NotConnected before the first."""
        if self.welcome is None:
            raise NotConnected("there was no session yet")
        return self.welcome

    async def live_session(self) -> Session:
        """The current session, or the next one. Raises NotConnected if none will come by itself."""
        while self.session is None:
            if self._absence is not None:
                raise NotConnected(self._absence)
            await self._changed.wait()
        return self.session

    def require_presence(self) -> None:
        """Raises NotConnected when signed out or closed: nothing may be queued any more."""
        if self._absence is not None and self._is_done:
            raise NotConnected(self._absence)

    def reconnect(self) -> None:
        """Do not wait any longer for the next attempt. Nothing to do while connected."""
        if self.session is None:
            self._nudge.set()

    def acknowledge(self) -> None:
        """ACK what was saved. Without a session there is no need: the next one's SYNC carries the cursors."""
        cursors = [wire.Cursor(chat_id, seq) for chat_id, seq in self.journal.take_unacknowledged().items()]
        for start in range(0, len(cursors), MAX_PAIRS):
            if self.session is not None:
                self.session.tell(wire.Op.ACK, wire.Ack(cursors[start : start + MAX_PAIRS]))

    # One connection

    async def _attempt(self, task_status: trio.TaskStatus[None]) -> Ending:
        """From dialling to the ending, at whatever point."""
        try:
            stream = await self._dialer.dial()
        except CannotConnect as error:
            return Ending(None, str(error))
        try:
            connection = Connection(stream)
            outcome = await greet(connection, self._credentials, self._options)
            if isinstance(outcome, Ending):
                return outcome
            return await self._serve(Session(connection, outcome), task_status)
        except TokenUnavailable as error:
            return Ending(None, f"no token: {error}")
        finally:
            with trio.move_on_after(CLOSE_S):
                await stream.aclose()

    async def _serve(self, session: Session, task_status: trio.TaskStatus[None]) -> Ending:
        is_first = self.welcome is None
        self._begin(session)
        if is_first:
            task_status.started()
        catch_up = CatchUp(self.inbox)
        dispatch = Dispatch(session, self.inbox, self.outbox, catch_up.sync_again, self._uniform)
        keep_alive = upkeep.KeepAlive(self._options).run
        tasks = [catch_up.keep_synced, catch_up.repair, self._sender.run, keep_alive, upkeep.move_on_goaway]
        try:
            ending = await session.run(dispatch, [*tasks, self._repeat_marks, self._stay_authorised])
        finally:
            self.session = None
            self.outbox.connection_lost()
        self._dialer.prefer(session.next_addresses)
        return replace(ending, lasted_s=session.lasted_s, not_before=session.moves_at)

    def _begin(self, session: Session) -> None:
        welcome = self.welcome = session.welcome
        self.session = session
        self._nudge = trio.Event()
        self._credentials.resume_token = welcome.resume_token
        self.journal.note_resume_token(welcome.resume_token)
        self.inbox.user_id = welcome.user_id
        self.inbox.add_hint(Connected(welcome.user_id, welcome.device_id, welcome.session_id, welcome.resumed))
        self._notify()

    async def _repeat_marks(self, session: Session) -> None:
        if not self.is_active:
            await upkeep.tell_state(session, False)
        await upkeep.tell_read(session, self.reads)

    async def _stay_authorised(self, session: Session) -> None:
        await upkeep.stay_authorised(session, self._credentials)

    # What follows

    async def _follow(self, ending: Ending) -> None:
        """Wait, forget what was refused, stay away or sign out, as the ending asks."""
        if self._was_resume_refused(ending):
            return
        step = self._judge.next_step(ending, self._credentials.token_age_s)
        wait_s = 0.0 if step is Step.RENEW_TOKEN else self._judge.wait_s(ending, trio.current_time())
        if self.welcome is None:
            self._raise_at_first(ending, step)
        match step:
            case Step.SIGN_OUT:
                self._sign_out(ending)
            case Step.STAY_AWAY:
                await self._stay_away(ending)
            case Step.RETRY:
                await self._wait(ending, wait_s)
            case Step.RENEW_TOKEN | Step.RENEW_TOKEN_LATER:
                self._credentials.discard_token()
                self._forget_resume_token()  # it dies with its JWT
                await self._wait(ending, wait_s)

    def _was_resume_refused(self, ending: Ending) -> bool:
        """The resume token was no good: the JWT is still untried, and goes at once."""
        is_refusal = ending.lasted_s is None and ending.code in (Code.UNAUTHENTICATED, Code.EXPIRED)
        if not is_refusal or self._credentials.resume_token is None:
            return False
        self._forget_resume_token()
        return True

    def _raise_at_first(self, ending: Ending, step: Step) -> None:
        if ending.code is not None and step in (Step.SIGN_OUT, Step.STAY_AWAY):
            raise Refused(ending.code, ending.reason, retry_after_ms=ending.retry_after_ms)
        if ending.code is None and not self._options.patient:
            raise CannotConnect(ending.reason)

    async def _wait(self, ending: Ending, delay_s: float) -> None:
        self.inbox.add_hint(Disconnected(ending.code, ending.reason, delay_s))
        with trio.move_on_after(delay_s):
            await self._nudge.wait()
        self._nudge = trio.Event()

    async def _stay_away(self, ending: Ending) -> None:
        self.inbox.add_hint(StayedAway(ending.code or Code.UNAVAILABLE, ending.reason))
        self._absence = f"stays away until reconnect(): {ending.reason}"
        self._notify()
        await self._nudge.wait()
        self._nudge = trio.Event()
        self._absence = None

    def _sign_out(self, ending: Ending) -> None:
        self._is_done = True
        self._forget_resume_token()
        self._leave(f"signed out: {ending.reason}")
        self.inbox.end(SignedOut(ending.code or Code.UNAVAILABLE, ending.reason))

    def _forget_resume_token(self) -> None:
        self._credentials.resume_token = None
        self.journal.note_resume_token(b"")

    def _leave(self, why: str) -> None:
        """No session will ever come: everybody who waits for one is told."""
        self._absence = why
        self.outbox.close(NotConnected(why))
        self._notify()

    def _notify(self) -> None:
        changed, self._changed = self._changed, trio.Event()
        changed.set()
