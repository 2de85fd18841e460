"""Believing: asking the store again and again whether the slots that this worker holds are still its own.

Owns the questions and what their answers extend. It decides nothing about who gets a slot. For stores with ``SlotTerms``
alone: where an append checks the epoch itself, nothing has to be believed.

Invariants: belief is counted from before a question was sent, because the answer may have waited anywhere since; a slot
that an answer does not confirm is lost at once; a question that fails extends nothing, and belief runs out by itself.
Questions overlap: one that hangs must not keep the next from being asked in time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import structlog
import trio

from gateway.cluster.tenure import Tenure
from gateway.protocol.identifiers import WorkerId
from storage.api import SlotStore, SlotTerms, StoreError

ASK_EVERY_S = 0.5
"""A quarter of the belief: three questions may fail in a row before anything is refused."""

log = structlog.get_logger(__name__)


class Beliefs:
    """``held``: the tenures of now; ``lose``: told of those that the store does not confirm."""

    def __init__(
        self,
        store: SlotStore,
        owner: tuple[WorkerId, int],
        terms: SlotTerms,
        clock: Callable[[], float],
        held: Callable[[], Iterable[Tenure]],
        lose: Callable[[Tenure], None],
    ) -> None:
        self.lapses = 0
        """How often a tenure ran out of belief and was confirmed later."""
        self._store = store
        self._owner = owner
        self._terms = terms
        self._clock = clock
        self._held = held
        self._lose = lose

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            while True:
                await trio.sleep(ASK_EVERY_S)
                nursery.start_soon(self.ask)

    async def ask(self) -> None:
        """One question about everything that is held."""
        asked = {tenure.slot: tenure for tenure in self._held()}
        if not asked:
            return
        asked_at_s = self._clock()
        try:
            with trio.fail_after(self._terms.belief_s):
                confirmed = await self._store.still_held({slot: t.epoch for slot, t in asked.items()}, *self._owner)
        except (StoreError, trio.TooSlowError) as error:
            log.warning("slots_not_confirmed", slots=len(asked), error=str(error) or "no answer in time")
            return
        self._take(asked, confirmed, asked_at_s)

    def _take(self, asked: dict[int, Tenure], confirmed: set[int], asked_at_s: float) -> None:
        now_s = self._clock()
        lapses = 0
        for slot, tenure in asked.items():
            if slot not in confirmed:
                self._lose(tenure)
                continue
            lapses += tenure.believed_until_s <= now_s
            tenure.believed_until_s = max(tenure.believed_until_s, asked_at_s + self._terms.belief_s)
        if lapses:
            self.lapses += lapses
            log.warning("belief_lapsed", slots=lapses, answer_took_s=round(now_s - asked_at_s, 3))
