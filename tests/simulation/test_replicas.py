"""What the simulated cluster may do to a request, and what it must not."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from storage.scylla.statements import STATEMENTS
from tests.simulation.agenda import Agenda
from tests.simulation.cells import Bound, Cells, Mutation, Partition, Tombstone, is_alive, merged, value_of
from tests.simulation.cql import SCHEMA, WHOLE, CqlError, Erase, Put, Select, Slice, read_schema, read_statement
from tests.simulation.dice import Dice
from tests.simulation.replicas import REPLICAS, Cluster, Want

PLACE = ("messages", 7, 0)


def cells(timestamp: int, **values: object) -> Cells:
    return {name: (timestamp, value is None, value) for name, value in values.items()}


def put(key: int, timestamp: int, **values: object) -> Mutation:
    return Mutation(PLACE, {(key,): cells(timestamp, **values)})


def erase(low: int, high: int, timestamp: int) -> Mutation:
    return Mutation(PLACE, {}, (Tombstone(Bound(low, False), Bound(high, False), timestamp),))


def want(*slices: Slice, limit: int = 100, columns: tuple[str, ...] = ("a", "b")) -> Want:
    return Want(PLACE, slices or (WHOLE,), limit, True, False, frozenset(columns))


# --------------------------------------------------------------------------------------------------- merging

MUTATIONS = [
    put(1, 5, a=1),
    put(1, 5, a=2),
    put(1, 4, a=9, b=1),
    erase(0, 2, 4),
    erase(0, 9, 3),
    put(3, 3, a=1),
    put(3, 4, a=2),
]


@pytest.mark.parametrize("order", [list(p) for p in itertools.islice(itertools.permutations(range(7)), 0, 5040, 97)])
def test_mutations_make_the_same_rows_in_any_order_and_more_than_once(order: list[int]) -> None:
    partition = Partition()
    for number in (*order, *order[:3]):
        partition.apply(MUTATIONS[number].rows, MUTATIONS[number].tombstones)
    assert partition.rows == {(1,): cells(5, a=2), (3,): cells(4, a=2)}


@pytest.mark.parametrize(("row", "tombstone", "is_there"), [(5, 5, False), (6, 5, True), (5, 6, False)])
def test_of_a_row_and_a_tombstone_the_later_wins_and_at_a_tie_the_tombstone(
    row: int, tombstone: int, is_there: bool
) -> None:
    for mutations in ([put(1, row, a=1), erase(0, 2, tombstone)], [erase(0, 2, tombstone), put(1, row, a=1)]):
        partition = Partition()
        for one in mutations:
            partition.apply(one.rows, one.tombstones)
        assert bool(partition.rows) == is_there


def test_a_range_leaves_its_bounds_alone() -> None:
    partition = Partition()
    for key in (1, 2, 3):
        partition.apply(put(key, 1, a=key).rows, ())
    partition.apply({}, erase(1, 3, 9).tombstones)
    assert sorted(partition.rows) == [(1,), (3,)]


# ------------------------------------------------------------------------------------------------ the cluster


class Run:
    """A cluster on a timetable of its own, run without Trio."""

    def __init__(self) -> None:
        self.agenda = Agenda()
        self.cluster = Cluster(self.agenda, Dice(1), is_calm=True)

    def deliver(self, replica: int, mutation: Mutation) -> None:
        self.cluster.replicas[replica][PLACE].apply(mutation.rows, mutation.tombstones)

    def finish(self) -> None:
        while (when_s := self.agenda.next_s) is not None:
            self.agenda.now_s = max(self.agenda.now_s, when_s)
            self.agenda.run_due()
        self.agenda.finish_quietly()

    def read(self, asked: Want) -> dict[Any, Cells] | None:
        answers: list[Any] = []
        self.cluster.read(asked, answers.append)
        self.finish()
        (answer,) = answers
        return answer  # type: ignore[no-any-return]

    def holders(self, key: int, name: str = "a") -> int:
        return sum(name in self.cluster.replicas[n][PLACE].rows.get((key,), {}) for n in range(REPLICAS))


def test_a_quorum_read_repairs_the_rows_that_it_returns_and_no_others() -> None:
    run = Run()
    for key in (1, 2, 3):
        for number in (0, 1):
            run.deliver(number, put(key, 1, a=key))
    run.cluster.down_until_s[0] = 1e9  # so that the third is asked
    answer = run.read(want(limit=1))
    assert answer is not None
    assert list(answer) == [(3,)]
    assert [run.holders(key) for key in (1, 2, 3)] == [2, 2, 3]


def test_a_quorum_read_repairs_the_columns_that_it_asks_for() -> None:
    run = Run()
    run.deliver(0, put(1, 1, a=1, b=2))
    run.deliver(1, put(1, 1, a=1, b=2))
    run.cluster.down_until_s[0] = 1e9
    run.read(want(columns=("a",)))
    assert (run.holders(1, "a"), run.holders(1, "b")) == (3, 2)


def test_a_quorum_read_carries_tombstones_to_who_lacks_them() -> None:
    run = Run()
    for number in range(REPLICAS):
        run.deliver(number, put(1, 1, a=1))
    run.deliver(1, erase(0, 9, 5))
    run.cluster.down_until_s[0] = 1e9
    assert run.read(want(Slice(Bound(0, False), Bound(5, False)))) == {}
    assert run.holders(1) == 1


def test_a_write_is_acknowledged_when_two_replicas_have_it_and_reaches_all() -> None:
    run = Run()
    ends: list[bool] = []
    run.cluster.write([put(1, 1, a=1)], ends.append)
    run.finish()
    assert (ends, run.holders(1)) == ([True], 3)


def test_a_write_with_one_replica_up_is_unknown() -> None:
    run = Run()
    run.cluster.down_until_s = [1e9, 1e9, 0.0]
    ends: list[bool] = []
    run.cluster.write([put(1, 1, a=1)], ends.append)
    run.finish()
    assert ends == [False]


def test_two_that_decide_on_the_same_state_do_not_both_win() -> None:
    run = Run()
    ends: list[Any] = []

    def judge(name: int) -> Any:
        def claim(decided: Partition, ballot: int) -> Any:
            if decided.rows:
                return False, ["taken"], None
            return True, [], Mutation(PLACE, {(1,): cells(ballot, a=name)})

        return claim

    for name in (1, 2):
        run.cluster.decide(PLACE, judge(name), ends.append)
    run.finish()
    assert sorted(ends, key=str) == [(False, ["taken"]), (True, [])]


def test_a_serial_read_sees_what_was_decided_and_not_yet_committed() -> None:
    run = Run()
    run.cluster.weather.lost_answers = 1.0  # the answer is lost, and the commit late
    run.cluster.decide(PLACE, lambda decided, ballot: (True, [], put(1, ballot, a=1)), lambda answer: None)
    while not run.cluster.is_decided(PLACE):
        run.agenda.now_s = run.agenda.next_s or 0.0
        run.agenda.run_due()
    run.cluster.weather.clear()
    answers: list[Any] = []
    run.cluster.read_serially(want(), answers.append)
    run.finish()
    assert [value_of(answer[(1,)], "a") for answer in answers] == [1]


# ------------------------------------------------------------------------------------------------------- CQL


def test_every_statement_of_the_tables_is_understood() -> None:
    tables = read_schema(SCHEMA)
    for statement in STATEMENTS:
        assert isinstance(read_statement(statement.cql, tables), Put | Erase | Select)


@pytest.mark.parametrize(
    "cql",
    [
        "SELECT seq FROM messages WHERE chat_id = ? ALLOW FILTERING",
        "SELECT count(*) FROM messages WHERE chat_id = ?",
        "TRUNCATE messages",
        "UPDATE chats SET title = ? WHERE chat_id > ?",
        "INSERT INTO chats (chat_id) VALUES (now())",
    ],
)
def test_what_is_not_understood_is_an_error(cql: str) -> None:
    with pytest.raises(CqlError):
        read_statement(cql, read_schema(SCHEMA))


def test_an_insert_makes_a_row_show_and_an_update_of_a_static_column_does_not() -> None:
    tables = read_schema(SCHEMA)
    insert = read_statement("INSERT INTO members (chat_id, user_id) VALUES (?, ?) USING TIMESTAMP ?", tables)
    assert isinstance(insert, Put)
    rows = insert.rows((7, 1, 3), 3)
    assert is_alive(rows[(1,)])
    update = read_statement("UPDATE slots SET changed = ? WHERE part = ?", tables)
    assert isinstance(update, Put)
    assert list(update.rows((9, 0), 1)) == [None]


def test_merging_two_snapshots_is_what_one_replica_with_both_would_hold() -> None:
    one, other, both = Partition(), Partition(), Partition()
    for part, mutation in ((one, put(1, 1, a=1)), (other, put(1, 2, b=2)), (other, erase(0, 5, 1))):
        part.apply(mutation.rows, mutation.tombstones)
        both.apply(mutation.rows, mutation.tombstones)
    assert merged([one, other]).rows == both.rows == {(1,): cells(2, b=2)}
