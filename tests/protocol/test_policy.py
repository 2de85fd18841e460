"""What a client does after an error, code by code."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.protocol.errors import ENDS_CONNECTION, Code, ends_connection
from gateway.protocol.policy import (
    AfterEnd,
    AfterError,
    after_end,
    after_error,
    backoff_ceiling_s,
    backoff_s,
    goaway_wait_s,
    retry_wait_s,
)

OLD = 3600.0


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (Code.NORMAL, AfterEnd.RECONNECT),
        (Code.MALFORMED, AfterEnd.RECONNECT),
        (Code.TOO_LARGE, AfterEnd.RECONNECT),
        (Code.NOT_READY, AfterEnd.RECONNECT),
        (Code.UNSUPPORTED_VERSION, AfterEnd.STAY_AWAY),
        (Code.UNAUTHENTICATED, AfterEnd.RENEW_TOKEN),
        (Code.EXPIRED, AfterEnd.RENEW_TOKEN),
        (Code.REVOKED, AfterEnd.SIGN_OUT),
        (Code.REPLACED, AfterEnd.WAIT_FOR_USER),
        (Code.OVERLOADED, AfterEnd.RECONNECT),
        (Code.SLOW_CONSUMER, AfterEnd.RECONNECT),
        (Code.INTERNAL, AfterEnd.RECONNECT),
        (Code.UNAVAILABLE, AfterEnd.RECONNECT),
        (Code.MOVED, AfterEnd.RECONNECT),
        (Code.TIMED_OUT, AfterEnd.RECONNECT),
        (199, AfterEnd.RECONNECT),
        (299, AfterEnd.RENEW_TOKEN),
        (799, AfterEnd.RECONNECT),
    ],
)
def test_what_follows_the_end_of_a_connection(code: int, expected: AfterEnd) -> None:
    assert after_end(code, token_age_s=OLD) is expected


@pytest.mark.parametrize("code", [Code.MALFORMED, Code.TOO_LARGE, Code.NOT_READY, 199])
def test_two_protocol_ends_running_keep_a_client_away(code: int) -> None:
    assert after_end(code, protocol_ends=1) is AfterEnd.RECONNECT
    assert after_end(code, protocol_ends=2) is AfterEnd.STAY_AWAY


@pytest.mark.parametrize("code", [Code.UNAUTHENTICATED, Code.EXPIRED, 299])
def test_a_token_under_a_minute_old_is_replaced_only_after_the_back_off(code: int) -> None:
    assert after_end(code, token_age_s=59.9) is AfterEnd.RENEW_TOKEN_LATER
    assert after_end(code, token_age_s=60.0) is AfterEnd.RENEW_TOKEN


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (Code.UNKNOWN_OP, AfterError.DROP),
        (Code.UNAUTHENTICATED, AfterError.RENEW_TOKEN),
        (Code.EXPIRED, AfterError.RENEW_TOKEN),
        (Code.RESUME_FAILED, AfterError.GREET_WITH_JWT),
        *((code, AfterError.SHOW) for code in Code if code // 100 == 3),
        (Code.RATE_LIMITED, AfterError.WAIT),
        (Code.OVERLOADED, AfterError.WAIT),
        (Code.QUOTA, AfterError.SHOW),
        *((code, AfterError.RESEND) for code in Code if code // 100 == 5),
        (199, AfterError.DROP),
        (399, AfterError.SHOW),
        (499, AfterError.WAIT),
        (599, AfterError.RESEND),
        (700, AfterError.RESEND),
    ],
)
def test_what_follows_a_refused_request(code: int, expected: AfterError) -> None:
    assert after_error(code) is expected


def test_a_quota_that_names_a_time_is_waited_for() -> None:
    assert after_error(Code.QUOTA, retry_after_ms=0) is AfterError.WAIT


@pytest.mark.parametrize("code", Code)
def test_a_code_ends_the_connection_or_not(code: Code) -> None:
    ending = {100, 101, 103, 104, 200, 201, 202, 203, 402}
    assert ends_connection(code) == (code in ending) == (code in ENDS_CONNECTION)


@pytest.mark.parametrize("code", [Code.UNAUTHENTICATED, Code.EXPIRED, Code.REVOKED, 299])
def test_a_failed_reauth_does_not_end_the_connection(code: int) -> None:
    assert ends_connection(code)
    assert not ends_connection(code, is_reauth_reply=True)


@pytest.mark.parametrize("code", [Code.MALFORMED, Code.SLOW_CONSUMER])
def test_a_fault_of_framing_ends_the_connection_whatever_it_answers(code: Code) -> None:
    assert ends_connection(code, is_reauth_reply=True)


@pytest.mark.parametrize(
    ("failures", "ceiling_s"), [(0, 1), (1, 2), (2, 4), (8, 256), (9, 300), (100, 300), (10_000, 300)]
)
def test_the_back_off_doubles_up_to_five_minutes(failures: int, ceiling_s: float) -> None:
    assert backoff_ceiling_s(failures) == ceiling_s


@given(st.integers(0, 40), st.integers(0, 1000), st.none() | st.integers(0, 10_000))
def test_the_back_off_is_anywhere_below_its_ceiling_after_what_the_server_asked(
    failures: int, seed: int, retry_after_ms: int | None
) -> None:
    wait_s = backoff_s(failures, random.Random(seed).uniform, retry_after_ms=retry_after_ms)
    floor_s = (retry_after_ms or 0) / 1000
    assert floor_s <= wait_s <= floor_s + backoff_ceiling_s(failures)


def test_the_back_off_uses_the_whole_range() -> None:
    asked: list[tuple[float, float]] = []

    def uniform(low: float, high: float) -> float:
        asked.append((low, high))
        return high

    assert backoff_s(3, uniform) == 8
    assert asked == [(0, 8)]


def test_a_retry_waits_what_the_server_said_or_doubles_from_a_second() -> None:
    assert retry_wait_s(1500, 5) == 1.5
    assert [retry_wait_s(None, attempt) for attempt in (0, 1, 2, 30)] == [1, 2, 4, 300]


def test_a_client_moves_at_a_random_moment_of_goaways_range() -> None:
    assert goaway_wait_s(1000, 3000, lambda low, high: (low + high) / 2) == 2
