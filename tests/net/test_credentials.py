"""Tokens: which are believed, and what everything else is refused with."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import math
import time
from collections.abc import Mapping
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from gateway.net.credentials import Identity, ResumeTokens, TokenKey, TokenVerifier
from gateway.protocol.errors import Code, ProtocolError
from gateway.protocol.identifiers import DeviceId, SessionId, UserId

SECRET, OTHER_SECRET = bytes(range(32)), bytes(range(1, 33))
ED_KEY = Ed25519PrivateKey.from_private_bytes(b"\x07" * 32)
ED_PUBLIC = ED_KEY.public_key()
LATER = int(time.time()) + 3600

VERIFIER = TokenVerifier(
    {"local": TokenKey("HS256", SECRET), "service": TokenKey("EdDSA", ED_PUBLIC)}, ["HS256", "EdDSA"]
)


def claims(**changes: Any) -> dict[str, Any]:
    """Good ones, but for the changes; a claim set to ... is missing."""
    changed = {"sub": "42", "dev": 7, "exp": LATER, **changes}
    return {name: value for name, value in changed.items() if value is not ...}


def part(content: object) -> str:
    raw = content if isinstance(content, bytes) else json.dumps(content).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def token(
    body: Mapping[str, Any] | bytes | None = None, *, secret: bytes = SECRET, header: Mapping[str, Any] | None = None
) -> str:
    """HS256 by hand: PyJWT would refuse to make most of what has to be refused."""
    head = {"alg": "HS256", "kid": "local"} if header is None else header
    signed = f"{part(head)}.{part(claims() if body is None else body)}"
    return f"{signed}.{part(hmac.digest(secret, signed.encode(), hashlib.sha256))}"


def refusal(credential: str, verifier: TokenVerifier = VERIFIER) -> tuple[Code, object]:
    with pytest.raises(ProtocolError) as refused:
        verifier.verify(credential)
    return refused.value.code, refused.value.detail


def test_a_good_token_names_user_device_and_end() -> None:
    expected = Identity(UserId(42), DeviceId(7), LATER, SessionId(0))
    assert VERIFIER.verify(token()) == expected
    assert VERIFIER.verify(token(claims(iss="x", aud="y", extra=[1]))) == expected


def test_a_good_eddsa_token_is_believed() -> None:
    made = jwt.encode(claims(), ED_KEY, algorithm="EdDSA", headers={"kid": "service"})
    assert VERIFIER.verify(made) == Identity(UserId(42), DeviceId(7), LATER, SessionId(0))


@pytest.mark.parametrize(("user_id", "device_id"), [(1, 1), ((1 << 63) - 1, (1 << 63) - 1)])
def test_ids_may_be_as_large_as_the_protocols(user_id: int, device_id: int) -> None:
    identity = VERIFIER.verify(token(claims(sub=str(user_id), dev=device_id)))
    assert (identity.user_id, identity.device_id) == (user_id, device_id)


def test_an_expired_token_is_expired_and_only_if_it_is_ours() -> None:
    assert refusal(token(claims(exp=1))) == (Code.EXPIRED, "expired")
    assert refusal(token(claims(exp=1), secret=OTHER_SECRET)) == (Code.UNAUTHENTICATED, "bad_signature")


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ({"alg": "none", "kid": "local"}, "bad_token"),
        ({"alg": "HS512", "kid": "local"}, "bad_token"),
        ({"alg": "EdDSA", "kid": "local"}, "bad_token"),
        ({"alg": "HS256", "kid": "service"}, "bad_token"),
        ({"alg": "HS256", "kid": "nobody's"}, "unknown_key"),
        ({"alg": "HS256"}, "unknown_key"),
        ({"alg": "HS256", "kid": 5}, "unknown_key"),
        ({"alg": "HS256", "kid": None}, "unknown_key"),
        ({"alg": "HS256", "kid": ["local"]}, "unknown_key"),
        ({"kid": "local"}, "bad_token"),
        ({"alg": "HS256", "kid": "local", "crit": ["b64"], "b64": False}, "unknown_key"),
    ],
)
def test_a_header_does_not_choose_how_it_is_checked(header: dict[str, Any], reason: str) -> None:
    assert refusal(token(header=header)) == (Code.UNAUTHENTICATED, reason)


def test_an_unsigned_token_is_refused() -> None:
    unsigned = f"{part({'alg': 'none', 'kid': 'local'})}.{part(claims())}."
    assert refusal(unsigned) == (Code.UNAUTHENTICATED, "bad_token")


@pytest.mark.parametrize(
    "encoding", [(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo), (Encoding.Raw, PublicFormat.Raw)]
)
def test_the_public_key_of_a_kid_is_no_shared_secret(encoding: tuple[Encoding, PublicFormat]) -> None:
    forged = token(secret=ED_PUBLIC.public_bytes(*encoding), header={"alg": "HS256", "kid": "service"})
    assert refusal(forged)[0] == Code.UNAUTHENTICATED


def test_an_algorithm_that_is_not_listed_is_refused_though_there_is_a_key() -> None:
    only_eddsa = TokenVerifier({"local": TokenKey("HS256", SECRET)}, ["EdDSA"])
    assert refusal(token(), only_eddsa) == (Code.UNAUTHENTICATED, "unknown_key")


@pytest.mark.parametrize(
    "changes",
    [
        *({name: ...} for name in ("sub", "dev", "exp")),
        *(
            {"sub": sub}
            for sub in (42, "", "x", "-1", "+1", "4 2", "0", "0x1", "4.0", "٤٢", str(1 << 63), "9" * 400, None)
        ),
        *({"dev": dev} for dev in (True, "7", -7, 0, 1 << 63, 1 << 200, 7.0, None, [7])),
        *({"exp": exp} for exp in ("x", str(LATER), None, [LATER], 1 << 63, 1 << 70, 1e300, math.inf, math.nan)),
        {"nbf": LATER},
    ],
)
def test_claims_that_say_no_identity_are_refused(changes: dict[str, Any]) -> None:
    assert refusal(token(claims(**changes)))[0] == Code.UNAUTHENTICATED


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 2000, b'{"sub":' * 2000])
def test_a_signed_body_that_is_no_claims_is_refused(body: bytes) -> None:
    assert refusal(token(body))[0] == Code.UNAUTHENTICATED


@pytest.mark.parametrize("header", [b"", b"{", b"[]", b"null", b"\xff", b"[" * 3000, b'{"kid":' * 2000])
def test_a_header_that_is_none_is_refused(header: bytes) -> None:
    assert refusal(f"{part(header)}.{part(claims())}.{part(b'x')}") == (Code.UNAUTHENTICATED, "unknown_key")


@given(st.text(max_size=200))
def test_whatever_the_text_it_is_refused_with_a_code(text: str) -> None:
    assert refusal(text)[0] == Code.UNAUTHENTICATED


@given(st.integers(min_value=0), st.integers(min_value=1, max_value=255))
def test_a_token_with_any_byte_changed_is_refused(at: int, by: int) -> None:
    good = token()
    index = at % len(good)
    changed = good[:index] + chr((ord(good[index]) + by) % 256) + good[index + 1 :]
    if not _means_the_same(good, changed):
        assert refusal(changed)[0] in (Code.UNAUTHENTICATED, Code.EXPIRED)


def _means_the_same(one: str, other: str) -> bool:
    """The last letter of a part has bits that base64 does not use."""
    try:
        decoded = [
            [base64.urlsafe_b64decode(p + "=" * (-len(p) % 4)) for p in text.split(".")] for text in (one, other)
        ]
    except ValueError:
        return False
    return decoded[0] == decoded[1]


# ------------------------------------------------------------------------------------------- resume tokens

KEY, OTHER_KEY = b"k" * 32, b"o" * 32
IDENTITY = Identity(UserId(42), DeviceId(7), LATER, SessionId(0))


def resume_refusal(credential: bytes, now_s: float = 0.0, key: bytes = KEY) -> tuple[Code, object]:
    with pytest.raises(ProtocolError) as refused:
        ResumeTokens(key).verify(credential, now_s)
    return refused.value.code, refused.value.detail


def test_a_resume_token_says_whose_it_is_and_of_which_session() -> None:
    issued = ResumeTokens(KEY).issue(IDENTITY, SessionId(99))
    assert ResumeTokens(KEY).verify(issued, LATER - 1) == IDENTITY._replace(resumed_from=SessionId(99))
    assert len(issued) <= 256


def test_a_resume_token_lives_as_long_as_the_token_that_it_came_from() -> None:
    issued = ResumeTokens(KEY).issue(IDENTITY, SessionId(99))
    assert resume_refusal(issued, LATER) == (Code.RESUME_FAILED, "expired")


def test_a_resume_token_of_another_key_is_refused() -> None:
    issued = ResumeTokens(KEY).issue(IDENTITY, SessionId(99))
    assert resume_refusal(issued, key=OTHER_KEY) == (Code.RESUME_FAILED, "forged")


def test_a_resume_token_with_any_bit_changed_or_cut_or_longer_is_refused() -> None:
    issued = ResumeTokens(KEY).issue(IDENTITY, SessionId(99))
    bits = range(len(issued) * 8)
    changed = [issued[: b // 8] + bytes([issued[b // 8] ^ 1 << b % 8]) + issued[b // 8 + 1 :] for b in bits]
    for forged in (*changed, *(issued[:length] for length in range(len(issued))), issued + b"\0", b"\0" + issued):
        assert resume_refusal(forged) == (Code.RESUME_FAILED, "forged")


def test_the_largest_ids_fit_a_resume_token() -> None:
    top = (1 << 63) - 1
    identity = Identity(UserId(top), DeviceId(top), top, SessionId(0))
    issued = ResumeTokens(KEY).issue(identity, SessionId(top))
    assert ResumeTokens(KEY).verify(issued, 0.0) == identity._replace(resumed_from=SessionId(top))
