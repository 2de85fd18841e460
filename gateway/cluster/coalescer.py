"""Calls made in one step of the loop become one request on a link.

Owns the grouping of items into frames and of answers back to callers. It knows neither the op's meaning nor its encoding.
Invariant: items travel in the order of the calls, and each caller gets exactly its own answers, or its own error.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Generic, TypeVar

from gateway.cluster.link_requests import Answer, LinkLost, LinkRefused
from gateway.cluster.links import Links
from gateway.cluster.promise import Promise
from gateway.cluster.wire import LinkProtocolError
from gateway.protocol.identifiers import WorkerId

MAX_ITEMS = 4096
"""Per frame: far below the frame's bound, and about 10 ms of the other side's time."""

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


class Coalescer(Generic[ItemT, ResultT]):
    """``pack`` makes a payload of items, ``unpack`` the results of a payload, one for each item; ``failure`` makes the
    error that a caller gets instead (one each: raising an exception writes to it)."""

    def __init__(
        self,
        links: Links,
        to: tuple[WorkerId, int],
        pack: Callable[[list[ItemT]], bytes],
        unpack: Callable[[bytes], list[ResultT]],
        failure: Callable[[Exception], Exception],
    ) -> None:
        self._links = links
        self._worker, self._op = to
        self._pack = pack
        self._unpack = unpack
        self._failure = failure
        self._calls: list[tuple[list[ItemT], Promise[list[ResultT]]]] = []

    async def call(self, items: Sequence[ItemT]) -> list[ResultT]:
        """The results, in the order of the items."""
        promises = [self._add(list(items[at : at + MAX_ITEMS])) for at in range(0, len(items), MAX_ITEMS)]
        results: list[ResultT] = []
        for promise in promises:
            results += await promise.wait()
        return results

    def flush(self) -> None:
        """Send what has been collected; what follows on the link comes after it."""
        calls, self._calls = self._calls, []
        group: list[tuple[list[ItemT], Promise[list[ResultT]]]] = []
        size = 0
        for call in calls:
            if group and size + len(call[0]) > MAX_ITEMS:
                self._send(group)
                group, size = [], 0
            group.append(call)
            size += len(call[0])
        if group:
            self._send(group)

    def _add(self, items: list[ItemT]) -> Promise[list[ResultT]]:
        if not self._calls:
            self._links.call_soon(self.flush)
        promise: Promise[list[ResultT]] = Promise()
        self._calls.append((items, promise))
        return promise

    def _send(self, group: list[tuple[list[ItemT], Promise[list[ResultT]]]]) -> None:
        items = group[0][0] if len(group) == 1 else [item for call in group for item in call[0]]
        self._links.request(self._worker, self._op, self._pack(items), partial(self._finish, group))

    def _finish(self, group: list[tuple[list[ItemT], Promise[list[ResultT]]]], answer: Answer) -> None:
        try:
            if not isinstance(answer, bytes):
                raise answer
            results = self._unpack(answer)
            if len(results) != sum(len(items) for items, _ in group):
                raise LinkProtocolError("another number of results than of items")
        except (LinkLost, LinkRefused, LinkProtocolError) as error:
            for _, promise in group:
                promise.fail(self._failure(error))
            return
        start = 0
        for items, promise in group:
            promise.set(results[start : start + len(items)])
            start += len(items)
