"""The directory's port: which workers live, and where a user's devices are connected.

Owns the value types, the errors and the promises. It knows no transport and no backend; every implementation passes one
conformance suite (``tests/cluster``), which is these docstrings as tests.

The directory is ephemeral: it may be emptied at any time and rebuilds itself from what workers register again. It never
grants, ends or shortens the ownership of a slot; it only says who lives, from which everybody computes who *should* own.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeAlias

from gateway.protocol.identifiers import DeviceId, SessionId, UserId, WorkerId


class DirectoryUnavailable(Exception):
    """A dependency's fault: no answer. What was asked may have been done; asking again is safe (see ``register``)."""


class Outcome(enum.IntEnum):
    ACCEPTED = 0
    SUPERSEDED = 1
    """A session with this id or a higher one is known for the device."""
    RESUME_STALE = 2
    """The token of a later session was already used for this device."""


class Registration(NamedTuple):
    user_id: UserId
    device_id: DeviceId
    session_id: SessionId
    resumed_from: SessionId
    """The session whose resume token was used; 0: a JWT."""
    token_expires_s: int
    """Unix time until which the device's record is kept, so that an outdated token is recognised."""


class Registered(NamedTuple):
    outcome: Outcome
    session_id: SessionId
    """The highest known for the device, this registration included."""


class Location(NamedTuple):
    device_id: DeviceId
    worker_id: WorkerId
    session_id: SessionId


class WorkerRecord(NamedTuple):
    """``incarnation``: of two lives of a worker the later has the greater number."""

    worker_id: WorkerId
    incarnation: int
    address: str
    """Path of the Unix socket of its links: for the workers of its own node."""
    is_draining: bool
    host_address: str = ""
    """"host:port" where its links listen for other nodes; "" where there are none."""


class Replaced(NamedTuple):
    user_id: UserId
    device_id: DeviceId
    old_session_id: SessionId
    new_session_id: SessionId


def superseded(registrations: Sequence[Registration], results: Sequence[Registered]) -> list[Replaced]:
    """Of sessions that were registered again: those that a later one has replaced, while the directory knew nothing of them."""
    return [
        Replaced(wanted.user_id, wanted.device_id, wanted.session_id, result.session_id)
        for wanted, result in zip(registrations, results, strict=True)
        if result.outcome is Outcome.SUPERSEDED and result.session_id != wanted.session_id
    ]


Workers: TypeAlias = Mapping[WorkerId, WorkerRecord]


def _ignore(*_: object) -> None:
    """Nobody listens yet."""


@dataclass(slots=True)
class DirectoryEvents:
    """What a worker is told unasked, each as a synchronous callback on the Trio thread. The worker sets them before ``join``."""

    on_workers: Callable[[Workers], None] = _ignore
    """The set of live workers, whenever it changes, and once before ``join`` returns."""
    on_moved: Callable[[Sequence[UserId]], None] = _ignore
    """What was located of these users is no longer true. Said once; ``locate`` again to be told again."""
    on_replaced: Callable[[Sequence[Replaced]], None] = _ignore
    """To the worker of the old session, even if it is that of the new one: the old session ends."""
    on_generation: Callable[[], None] = _ignore
    """The directory was emptied, or news may have been missed: register every session again, and treat every location
    as a hint until it was located again."""


class Directory(Protocol):
    """One worker's view of it."""

    events: DirectoryEvents

    @property
    def workers(self) -> Workers:
        """The live ones, as last told; before ``join``, none."""
        ...

    async def join(self, record: WorkerRecord) -> None:
        """Be one of the live workers: the first call of all. What an earlier life of this worker left is forgotten.

        Returns when the set of workers is worth acting on: all that start together have joined, or waited long enough.
        Idempotent. Raises DirectoryUnavailable.
        """
        ...

    async def drain(self) -> None:
        """Stay, but own no slot from now on. Idempotent. Raises DirectoryUnavailable."""
        ...

    async def leave(self) -> None:
        """Be gone, with every location. Idempotent. Raises DirectoryUnavailable."""
        ...

    async def register(self, registrations: Sequence[Registration]) -> list[Registered]:
        """Compare and set, per device: the higher session_id wins. One result for each, in order.

        Atomic for each registration, in the order given. Idempotent for the same worker and session, so it may be repeated
        after DirectoryUnavailable. A resume token is good as long as no token of a later session was used for the device.
        A caller that gives up while waiting must ``unregister``: the registration may have been made.
        """
        ...

    def unregister(self, user_id: UserId, device_id: DeviceId, session_id: SessionId) -> None:
        """The session has ended. Coalesced, not waited for; after earlier calls. Ignored unless it is the registered one."""
        ...

    async def locate(self, user_ids: Sequence[UserId]) -> dict[UserId, tuple[Location, ...]]:
        """Where the devices of each user are; () for one who is nowhere. ``on_moved`` follows once when that changes.

        Not a snapshot across users. Raises DirectoryUnavailable.
        """
        ...
