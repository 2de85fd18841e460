"""As much of the CQL binary protocol (version 4) as it takes to ask a node whether it answers.

Must not become a driver: one connection and one request at a time, no types, no pages. It is here because a driver starts
threads, finds other nodes and retries, when the question is whether *this* node answers *now*.
Source: Apache Cassandra, doc/native_protocol_v4.spec.
"""

from __future__ import annotations

import socket
import struct

STARTUP, READY, QUERY, RESULT = 0x01, 0x02, 0x07, 0x08
ONE, QUORUM, ALL = 0x0001, 0x0004, 0x0005
"""Consistency levels."""


class QueryFailed(Exception):
    """The node refused, or did not answer in time."""


def query(host: str, port: int, statement: str, consistency: int = ONE, timeout_s: float = 10.0) -> bytes:
    """The undecoded body of the result: enough to look for a value in it. Raises QueryFailed."""
    try:
        with socket.create_connection((host, port), timeout_s) as connection:
            version = _string(b"CQL_VERSION") + _string(b"3.0.0")
            _ask(connection, STARTUP, struct.pack("!H", 1) + version, READY)
            text = statement.encode()
            return _ask(
                connection, QUERY, struct.pack("!I", len(text)) + text + struct.pack("!HB", consistency, 0), RESULT
            )
    except OSError as error:
        raise QueryFailed(f"{host}:{port}: {error}") from error


def _string(text: bytes) -> bytes:
    return struct.pack("!H", len(text)) + text


def _ask(connection: socket.socket, opcode: int, body: bytes, expected: int) -> bytes:
    connection.sendall(struct.pack("!BBhBI", 4, 0, 0, opcode, len(body)) + body)
    _, _, _, answered, size = struct.unpack("!BBhBI", _read(connection, 9))
    answer = _read(connection, size)
    if answered != expected:
        raise QueryFailed(answer[4:].decode(errors="replace"))
    return answer


def _read(connection: socket.socket, size: int) -> bytes:
    received = b""
    while len(received) < size:
        chunk = connection.recv(size - len(received))
        if not chunk:
            raise QueryFailed("the node closed the connection")
        received += chunk
    return received
