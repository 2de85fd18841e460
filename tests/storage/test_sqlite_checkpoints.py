"""SQLite: the log does not grow for ever, and checkpoints and commits do not hurt each other."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from pathlib import Path

import pytest
import trio

from storage.api import Store
from storage.sqlite import SqliteStore
from storage.sqlite.checkpointer import checkpoint
from storage.sqlite.connection import connect
from storage.sqlite.filelock import FileLock
from tests.storage.logs import append, batch, log_of, own, rows_of


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "parley.db"


@pytest.fixture
async def store(path: Path) -> AsyncIterator[Store]:
    opened = SqliteStore(path)
    await opened.open()
    yield opened
    await opened.close()


@pytest.fixture
def lock(path: Path) -> Iterator[FileLock]:
    with closing(FileLock(f"{path}-writing")) as opened:
        yield opened


async def write(store: Store, first: int, batches: int) -> None:
    for start in range(first, first + 50 * batches, 50):
        assert await append(store, batch(rows_of(start, start + 49))) == [None]


async def test_after_a_checkpoint_the_next_commits_use_the_log_from_its_start(
    store: Store, path: Path, lock: FileLock
) -> None:
    log = Path(f"{path}-wal")
    await own(store)
    await write(store, 1, 10)
    size = log.stat().st_size
    with closing(connect(str(path), is_reader=False)) as connection:
        checkpoint(connection, lock, log_frames=0)
    await write(store, 501, 5)
    assert log.stat().st_size == size
    assert await log_of(store) == rows_of(1, 750)


async def test_checkpoints_in_the_middle_of_commits_lose_nothing(store: Store, path: Path, lock: FileLock) -> None:
    await own(store)
    with closing(connect(str(path), is_reader=False)) as connection:
        async with trio.open_nursery() as nursery:

            async def keep_checkpointing() -> None:
                while True:
                    await trio.to_thread.run_sync(checkpoint, connection, lock, 0)

            nursery.start_soon(keep_checkpointing)
            await write(store, 1, 40)
            nursery.cancel_scope.cancel()
    assert await log_of(store) == rows_of(1, 2_000)


async def test_closing_the_last_handle_leaves_one_file_with_everything(path: Path) -> None:
    stores = [SqliteStore(path) for _ in range(2)]
    for opened in stores:
        await opened.open()
    await own(stores[0])
    await write(stores[0], 1, 2)
    for opened in stores:
        await opened.close()
    assert sorted(entry.name for entry in path.parent.iterdir()) == ["parley.db", "parley.db-writing"]
