"""Tokens for a node whose key lies on this machine: which users and devices, and the JWTs that say so.

Owns the ranges of ``parley token`` and the claims (``sub``: the user in decimal, ``dev``: the device, ``exp``). Knows
the data directory's key file and nothing else of the server. Invariant: a device id belongs to one user, whatever the
ranges.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import jwt

from parley.faults import CommandError, UsageError

LOCAL_KID = "local"
ALGORITHM = "HS256"
DEFAULT_TTL_S = 30 * 86_400
ID_LIMIT = 1 << 63
MAX_TOKENS = 1_000_000


class Identity(NamedTuple):
    user_id: int
    device_id: int


class Credential(NamedTuple):
    user_id: int
    device_id: int
    token: str


def parse_ids(text: str, what: str) -> range:
    """``7`` or ``7..12`` (both ends count) as a range of ids."""
    first, dots, last = text.partition("..")
    low = _parse_id(first, what)
    high = _parse_id(last, what) if dots else low
    if high < low:
        raise UsageError(f"{what} {text}: the range runs backwards, write {high}..{low}")
    return range(low, high + 1)


def parse_list(text: str, what: str) -> list[int]:
    """``3`` or ``3,4,9`` as ids, each once."""
    ids = [_parse_id(part, what) for part in text.split(",")]
    if len(set(ids)) != len(ids):
        raise UsageError(f"{what} {text}: an id is named twice")
    return ids


def _parse_id(text: str, what: str) -> int:
    digits = text.strip()
    if not digits.isascii() or not digits.isdigit() or not 1 <= int(digits[:20]) < ID_LIMIT:
        raise UsageError(f"{what} {text!r} is no id: give a number from 1 to 2^63 - 1")
    return int(digits)


def identities(users: range, devices: Sequence[int]) -> Iterator[Identity]:
    """Every device of every user. User number i of the range gets each device + i * span, span = max - min + 1 of the
    list: the lists of two users never meet.
    """
    span = max(devices) - min(devices) + 1
    if len(users) * len(devices) > MAX_TOKENS:
        raise UsageError(
            f"{len(users) * len(devices):,} tokens are more than {MAX_TOKENS:,}: make them in several ranges"
        )
    if max(devices) + (len(users) - 1) * span >= ID_LIMIT:
        raise UsageError("the last user's device ids would pass 2^63 - 1: begin with a smaller --device")
    for number, user_id in enumerate(users):
        for device_id in devices:
            yield Identity(user_id, device_id + number * span)


class Mint:
    """Signs tokens with one HS256 key, as a node's data directory has one."""

    def __init__(self, secret: bytes, *, kid: str = LOCAL_KID, ttl_s: int = DEFAULT_TTL_S) -> None:
        self._secret = secret
        self._kid = kid
        self._ttl_s = ttl_s

    @classmethod
    def of(cls, directory: Path, *, ttl_s: int = DEFAULT_TTL_S) -> Mint:
        """With the key that a node made in its data directory at its first start. CommandError: there is none to
        read.
        """
        path = directory / "auth.key"
        try:
            secret = path.read_bytes()
        except FileNotFoundError as error:
            raise CommandError(
                f"no key at {path}: start `parley serve` once, or name its directory with --data"
            ) from error
        except OSError as error:
            raise CommandError(
                f"cannot read {path}: {error.strerror}; run as the node's user, or use --token"
            ) from error
        return cls(secret, ttl_s=ttl_s)

    def sign(self, identity: Identity) -> Credential:
        return Credential(*identity, self.token(identity))

    def token(self, identity: Identity) -> str:
        claims = {"sub": str(identity.user_id), "dev": identity.device_id, "exp": int(time.time()) + self._ttl_s}
        return jwt.encode(claims, self._secret, algorithm=ALGORITHM, headers={"kid": self._kid})


def read_credentials(path: Path) -> list[Credential]:
    """A file of lines ``user device token``, as ``parley token`` prints them; blank lines and ``#`` comments are
    skipped.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f"cannot read {path}: {error}") from error
    return [_parse_credential(line, path, number) for number, line in enumerate(lines, 1) if line.split("#")[0].strip()]


def _parse_credential(line: str, path: Path, number: int) -> Credential:
    match line.split():
        case [user, device, token]:
            return Credential(_parse_id(user, "user"), _parse_id(device, "device"), token)
        case _:
            raise UsageError(f"{path}, line {number}: write `user device token`, as `parley token` prints it")
