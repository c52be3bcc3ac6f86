"""Log of a job, in its file and on the terminal, with the reason for its end."""

import faulthandler
import logging
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from types import FrameType
from typing import TextIO

from retinaflow.errors import RetinaflowError
from retinaflow.jobs import progress
from retinaflow.storage.disk_errors import disk_refusal

# Variable with the number of the process that started the job. The job ends when this process ends.
PARENT = "RETINAFLOW_PARENT"
# Variable with the number of the process that shows progress on a screen (`snakemake_logger_plugin_retinaflow`).
SCREEN = "RETINAFLOW_SCREEN"

ORPHANED = b"ended, because the snakemake that started this job was killed; run again to resume\n"


@contextmanager
def job_log(path: str | Path) -> Iterator[None]:
    """Write log lines to ``path`` and to standard error. Log an exception and exit with status 1.

    Other text on standard error, also of other libraries, is written only to ``path``. If the process that started the
    job shows progress, log lines are written only to ``path`` too. This process finds warnings, and lines with
    ``screen`` in their ``extra``, in the progress file (``progress``).

    For a ``RetinaflowError``, the terminal shows only the message. The same applies to full disks and missing
    permissions. SIGTERM and an interrupt end the job with a line in the log. A crash leaves the traceback of all
    threads in the log.

    Snakemake deletes a log before another attempt. The file therefore has a second name, ``path`` with ``.attempt-1``
    and so on before its suffix. Only success removes this name.
    """
    path = Path(path)
    try:
        attempt, stream = _open_attempt(path)
    except OSError as error:
        print(f"error: {disk_refusal(error) or error}", file=sys.stderr)
        raise SystemExit(1) from None
    terminal, restore = _take_standard_error(stream)
    shown, parent = os.environ.get(SCREEN), os.environ.get(PARENT)
    writer = progress.start(path) if shown else None
    others: list[logging.Handler | None] = [None if shown and shown == parent else terminal, writer]
    logging.basicConfig(
        level=logging.INFO,
        format="%(asctime)s %(message)s",
        datefmt="%H:%M:%S",
        handlers=[logging.StreamHandler(stream), *filter(None, others)],
        force=True,
    )
    logging.raiseExceptions = False  # A full disk must not hide the reason for the end of the job.
    faulthandler.enable(stream)
    before = {number: signal.signal(number, _end) for number in (signal.SIGTERM, signal.SIGINT)}
    _end_with(parent, stream)
    try:
        yield
    except RetinaflowError as error:
        _explain(str(error), terminal)
        raise SystemExit(1) from None
    except Exception as error:
        refusal = disk_refusal(error)
        if refusal:
            _explain(refusal, terminal)
        else:
            logging.exception("unexpected error")
        raise SystemExit(1) from None
    else:
        path.unlink(missing_ok=True)
        attempt.rename(path)
    finally:
        faulthandler.disable()
        for number, handler in before.items():
            signal.signal(number, handler)
        progress.stop(writer)
        restore()
        with suppress(OSError):
            stream.close()


def _take_standard_error(log: TextIO) -> tuple[logging.Handler, Callable[[], None]]:
    """Redirect file descriptor 2 to ``log``.

    Returns:
        A handler that writes to the former target, and a function that restores it.
    """
    try:
        own = sys.stderr.fileno()
    except (AttributeError, OSError, ValueError):  # Standard error is no file.
        own = -1
    if own != 2:  # Another program has already redirected it.
        return logging.StreamHandler(sys.stderr), lambda: None
    before = os.dup(own)
    terminal = open(before, "w", encoding="utf-8", errors="backslashreplace", buffering=1)  # noqa: SIM115
    os.dup2(log.fileno(), own)

    def restore() -> None:
        sys.stderr.flush()
        with suppress(OSError):
            os.dup2(before, own)
        with suppress(OSError):
            terminal.close()

    return logging.StreamHandler(terminal), restore


def _open_attempt(path: Path) -> tuple[Path, TextIO]:
    """Path and open file of the log of this attempt. ``path`` becomes another name of the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for number in count(1):
        attempt = path.with_name(f"{path.stem}.attempt-{number}{path.suffix}")
        with suppress(FileExistsError):
            stream = open(attempt, "x", encoding="utf-8", errors="backslashreplace")  # noqa: SIM115
            break
    path.unlink(missing_ok=True)
    try:
        os.link(attempt, path)
    except OSError:  # The file system has no hard links.
        path.symlink_to(attempt.name)
    return attempt, stream


def _explain(message: str, terminal: logging.Handler) -> None:
    logging.error("error: %s", message)
    logging.getLogger().removeHandler(terminal)
    logging.error("raised here:", exc_info=True)


def _end(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
    name = signal.Signals(number).name
    logging.error("ended by %s; run again to resume", name)
    raise SystemExit(128 + number)


def _end_with(parent: str | None, stream: TextIO) -> None:
    """End this process at once when the process ``parent`` ends, since no process would record its further outputs."""
    if not parent:
        return

    def watch() -> None:
        _wait_for_end(int(parent))
        # A thread that holds a lock of logging can wait for a closed terminal, so write directly to the file.
        with suppress(OSError):
            os.write(stream.fileno(), ORPHANED)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _wait_for_end(process: int) -> None:
    if hasattr(os, "pidfd_open"):
        with suppress(OSError):
            select.select([os.pidfd_open(process)], [], [])
            return
    with suppress(ProcessLookupError):
        while True:
            os.kill(process, 0)
            time.sleep(1)
