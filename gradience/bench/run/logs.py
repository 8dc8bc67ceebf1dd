"""`run.log`: everything that our loggers say while a seed is made."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gradience.words import visible

LOG = "run.log"
LINE = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class _Visible(logging.Formatter):
    """A line of the log, which is read in a terminal: names and tracebacks in it cannot steer it."""

    def format(self, record: logging.LogRecord) -> str:
        return visible(super().format(record))


@contextmanager
def logged(path: Path) -> Iterator[None]:
    """Everything that our loggers say, appended to the file."""
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(_Visible(LINE))
    logger = logging.getLogger("gradience")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        handler.close()
