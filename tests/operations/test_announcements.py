"""What a node says when it is ready, and its log."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator

import pytest
import structlog

from gateway import logs
from gateway.node.banner import Ready, banner

READY = Ready("127.0.0.1", 7800, "127.0.0.1", 7880, 2, "data")


@pytest.fixture(autouse=True)
def _logging() -> Iterator[None]:
    yield
    structlog.reset_defaults()


def test_the_banner_names_the_addresses_and_two_commands_to_try() -> None:
    text = banner(READY, "parley")
    assert "127.0.0.1:7800 (2 workers" in text
    assert "http://127.0.0.1:7880/metrics" in text
    assert "  parley chat --user 1 --peer 2\n  parley chat --user 2 --peer 1\n" in text


def test_commands_carry_what_is_not_the_default() -> None:
    text = banner(READY._replace(host="0.0.0.0", port=7999, data="/srv/x", workers=1), ".venv/bin/parley")
    assert "0.0.0.0:7999 (1 worker," in text
    assert "  .venv/bin/parley chat --user 1 --peer 2 --host 127.0.0.1 --port 7999 --data /srv/x\n" in text


def test_a_log_line_is_one_line_of_json_with_who_speaks() -> None:
    stream = io.StringIO()
    logs.configure("info", stream, worker=3)
    log = structlog.get_logger("any")
    log.debug("unseen")
    log.warning("disk_full", code=501, path="a\nb")
    try:
        raise ValueError("a\nb")
    except ValueError:
        log.exception("bug")
    first, second = (json.loads(line) for line in stream.getvalue().splitlines())
    assert (first["event"], first["level"], first["worker"], first["code"]) == ("disk_full", "warning", 3, 501)
    assert "ValueError" in second["exception"]
