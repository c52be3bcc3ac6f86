"""Find the photographs of a data set, join them with their labels and say what is wrong with which."""

import io
import json
import logging
import re
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from retinaflow.archives import files_below
from retinaflow.errors import RetinaflowError
from retinaflow.files import digest, whole_file
from retinaflow.labels import IMAGE_EXTENSIONS, LabelRow, image_name, parse_level
from retinaflow.tables import Row, write_table

log = logging.getLogger(__name__)

INVENTORY_COLUMNS = ("image", "path", "level", "patient", "eye", "bytes", "width", "height", "digest", "problem")
PROBLEM_COLUMNS = ("dataset", "image", "path", "problem", "found", "action")
ON_PROBLEM = {
    "unreadable": "exclude",
    "no_label": "exclude",
    "no_image": "exclude",
    "bad_level": "error",
    "duplicate_image": "error",
    "duplicate_label": "error",
}
ACTIONS = {"error": "error", "exclude": "excluded"}
NAMED = "named in exclude"
# WebP goes by the extension of another format often enough, and OpenCV decodes it.
FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "WEBP")
EXAMPLES = 5
SETTLED = 2_000_000_000  # nanoseconds: some file systems count in steps of two seconds


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


class Header(NamedTuple):
    """What a photograph's file says: size in bytes and pixels, digest of its bytes, and what is wrong (or empty)."""

    size: int | str
    width: int | str
    height: int | str
    digest: str
    fault: str


class State(NamedTuple):
    """What tells a file from what it was before: size in bytes and time of its last change in ns since 1970."""

    size: int
    changed: int


def take_inventory(
    dataset: str,
    folders: Sequence[Path],
    labels: Sequence[LabelRow],
    classes: Sequence[str],
    patient_pattern: str,
    on_problem: Mapping[str, str],
    exclude: Collection[str],
    exclude_limit: float,
    inventory: Path,
    problems: Path,
    kept: Path,
    code: str,
    threads: int,
) -> InventoryReport:
    """Write the tables ``inventory`` (a row for each photograph) and ``problems`` of the data set called ``dataset``.

    ``kept`` remembers what was read: a photograph of the same path, size and time of change is not read again as long
    as ``code``, which stands for what reads them, is the same.

    Photographs are looked for in ``folders`` and all folders below; files and labels meet by image name (case counts).
    ``patient_pattern`` is matched against whole image names, its groups ``patient`` and, optionally, ``eye`` are kept;
    an image that does not match is a patient of its own. ``on_problem`` says for each kind of ``ON_PROBLEM`` whether it
    is to ``exclude`` the photograph or to be an ``error``. Images named in ``exclude`` are left out whatever they are.

    Raises ``RetinaflowError``, having written ``problems`` but not ``inventory``, if there is a problem that is to be
    an error, problems exclude more than the share ``exclude_limit`` (0..1) of the photographs, or none is usable; and,
    having written nothing, if there is no photograph, ``exclude`` names an unknown image or the pattern is no pattern.
    """
    identify = _identifier(patient_pattern)
    photographs, others = _find_photographs(dataset, folders)
    excluded = _excluded(dataset, exclude, set(photographs.values()) | {label.image for label in labels})
    judged, repeated = _judge_labels(labels, classes)
    headers = _read_headers(list(photographs), kept, code, threads)
    faults = _find_faults(photographs, headers, judged, excluded)

    rows: list[Row] = []
    for (path, image), header in zip(photographs.items(), headers, strict=True):
        patient, eye = identify(image)
        level = judged[image].level if image in judged else ""
        values = (image, path, level, patient, eye, header.size, header.width, header.height, header.digest)
        rows.append(dict(zip(INVENTORY_COLUMNS, map(str, (*values, faults[path][0])), strict=True)))

    actions = {kind: ACTIONS[setting] for kind, setting in {**ON_PROBLEM, **on_problem, "excluded": "exclude"}.items()}
    found = [(image, path, *faults[path], actions.get(faults[path][0], "")) for path, image in photographs.items()]
    for image in sorted(judged.keys() - set(photographs.values())):
        kind, fault = ("excluded", NAMED) if image in excluded else ("no_image", judged[image].found)
        found.append((image, "", kind, fault, actions[kind]))
    found += [(image, "", "duplicate_label", fault, "ignored") for image, fault in repeated.items()]
    found += [("", path, "other_file", "no extension of a photograph", "ignored") for path in others]
    table = [dict(zip(PROBLEM_COLUMNS, (dataset, *values), strict=True)) for values in found if values[2]]
    write_table(problems, PROBLEM_COLUMNS, table)
    _check(dataset, rows, table, exclude_limit, problems)
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


def _identifier(pattern: str) -> Callable[[str], tuple[str, str]]:
    try:
        # A name may hold any character, and `.` is meant to stand for each.
        compiled = re.compile(pattern, re.DOTALL)
    except re.error as error:
        raise RetinaflowError(f"data.patient: {pattern!r} is no regular expression ({error}).") from error
    if "patient" not in compiled.groupindex:
        raise RetinaflowError(
            f"data.patient: {pattern!r} has no group named 'patient', expected one as in "
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
            judged[image] = Label("", "bad_level", f"{found}, expected 0 to {len(classes) - 1} or the name of a class")
        else:
            judged[image] = Label(str(level), "", found)
        if len(same) > 1 and not levels:
            repeated[image] = found
    return judged, repeated


def _read_headers(paths: Sequence[str], kept: Path, code: str, threads: int) -> list[Header]:
    start = time.time_ns()
    states = {path: _state(path) for path in paths}
    headers = {path: header for path, (state, header) in _recall(kept, code).items() if states.get(path) == state}
    unread = [path for path in paths if path not in headers]
    if unread:
        headers.update(zip(unread, _read(unread, threads), strict=True))
        settled = {
            path: (state, headers[path])
            for path, state in states.items()
            # A file that changed just now may change again within the same tick of the clock.
            if state and state.changed < start - SETTLED and not headers[path].fault
        }
        _remember(kept, code, settled)
    return [headers[path] for path in paths]


def _state(path: str) -> State | None:
    try:
        status = Path(path).stat()
    except OSError:
        return None
    return State(status.st_size, status.st_mtime_ns)


def _recall(kept: Path, code: str) -> dict[str, tuple[State, Header]]:
    try:
        content = json.loads(kept.read_text(encoding="utf-8"))
        if content["code"] != code:
            return {}
        return {path: (State(*state), Header(*header)) for path, (state, header) in content["headers"].items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):  # none yet, or not what this function wrote
        return {}


def _remember(kept: Path, code: str, headers: Mapping[str, tuple[State, Header]]) -> None:
    try:
        with whole_file(kept) as part:
            # Escaped, as file names need not be UTF-8.
            part.write_text(json.dumps({"code": code, "headers": headers}), encoding="ascii")
    except OSError as error:
        log.info("%s: what was read is not kept for the next time (%s)", kept, error)


def _read(paths: Sequence[str], threads: int) -> list[Header]:
    # Here, because split and organize use this module and should not wait for Pillow.
    from PIL import Image

    Image.init()
    # Only headers are read: how many pixels they promise is no danger here.
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        # A header that is odd but readable is none of the user's business, one that is not becomes a problem.
        with warnings.catch_warnings(action="ignore"), ThreadPoolExecutor(threads) as pool:
            return list(pool.map(_read_header, paths))
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _read_header(path: str) -> Header:
    from PIL import Image

    # Opening a named pipe would wait for ever.
    if not Path(path).is_file():
        return Header("", "", "", "", "neither a file nor a link to one")
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        return Header("", "", "", "", str(error.strerror))
    if not content:
        return Header(0, "", "", digest(content), "empty file")
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            width, height = image.size
    # A broken header makes Pillow raise nearly anything, and one bad file must not end the inventory of all others.
    except Exception as error:
        fault = "not an image" if isinstance(error, OSError) else f"broken header ({error})"
        return Header(len(content), "", "", digest(content), fault)
    if width < 1 or height < 1:
        return Header(len(content), "", "", digest(content), f"broken header ({width} x {height} pixels)")
    return Header(len(content), width, height, digest(content), "")


def _find_faults(
    photographs: Mapping[str, str], headers: Sequence[Header], judged: Mapping[str, Label], excluded: Collection[str]
) -> dict[str, tuple[str, str]]:
    """First problem of each path and what was found; two empty strings where there is none."""
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
        elif header.fault:
            faults[path] = ("unreadable", header.fault)
        elif image not in judged:
            faults[path] = ("no_label", "no row in the label table")
        elif judged[image].problem:
            faults[path] = (judged[image].problem, judged[image].found)
        else:
            faults[path] = ("", "")
    return faults


def _check(dataset: str, rows: Sequence[Row], table: Sequence[Row], exclude_limit: float, problems: Path) -> None:
    listed = f"All problems are listed in {problems}."
    errors = [row for row in table if row["action"] == "error"]
    if errors:
        settings = [f"data.on_problem.{kind}: exclude" for kind in dict.fromkeys(row["problem"] for row in errors)]
        raise RetinaflowError(
            f"{dataset}: {len(errors)} problems to be solved first\n{_summary(errors)}\n{listed} Correct the "
            f"photographs or the label table, or set {', '.join(settings)} to go on without."
        )
    if not usable(rows):
        raise RetinaflowError(
            f"{dataset}: none of the {len(rows)} photographs is usable\n{_summary(table)}\n{listed} Correct the "
            "folder, the label table or the names of its columns."
        )
    left_out = [row for row in table if row["path"] and row["action"] == "excluded" and row["problem"] != "excluded"]
    if len(left_out) > exclude_limit * len(rows):
        raise RetinaflowError(
            f"{dataset}: {len(left_out)} of {len(rows)} photographs are excluded, more than the share of "
            f"{exclude_limit} that data.exclude_limit allows\n{_summary(left_out)}\n{listed} Correct the "
            "photographs or the label table, or raise data.exclude_limit."
        )


def _summary(table: Sequence[Row]) -> str:
    """Number of each kind of problem, and the first few."""
    kinds: dict[str, list[Row]] = defaultdict(list)
    for row in table:
        kinds[row["problem"]].append(row)
    lines = []
    for kind, same in kinds.items():
        lines.append(f"  {kind}: {len(same)}")
        lines += [f"    {row['path'] or row['image']!r}: {row['found']}" for row in same[:EXAMPLES]]
        lines += ["    ..."] if len(same) > EXAMPLES else []
    return "\n".join(lines)
