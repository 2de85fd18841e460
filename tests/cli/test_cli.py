"""The command line from outside: one-line errors, exit codes, tokens, the configuration."""

from __future__ import annotations

import tomllib
from pathlib import Path

import jwt
import pytest

from tests.cli.conftest import Parley

KEY = b"0123456789abcdef0123456789abcdef"


@pytest.fixture
def key(tmp_path: Path) -> bytes:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "auth.key").write_bytes(KEY)
    return KEY


def test_the_version_is_printed(parley: Parley) -> None:
    outcome = parley("--version")
    assert (outcome.returncode, outcome.stderr) == (0, "")
    assert outcome.stdout.startswith("parley")


def test_tokens_of_a_range_are_a_line_each_and_verify(parley: Parley, key: bytes) -> None:
    outcome = parley("token", "--user", "5..6", "--device", "1,2", "--ttl", 60)
    assert outcome.returncode == 0, outcome.stderr
    lines = [line.split(" ") for line in outcome.stdout.splitlines()]
    assert [(user, device) for user, device, _ in lines] == [("5", "1"), ("5", "2"), ("6", "3"), ("6", "4")]
    for user, device, token in lines:
        claims = jwt.decode(token, key, algorithms=["HS256"])
        assert (claims["sub"], claims["dev"]) == (user, int(device))


def test_a_configurations_own_key_signs_its_tokens(parley: Parley, tmp_path: Path) -> None:
    secret = "s" * 40
    (tmp_path / "parley.toml").write_text(f'[[auth.keys]]\nkid = "mine"\nsecret = "{secret}"\n')
    outcome = parley("token", "--user", 5, "--device", 1, "--config", "parley.toml")
    assert outcome.returncode == 0, outcome.stderr
    token = outcome.stdout.split()[2]
    assert jwt.get_unverified_header(token)["kid"] == "mine"
    assert jwt.decode(token, secret, algorithms=["HS256"])["sub"] == "5"


def test_the_effective_configuration_is_printed_and_read_again(parley: Parley, tmp_path: Path) -> None:
    printed = parley("serve", "--check", "--port", 7123)
    assert (printed.returncode, printed.stderr) == (0, "")
    (tmp_path / "again.toml").write_text(printed.stdout)
    again = parley("serve", "--check", "--config", "again.toml")
    assert tomllib.loads(again.stdout) == tomllib.loads(printed.stdout)
    assert tomllib.loads(printed.stdout)["serve"]["port"] == 7123


FAULTS = [
    (("token", "--user", "x", "--device", "1"), 2, "--user"),
    (("token", "--user", "3..1", "--device", "1"), 2, "1..3"),
    (("token", "--user", "1", "--device", "1,1"), 2, "twice"),
    (("token", "--user", "1"), 2, "--device"),
    (("token", "--user", "1", "--device", "1"), 1, "parley serve"),
    (("token", "--user", "1", "--device", "1", "--data", "elsewhere"), 1, "elsewhere"),
    (("token", "--user", "1", "--device", "1", "--config", "absent.toml"), 2, "absent.toml"),
    (("serve", "--check", "--config", "absent.toml"), 2, "absent.toml"),
    (("serve", "--check", "--port", "99999"), 2, "port"),
    (("serve", "--nonsense"), 2, "--help"),
    (("nonsense",), 2, "--help"),
    (("chat",), 2, "--user"),
    (("chat", "--token", "t", "--user", "1"), 2, "--token"),
    (("chat", "--user", "1", "--peer", "2", "--chat", "3"), 2, "--peer"),
    (("chat", "--user", "1", "--group", "nobody"), 2, "TITLE"),
    (("chat", "--token", "t", "--port", "1"), 1, "parley serve"),
    (("replay",), 2, "'file'"),
    (("replay", "absent.txt"), 1, "No such file"),
    (("replay", "data"), 1, "data"),
    (("replay", "notes.txt"), 1, "Export chat"),
    (("replay", "chat.txt"), 1, "auth.key"),
    (("replay", "chat.txt", "--token-file", "absent"), 1, "absent"),
    (("replay", "chat.txt", "--speed", "-1"), 2, "speed"),
]


@pytest.mark.parametrize(("arguments", "code", "mend"), FAULTS, ids=[" ".join(case[0]) for case in FAULTS])
def test_a_fault_is_one_line_that_says_the_mend(
    parley: Parley, tmp_path: Path, arguments: tuple[str, ...], code: int, mend: str
) -> None:
    (tmp_path / "notes.txt").write_text("dear diary\n")
    (tmp_path / "chat.txt").write_text("31.12.20, 21:41 - Ann: hi\n")
    outcome = parley(*arguments)
    assert outcome.returncode == code, outcome.stderr
    assert outcome.stdout == ""
    assert outcome.stderr.startswith("parley: ")
    assert outcome.stderr.count("\n") == 1
    assert mend in outcome.stderr


def test_a_replay_without_a_node_says_to_start_one(parley: Parley, tmp_path: Path, key: bytes) -> None:
    (tmp_path / "chat.txt").write_text("31.12.20, 21:41 - Ann: hi\n")
    outcome = parley("replay", "chat.txt", "--port", 1)
    assert outcome.returncode == 1
    assert outcome.stderr.count("\n") == 1
    assert "parley serve" in outcome.stderr
