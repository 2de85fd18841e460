"""Every test of this directory that takes ``make_rig`` runs twice: on the kernel, and on its twin."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.kernel.rig import KERNELS, MakeRig, Rig


@pytest.fixture(params=list(KERNELS))
def make_rig(request: pytest.FixtureRequest) -> Iterator[MakeRig]:
    rigs: list[Rig] = []

    def make(**settings: object) -> Rig:
        rigs.append(Rig(KERNELS[request.param], **settings))  # type: ignore[arg-type]
        return rigs[-1]

    yield make
    for rig in rigs:
        rig.close()


@pytest.fixture
def rig(make_rig: MakeRig) -> Rig:
    return make_rig()
