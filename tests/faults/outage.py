"""What a fault did to the chats: how long each of them had no answer, and which changed their owner.

Owns the measure. The *silence* of a chat is the longest time between two answers (SENT) in it, from the fault on, while its
members keep on saying something: what a person there would have noticed. It counts the pause between two messages in, so it
errs on the long side. A fault is *over* when every chat has answered something that was said after it was mended.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from gateway.protocol.identifiers import epoch_of


class Outage:
    """``began_s``: when the fault began. ``epochs``: the epoch of each chat's newest row by then."""

    def __init__(self, began_s: float, chats: Iterable[int], epochs: Mapping[int, int]) -> None:
        self.silence_s = dict.fromkeys(chats, 0.0)
        self.answers = 0
        self._answered_s = dict.fromkeys(self.silence_s, began_s)
        self._epochs = dict(epochs)
        self._latest_epochs = dict(epochs)
        self._mended_s: float | None = None
        self._still_out: set[int] = set()

    def answered(self, chat_id: int, seq: int, said_s: float, now_s: float) -> None:
        if chat_id not in self.silence_s:
            return
        self.answers += 1
        self.silence_s[chat_id] = max(self.silence_s[chat_id], now_s - self._answered_s[chat_id])
        self._answered_s[chat_id] = now_s
        self._latest_epochs[chat_id] = epoch_of(seq)
        if self._mended_s is not None and said_s >= self._mended_s:
            self._still_out.discard(chat_id)

    def mended(self, now_s: float) -> None:
        self._mended_s = now_s
        self._still_out = set(self.silence_s)

    @property
    def is_over(self) -> bool:
        return self._mended_s is not None and not self._still_out

    @property
    def still_out(self) -> list[int]:
        return sorted(self._still_out)

    @property
    def longest_s(self) -> float:
        return max(self.silence_s.values())

    @property
    def moved(self) -> list[int]:
        """Chats that had an answer of another epoch since: their slot was acquired again."""
        return [chat_id for chat_id, epoch in self._latest_epochs.items() if epoch != self._epochs.get(chat_id)]
