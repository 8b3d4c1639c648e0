"""One structured log on standard error: one JSON object a line, or lines for people; libraries' words among ours."""

from __future__ import annotations

import logging
import sys
from typing import TextIO

import structlog

from service.settings import Settings

__all__ = ["configure"]


class Lines(logging.Handler):
    """Writes to what is standard error now, which may have been replaced or closed since the settings were read."""

    def __init__(self, to: TextIO | None) -> None:
        super().__init__()
        self._to = to

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=self._to or sys.stderr, flush=True)


def configure(settings: Settings, to: TextIO | None = None) -> None:
    """Every event carries its time, level and what was bound to its logger, such as the job's id.

    ``to`` takes the lines in place of standard error: a server that is a thread of another program would write
    between that program's own lines.
    """
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
        logger_factory=lambda *_: structlog.PrintLogger(to or sys.stderr),
        cache_logger_on_first_use=False,
    )
    handler = Lines(to)
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
        if isinstance(other, Lines | logging.NullHandler):  # a library's NullHandler would swallow every warning
            root.removeHandler(other)
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
