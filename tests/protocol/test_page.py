"""docs/protocol.md tells what the code does: its fields, replies, errors, limits and bytes are compared with it."""

from __future__ import annotations

import pathlib
import re
from typing import TYPE_CHECKING

import pytest
from msgspec.structs import fields as fields_of

from gateway.config import Config
from gateway.protocol import frames, validation
from gateway.protocol.errors import Code, ends_connection
from gateway.protocol.messages import CLIENT_OPS, OK_FIELDS, SERVER_OPS, Kind, Op
from gateway.protocol.session import HELD_FRAMES
from storage.api import RESEND_DAYS
from tests.vectors.__main__ import with_examples

if TYPE_CHECKING:
    import msgspec

PAGE = (pathlib.Path(__file__).parents[2] / "docs" / "protocol.md").read_text(encoding="utf-8")
PROMISED_RESEND_DAYS = 7


def _section(op: Op) -> str:
    """The text under an op's heading."""
    match = re.search(rf"^### {op.value:02X} {op.name}\n(.*?)(?=^##)", PAGE, re.MULTILINE | re.DOTALL)
    assert match, f"no section for {op.name}"
    return match[1]


def _rows(text: str) -> list[list[str]]:
    """The cells of all tables in a text, without heads and rules."""
    lines = text.splitlines()
    rules = {number for number, line in enumerate(lines) if re.fullmatch(r"\|[-|]+\|", line)}
    heads = {number - 1 for number in rules}
    return [
        [cell.strip() for cell in line.strip("|").split(" | ")]
        for number, line in enumerate(lines)
        if line.startswith("|") and number not in rules | heads
    ]


def _written(type_: type[msgspec.Struct]) -> list[str]:
    return [field.name + ("" if field.required else "?") for field in fields_of(type_)]


def _under(heading: str) -> str:
    match = re.search(rf"^## \d+\. {heading}.*?\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert match
    return match[1]


def test_the_examples_are_the_vectors() -> None:
    assert with_examples(PAGE) == PAGE, "run python -m tests.vectors"


@pytest.mark.parametrize("op", Op)
def test_every_op_has_a_section_with_an_example_of_it(op: Op) -> None:
    examples = re.findall(rf"<!-- vector: \w+ {op.name}: .+ -->\n```text\n", _section(op))
    assert examples


@pytest.mark.parametrize("op", [op for op in Op if op is not Op.OK])
def test_a_sections_table_lists_the_fields_in_order(op: Op) -> None:
    type_ = (CLIENT_OPS | SERVER_OPS)[op]  # type: ignore[operator]
    assert [row[0].strip("`") for row in _rows(_section(op))] == _written(type_)


@pytest.mark.parametrize("op", list(OK_FIELDS))
def test_a_requests_section_names_the_fields_of_its_ok(op: Op) -> None:
    match = re.search(r"\*\*Reply[^.]*?OK([^.]*)", _section(op))
    assert match
    assert re.findall(r"`(\w+\??)`", match[1]) == _written(OK_FIELDS[op])


def test_the_error_table_is_that_of_the_code() -> None:
    rows = [row for row in _rows(_under("Errors")) if row[0].isdigit()]
    assert [(int(row[0]), row[1]) for row in rows] == [(code.value, code.name.lower()) for code in Code]
    assert {int(row[0]) for row in rows if row[2] == "yes"} == {code for code in Code if ends_connection(code)}


def test_the_table_of_kinds_is_that_of_the_code() -> None:
    rows = [row for row in _rows(_under("Sending")) if row[0].isdigit() and len(row) == 4]
    assert [int(row[0]) for row in rows] == list(Kind)


def test_the_limits_are_the_codes_constants_and_the_servers_defaults() -> None:
    limits = {row[0]: row[1] for row in _rows(_under("Limits"))}
    config = Config()
    expected = {
        "from connecting to the whole HELLO": f"{config.session.hello_timeout_s} s",
        "frame before WELCOME": f"{frames.MAX_FRAME_BEFORE_WELCOME:,} bytes",
        "frame after WELCOME": f"{config.session.max_frame_bytes:,} bytes (`max_frame`)",
        "body, or envelopes together": f"max_frame − {frames.BODY_MARGIN} bytes",
        "nesting": f"{frames.MAX_DEPTH}",
        "entries of a list or map": f"{validation.MAX_LIST:,}",
        "requests waiting (`window`)": f"{config.session.window_default}; at most {config.session.window_max}",
        "frames kept behind a refused HELLO": f"{HELD_FRAMES}",
        "keep-alive": f"{validation.KEEPALIVE_MIN_S} … {validation.KEEPALIVE_MAX_S:,} s, "
        f"{config.session.keepalive_default_s} by default",
        "life beyond the token's exp": f"{config.auth.leeway_s} s",
        "resume token": f"{validation.MAX_RESUME_TOKEN_BYTES} bytes",
        "outbox of a session": f"{config.outbox.session_bytes // 1024} KiB",
        "outbox that does not move at all": f"{config.session.stall_timeout_s} s",
        "HISTORY and CHAT_LIST limit": f"{validation.HISTORY_LIMIT}",
        "ids in one list of CHAT_CHANGE": f"{validation.MAX_CHANGE_IDS}",
        "members of a group": f"{config.chat.max_members:,}",
        "title": f"{validation.MAX_TITLE_BYTES} bytes of UTF-8",
        "client_msg_id is recognised": f"{PROMISED_RESEND_DAYS} days",
    }
    assert {name: limits[name] for name in expected} == expected
    assert validation.HISTORY_LIMIT == validation.CHAT_LIST_LIMIT
    assert RESEND_DAYS > PROMISED_RESEND_DAYS


def test_the_servers_range_of_keep_alive_is_within_the_protocols() -> None:
    session = Config().session
    assert (
        validation.KEEPALIVE_MIN_S <= session.keepalive_min_s <= session.keepalive_max_s <= validation.KEEPALIVE_MAX_S
    )


def test_links_within_the_page_lead_somewhere() -> None:
    headings = re.findall(r"^#+ (.+)$", PAGE, re.MULTILINE)
    anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    assert set(re.findall(r"\]\(#([^)]+)\)", PAGE)) <= anchors
