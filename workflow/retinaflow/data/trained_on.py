"""Images and patients that a model was trained on, as salted digests, and the search for them in other images.

Digests show whether a given image or patient was used. They do not hide a name from a person who can guess it and has
the file.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from retinaflow.data.frames import read_frame
from retinaflow.errors import RetinaflowError
from retinaflow.storage.documents import read_document
from retinaflow.storage.files import digest_json, salted_digest
from retinaflow.storage.integrity import write_document

SEEN_COLUMNS = ("image", "patient", "digest")
NAMES_SHOWN = 3
AGAIN = "Copy it again, or train the model again."

_DIGESTS = {"type": "array"}
_RECORD = {
    "type": "object",
    "required": ["salt", "images", "patients"],
    "properties": {"salt": {"type": "string", "minLength": 1}, "images": _DIGESTS, "patients": _DIGESTS},
}
TRAINED_ON_SCHEMA = {
    "type": "object",
    "required": ["records"],
    "properties": {"records": {"type": "array", "minItems": 1, "items": _RECORD}},
}


class Seen(NamedTuple):
    """Images of a table that a model was trained on, and images of patients whose images it was trained on.

    Attributes:
        images: Names of images with the same bytes as one that it was trained on.
        patients: Names of patients that it was trained on.
    """

    images: list[str]
    patients: list[str]

    def __str__(self) -> str:
        """Numbers and first names."""
        parts = [("image", self.images), ("patient", self.patients)]
        return " and ".join(
            f"{len(names)} {kind}{'s' if len(names) > 1 else ''} ({_first(names)})" for kind, names in parts if names
        )


def write_trained_on(
    path: Path,
    indices: Iterable[Path],
    *,
    seed: int,
    shared_patients: Sequence[Sequence[str]] = (),
    earlier: Path | None = None,
) -> None:
    """Write the images and patients that a network was trained on. Those of validation count, too.

    The salt follows from ``seed`` and the images, so that the same training writes the same file.

    Args:
        path: Output file.
        indices: Index tables of the training and of the validation images.
        seed: Seed of the training.
        shared_patients: Groups of names of data sets with the same patients.
        earlier: The same file of the model that training started from, if any. Its digests are kept.
    """
    rows = _rows(indices)
    salt = digest_json([seed, sorted(rows["digest"])])
    names = {name for patient in set(rows["patient"]) for name in _names(patient, shared_patients)}
    record = {"salt": salt, "images": _digests(salt, set(rows["digest"])), "patients": _digests(salt, names)}
    before = (
        read_document(earlier, TRAINED_ON_SCHEMA, kind=f"a file {path.name}", again=AGAIN)["records"] if earlier else []
    )
    write_document(path, {"records": [record, *before]})


def find_seen(record: Path, tables: Iterable[Path], shared_patients: Sequence[Sequence[str]] = ()) -> Seen:
    """Find the images and patients of some tables that a model was trained on.

    Args:
        record: File of ``write_trained_on``.
        tables: Index tables, or inventories. Of these, images with a problem are left out.
        shared_patients: Groups of names of data sets with the same patients.

    Raises:
        RetinaflowError: ``record`` is missing or damaged.
    """
    rows = _rows(tables)
    images: set[str] = set()
    patients: set[str] = set()
    by_patient = {patient: _names(patient, shared_patients) for patient in sorted(set(rows["patient"]))}
    for one in _read(record):
        salt, used_images, used_patients = one["salt"], set(one["images"]), set(one["patients"])
        images.update(
            image
            for image, content in zip(rows["image"], rows["digest"], strict=True)
            if salted_digest(salt, content) in used_images
        )
        patients.update(
            patient
            for patient, names in by_patient.items()
            if any(salted_digest(salt, name) in used_patients for name in names)
        )
    return Seen(sorted(images), sorted(patients))


def seen_reason(network: str, record: Path, seen: Seen) -> str:
    """Say that the model which ``network`` starts from was trained on images, and what to do."""
    return (
        f"{network} starts from a model that was trained on {seen} of it, by {record}; name these images in `exclude`, "
        "or start from another model. If the patients are others, give each data set a name"
    )


def require_unseen(
    network: str, record: Path, tables: Mapping[str, Sequence[Path]], shared_patients: Sequence[Sequence[str]] = ()
) -> None:
    """Raise an error if ``network`` starts from a model that was trained on images or patients of ``tables``.

    Args:
        network: Name of the network.
        record: File of the images that the model at its start was trained on.
        tables: Index tables of each split by its name.
        shared_patients: Groups of names of data sets with the same patients.

    Raises:
        RetinaflowError: It was, or ``record`` is missing or damaged.
    """
    found = {split: find_seen(record, paths, shared_patients) for split, paths in tables.items()}
    reasons = [f"{split}: {seen_reason(network, record, seen)}." for split, seen in found.items() if any(seen)]
    if reasons:
        raise RetinaflowError("\n".join(reasons))


def _rows(tables: Iterable[Path]) -> pd.DataFrame:
    frames = [read_frame(table, SEEN_COLUMNS) for table in tables]
    usable = [frame[frame["problem"] == ""] if "problem" in frame else frame for frame in frames]
    return pd.concat([frame[list(SEEN_COLUMNS)] for frame in usable], ignore_index=True)


def _read(record: Path) -> list[dict[str, Any]]:
    content = read_document(
        record, TRAINED_ON_SCHEMA, kind="the digests of the images that a model was trained on", again=AGAIN
    )
    records: list[dict[str, Any]] = content["records"]
    for one in records:
        # jsonschema takes seconds for the images of a large data set.
        for name in ("images", "patients"):
            if not all(isinstance(value, str) for value in one[name]):
                raise RetinaflowError(f"{record}: {name} has a value that is no text, expected digests. {AGAIN}")
    return records


def _names(patient: str, shared_patients: Sequence[Sequence[str]]) -> list[str]:
    """Names of a patient: ``eyepacs/17`` has one for each name of a data set with the same patients."""
    data_set, separator, own = patient.partition("/")
    group = next((group for group in shared_patients if separator and data_set in group), ())
    return [f"{name}/{own}" for name in group] or [patient]


def _digests(salt: str, values: Iterable[str]) -> list[str]:
    return sorted({salted_digest(salt, value) for value in values})


def _first(names: Sequence[str]) -> str:
    more = ", ..." if len(names) > NAMES_SHOWN else ""
    return ", ".join(map(repr, names[:NAMES_SHOWN])) + more
