"""Progress of a job for the screen of the run: lines of JSON in a file beside its log.

A line is an object with the present state of the job, or with a ``message`` for the user. The state has ``step`` (a
short text), ``left`` (remaining seconds) or ``share`` (0 to 1, done so far), and ``result`` (a short text about the
outcome). The last line without a message is valid.

Code reports progress by a log record of ``LOGGER`` at level DEBUG, with the object as ``progress`` in ``extra``. It
needs neither this module nor a job.
"""

import json
import logging
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

LOGGER = "retinaflow.progress"

_EVERY = 1.0  # Seconds between two lines about one step.
_LARGEST = 500_000  # Bytes, after which the file begins again.
_LONGEST = 20_000  # Characters of a message.


class Writer(logging.Handler):
    """Appends progress, warnings and messages for the user to a file that another process reads meanwhile."""

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
        with suppress(OSError):  # A full disk must not end the job.
            if self._size + len(line) > _LARGEST:
                os.ftruncate(self._descriptor, 0)
                self._size = 0
            # Write the line by one call, so that only the last line can be incomplete for a reader.
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
