"""Find the photographs of a data set, join them with their labels and say what is wrong with which."""

import logging
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from retinaflow.data.headers import Header, read_headers
from retinaflow.data.labels import IMAGE_EXTENSIONS, LabelRow, image_name, parse_level
from retinaflow.errors import RetinaflowError
from retinaflow.storage.archives import files_below
from retinaflow.storage.tables import Row, read_table, write_table

log = logging.getLogger(__name__)

INVENTORY_COLUMNS = (
    *("image", "path", "grade", "patient", "eye", "bytes", "width", "height", "digest"),
    *("focus", "exposure", "field", "quality", "problem"),
)
PROBLEM_COLUMNS = ("data_set", "image", "path", "problem", "found")
NAMED = "named in exclude"
EXAMPLES = 5

Fault = tuple[str, str]  # kind of problem and what was found; both empty where there is none


class InventoryReport(NamedTuple):
    """Photographs found, how many of them are usable, of how many patients those are, and rows of each problem."""

    photographs: int
    usable: int
    patients: int
    problems: dict[str, int]


class Label(NamedTuple):
    """What the label table says of one image: a level, or a problem and what was found."""

    level: str
    problem: str
    found: str


def take_inventory(
    dataset: str,
    folders: Sequence[Path],
    labels: Sequence[LabelRow],
    classes: Sequence[str],
    patient_pattern: str,
    exclude: Collection[str],
    megapixels: int,
    train: Path | None,
    inventory: Path,
    problems: Path,
    kept: Path,
    code: str,
    threads: int,
) -> InventoryReport:
    """Write the tables ``inventory`` (a row for each photograph) and ``problems`` of the data set called ``dataset``.

    Photographs are looked for in ``folders`` and all folders below; files and labels meet by image name (case counts).
    ``patient_pattern`` is matched against whole image names, its groups ``patient`` and, optionally, ``eye`` are kept;
    an image that does not match is a patient of its own. Images named in ``exclude`` are left out whatever they are.
    ``megapixels``, ``kept`` and ``code`` are those of ``read_headers``. ``train`` is the inventory of the training set
    where this is the test set: what would leak from one to the other is a problem of the photograph in the test set.

    A photograph has one problem at most, the first that applies in this order: named in ``exclude``; its name twice;
    its file; its label; the same bytes as another. None is an error here: what to do about which decides ``verdict``.

    Raises ``RetinaflowError``, having written nothing, if there is no photograph, ``exclude`` names an unknown image or
    the pattern is no pattern.
    """
    identify = identifier(patient_pattern)
    photographs, others = _find_photographs(dataset, folders)
    excluded = _excluded(dataset, exclude, set(photographs.values()) | {label.image for label in labels})
    judged, repeated = _judge_labels(labels, classes)
    headers = read_headers(list(photographs), megapixels, kept, code, threads)

    rows: list[Row] = []
    for (path, image), header in zip(photographs.items(), headers, strict=True):
        patient, eye = identify(image)
        level = judged[image].level if image in judged else ""
        file = (header.size, header.width, header.height, header.digest)
        looks = (header.focus, header.exposure, header.field, header.quality)
        values = (image, path, level, patient, eye, *file, *looks, "")
        rows.append(dict(zip(INVENTORY_COLUMNS, map(str, values), strict=True)))

    faults = _find_faults(photographs, headers, judged, excluded)
    faults |= _find_copies([row for row in rows if row["path"] not in faults])
    if train:
        known = usable(read_table(train, INVENTORY_COLUMNS))
        faults |= _find_leaks([row for row in rows if row["path"] not in faults], known)
    for row in rows:
        row["problem"] = faults.get(row["path"], ("", ""))[0]

    found = [(row["image"], row["path"], *faults[row["path"]]) for row in rows if row["problem"]]
    for image in sorted(judged.keys() - set(photographs.values())):
        found.append((image, "", *(("excluded", NAMED) if image in excluded else ("no_image", judged[image].found))))
    found += [(image, "", "repeated_label", fault) for image, fault in repeated.items()]
    found += [("", path, "other_file", "no extension of a photograph") for path in others]
    table = [dict(zip(PROBLEM_COLUMNS, (dataset, *values), strict=True)) for values in found]
    write_table(problems, PROBLEM_COLUMNS, table)
    write_table(inventory, INVENTORY_COLUMNS, rows)

    good = usable(rows)
    report = InventoryReport(
        len(rows), len(good), len({row["patient"] for row in good}), dict(Counter(row["problem"] for row in table))
    )
    log.info("%s: %d of %d photographs usable, of %d patients", dataset, report.usable, len(rows), report.patients)
    return report


def usable(rows: Iterable[Row]) -> list[Row]:
    """Rows of an inventory, or of a table made from one, whose photograph has no problem."""
    return [row for row in rows if not row.get("problem")]


def identifier(pattern: str) -> Callable[[str], tuple[str, str]]:
    """A function that tells patient and eye, ``""`` where it is not known, by the name of an image.

    Raises ``RetinaflowError`` if ``pattern`` is no regular expression with the group ``patient``.
    """
    try:
        # A name may hold any character, and `.` is meant to stand for each.
        compiled = re.compile(pattern, re.DOTALL)
    except re.error as error:
        raise RetinaflowError(f"data.patient_pattern: {pattern!r} is no regular expression ({error}).") from error
    if "patient" not in compiled.groupindex:
        raise RetinaflowError(
            f"data.patient_pattern: {pattern!r} has no group named 'patient', expected one as in "
            "'(?P<patient>.+)_(?P<eye>left|right)'."
        )

    def identify(image: str) -> tuple[str, str]:
        match = compiled.fullmatch(image)
        groups = match.groupdict() if match else {}
        return groups.get("patient") or image, groups.get("eye") or ""

    return identify


def _find_photographs(dataset: str, folders: Sequence[Path]) -> tuple[dict[str, str], list[str]]:
    """Paths of all photographs with their image names, in the order of the names; and paths of all other files."""
    # A dictionary, because one folder may lie within another.
    paths = {entry.path: entry.name for folder in folders for _, entry in files_below(str(folder))}
    found = [(image_name(name), path) for path, name in paths.items() if name.lower().endswith(IMAGE_EXTENSIONS)]
    photographs = {path: image for image, path in sorted(found)}
    if not photographs:
        raise RetinaflowError(
            f"{dataset}: no photograph in {', '.join(map(str, folders))} among {len(paths)} files. Expected files "
            f"that end in {', '.join(IMAGE_EXTENSIONS)}: correct the folder in the configuration."
        )
    return photographs, sorted(paths.keys() - photographs.keys())


def _excluded(dataset: str, exclude: Collection[str], known: Collection[str]) -> set[str]:
    excluded = {image_name(name) for name in exclude}
    if unknown := sorted(excluded - set(known)):
        raise RetinaflowError(
            f"{dataset}: data.{dataset}.exclude names {', '.join(map(repr, unknown[:EXAMPLES]))}"
            f"{f' and {len(unknown) - EXAMPLES} more' if len(unknown) > EXAMPLES else ''}, which is neither a "
            "photograph nor in the label table. Correct or remove it there."
        )
    return excluded


def _judge_labels(labels: Sequence[LabelRow], classes: Sequence[str]) -> tuple[dict[str, Label], dict[str, str]]:
    """What the labels say of each image; and, for images in several rows that agree, what was found."""
    by_image: dict[str, list[LabelRow]] = defaultdict(list)
    for label in labels:
        by_image[label.image].append(label)
    judged, repeated = {}, {}
    for image, same in by_image.items():
        where = f"row{'s' if len(same) > 1 else ''} {', '.join(str(label.row) for label in same)}"
        found = f"level {', '.join(repr(label.level_text) for label in same)} in {where}"
        levels = {parse_level(label.level_text, classes) for label in same}
        level = levels.pop()
        if levels:
            judged[image] = Label("", "duplicate_label", found)
        elif level is None:
            judged[image] = Label("", "bad_grade", f"{found}, expected 0 to {len(classes) - 1} or the name of a class")
        else:
            judged[image] = Label(str(level), "", found)
        if len(same) > 1 and not levels:
            repeated[image] = found
    return judged, repeated


def _find_faults(
    photographs: Mapping[str, str], headers: Sequence[Header], judged: Mapping[str, Label], excluded: Collection[str]
) -> dict[str, Fault]:
    """First problem of each path by itself, where it has one."""
    same_name: dict[str, list[str]] = defaultdict(list)
    for path, image in photographs.items():
        if image not in excluded:
            same_name[image.casefold()].append(path)
    faults = {}
    for (path, image), header in zip(photographs.items(), headers, strict=True):
        twins = [twin for twin in same_name[image.casefold()] if twin != path]
        if image in excluded:
            faults[path] = ("excluded", NAMED)
        elif twins:
            faults[path] = ("duplicate_image", f"the same name as {', '.join(map(repr, twins))}")
        elif header.problem:
            faults[path] = (header.problem, header.found)
        elif image not in judged:
            faults[path] = ("no_label", "no row in the label table")
        elif judged[image].problem:
            faults[path] = (judged[image].problem, judged[image].found)
    return faults


def _find_copies(rows: Sequence[Row]) -> dict[str, Fault]:
    """Photographs whose bytes are those of another: all of them if the levels differ, or all but the first."""
    same: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        same[row["digest"]].append(row)
    faults = {}
    for first, *rest in same.values():
        other = next((row for row in rest if row["grade"] != first["grade"]), None)
        for row in rest:
            faults[row["path"]] = _copy(row, first if row["grade"] != first["grade"] or not other else other)
        if other:
            faults[first["path"]] = _copy(first, other)
    return faults


def _find_leaks(rows: Sequence[Row], train: Sequence[Row]) -> dict[str, Fault]:
    """Photographs of the test set that the training set ``train`` knows, or knows the patient of."""
    by_digest = {row["digest"]: row for row in reversed(train)}
    by_patient = {row["patient"]: row for row in reversed(train)}
    faults = {}
    for row in rows:
        original, fellow = by_digest.get(row["digest"]), by_patient.get(row["patient"])
        if original and original["grade"] != row["grade"]:
            faults[row["path"]] = _copy(row, original)
        elif fellow:
            faults[row["path"]] = ("patient_in_both", f"patient {row['patient']!r} has {fellow['path']!r} in train")
        elif original:
            faults[row["path"]] = _copy(row, original)
    return faults


def _copy(row: Row, original: Row) -> Fault:
    if row["grade"] == original["grade"]:
        return "identical", f"the same bytes and level as {original['path']!r}"
    where = f"{original['path']!r} of grade {original['grade']}"
    return "identical_conflict", f"grade {row['grade']}, but the same bytes as {where}"
