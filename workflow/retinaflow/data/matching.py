"""Match image files with rows of label tables by their names."""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import PurePath

from retinaflow.data.labels import LabelRow, image_name


def composed(name: str) -> str:
    """``name`` with its accents as Unicode composes them (NFC), since macOS decomposes those of file names (NFD)."""
    return unicodedata.normalize("NFC", name)


def match_names(
    names: Mapping[str, str], relative: Mapping[str, str], labels: Sequence[LabelRow]
) -> tuple[dict[str, str], list[LabelRow]]:
    """Return the names of all images, and the labels with the names of their images.

    A name is that of the file without its extension. With ``needs_paths``, folders stand before it, as in the table.

    Args:
        names: Name of the file without its extension, by path.
        relative: Path relative to the folder of images, without extension, by path.
        labels: Rows of the label table.
    """
    if needs_paths(labels) or _files_need_paths(names, labels):
        labels = with_paths(labels)
        names = _path_names(names, relative, labels)
    return dict(names), _spelled(names, labels)


def needs_paths(labels: Sequence[LabelRow]) -> bool:
    """Return whether images of several folders of the table have one name, as ``P000/OD.jpg`` and ``P001/OD.jpg``."""
    folders: dict[str, str] = {}
    return any(label.folder and folders.setdefault(label.image, label.folder) != label.folder for label in labels)


def with_paths(labels: Sequence[LabelRow]) -> list[LabelRow]:
    """Labels whose image has the name of its folder before its own."""
    return [replace(label, image=label.relative_path, folder="") for label in labels]


def common_images(labels: Sequence[LabelRow], others: Sequence[LabelRow]) -> set[str]:
    """Return the images that two tables have in common. A row without a folder has the images of its name in all."""
    paths, other_paths = ({composed(row.relative_path) for row in rows} for rows in (labels, others))
    names, other_names = ({composed(row.image) for row in rows} for rows in (labels, others))
    plain, other_plain = ({composed(row.image) for row in rows if not row.folder} for rows in (labels, others))
    return (paths & other_paths) | (plain & other_names) | (other_plain & names)


def named_elsewhere(
    names: Mapping[str, str], relative: Mapping[str, str], labels: Sequence[LabelRow], others: Sequence[LabelRow]
) -> set[str]:
    """Return the paths of images that ``others``, rows of other data sets, name and ``labels`` do not.

    Args:
        names: Name of the file without its extension, by path.
        relative: Path relative to the folder of images, without extension, by path.
        labels: Rows of the data set itself.
        others: Rows of data sets that have images in the same folder.
    """
    found, rows = match_names(names, relative, [*labels, *others])
    own = {row.image for row in rows[: len(labels)]}
    theirs = {row.image for row in rows[len(labels) :]} - own
    return {path for path, name in found.items() if name in theirs}


def name_difference(name: str, other: str) -> str:
    """Return how two names differ: in invisible characters, case, leading zeros or a second extension of an image.

    It is "" for other differences.
    """
    if _loose(name) != _loose(other):
        return ""
    aspects = [aspect for aspect in _ASPECTS if _loose(name, without=aspect) != _loose(other, without=aspect)]
    return " and ".join(aspects) or "invisible characters"


def near_names(names: Collection[str], others: Collection[str]) -> dict[str, str]:
    """Return for each of ``names`` one of ``others`` that ``name_difference`` explains, if there is one."""
    by_form: dict[str, str] = {}
    for other in sorted(others, reverse=True):
        by_form[_loose(other)] = other
    return {name: by_form[_loose(name)] for name in names if _loose(name) in by_form}


def _files_need_paths(names: Mapping[str, str], labels: Sequence[LabelRow]) -> bool:
    """Whether several files have one name and the table has the folder of one of them."""
    in_folders = {label.relative_path for label in labels if label.folder}
    if not in_folders:
        return False
    counts = Counter(names.values())
    return any(counts[name] > 1 and _suffix(path, name, in_folders) for path, name in names.items())


def _suffix(path: str, name: str, known: Collection[str]) -> str | None:
    """The longest end of a path that is ``known``; ``name`` is its last part without extension."""
    steps = (*PurePath(path).parent.parts, name)
    ends = ("/".join(steps[start:]) for start in range(len(steps)))
    return next((end for end in ends if end in known or composed(end) in known), None)


def _path_names(names: Mapping[str, str], relative: Mapping[str, str], labels: Sequence[LabelRow]) -> dict[str, str]:
    known = {label.image for label in labels} | {composed(label.image) for label in labels}
    # A name that one file and one row have needs no folder.
    rows: dict[str, set[str]] = defaultdict(set)
    for label in labels:
        rows[label.image.rpartition("/")[2]].add(label.image)
    files = Counter(names.values())
    found = {}
    for path, name in names.items():
        end = _suffix(path, name, known)
        if end is None and files[name] == 1 and len(rows[name]) == 1:
            (end,) = rows[name]
        found[path] = end or relative[path]
    return found


def _spelled(names: Mapping[str, str], labels: Sequence[LabelRow]) -> list[LabelRow]:
    """Labels whose image has the name of its file, where Unicode composes the accents of both alike."""
    exact = set(names.values())
    files = {composed(name): name for name in sorted(exact)}
    return [
        label
        if label.image in exact or composed(label.image) not in files
        else replace(label, image=files[composed(label.image)])
        for label in labels
    ]


def _without_zeros(name: str) -> str:
    return re.sub(r"(?<![0-9])0+(?=[0-9])", "", name)


def _visible(name: str) -> str:
    """``name`` without characters that have no shape, such as U+200B and U+FEFF, which copied tables have."""
    return "".join(character for character in name if unicodedata.category(character) != "Cf")


def _without_extensions(name: str) -> str:
    """``name`` without the extensions of ``x.jpg.jpg``, of which an image name keeps the first."""
    while (shorter := image_name(name)) != name:
        name = shorter
    return name


# Differences of names that should be one, and how to remove them.
_ASPECTS: dict[str, Callable[[str], str]] = {
    "a second extension": _without_extensions,
    "case": str.casefold,
    "leading zeros": _without_zeros,
}


def _loose(name: str, without: str = "") -> str:
    """``name`` with all differences removed except those of the aspect ``without``."""
    name = _visible(composed(name))
    for aspect, remove in _ASPECTS.items():
        name = name if aspect == without else remove(name)
    return name
