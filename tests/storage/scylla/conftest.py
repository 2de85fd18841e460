from __future__ import annotations

import pytest

from tests.storage.scylla.three import Three


@pytest.fixture
def three() -> Three:
    return Three()
