"""Who was told what, under random schedules."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.protocol.identifiers import UserId
from storage.redis.tracked import Tracked

STAYS = [b"a", b"b", b"c"]
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(1, 6), st.lists(st.sampled_from(STAYS), max_size=3)),
        st.tuples(st.just("take"), st.integers(1, 6), st.just([])),
        st.tuples(st.just("take_at"), st.just(0), st.lists(st.sampled_from(STAYS), max_size=2)),
        st.tuples(st.just("take_all"), st.just(0), st.just([])),
    ),
    max_size=40,
)


@given(STEPS)
def test_whoever_was_told_is_reported_once_when_it_changes(steps: list[tuple[str, int, list[bytes]]]) -> None:
    tracked, model = Tracked(max_users=4), dict[int, tuple[bytes, ...]]()
    for step, user, stays in steps:
        if step == "add":
            given_way = tracked.add(UserId(user), tuple(stays))
            if user in model and model[user] == tuple(stays):
                assert given_way is None
            model[user] = tuple(stays)
            if given_way is not None:
                del model[given_way]
        elif step == "take":
            assert tracked.take(UserId(user)) == (model.pop(user, None) is not None)
        elif step == "take_at":
            expected = {user for user, found in model.items() if set(found) & set(stays)}
            taken = tracked.take_at(stays)
            assert sorted(taken) == sorted(expected)
            model = {user: found for user, found in model.items() if user not in expected}
        else:
            assert sorted(tracked.take_all()) == sorted(model)
            model = {}
        assert len(tracked) == len(model) <= 4


def test_past_the_bound_the_earliest_told_gives_way() -> None:
    tracked = Tracked(max_users=2)
    assert [tracked.add(UserId(user), ()) for user in (1, 2, 3)] == [None, None, 1]
