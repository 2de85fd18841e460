"""The command line as a process, and real exports fetched from a published package, checked by their hashes."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
COMMAND_TIMEOUT_S = 120.0

PACKAGE, VERSION = "whatstk", "0.9.1"
ARCHIVE = f"{PACKAGE}-{VERSION}.tar.gz"
ARCHIVE_SHA256 = "e6a93a3cc8687c13222022fadb9fc5c0830526e3c04d00d3d615449fd81f9d9d"
EXPORT_SHA256 = {
    "pokemon.txt": "f4dc25e8355d56be92e0409aef1449c4ac14413220918f31c34abffd5fbe7740",
    "lorem-2000.txt": "035d425c69153bc5d71cc339f9de9c1f713230dfb3aa9a43670460f5731d3938",
}

Parley = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def parley(tmp_path: Path) -> Parley:
    """Run ``parley`` with these arguments in an empty directory, to its end."""

    def run(*arguments: object, **options: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "parley.cli", *map(str, arguments)],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "100"},
            input=options.get("stdin", ""),
            check=False,
            capture_output=True,
            encoding="utf-8",
            timeout=COMMAND_TIMEOUT_S,
        )

    return run


@pytest.fixture(scope="session")
def real_export() -> Callable[[str], Path]:
    """A file of the published exports by its name. Skips without a network; fails then under PARLEY_NO_SKIP=1."""

    def find(name: str) -> Path:
        path = _cache() / name
        if not _has_hash(path, EXPORT_SHA256[name]):
            _unpack(_fetch(), name, path)
        return path

    return find


def _cache() -> Path:
    """Outside of the project, and kept from run to run: the archive is 18 MB."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    directory = base / "parley-tests"
    directory.mkdir(parents=True, exist_ok=True)
    return directory


def _fetch() -> Path:
    archive = _cache() / ARCHIVE
    if not _has_hash(archive, ARCHIVE_SHA256):
        # pip knows where packages come from on this machine. It also prepares the package's metadata, in an environment
        # of its own: a few seconds, once.
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        outcome = subprocess.run(
            [*command, "--no-binary", PACKAGE, "--dest", str(_cache()), f"{PACKAGE}=={VERSION}"],
            check=False,
            capture_output=True,
            encoding="utf-8",
            timeout=300,
        )
        if outcome.returncode != 0:
            _skip(f"{ARCHIVE} cannot be fetched: {outcome.stderr.strip()[-300:]}")
    assert _has_hash(archive, ARCHIVE_SHA256), f"{archive} is not the file that was published"
    return archive


def _unpack(archive: Path, name: str, path: Path) -> None:
    with tarfile.open(archive) as tar:
        member = tar.extractfile(f"{PACKAGE}-{VERSION}/chats/whatsapp/{name}")
        assert member is not None
        content = member.read()
    assert hashlib.sha256(content).hexdigest() == EXPORT_SHA256[name]
    draft = path.with_suffix(f".{os.getpid()}")
    draft.write_bytes(content)
    draft.replace(path)


def _has_hash(path: Path, expected: str) -> bool:
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == expected


def _skip(reason: str) -> None:
    if os.environ.get("PARLEY_NO_SKIP") == "1":
        pytest.fail(reason)
    pytest.skip(reason)
