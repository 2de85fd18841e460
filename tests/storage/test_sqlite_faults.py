"""SQLite: content that cannot be stored, a disk that is full, a lock that somebody else holds."""

from __future__ import annotations

import os
import sqlite3
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from pathlib import Path

import pytest
import trio

from gateway.protocol.identifiers import Epoch, UserId, WorkerId
from storage.api import Chat, Member, MembershipChange, Message, Store, StoreConflict, StoreError, StoreUnavailable
from storage.sqlite import SqliteStore
from storage.sqlite.connection import connect, snapshot
from tests.storage.logs import CHAT, HIGH, LOW, append, batch, id_of, log_of, own, row, rows_of

DISK_BYTES = 6 << 20
BALLAST_BYTES = 2 << 20


@pytest.fixture
async def sqlite_store(tmp_path: Path) -> AsyncIterator[Store]:
    store = SqliteStore(tmp_path / "parley.db")
    await store.open()
    yield store
    await store.close()


@pytest.mark.parametrize(
    "bad",
    [
        row(2, sender_id=1 << 63),
        row(2, time_ms=1 << 64),
        row(2, client_msg_id="text"),
        row(2)._replace(body="text"),  # type: ignore[arg-type]
        row(2, target_seq=b"bytes"),
        row(2, digest=None),
        row(2, kind=1.5),
        row(2, prev_seq=object()),
    ],
    ids=lambda bad: "",
)
async def test_a_row_that_cannot_be_stored_ends_its_own_batch_alone(sqlite_store: Store, bad: Message) -> None:
    neighbour = rows_of(1, 3, chat_id=CHAT + (1 << 20))
    await own(sqlite_store)
    ends = await append(sqlite_store, batch([row(1), bad]), batch(neighbour))
    assert isinstance(ends[0], StoreConflict)
    assert ends[1] is None
    assert await log_of(sqlite_store) == []
    assert await log_of(sqlite_store, CHAT + (1 << 20)) == neighbour


async def test_a_call_that_cannot_be_stored_is_a_conflict_and_shares_a_commit_with_others(sqlite_store: Store) -> None:
    await own(sqlite_store)
    refused: list[StoreConflict] = []

    async def create_impossible() -> None:
        try:
            await sqlite_store.create_direct(LOW, UserId(5), 1 << 63)  # type: ignore[arg-type]
        except StoreConflict as conflict:
            refused.append(conflict)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(create_impossible)
        nursery.start_soon(sqlite_store.create_direct, LOW, HIGH, CHAT)
        assert await append(sqlite_store, batch(rows_of(1, 2))) == [None]
    assert len(refused) == 1
    assert len(await sqlite_store.chats_of(LOW)) == 1


async def test_a_call_that_fails_half_way_leaves_nothing_of_what_it_wrote(sqlite_store: Store) -> None:
    with pytest.raises(StoreConflict):
        await sqlite_store.create_direct(LOW, UserId(1 << 63), CHAT)
    assert await sqlite_store.read_chat(CHAT) is None
    assert await sqlite_store.create_direct(LOW, HIGH, CHAT) == CHAT


async def test_a_change_that_cannot_be_stored_takes_the_rows_of_its_batch_with_it(sqlite_store: Store) -> None:
    await own(sqlite_store)
    change = MembershipChange(Chat(CHAT, 1, "title", 1, 1), [Member(LOW, 0, 0, 0, 1), Member(1 << 63, 0, 0, 0, 1)])
    (end,) = await append(sqlite_store, batch(rows_of(1, 2), [change]))
    assert isinstance(end, StoreConflict)
    assert await log_of(sqlite_store) == []
    assert await sqlite_store.read_chat(CHAT) is None


async def test_a_bug_in_a_call_does_not_end_the_thread_that_writes(sqlite_store: Store) -> None:
    with pytest.raises(StoreError):
        await sqlite_store.acquire_slots([1], WorkerId(1), 1, {1: "no row"})  # type: ignore[dict-item]
    await own(sqlite_store)
    assert await append(sqlite_store, batch(rows_of(1, 2))) == [None]


async def test_the_queue_is_bounded_in_bytes_too(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "parley.db", queue_bytes_max=250_000)
    await store.open()
    await own(store)
    batches = [batch([row(1, chat_id=CHAT + (number << 20), body=b"x" * 100_000)]) for number in range(4)]
    ends = await append(store, *batches)
    assert [type(end) for end in ends] == [type(None), type(None), StoreUnavailable, StoreUnavailable]
    assert await append(store, *batches[2:]) == [None, None], "the queue has room again"
    await store.close()


def test_reads_within_a_snapshot_are_of_one_moment(tmp_path: Path) -> None:
    path = str(tmp_path / "some.db")
    with closing(connect(path, is_reader=False)) as writer, closing(connect(path, is_reader=True)) as reader:
        writer.executescript("PRAGMA journal_mode = WAL; CREATE TABLE one (a)")
        with snapshot(reader):
            assert reader.execute("SELECT count(*) FROM one").fetchone() == (0,)
            writer.execute("INSERT INTO one VALUES (1)")
            assert reader.execute("SELECT count(*) FROM one").fetchone() == (0,)
        assert reader.execute("SELECT count(*) FROM one").fetchone() == (1,)


def test_a_reading_connection_cannot_write(tmp_path: Path) -> None:
    with closing(connect(str(tmp_path / "some.db"), is_reader=True)) as reader, pytest.raises(sqlite3.OperationalError):
        reader.execute("CREATE TABLE one (a)")


async def test_a_reader_does_not_wait_for_a_writer_that_holds_the_database(sqlite_store: Store, tmp_path: Path) -> None:
    await own(sqlite_store)
    await append(sqlite_store, batch(rows_of(1, 2)))
    with closing(sqlite3.connect(tmp_path / "parley.db", isolation_level=None)) as stranger:
        stranger.execute("BEGIN IMMEDIATE")
        assert await log_of(sqlite_store) == rows_of(1, 2)
        stranger.execute("ROLLBACK")


async def test_a_backup_of_a_store_in_use_is_a_store(sqlite_store: Store, tmp_path: Path) -> None:
    """As docs/storage.md says to make one."""
    await own(sqlite_store)
    await append(sqlite_store, batch(rows_of(1, 9)))
    with (
        closing(sqlite3.connect(tmp_path / "parley.db")) as source,
        closing(sqlite3.connect(tmp_path / "copy.db")) as copy,
    ):
        source.execute("VACUUM INTO ?", (str(tmp_path / "vacuumed.db"),))
        source.backup(copy)
    for name in ("copy.db", "vacuumed.db"):
        restored = SqliteStore(tmp_path / name)
        await restored.open()
        assert await log_of(restored) == rows_of(1, 9)
        assert await own(restored) == 2
        await restored.close()


# ------------------------------------------------------------------------------------------------- a full disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with some MiB; needs the right to mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(folder)]
    mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


async def fill(store: Store, first: int) -> tuple[int, StoreError]:
    """Append until the disk is full: the last acknowledged counter, and the end of the batch after it."""
    body = b"x" * 1_000
    while True:
        rows = [row(counter, body=body) for counter in range(first, first + 16)]
        (end,) = await append(store, batch(rows))
        if end is not None:
            assert isinstance(end, StoreError)
            return first - 1, end
        first += 16


async def test_on_a_full_disk_writes_end_unavailable_reads_go_on_and_service_returns_with_space(
    small_disk: Path,
) -> None:
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(BALLAST_BYTES))
    store = SqliteStore(small_disk / "parley.db")
    await store.open()
    await own(store)
    await store.create_direct(LOW, HIGH, CHAT)
    last, end = await fill(store, 1)
    assert isinstance(end, StoreUnavailable)
    assert len(await log_of(store)) == last > 0

    for number in range(50):  # it stays so, and costs neighbours nothing: a small write may still find room
        (again,) = await append(store, batch([row(last + 1, body=b"y" * 500_000)]))
        assert isinstance(again, StoreUnavailable), number
    with pytest.raises(StoreUnavailable):
        await store.create_group(
            LOW, id_of(1), (await store.chats_of(LOW))[0].chat._replace(chat_id=5, title="t" * 500_000), []
        )

    ballast.unlink()
    resumed, _ = await fill(store, last + 1)
    assert resumed > last
    assert len(await log_of(store)) == resumed
    await store.close()

    (small_disk / "parley.db").stat()
    reopened = SqliteStore(small_disk / "parley.db")
    await reopened.open()
    assert len(await log_of(reopened)) == resumed
    assert (await reopened.heads({CHAT: Epoch(1)}))[CHAT].seq == row(resumed).seq
    await reopened.close()
