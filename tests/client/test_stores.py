"""What every ClientStore promises, on each of ours."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

import parley
from parley.store import Changes, ClientStore, Snapshot, StoredSend

Reopen = Callable[[], ClientStore]

SEND = StoredSend(1, b"i" * 16, 0, b"body", None, 5)


@pytest.fixture(params=["memory", "file"])
def reopen(request: pytest.FixtureRequest, tmp_path: Path) -> Reopen:
    """Each call opens the same store as after a restart; the one in memory is its own restart."""
    memory = parley.MemoryClientStore()
    return lambda: memory if request.param == "memory" else parley.FileClientStore(tmp_path / "device")


def changes(
    *,
    cursors: dict[int, int] | None = None,
    gone: list[int] | None = None,
    queued: list[StoredSend] | None = None,
    settled: list[bytes] | None = None,
    resume_token: bytes | None = None,
) -> Changes:
    return Changes(cursors or {}, gone or [], queued or [], settled or [], resume_token)


async def test_a_new_store_knows_nothing(reopen: Reopen) -> None:
    assert await reopen().load() == Snapshot(None, {}, None)


async def test_what_was_saved_is_there_after_a_restart(reopen: Reopen) -> None:
    store = reopen()
    await store.load()
    await store.save(changes(cursors={1: 5, 2: (1 << 62) + 1}, queued=[SEND], resume_token=b"token"))
    await store.save(changes(cursors={1: 6}))
    assert await reopen().load() == Snapshot({1: 6, 2: (1 << 62) + 1}, {SEND.client_msg_id: SEND}, b"token")


async def test_what_is_settled_gone_or_void_is_forgotten(reopen: Reopen) -> None:
    store = reopen()
    await store.load()
    await store.save(changes(cursors={1: 5, 2: 6}, queued=[SEND], resume_token=b"token"))
    await store.save(changes(gone=[1], settled=[SEND.client_msg_id], resume_token=b""))
    assert await reopen().load() == Snapshot({2: 6}, {}, None)


async def test_saving_the_same_again_does_no_harm(reopen: Reopen) -> None:
    store = reopen()
    await store.load()
    for _ in range(2):
        await store.save(changes(cursors={1: 5}, queued=[SEND]))
    assert await reopen().load() == Snapshot({1: 5}, {SEND.client_msg_id: SEND}, None)


async def test_a_loaded_snapshot_is_the_callers_own(reopen: Reopen) -> None:
    store = reopen()
    await store.load()
    await store.save(changes(cursors={1: 5}))
    loaded = await store.load()
    assert loaded.cursors is not None
    loaded.cursors[1] = 99
    assert (await store.load()).cursors == {1: 5}


@pytest.mark.parametrize("content", [b"", b"not msgpack", b"\x94\x01\xc0\x90", b"\x94\x63\xc0\x90\xc0"])
async def test_a_file_that_is_no_store_is_said_so(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "device"
    path.write_bytes(content)
    with pytest.raises(parley.BrokenStore, match="device"):
        await parley.FileClientStore(path).load()


async def test_the_file_holds_a_credential_and_is_readable_by_its_owner_alone(tmp_path: Path) -> None:
    store = parley.FileClientStore(tmp_path / "device")
    await store.load()
    await store.save(changes(resume_token=b"token"))
    assert stat.S_IMODE(os.stat(tmp_path / "device").st_mode) == 0o600
    assert os.listdir(tmp_path) == ["device"]
