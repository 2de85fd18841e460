"""What the directory keeps of a session whose credential changes, or that it had forgotten."""

from __future__ import annotations

import pytest

from gateway.cluster.directory import Outcome, Registration, WorkerRecord
from gateway.cluster.directory_local import LocalDirectory, LocalDirectoryHub
from gateway.cluster.directory_table import DirectoryTable
from gateway.protocol.identifiers import DeviceId, SessionId, UserId, WorkerId
from gateway.registry import DirectoryRegistry

USER, DEVICE = UserId(1), DeviceId(2)


def session(number: int, expires_s: int) -> Registration:
    return Registration(USER, DEVICE, SessionId(number), SessionId(0), expires_s)


class Site:
    """Two workers of one directory, and its clock."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        hub = LocalDirectoryHub(DirectoryTable(), now_s=lambda: self.now_s)
        self.directories = [LocalDirectory(hub), LocalDirectory(hub)]
        self.here, self.elsewhere = map(DirectoryRegistry, self.directories)

    async def join(self) -> None:
        for number, directory in enumerate(self.directories, 1):
            await directory.join(WorkerRecord(WorkerId(number), 1, "", False))


@pytest.fixture
async def site() -> Site:
    site = Site()
    await site.join()
    return site


@pytest.mark.parametrize(("renewed_until_s", "outcome"), [(5000, Outcome.SUPERSEDED), (1100, Outcome.ACCEPTED)])
async def test_a_record_lives_as_long_as_the_credential_that_came_last(
    site: Site, renewed_until_s: int, outcome: Outcome
) -> None:
    await site.here.register_again([session(7, 1100)])
    assert await site.here.renew(USER, DEVICE, SessionId(7), renewed_until_s) == 7
    site.here.dismiss(USER, DEVICE, SessionId(7))
    site.now_s = 2000.0
    [late] = await site.elsewhere.register_again([session(6, 9000)])
    assert late.outcome is outcome


async def test_who_renews_hears_of_the_session_that_replaced_it(site: Site) -> None:
    await site.here.register_again([session(7, 5000)])
    await site.elsewhere.register_again([session(9, 5000)])
    assert await site.here.renew(USER, DEVICE, SessionId(7), 6000) == 9


async def test_who_registers_again_hears_of_the_session_that_came_before_it(site: Site) -> None:
    await site.elsewhere.register_again([session(9, 5000)])
    [again] = await site.here.register_again([session(7, 5000)])
    assert (again.outcome, again.session_id) == (Outcome.SUPERSEDED, 9)
