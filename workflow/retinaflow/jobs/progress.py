"""Progress of a job for the screen of the run: lines of JSON in a file beside its log.

A line is an object. It describes the present state of the job by ``step`` (a short text), ``left`` (seconds to come) or
``share`` (0 to 1, done so far), and ``result`` (a short text about the outcome). Or it has a ``message`` for the user.
The last line without a message is valid.

Code that reports progress logs to ``LOGGER`` at level DEBUG, with the object as ``progress`` in ``extra``. So it needs
neither this module nor a job.
"""

import json
import logging
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

LOGGER = "retinaflow.progress"

_EVERY = 1.0  # seconds between two lines about one step
_LARGEST = 500_000  # bytes, after which the file begins again
_LONGEST = 20_000  # characters of a message


class Writer(logging.Handler):
    """Appends progress, warnings and what is meant for the user to a file that others read meanwhile."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o644)
        self._size, self._written = 0, 0.0
        self._last: dict[str, Any] = {}

    def emit(self, record: logging.LogRecord) -> None:
        """Append a line, unless there was one about the same step less than a second ago."""
        state: dict[str, Any] | None = getattr(record, "progress", None)
        if state is not None:
            now = time.monotonic()
            same = all(state.get(name) == self._last.get(name) for name in ("step", "result"))
            if not same or now - self._written >= _EVERY:
                self._last, self._written = state, now
                self._append(state)
        elif getattr(record, "screen", False) or logging.WARNING <= record.levelno < logging.ERROR:
            self._append({"message": record.getMessage()[:_LONGEST]})

    def close(self) -> None:
        """Close the file. The process that reads it removes it."""
        if self._descriptor >= 0:
            with suppress(OSError):
                os.close(self._descriptor)
            self._descriptor = -1
        super().close()

    def _append(self, entry: dict[str, Any]) -> None:
        line = json.dumps(entry).encode() + b"\n"
        with suppress(OSError):  # a full disk ends no job by this
            if self._size + len(line) > _LARGEST:
                os.ftruncate(self._descriptor, 0)
                self._size = 0
            # One call, so that nobody reads half a line unless it is the last.
            os.write(self._descriptor, line)
            self._size += len(line)


def progress_path(log: Path) -> Path:
    """The progress file of the job with a log."""
    return log.with_suffix(".progress.jsonl")


def start(log: Path) -> Writer | None:
    """Begin the progress file of the job with ``log``. None if it cannot be written."""
    try:
        writer = Writer(progress_path(log))
    except OSError:
        return None
    logger = logging.getLogger(LOGGER)
    logger.handlers[:] = [writer]
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    return writer


def stop(writer: Writer | None) -> None:
    """Close the file of ``writer``."""
    if writer is not None:
        logging.getLogger(LOGGER).removeHandler(writer)
        writer.close()
