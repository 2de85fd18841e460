"""Write the vectors and the examples of docs/protocol.md: ``python -m tests.vectors``. Tests see stale ones."""

from __future__ import annotations

import json
import pathlib
import re
import textwrap
from typing import Any

from gateway.protocol.errors import Code
from gateway.protocol.messages import Op
from tests.vectors.cases import Skip, Vector
from tests.vectors.chat_cases import chat_vectors
from tests.vectors.meaning import to_meaning
from tests.vectors.message_cases import message_vectors
from tests.vectors.session_cases import framing_vectors, session_vectors

HERE = pathlib.Path(__file__).parent
PAGE = HERE.parent.parent / "docs" / "protocol.md"
HEX_COLUMNS = 96
_EXAMPLE = re.compile(r"<!-- vector: (\w+) (.+) -->\n(?:```text\n[^`]*```\n)?")


def all_vectors() -> dict[str, list[Vector]]:
    """By name of the file that they are kept in."""
    return {
        "framing.json": framing_vectors(),
        "session.json": session_vectors(),
        "messages.json": message_vectors(),
        "chats.json": chat_vectors(),
    }


def as_json(vector: Vector) -> dict[str, Any]:
    """The form in the files; docs/protocol.md describes it for authors of clients."""
    entry: dict[str, Any] = {
        "name": vector.name,
        "direction": vector.direction,
        "state": vector.state,
        "op": Op(vector.op).name if vector.op in set(Op) else vector.op,
        "rid": vector.rid,
        "flags": vector.flags,
    }
    if vector.answers is not None:
        entry["answers"] = vector.answers.name
    if isinstance(vector.outcome, Code):
        entry["error"] = vector.outcome.value
    elif isinstance(vector.outcome, Skip):
        entry["skip"] = True
    else:
        entry["canonical"] = vector.is_canonical
        entry["meaning"] = to_meaning(vector.outcome)
    return entry | {"bytes": vector.frame.hex()}


def render(vectors: list[Vector]) -> str:
    """One vector a line, so that a change of one is a change of a line."""
    return "[\n" + ",\n".join(json.dumps(as_json(vector), ensure_ascii=False) for vector in vectors) + "\n]\n"


def example(vector: Vector) -> str:
    """A vector as a person reads it: header, body, meaning."""
    header, body = vector.frame[:8].hex(), vector.frame[8:].hex()
    lines = [f"{header[:8]} {header[8:10]} {header[10:12]} {header[12:]}", *textwrap.wrap(body, HEX_COLUMNS)]
    meaning = as_json(vector)["meaning"]
    named = ", ".join(f"{name} {json.dumps(value, ensure_ascii=False)}" for name, value in meaning.items())
    return "\n".join([*lines, *textwrap.wrap(named, 116, break_long_words=False)])


def with_examples(page: str) -> str:
    """The page, with the block after every ``<!-- vector: direction name -->`` written anew."""
    vectors = {(v.direction, v.name): v for group in all_vectors().values() for v in group}

    def block(match: re.Match[str]) -> str:
        vector = vectors[match[1], match[2]]
        return f"<!-- vector: {match[1]} {match[2]} -->\n```text\n{example(vector)}\n```\n"

    return _EXAMPLE.sub(block, page)


def main() -> None:
    for name, vectors in all_vectors().items():
        (HERE / name).write_text(render(vectors), encoding="utf-8")
    PAGE.write_text(with_examples(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
