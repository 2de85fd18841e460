"""A simulated directory: who lives, and where devices are, as somebody who may be late, wrong, slow or emptied tells it.

Owns the lies. Nothing that is safe may hang on it, so it says every now and then that a living worker is gone, to all or to
some, forgets everything, or does not answer.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from functools import partial

import trio

from gateway.cluster.directory import (
    DirectoryEvents,
    DirectoryUnavailable,
    Location,
    Outcome,
    Registered,
    Registration,
    WorkerRecord,
)
from gateway.cluster.promise import Promise
from gateway.protocol.identifiers import DeviceId, SessionId, UserId, WorkerId
from tests.simulation.agenda import Agenda
from tests.simulation.boundary import Boundary
from tests.simulation.dice import Dice


class Registry:
    """What is true, and who is told what."""

    def __init__(self, agenda: Agenda, rng: Dice) -> None:
        self.agenda = agenda
        self.slow = rng.setting(0.0, 0.05, 0.3)
        self.alive: dict[WorkerId, WorkerRecord] = {}
        self.places: dict[UserId, dict[DeviceId, Location]] = {}
        self.views: list[SimulatedDirectory] = []
        self._random = rng

    def delay_s(self) -> float:
        rng = self._random
        return rng.uniform(0.1, 3.0) if self.slow and rng.random() < self.slow else rng.uniform(0.001, 0.02)

    def calm(self) -> None:
        self.slow = 0.0
        for view in self.views:
            view.lies.clear()
        self.tell_workers()

    def joined(self, record: WorkerRecord) -> None:
        self.alive[record.worker_id] = record
        self.tell_workers()

    def ended(self, record: WorkerRecord) -> None:
        """The supervisor saw it end, or its signs of life are missed."""
        known = self.alive.get(record.worker_id)
        if known is not None and known.incarnation == record.incarnation:
            del self.alive[record.worker_id]
            for places in self.places.values():
                for device_id in [d for d, place in places.items() if place.worker_id == record.worker_id]:
                    del places[device_id]
            self.tell_workers()

    def tell_workers(self) -> None:
        for view in self.views:
            self.agenda.after(self.delay_s(), view.be_told)

    def deny(self, worker: WorkerId, for_s: float, *, is_to_all: bool) -> None:
        """Say that a worker is gone, which lives. It seldom hears of it itself: else it would let go at once."""
        for view in self.views:
            is_told = is_to_all or self._random.random() < 0.5
            if is_told and (view.worker_id != worker or self._random.random() < 0.2):
                view.lies[worker] = self.agenda.now_s + for_s
        self.tell_workers()
        self.agenda.after(for_s + 0.01, self.tell_workers)

    def forget_everything(self) -> None:
        self.places.clear()
        for view in self.views:
            self.agenda.after(self.delay_s(), view.be_emptied)

    def moved(self, user_id: UserId) -> None:
        for view in self.views:
            self.agenda.after(self.delay_s(), partial(view.be_told_moved, user_id))


class SimulatedDirectory:
    """One worker's view."""

    def __init__(self, registry: Registry, worker_id: WorkerId, boundary: Boundary) -> None:
        self.worker_id = worker_id
        self.events = DirectoryEvents()
        self.workers: dict[WorkerId, WorkerRecord] = {}
        self.lies: dict[WorkerId, float] = {}
        """Workers that are not named to this one, and until when."""
        self._registry = registry
        self._boundary = boundary
        self._record: WorkerRecord | None = None
        self._told: set[UserId] = set()
        registry.views.append(self)

    # ----------------------------------------------------------------------------------------------- being told

    def be_told(self) -> None:
        now_s = self._registry.agenda.now_s
        workers = {
            worker: record
            for worker, record in sorted(self._registry.alive.items())
            if self.lies.get(worker, 0) <= now_s
        }
        self._boundary.cross(partial(self._take_workers, workers))

    def _take_workers(self, workers: dict[WorkerId, WorkerRecord]) -> None:
        if workers != self.workers:
            self.workers = workers
            self.events.on_workers(workers)

    def be_emptied(self) -> None:
        self._told.clear()
        self._boundary.cross(self.events.on_generation)

    def be_told_moved(self, user_id: UserId) -> None:
        if user_id in self._told:
            self._told.discard(user_id)
            self._boundary.cross(lambda: self.events.on_moved([user_id]))

    def forget(self) -> None:
        """The worker has ended."""
        self._registry.views.remove(self)

    # --------------------------------------------------------------------------------------------------- asking

    async def join(self, record: WorkerRecord) -> None:
        self._record = record
        self._registry.joined(record)
        with contextlib.suppress(DirectoryUnavailable):
            await self._cross()

    async def drain(self) -> None:
        assert self._record is not None
        self._record = self._record._replace(is_draining=True)
        self._registry.joined(self._record)
        await self._cross()

    async def leave(self) -> None:
        if self._record is not None:
            self._registry.ended(self._record)
        await self._cross()

    async def _cross(self) -> None:
        """To the directory and back. Raises DirectoryUnavailable."""
        promise: Promise[None] = Promise()

        def back() -> None:
            self._boundary.cross(partial(promise.set, None))

        self._boundary.cross(lambda: self._registry.agenda.after(self._registry.delay_s(), back))
        with trio.move_on_after(2.0):
            await promise.wait()
            return
        raise DirectoryUnavailable("no answer")

    async def register(self, registrations: Sequence[Registration]) -> list[Registered]:
        await self._cross()
        return [self._register(registration) for registration in registrations]

    def _register(self, registration: Registration) -> Registered:
        user_id, device_id, session_id, *_ = registration
        assert self._record is not None
        places = self._registry.places.setdefault(user_id, {})
        known = places.get(device_id)
        if known is not None and known.session_id > session_id:
            return Registered(Outcome.SUPERSEDED, known.session_id)
        places[device_id] = Location(device_id, self._record.worker_id, session_id)
        self._registry.moved(user_id)
        return Registered(Outcome.ACCEPTED, session_id)

    def unregister(self, user_id: UserId, device_id: DeviceId, session_id: SessionId) -> None:
        places = self._registry.places.get(user_id, {})
        known = places.get(device_id)
        if known is not None and known.session_id == session_id:
            del places[device_id]
            self._registry.moved(user_id)

    async def locate(self, user_ids: Sequence[UserId]) -> dict[UserId, tuple[Location, ...]]:
        await self._cross()
        self._told.update(user_ids)
        return {user_id: tuple(self._registry.places.get(user_id, {}).values()) for user_id in user_ids}
