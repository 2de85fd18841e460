"""Requests on links: what is waiting for an answer, how it ends, and how one is answered.

Owns the ends of a request. Knows no connection. Invariant: a request that was added ends exactly once: in the answer, in
a refusal, or in ``LinkLost`` when its peer went, its link broke or its time was up. None waits forever.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from gateway.protocol.errors import Code
from gateway.protocol.identifiers import WorkerId

MAX_OUTSTANDING = 65_536
"""Per peer. At 50,000 requests a second it is 1.3 s of answers: a peer that is further behind is overloaded."""

REQUEST_TIMEOUT_S = 10.0


class LinkLost(Exception):
    """A dependency's fault: the peer is gone, cannot be reached, or did not answer in time.

    ``is_unknown``: the request may have been carried out. False: it never left.
    """

    def __init__(self, worker: WorkerId, *, is_unknown: bool) -> None:
        super().__init__(f"worker {worker} {'did not answer' if is_unknown else 'cannot be reached'}")
        self.worker = worker
        self.is_unknown = is_unknown


class LinkRefused(Exception):
    """The peer answered with a refusal, or the link is at a bound (OVERLOADED): the request was not carried out."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


Answer: TypeAlias = "bytes | LinkLost | LinkRefused"
Done: TypeAlias = Callable[[Answer], None]


class Reply:
    """How a handler answers a request: ``reply`` or ``refuse``, once, now or later. Forgotten, the request times out."""

    __slots__ = ("_answer",)

    def __init__(self, answer: Callable[[bytes | LinkRefused], None]) -> None:
        self._answer: Callable[[bytes | LinkRefused], None] | None = answer

    def reply(self, payload: bytes) -> None:
        self._finish(payload)

    def refuse(self, code: Code, message: str) -> None:
        self._finish(LinkRefused(code, message))

    def _finish(self, answer: bytes | LinkRefused) -> None:
        send, self._answer = self._answer, None
        if send is None:
            raise RuntimeError("a request is answered once")
        send(answer)


class PendingRequests:
    """The requests to one peer, oldest first. All have the same time-out, so the oldest is also the next to be late."""

    def __init__(self, worker: WorkerId, *, max_outstanding: int = MAX_OUTSTANDING) -> None:
        self._worker = worker
        self._max_outstanding = max_outstanding
        self._waiting: dict[int, tuple[Done, float]] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def is_full(self) -> bool:
        return len(self._waiting) >= self._max_outstanding

    def add(self, request_id: int, done: Done, now_s: float) -> None:
        self._waiting[request_id] = done, now_s + REQUEST_TIMEOUT_S

    def discard(self, request_id: int) -> None:
        """Take back a request that did not leave; its ``done`` is the caller's to call."""
        del self._waiting[request_id]

    def end(self, request_id: int, answer: Answer) -> None:
        """An answer to a request that has ended otherwise (it was late) is nobody's."""
        waiting = self._waiting.pop(request_id, None)
        if waiting is not None:
            waiting[0](answer)

    def overdue(self, now_s: float) -> list[Done]:
        """Take out the requests whose time is up."""
        late: list[Done] = []
        for done, deadline_s in self._waiting.values():
            if deadline_s > now_s:
                break
            late.append(done)
        for request_id in list(self._waiting)[: len(late)]:
            del self._waiting[request_id]
        return late

    def take_all(self) -> list[Done]:
        taken = [done for done, _ in self._waiting.values()]
        self._waiting.clear()
        return taken
