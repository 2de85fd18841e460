"""What this worker knows of the logs that it writes: how far they are committed, and what is not known to be.

Owns two tables by chat. ``Known``: the chat was fenced under this epoch, its head was this, and so was its bucket; forgetting
an entry costs a read and a second fence, which changes nothing. *Unfinished*: the batch that was given to the store and was not
acknowledged; an entry is never forgotten while the slot is held, because a read may show such a batch though it is on a
minority of replicas, and only whoever wrote it can tell.

Invariants: a known head is committed, and never goes back under one epoch. Both tables are bounded: the first forgets what was
used least recently, the second refuses (``is_full``).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import NamedTuple

from gateway.protocol.identifiers import Seq
from storage.api import Batch, Head, slot_of

KNOWN_MAX = 131_072
UNFINISHED_MAX = 65_536

NO_HEAD = Head(Seq(0), 0)


class Known(NamedTuple):
    epoch: int
    head: Head
    bucket: int
    """That the chat's row names at a quorum."""
    untold: tuple[int, int] = (0, 0)
    """(base, last]: adopted, and not named to an ``open_chat`` yet."""


class Unfinished(NamedTuple):
    batch: Batch
    is_unknown: bool
    """An earlier try of it may have happened: that a later one did not happen says nothing."""


class CommittedHeads:
    def __init__(self, known_max: int = KNOWN_MAX, unfinished_max: int = UNFINISHED_MAX) -> None:
        self._known_max = known_max
        self._unfinished_max = unfinished_max
        self._known: OrderedDict[int, Known] = OrderedDict()
        self._unfinished: dict[int, Unfinished] = {}

    # ----------------------------------------------------------------------------------------------- what is

    def known(self, chat_id: int, epoch: int) -> Known | None:
        """None: never fenced under this epoch, or forgotten."""
        known = self._known.get(chat_id)
        if known is None or known.epoch != epoch:
            return None
        self._known.move_to_end(chat_id)
        return known

    def bucket(self, chat_id: int) -> int:
        """At least this was acknowledged, under whatever epoch."""
        known = self._known.get(chat_id)
        return known.bucket if known is not None else 0

    def unfinished(self, chat_id: int, epoch: int) -> Batch | None:
        unfinished = self._unfinished.get(chat_id)
        return unfinished.batch if unfinished is not None and unfinished.batch.epoch == epoch else None

    def is_full(self, chat_id: int) -> bool:
        return len(self._unfinished) >= self._unfinished_max and chat_id not in self._unfinished

    # ------------------------------------------------------------------------------------------ what happened

    def fenced(self, chat_id: int, known: Known) -> None:
        before = self._known.get(chat_id)
        if before is not None and before.epoch > known.epoch:
            return
        if before is not None:
            known = known._replace(bucket=max(known.bucket, before.bucket))
            if before.epoch == known.epoch:
                known = known._replace(head=max(known.head, before.head), untold=max(known.untold, before.untold))
        self._put(chat_id, known)

    def told(self, chat_id: int, epoch: int) -> None:
        known = self._known.get(chat_id)
        if known is not None and known.epoch == epoch:
            self._known[chat_id] = known._replace(untold=(0, 0))

    def raised(self, chat_id: int, epoch: int, bucket: int) -> None:
        """A quorum has the chat's bucket."""
        known = self._known.get(chat_id)
        if known is not None:
            self._known[chat_id] = known._replace(bucket=max(known.bucket, bucket))

    def begun(self, batch: Batch) -> None:
        before = self._unfinished.get(batch.chat_id)
        is_unknown = before is not None and before.is_unknown and before.batch.epoch == batch.epoch
        self._unfinished[batch.chat_id] = Unfinished(batch, is_unknown)

    def stored(self, batch: Batch) -> None:
        """All of it is durable."""
        last = batch.rows[-1]
        chat_id, epoch = batch.chat_id, batch.epoch
        known = self._known.get(chat_id)
        if known is not None and known.epoch == epoch:
            head = max(known.head, Head(Seq(last.seq), last.time_ms))
            self._put(chat_id, known._replace(head=head))
        self._drop(batch)

    def failed(self, batch: Batch, is_unknown: bool) -> None:
        unfinished = self._unfinished.get(batch.chat_id)
        if unfinished is None or unfinished.batch is not batch:
            return
        if is_unknown:
            self._unfinished[batch.chat_id] = Unfinished(batch, True)
        elif not unfinished.is_unknown:
            del self._unfinished[batch.chat_id]

    def forget_slots(self, lost: Mapping[int, int]) -> None:
        """By slot, the epoch that is over: what was unfinished under it is the next owner's to adopt or to bury."""
        over = [
            chat_id for chat_id, (batch, _) in self._unfinished.items() if batch.epoch <= lost.get(slot_of(chat_id), -1)
        ]
        for chat_id in over:
            del self._unfinished[chat_id]

    def _drop(self, batch: Batch) -> None:
        unfinished = self._unfinished.get(batch.chat_id)
        if unfinished is not None and unfinished.batch.rows[-1].seq <= batch.rows[-1].seq:
            del self._unfinished[batch.chat_id]

    def _put(self, chat_id: int, known: Known) -> None:
        self._known[chat_id] = known
        self._known.move_to_end(chat_id)
        if len(self._known) > self._known_max:
            self._known.popitem(last=False)
