"""One connection to a Redis, opened again whenever it was lost.

Owns the socket, the time-outs, the bounds and the back-off. It must not know what the commands mean. Theory of operation:

- A *life* lasts from a greeting that was answered to the loss of the socket. Only in a life can anything be asked; without
  one ``submit`` fails at once, for who asks has a message to deliver and other ways to do so. What waits when a life ends
  fails with it, and nothing is ever carried into the next: the outcome of a command whose reply was lost is its caller's
  business.
- Commands of one step of the loop leave together: ``call_soon`` runs a step just before the next write, which is where
  calls of many tasks are made one command.
- A command that is not answered in time ends the life. Its reply may still be on its way, and with it the place of every
  later one; on a new connection there is nothing to mistake. For the same reason a caller that gives up stays queued.
- A server that says it is not fit (loading, a replica, another's slot) ends the life too; after MOVED the next attempt
  goes where it pointed, and back to the configured address if that fails.

Invariant: replies and push frames are handed out in the order of the stream, synchronously. What relies on that order
(a location that was read, and the word that it changed) must do its part inside the callback.
"""

from __future__ import annotations

import random
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import structlog
import trio

from gateway.cluster.promise import Promise
from storage.redis.dialing import Address, dial
from storage.redis.errors import ErrorReply, RedisProtocolError, RedisUnavailable
from storage.redis.pipeline import Done, Pipeline, pack
from storage.redis.settings import RedisSettings

RETRY_BASE_S = 0.02
RETRY_MAX_S = 1.0
"""Within ``settle_s`` everybody has come back to a server that was started again."""
PROVEN_S = 1.0
"""A life so long was one: the next attempt after it does not wait."""
LATE_S = 0.05
"""It may have been we who were late: a reply that has arrived is read first."""
RECEIVE_BYTES = 1 << 16

log = structlog.get_logger(__name__)


class Greeting(NamedTuple):
    """What a life begins with, after HELLO."""

    commands: tuple[bytes, ...] = ()
    """Each answered by one reply; an error ends the attempt."""
    channels: tuple[bytes, ...] = ()
    """To subscribe to. RESP3 confirms a subscription by a push frame, not by a reply."""


def _ignore(*_: object) -> None:
    """Nobody listens yet."""


def _no_greeting() -> Greeting:
    return Greeting()


@dataclass(slots=True)
class ConnectionEvents:
    """Synchronous callbacks on the Trio thread. Set before ``run``."""

    greeting: Callable[[], Greeting] = _no_greeting
    on_up: Callable[[list[Any]], None] = _ignore
    """A life has begun; the replies to the greeting's commands."""
    on_down: Callable[[], None] = _ignore
    """It has ended; all who waited have been told."""
    on_failed: Callable[[str], None] = _ignore
    """A life has ended, or did not begin: why."""
    on_push: Callable[[list[Any]], None] = _ignore
    on_round: Callable[[], None] = _ignore
    """Everything that came together has been handed out."""


class ConnectionStatistics(NamedTuple):
    is_up: bool
    waiting: int
    commands: int
    lives: int
    timeouts: int
    errors: int
    """Commands that the server answered with an error."""
    refused: int
    """Not sent: no life, or a bound was reached."""


class Connection:
    """See the module. ``run`` must be running."""

    def __init__(self, settings: RedisSettings) -> None:
        self.events = ConnectionEvents()
        self._settings = settings
        self._redirect: Address | None = None
        self._pipeline = Pipeline(_ignore, _ignore)
        self._is_up = False
        self._output: list[bytes] = []
        self._unsent_bytes = 0
        self._steps: list[Callable[[], None]] = []
        self._has_output = trio.Event()
        self._life = trio.CancelScope()
        self._reason = ""
        self._commands = self._lives = self._timeouts = self._errors = self._refused = 0

    @property
    def is_up(self) -> bool:
        return self._is_up and not self._life.cancel_called

    @property
    def lives(self) -> int:
        return self._lives

    def statistics(self) -> ConnectionStatistics:
        counted = (self._commands, self._lives, self._timeouts, self._errors, self._refused)
        return ConnectionStatistics(self.is_up, len(self._pipeline), *counted)

    # ---------------------------------------------------------------------------------------------- asking

    def submit(self, command: bytes, done: Done) -> None:
        """Send a packed command; ``done`` is called once, later. Raises RedisUnavailable: nothing was sent."""
        settings = self._settings
        if not self.is_up:
            self._refused += 1
            raise RedisUnavailable("no connection to Redis")
        if len(self._pipeline) >= settings.max_waiting_commands or self._unsent_bytes > settings.max_unsent_bytes:
            self._refused += 1
            raise RedisUnavailable("too much waits for Redis already")
        self._send(command, done)

    async def call(self, command: bytes) -> Any:
        """The reply. Raises RedisUnavailable, ErrorReply among them."""
        promise: Promise[Any] = Promise()
        self.submit(command, keeping(promise))
        return await promise.wait()

    def call_soon(self, step: Callable[[], None]) -> None:
        """Run ``step`` before the next write, or when the life ends. It must not raise. Raises RedisUnavailable without a life:
        the step would wait for the next one."""
        if not self.is_up:
            raise RedisUnavailable("no connection to Redis")
        self._steps.append(step)
        self._has_output.set()

    def _send(self, command: bytes, done: Done) -> None:
        self._commands += 1
        self._output.append(command)
        self._unsent_bytes += len(command)
        self._pipeline.expect(done, trio.current_time() + self._settings.command_timeout_s)
        self._has_output.set()

    def cut(self, reason: str) -> None:
        """End this life, if it is one; the next begins by itself."""
        if not self._life.cancel_called:
            self._reason = reason
            self._life.cancel()

    # --------------------------------------------------------------------------------------------- living

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Live again and again, until cancelled."""
        task_status.started()
        failures, logged = 0, ""
        while True:
            lived_s = await self._live()
            failures = 0 if lived_s >= PROVEN_S else min(failures + 1, 10)
            self.events.on_failed(self._reason)
            if lived_s or self._reason != logged:  # an attempt a second that fails like the one before is no news
                log.warning("redis_lost", reason=self._reason, lived_s=round(lived_s, 3))
                logged = self._reason
            await trio.sleep(random.uniform(0, min(RETRY_MAX_S, RETRY_BASE_S * 2**failures)))

    async def _live(self) -> float:
        """One life. Returns how long it was; 0: it did not begin."""
        address, self._redirect = self._redirect or (self._settings.host, self._settings.port), None
        self._reason = "it was not reached in time"
        stream: trio.abc.Stream | None = None
        with trio.move_on_after(self._settings.connect_timeout_s):
            try:
                stream = await dial(self._settings, address)
            except (OSError, ssl.SSLError, trio.BrokenResourceError) as error:
                self._reason = f"it cannot be reached: {_words(error)}"
        if stream is None:
            return 0.0
        self._pipeline = Pipeline(self.events.on_push, self._on_error)
        self._output, self._unsent_bytes = [], 0
        began_s = trio.current_time()
        self._life = trio.CancelScope()
        try:
            with self._life:
                async with trio.open_nursery() as nursery:
                    for task in (self._read, self._write, self._greet):
                        nursery.start_soon(task, stream)
                    nursery.start_soon(self._watch)
            return trio.current_time() - began_s if self._is_up else 0.0
        finally:
            self._end_life()
            with trio.CancelScope(shield=True):
                await trio.aclose_forcefully(stream)

    def _end_life(self) -> None:
        was_up, self._is_up = self._is_up, False
        self._pipeline.abandon(f"the connection to Redis was lost: {self._reason}")
        self._run_steps()
        if was_up:
            self.events.on_down()

    async def _greet(self, stream: trio.abc.Stream) -> None:
        settings, greeting = self._settings, self.events.greeting()
        credentials = (b"AUTH", settings.username or b"default", settings.password) if settings.password else ()
        commands = [pack(b"HELLO", 3, *credentials, b"SETNAME", b"parley")]
        commands += [pack(b"SELECT", settings.database)] if settings.database else []
        commands.extend(greeting.commands)
        promises = [self._ask(command) for command in commands]
        if greeting.channels:
            self._output.append(pack(b"SUBSCRIBE", *greeting.channels))
        # Were a subscription refused, its error would stand in the place of this answer.
        promises.append(self._ask(pack(b"PING")))
        try:
            with trio.fail_after(settings.connect_timeout_s):
                replies = [await promise.wait() for promise in promises]
        except trio.TooSlowError:
            self.cut("it did not answer the greeting")
        except RedisUnavailable as error:
            self.cut(f"it refused the greeting: {error}")
        else:
            self._is_up = True
            self._lives += 1
            log.info("redis_up", lives=self._lives)
            self.events.on_up(replies[len(replies) - 1 - len(greeting.commands) : -1])

    def _ask(self, command: bytes) -> Promise[Any]:
        promise: Promise[Any] = Promise()
        self._send(command, keeping(promise))
        return promise

    async def _read(self, stream: trio.abc.Stream) -> None:
        try:
            while received := await stream.receive_some(RECEIVE_BYTES):
                self._pipeline.receive(bytes(received))
                self.events.on_round()
            self.cut("it closed the connection")
        except (OSError, ssl.SSLError, trio.BrokenResourceError) as error:
            self.cut(f"reading failed: {_words(error)}")
        except RedisProtocolError as error:
            self.cut(f"it sent no RESP3: {error}")

    async def _write(self, stream: trio.abc.Stream) -> None:
        try:
            while True:
                await self._has_output.wait()
                self._has_output = trio.Event()
                self._run_steps()
                output, self._output = b"".join(self._output), []
                await stream.send_all(output)
                self._unsent_bytes -= len(output)
        except (OSError, ssl.SSLError, trio.BrokenResourceError) as error:
            self.cut(f"writing failed: {_words(error)}")

    def _run_steps(self) -> None:
        steps, self._steps = self._steps, []
        for step in steps:
            step()

    async def _watch(self) -> None:
        """Wakes as often as commands time out, not as often as they are answered."""
        while True:
            now_s = trio.current_time()
            deadline = self._pipeline.deadline
            if deadline is None or deadline > now_s:
                await trio.sleep_until(deadline or now_s + self._settings.command_timeout_s)
                continue
            await trio.sleep(LATE_S)
            if self._pipeline.deadline == deadline:
                self._timeouts += 1
                self.cut("a command was not answered in time")

    def _on_error(self, error: ErrorReply) -> None:
        self._errors += 1
        if error.is_unfit:
            moved_to = error.moved_to
            if moved_to is not None:
                self._redirect = moved_to[0] or self._settings.host, moved_to[1]
            self.cut(f"it is not fit: {error}")


def keeping(promise: Promise[Any]) -> Done:
    """Ends a promise as a command ends. A waiter that gave up is not woken: its reply ends here."""

    def done(reply: Any) -> None:
        if isinstance(reply, Exception):
            promise.fail(reply)
        else:
            promise.set(reply)

    return done


def _words(error: BaseException) -> str:
    """Trio says that a stream is broken, and its cause says why."""
    return str(error) or str(error.__cause__ or type(error).__name__)
