"""The schema: made once whoever comes, resumed where somebody fell, never touched by an older release."""

from __future__ import annotations

import pytest
import trio

from storage.api import SchemaTooNew, StoreUnavailable
from storage.scylla.executor import ScyllaExecutor
from storage.scylla.migrations import Migration, load_migrations, split
from storage.scylla.ports import Statement
from storage.scylla.settings import ScyllaSettings
from storage.scylla.statements import STATEMENTS
from tests.servers.cassandra import CassandraNode

ONE = Migration(
    1, ("CREATE TABLE IF NOT EXISTS one (id int PRIMARY KEY)", "CREATE TABLE IF NOT EXISTS two (id int PRIMARY KEY)")
)
TWO = Migration(2, ("ALTER TABLE one ADD note text", "CREATE TABLE three (id int PRIMARY KEY)"))
"""Not to be executed twice: the second time it would be refused."""
COUNTS = Statement("counts", "SELECT number, statements_done FROM migrations WHERE family = ?")
TABLES = Statement("tables", "SELECT table_name FROM system_schema.tables WHERE keyspace_name = ?")


@pytest.fixture
def fresh(settings: ScyllaSettings, keyspace: str) -> ScyllaSettings:
    """A keyspace that is not there yet."""
    return settings._replace(keyspace=keyspace)


async def migrate(settings: ScyllaSettings, *migrations: Migration) -> dict[object, object]:
    """Returns the statements done, by file."""
    executor = ScyllaExecutor(settings, migrations=migrations)
    await executor.open()
    try:
        return {number: done for number, done in await executor.read(COUNTS, "schema") if number is not None}
    finally:
        await executor.close()


async def tables(settings: ScyllaSettings) -> set[object]:
    executor = ScyllaExecutor(settings, migrations=[])
    await executor.open()
    try:
        return {name for (name,) in await executor.read(TABLES, settings.keyspace)}
    finally:
        await executor.close()


async def test_the_projects_own_files_make_what_its_statements_need(fresh: ScyllaSettings) -> None:
    executor = ScyllaExecutor(fresh, STATEMENTS)
    await executor.open()
    await executor.close()


async def test_migrating_again_does_nothing_and_a_later_file_goes_on(fresh: ScyllaSettings) -> None:
    assert await migrate(fresh, ONE) == {1: 2}
    assert await migrate(fresh, ONE) == {1: 2}
    assert await migrate(fresh, ONE, TWO) == {1: 2, 2: 2}
    assert await migrate(fresh, ONE, TWO) == {1: 2, 2: 2}


async def test_of_many_that_start_at_once_one_migrates_and_all_go_on(fresh: ScyllaSettings) -> None:
    counts: list[dict[object, object]] = []

    async def start() -> None:
        counts.append(await migrate(fresh, ONE, TWO))

    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(start)
    assert counts == [{1: 2, 2: 2}] * 4


async def test_a_migration_that_was_cut_off_goes_on_with_the_statement_that_failed(fresh: ScyllaSettings) -> None:
    cut_off = Migration(2, (TWO.statements[0], "CREATE TABLE three (id int PRIMARY KEY, nonsense)"))
    impatient = fresh._replace(migration_timeout_s=0.1)
    await migrate(fresh, ONE)
    with pytest.raises(StoreUnavailable, match=r"^the schema is not ready: [^\n]+$"):
        await migrate(impatient, ONE, cut_off)
    assert "three" not in await tables(fresh)
    assert await migrate(fresh, ONE, TWO) == {1: 2, 2: 2}
    assert {"one", "two", "three"} <= await tables(fresh)


async def test_a_lock_whose_holder_was_killed_runs_out(fresh: ScyllaSettings, cassandra: CassandraNode) -> None:
    await migrate(fresh, ONE)
    cassandra.query(
        f"UPDATE {fresh.keyspace}.migrations USING TTL 2 SET holder = 'killed' WHERE family = 'schema' IF holder = null"
    )
    with pytest.raises(StoreUnavailable, match="another worker migrates"):
        await migrate(fresh._replace(migration_timeout_s=0.1), ONE, TWO)
    assert await migrate(fresh, ONE, TWO) == {1: 2, 2: 2}


async def test_a_schema_of_a_later_release_is_left_alone(fresh: ScyllaSettings) -> None:
    await migrate(fresh, ONE, TWO)
    with pytest.raises(SchemaTooNew, match=r"^[^\n]*schema 2, this release knows 1[^\n]*$"):
        await migrate(fresh, ONE)


@pytest.mark.parametrize(
    ("text", "statements"),
    [
        ("", ()),
        ("-- a comment;\n\nCREATE TABLE a (id int);\n", ("CREATE TABLE a (id int)",)),
        ("CREATE TABLE a (\n  -- why;\n  id int\n);\nDROP TABLE b;", ("CREATE TABLE a (\n  id int\n)", "DROP TABLE b")),
    ],
)
def test_a_statement_ends_in_a_semicolon_at_a_lines_end(text: str, statements: tuple[str, ...]) -> None:
    assert split(text) == statements


def test_a_statement_without_its_end_is_noticed() -> None:
    with pytest.raises(ValueError, match="without its end"):
        split("CREATE TABLE a (id int)")


def test_the_projects_own_files_are_numbered_one_after_the_other() -> None:
    assert [migration.number for migration in load_migrations()] == list(range(1, len(load_migrations()) + 1))
