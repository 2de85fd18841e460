"""One exception out of a nursery as itself, not as a group of one.

A nursery inside ``parley.connect`` is no business of the application: what its block raised must be catchable as such.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import trio


@contextmanager
def without_group() -> Iterator[None]:
    """Raise the only exception of a group in its place; cancellation beside it does not count. Real groups stay."""
    try:
        yield
    except BaseExceptionGroup as group:
        every = list(leaves(group))
        telling = [error for error in every if not isinstance(error, trio.Cancelled)]
        if len(telling) != 1:
            raise
        context = telling[0].__context__
        try:
            raise telling[0]
        finally:
            telling[0].__context__ = context  # else it would be the group


def leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from leaves(error)
        else:
            yield error
