"""The table's bounds, and its invariants under random schedules."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.cluster.directory import Outcome, Registration
from gateway.cluster.directory_table import MAX_TRACKERS, DirectoryTable
from gateway.protocol.identifiers import DeviceId, SessionId, UserId, WorkerId
from tests.cluster.directories import record

ONE = WorkerId(1)


def session(
    session_id: int, user: int = 1, device: int = 1, resumed_from: int = 0, expires_s: int = 100
) -> Registration:
    return Registration(UserId(user), DeviceId(device), SessionId(session_id), SessionId(resumed_from), expires_s)


def table_of(workers: int, **bounds: int) -> DirectoryTable:
    table = DirectoryTable(**bounds)
    for worker in range(1, workers + 1):
        table.join(record(worker))
    table.take_effects()
    return table


def test_past_the_bound_the_longest_disconnected_device_is_forgotten() -> None:
    table = table_of(1, max_devices=2)
    for user in (1, 2):
        table.register(ONE, [session(5, user, resumed_from=4)], 0)
    table.unregister(ONE, UserId(2), DeviceId(1), SessionId(5))
    table.unregister(ONE, UserId(1), DeviceId(1), SessionId(5))
    table.register(ONE, [session(5, user=3)], 0)
    assert table.device_count == 2
    stale = table.register(ONE, [session(6, 1, resumed_from=3), session(6, 2, resumed_from=3)], 0)
    assert [result.outcome for result in stale] == [Outcome.RESUME_STALE, Outcome.ACCEPTED]


def test_connected_devices_are_never_forgotten() -> None:
    table = table_of(1, max_devices=2)
    table.register(ONE, [session(5, user) for user in range(1, 6)], 0)
    assert all(table.locate(ONE, [UserId(user) for user in range(1, 6)]))


def test_expired_records_of_disconnected_devices_go() -> None:
    table = table_of(1)
    table.register(ONE, [session(5, 1, expires_s=50), session(5, 2, expires_s=500), session(5, 3, expires_s=50)], 0)
    for user in (1, 2):
        table.unregister(ONE, UserId(user), DeviceId(1), SessionId(5))
    table.expire(100)
    assert table.device_count == 2
    assert table.locate(ONE, [UserId(3)])[0]


def test_past_the_bound_of_tracked_users_the_oldest_is_told_as_moved() -> None:
    table = table_of(1, max_tracked=2)
    table.locate(ONE, [UserId(1), UserId(2), UserId(3)])
    assert table.take_effects().moved == {ONE: [1]}


def test_past_the_bound_of_trackers_the_earlier_ones_are_told_as_moved() -> None:
    table = table_of(MAX_TRACKERS + 1)
    for worker in range(1, MAX_TRACKERS + 2):
        table.locate(WorkerId(worker), [UserId(1)])
    assert set(table.take_effects().moved) == set(range(1, MAX_TRACKERS + 1))


def test_an_earlier_life_cannot_join_after_a_later_one() -> None:
    table = DirectoryTable()
    assert table.join(record(1, 2))
    assert not table.join(record(1, 1))
    assert table.workers[ONE].incarnation == 2


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["register", "unregister", "locate", "remove"]),
        st.integers(1, 3),  # worker
        st.integers(1, 2),  # user
        st.integers(1, 2),  # device
        st.integers(1, 8),  # session
    ),
    max_size=60,
)


@settings(max_examples=300, deadline=None)
@given(STEPS)
def test_whoever_was_told_where_a_user_is_knows_it_or_was_told_that_it_moved(
    steps: list[tuple[str, int, int, int, int]],
) -> None:
    table = table_of(3)
    known: dict[tuple[int, int], object] = {}
    accepted: dict[tuple[int, int], int] = {}
    for step, worker_id, user, device, number in steps:
        worker = WorkerId(worker_id)
        if step == "register":
            (result,) = table.register(worker, [session(number, user, device)], 0)
            assert result.session_id >= accepted.get((user, device), 0)
            assert (result.outcome is Outcome.ACCEPTED) == (result.session_id == number) or result.session_id == number
            accepted[user, device] = max(result.session_id, accepted.get((user, device), 0))
        elif step == "unregister":
            table.unregister(worker, UserId(user), DeviceId(device), SessionId(number))
        elif step == "locate":
            known[worker_id, user] = table.locate(worker, [UserId(user)])[0]
        else:
            table.remove(worker, 1)
            known = {key: value for key, value in known.items() if key[0] != worker_id}
            table.join(record(worker_id))
        for tracker, moved in table.take_effects().moved.items():
            for moved_user in moved:
                known.pop((tracker, moved_user), None)
    for (worker_id, user), locations in list(known.items()):
        assert table.locate(WorkerId(worker_id), [UserId(user)])[0] == locations
