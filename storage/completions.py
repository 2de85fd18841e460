"""How an append ends: on the Trio thread, in a later cycle, grouped by the caller's ``done``.

Owns the grouping and the hop to the Trio thread; knows no engine. Invariant: one wake-up of the Trio thread for everything
that ended together, however many batches and callers that is.
"""

from __future__ import annotations

from collections.abc import Sequence

import trio

from storage.api import AppendDone, Appended, Batch, StoreError

Ending = tuple[AppendDone, Appended]


def deliver(endings: Sequence[Ending]) -> None:
    """Call each ``done`` once, with all that ended for it, in the order in which they were appended."""
    by_done: dict[AppendDone, list[Appended]] = {}
    for done, appended in endings:
        by_done.setdefault(done, []).append(appended)
    for done, group in by_done.items():
        done(group)


class Refusals:
    """Batches that end without having been queued. A refusal is delivered later too: a caller that saw ``done`` from
    inside its own ``append`` would have to be re-entrant."""

    def __init__(self, token: trio.lowlevel.TrioToken) -> None:
        self._token = token
        self._endings: list[Ending] = []

    def add(self, batch: Batch, done: AppendDone, error: StoreError) -> None:
        if not self._endings:
            self._token.run_sync_soon(self.flush)
        self._endings.append((done, Appended(batch, error)))

    def flush(self) -> None:
        endings, self._endings = self._endings, []
        deliver(endings)
