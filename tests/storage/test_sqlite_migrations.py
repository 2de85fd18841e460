"""SQLite: numbered schema files, forward only."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import trio

from storage.api import SchemaTooNew, StoreUnavailable
from storage.sqlite import SqliteStore
from storage.sqlite.connection import connect
from storage.sqlite.migrations import Migration, load_migrations, migrate

FIRST = Migration(1, "CREATE TABLE one (a); INSERT INTO one VALUES (1);")
BROKEN = Migration(2, "CREATE TABLE two (a); INSERT INTO nowhere VALUES (1);")
MENDED = Migration(2, "CREATE TABLE two (a);\n-- ends in a comment")


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    with closing(connect(str(tmp_path / "some.db"), is_reader=False)) as opened:
        yield opened


def tables(connection: sqlite3.Connection) -> set[str]:
    return {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}


def test_the_files_are_numbered_from_1_without_a_gap() -> None:
    migrations = load_migrations()
    assert [migration.number for migration in migrations] == list(range(1, len(migrations) + 1))


def test_each_migration_is_applied_once(connection: sqlite3.Connection) -> None:
    for _ in range(2):
        migrate(connection, [FIRST, MENDED])
    assert connection.execute("SELECT count(*) FROM one").fetchone() == (1,)
    assert tables(connection) == {"one", "two"}


def test_a_migration_that_fails_leaves_the_schema_before_it_and_is_made_again(connection: sqlite3.Connection) -> None:
    with pytest.raises(sqlite3.OperationalError):
        migrate(connection, [FIRST, BROKEN])
    assert tables(connection) == {"one"}
    migrate(connection, [FIRST, MENDED])
    assert tables(connection) == {"one", "two"}


def test_only_what_is_missing_is_applied(connection: sqlite3.Connection) -> None:
    migrate(connection, [FIRST])
    migrate(connection, [BROKEN._replace(number=1), MENDED])
    assert tables(connection) == {"one", "two"}


async def test_a_schema_of_a_later_release_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "parley.db"
    with closing(sqlite3.connect(path)) as later:
        later.execute("PRAGMA user_version = 99")
    with pytest.raises(SchemaTooNew, match="schema 99") as refusal:
        await SqliteStore(path).open()
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "content", [b"this is no database, but a letter to a friend. " * 99, b"SQLite format 3\0garbage" * 99]
)
async def test_a_file_that_is_no_database_is_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "parley.db"
    path.write_bytes(content)
    with pytest.raises(StoreUnavailable, match=r"parley\.db") as refusal:
        await SqliteStore(path).open()
    assert "\n" not in str(refusal.value)
    assert path.read_bytes() == content


async def test_a_folder_that_cannot_be_made_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file in the way")
    with pytest.raises(StoreUnavailable, match="data") as refusal:
        await SqliteStore(tmp_path / "data" / "parley.db").open()
    assert "\n" not in str(refusal.value)


async def test_many_that_start_at_once_find_one_schema(tmp_path: Path) -> None:
    stores = [SqliteStore(tmp_path / "new" / "parley.db") for _ in range(12)]
    async with trio.open_nursery() as nursery:
        for store in stores:
            nursery.start_soon(store.open)
    assert await stores[0].chats_of(1) == []  # type: ignore[arg-type]
    for store in stores:
        await store.close()
