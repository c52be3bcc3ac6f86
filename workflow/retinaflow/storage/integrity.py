"""Records of the content of files, by which a later stage notices damage.

The stage that writes a file also writes its record: size, CRC-32 and number of rows, in ``.NAME.digest`` beside the
file. A file without a record, as of earlier versions, is read without this check.
"""

import contextlib
import json
import os
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from retinaflow.errors import RetinaflowError
from retinaflow.storage.files import whole_file

RECORD_SUFFIX = ".digest"
REBUILD = "Delete the file and run again to rebuild it."


@contextmanager
def recorded_file(path: str | os.PathLike[str], rows: int | None = None) -> Iterator[Path]:
    """Write a whole file (``files.whole_file``), and the record of its content.

    Args:
        path: File to write.
        rows: Number of rows below the header of a table, for messages.
    """
    record = record_of(path)
    with whole_file(path) as part:
        yield part
        content = {**content_of(part), **({} if rows is None else {"rows": rows})}
        # A kill after this line leaves a file without a record. The next run repeats the job.
        record.unlink(missing_ok=True)
    with whole_file(record) as part:
        part.write_text(json.dumps(content) + "\n", encoding="utf-8")


def write_document(path: str | os.PathLike[str], content: object) -> None:
    """Write ``content`` as indented JSON, and its record. NaN and infinity are a ``ValueError``."""
    with recorded_file(path) as part:
        part.write_text(json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False) + "\n", encoding="utf-8")


def record_of(path: str | os.PathLike[str]) -> Path:
    """Return the record of a file. It is no folder, since programs take each folder in a tree of images for a grade."""
    return Path(path).with_name(f".{Path(path).name}{RECORD_SUFFIX}")


def content_of(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return size and CRC-32 of a file."""
    size = total = 0
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            size, total = size + len(chunk), zlib.crc32(chunk, total)
    return {"bytes": size, "crc32": f"{total:08x}"}


def damage(path: str | os.PathLike[str]) -> str:
    """Describe how a file differs from its record: ``""`` if it does not, or has no record.

    Raises:
        OSError: The file cannot be read.
    """
    record = _text_of(record_of(path))
    while (fault := _difference(path, record)) and (now := _text_of(record_of(path))) != record:
        record = now  # A job replaced the file meanwhile.
    return fault


def _text_of(record: Path) -> str | None:
    try:
        return record.read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        return str(error.strerror)


def _difference(path: str | os.PathLike[str], text: str | None) -> str:
    if text is None:
        return ""
    try:
        record = json.loads(text)
        expected = {"bytes": int(record["bytes"]), "crc32": str(record["crc32"])}
        rows = f" and {record['rows']} rows" if "rows" in record else ""
    except (ValueError, TypeError, LookupError):
        return f"its record {record_of(path)} cannot be read"
    found = content_of(path)
    if found == expected:
        return ""
    if found["bytes"] != expected["bytes"]:
        return f"it has {found['bytes']} bytes, expected the {expected['bytes']} bytes{rows} that were written"
    return f"its content differs from the {expected['bytes']} bytes{rows} that were written"


def verify(path: str | os.PathLike[str], again: str = REBUILD) -> None:
    """Compare a file with its record, if there is one.

    Args:
        path: File that a stage wrote. A missing file is left to the reader.
        again: Advice at the end of the message.

    Raises:
        RetinaflowError: The file was damaged or changed after it was written.
    """
    try:
        found = damage(path)
    except OSError:  # The reader has the better message.
        return
    if found:
        raise RetinaflowError(f"{path}: this file is damaged or was changed: {found}. {again}")


def check_documents(paths: Iterable[str], largest: int = 1_000_000) -> None:
    """Verify files before a run starts. Larger ones are verified when a job reads them.

    Args:
        paths: Files of a run. Missing ones are left out.
        largest: Size in bytes of the largest file to verify.

    Raises:
        RetinaflowError: One error that lists all damaged files.
    """
    damaged = []
    for path in paths:
        with contextlib.suppress(OSError):  # Missing, or left to its reader.
            if record_of(path).exists() and Path(path).stat().st_size <= largest and (found := damage(path)):
                damaged.append(f"  {path}: {found}")
    if damaged:
        raise RetinaflowError(
            "Results are damaged or were changed after they were written:\n" + "\n".join(damaged) + "\n"
            "Delete these files and run again to rebuild them. `retinaflow verify RESULTS` checks all results, and "
            "--remove deletes the damaged ones."
        )
