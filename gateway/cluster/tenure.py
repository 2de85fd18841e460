"""A worker's hold of a slot: one epoch, and for how long it may be believed.

Owns the one question that everything answered under a slot hangs on: may I still speak for it? It does not know who asks
the store. Invariant: ``is_lost`` never goes back to False; belief is only ever extended to a moment that was counted from
before the confirming question was sent.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from gateway.protocol.identifiers import Epoch
from storage.clocks import boottime_s

FOREVER_S = math.inf


class Tenure:
    """This worker's hold of a slot under one epoch."""

    __slots__ = ("_clock", "believed_until_s", "epoch", "is_inherited", "is_lost", "slot")

    def __init__(
        self, slot: int, epoch: Epoch, *, believed_until_s: float = FOREVER_S, clock: Callable[[], float] = boottime_s
    ) -> None:
        self.slot = slot
        self.epoch = epoch
        self.believed_until_s = believed_until_s
        """On ``clock``. Past it nothing may be answered, until the store has confirmed the epoch again."""
        self.is_lost = False
        """For good: nothing will ever be answered under it any more."""
        self.is_inherited = False
        """The slot had another life's owner that never let go: what that one committed last may not have been told."""
        self._clock = clock

    @property
    def is_current(self) -> bool:
        """May something be answered under it now?"""
        if self.is_lost:
            return False
        return self.believed_until_s == FOREVER_S or self._clock() < self.believed_until_s
