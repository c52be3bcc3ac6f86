"""Inventory of a data set: find its images, join them with their labels, and list the problems of each."""

import logging
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from retinaflow.data.dicom import MISSING
from retinaflow.data.frames import parse_numbers, read_frame, write_frame
from retinaflow.data.headers import Header, read_headers
from retinaflow.data.image_files import IMAGE_EXTENSIONS, counts_by_extension, is_image_file, is_thumbnail, other_file
from retinaflow.data.labels import LabelRow, image_name, name_parser, parse_grade
from retinaflow.errors import RetinaflowError
from retinaflow.storage.archives import files_below

log = logging.getLogger(__name__)

INVENTORY_COLUMNS = (
    *("image", "path", "grade", "patient", "eye", "bytes", "width", "height", "digest"),
    *("focus", "exposure", "field", "quality", "camera", "problem"),
)
PROBLEM_COLUMNS = ("data_set", "image", "path", "problem", "found")
NAMED = "named in exclude"
EXAMPLES = 5

Problem = tuple[str, str]  # Kind of the problem and a description.


class InventoryReport(NamedTuple):
    """Number of images, of usable images, of patients with usable images, and of problems of each kind."""

    images: int
    usable: int
    patients: int
    problems: dict[str, int]


class Label(NamedTuple):
    """Label of an image.

    Attributes:
        grade: The grade as text, empty if there is a problem.
        problem: Kind of the problem, or empty.
        found: Content of the label table.
    """

    grade: str
    problem: str
    found: str


@dataclass(frozen=True)
class InventoryJob:
    """One inventory to take.

    Args:
        data_set: Name of the data set: ``train`` or ``test``, or ``train-NAME`` or ``test-NAME`` of several.
        folders: Folders of images. Their subfolders are searched, too.
        labels: Rows of the label table. Files and labels match by image name; case counts.
        grade_names: Names of the grades, in their order.
        patient_pattern: Regular expression for image names, as ``labels.name_parser`` takes it.
        exclude: Names of images to leave out.
        megapixels: Largest size of an image that is decoded.
        train: Inventory of the training set if this is the test set. Images that would leak from one set to the other
            are problems of the test set.
        inventory: Output table, a row for each image (``INVENTORY_COLUMNS``).
        problems: Output table, a row for each problem (``PROBLEM_COLUMNS``).
        cache: File of the cached headers.
        code: Stands for the code that reads the images. Headers that other code read are not reused.
        threads: Number of threads that read.
        patient_group: Name that patients have before their own, as in ``eyepacs/17``, so that patients of other data
            sets differ. Empty for none.
    """

    data_set: str
    folders: Sequence[Path]
    labels: Sequence[LabelRow]
    grade_names: Sequence[str]
    patient_pattern: str
    exclude: Collection[str]
    megapixels: int
    train: Path | None
    inventory: Path
    problems: Path
    cache: Path
    code: str
    threads: int = 1
    patient_group: str = ""


def take_inventory(job: InventoryJob) -> InventoryReport:
    """Write the tables of images and problems of a data set.

    An image has at most one problem. It is the first of these:

    - ``exclude`` names it.
    - Another image has the same name.
    - Its file cannot be used.
    - Its label is missing, unknown or ambiguous.
    - Another image has the same bytes.
    - It is in the test set, and its bytes or its patient are in the training set.

    A problem is no error here: ``problem_policy`` decides about that.

    Raises:
        RetinaflowError: There is no image, ``exclude`` names an unknown image, or the patient pattern is wrong. No
            table is written.
    """
    parse_name = name_parser(job.patient_pattern)
    paths, other_files = _find_images(job.data_set, job.folders)
    labels, repeated = _check_labels(job.labels, job.grade_names)
    excluded = _excluded_images(job.data_set, job.exclude, known={*paths.values(), *labels})
    headers = read_headers(list(paths), job.megapixels, cache=job.cache, code=job.code, threads=job.threads)
    _check_dicom(job.data_set, paths, headers)
    images = _join(paths, headers, labels=labels, parse_name=parse_name)
    if job.patient_group:
        patients = [f"{job.patient_group}/{patient}" for patient in images["patient"]]
        images["patient"] = pd.Series(patients, dtype=object)

    problems = _image_problems(paths, headers, labels=labels, excluded=excluded)
    problems |= find_copies(_without(images, problems))
    if job.train:
        train = usable(read_frame(job.train, INVENTORY_COLUMNS))
        problems |= _find_leaks(_without(images, problems), train)
    images["problem"] = pd.Series([problems.get(path, ("", ""))[0] for path in paths], dtype=object)

    listed = [(image, path, *problems[path]) for path, image in paths.items() if path in problems]
    for image in sorted(labels.keys() - set(paths.values())):
        listed.append((image, "", *(("excluded", NAMED) if image in excluded else ("no_image", labels[image].found))))
    listed += [(image, "", "repeated_label", found) for image, found in repeated.items()]
    for (path, image), header in zip(paths.items(), headers, strict=True):
        if header.note and path not in problems:
            listed.append((image, path, "no_end_marker", header.note))
    listed += [("", path, "other_file", why) for path, why in other_files.items()]
    table = pd.DataFrame([(job.data_set, *row) for row in listed], columns=PROBLEM_COLUMNS, dtype=object)
    write_frame(job.problems, table)
    write_frame(job.inventory, images)

    report = report_of(images, table)
    counts = (report.usable, report.images, report.patients)
    log.info("%s: %d of %d images usable, of %d patients", job.data_set, *counts)
    return report


def report_of(images: pd.DataFrame, problems: pd.DataFrame) -> InventoryReport:
    """Count the rows of an inventory and of its table of problems."""
    good = usable(images)
    return InventoryReport(len(images), len(good), good["patient"].nunique(), dict(Counter(problems["problem"])))


def usable(images: pd.DataFrame) -> pd.DataFrame:
    """Rows of an inventory, or of a table made from one, whose image has no problem."""
    return images[images["problem"] == ""] if "problem" in images else images


def read_usable(path: str | os.PathLike[str], columns: Sequence[str] = INVENTORY_COLUMNS) -> pd.DataFrame:
    """Read the usable rows of an inventory, or of a table made from one.

    Args:
        path: The table.
        columns: Columns that it must have, ``grade`` among them.

    Returns:
        All columns, ``grade`` as int and all others as text. The index has a gap for each row that is left out.

    Raises:
        RetinaflowError: The table is damaged, or an image without problem has no grade.
    """
    images = usable(read_frame(path, columns))
    return images.assign(grade=parse_numbers(path, images["grade"], int))


def _without(images: pd.DataFrame, problems: Mapping[str, Problem]) -> pd.DataFrame:
    return images[~images["path"].isin(problems.keys())]


def _find_images(data_set: str, folders: Sequence[Path]) -> tuple[dict[str, str], dict[str, str]]:
    """Return the name of each image by its path, in the order of the names, and why each other file is none."""
    # A dictionary, because one folder may be inside another.
    paths = {entry.path: name for folder in folders for name, entry in files_below(str(folder))}
    others = {path: other_file(name) for path, name in sorted(paths.items()) if not _is_image(name, path)}
    found = [(image_name(Path(path).name), path) for path in paths if path not in others]
    images = {path: image for image, path in sorted(found)}
    if not images:
        raise RetinaflowError(
            f"{data_set}: no image in {', '.join(map(str, folders))} among {len(paths)} files "
            f"({counts_by_extension(paths)}). Expected files that end in {', '.join(IMAGE_EXTENSIONS)}, or DICOM files "
            "without an extension: correct the folder in the configuration."
        )
    return images, others


def _is_image(name: str, path: str) -> bool:
    return not is_thumbnail(name) and is_image_file(name, path)


def _check_dicom(data_set: str, paths: Iterable[str], headers: Sequence[Header]) -> None:
    """Raise one error if the packages for DICOM files are not installed. Warn of one patient in all of them."""
    unread = [path for path, header in zip(paths, headers, strict=True) if header.found == MISSING]
    if unread:
        raise RetinaflowError(f"{data_set}: {len(unread)} files cannot be read. {unread[0]!r} is {MISSING}.")
    patients = [header.patient for header in headers if header.patient]
    if len(patients) > 2 and len(set(patients)) == 1:
        message = "%s: all %d DICOM files have the same PatientID, so that they are one patient. Correct the tags."
        log.warning(message, data_set, len(patients))


def _join(
    paths: Mapping[str, str],
    headers: Sequence[Header],
    *,
    labels: Mapping[str, Label],
    parse_name: Callable[[str], tuple[str, str]],
) -> pd.DataFrame:
    """Return the table of images (``INVENTORY_COLUMNS``), with the column ``problem`` empty."""
    rows = []
    for (path, image), header in zip(paths.items(), headers, strict=True):
        grade = labels[image].grade if image in labels else ""
        file = (header.size, header.width, header.height, header.digest)
        quality = (header.focus, header.exposure, header.field, header.quality)
        patient, eye = parse_name(image)
        identity = (header.patient or patient, header.eye or eye)
        rows.append((image, path, grade, *identity, *file, *quality, header.camera, ""))
    return pd.DataFrame(rows, columns=INVENTORY_COLUMNS, dtype=object)


def _excluded_images(data_set: str, exclude: Collection[str], *, known: Collection[str]) -> set[str]:
    excluded = {image_name(name) for name in exclude}
    if unknown := sorted(excluded - set(known)):
        raise RetinaflowError(
            f"{data_set}: data.{data_set.replace('-', '.', 1)}.exclude names {', '.join(map(repr, unknown[:EXAMPLES]))}"
            f"{f' and {len(unknown) - EXAMPLES} more' if len(unknown) > EXAMPLES else ''}, which is neither an "
            "image nor in the label table. Correct or remove it there."
        )
    return excluded


def _check_labels(labels: Sequence[LabelRow], grade_names: Sequence[str]) -> tuple[dict[str, Label], dict[str, str]]:
    """Return the label of each image, and a description of the rows of each image that has several equal labels."""
    by_image: dict[str, list[LabelRow]] = defaultdict(list)
    for label in labels:
        by_image[label.image].append(label)
    checked, repeated = {}, {}
    for image, rows in by_image.items():
        where = f"row{'s' if len(rows) > 1 else ''} {', '.join(str(label.row) for label in rows)}"
        found = f"level {', '.join(repr(label.grade_text) for label in rows)} in {where}"
        grades = {parse_grade(label.grade_text, grade_names) for label in rows}
        grade = grades.pop()
        if grades:
            checked[image] = Label("", "duplicate_label", found)
        elif grade is None:
            expected = f"expected 0 to {len(grade_names) - 1} or the name of a class"
            checked[image] = Label("", "bad_grade", f"{found}, {expected}")
        else:
            checked[image] = Label(str(grade), "", found)
        if len(rows) > 1 and not grades:
            repeated[image] = found
    return checked, repeated


def _image_problems(
    paths: Mapping[str, str], headers: Sequence[Header], *, labels: Mapping[str, Label], excluded: Collection[str]
) -> dict[str, Problem]:
    """Return the first problem of each path that concerns this image alone, its name or its label."""
    same_name: dict[str, list[str]] = defaultdict(list)
    for path, image in paths.items():
        if image not in excluded:
            same_name[image.casefold()].append(path)
    problems = {}
    for (path, image), header in zip(paths.items(), headers, strict=True):
        twins = [twin for twin in same_name[image.casefold()] if twin != path]
        if image in excluded:
            problems[path] = ("excluded", NAMED)
        elif twins:
            problems[path] = ("duplicate_image", f"the same name as {', '.join(map(repr, twins))}")
        elif header.problem:
            problems[path] = (header.problem, header.found)
        elif image not in labels:
            problems[path] = ("no_label", "no row in the label table")
        elif labels[image].problem:
            problems[path] = (labels[image].problem, labels[image].found)
    return problems


def find_copies(images: pd.DataFrame) -> dict[str, Problem]:
    """Find images with the bytes of another one: all of them if the grades differ, else all but the first."""
    same_bytes: dict[str, list[Any]] = defaultdict(list)
    for image in _rows(images):
        same_bytes[image.digest].append(image)
    problems = {}
    for first, *rest in same_bytes.values():
        conflict = next((image for image in rest if image.grade != first.grade), None)
        for image in rest:
            original = first if image.grade != first.grade or not conflict else conflict
            problems[image.path] = _copy(image, original)
        if conflict:
            problems[first.path] = _copy(first, conflict)
    return problems


def _find_leaks(images: pd.DataFrame, train: pd.DataFrame) -> dict[str, Problem]:
    """Find images of the test set whose bytes or patient are among the usable images of the training set."""
    known = _rows(train)[::-1]  # Reversed, so that the first of several images counts.
    by_digest = {image.digest: image for image in known}
    by_patient = {image.patient: image for image in known}
    problems = {}
    for image in _rows(images):
        original, same_patient = by_digest.get(image.digest), by_patient.get(image.patient)
        if original and original.grade != image.grade:
            problems[image.path] = _copy(image, original)
        elif same_patient:
            found = f"patient {image.patient!r} has {same_patient.path!r} in train"
            problems[image.path] = ("patient_in_both", found)
        elif original:
            problems[image.path] = _copy(image, original)
    return problems


def _rows(images: pd.DataFrame) -> list[Any]:
    """Rows as named tuples."""
    return list(images.itertuples(index=False))


def _copy(image: Any, original: Any) -> Problem:
    if image.grade == original.grade:
        return "identical", f"the same bytes and level as {original.path!r}"
    where = f"{original.path!r} of grade {original.grade}"
    return "identical_conflict", f"grade {image.grade}, but the same bytes as {where}"
