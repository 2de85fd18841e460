"""Which users' whereabouts were told, and under which stays of workers they were found.

Owns the local half of client tracking: Redis says that a key changed, here is known whether anybody was told of it; and
Redis cannot say that a worker died, here is known who was located at it.

Invariant: whoever was told is told once that it changed: a user is taken out as it is reported. Bounded by users; past it
the earliest told are reported as moved, so that whoever still cares asks again.
"""

from __future__ import annotations

from collections.abc import Iterable

from gateway.protocol.identifiers import UserId

MAX_TRACKED = 400_000
"""Twice as many as a worker remembers the places of. About 200 bytes each."""


class Tracked:
    def __init__(self, max_users: int = MAX_TRACKED) -> None:
        self._max_users = max_users
        self._stays: dict[UserId, tuple[bytes, ...]] = {}
        self._users: dict[bytes, set[UserId]] = {}

    def __len__(self) -> int:
        return len(self._stays)

    def add(self, user: UserId, stays: tuple[bytes, ...]) -> UserId | None:
        """``user`` was told: found under these stays, whether they are live or not. Returns who had to give way."""
        known = self._stays.get(user)
        if known == stays:
            return None
        if known is not None:
            self._forget(user, known)
        self._stays[user] = stays
        for stay in stays:
            self._users.setdefault(stay, set()).add(user)
        if len(self._stays) <= self._max_users:
            return None
        oldest = next(iter(self._stays))
        self.take(oldest)
        return oldest

    def take(self, user: UserId) -> bool:
        """It has changed. False: nobody was told of it."""
        stays = self._stays.pop(user, None)
        if stays is None:
            return False
        self._forget(user, stays)
        return True

    def take_at(self, stays: Iterable[bytes]) -> list[UserId]:
        """These stays began or ended to be live: everybody who was found under one of them."""
        users = set().union(*(self._users.get(stay, ()) for stay in stays))
        for user in users:
            self.take(user)
        return list(users)

    def take_all(self) -> list[UserId]:
        users = list(self._stays)
        self._stays, self._users = {}, {}
        return users

    def _forget(self, user: UserId, stays: tuple[bytes, ...]) -> None:
        for stay in stays:
            users = self._users.get(stay)
            if users is not None:
                users.discard(user)
                if not users:
                    del self._users[stay]
