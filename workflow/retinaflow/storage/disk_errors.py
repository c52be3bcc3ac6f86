"""Errors of the disk: full, damaged, read-only. Each has a message with a cure, also if a library has another error."""

import errno
import os
import re

CURES = {
    errno.ENOSPC: "free some space there",
    errno.EDQUOT: "free some of your quota there",
    errno.EIO: "check the disk (`dmesg` shows its errors), then `retinaflow verify` the results",
    errno.EFBIG: "raise the limit on the size of files (`ulimit -f`)",
    errno.EROFS: "choose a results folder that can be written to",
    errno.EACCES: "check that you may read and write there",
    errno.EPERM: "check that you may read and write there",
}


def disk_refusal(error: BaseException | None) -> str:
    """Return the refusal of the disk that caused ``error``, with its cure. Empty if it has another cause."""
    while error:
        number, name = _number_and_name(error)
        if number in CURES:
            place = f"{os.fspath(name)}: " if name else ""
            return f"{place}{os.strerror(number)}. Finished results are not lost: {CURES[number]} and run again."
        error = error.__cause__
    return ""


def _number_and_name(error: BaseException) -> tuple[int | None, str | None]:
    # The error of h5py has file and number only in its text.
    if match := re.search(r"name = '([^']*)'.*errno = (\d+),", str(error), re.DOTALL):
        return int(match[2]), match[1]
    # That of TensorFlow has the file and the text of the number.
    if type(error).__module__.startswith("tensorflow."):
        for number in CURES:
            if match := re.search(rf"([^\s;]*); {re.escape(os.strerror(number))}", str(error)):
                return number, match[1]
    return getattr(error, "errno", None), getattr(error, "filename", None)
