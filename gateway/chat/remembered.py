"""The client_msg_ids that one chat's actor remembers, so that a resend is recognised without asking the store.

Owns how far back the memory reaches. Invariant: whatever was committed in this chat at or after ``since_ms`` is
remembered; before that, only the store knows.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import TypeAlias

import msgspec

from gateway.protocol.messages import Kind
from storage.api import TAIL_ROWS, Message

LOOK_BACK_MS = 10 * 60 * 1000
"""A SEND without ``retry`` is looked up this far back."""

MAX_PER_CHAT = 262_144

Key: TypeAlias = "tuple[int, bytes]"


class Known(msgspec.Struct, frozen=True, gc=False):
    """There may be a million, and the collector walks over named tuples for ever: a collection took 86 ms for 400,000."""

    seq: int
    prev_seq: int
    time_ms: int
    digest: bytes


class RememberedIds:
    """Newest last; forgets the oldest beyond its bound."""

    __slots__ = ("_known", "forgotten", "since_ms")

    def __init__(self, tail: Sequence[Message]) -> None:
        """``tail``: the newest rows, newest first, as the store read them."""
        self._known: dict[Key, Known] = {}
        is_whole_log = len(tail) < TAIL_ROWS
        self.forgotten = 0
        self.since_ms = 0 if is_whole_log else tail[-1].time_ms + 1
        for row in reversed(tail):
            if row.kind != Kind.SYSTEM:
                self.add(row)

    def __len__(self) -> int:
        return len(self._known)

    def add(self, row: Message) -> None:
        known = self._known
        known[row.sender_id, row.client_msg_id] = Known(row.seq, row.prev_seq, row.time_ms, row.digest)
        if len(known) > MAX_PER_CHAT:
            self.forget(MAX_PER_CHAT // 8)  # many at once: a dictionary walks over the gaps at its front

    def forget(self, count: int) -> None:
        for key in list(islice(self._known, count)):
            self.since_ms = max(self.since_ms, self._known.pop(key).time_ms + 1)
            self.forgotten += 1

    def get(self, key: Key) -> Known | None:
        return self._known.get(key)

    def is_enough(self, is_retry: bool, now_ms: int) -> bool:
        """Whether an id that is not remembered is new, as far as the protocol promises to look."""
        if self.since_ms == 0:
            return True
        return not is_retry and self.since_ms <= now_ms - LOOK_BACK_MS
