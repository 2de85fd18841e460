"""What is spread at random: how many different places so many things hit, and how uneven that is.

Owns the formulas and the simulation that a test holds them against. Nothing here knows what the places are.
"""

from __future__ import annotations

import math
import random
from collections import Counter


def expected_distinct(places: float, things: float) -> float:
    """How many of ``places`` equally likely ones are hit by ``things`` independent throws."""
    if places <= 1:
        return min(places, things)
    return -places * math.expm1(things * math.log1p(-1 / places))


def expected_groups(things: float, places: float, choices: float) -> float:
    """Things come one by one, each fit for ``choices`` of ``places``; one joins a group that stands at any of those, or
    founds one at one of them. How many groups there are in the end.
    """
    groups = 0.0
    for number in range(math.ceil(things)):
        taken = min(1.0, groups / places)
        groups += (1 - taken) ** choices * min(1.0, things - number)
    return groups


def events_per_s(rate: float, fold_s: float) -> float:
    """What is left of ``rate`` events a second (Poisson) when those of ``fold_s`` seconds become one."""
    return -math.expm1(-rate * fold_s) / fold_s if fold_s else rate


def simulated_distinct(places: int, things: int, rounds: int, seed: int) -> float:
    draw = random.Random(seed)
    return sum(len({draw.randrange(places) for _ in range(things)}) for _ in range(rounds)) / rounds


def simulated_shares(places: int, things: int, rounds: int, seed: int) -> tuple[float, float]:
    """Of ``things`` thrown into ``places``: (the fullest place relative to the mean, the share of places that stay empty)."""
    draw = random.Random(seed)
    fullest, empty = 0.0, 0.0
    for _ in range(rounds):
        hits = Counter(draw.choices(range(places), k=things))
        fullest += max(hits.values()) * places / things
        empty += 1 - len(hits) / places
    return fullest / rounds, empty / rounds
