"""People for tests on a node: ids that nobody else uses, devices that log in, on the worker that a test wants."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import pytest

from tests.node.wire import Wire
from tests.nodes import NodeProcess

CONNECT_TRIES = 200
DEVICES_PER_USER = 100


@pytest.fixture(scope="session")
def user_ids() -> Iterator[int]:
    return itertools.count(1001)


@pytest.fixture
def new_user(user_ids: Iterator[int]) -> Callable[[], int]:
    """A user that no other test has."""
    return lambda: next(user_ids)


@pytest.fixture
def connect() -> Iterator[Callable[..., Wire]]:
    """Connections, closed after the test. ``worker``: the process that is to have accepted it."""
    wires: list[Wire] = []

    def connect(node: NodeProcess, *, worker: int | None = None, receive_buffer: int = 0) -> Wire:
        for _ in range(CONNECT_TRIES):
            wire = Wire(node.port, receive_buffer=receive_buffer)
            wires.append(wire)
            if worker is None or node.worker_of(wire.socket) == worker:
                return wire
            wire.close()
        raise AssertionError(f"{CONNECT_TRIES} connections in a row went to other workers than {worker}")

    yield connect
    for wire in wires:
        wire.close()


@pytest.fixture
def login(connect: Callable[..., Wire]) -> Callable[..., Wire]:
    """A live session of a user's device (1, 2, …: ids are made of the user's)."""

    def login(
        node: NodeProcess,
        user_id: int,
        device: int = 1,
        *,
        worker: int | None = None,
        window: int | None = None,
        receive_buffer: int = 0,
    ) -> Wire:
        wire = connect(node, worker=worker, receive_buffer=receive_buffer)
        wire.welcome(node.token(user_id, device_id_of(user_id, device)), window=window)
        return wire

    return login


@pytest.fixture
def pair(node: NodeProcess, login: Callable[..., Wire], new_user: Callable[[], int]) -> tuple[Wire, Wire]:
    """Two people on two workers."""
    first, second = node.worker_pids()
    return login(node, new_user(), worker=first), login(node, new_user(), worker=second)


def device_id_of(user_id: int, device: int = 1) -> int:
    return user_id * DEVICES_PER_USER + device
