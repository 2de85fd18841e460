"""Which workers hang: questions that nobody answers, and what is none."""

from __future__ import annotations

from gateway.node.watchdog import OVERSLEPT_S, PERIOD_S, Watchdog

LIMIT_S = 10.0


def ticks(watchdog: Watchdog, lives: list[int], first_s: int, last_s: int) -> list[tuple[int, list[int]]]:
    """Second by second, both included: (second, who hangs) where somebody does."""
    named = [(second, watchdog.tick(lives, float(second))) for second in range(first_s, last_s + 1)]
    return [(second, hanging) for second, hanging in named if hanging]


def test_a_silent_life_is_named_when_the_limit_is_reached_and_not_before() -> None:
    assert ticks(Watchdog(LIMIT_S), [7], 0, 11) == [(10, [7]), (11, [7])]


def test_an_answer_ends_the_silence() -> None:
    watchdog = Watchdog(LIMIT_S)
    for second in range(9):
        assert watchdog.tick([7, 8], float(second)) == []
        watchdog.heard(8)
    assert ticks(watchdog, [7, 8], 9, 10) == [(10, [7])]


def test_who_answers_every_question_is_never_named_however_short_the_limit() -> None:
    watchdog = Watchdog(PERIOD_S)
    for second in range(100):
        assert watchdog.tick([7], second * 1.01) == []
        watchdog.heard(7)


def test_a_life_is_watched_from_when_it_serves() -> None:
    watchdog = Watchdog(LIMIT_S)
    assert ticks(watchdog, [7], 0, 9) == []
    assert ticks(watchdog, [7, 8], 10, 19) == [(second, [7]) for second in range(10, 20)]
    assert watchdog.tick([7, 8], 20.0) == [7, 8]


def test_after_a_pause_of_our_own_everybody_has_the_whole_time_again() -> None:
    watchdog = Watchdog(LIMIT_S)
    assert ticks(watchdog, [7], 0, 1) == []
    assert ticks(watchdog, [7], 1001, 1011) == [(1011, [7])]


def test_a_period_that_is_a_little_late_is_no_pause() -> None:
    watchdog, late_s = Watchdog(LIMIT_S), PERIOD_S + OVERSLEPT_S
    assert [watchdog.tick([7], number * late_s) for number in range(5)] == [[], [], [], [], [7]]


def test_late_news_of_a_life_that_ended_is_ignored() -> None:
    watchdog = Watchdog(LIMIT_S)
    watchdog.tick([8], 0.0)
    watchdog.heard(7)
    assert ticks(watchdog, [8], 1, 10) == [(10, [8])]
