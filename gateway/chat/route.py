"""To whom a chat's frames go: its audience's devices, grouped by the worker that holds their connections.

Owns the grouping, and when it has to be made anew. Invariant: a route is used only while every user of it is known to the
locator; a hint stands in only after the directory was asked and did not answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from gateway.chat.ports import Locator, Postman, Recipient
from gateway.protocol.identifiers import UserId, WorkerId

MAX_SENDERS = 64
"""Devices whose "all but me" a route remembers."""


class Route:
    """Recipients by worker: one copy of a frame per worker, whatever the size of the audience."""

    __slots__ = ("_by_worker", "_without", "is_complete", "version")

    def __init__(self, version: int, by_worker: dict[WorkerId, list[Recipient]], *, is_complete: bool) -> None:
        self.version = version
        self.is_complete = is_complete
        """No user of it stands on a hint."""
        self._by_worker = by_worker
        self._without: dict[Recipient, dict[WorkerId, list[Recipient]]] = {}

    def push(self, postman: Postman, frame: bytes, *, but: Recipient | None = None, is_droppable: bool = False) -> None:
        """Send to all, or to all but one device (the sender's, which gets SENT instead)."""
        by_worker = self._by_worker if but is None else self._all_but(but)
        for worker_id, recipients in by_worker.items():
            postman.push(worker_id, recipients, frame, is_droppable=is_droppable)

    def _all_but(self, device: Recipient) -> dict[WorkerId, list[Recipient]]:
        remaining = self._without.get(device)
        if remaining is None:
            remaining = {w: [r for r in recipients if r != device] for w, recipients in self._by_worker.items()}
            remaining = {w: recipients for w, recipients in remaining.items() if recipients}
            if len(self._without) >= MAX_SENDERS:
                self._without.clear()  # each is as long as the audience: a big group's would be its square
            self._without[device] = remaining
        return remaining


def unknown_users(locator: Locator, user_ids: Iterable[int]) -> list[UserId]:
    return [UserId(user_id) for user_id in user_ids if locator.known(UserId(user_id)) is None]


def plan_route(locator: Locator, user_ids: Iterable[int]) -> Route:
    """The route to all devices of these users, as far as the locator knows or has a hint."""
    by_worker: dict[WorkerId, list[Recipient]] = {}
    is_complete = True
    for user_id in user_ids:
        places = locator.known(UserId(user_id))
        if places is None:
            is_complete = False
            places = locator.hint(UserId(user_id))
        for place in places:
            by_worker.setdefault(place.worker_id, []).append((user_id, place.device_id))
    return Route(locator.version, by_worker, is_complete=is_complete)


def push_sign(
    locator: Locator, postman: Postman, user_ids: Sequence[int], frame: bytes, *, but: Recipient | None
) -> None:
    """A droppable frame to all devices of these users but one, once it is known where they are."""

    def push() -> None:
        plan_route(locator, user_ids).push(postman, frame, but=but, is_droppable=True)

    unknown = unknown_users(locator, user_ids)
    if unknown:
        locator.locate_then(unknown, push)
    else:
        push()
