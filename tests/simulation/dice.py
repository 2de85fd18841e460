"""A schedule's random numbers, and how bad it is.

Owns the one source of chance. Half of the schedules are harsh: of each setting they leave out the mildest. Were every setting
drawn by itself, few schedules would have all the faults at once that some violations need.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


class Dice(random.Random):
    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.is_harsh = self.random() < 0.5

    def setting(self, *options: T) -> T:
        """One of these, the mildest first."""
        left: Sequence[T] = options[1:] if self.is_harsh and len(options) > 1 else options
        return self.choice(left)
