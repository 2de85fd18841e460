"""What an actor may ask of the worker around it.

Owns the seam between one chat's rules and everything shared by all chats of a worker: clock, store, places, bounds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from gateway.chat.ports import Locator, Postman, Room
from gateway.chat.request import Request
from storage.api import Batch, Watermark

if TYPE_CHECKING:
    from gateway.chat.actor import ChatActor


class Marks(Protocol):
    """The write-behind of cursors and watermarks."""

    def cursor(self, device: tuple[int, int], chat_id: int, seq: int) -> None: ...
    def watermark(self, chat_id: int, mark: Watermark) -> None: ...
    def receipt(self, chat_id: int, user_id: int, mark: Watermark, device_id: int) -> None: ...


class Environment(Protocol):
    room: Room
    locator: Locator
    postman: Postman
    duplicates: int
    """Resends recognised so far (for the metrics)."""

    @property
    def marks(self) -> Marks: ...

    def now_ms(self) -> int:
        """Wall clock, ms since the Unix epoch."""
        ...

    def advance_later(self, actor: ChatActor) -> None:
        """Call ``advance`` at the end of the cycle."""
        ...

    def append(self, batch: Batch) -> None: ...
    def append_again(self, batch: Batch) -> None:
        """After a pause."""
        ...

    def look_up(self, actor: ChatActor, requests: Sequence[Request]) -> None:
        """Ask the store for the rows of these SENDs' ids; ends in ``looked_up``."""
        ...

    def park(self, actor: ChatActor) -> None:
        """Its tenure is not current: call ``resume`` when it is again, ``lost`` when it will not be, and ``refuse_waiting`` when
        that takes long."""
        ...

    def lost(self, actor: ChatActor) -> None:
        """Somebody else owns the slot: close every actor of it."""
        ...

    def conflict(self, actor: ChatActor) -> None:
        """What the actor remembers contradicts the store: close it, and read the chat anew at the next request."""
        ...

    def sent(self, request: Request) -> None:
        """A SEND was acknowledged (for the metrics)."""
        ...
