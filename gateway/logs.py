"""Logs: one line per fault, never per message.

Owns structlog's set-up: JSON to a stream, or colours where a person reads a terminal. Called once, by whoever is a
process' main function. A line has an event in snake_case, its severity, a time in UTC, and the process that speaks.
"""

from __future__ import annotations

import logging
from typing import TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


def configure(level: str, stream: TextIO, **bindings: object) -> None:
    """``level``: the least severity that is written. ``bindings`` are on every line, ``worker=3`` for one."""

    def bind(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        return {**bindings, **event}

    structlog.configure(
        processors=[
            bind,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *_rendering(is_terminal=stream.isatty()),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=structlog.WriteLoggerFactory(stream),
        cache_logger_on_first_use=False,
    )


def _rendering(*, is_terminal: bool) -> list[Processor]:
    if is_terminal:
        return [structlog.dev.ConsoleRenderer()]
    return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(default=str)]
