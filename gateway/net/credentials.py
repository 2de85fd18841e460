"""Who is it? Tokens of the identity service (JWT), and our own resume tokens.

Owns verification and nothing else: no connection, no session. Invariants: an algorithm is accepted only if the
configuration lists it *and* the key named by ``kid`` is of it, so a token cannot choose how it is checked; the signature
is checked before anything in the token is believed.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jwt

from gateway.protocol.errors import Code, ProtocolError
from gateway.protocol.identifiers import ID_LIMIT, DeviceId, SessionId, UserId

MAX_HEADERS = 64


class Identity(NamedTuple):
    user_id: UserId
    device_id: DeviceId
    expires_s: int
    """Unix time."""
    resumed_from: SessionId
    """The session whose resume token it was; 0: a JWT."""


class TokenKey(NamedTuple):
    algorithm: str
    key: Any
    """HS256: the secret's bytes; EdDSA: an Ed25519 public key as PyJWT takes it."""


class TokenVerifier:
    """Checks JWTs: ``sub`` (user id in decimal), ``dev`` (device id), ``exp``; other claims are ignored."""

    def __init__(self, keys: Mapping[str, TokenKey], algorithms: Sequence[str]) -> None:
        self._keys = {kid: key for kid, key in keys.items() if key.algorithm in algorithms}
        self._by_header: dict[str, TokenKey] = {}
        """Tokens of one issuer share their first segment: it is parsed once, not for every connection (20 us)."""
        self._decoder = jwt.PyJWT({"require": ["exp", "sub", "dev"], "verify_aud": False, "verify_iss": False})

    def verify(self, token: str) -> Identity:
        """Raises ProtocolError: EXPIRED, or UNAUTHENTICATED with the reason as ``detail``."""
        header = token.partition(".")[0]
        key = self._by_header.get(header) or self._find_key(token, header)
        try:
            claims = self._decoder.decode(token, key.key, algorithms=[key.algorithm])
        except jwt.ExpiredSignatureError:
            raise ProtocolError(Code.EXPIRED, "the token has expired", detail="expired") from None
        except jwt.InvalidSignatureError:
            raise _refused("bad_signature", "the token's signature is wrong") from None
        except jwt.InvalidTokenError as error:
            raise _refused("bad_token", f"not a usable token: {error}") from None
        return Identity(*_ids(claims), _expires_s(claims), SessionId(0))

    def _find_key(self, token: str, header: str) -> TokenKey:
        try:
            key = self._keys[jwt.get_unverified_header(token)["kid"]]
        except (jwt.InvalidTokenError, KeyError, TypeError):
            raise _refused("unknown_key", "the token names no key that is accepted here") from None
        if len(self._by_header) >= MAX_HEADERS:
            self._by_header.clear()
        self._by_header[header] = key
        return key


def _ids(claims: Mapping[str, Any]) -> tuple[UserId, DeviceId]:
    sub, dev = claims["sub"], claims["dev"]
    if not (isinstance(sub, str) and sub.isascii() and sub.isdecimal() and type(dev) is int):
        raise _refused("bad_claims", "sub must be a user id in decimal, dev a device id")
    user_id = int(sub) if len(sub) < 20 else ID_LIMIT
    if not (0 < user_id < ID_LIMIT and 0 < dev < ID_LIMIT):
        raise _refused("bad_claims", "an id of the token is out of range")
    return UserId(user_id), DeviceId(dev)


def _expires_s(claims: Mapping[str, Any]) -> int:
    expires_s = claims["exp"]
    if not isinstance(expires_s, (int, float)) or expires_s >= ID_LIMIT:
        raise _refused("bad_claims", "exp must be a time in seconds")
    return int(expires_s)


def _refused(reason: str, message: str) -> ProtocolError:
    return ProtocolError(Code.UNAUTHENTICATED, message, detail=reason)


class ResumeTokens:
    """Opaque, stateless, ours: ``user u64 | device u64 | session u64 | expires u64 | keyed BLAKE2b-256``.

    All workers share the key; a new key ends all tokens, and clients fall back to their JWT (RESUME_FAILED). Which of a
    device's tokens are outdated is the directory's knowledge.
    """

    _FIELDS = struct.Struct(">QQQQ")
    _MAC_BYTES = 32

    def __init__(self, key: bytes) -> None:
        """``key``: 16 to 64 bytes."""
        self._key = key

    def issue(self, identity: Identity, session_id: SessionId) -> bytes:
        fields = self._FIELDS.pack(identity.user_id, identity.device_id, session_id, identity.expires_s)
        return fields + self._mac(fields)

    def verify(self, token: bytes, now_s: float) -> Identity:
        """Raises ProtocolError(RESUME_FAILED): forged, of another key, or past the JWT that it came from."""
        fields, mac = token[: self._FIELDS.size], token[self._FIELDS.size :]
        if len(token) != self._FIELDS.size + self._MAC_BYTES or not hmac.compare_digest(mac, self._mac(fields)):
            raise ProtocolError(Code.RESUME_FAILED, "not a resume token of ours", detail="forged")
        user_id, device_id, session_id, expires_s = self._FIELDS.unpack(fields)
        if expires_s <= now_s:
            raise ProtocolError(Code.RESUME_FAILED, "the resume token has expired", detail="expired")
        return Identity(UserId(user_id), DeviceId(device_id), expires_s, SessionId(session_id))

    def _mac(self, fields: bytes) -> bytes:
        return hashlib.blake2b(fields, key=self._key, digest_size=self._MAC_BYTES, person=b"parley-resume").digest()
