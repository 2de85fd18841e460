"""What a batch must be before any backend takes it.

Owns the checks that are cheap enough for the Trio thread: the ends of a batch, not its every row. A batch that fails one is
our bug, and ends in StoreConflict before it can do harm: backends fence a batch by the epoch in its seqs.
"""

from __future__ import annotations

from gateway.protocol.identifiers import epoch_of
from storage.api import MAX_BATCH_ROWS, Batch, StoreConflict


def conflict_in(batch: Batch) -> StoreConflict | None:
    """Why this is no batch: 1 … MAX_BATCH_ROWS rows of its chat, with rising seqs of its epoch."""
    rows = batch.rows
    if not 1 <= len(rows) <= MAX_BATCH_ROWS:
        return StoreConflict(f"a batch has 1 to {MAX_BATCH_ROWS} rows, not {len(rows)}")
    first, last = rows[0], rows[-1]
    if not first.chat_id == last.chat_id == batch.chat_id:
        return StoreConflict(f"chat {batch.chat_id}: a batch with rows of another chat")
    if not epoch_of(first.seq) == epoch_of(last.seq) == batch.epoch:
        return StoreConflict(f"chat {batch.chat_id}: a batch with seqs that are not of its epoch {batch.epoch}")
    if last.seq - first.seq < len(rows) - 1:
        return StoreConflict(f"chat {batch.chat_id}: a batch whose seqs do not rise")
    return None
