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
from retinaflow.data.grade_texts import GradeMap, grade_parser, plain_text, values_of
from retinaflow.data.headers import Header, read_headers
from retinaflow.data.image_files import IMAGE_EXTENSIONS, counts_by_extension, is_image_file, is_thumbnail, other_file
from retinaflow.data.labels import UNGRADED, LabelRow, folder_labels, image_name, name_parser
from retinaflow.data.matching import composed, match_names, name_difference, named_elsewhere, near_names
from retinaflow.errors import RetinaflowError
from retinaflow.settings.data import set_key
from retinaflow.storage.archives import files_below

log = logging.getLogger(__name__)

INVENTORY_COLUMNS = (
    *("image", "path", "grade", "patient", "eye", "bytes", "width", "height", "digest"),
    *("focus", "exposure", "field", "quality", "camera", "problem"),
)
SUBGROUP = "subgroup_"  # Before the name of a column of subgroups.
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
        patient: The patient, empty if the table has none.
        eye: The eye, empty if the table has none.
        subgroups: Value of each column of subgroups.
    """

    grade: str
    problem: str
    found: str
    patient: str
    eye: str
    subgroups: tuple[str, ...] = ()


UNLABELLED = Label("", "", "", "", "")


@dataclass(frozen=True)
class InventoryJob:
    """One inventory to take.

    Args:
        data_set: Name of the data set: ``train`` or ``test``, or ``train-NAME`` or ``test-NAME`` of several.
        folders: Folders of images. Their subfolders are searched, too.
        labels: Rows of the label table. Files and labels match by image name; case counts. A patient or eye in a row
            replaces that of the name. None if the grades are the names of folders.
        grade_names: Names of the grades, in their order.
        patient_pattern: Regular expression for image names, as ``labels.name_parser`` takes it.
        exclude: Names of images to leave out.
        megapixels: Largest size of an image that is decoded.
        train: Inventory of the training set if this is the test set. Images that would leak from one set to the other
            are problems of the test set.
        inventory: Output table, a row for each image (``INVENTORY_COLUMNS`` and ``subgroup_columns``).
        problems: Output table, a row for each problem (``PROBLEM_COLUMNS``).
        cache: File of the cached headers.
        code: Stands for the code that reads the images. Headers that other code read are not reused.
        threads: Number of threads that read.
        patient_group: Name that patients have before their own, as in ``eyepacs/17``, so that patients of other data
            sets differ. Empty for none.
        grade_map: Grades of the values in the label table, see ``grade_texts.grade_parser``.
        train_grades: Grade of this set for each grade of the training set; empty if both have the same grades.
        other_labels: Rows of other data sets that have images in the same folders. Their images are left out.
        subgroups: Names of the columns of subgroups in the label table.
        grade_separator: Characters between several values of a grade, see ``grade_texts.grade_parser``.
        ungradable: Values of the grade of images that nobody could grade.
    """

    data_set: str
    folders: Sequence[Path]
    labels: Sequence[LabelRow] | None
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
    grade_map: GradeMap | None = None
    train_grades: Sequence[int] = ()
    other_labels: Sequence[LabelRow] = ()
    subgroups: Sequence[str] = ()
    grade_separator: str = ""
    ungradable: Sequence[str] = ()


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
    paths, rows, other_files = _find_images(job)
    labels, repeated = _check_labels(rows, job)
    excluded = _excluded_images(job.data_set, job.exclude, known={*paths.values(), *labels})
    headers = read_headers(list(paths), job.megapixels, cache=job.cache, code=job.code, threads=job.threads)
    _check_dicom(job.data_set, paths, headers)
    images = _join(paths, headers, labels=labels, parse_name=parse_name)
    for place, name in enumerate(job.subgroups):
        values = [labels[image].subgroups[place] if image in labels else "" for image in images["image"]]
        images[f"{SUBGROUP}{name.strip()}"] = pd.Series(values, dtype=object)
    if job.patient_group:
        patients = [f"{job.patient_group}/{patient}" for patient in images["patient"]]
        images["patient"] = pd.Series(patients, dtype=object)

    problems = _image_problems(paths, headers, labels=labels, excluded=excluded)
    problems |= find_copies(_without(images, problems))
    if job.train:
        train = usable(read_frame(job.train, INVENTORY_COLUMNS))
        if job.train_grades:
            train = train.assign(grade=[str(job.train_grades[int(grade)]) for grade in train["grade"]])
        problems |= _find_leaks(_without(images, problems), train)
    images["problem"] = pd.Series([problems.get(path, ("", ""))[0] for path in paths], dtype=object)

    listed = _list_problems(paths, problems, labels=labels, excluded=excluded)
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


def subgroup_columns(images: pd.DataFrame) -> list[str]:
    """Return the columns of subgroups of an inventory, or of a table made from one: ``subgroup_`` and a name."""
    return [name for name in images.columns if name.startswith(SUBGROUP)]


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


def _find_images(job: InventoryJob) -> tuple[dict[str, str], list[LabelRow], dict[str, str]]:
    """Return the name of each image by its path, in their order, the labels, and why each other file is none."""
    # A dictionary, because one folder may be inside another.
    paths = {entry.path: name for folder in job.folders for name, entry in files_below(str(folder))}
    others = {path: other_file(name) for path, name in sorted(paths.items()) if not _is_image(name, path)}
    relative = {path: image_name(name) for path, name in paths.items() if path not in others}
    if not relative:
        raise RetinaflowError(
            f"{job.data_set}: no image in {', '.join(map(str, job.folders))} among {len(paths)} files "
            f"({counts_by_extension(paths)}). Expected files that end in {', '.join(IMAGE_EXTENSIONS)}, or DICOM files "
            "without an extension: correct the folder in the configuration."
        )
    labels = job.labels
    if labels is None:
        labels = folder_labels(list(relative.values()), grade_parser(job.grade_names, job.grade_map))
    names = {path: image_name(Path(path).name) for path in relative}
    for path in named_elsewhere(names, relative, labels, job.other_labels) if job.other_labels else ():
        del names[path]
    if not names:
        raise RetinaflowError(
            f"{job.data_set}: all {len(relative)} images are in the label tables of other data sets of the same "
            "folder. Correct the label tables."
        )
    names, labels = match_names(names, relative, labels)
    return dict(sorted(names.items(), key=lambda item: item[::-1])), labels, others


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


def _list_problems(
    paths: Mapping[str, str],
    problems: Mapping[str, Problem],
    *,
    labels: Mapping[str, Label],
    excluded: Collection[str],
) -> list[tuple[str, str, str, str]]:
    """Return image, path, kind and description of the problems of images and of labels without an image."""
    missing = labels.keys() - set(paths.values())
    unlabelled = {image for image in paths.values() if image not in labels}
    rows, files = near_names(unlabelled, missing), near_names(missing, unlabelled)
    listed = []
    for path, image in paths.items():
        if path in problems:
            kind, found = problems[path]
            if kind == "no_label" and image in rows:
                found += f"; its row of {rows[image]!r} differs in {name_difference(image, rows[image])}"
            listed.append((image, path, kind, found))
    for image in sorted(missing):
        found = labels[image].found
        if image in files:
            found += f"; the image {files[image]!r} differs in {name_difference(image, files[image])}"
        listed.append((image, "", *(("excluded", NAMED) if image in excluded else ("no_image", found))))
    return listed


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
        label = labels.get(image, UNLABELLED)
        patient, eye = parse_name(composed(image))
        file = (header.size, header.width, header.height, header.digest)
        quality = (header.focus, header.exposure, header.field, header.quality)
        # The label table counts first, then tags of the file, then its name.
        person = composed(label.patient or header.patient) or patient
        # In the name of a patient, "/" is only after the name of a data set.
        identity = (person.replace("/", "_"), label.eye or header.eye or eye)
        rows.append((image, path, label.grade, *identity, *file, *quality, header.camera, ""))
    return pd.DataFrame(rows, columns=INVENTORY_COLUMNS, dtype=object)


def _excluded_images(data_set: str, exclude: Collection[str], *, known: Collection[str]) -> set[str]:
    excluded = {image_name(name) for name in exclude}
    if unknown := sorted(excluded - set(known)):
        raise RetinaflowError(
            f"{data_set}: {set_key(data_set)}.exclude names {', '.join(map(repr, unknown[:EXAMPLES]))}"
            f"{f' and {len(unknown) - EXAMPLES} more' if len(unknown) > EXAMPLES else ''}, which is neither an "
            "image nor in the label table. Correct or remove it there."
        )
    return excluded


def _check_labels(labels: Sequence[LabelRow], job: InventoryJob) -> tuple[dict[str, Label], dict[str, str]]:
    """Return the label of each image, and a description of the rows of each image that has several equal labels."""
    parse = grade_parser(job.grade_names, job.grade_map, job.grade_separator)
    expected = "a value of grade_map" if job.grade_map else f"0 to {len(job.grade_names) - 1} or the name of a grade"
    by_image: dict[str, list[LabelRow]] = defaultdict(list)
    for label in labels:
        by_image[label.image].append(label)
    checked: dict[str, Label] = {}
    repeated = {}
    for image, rows in by_image.items():
        found = f"grade {', '.join(repr(label.grade_text) for label in rows)} in {_where(rows)}"
        meanings = {(parse(label.grade_text), label.patient, label.eye) for label in rows}
        grade, patient, eye = meanings.pop()
        one = Label("" if grade is None else str(grade), "", found, patient, eye, rows[0].subgroups)
        if meanings:
            others = {(patient, eye), *(meaning[1:] for meaning in meanings)}
            if len(others) > 1:
                found += ", of different patients or eyes"
            one = one._replace(grade="", problem="duplicate_label", found=found)
        elif grade is None and _is_ungradable(rows[0].grade_text, job):
            one = one._replace(problem=UNGRADED, found=found)
        elif grade is None:
            one = one._replace(problem="bad_grade", found=f"{found}, expected {expected}")
        checked[image] = one
        if len(rows) > 1 and not meanings:
            repeated[image] = found
    return checked, repeated


def _is_ungradable(grade_text: str, job: InventoryJob) -> bool:
    values = {plain_text(value) for value in values_of(grade_text, job.grade_separator)}
    return not values.isdisjoint(map(plain_text, job.ungradable))


def _where(labels: Sequence[LabelRow]) -> str:
    """Rows of some labels, with the table of each if there are several."""
    if not labels[0].row:
        return "the name of the folder"
    rows = [f"{label.row} of {label.table}" if label.table else str(label.row) for label in labels]
    return f"row{'s' if len(rows) > 1 else ''} {', '.join(rows)}"


def _image_problems(
    paths: Mapping[str, str], headers: Sequence[Header], *, labels: Mapping[str, Label], excluded: Collection[str]
) -> dict[str, Problem]:
    """Return the first problem of each path that concerns this image alone, its name or its label."""
    same_name: dict[str, list[str]] = defaultdict(list)
    for path, image in paths.items():
        if image not in excluded:
            same_name[composed(image).casefold()].append(path)
    problems = {}
    for (path, image), header in zip(paths.items(), headers, strict=True):
        twins = [twin for twin in same_name[composed(image).casefold()] if twin != path]
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
