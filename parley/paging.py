"""A list that comes in pages, as one async iterator.

A class and not an async generator: an abandoned generator of that kind is closed by the garbage collector, of which
Trio rightly complains, and ``async for`` with ``break`` is how people read the last twenty messages.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from typing import Generic, TypeVar

T = TypeVar("T")


class Pages(Generic[T]):
    """``next_page`` gives the next page's items, and whether there are more pages."""

    def __init__(self, next_page: Callable[[], Awaitable[tuple[Iterable[T], bool]]]) -> None:
        self._next_page = next_page
        self._items: deque[T] = deque()
        self._has_more = True

    def __aiter__(self) -> Pages[T]:
        return self

    async def __anext__(self) -> T:
        while not self._items:
            if not self._has_more:
                raise StopAsyncIteration
            items, self._has_more = await self._next_page()
            self._items.extend(items)
        return self._items.popleft()
