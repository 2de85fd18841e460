"""Links between the simulated workers: the API of ``gateway.cluster.links.Links`` over a network that delays and is cut.

Owns what travels between workers, and how it fails. Frames of one worker to another arrive in order, or not at all once a cut
came between. A cut, or a peer's end, ends every request between the two as unknown at once; pushes that were under way are
lost, and their recipients are told LAGGED by their own worker as soon as the two meet again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from gateway.cluster.deferred import Deferred
from gateway.cluster.link_requests import Answer, Done, LinkLost, LinkRefused, PendingRequests, Reply
from gateway.cluster.promise import Promise
from gateway.protocol.identifiers import WorkerId
from tests.simulation.agenda import Agenda
from tests.simulation.boundary import Boundary
from tests.simulation.dice import Dice

Recipients = Sequence[tuple[int, int]]
Handler = Callable[[WorkerId, bytes, "Reply | None"], None]
TICK_S = 1.0


class Network:
    """Which worker's process answers under which number, and which pairs cannot reach each other."""

    def __init__(self, agenda: Agenda, rng: Dice) -> None:
        self.agenda = agenda
        self.late = rng.setting(0.0, 0.001, 0.005)
        self.wrong_refusals = rng.setting(0.0, 0.0, 0.3)
        """How often a living worker seems to refuse connections."""
        self.ends: dict[WorkerId, SimulatedLinks] = {}
        self._random = rng
        self._cut: set[frozenset[WorkerId]] = set()
        self._generation: dict[frozenset[WorkerId], int] = {}
        self._arrives_s: dict[tuple[WorkerId, WorkerId], float] = {}

    def delay_s(self) -> float:
        rng = self._random
        return rng.uniform(0.3, 4) if self.late and rng.random() < self.late else rng.uniform(0.001, 0.03)

    def reaches(self, one: WorkerId, other: WorkerId) -> bool:
        return frozenset((one, other)) not in self._cut and other in self.ends

    def cut(self, one: WorkerId, other: WorkerId, for_s: float) -> None:
        self._cut.add(frozenset((one, other)))
        self._break(one, other)
        self.agenda.after(for_s, partial(self._mend, one, other))

    def _mend(self, one: WorkerId, other: WorkerId) -> None:
        self._cut.discard(frozenset((one, other)))

    def mend_all(self) -> None:
        self._cut.clear()
        self.late = self.wrong_refusals = 0.0

    def _break(self, one: WorkerId, other: WorkerId) -> None:
        pair = frozenset((one, other))
        self._generation[pair] = self._generation.get(pair, 0) + 1
        for me, peer in ((one, other), (other, one)):
            end = self.ends.get(me)
            if end is not None:
                self.agenda.after(self.delay_s(), partial(end.broke, peer))

    def ended(self, worker: WorkerId) -> None:
        """Its process has ended: every connection to it breaks."""
        del self.ends[worker]
        for other in list(self.ends):
            self._break(worker, other)

    def carry(self, sender: WorkerId, to: WorkerId, take: Callable[[SimulatedLinks], None]) -> bool:
        """False: it does not leave."""
        if not self.reaches(sender, to):
            return False
        pair = frozenset((sender, to))
        generation = self._generation.setdefault(pair, 0)
        when_s = max(self.agenda.now_s + self.delay_s(), self._arrives_s.get((sender, to), 0.0))
        self._arrives_s[sender, to] = when_s
        end = self.ends[to]

        def arrive() -> None:
            if self._generation[pair] == generation and self.ends.get(to) is end:
                end.boundary.cross(partial(take, end))

        self.agenda.at(when_s, arrive)
        return True

    def is_refused(self, asker: WorkerId, worker: WorkerId) -> bool:
        return worker not in self.ends or self._random.random() < self.wrong_refusals


class SimulatedLinks:
    def __init__(self, network: Network, me: WorkerId, incarnation: int, boundary: Boundary) -> None:
        self.me = me
        self.incarnation = incarnation
        self.boundary = boundary
        self.on_lost: Callable[[WorkerId], None] = lambda worker: None
        self.on_push: Callable[[WorkerId, Recipients, bytes], None] = lambda worker, recipients, frame: None
        self.on_lost_pushes: Callable[[Recipients | None], None] = lambda recipients: None
        self.on_frame: Callable[[], None] = lambda: None
        """Told after a frame was handled: the end of a cycle."""
        self._network = network
        self._handlers: dict[int, Handler] = {}
        self._lost_listeners: list[Callable[[WorkerId], None]] = []
        self._pending: dict[WorkerId, PendingRequests] = {}
        self._last_request = 0
        self._is_ticking = False
        self._has_lost_pushes: set[WorkerId] = set()
        self._deferred = Deferred()
        self.call_soon = self._deferred.call_soon
        self.run_pending = self._deferred.run_pending
        self.run = self._deferred.run
        network.ends[me] = self

    def register(self, op: int, handler: Handler) -> None:
        self._handlers[op] = handler

    def add_lost_listener(self, listener: Callable[[WorkerId], None]) -> None:
        self._lost_listeners.append(listener)

    def is_refused(self, worker: WorkerId) -> bool:
        return worker != self.me and self._network.is_refused(self.me, worker)

    # ------------------------------------------------------------------------------------------------ sending

    def send(self, worker: WorkerId, op: int, payload: bytes) -> bool:
        if worker == self.me:
            self.call_soon(partial(self._handlers[op], worker, payload, None))
            return True
        self._leave(worker, lambda end: end.take(self.me, op, payload, None))
        return True

    def request(self, worker: WorkerId, op: int, payload: bytes, done: Done) -> None:
        request_id = self._last_request = self._last_request + 1
        pending = self._pending.setdefault(worker, PendingRequests(worker))
        pending.add(request_id, done, self._network.agenda.now_s)
        self._tick_later()
        if worker == self.me:
            reply = Reply(lambda answer: self.call_soon(partial(pending.end, request_id, answer)))
            self.call_soon(partial(self._handlers[op], worker, payload, reply))
            return

        def not_sent() -> None:
            pending.end(request_id, LinkLost(worker, is_unknown=False))

        self._leave(
            worker,
            lambda end: end.take(self.me, op, payload, Reply(partial(end.answer, self, request_id))),
            lambda: self.call_soon(not_sent),
        )

    async def call(self, worker: WorkerId, op: int, payload: bytes) -> bytes:
        promise: Promise[Answer] = Promise()
        self.request(worker, op, payload, promise.set)
        answer = await promise.wait()
        if isinstance(answer, bytes):
            return answer
        raise answer

    def push(self, worker: WorkerId, frame: bytes, recipients: Recipients, *, is_droppable: bool = False) -> None:
        if worker == self.me:
            self.call_soon(partial(self.on_push, worker, recipients, frame))
            return
        recipients = list(recipients)
        self._leave(
            worker, lambda end: end.take_push(self.me, recipients, frame), lambda: self._has_lost_pushes.add(worker)
        )

    def answer(self, asker: SimulatedLinks, request_id: int, answer: bytes | LinkRefused) -> None:
        """To the very process that asked: its next life counts its requests anew."""

        def take(end: SimulatedLinks) -> None:
            if end is asker:
                end.take_answer(self.me, request_id, answer)

        self._leave(asker.me, take)

    def _leave(
        self, worker: WorkerId, take: Callable[[SimulatedLinks], None], not_sent: Callable[[], None] = lambda: None
    ) -> None:
        def leave() -> None:
            if worker in self._has_lost_pushes and self._network.carry(self.me, worker, SimulatedLinks.take_losses):
                self._has_lost_pushes.discard(worker)
            if not self._network.carry(self.me, worker, take):
                not_sent()

        self.boundary.cross(leave)

    # ---------------------------------------------------------------------------------------------- receiving

    def take(self, sender: WorkerId, op: int, payload: bytes, reply: Reply | None) -> None:
        self._handlers[op](sender, payload, reply)
        self.on_frame()

    def take_answer(self, sender: WorkerId, request_id: int, answer: bytes | LinkRefused) -> None:
        if sender in self._pending:
            self._pending[sender].end(request_id, answer)
            self.on_frame()

    def take_push(self, sender: WorkerId, recipients: Recipients, frame: bytes) -> None:
        self.on_push(sender, recipients, frame)
        self.on_frame()

    def take_losses(self) -> None:
        self.on_lost_pushes(None)
        self.on_frame()

    def broke(self, peer: WorkerId) -> None:
        """The connections with this peer are gone, and everything on them."""
        self.boundary.cross(partial(self._broke, peer))

    def _broke(self, peer: WorkerId) -> None:
        self._has_lost_pushes.add(peer)
        pending = self._pending.pop(peer, None)
        for done in pending.take_all() if pending else ():
            self.call_soon(partial(done, LinkLost(peer, is_unknown=True)))
        for listener in (*self._lost_listeners, self.on_lost):
            self.call_soon(partial(listener, peer))
        self.on_frame()

    # ------------------------------------------------------------------------------------------------- the tick

    def _tick_later(self) -> None:
        if not self._is_ticking:
            self._is_ticking = True
            self._network.agenda.after(TICK_S, partial(self.boundary.cross, self._tick))

    def _tick(self) -> None:
        self._is_ticking = False
        now_s = self._network.agenda.now_s
        for worker, pending in list(self._pending.items()):
            for done in pending.overdue(now_s):
                self.call_soon(partial(done, LinkLost(worker, is_unknown=True)))
        if any(self._pending.values()):
            self._tick_later()
        if self._has_lost_pushes:
            for worker in sorted(self._has_lost_pushes):
                self._leave(worker, lambda end: None)
        self.on_frame()
