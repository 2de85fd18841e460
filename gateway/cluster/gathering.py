"""Calls made in one step of the loop become few commands.

Owns the grouping of items and of results back to who asked. Knows neither what an item is nor how it is asked for: over a
link, or of a Redis.
Invariant: items leave in the order of the calls, and each call gets exactly its own results, or an error of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Generic, TypeAlias, TypeVar

from gateway.cluster.promise import Promise

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")
Finish: TypeAlias = "Callable[[list[ResultT] | Exception], None]"
"""Takes one result for each item, or why there are none."""


class Gatherer(Generic[ItemT, ResultT]):
    """``call_soon`` runs a step when those who ask in this one have asked; ``send(items, finish)`` asks for at most
    ``max_items``, and may raise instead. Errors are made anew for each call, of their message alone: raising an exception
    writes to it. ``failure`` is the error of an answer with another number of results."""

    def __init__(
        self,
        call_soon: Callable[[Callable[[], None]], None],
        send: Callable[[list[ItemT], Finish[ResultT]], None],
        max_items: int,
        failure: type[Exception],
    ) -> None:
        self._call_soon = call_soon
        self._send = send
        self._max_items = max_items
        self._failure = failure
        self._calls: list[tuple[list[ItemT], Finish[ResultT]]] = []

    async def call(self, items: Sequence[ItemT]) -> list[ResultT]:
        """The results, in the order of the items. Raises what ``call_soon`` does, and what ends an asking."""
        promises: list[Promise[list[ResultT]]] = []
        for at in range(0, len(items), self._max_items):
            promise: Promise[list[ResultT]] = Promise()
            self.post(list(items[at : at + self._max_items]), partial(_keep, promise))
            promises.append(promise)
        results: list[ResultT] = []
        for promise in promises:
            results += await promise.wait()
        return results

    def post(self, items: list[ItemT], finish: Finish[ResultT]) -> None:
        """Ask without waiting, for at most ``max_items``."""
        if not self._calls:
            self._call_soon(self.flush)
        self._calls.append((items, finish))

    def flush(self) -> None:
        """Send what has been collected; what is sent next comes after it."""
        calls, self._calls = self._calls, []
        group: list[tuple[list[ItemT], Finish[ResultT]]] = []
        size = 0
        for call in calls:
            if group and size + len(call[0]) > self._max_items:
                self._send_group(group)
                group, size = [], 0
            group.append(call)
            size += len(call[0])
        if group:
            self._send_group(group)

    def _send_group(self, group: list[tuple[list[ItemT], Finish[ResultT]]]) -> None:
        items = group[0][0] if len(group) == 1 else [item for call in group for item in call[0]]
        try:
            self._send(items, partial(self._finish, group))
        except self._failure as error:
            self._finish(group, error)

    def _finish(self, group: list[tuple[list[ItemT], Finish[ResultT]]], results: list[ResultT] | Exception) -> None:
        if not isinstance(results, Exception) and len(results) != sum(len(items) for items, _ in group):
            results = self._failure("another number of results than of items")
        start = 0
        for items, finish in group:
            if isinstance(results, Exception):
                finish(type(results)(str(results)))
            else:
                finish(results[start : start + len(items)])
                start += len(items)


def _keep(promise: Promise[list[ResultT]], results: list[ResultT] | Exception) -> None:
    if isinstance(results, Exception):
        promise.fail(results)
    else:
        promise.set(results)
