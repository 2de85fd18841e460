"""The comparison of what was replayed with what was read back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parley.replay.comparison import Spoken, compare
from parley.replay.performance import Outcome
from parley.replay.report import describe_outcome


def chat(letters: str) -> list[Spoken]:
    """Each letter is a message; the author is its case."""
    return [Spoken("Ann" if letter.isupper() else "Bob", 0, letter) for letter in letters]


CASES = [
    ("nothing", "", "", []),
    ("the same", "aBc", "aBc", []),
    ("repeats", "aaa", "aaa", []),
    ("one lost", "aBc", "ac", ["message 2: is missing: Ann: 'B'"]),
    ("one twice", "aBc", "aBBc", ["message 3: was read, and nobody sent it: Ann: 'B'"]),
    (
        "another author",
        "b",
        "B",
        ["message 1: is missing: Bob: 'b'", "message 1: was read, and nobody sent it: Ann: 'B'"],
    ),
    ("all lost", "ab", "", ["message 1: is missing: Bob: 'a'", "message 2: is missing: Bob: 'b'"]),
    (
        "two swapped",
        "aBc",
        "Bac",
        [
            "message 1: out of order: expected Bob: 'a', read Ann: 'B'",
            "message 2: out of order: expected Ann: 'B', read Bob: 'a'",
        ],
    ),
]


@pytest.mark.parametrize(("what", "sent", "read", "differences"), CASES, ids=[case[0] for case in CASES])
def test_each_difference_is_named_with_its_place(what: str, sent: str, read: str, differences: list[str]) -> None:
    assert [str(difference) for difference in compare(chat(sent), chat(read))] == differences


@given(st.text("abAB", max_size=12), st.text("abAB", max_size=12))
def test_no_difference_means_equal(sent: str, read: str) -> None:
    assert (compare(chat(sent), chat(read)) == []) == (sent == read)


def test_a_long_text_is_cut_in_the_report() -> None:
    (difference,) = compare([Spoken("Ann", 0, "x" * 10_000)], [])
    assert len(str(difference)) < 120


def test_the_summary_counts_all_differences_and_shows_the_first_ten() -> None:
    differences = compare(chat("a" * 30), [])
    lines = describe_outcome(Outcome(7, 30, 2.0, 0, differences)).splitlines()
    assert lines[:2] == [
        "sent 30 messages in 2.00 s (15/s), each durable before the next",
        "read back 0 from another device: 30 differences",
    ]
    assert len(lines) == 2 + 10 + 1
    assert lines[-1] == "  … and 20 more"
