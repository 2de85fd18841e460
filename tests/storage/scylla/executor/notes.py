"""Tables of the tests' own, and the statements on them: what an executor does is not about chats."""

from __future__ import annotations

from storage.scylla.migrations import Migration
from storage.scylla.ports import Statement, Write

MIGRATIONS = [
    Migration(
        1,
        (
            """CREATE TABLE IF NOT EXISTS notes (book bigint, page int, number bigint, text text, mark blob,
               PRIMARY KEY ((book, page), number))""",
            "CREATE TABLE IF NOT EXISTS turns (game int, turn int, player text, PRIMARY KEY ((game), turn))",
        ),
    )
]

PUT_NOTE = Statement(
    "put_note",
    "INSERT INTO notes (book, page, number, text, mark) VALUES (?, ?, ?, ?, ?) USING TIMESTAMP ?",
    key=(0, 1),
)
ERASE_NOTES = Statement(
    "erase_notes",
    "DELETE FROM notes USING TIMESTAMP ? WHERE book = ? AND page = ? AND number > ? AND number < ?",
    key=(1, 2),
)
READ_PAGE = Statement("read_page", "SELECT number, text, mark FROM notes WHERE book = ? AND page = ?", key=(0, 1))
READ_PAGE_TOGETHER = Statement(
    "read_page_together", "SELECT number, text FROM notes WHERE book = ? AND page = ?", key=(0, 1), is_shared=True
)
CLAIM_TURN = Statement("claim_turn", "INSERT INTO turns (game, turn, player) VALUES (?, ?, ?) IF NOT EXISTS")
PASS_TURN = Statement("pass_turn", "UPDATE turns SET player = ? WHERE game = ? AND turn = ? IF player = ?", key=(1,))
READ_TURNS = Statement("read_turns", "SELECT turn, player FROM turns WHERE game = ?")

STATEMENTS = (PUT_NOTE, ERASE_NOTES, READ_PAGE, READ_PAGE_TOGETHER, CLAIM_TURN, PASS_TURN, READ_TURNS)


def put(book: int, number: int, text: str | None = "text", *, page: int = 0, timestamp: int = 1) -> Write:
    return Write(PUT_NOTE, (book, page, number, text, b"", timestamp))


def erase(book: int, after: int, before: int, *, timestamp: int) -> Write:
    return Write(ERASE_NOTES, (timestamp, book, 0, after, before))
