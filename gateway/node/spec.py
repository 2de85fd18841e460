"""What the supervisor tells a worker, and how.

Owns the one line of JSON on the worker's stdin. Not on the command line: the configuration may hold secrets, and
command lines are public. The stream stays open afterwards: its end tells the worker that the supervisor is gone.
"""

from __future__ import annotations

import msgspec
from msgspec import Struct

from gateway.config import Config, ConfigError

MAX_SPEC_BYTES = 1 << 20


class WorkerSpec(Struct, frozen=True):
    config: Config
    worker_id: int
    """Unique in its cluster."""
    number: int
    """Among the workers of its node: 1 …"""
    incarnation: int
    """Of two lives of a worker id the later has the greater number, on one data directory for ever."""
    link_address: str
    """Path of the Unix socket that this worker's links listen on."""
    supervisor_address: str
    supervisor_incarnation: int
    host: str
    port: int
    """The clients' port: never 0. Bind it with SO_REUSEADDR and SO_REUSEPORT (``gateway.node.ports.bind``)."""
    workers: int
    """Of the node, this one included."""
    max_clients: int
    """This worker's share of ``serve.max_connections``."""


def encode_spec(spec: WorkerSpec) -> bytes:
    return msgspec.json.encode(spec) + b"\n"


def decode_spec(line: bytes) -> WorkerSpec:
    """Raises ConfigError: this program and the supervisor are not of one release, or nobody's supervisor started it."""
    try:
        return msgspec.json.decode(line, type=WorkerSpec)
    except msgspec.DecodeError as error:
        raise ConfigError(f"a worker is started by `parley serve` alone: {error}") from error
