"""Workers that the directory still lists and whose sockets say that they are gone.

Owns who is looked at, and the set of those that refuse. A directory learns of a death by time-outs where nobody saw it, as when a
whole host's processes end at once: seconds in which everybody would send requests to nobody. A refused connection says it
in a third of a second. It is evidence of the peer's system (``reachability.py``) and used for speed alone: who *should* own
a slot. What a worker may believe hangs on the store.

Only who gave cause is looked at, and for ``LOOK_S`` after the last cause: asking about everybody would open a link to
everybody.
"""

from __future__ import annotations

from collections.abc import Callable

import structlog
import trio

from gateway.protocol.identifiers import WorkerId

LOOK_S = 5.0
LOOK_EVERY_S = 0.1

log = structlog.get_logger(__name__)


class Suspects:
    """``is_refused``: asked again and again; ``on_change``: the set of the ``gone`` is another."""

    def __init__(self, is_refused: Callable[[WorkerId], bool], on_change: Callable[[], None]) -> None:
        self.gone: frozenset[WorkerId] = frozenset()
        self._is_refused = is_refused
        self._on_change = on_change
        self._until_s: dict[WorkerId, float] = {}
        self._has_some = trio.Event()

    def suspect(self, worker: WorkerId) -> None:
        """A link to it broke, or somebody else does not take it for alive."""
        self._until_s[worker] = trio.current_time() + LOOK_S
        self._has_some.set()

    def look(self) -> None:
        """A worker that has begun a new life refuses nothing: it is out of the set at once."""
        now_s = trio.current_time()
        gone = frozenset(worker for worker in self._until_s if self._is_refused(worker))
        self._until_s = {w: until_s for w, until_s in self._until_s.items() if w in gone or until_s > now_s}
        if gone != self.gone:
            log.info("workers_refuse", gone=sorted(gone), before=sorted(self.gone))
            self.gone = gone
            self._on_change()

    async def run(self) -> None:
        while True:
            await self._has_some.wait()
            self.look()
            if not self._until_s:
                self._has_some = trio.Event()
            await trio.sleep(LOOK_EVERY_S)
