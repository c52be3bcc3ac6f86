"""Reading of the JSON files that stages pass to each other."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import jsonschema
import jsonschema.exceptions

from retinaflow.errors import RetinaflowError
from retinaflow.storage.integrity import REBUILD, verify

LONGEST_FAULT = 200  # characters; the fault of a foreign file may have a whole value in it


def read_document(path: str | os.PathLike[str], schema: Mapping[str, Any], *, kind: str, again: str) -> dict[str, Any]:
    """Read a JSON file and check it against a schema.

    Args:
        path: File to read.
        schema: JSON Schema of its content.
        kind: Kind of the file for messages, such as ``"a metrics file"``.
        again: Advice at the end of messages.

    Raises:
        RetinaflowError: The file cannot be read, or has other content. It differs from its record (``integrity``).
    """
    verify(path, again)
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise RetinaflowError(f"{path}: {error.strerror}; expected {kind}. {again}") from error
    return parse_document(content, schema, path=path, kind=kind, again=again)


def parse_document(
    content: bytes, schema: Mapping[str, Any], *, path: str | os.PathLike[str], kind: str, again: str
) -> dict[str, Any]:
    """Parse the content of a JSON file and check it, as ``read_document`` does."""
    try:
        found: dict[str, Any] = json.loads(content.decode("utf-8"), parse_constant=_refuse)
        jsonschema.validate(found, schema)
    except ValueError as error:
        raise RetinaflowError(f"{path}: this is not valid JSON ({error}); expected {kind}. {again}") from error
    except RecursionError as error:
        raise RetinaflowError(f"{path}: nested too deeply; expected {kind}. {again}") from error
    except jsonschema.exceptions.ValidationError as error:
        where = error.json_path.removeprefix("$.")
        raise RetinaflowError(f"{path}: {where}: {error.message[:LONGEST_FAULT]}. {again}") from error
    return found


def read_own(path: Path) -> dict[str, Any]:
    """Read a JSON file that an earlier job of the same run wrote.

    Raises:
        RetinaflowError: The file is missing or damaged.
    """
    verify(path)
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RetinaflowError(f"{path}: cannot be read ({error}). {REBUILD}") from error
    return content


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON number")
