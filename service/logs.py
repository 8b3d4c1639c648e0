"""One structured log on standard error: one JSON object a line, or lines for people; libraries' words among ours."""

from __future__ import annotations

import logging
import sys

import structlog

from service.settings import Settings

__all__ = ["configure"]


class OnStderr(logging.Handler):
    """Writes to what is standard error now: it may have been replaced or closed since the settings were read."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr, flush=True)


def configure(settings: Settings) -> None:
    """Every event carries its time, level and what was bound to its logger, such as the job's id."""
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    renderer: structlog.typing.Processor = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    if settings.log_json:
        renderer = structlog.processors.JSONRenderer()
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[*shared, structlog.processors.format_exc_info, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=_on_stderr,
        cache_logger_on_first_use=False,
    )
    handler = OnStderr()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                renderer,
            ],
        )
    )
    root = logging.getLogger()
    for other in list(root.handlers):
        if isinstance(other, OnStderr | logging.NullHandler):  # a library's NullHandler would swallow every warning
            root.removeHandler(other)
    root.addHandler(handler)
    root.setLevel(logging.WARNING)


def _on_stderr(*_: object) -> structlog.PrintLogger:
    return structlog.PrintLogger(sys.stderr)
