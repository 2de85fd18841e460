"""What servers this machine has for the tests, and how it gets those that it lacks.

``make servers`` runs this module; the fixtures only look. Owns ``build/servers``: jars, a binary, and for each thing that
could not be had a file with the reason. Invariant: what has its final name there is whole (made beside it, then renamed), so
two runs at the same time can do no harm; a lock only saves the second one the work. Every step has a time limit.
Nothing is installed into the system, except by apt where we are root anyway and only of the binary, no service.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
FOLDER = HERE.parent.parent / "build" / "servers"

JAVA_MAJOR = 17
"""Cassandra 5.0 runs on 11 and 17; the options in cassandra_settings.py are those of 17."""

TOXIPROXY = "github.com/Shopify/toxiproxy/v2/cmd/server@v2.5.0"
REDIS_MAJOR_MIN = 6
"""The first with RESP3 and client tracking."""

NETWORK_TOOLS: Mapping[str, str] = {"ip": "iproute2", "iptables": "iptables"}
"""Command and package."""

STEP_TIMEOUT_S = 300.0
RETRY_AFTER_S = 3600.0
"""A server that could not be had is not tried again by ``make test`` for this long; by ``make servers`` it is."""


class ServerMissing(Exception):
    """One line: what is missing, why, and what would help."""


class Cassandra(NamedTuple):
    """A Java to run it with and a folder of its jars."""

    java: Path
    jars: Path


def find_cassandra() -> Cassandra:
    """Raises ServerMissing."""
    java, jars = _find_java(), _jars()
    if not jars.is_dir():
        raise ServerMissing(f"Cassandra's jars are not there{_reason('cassandra')}")
    return Cassandra(java, jars)


def find_redis() -> Path:
    """The binary of redis-server. Raises ServerMissing."""
    for candidate in (shutil.which("redis-server"), FOLDER / "redis-server"):
        if candidate and os.access(candidate, os.X_OK):
            return _checked_redis(Path(candidate))
    raise ServerMissing(f"redis-server is not there{_reason('redis')}")


def find_toxiproxy() -> Path:
    """The binary of the proxy's server. Raises ServerMissing."""
    binary = FOLDER / f"toxiproxy-{TOXIPROXY.rpartition('@')[2]}"
    if not binary.exists():
        raise ServerMissing(f"toxiproxy is not there{_reason('toxiproxy')}")
    return binary


def find_network() -> Path:
    """The tools for network namespaces with packet filters: where ``ip`` is. Raises ServerMissing."""
    if os.geteuid() != 0:
        raise ServerMissing("not root: a network of its own is made by root alone")
    for name in NETWORK_TOOLS:
        if shutil.which(name) is None:
            raise ServerMissing(f"{name} is not there{_reason('network')}")
    return Path(_tool("ip", "install iproute2"))


def _find_java() -> Path:
    homes = [Path(os.environ["JAVA_HOME"])] if "JAVA_HOME" in os.environ else []
    homes += sorted(Path("/usr/lib/jvm").glob(f"*-{JAVA_MAJOR}-*"))
    on_path = shutil.which("java")
    found = "no java"
    for java in [*(home / "bin" / "java" for home in homes), *([Path(on_path)] if on_path else [])]:
        if java.exists():
            found = _output([str(java), "-version"]).partition("\n")[0]
            if re.search(rf'version "{JAVA_MAJOR}[."]', found):
                return java
    raise ServerMissing(f"Cassandra needs Java {JAVA_MAJOR}, here is {found}: install it, or set JAVA_HOME")


def _jars() -> Path:
    """Named after the POM's contents: another version is another folder."""
    return FOLDER / f"cassandra-{hashlib.sha256((HERE / 'pom.xml').read_bytes()).hexdigest()[:12]}"


def _checked_redis(binary: Path) -> Path:
    said = _output([str(binary), "--version"])
    version = re.search(r"v=(\d+)", said)
    if version is None or int(version[1]) < REDIS_MAJOR_MIN:
        raise ServerMissing(f"{binary} is too old or does not run, {REDIS_MAJOR_MIN} is needed: {said.strip()[:80]}")
    return binary


def _output(command: Sequence[str]) -> str:
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        ended = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, timeout=30
        )
        return ended.stdout
    return "it does not run"


def _reason(name: str) -> str:
    """Why the last try failed, if there was one."""
    with contextlib.suppress(OSError):
        return f": {(FOLDER / f'{name}.missing').read_text().strip()}"
    return ": `make servers` gets it"


def get_cassandra() -> None:
    """By Maven, pinned by pom.xml: 100 jars, 66 MB."""
    _find_java()
    maven = _tool("mvn", "install Maven")
    with tempfile.TemporaryDirectory(dir=FOLDER, prefix=".jars-") as folder:
        goal = ["dependency:copy-dependencies", "-DincludeScope=runtime", f"-DoutputDirectory={folder}/jars"]
        _run([maven, "--batch-mode", "--quiet", "--file", str(HERE / "pom.xml"), *goal])
        os.rename(f"{folder}/jars", _jars())


def get_toxiproxy() -> None:
    """Built by Go from the module proxy."""
    go = _tool("go", "install Go")
    with tempfile.TemporaryDirectory(dir=FOLDER, prefix=".go-") as folder:
        _run([go, "install", TOXIPROXY], {"GOBIN": folder, "GOTOOLCHAIN": "local", "GOFLAGS": ""})
        os.rename(f"{folder}/server", FOLDER / f"toxiproxy-{TOXIPROXY.rpartition('@')[2]}")


def get_redis() -> None:
    """By apt, of Debian's and Ubuntu's redis-tools.

    That package has the server's binary, named redis-check-rdb: it is one program that looks at its name. The package
    redis-server adds the link and a service, which on a machine with systemd it would start.
    """
    advice = "install redis-server"
    _install(["redis-tools"], advice)
    binary = shutil.which("redis-check-rdb")
    if binary is None:
        raise ServerMissing(f"redis-tools has no redis-check-rdb here: {advice}")
    with tempfile.TemporaryDirectory(dir=FOLDER, prefix=".redis-") as folder:
        os.symlink(binary, f"{folder}/redis-server")
        os.rename(f"{folder}/redis-server", FOLDER / "redis-server")


def get_network() -> None:
    """By apt: commands alone, no service."""
    packages = list(NETWORK_TOOLS.values())
    _install(packages, f"install {' and '.join(packages)}")


def _install(packages: Sequence[str], advice: str) -> None:
    if os.geteuid() != 0:
        raise ServerMissing(f"not root, so apt is left alone: {advice}")
    apt = _tool("apt-get", advice)
    install = [apt, "install", "--yes", "--no-install-recommends", "-o", "DPkg::Lock::Timeout=120", *packages]
    quiet = {"DEBIAN_FRONTEND": "noninteractive"}
    try:
        _run(install, quiet)
    except ServerMissing:  # a fresh machine has no lists of packages
        _run([apt, "update"], quiet)
        _run(install, quiet)


def _tool(name: str, advice: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise ServerMissing(f"there is no {name} to get it with: {advice}")
    return found


def _run(command: Sequence[str], environment: Mapping[str, str] = {}) -> None:
    """Raises ServerMissing with the last line that says something; the whole group of a step that takes too long is ended."""
    process = subprocess.Popen(
        command,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=STEP_TIMEOUT_S)
    except BaseException as error:  # an interrupt, too, must leave no step behind
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, 9)
        process.wait()
        if isinstance(error, subprocess.TimeoutExpired):
            raise ServerMissing(f"{' '.join(command[:3])} took longer than {STEP_TIMEOUT_S:.0f} s") from error
        raise
    if process.returncode:
        lines = [line.strip() for line in output.splitlines() if line.strip()]
        errors = [line for line in lines if "error" in line.lower()] or lines[-1:] or ["it said nothing"]
        raise ServerMissing(f"{' '.join(command[:3])} failed: {errors[0][:200]}")


class Server(NamedTuple):
    find: Callable[[], object]
    get: Callable[[], None]
    skipped: str


SERVERS: dict[str, Server] = {
    "cassandra": Server(find_cassandra, get_cassandra, "tests of the store on Cassandra"),
    "redis": Server(find_redis, get_redis, "tests of the directory on Redis"),
    "toxiproxy": Server(find_toxiproxy, get_toxiproxy, "tests of broken connections"),
    "network": Server(find_network, get_network, "tests of cut cables"),
}


def provide(name: str, *, is_patient: bool) -> str:
    """Get it if it is not there; empty, or the reason why it is not. ``is_patient``: try even if it just failed."""
    server, missing = SERVERS[name], FOLDER / f"{name}.missing"
    with contextlib.suppress(ServerMissing):
        server.find()
        missing.unlink(missing_ok=True)
        return ""
    has_just_failed = missing.exists() and time.time() - missing.stat().st_mtime < RETRY_AFTER_S
    try:
        if is_patient or not has_just_failed:
            print(f"getting {name}", flush=True)
            missing.unlink(missing_ok=True)
            server.get()
        server.find()
    except ServerMissing as error:
        if not missing.exists():
            missing.write_text(str(error))
        return str(error)
    return ""


@contextlib.contextmanager
def _locked() -> Iterator[None]:
    FOLDER.mkdir(parents=True, exist_ok=True)
    with (FOLDER / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def main(arguments: Sequence[str]) -> int:
    """1: a server is missing where nothing may be skipped; not if ``--quick``, the tests themselves fail after that."""
    parser = argparse.ArgumentParser(description="get the servers that the tests run on")
    parser.add_argument(
        "--quick", action="store_true", help="say nothing of what is there; do not try again what failed"
    )
    is_quick = parser.parse_args(arguments).quick
    with _locked():
        reasons = {name: provide(name, is_patient=not is_quick) for name in SERVERS}
    may_skip = os.environ.get("PARLEY_NO_SKIP") != "1"
    lost = "are skipped" if may_skip else "will fail"
    for name, reason in reasons.items():
        if reason:
            print(f"{name:<10} missing, {SERVERS[name].skipped} {lost}: {reason}")
        elif not is_quick:
            print(f"{name:<10} is there")
    return int(any(reasons.values()) and not may_skip and not is_quick)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
