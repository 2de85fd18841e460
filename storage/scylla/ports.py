"""What the tables need of a replicated engine: a few kinds of statements, and what each of their ends means.

Owns the seam between the rules (``slots.py``, ``messages.py``, ``chats.py``, ``cursors.py``) and whoever executes them: the
driver (``executor.py``), or three simulated replicas that lose, delay and repeat every mutation (``tests``). It knows neither.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, TypeAlias

from storage.api import StoreError

Value: TypeAlias = "int | str | bytes | bool | Sequence[int] | Sequence[bytes] | None"
Row: TypeAlias = "tuple[Value, ...]"
"""In the order of the statement's columns."""


class Statement(NamedTuple):
    """A statement with a name of its own; its ``?`` are filled in order."""

    name: str
    cql: str
    key: tuple[int, ...] = (0,)
    """Which of its values are the partition's key, in order; empty: it names several partitions (``IN ?``). What one
    partition gets together is atomic on each replica."""
    is_shared: bool = False
    """Of a read: whoever asks the same while it is in flight gets its answer too, which may be older than the question. Off
    wherever an answer must show what was acknowledged before it was asked for: all that ownership and adoption rest on."""


class Write(NamedTuple):
    """Idempotent: it may be executed late, or more than once. Its timestamp is among the values."""

    statement: Statement
    values: tuple[Value, ...]


class Decision(NamedTuple):
    """What became of a conditional statement. ``rows``: what was found instead, where it was not applied."""

    is_applied: bool
    rows: Sequence[Row]


WriteDone: TypeAlias = "Callable[[StoreError | None], None]"


class Executor(Protocol):
    """One worker's way to the cluster. Everything is bounded: what is in flight, what waits for that, and time.

    Errors: StoreUnavailable: nothing was sent (not open, or the queue is at its bound). StoreTimedOut: whatever else went
    wrong after something was sent; it may have happened, may still happen, and may have happened in part.
    """

    after_writes: Callable[[], None]
    """Called after the ``done`` of all writes that ended together: for what is better done once than for each."""

    async def open(self) -> None:
        """Connect, migrate the schema, prepare every statement. Raises StoreUnavailable, SchemaTooNew."""
        ...

    async def close(self) -> None:
        """Let what was sent end, refuse the rest. Idempotent."""
        ...

    async def read(self, statement: Statement, *values: Value) -> list[Row]:
        """All rows, at LOCAL_QUORUM, all pages. Of a statement that ``is_shared``, the same question in flight is asked once.
        Raises StoreError."""
        ...

    async def read_serially(self, statement: Statement, *values: Value) -> list[Row]:
        """The same at LOCAL_SERIAL: it completes a conditional write that was under way, and sees it."""
        ...

    async def write(self, writes: Sequence[Write]) -> None:
        """Returns when a LOCAL_QUORUM has every one of them. What goes to one partition goes in one request, if it is at
        most what a batch may hold (``MAX_BATCH_BYTES`` and the columns around it), and is atomic on each replica; writes to
        several partitions are not atomic together. Any number: it is cut and bounded inside. Raises StoreError.
        """
        ...

    def write_then(self, writes: Sequence[Write], done: WriteDone) -> None:
        """``write`` for the hot path: no task, shared requests. ``done`` is called once, on the Trio thread, in a later step.

        What is given within some milliseconds is grouped by replica set into unlogged batches.
        """
        ...

    async def decide(self, writes: Sequence[Write]) -> Decision:
        """Conditional statements on one partition, all applied or none; serial, committed at LOCAL_QUORUM. Never repeated.

        Raises StoreError; StoreTimedOut is an unknown outcome: read it serially.
        """
        ...

    def statistics(self) -> ExecutorStatistics: ...


class ExecutorStatistics(NamedTuple):
    """Totals since ``open`` but for ``in_flight`` and ``waiting``, which are of now."""

    requests: int
    statements: int
    """Rows of batches counted one by one."""
    timeouts: int
    refusals: int
    in_flight: int
    waiting: int
    shared_reads: int
    """Reads that were answered by another's."""
