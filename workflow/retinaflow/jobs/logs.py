"""Log of a job: to its file and to the terminal, with whatever ended it."""

import errno
import faulthandler
import logging
import os
import re
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

# Name of the variable with the number of the process that started the job and without which it should not go on.
PARENT = "RETINAFLOW_PARENT"
# And with the number of the process that shows the progress of jobs on a screen (`snakemake_logger_plugin_retinaflow`).
SCREEN = "RETINAFLOW_SCREEN"

ORPHANED = b"ended, because the snakemake that started this job was killed; run again to go on\n"

CURES = {
    errno.ENOSPC: "free some space there",
    errno.EDQUOT: "free some of your quota there",
    errno.EROFS: "choose a results folder that can be written to",
    errno.EACCES: "see to it that you may read or write there",
    errno.EPERM: "see to it that you may read or write there",
}


@contextmanager
def job_log(path: str | Path) -> Iterator[None]:
    """Send log lines to ``path`` and to standard error; turn an exception into a logged one and exit status 1.

    All else that is written to standard error, by other libraries too, goes to ``path`` alone. So do the log lines if
    the process that started the job shows its progress. That process finds warnings, and lines with ``screen`` in their
    ``extra``, in the progress file (``progress``).

    A ``RetinaflowError`` shows its message alone on the terminal, since nobody has to read our code to act on it; so
    does what the system says of full disks and missing permissions. SIGTERM and an interrupt end the job with a line
    in the log. A crash leaves the traceback of all threads there.

    Snakemake deletes a log before it tries again. So the file has a second name, ``path`` with ``.attempt-1`` and so on
    before its suffix, that only success removes.
    """
    path = Path(path)
    try:
        attempt, stream = _open_attempt(path)
    except OSError as error:
        print(f"error: {_refusal(error) or error}", file=sys.stderr)
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
    logging.raiseExceptions = False  # a log on a full disk must not hide why the job ended
    faulthandler.enable(stream)
    before = {number: signal.signal(number, _end) for number in (signal.SIGTERM, signal.SIGINT)}
    _end_with(parent, stream)
    try:
        yield
    except RetinaflowError as error:
        _explain(str(error), terminal)
        raise SystemExit(1) from None
    except Exception as error:
        refusal = _refusal(error)
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
    """Send what is written to file descriptor 2 to ``log``.

    Returns a handler that writes to where it went before, and a function that sends it there again.
    """
    try:
        own = sys.stderr.fileno()
    except (AttributeError, OSError, ValueError):  # no file
        own = -1
    if own != 2:  # somebody else has taken it already
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
    """The log of this attempt, and a file to write it to that ``path`` is another name of."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for number in count(1):
        attempt = path.with_name(f"{path.stem}.attempt-{number}{path.suffix}")
        with suppress(FileExistsError):
            stream = open(attempt, "x", encoding="utf-8", errors="backslashreplace")  # noqa: SIM115
            break
    path.unlink(missing_ok=True)
    try:
        os.link(attempt, path)
    except OSError:  # a file system without hard links
        path.symlink_to(attempt.name)
    return attempt, stream


def _explain(message: str, terminal: logging.Handler) -> None:
    logging.error("error: %s", message)
    logging.getLogger().removeHandler(terminal)
    logging.error("raised here:", exc_info=True)


def _refusal(error: BaseException | None) -> str:
    """What the system refused and what to do about it, if that is at the root of ``error``; otherwise nothing."""
    while error:
        # h5py puts what the system said into a text.
        told = re.search(r"name = '([^']*)'.*errno = (\d+),", str(error), re.DOTALL)
        name, number = (told[1], int(told[2])) if told else (getattr(error, n, None) for n in ("filename", "errno"))
        if number in CURES:
            place = f"{os.fspath(name)}: " if name else ""
            return f"{place}{os.strerror(number)}. Nothing that was finished is lost: {CURES[number]} and run again."
        error = error.__cause__
    return ""


def _end(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
    name = signal.Signals(number).name
    logging.error("ended by %s; run again to go on", name)
    raise SystemExit(128 + number)


def _end_with(parent: str | None, stream: TextIO) -> None:
    """End this process at once when the process ``parent`` is gone: nobody would know what it goes on to write."""
    if not parent:
        return

    def watch() -> None:
        _wait_for_end(int(parent))
        with suppress(OSError):  # past the locks of logging: whoever holds them may wait for a terminal that is gone
            os.write(
                stream.fileno(), b"ended, because the snakemake that started this job was killed; run again to go on\n"
            )
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
