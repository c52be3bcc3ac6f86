"""Images that the model of a bundle was trained or validated on, as salted digests. Imports nothing heavy.

A bundle has digests of images alone. A person who has the bundle cannot find out from it which patients were used.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from retinaflow.storage.documents import parse_document, read_own
from retinaflow.storage.files import digest_json, salted_digest
from retinaflow.storage.tables import stream_table

TRAINED_ON_FILE = "trained_on.json"
_RECORDS = 1000
_SCHEMA = {
    "type": "object",
    "additionalProperties": False,
    "required": ["records"],
    "properties": {
        "records": {
            "type": "array",
            "maxItems": _RECORDS,
            "items": {
                "type": "object",
                "additionalProperties": False,
                "required": ["salt", "images"],
                "properties": {
                    "salt": {"type": "string", "minLength": 1, "maxLength": 100},
                    "images": {"type": "array", "maxItems": 10**7},  # A schema of the items takes seconds.
                },
            },
        }
    },
}


class KnownImages(NamedTuple):
    """Images that a model was trained or validated on: a salt and salted digests, once for each training."""

    records: list[tuple[str, frozenset[str]]]

    def __contains__(self, content: object) -> bool:
        """Whether an image with the digest ``content`` of its bytes is one of them."""
        return any(salted_digest(salt, str(content)) in images for salt, images in self.records)


def known_records(trained_on: Sequence[Path], indices: Sequence[Path]) -> dict[str, Any]:
    """Return the content of ``TRAINED_ON_FILE``.

    Args:
        trained_on: Files of ``data.trained_on``, of all trainings that a model is made of.
        indices: Index tables of the images that a model without training run was fitted to.
    """
    records = [record for path in trained_on for record in read_own(path)["records"]]
    if indices:
        contents = sorted({row["digest"] for path in indices for row in stream_table(path, ("digest",))})
        salt = digest_json(contents)
        records.append({"salt": salt, "images": sorted(salted_digest(salt, content) for content in contents)})
    # Folds, and networks of an ensemble, may have the same images and salt.
    distinct = {record["salt"]: record["images"] for record in records}
    return {"records": [{"salt": salt, "images": images} for salt, images in distinct.items()]}


def parse_known_images(content: bytes, path: str) -> KnownImages:
    """Read the content of ``TRAINED_ON_FILE`` of a bundle.

    Raises:
        RetinaflowError: It has another form.
    """
    found = parse_document(
        content, _SCHEMA, path=path, kind="the digests of the trained images", again="Copy the whole bundle again."
    )
    return KnownImages([(record["salt"], frozenset(_texts(record["images"]))) for record in found["records"]])


def _texts(values: Iterable[Any]) -> Iterable[str]:
    return (value for value in values if isinstance(value, str))
