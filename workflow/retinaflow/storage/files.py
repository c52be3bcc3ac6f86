"""Files that appear only when they are complete, and digests of their content."""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path in the folder of ``path``. Move it to ``path`` after the block ends without an error.

    The temporary name keeps the suffix, since some writers choose their format by it. The name is the same at every
    attempt, so that the next job overwrites the file of a killed one. A missing folder is created.
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
    """Write ``content`` as indented JSON. NaN and infinity, which JSON does not have, are a ``ValueError``."""
    with whole_file(path) as part:
        part.write_text(json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False) + "\n", encoding="utf-8")


def digest(content: bytes) -> str:
    """Digest of a content: the first 32 hexadecimal digits of SHA-256, which processors compute fast."""
    return hashlib.sha256(content).hexdigest()[:32]


def digest_file(path: str | os.PathLike[str]) -> str:
    """Return the ``digest`` of a file's content, which need not fit into memory."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:32]


def salted_digest(salt: str, value: str) -> str:
    """Digest of a value and a salt. Files of ``trained_on.json`` have such digests in the place of names."""
    return digest(f"{salt}/{value}".encode(errors="surrogateescape"))


def digest_json(content: object) -> str:
    """Return one digest of what JSON can hold. The order of keys does not count."""
    return digest(json.dumps(content, sort_keys=True).encode())


def digest_files(paths: Iterable[str | os.PathLike[str]]) -> str:
    """One digest of the contents of several files, in their given order."""
    total = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()[:32]
