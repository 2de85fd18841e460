"""The keys that tokens and links are signed with, and the node's own secrets: files in, bytes out.

Owns how a key is found and how a secret is made. It must not know what a token or a handshake says. Invariant: a secret
made here is whole, random and readable by its owner alone before anybody can see it under its name; two processes that
start at once get the same one.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from pathlib import Path
from typing import NamedTuple

from gateway.config import AuthConfig, AuthKey, ClusterConfig, ConfigError

LOCAL_KID = "local"
LOCAL_KEY = "auth.key"
RESUME_KEY = "resume.key"

MIN_SECRET_BYTES = 32
"""HS256 wants a key at least as long as its hash (RFC 7518, 3.2)."""
MIN_LINK_SECRET_BYTES = 16


class VerificationKey(NamedTuple):
    """What a token of this kid must be signed with. ``material``: the HS256 secret, or the EdDSA public key in PEM."""

    kid: str
    algorithm: str
    material: bytes


def verification_keys(auth: AuthConfig, data: Path) -> tuple[VerificationKey, ...]:
    """The keys that the configuration names, or the data directory's own one. Raises ConfigError."""
    if auth.keys:
        return tuple(_read_key(key) for key in auth.keys)
    if "HS256" not in auth.algorithms:
        raise ConfigError("auth.keys: none is given, and the local key needs HS256 among auth.algorithms")
    return (VerificationKey(LOCAL_KID, "HS256", secret_of(data, LOCAL_KEY)),)


def resume_key(auth: AuthConfig, data: Path) -> bytes:
    """The key of resume tokens (32 bytes): the configuration's, which nodes share, or the data directory's own. It outlives
    restarts, so that sessions resume after them. Raises ConfigError."""
    shared = secret(auth.resume_secret, auth.resume_secret_file)
    if shared:
        _check_length(shared, MIN_SECRET_BYTES, "auth.resume_secret")
        return hashlib.blake2b(shared, digest_size=32, person=b"parley resume").digest()
    return bytes.fromhex(secret_of(data, RESUME_KEY).decode())


def link_secrets(cluster: ClusterConfig) -> list[tuple[str, bytes]]:
    """(id, secret) of each link key, in order. Raises ConfigError."""
    keys = [(key.id, secret(key.secret, key.secret_file)) for key in cluster.link_keys]
    for key_id, found in keys:
        _check_length(found, MIN_LINK_SECRET_BYTES, f"cluster.link_keys: the secret {key_id!r}")
    return keys


def secret(inline: str, file: str) -> bytes:
    """One that is given in the configuration or in a file; empty: in neither. Raises ConfigError."""
    if inline:
        return inline.encode()
    return _read(Path(file)).removesuffix(b"\n").removesuffix(b"\r") if file else b""


def _check_length(found: bytes, least: int, what: str) -> None:
    if len(found) < least:
        raise ConfigError(f"{what} has {len(found)} bytes, it needs {least}")


def secret_of(data: Path, name: str) -> bytes:
    """The secret in this file of the data directory, made if there is none: 32 random bytes in hexadecimal."""
    path = data / name
    with contextlib.suppress(FileExistsError):
        if not path.exists():
            _create(path, secrets.token_hex(MIN_SECRET_BYTES).encode())
    return _read(path)


def _create(path: Path, content: bytes) -> None:
    """All at once: written under another name, then linked, which fails if somebody was faster."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        os.link(draft, path)
    finally:
        draft.unlink()


def _read_key(key: AuthKey) -> VerificationKey:
    if key.public_key_file:
        return VerificationKey(key.kid, "EdDSA", _read(Path(key.public_key_file)))
    found = secret(key.secret, key.secret_file)
    if len(found) < MIN_SECRET_BYTES:
        raise ConfigError(
            f"auth.keys: the secret of kid {key.kid!r} has {len(found)} bytes, HS256 needs {MIN_SECRET_BYTES}"
        )
    return VerificationKey(key.kid, "HS256", found)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}: the node must be able to read this key") from error
