"""Keep two processes from writing to one folder."""

import fcntl
import logging
import os
from pathlib import Path
from typing import TextIO

from retinaflow.errors import RetinaflowError

log = logging.getLogger(__name__)

LOCK = ".lock"


def lock(folder: Path) -> TextIO:
    """Claim ``folder`` until the file that is returned is closed, or this process ends, however it does.

    Raises ``RetinaflowError`` if another process has it or the folder cannot be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = open(folder / LOCK, "a+", encoding="utf-8")  # noqa: SIM115
    except OSError as error:
        raise RetinaflowError(
            f"{error.filename}: {error.strerror}. Results go there: see to it that you may write to {folder} and all "
            "in it, or set `results` to another folder."
        ) from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not os.fstat(file.fileno()).st_nlink:  # removed in between: who comes next would lock another file
            file.close()
            return lock(folder)
    except BlockingIOError:
        file.seek(0)
        raise RetinaflowError(
            f"{folder}: another run is writing there (process {file.read().strip()}). Wait for it, end it, or set "
            "`results` to another folder."
        ) from None
    except OSError as error:  # some network file systems
        log.warning("%s: cannot be locked (%s), so see to it yourself that no two runs write there", folder, error)
    file.truncate(0)
    file.write(f"{os.getpid()} on {os.uname().nodename}\n")
    file.flush()
    return file
