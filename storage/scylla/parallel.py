"""Many calls of the engine side by side, as many at once as is good for it.

Invariant: every call ends before ``for_each`` does, failed or not. A call that was cut off because another failed would be one
more unknown outcome.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import TypeVar

import trio

from storage.api import SlotLost, StoreError

T = TypeVar("T")
R = TypeVar("R")

AT_ONCE = 32
"""Of one call of the store; the executor bounds what is in flight in all."""


async def for_each(function: Callable[[T], Awaitable[R]], items: Sequence[T]) -> list[R]:
    """The results in the order of the items. Raises the first of the items' errors, after the last call has ended."""
    if len(items) == 1:
        return [await function(items[0])]
    results: dict[int, R] = {}
    errors: dict[int, StoreError | SlotLost] = {}

    async def work(numbered: Iterator[tuple[int, T]]) -> None:
        for number, item in numbered:
            try:
                results[number] = await function(item)
            except (StoreError, SlotLost) as error:
                errors[number] = error

    numbered = iter(enumerate(items))
    async with trio.open_nursery() as nursery:
        for _ in range(min(AT_ONCE, len(items))):
            nursery.start_soon(work, numbered)
    if errors:
        raise errors[min(errors)]
    return [results[number] for number in range(len(items))]


def chunks(items: Sequence[T], size: int) -> list[Sequence[T]]:
    return [items[first : first + size] for first in range(0, len(items), size)]
