"""Many schedules, in one process or several. Owns nothing but the way to run them; a seed gives the same verdict anywhere."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import trio

from tests.simulation.rules import without
from tests.simulation.world import simulate


class Job(NamedTuple):
    seed: int
    without: tuple[str, ...] = ()
    is_traced: bool = False


class Verdict(NamedTuple):
    seed: int
    violations: Sequence[str]
    answered: int
    """SENDs that were acknowledged."""


def run(job: Job) -> Verdict:
    """A worker that ends in an exception is a violation like any other."""
    with without(*job.without):
        try:
            world = simulate(job.seed, is_traced=job.is_traced)
        except (Exception, trio.TrioInternalError) as error:  # of a broken rule anything may follow
            if job.is_traced:
                raise
            return Verdict(job.seed, [f"a worker crashed: {error!r}"], 0)
    return Verdict(job.seed, world.judge.violations(), world.answered)


def run_all(jobs: Iterable[Job], processes: int = 1) -> Iterator[Verdict]:
    """In the order of the jobs, as they end."""
    if processes <= 1:
        yield from map(run, jobs)
        return
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        yield from pool.imap(run, jobs, 4)
