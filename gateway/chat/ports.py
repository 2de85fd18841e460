"""What the rules need from the outside: where devices are, how to reach them, and under which tenure a chat is served.

Owns the shapes alone. Who fulfils them (links, directory, slots) is the worker's choice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, TypeAlias

from gateway.protocol.identifiers import Epoch, UserId, WorkerId

Recipient: TypeAlias = "tuple[int, int]"
"""(user, device): a connection's number never leaves its worker."""


class Tenure(Protocol):
    """This worker's hold of the chat's slot, under one epoch."""

    slot: int
    epoch: Epoch
    is_lost: bool
    """Nothing will be answered under it any more."""
    is_inherited: bool
    """A former owner of the slot never let go: what it committed last may not have been told to anybody."""

    @property
    def is_current(self) -> bool:
        """May something be answered under it now? False for a while when the store could not confirm it."""
        ...


class Place(Protocol):
    """Where one device is connected."""

    @property
    def device_id(self) -> int: ...
    @property
    def worker_id(self) -> WorkerId: ...


class Locator(Protocol):
    """The cached view of the directory."""

    version: int
    """Rises whenever anything that ``known`` returned may have changed."""

    def known(self, user_id: UserId) -> Sequence[Place] | None:
        """None: not known, or no longer known to be true; ``locate`` first."""
        ...

    def hint(self, user_id: UserId) -> Sequence[Place]:
        """What was known last, true or not."""
        ...

    def locate_then(self, user_ids: Sequence[UserId], done: Callable[[], None]) -> None:
        """Make these users known, then call ``done`` (never from inside this call), also if the directory did not answer."""
        ...


class Postman(Protocol):
    """Takes frames to devices, wherever they are. Best effort, and never silent: who misses a frame is told LAGGED."""

    def push(
        self, worker_id: WorkerId, recipients: Sequence[Recipient], frame: bytes, *, is_droppable: bool = False
    ) -> None: ...


class Room(NamedTuple):
    """Bounds of the chat rules (from the configuration)."""

    max_members: int
    max_actors: int
    max_queued: int
    """Requests that wait in one chat; beyond it they are refused as overloaded."""
    max_remembered: int
    """Ids of sent messages that all actors together remember."""
