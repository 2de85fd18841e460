"""One worker of the node, through all of its lives as a process.

Owns the process: started, told its spec, waited for, started again after a delay. It must not know what a worker
does, nor how it says that it is ready (``became_ready`` is called by who hears it).

Invariant: while ``run`` runs at most one process of this worker exists, and when it has returned or was cancelled,
none does. The worker's stdin stays open as its lifeline: the worker ends when it closes, also if the supervisor was
killed. Workers are in sessions of their own, so that Ctrl-C in a terminal reaches the supervisor alone.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from typing import Protocol

import structlog
import trio

from gateway.node.restarts import Restarts
from gateway.node.spec import WorkerSpec, encode_spec
from gateway.protocol.identifiers import WorkerId

START_TIMEOUT_S = 120.0
"""A worker that is not ready by then is ended, and counts as failed. The migration of a shared store has its 60 s in it."""

WAITING_STATUS = 75
"""Exit status of a worker that could not reach what others serve (sysexits.h: EX_TEMPFAIL). Its log says what."""

log = structlog.get_logger(__name__)


class Watcher(Protocol):
    """Who is told of a worker's lives."""

    def started(self, spec: WorkerSpec) -> None:
        """Before the process exists: it may speak at once."""
        ...

    def ended(self, spec: WorkerSpec) -> None: ...

    def gave_up(self, worker_id: WorkerId) -> None:
        """It failed too often before it was ready, and is not started again."""
        ...


class WorkerProcess:
    """``make_spec`` makes the spec of each life. ``inherited``: a file descriptor that the process keeps (the lock)."""

    def __init__(
        self,
        worker_id: WorkerId,
        command: Sequence[str],
        make_spec: Callable[[WorkerId], WorkerSpec],
        watcher: Watcher,
        inherited: int,
    ) -> None:
        self.worker_id = worker_id
        self.is_ready = False
        self._command = command
        self._make_spec = make_spec
        self._watcher = watcher
        self._inherited = inherited
        self._restarts = Restarts()
        self._process: trio.Process | None = None
        self._status: int | None = None
        self._stopping = trio.Event()

    @property
    def is_running(self) -> bool:
        return self._process is not None

    @property
    def restarts(self) -> int:
        return self._restarts.count

    async def run(self) -> None:
        """Keep one process alive until ``stop`` was called and the process has ended, or starting it is hopeless."""
        while not self._stopping.is_set():
            began_s = trio.current_time()
            was_ready = await self._live()
            if self._stopping.is_set():
                return
            alive_s, is_waiting = trio.current_time() - began_s, self._status == WAITING_STATUS
            delay_s = self._restarts.ended(alive_s, was_ready=was_ready, is_waiting=is_waiting)
            if delay_s is None:
                self._watcher.gave_up(self.worker_id)
                return
            with trio.move_on_after(delay_s):
                await self._stopping.wait()

    def became_ready(self) -> None:
        self.is_ready = self.is_running

    def stop(self) -> None:
        """Start no more processes. The one that runs ends by other means: a request, its lifeline, ``kill``."""
        self._stopping.set()

    async def cut_lifeline(self) -> None:
        if self._process is not None and self._process.stdin is not None:
            await self._process.stdin.aclose()

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()

    async def _live(self) -> bool:
        """One life. Was it ever ready?"""
        self._status = None
        spec = self._make_spec(self.worker_id)
        self._watcher.started(spec)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._end_if_not_ready)
                await self._run_process(spec)
                nursery.cancel_scope.cancel()
            return self.is_ready
        finally:
            self._process, self.is_ready = None, False
            self._watcher.ended(spec)

    async def _run_process(self, spec: WorkerSpec) -> None:
        try:
            process = await trio.lowlevel.open_process(
                self._command, stdin=subprocess.PIPE, pass_fds=(self._inherited,), start_new_session=True
            )
        except OSError as error:
            log.error("worker_not_started", worker=self.worker_id, error=str(error))
            return
        self._process = process
        try:
            await self._tell(process, spec)
            if self._stopping.is_set():  # asked while the process was being made: there was no lifeline to cut yet
                await self.cut_lifeline()
            await process.wait()
        finally:
            if process.returncode is None:
                process.kill()
            with trio.CancelScope(shield=True):
                self._status = await process.wait()
                await self.cut_lifeline()
        if not self._stopping.is_set():
            log.error("worker_ended", worker=self.worker_id, pid=process.pid, status=process.returncode)

    @staticmethod
    async def _tell(process: trio.Process, spec: WorkerSpec) -> None:
        try:
            if process.stdin is not None:  # always: it is a pipe
                await process.stdin.send_all(encode_spec(spec))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return  # it has ended already, or its lifeline was cut: waiting for it tells

    async def _end_if_not_ready(self) -> None:
        await trio.sleep(START_TIMEOUT_S)
        if not self.is_ready:
            log.error("worker_not_ready", worker=self.worker_id, after_s=START_TIMEOUT_S)
            self.kill()
