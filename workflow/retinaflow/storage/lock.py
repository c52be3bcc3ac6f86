"""Locks that keep two runs from writing to one results folder."""

import fcntl
import logging
import os
from pathlib import Path
from typing import TextIO

from retinaflow.errors import RetinaflowError

log = logging.getLogger(__name__)

LOCK = ".lock"


def lock(folder: Path) -> TextIO:
    """Lock ``folder`` until the returned file closes or the process ends, also by a kill.

    Raises:
        RetinaflowError: Another process has the lock, or the folder is not writable.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = open(folder / LOCK, "a+", encoding="utf-8")  # noqa: SIM115
    except OSError as error:
        raise RetinaflowError(
            f"{error.filename}: {error.strerror}. Results go there: make {folder} and all files in it writable, "
            "or set `results` to another folder."
        ) from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not os.fstat(file.fileno()).st_nlink:  # Deleted in between, so the next run would lock another file.
            file.close()
            return lock(folder)
    except BlockingIOError:
        file.seek(0)
        raise RetinaflowError(
            f"{folder}: another run is writing there (process {file.read().strip()}). Wait for it, end it, or set "
            "`results` to another folder."
        ) from None
    except OSError as error:  # Some network file systems have no locks.
        log.warning("%s: cannot be locked (%s). Make sure that no two runs write there.", folder, error)
    file.truncate(0)
    file.write(f"{os.getpid()} on {os.uname().nodename}\n")
    file.flush()
    return file
