"""The benches that only connect: ``connect`` (how fast) and ``idle`` (how small).

``connect`` counts a connection from the SYN to WELCOME, its JWT verified. Tokens are minted before the clock starts,
and the oldest connections are closed on the way, so that the descriptors last. ``idle`` holds what it has, PINGs each
connection, and weighs the node's workers by their PSS.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from bench.faults import BenchError
from bench.figures import Histogram
from bench.generator import CLOSED, Generator, generator
from bench.keepalive import KeepAlive
from bench.report import Header, Result, finish
from bench.session import Login, Session, describe, hello, login_of, open_sessions, welcomed
from bench.target import Target
from bench.usage import Meter, why_invalid
from bench.violations import Rule, Violations
from gateway.protocol.messages import Op

CONNECTS_A_TURN = 16
"""connect() blocks for some 50 us: more at once, and WELCOMEs that have come would wait for them."""

HELD_OPEN = 2000
LOGIN_TIMEOUT_S = 30.0
KERNEL_SLOTS = 18_000
WARMUP_CONNECTIONS = 64
SETTLE_S = 1.0
SECONDS_A_MINUTE = 60

ANSWERED_BY_KERNEL = "parley_pongs_total"
"""The node's counter of PINGs that C answered. A PING is answered there or given to Python, never both: as many
answered as were sent means that Python ran for none.
"""


class Crowd(NamedTuple):
    connections: int
    in_flight: int
    is_resuming: bool


def run_connect(header: Header, target: Target, crowd: Crowd) -> Result:
    """Logins a second, ``crowd.in_flight`` at a time."""
    logins = [login_of(credential) for credential in target.credentials(crowd.connections)]
    with generator(target.cluster.addresses, KERNEL_SLOTS) as clients:
        if crowd.is_resuming:
            logins = _Rush(clients, logins, crowd.in_flight).run().tokens
        meter = Meter(target.cluster)
        rush = _Rush(clients, logins, crowd.in_flight).run()
        usage = meter.read()
    figures = {"connects_per_s": crowd.connections / usage.seconds, **rush.times.milliseconds(50, 99)}
    invalid = why_invalid(usage, is_node_known=target.cluster.is_known)
    return finish(header, figures, usage.figures(), (0, []), invalid)


class _Rush:
    """Logs in with each of ``logins`` once, and closes the oldest session whenever too many are open."""

    def __init__(self, clients: Generator, logins: Sequence[Login], in_flight: int) -> None:
        self._clients = clients
        self._logins = logins
        self._in_flight = in_flight
        self._began_ns: dict[int, int] = {}
        self._open: deque[int] = deque()
        self._started = 0
        self.times = Histogram()
        self.tokens: list[Login] = []

    def run(self) -> _Rush:
        last_progress_s = time.monotonic()
        while len(self.tokens) < len(self._logins):
            self._connect_some()
            before = len(self.tokens)
            self._take()
            if len(self.tokens) > before:
                last_progress_s = time.monotonic()
            elif time.monotonic() - last_progress_s > LOGIN_TIMEOUT_S:
                raise BenchError(f"no WELCOME for {LOGIN_TIMEOUT_S:g} s, after {before} of {len(self._logins)}")
        while self._open:
            self._clients.kernel.close(self._open.popleft())
        return self

    def _connect_some(self) -> None:
        free = self._in_flight - len(self._began_ns)
        for login in self._logins[self._started : self._started + min(free, CONNECTS_A_TURN)]:
            began_ns = time.perf_counter_ns()
            conn = self._clients.connect()
            self._clients.kernel.send(conn, hello(login))
            self._began_ns[conn] = began_ns
            self._started += 1

    def _take(self) -> None:
        is_waiting = self._started == len(self._logins) or len(self._began_ns) >= self._in_flight
        for event in self._clients.turn(0.05 if is_waiting else 0):
            if event[0] not in self._began_ns:
                continue
            session = welcomed(event)
            self.times.record((self._clients.now_ns - self._began_ns.pop(session.conn)) // 1000)
            self.tokens.append(Login(session.device_id, session.resume_token))
            self._open.append(session.conn)
            if len(self._open) > HELD_OPEN:
                self._clients.kernel.close(self._open.popleft())


class Watch(NamedTuple):
    connections: int
    seconds: float
    """Every connection PINGs once in this time."""


def run_idle(header: Header, target: Target, watch: Watch) -> Result:
    with generator(target.cluster.addresses, KERNEL_SLOTS) as clients:
        warm = open_sessions(clients, _logins(target, WARMUP_CONNECTIONS))
        _Hold(clients, warm).run(SETTLE_S)
        before_bytes = target.cluster.pss_bytes()
        sessions = open_sessions(clients, _logins(target, watch.connections))
        _Hold(clients, [*warm, *sessions]).run(SETTLE_S)
        held_bytes = target.cluster.pss_bytes()
        counted = target.cluster.metrics()
        meter = Meter(target.cluster)
        hold = _Hold(clients, sessions)
        hold.run(watch.seconds)
        usage = meter.read()
        after_bytes = target.cluster.pss_bytes()
        figures = {
            "bytes_per_connection": (after_bytes - before_bytes) / watch.connections,
            "bytes_per_connection_before_pings": (held_bytes - before_bytes) / watch.connections,
            "pss_before_mib": before_bytes / 2**20,
            "pss_after_mib": after_bytes / 2**20,
            "pings": hold.keepalive.sent,
            "pongs": hold.pongs,
            **_who_answered(counted, target.cluster.metrics(), hold.keepalive.sent),
        }
    evidence = (len(hold.found), hold.found.lines())
    return finish(header, figures, usage.figures(), evidence, _why_unknown(target, figures))


def _logins(target: Target, n: int) -> list[Login]:
    return [login_of(credential) for credential in target.credentials(n)]


def _who_answered(before: dict[str, float], after: dict[str, float], pings: int) -> dict[str, float]:
    """How many of the PINGs the kernel answered, and how many it left to Python. Empty: the node does not tell."""
    if ANSWERED_BY_KERNEL not in after:
        return {}
    by_kernel = after[ANSWERED_BY_KERNEL] - before.get(ANSWERED_BY_KERNEL, 0.0)
    return {"pings_answered_in_c": by_kernel, "pings_given_to_python": max(0.0, pings - by_kernel)}


def _why_unknown(target: Target, figures: dict[str, float]) -> list[str]:
    reasons = []
    if not target.cluster.is_known:
        reasons.append("the node's memory is not known: name its supervisor with --pid")
    if "pings_given_to_python" not in figures:
        reasons.append(f"the node does not tell {ANSWERED_BY_KERNEL}: who answered the PINGs is not known (--ops-port)")
    return reasons


class _Hold:
    """Keeps sessions open for a while; each PINGs once in it, and every PING must be answered."""

    def __init__(self, clients: Generator, sessions: Sequence[Session]) -> None:
        self._clients = clients
        self._sessions = sessions
        self.found = Violations()
        self.pongs = 0

    def run(self, seconds: float) -> None:
        self._clients.turn(0)
        self.keepalive = KeepAlive(self._clients, self._sessions, seconds)
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self._take(min(0.01, seconds))
            self.keepalive.send_due()
        until = time.monotonic() + LOGIN_TIMEOUT_S
        while self.pongs < self.keepalive.sent and time.monotonic() < until:
            self._take(0.05)
        if self.pongs < self.keepalive.sent:
            self.found.add(Rule.LATE, f"{self.keepalive.sent - self.pongs} PINGs were not answered")

    def _take(self, timeout_s: float) -> None:
        for event in self._clients.turn(timeout_s):
            if event[1] == Op.PONG:
                self.pongs += 1
            elif event[1] in (CLOSED, Op.CLOSE, Op.ERROR):
                self.found.add(Rule.ENDED, f"connection {event[0]}: {describe(event)}")
