"""The message of a failed job, from its log, and its progress, from the file beside it."""

import json
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

_TIME = r"\d\d:\d\d:\d\d "
_MESSAGE = re.compile(rf"^{_TIME}(error: .*?)(?=^{_TIME}|\Z)", re.MULTILINE | re.DOTALL)
_ENDED = re.compile(rf"^{_TIME}(ended by .*)$", re.MULTILINE)
_LINE_TIME = re.compile(rf"^{_TIME}", re.MULTILINE)
_TAIL = 65_536  # bytes of a log that are searched
_LAST = 10  # lines that are shown of a log without a message


def message(log: str | Path) -> str:
    """The message that ended the job of a log, or its last lines. Empty if the log is missing or empty."""
    try:
        with open(log, "rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - _TAIL))
            text = file.read().decode("utf-8", errors="backslashreplace")
    except OSError:
        return ""
    for pattern in (_MESSAGE, _ENDED):
        if found := pattern.findall(text):
            return str(found[-1]).strip()
    return "\n".join(_LINE_TIME.sub("", text).strip().splitlines()[-_LAST:])


def progress_file(log: str) -> Path:
    """The file that a job writes its progress to (``retinaflow.jobs.progress``)."""
    return Path(log).with_suffix(".progress.jsonl")


class Progress:
    """The progress of one job, read as the job appends it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.offset = 0
        self.state: dict[str, Any] = {}

    def read(self) -> list[str]:
        """Read what was appended; returns new messages for the user."""
        messages: list[str] = []
        try:
            with open(self.path, "rb") as file:
                size = file.seek(0, 2)
                # The job began the file again.
                self.offset = 0 if size < self.offset else self.offset
                file.seek(self.offset)
                data = file.read()
        except OSError:
            return messages
        whole = data[: data.rfind(b"\n") + 1]
        self.offset += len(whole)
        for line in whole.splitlines():
            with suppress(ValueError, AttributeError, TypeError):
                entry = json.loads(line)
                if "message" in entry:
                    messages.append(str(entry["message"]))
                else:
                    self.state = dict(entry)
        return messages

    def remove(self) -> None:
        """Remove the file."""
        with suppress(OSError):
            self.path.unlink(missing_ok=True)
