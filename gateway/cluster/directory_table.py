"""The directory's content, sans-IO: workers, devices, who asked where a user is.

Owns the rules of the directory; it knows no transport and no clock. What others must be told is collected and taken by
``take_effects``, so that a batch of registrations becomes one notice for each worker.

Layout: one flat tuple of ints per user, five for each of the user's devices. Not an object per device: a tuple of ints
costs a third of it and leaves the garbage collector nothing to walk.

Invariants: of a device at most one session is connected, the one with the highest id ever accepted; a worker that has
gone has no connected device; whoever was told where a user is, is told once that it changed.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from gateway.cluster.directory import (
    Location,
    Outcome,
    Registered,
    Registration,
    Replaced,
    WorkerRecord,
    Workers,
)
from gateway.protocol.identifiers import DeviceId, SessionId, UserId, WorkerId

MAX_DEVICES = 1_000_000
"""Records of devices, connected or not, at about 250 bytes. Past it the longest disconnected are forgotten, which costs
them the check for an outdated resume token and nothing else."""

MAX_TRACKED = 1_000_000
"""Users whose whereabouts somebody relies on. Past it the oldest are told as moved, so that whoever still cares asks again."""

MAX_TRACKERS = 64
"""Workers that rely on one user's whereabouts, for the same reason with the same way out."""

_FIELDS = 5
"""device, worker (negative: was there, disconnected), session, resume floor, expiry in unix seconds."""


@dataclass(slots=True)
class Effects:
    """Who has to be told what. Each worker's list is in the order of the changes."""

    moved: dict[WorkerId, list[UserId]] = field(default_factory=dict)
    replaced: dict[WorkerId, list[Replaced]] = field(default_factory=dict)
    are_workers_changed: bool = False


class DirectoryTable:
    """``expected_workers``: how many start together; until they have joined, or ``settle``, the set is not told."""

    def __init__(
        self, *, expected_workers: int = 0, max_devices: int = MAX_DEVICES, max_tracked: int = MAX_TRACKED
    ) -> None:
        self.generation = secrets.randbits(62) | 1
        self._expected_workers = expected_workers
        self._max_devices = max_devices
        self._max_tracked = max_tracked
        self._is_settled = expected_workers == 0
        self._workers: dict[WorkerId, WorkerRecord] = {}
        self._users: dict[int, tuple[int, ...]] = {}
        self._disconnected: dict[tuple[int, int], None] = {}
        """(user, device), longest disconnected first."""
        self._device_count = 0
        self._trackers: dict[int, tuple[WorkerId, ...]] = {}
        self._effects = Effects()

    # ------------------------------------------------------------------------------------------- workers

    @property
    def workers(self) -> Workers:
        return self._workers

    @property
    def is_settled(self) -> bool:
        """The set of workers is worth telling."""
        return self._is_settled

    @property
    def device_count(self) -> int:
        return self._device_count

    def settle(self) -> None:
        """Those who wait have waited long enough."""
        self._is_settled = True
        self._effects.are_workers_changed = True

    def join(self, record: WorkerRecord) -> bool:
        """False: a later incarnation of this worker has joined already."""
        known = self._workers.get(record.worker_id)
        if known is not None and known.incarnation > record.incarnation:
            return False
        if known is not None:
            self._disconnect_all(record.worker_id)
        self._set_worker(record)
        self._is_settled = self._is_settled or len(self._workers) >= self._expected_workers
        return True

    def drain(self, worker: WorkerId) -> None:
        if worker in self._workers:
            self._set_worker(self._workers[worker]._replace(is_draining=True))

    def remove(self, worker: WorkerId, incarnation: int) -> None:
        """It left, or died. Ignored if a later incarnation has joined meanwhile."""
        known = self._workers.get(worker)
        if known is None or known.incarnation != incarnation:
            return
        del self._workers[worker]
        self._effects.are_workers_changed = True
        self._disconnect_all(worker)

    def _set_worker(self, record: WorkerRecord) -> None:
        if self._workers.get(record.worker_id) != record:
            self._workers[record.worker_id] = record
            self._effects.are_workers_changed = True

    # ------------------------------------------------------------------------------------------- devices

    def register(self, worker: WorkerId, registrations: Sequence[Registration], now_s: int) -> list[Registered]:
        """``worker`` must have joined."""
        results = [self._register(worker, registration, now_s) for registration in registrations]
        while self._device_count > self._max_devices and self._disconnected:
            self._forget_device(*next(iter(self._disconnected)))
        return results

    def _register(self, worker: WorkerId, wanted: Registration, now_s: int) -> Registered:
        user_id, device_id, session_id, resumed_from, expires_s = wanted
        devices = self._users.get(user_id, ())
        at = _find(devices, device_id)
        known_at, highest, floor, known_until_s = devices[at + 1 : at + _FIELDS] if at < len(devices) else (0, 0, 0, 0)
        is_repeated = session_id == highest and abs(known_at) == worker
        if known_at <= 0 and known_until_s <= now_s and not is_repeated:
            highest = floor = 0
        if not is_repeated:
            if resumed_from and resumed_from < floor:
                return Registered(Outcome.RESUME_STALE, SessionId(highest))
            if session_id <= highest:
                return Registered(Outcome.SUPERSEDED, SessionId(highest))
        if known_at > 0 and session_id != highest:
            replaced = Replaced(user_id, device_id, SessionId(highest), session_id)
            self._effects.replaced.setdefault(WorkerId(known_at), []).append(replaced)
        record = (device_id, worker, session_id, max(floor, resumed_from), max(known_until_s, expires_s))
        self._users[user_id] = (*devices[:at], *record, *devices[at + _FIELDS :])
        self._device_count += at == len(devices)
        self._disconnected.pop((user_id, device_id), None)
        if (known_at, highest) != (worker, session_id):
            self._moved(user_id)
        return Registered(Outcome.ACCEPTED, session_id)

    def unregister(self, worker: WorkerId, user_id: UserId, device_id: DeviceId, session_id: SessionId) -> None:
        devices = self._users.get(user_id, ())
        at = _find(devices, device_id)
        if devices[at + 1 : at + 3] == (worker, session_id):
            self._disconnect(user_id, at)
            self._moved(user_id)

    def expire(self, now_s: int) -> None:
        """Forget disconnected devices whose tokens have all run out. A walk over all of them: once a minute is plenty."""
        for user_id, device_id in list(self._disconnected):
            devices = self._users[user_id]
            if devices[_find(devices, device_id) + 4] <= now_s:
                self._forget_device(user_id, device_id)

    def _disconnect(self, user_id: int, at: int) -> None:
        devices = self._users[user_id]
        self._users[user_id] = (*devices[: at + 1], -devices[at + 1], *devices[at + 2 :])
        self._disconnected[user_id, devices[at]] = None

    def _disconnect_all(self, worker: WorkerId) -> None:
        """A walk over every user: a worker's end is rare, an index of users by worker would be paid at every login."""
        gone = [user_id for user_id, devices in self._users.items() if worker in devices[1::_FIELDS]]
        for user_id in gone:
            for at in range(0, len(self._users[user_id]), _FIELDS):
                if self._users[user_id][at + 1] == worker:
                    self._disconnect(user_id, at)
            self._moved(user_id)

    def _forget_device(self, user_id: int, device_id: int) -> None:
        devices = self._users[user_id]
        at = _find(devices, device_id)
        rest = (*devices[:at], *devices[at + _FIELDS :])
        if rest:
            self._users[user_id] = rest
        else:
            del self._users[user_id]
        del self._disconnected[user_id, device_id]
        self._device_count -= 1

    # ----------------------------------------------------------------------------------------- locations

    def locate(self, worker: WorkerId, user_ids: Iterable[UserId]) -> list[tuple[Location, ...]]:
        """For each user, in order; ``worker`` relies on the answers from now on."""
        return [self._locate(worker, user_id) for user_id in user_ids]

    def _locate(self, worker: WorkerId, user_id: UserId) -> tuple[Location, ...]:
        trackers = self._trackers.get(user_id, ())
        if worker not in trackers:
            if len(trackers) >= MAX_TRACKERS:
                self._moved(user_id)
                trackers = ()
            elif not trackers and len(self._trackers) >= self._max_tracked:
                self._moved(next(iter(self._trackers)))
            self._trackers[user_id] = (*trackers, worker)
        devices = iter(self._users.get(user_id, ()))
        return tuple(
            Location(DeviceId(device), WorkerId(at), SessionId(session))
            for device, at, session, _, _ in zip(*[devices] * _FIELDS, strict=True)
            if at > 0
        )

    def _moved(self, user_id: int) -> None:
        for tracker in self._trackers.pop(user_id, ()):
            if tracker in self._workers:
                self._effects.moved.setdefault(tracker, []).append(UserId(user_id))

    def take_effects(self) -> Effects:
        effects, self._effects = self._effects, Effects()
        return effects


def _find(devices: tuple[int, ...], device_id: int) -> int:
    """Where the device's fields start; the tuple's length if it is not there. Users have a handful of devices."""
    for at in range(0, len(devices), _FIELDS):
        if devices[at] == device_id:
            return at
    return len(devices)
