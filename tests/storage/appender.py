"""A process that appends to a SQLite store for as long as it lives, and says on stdout what was acknowledged.

``python -m tests.storage.appender PATH CHAT_ID``: a line per acknowledged batch, the counter of its last row.
"""

from __future__ import annotations

import sys

import trio

from storage.sqlite import SqliteStore
from tests.storage.logs import append, batch, own, rows_of

ROWS = 8


async def main(path: str, chat_id: int) -> None:
    store = SqliteStore(path)
    await store.open()
    epoch = await own(store, chat_id)
    for first in range(1, 1 << 30, ROWS):
        (end,) = await append(store, batch(rows_of(first, first + ROWS - 1, chat_id=chat_id, epoch=epoch)))
        if end is not None:
            raise end
        sys.stdout.write(f"{first + ROWS - 1}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    trio.run(main, sys.argv[1], int(sys.argv[2]))
