"""Write files so that nobody ever sees half of one, and recognise a file by its content."""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path in the folder of ``path``; move it there once the block ends without an error.

    The temporary name keeps the suffix, which some writers choose their format by, and is the same at every try, so
    that what a killed job left behind is overwritten by the next one. The folder is made if missing.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".part-{target.name}")
    part.unlink(missing_ok=True)
    try:
        yield part
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)


def write_json(path: str | os.PathLike[str], content: object) -> None:
    """Write ``content`` as indented JSON; numbers that JSON does not know (NaN, infinity) are a ``ValueError``."""
    with whole_file(path) as part:
        part.write_text(json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False) + "\n", encoding="utf-8")


def digest(content: bytes) -> str:
    """32 hexadecimal digits that tell contents apart: half of SHA-256, which processors have instructions for."""
    return hashlib.sha256(content).hexdigest()[:32]


def digest_files(paths: Iterable[str | os.PathLike[str]]) -> str:
    """One digest over the contents of several files, in the order given."""
    total = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()[:32]
