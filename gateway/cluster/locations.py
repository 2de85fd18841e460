"""The cached places of users' devices, kept true by the directory.

Owns what this worker believes about who is connected where. Three sources, in rising order of freshness: what ``locate``
answered; the directory's word that it is no longer true (then it stays as a hint until it was located again); and what a
session's worker said itself when it asked for heads (``add``), which holds until that worker says that the device is gone.

Invariant: a place that was added is never lost to an older answer of the directory. Bounded by users; the least recently
located go first, and are located again when needed.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Sequence
from functools import partial

import structlog
import trio

from gateway.cluster.directory import Directory, DirectoryUnavailable, Location
from gateway.protocol.identifiers import DeviceId, UserId, WorkerId

MAX_USERS = 200_000
LOCATE_TIMEOUT_S = 1.0

log = structlog.get_logger(__name__)

Places = tuple[Location, ...]


class Locations:
    """A chat ``Locator``. ``run`` must be running."""

    def __init__(self, directory: Directory, finish_cycle: Callable[[], None]) -> None:
        """``finish_cycle``: called after a ``done``, for whatever it queued."""
        self.version = 0
        self._finish_cycle = finish_cycle
        self._directory = directory
        self._known: OrderedDict[UserId, Places] = OrderedDict()
        self._hints: dict[UserId, Places] = {}
        self._added: dict[UserId, Places] = {}
        self._asked: Counter[UserId] = Counter()
        """How many questions about a user are under way."""
        self._outdated: set[UserId] = set()
        """Moved while they were asked about: the answer may be older than the move, so it is a hint."""
        self._nursery: trio.Nursery | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            await trio.sleep_forever()

    def known(self, user_id: UserId) -> Places | None:
        return self._known.get(user_id)

    def hint(self, user_id: UserId) -> Places:
        return _merged(self._hints.get(user_id, ()), self._added.get(user_id, ()))

    def locate_then(self, user_ids: Sequence[UserId], done: Callable[[], None]) -> None:
        assert self._nursery is not None
        self._asked.update(user_ids)
        self._nursery.start_soon(self._locate, user_ids, done)

    async def _locate(self, user_ids: Sequence[UserId], done: Callable[[], None]) -> None:
        asked_at = self.version
        try:
            with trio.fail_after(LOCATE_TIMEOUT_S):
                located = await self._directory.locate(user_ids)
        except (DirectoryUnavailable, trio.TooSlowError):
            log.warning("users_not_located", users=len(user_ids), waited_versions=self.version - asked_at)
        else:
            for user_id, places in located.items():
                self._take(user_id, places)
        self._asked.subtract(user_ids)
        for user_id in user_ids:
            if not self._asked[user_id]:
                del self._asked[user_id]
                self._outdated.discard(user_id)
        done()
        self._finish_cycle()

    def _take(self, user_id: UserId, places: Places) -> None:
        if user_id in self._outdated:
            _put(self._hints, user_id, places)
            self.version += 1
        else:
            self._know(user_id, places)

    def _know(self, user_id: UserId, places: Places) -> None:
        added = self._added.get(user_id)
        if added:
            places = _merged(places, added)
        self._known[user_id] = places
        self._hints.pop(user_id, None)
        self.version += 1
        if len(self._known) > MAX_USERS:
            oldest, _ = self._known.popitem(last=False)
            self._added.pop(oldest, None)

    # ---------------------------------------------------------------------------------------------- news

    def add(self, user_id: UserId, location: Location) -> None:
        """A session's worker says that the device is with it: from now on messages go there."""
        before = self._added.get(user_id, ())
        known = self._known.get(user_id)
        if location in before and (known is None or location in known):
            return
        _put(self._added, user_id, _merged(before, (location,)))
        if known is not None:
            self._known[user_id] = _merged(known, (location,))
        self.version += 1

    def moved(self, user_ids: Iterable[UserId]) -> None:
        """The directory's word: what it said of these users is no longer true."""
        for user_id in user_ids:
            if user_id in self._asked:
                self._outdated.add(user_id)
            places = self._known.pop(user_id, None)
            if places is not None:
                _put(self._hints, user_id, places)
        self.version += 1

    def gone(self, worker_id: WorkerId, devices: Iterable[tuple[int, int]]) -> None:
        """A worker got something for devices that it does not have."""
        for user_id, device_id in devices:
            self._remove(UserId(user_id), partial(_is_at, worker_id, device_id))

    def generation_changed(self) -> None:
        """The directory was emptied: everything known is a hint until it is located again."""
        self.moved([*self._known, *self._asked])

    def worker_gone(self, worker_id: WorkerId) -> None:
        for user_id in [u for u, places in self._added.items() if any(p.worker_id == worker_id for p in places)]:
            self._remove(user_id, lambda place: place.worker_id == worker_id)

    def _remove(self, user_id: UserId, is_gone: Callable[[Location], bool]) -> None:
        self.moved([user_id])
        for table in (self._added, self._hints):
            if user_id in table:
                table[user_id] = tuple(place for place in table[user_id] if not is_gone(place))
                if not table[user_id]:
                    del table[user_id]


def _put(table: dict[UserId, Places], user_id: UserId, places: Places) -> None:
    """Within the bound: the oldest goes. The directory knows every session, so at worst it is asked."""
    table[user_id] = places
    if len(table) > MAX_USERS:
        del table[next(iter(table))]


def _is_at(worker_id: int, device_id: int, place: Location) -> bool:
    return (place.worker_id, place.device_id) == (worker_id, device_id)


def _merged(places: Places, newer: Places) -> Places:
    """By device, the higher session wins."""
    by_device: dict[DeviceId, Location] = {}
    for place in (*places, *newer):
        other = by_device.get(place.device_id)
        if other is None or other.session_id <= place.session_id:
            by_device[place.device_id] = place
    return tuple(by_device.values())
