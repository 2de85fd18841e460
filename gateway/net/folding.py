"""ACK and READ, folded: a device that says twenty times how far it is, is heard once.

Owns what devices of this worker have said and the chats' owners have not heard yet, for at most 100 ms. Invariant:
cursors only rise, and a mark reaches the owner after the SENDs that came before it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import islice

import trio

from gateway.chat.request import NOBODY, InternalOp, Mark, Request
from gateway.net.ports import ChatRequests
from gateway.protocol.identifiers import ChatId
from gateway.protocol.messages import Cursor

FOLD_S = 0.1
MAX_FOLDED = 100_000
MARKS_PER_STEP = 32


class Folding:
    def __init__(self, requests: ChatRequests, finish_cycle: Callable[[], None]) -> None:
        self._requests = requests
        self._finish_cycle = finish_cycle
        self._folded: dict[tuple[int, int, int], list[int]] = {}

    async def run(self) -> None:
        while True:
            await trio.sleep(FOLD_S)
            while self._folded:
                self.tell(MARKS_PER_STEP)
                await trio.lowlevel.checkpoint()

    def fold(self, user_id: int, device_id: int, pairs: list[Cursor], *, is_read: bool) -> None:
        for cursor in pairs:
            marks = self._folded.setdefault((user_id, device_id, cursor.chat_id), [0, 0])
            marks[is_read] = max(marks[is_read], cursor.seq)
        if len(self._folded) > MAX_FOLDED:
            self.tell()

    def tell(self, most: int = MAX_FOLDED) -> None:
        """Tell the owners now, the oldest first; ``most`` at once, since each costs some 50 us and messages wait meanwhile."""
        now_s = time.monotonic()
        for key in list(islice(self._folded, most)):
            user_id, device_id, chat_id = key
            delivered, read = self._folded.pop(key)
            mark = Mark(chat_id, delivered, read)
            request = Request(InternalOp.MARK, mark, (user_id, device_id), NOBODY, 0, now_s)
            self._requests.request(ChatId(chat_id), request)
        self._finish_cycle()
