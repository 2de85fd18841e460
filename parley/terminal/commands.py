"""What a person types: a message, or a command that begins with a slash.

Pure. Invariant: every line is exactly one command, or a UsageError that says how to write it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TypeAlias

from parley.faults import UsageError
from parley.tokens import parse_ids

HELP = """\
/open USER          talk to a user
/open #N            the Nth chat of the list
/chats              the list of chats
/group TITLE: A, B  make a group of users
/add A, B           add users to this group
/who                who is in this chat
/leave              leave this group
/quit               leave Parley; so do Ctrl-D and Ctrl-C
//text              send a line that begins with a slash
PgUp PgDn scroll, Ctrl-N Ctrl-P change the chat, Alt-Enter breaks a line"""


@dataclass(frozen=True, slots=True)
class Say:
    text: str


@dataclass(frozen=True, slots=True)
class OpenUser:
    user_id: int


@dataclass(frozen=True, slots=True)
class OpenListed:
    """``number`` counts from 1."""

    number: int


@dataclass(frozen=True, slots=True)
class MakeGroup:
    title: str
    user_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class AddMembers:
    user_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Bare:
    """A command without arguments: help, who, chats, leave or quit."""

    word: str


Command: TypeAlias = Say | OpenUser | OpenListed | MakeGroup | AddMembers | Bare

BARE_WORDS = ("help", "who", "chats", "leave", "quit")
WORDS = ("open", "group", "add", *BARE_WORDS)


def parse(line: str) -> Command | None:
    """The command of a line; None for a blank one. UsageError: no such command, or not in this form."""
    if not line.strip():
        return None
    if not line.startswith("/"):
        return Say(line)
    if line.startswith("//"):
        return Say(line[1:])
    word, _, rest = line[1:].strip().partition(" ")
    rest = rest.strip()
    if word in BARE_WORDS:
        return Bare(word)
    match word:
        case "open":
            return _parse_open(rest)
        case "group":
            return parse_group(rest)
        case "add":
            return AddMembers(parse_users(rest, "/add A, B"))
        case _:
            raise UsageError(f"there is no /{word}: try /help, or // to send a line with a slash")


def _parse_open(rest: str) -> Command:
    if rest.startswith("#") and rest[1:].isascii() and rest[1:].isdigit():
        return OpenListed(int(rest[1:]))
    users = parse_users(rest, "/open USER or /open #N")
    if len(users) != 1:
        raise UsageError("write /open USER or /open #N")
    return OpenUser(users[0])


def parse_group(text: str) -> MakeGroup:
    """``TITLE: A, B``: the last colon ends the title."""
    title, colon, users = text.rpartition(":")
    if not colon or not title.strip():
        raise UsageError("write a group as TITLE: A, B (a title, a colon, user ids)")
    return MakeGroup(title.strip(), parse_users(users, "TITLE: A, B"))


def parse_users(text: str, form: str) -> tuple[int, ...]:
    """User ids between commas or spaces, ``3..9`` for many."""
    words = [word for word in re.split(r"[,\s]+", text) if word]
    if not words:
        raise UsageError(f"write {form}")
    return tuple(dict.fromkeys(user for word in words for user in parse_ids(word, "user")))
