"""A supervisor in this process, over stand-in workers that are real processes."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import trio

from gateway.config import Config, ServeConfig
from gateway.node.lock import DirectoryLock
from gateway.node.ports import listen_alone, reserve
from gateway.supervisor import Supervisor

PATIENCE_S = 30.0


class Reports:
    """What the stand-in workers of a test say, in the order of their saying."""

    def __init__(self, directory: Path) -> None:
        self.path = str(directory / "reports")
        self._socket = trio.socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)

    async def open(self) -> None:
        await self._socket.bind(self.path)

    async def next(self) -> dict[str, Any]:
        with trio.fail_after(PATIENCE_S):
            report: dict[str, Any] = json.loads(await self._socket.recv(4096))
        return report

    async def until(self, step: str, count: int = 1) -> list[dict[str, Any]]:
        """The next ``count`` reports of this step; others are passed over."""
        found: list[dict[str, Any]] = []
        while len(found) < count:
            report = await self.next()
            if report["step"] == step:
                found.append(report)
        return found

    def command(self, behaviour: str) -> list[str]:
        return [sys.executable, "-m", "tests.operations.standin_worker", self.path, behaviour]


class Node:
    """``start`` it in a nursery; ``ended`` when its ``run`` has returned."""

    def __init__(
        self,
        directory: Path,
        behaviour: str = "serve",
        workers: int = 2,
        *,
        patience_s: float = 60.0,
        hung_timeout_s: float = 60.0,
    ) -> None:
        self.data = directory / "data"
        serve = ServeConfig(
            port=0,
            ops_port=0,
            data=str(self.data),
            workers=workers,
            drain_timeout_s=0.0,
            max_connections=100,
            hung_timeout_s=hung_timeout_s,
        )
        self.config = msgspec.structs.replace(Config(), serve=serve)
        self.reports = Reports(directory)
        self.ready = trio.Event()
        self.ended = trio.Event()
        self.ops_port = 0
        self.supervisor: Supervisor
        self._behaviour = behaviour
        self._patience_s = patience_s

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        await self.reports.open()
        lock = DirectoryLock(self.data)
        await lock.acquire()
        try:
            with reserve("127.0.0.1", 0, "port") as reserved, listen_alone("127.0.0.1", 0, "ops_port") as operations:
                self.ops_port = operations.getsockname()[1]
                command = self.reports.command(self._behaviour)
                self.supervisor = Supervisor(
                    *(self.config, command, lock, reserved.getsockname()[1]), drain_grace_s=self._patience_s
                )
                task_status.started()
                await self.supervisor.run(operations, self.ready.set)
        finally:
            lock.release()
            self.ended.set()

    async def get(self, path: str) -> tuple[int, str]:
        status, _, body = await request(self.ops_port, f"GET {path} HTTP/1.1\r\nHost: node\r\n\r\n".encode())
        return status, body


async def request(port: int, data: bytes) -> tuple[int, Mapping[str, str], str]:
    """Bytes to the operations endpoint; (status, headers, body) of what comes back until it closes."""
    with trio.fail_after(PATIENCE_S):
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            await stream.send_all(data)
            answer = b"".join([chunk async for chunk in stream])
    head, _, body = answer.decode().partition("\r\n\r\n")
    status, *lines = head.split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    return int(status.split()[1]), headers, body
