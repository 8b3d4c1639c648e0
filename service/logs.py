"""Structured logs on standard error: one JSON object a line, or lines for people."""

from __future__ import annotations

import logging
import sys

import structlog

from service.settings import Settings

__all__ = ["configure"]


def configure(settings: Settings) -> None:
    """Every event carries its time, level and what was bound to its logger, such as the job's id."""
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    renderer: structlog.typing.Processor = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    if settings.log_json:
        renderer = structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=_on_stderr,
        cache_logger_on_first_use=False,
    )
    shape = "%(asctime)s %(name)s %(levelname)s %(message)s"
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format=shape)


def _on_stderr(*_: object) -> structlog.PrintLogger:
    """A logger to what is standard error now: it may have been replaced or closed since the settings were read."""
    return structlog.PrintLogger(sys.stderr)
