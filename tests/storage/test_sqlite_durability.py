"""SQLite: what was acknowledged survives the process, and several processes share the file."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from storage.sqlite import SqliteStore
from tests.storage.appender import ROWS
from tests.storage.logs import CHAT, append, batch, log_of, own, rows_of

ROOT = Path(__file__).parents[2]
ACKNOWLEDGED_BATCHES = 40


def start_appender(path: Path, chat_id: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.storage.appender", str(path), str(chat_id)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def kill_after(appender: subprocess.Popen[str], batches: int) -> int:
    """Kill a process in the middle of its work; the last counter that it was acknowledged."""
    with appender:
        assert appender.stdout is not None
        for _ in range(batches):
            assert appender.stdout.readline()
        appender.kill()
        counters = [int(line) for line in appender.stdout if line.endswith("\n")]
    return counters[-1] if counters else batches * ROWS


@pytest.mark.parametrize("processes", [1, 3])
async def test_a_killed_process_loses_no_acknowledged_row_and_leaves_no_half_batch(
    tmp_path: Path, processes: int
) -> None:
    path = tmp_path / "parley.db"
    chat_ids = [CHAT + number for number in range(processes)]
    appenders = [start_appender(path, chat_id) for chat_id in chat_ids]
    acknowledged = [kill_after(appender, ACKNOWLEDGED_BATCHES) for appender in appenders]
    store = SqliteStore(path)
    await store.open()
    for chat_id, counter in zip(chat_ids, acknowledged, strict=True):
        log = await log_of(store, chat_id)
        assert counter <= len(log) <= counter + ROWS
        assert len(log) % ROWS == 0
        assert log == rows_of(1, len(log), chat_id=chat_id)
    await store.close()


async def test_a_write_lock_that_died_with_its_process_does_not_stop_the_others(tmp_path: Path) -> None:
    path = tmp_path / "parley.db"
    appender = start_appender(path, CHAT)
    kill_after(appender, 2)
    store = SqliteStore(path)
    await store.open()
    epoch = await own(store, CHAT + 1)
    assert await append(store, batch(rows_of(1, 3, chat_id=CHAT + 1, epoch=epoch))) == [None]
    await store.close()
