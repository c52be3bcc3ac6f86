"""Log of a job: to its file and to the terminal, with the traceback of whatever ended it."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from retinaflow.errors import RetinaflowError


@contextmanager
def job_log(path: str | Path) -> Iterator[None]:
    """Send log lines to ``path`` and to standard error; turn an exception into a logged one and exit status 1.

    A ``RetinaflowError`` shows its message alone on the terminal, since nobody has to read our code to act on it.
    """
    file = logging.FileHandler(path, mode="w", encoding="utf-8", errors="backslashreplace")
    terminal = logging.StreamHandler(sys.stderr)
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", handlers=[file, terminal], force=True
    )
    try:
        yield
    except RetinaflowError as error:
        logging.error("error: %s", error)
        logging.getLogger().removeHandler(terminal)
        logging.error("raised here:", exc_info=True)
        raise SystemExit(1) from None
    except Exception:
        logging.exception("unexpected error")
        raise SystemExit(1) from None
