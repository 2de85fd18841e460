"""Keys: the node's own, and those that a configuration names."""

from __future__ import annotations

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jwt
import pytest

from gateway.config import AuthConfig, AuthKey, ClusterConfig, ConfigError, LinkKeyConfig
from gateway.keyfiles import VerificationKey, link_secrets, resume_key, secret_of, verification_keys


def test_the_local_key_is_made_once_and_is_its_owners_alone(tmp_path: Path) -> None:
    [key] = verification_keys(AuthConfig(), tmp_path)
    assert (key.kid, key.algorithm) == ("local", "HS256")
    assert verification_keys(AuthConfig(), tmp_path) == (key,)
    assert stat.S_IMODE((tmp_path / "auth.key").stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["auth.key"]


def test_the_file_is_the_secret_byte_by_byte(tmp_path: Path) -> None:
    """Whoever signs reads the file as it is."""
    [key] = verification_keys(AuthConfig(), tmp_path)
    token = jwt.encode({"sub": "1"}, (tmp_path / "auth.key").read_bytes(), algorithm="HS256")
    assert jwt.decode(token, key.material, algorithms=["HS256"]) == {"sub": "1"}


def test_many_that_start_at_once_get_one_secret(tmp_path: Path) -> None:
    with ThreadPoolExecutor(16) as pool:
        secrets = set(pool.map(lambda _: secret_of(tmp_path, "auth.key"), range(64)))
    assert len(secrets) == 1
    assert len(secrets.pop()) == 64


def test_the_resume_key_outlives_a_restart_and_is_no_other_key(tmp_path: Path) -> None:
    assert resume_key(AuthConfig(), tmp_path) == resume_key(AuthConfig(), tmp_path)
    assert len(resume_key(AuthConfig(), tmp_path)) == 32
    assert resume_key(AuthConfig(), tmp_path).hex().encode() != secret_of(tmp_path, "auth.key")


def test_named_keys_replace_the_local_one(tmp_path: Path) -> None:
    secret = tmp_path / "shared.key"
    secret.write_bytes(b"0123456789abcdef0123456789abcdef\n")
    public = tmp_path / "public.pem"
    public.write_bytes(b"-----BEGIN PUBLIC KEY-----\n")
    keys = (
        AuthKey("inline", secret="another secret of thirty-two bytes"),
        AuthKey("file", secret_file=str(secret)),
        AuthKey("service", public_key_file=str(public)),
    )
    assert verification_keys(AuthConfig(keys=keys), tmp_path) == (
        VerificationKey("inline", "HS256", b"another secret of thirty-two bytes"),
        VerificationKey("file", "HS256", b"0123456789abcdef0123456789abcdef"),
        VerificationKey("service", "EdDSA", b"-----BEGIN PUBLIC KEY-----\n"),
    )
    assert not (tmp_path / "auth.key").exists()


@pytest.mark.parametrize(
    ("auth", "message"),
    [
        (AuthConfig(keys=(AuthKey("a", secret="short"),)), "the secret of kid 'a' has 5 bytes, HS256 needs 32"),
        (AuthConfig(keys=(AuthKey("a", secret_file="/nowhere/key"),)), "/nowhere/key: No such file or directory"),
        (AuthConfig(algorithms=("EdDSA",)), "the local key needs HS256"),
    ],
)
def test_an_unusable_key_is_one_line(tmp_path: Path, auth: AuthConfig, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        verification_keys(auth, tmp_path)


def test_a_shared_resume_secret_is_the_same_key_in_every_data_directory(tmp_path: Path) -> None:
    secret = "a secret that all nodes of a cluster have"
    file = tmp_path / "resume.key"
    file.write_text(secret + "\n")
    inline, of_file = AuthConfig(resume_secret=secret), AuthConfig(resume_secret_file=str(file))
    assert resume_key(inline, tmp_path / "one") == resume_key(of_file, tmp_path / "other")
    assert resume_key(inline, tmp_path / "one") != secret.encode()[:32]
    assert len(resume_key(inline, tmp_path)) == 32


def test_link_keys_come_in_the_order_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "link.key"
    file.write_text("0123456789abcdef\n")
    keys = (LinkKeyConfig("new", secret="another one of sixteen"), LinkKeyConfig("old", secret_file=str(file)))
    assert link_secrets(ClusterConfig(link_keys=keys)) == [
        ("new", b"another one of sixteen"),
        ("old", b"0123456789abcdef"),
    ]


def test_a_short_link_key_is_one_line() -> None:
    with pytest.raises(ConfigError, match="the secret 'a' has 5 bytes, it needs 16"):
        link_secrets(ClusterConfig(link_keys=(LinkKeyConfig("a", secret="short"),)))
