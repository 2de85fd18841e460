"""Token ranges, minting, and the token file."""

from __future__ import annotations

from pathlib import Path

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parley.faults import CommandError, UsageError
from parley.tokens import Credential, Identity, Mint, identities, parse_ids, parse_list, read_credentials

SECRET = bytes(range(32))

RANGES = [
    (range(7, 8), [1], [(7, 1)]),
    (range(7, 8), [5, 9], [(7, 5), (7, 9)]),
    (range(1, 4), [1], [(1, 1), (2, 2), (3, 3)]),
    (range(1, 3), [1, 2], [(1, 1), (1, 2), (2, 3), (2, 4)]),
    (range(1, 3), [1, 4], [(1, 1), (1, 4), (2, 5), (2, 8)]),
]


@pytest.mark.parametrize(("users", "devices", "expected"), RANGES)
def test_a_range_of_users_gets_devices_by_number(
    users: range, devices: list[int], expected: list[tuple[int, int]]
) -> None:
    assert list(identities(users, devices)) == expected


@given(st.integers(1, 50), st.lists(st.integers(1, 60), min_size=1, max_size=6, unique=True))
def test_no_two_users_ever_share_a_device(count: int, devices: list[int]) -> None:
    made = [identity.device_id for identity in identities(range(1, 1 + count), devices)]
    assert len(set(made)) == len(made)


@pytest.mark.parametrize(("text", "expected"), [("7", range(7, 8)), ("1..3", range(1, 4)), (" 2 .. 2 ", range(2, 3))])
def test_a_range_names_both_its_ends(text: str, expected: range) -> None:
    assert parse_ids(text, "--user") == expected


@pytest.mark.parametrize(
    "text", ["", "0", "-1", "x", "1..", "..3", "3..1", "1...3", "1.5", "٣", str(1 << 63), "9" * 5000]
)
def test_what_is_no_range_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError, match="--user"):
        parse_ids(text, "--user")


@pytest.mark.parametrize("text", ["", "1,", "1,1", "a,b", "0"])
def test_what_is_no_list_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError, match="--device"):
        parse_list(text, "--device")


@pytest.mark.parametrize(("users", "devices"), [(range(1, 2_000_000), [1]), (range(1, 3), [(1 << 63) - 1])])
def test_too_many_tokens_and_too_high_devices_are_refused(users: range, devices: list[int]) -> None:
    with pytest.raises(UsageError):
        list(identities(users, devices))


def test_a_token_carries_user_device_and_expiry_under_the_local_key() -> None:
    credential = Mint(SECRET, ttl_s=60).sign(Identity(12, 34))
    claims = jwt.decode(credential.token, SECRET, algorithms=["HS256"], options={"require": ["exp", "sub", "dev"]})
    assert (claims["sub"], claims["dev"]) == ("12", 34)
    assert jwt.get_unverified_header(credential.token) == {"alg": "HS256", "typ": "JWT", "kid": "local"}


def test_a_data_directory_without_a_key_says_to_start_the_node(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="start `parley serve` once"):
        Mint.of(tmp_path)


def test_a_token_file_is_read_as_it_was_printed(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    path.write_text("# made by hand\n1 2 aaa.bbb.ccc\n\n3 4 ddd.eee.fff\n")
    assert read_credentials(path) == [Credential(1, 2, "aaa.bbb.ccc"), Credential(3, 4, "ddd.eee.fff")]


@pytest.mark.parametrize("text", ["1 2\n", "1 2 a b\n", "x 2 a\n", "1 0 a\n"])
def test_a_malformed_token_line_is_named_by_its_number(tmp_path: Path, text: str) -> None:
    path = tmp_path / "tokens"
    path.write_text(text)
    with pytest.raises(UsageError):
        read_credentials(path)


def test_an_absent_token_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="No such file"):
        read_credentials(tmp_path / "absent")
