"""Compare a results folder of the former layout with one of the present layout.

    python tests/compare_results.py OLD_RESULTS NEW_RESULTS

Both come from the same configuration, images and seed. The script maps the former names of files, columns, keys and
models to the present ones. It then expects:

- the same pixel bytes in each shard and the same weight arrays in each model;
- the same images in each split, in the same order;
- the same value of each metric and of each table cell, in the same format: quotes, digits and line ends.

It prints each difference and exits 1 if there is any. Times, digests of tables, figures and prose are not compared.
"""

import argparse
import io
import json
import re
import sys
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np

GRADE_NAMES = ("no_dr", "mild", "moderate", "severe", "proliferative")
FORMER_GRADE_NAMES = tuple(f"class{grade}" for grade in range(5))
# Former name of a file and the present one.
FILES = {
    "outputs.csv": "raw_outputs.csv",
    "run.json": "training_run.json",
    "class_indices.json": "grade_names.json",
    "decision.json": "decision_rule.json",
    "graders.json": "bundle.json",
}
# Ends of the names of models that are derived from a network.
SUFFIXES = {"+blend": "+eye_average", "+fusion": "+eye_stacking", "+single": "+no_tta"}
MODELS = {"average": "ensemble"}
# Columns and keys. A former name may have several present ones, depending on the table.
NAMES: dict[str, tuple[str, ...]] = {
    "actual_class": ("grade_name",),
    "actual_class_index": ("grade",),
    "backbone": ("network",),
    "backbones": ("networks",),
    "bad_level": ("bad_grade",),
    "blend_weight": ("fellow_eye_weight",),
    "blended": ("eye_average",),
    "class": ("grade_name", "grade"),
    "class_index": ("grade",),
    "classes": ("grade_names", "grades"),
    "cuts": ("cutpoints",),
    "dataset": ("data_set",),
    "decision": ("decision_rule",),
    "graders": ("models",),
    "level": ("grade", "referable_grade", "grade_name"),
    "levels_changed": ("grades_changed",),
    "models": ("files",),
    "other": ("other_model",),
    "other_eye": ("fellow_eye",),
    "part": ("split",),
    "patient": ("patient_pattern",),
    "photographs": ("images",),
    "plain": ("argmax",),
    "plain_class": ("argmax_grade_name",),
    "plain_class_index": ("argmax_grade",),
    "pred_class": ("predicted_grade_name",),
    "pred_class_index": ("predicted_grade",),
    "quality_cut": ("quality_threshold",),
    "recipe": ("variant",),
    "referable_class": ("referable_grade",),
    "referable_level": ("referable_grade",),
    "replicates": ("bootstrap_samples",),
    "run": ("model", "training_run"),
    "system": ("model",),
    "views": ("tta_views",),
}
PREFIXES = {
    "plain_": "argmax_",
    "other_eye_": "fellow_eye_",
    "single_": "no_tta_",
    "baseline_class": "baseline_grade",
    "both_": "patient_",
}
# Differ from run to run, or follow from names.
UNCOMPARED = {"seconds", "environment", "digests", "train_index", "validation_index"}
SKIPPED_FOLDERS = {"logs", "checkpoints", "photographs", "images", "samples", ".kept", ".cache", ".snakemake"}
COMPARED = {".csv", ".json", ".npy", ".keras"}
CELL = re.compile(r'("(?:[^"]|"")*"|[^,\r\n]*)(,|\r\n|\n|\r|\Z)')
MOST_SHOWN = 5


@dataclass
class Comparison:
    """The result: differences, former names that are still in use, and how many things were compared."""

    grade_names: Mapping[str, str] = field(default_factory=dict)
    differences: list[str] = field(default_factory=list)
    former: set[str] = field(default_factory=set)
    compared: dict[str, int] = field(default_factory=dict)

    def differ(self, where: str, found: str) -> None:
        """Note a difference."""
        self.differences.append(f"{where}: {found}")

    def count(self, kind: str, number: int = 1) -> None:
        """Count compared things of a kind."""
        self.compared[kind] = self.compared.get(kind, 0) + number

    def names(self, name: str) -> list[str]:
        """Return the present names that a column or key may have, the former one last."""
        found = list(NAMES.get(name, ()))
        found += [new + name.removeprefix(old) for old, new in PREFIXES.items() if name.startswith(old)]
        if name.startswith("probability_"):
            grade = name.removeprefix("probability_")
            found.append(f"probability_{self.grade_names.get(grade, grade)}")
        return [*found, *self.texts(name)]

    def texts(self, text: str) -> list[str]:
        """Return what a value of text may be now, the former text last."""
        path = re.sub(r"(^|/)photographs/", r"\1images/", text)
        head, slash, last = path.rpartition("/")
        folders = "/".join(present_model(part) for part in head.split("/"))
        path = folders + slash + FILES.get(last, last)
        found = [self.grade_names.get(text), NAMES.get(text, (None,))[0], present_model(text), path]
        return [*dict.fromkeys(item for item in found if item is not None and item != text), text]

    def pick(self, where: str, name: str, present: Sequence[str] | Mapping[str, Any]) -> str | None:
        """Return the name among ``present`` that a former column or key has; note if there is none."""
        found = next((candidate for candidate in self.names(name) if candidate in present), None)
        if found is None:
            self.differ(where, f"{name} is missing; expected one of {', '.join(self.names(name))}")
        elif found == name and self.names(name) != [name]:
            self.former.add(name)
        return found


def present_model(name: str) -> str:
    """Return the present name of a model."""
    for old, new in SUFFIXES.items():
        if name.endswith(old):
            return name.removesuffix(old) + new
    return MODELS.get(name, name)


def present_paths(path: Path) -> list[Path]:
    """Return where a file of the former layout may be now, the former path last."""
    mapped = Path(*(present_model(part) for part in path.parts[:-1]), FILES.get(path.name, path.name))
    if path.parts[0] == "probe" and path.suffix == ".json":
        mapped = mapped.with_name(f"{present_model(path.stem)}.json")
    return list(dict.fromkeys([mapped, path]))


def compared_files(results: Path) -> list[Path]:
    """Return the files that are compared, relative to the results folder."""
    files = (path.relative_to(results) for path in sorted(results.rglob("*")) if not path.is_symlink())
    return [
        path
        for path in files
        if path.suffix in COMPARED and not SKIPPED_FOLDERS & set(path.parts[:-1]) and (results / path).is_file()
    ]


# Grade names -----------------------------------------------------------------------------------------------------


def ordered_grades(results: Path) -> list[str] | None:
    """Return the grade names in order of severity as a trained model has them, or None without models."""
    for name in ("grade_names.json", "class_indices.json"):
        for path in sorted(results.glob(f"models/**/{name}")):
            content = json.loads(path.read_text(encoding="utf-8"))
            return sorted(content, key=content.get) if isinstance(content, dict) else list(content)
    return None


def grade_mapping(old: Path, new: Path) -> dict[str, str]:
    """Return the present name of each former grade name."""
    former, present = (ordered_grades(results) for results in (old, new))
    return dict(zip(former or FORMER_GRADE_NAMES, present or GRADE_NAMES, strict=True))


# Tables ----------------------------------------------------------------------------------------------------------


def read_raw(path: Path) -> tuple[list[list[str]], set[str]]:
    """Return the cells of a table as they are written, quotes included, and the line ends in use."""
    text = path.read_bytes().decode("utf-8")
    rows: list[list[str]] = []
    ends: set[str] = set()
    row: list[str] = []
    for match in CELL.finditer(text):
        if match.start() == len(text) and not row:
            break
        row.append(match.group(1))
        if match.group(2) != ",":
            ends.add(match.group(2))
            rows.append(row)
            row = []
    return rows, ends


def bare(cell: str) -> tuple[str, bool]:
    """Return the text of a cell and whether it is quoted."""
    quoted = cell.startswith('"')
    return (cell[1:-1].replace('""', '"') if quoted else cell), quoted


def compare_tables(old: Path, new: Path, where: str, comparison: Comparison) -> None:
    """Compare each former column with the present one, cell by cell, in the order of the rows."""
    (old_rows, old_ends), (new_rows, new_ends) = read_raw(old), read_raw(new)
    if old_ends != new_ends:
        comparison.differ(where, f"line ends are {sorted(new_ends)!r} instead of {sorted(old_ends)!r}")
    if len(old_rows) != len(new_rows):
        comparison.differ(where, f"{len(new_rows) - 1} rows instead of {len(old_rows) - 1}")
    if not old_rows or not new_rows:
        return
    if any(len(row) != len(new_rows[0]) for row in new_rows):
        comparison.differ(where, "rows of different lengths")
        return
    header = [bare(cell)[0] for cell in new_rows[0]]
    for place, cell in enumerate(old_rows[0]):
        column, quoted = bare(cell)
        if column in UNCOMPARED:
            continue
        picked = comparison.pick(where, column, header)
        if picked is None:
            continue
        if quoted != bare(new_rows[0][header.index(picked)])[1]:
            comparison.differ(where, f"the quotes of column {picked} changed")
        pair = ([row[at] for row in rows[1:]] for rows, at in ((old_rows, place), (new_rows, header.index(picked))))
        compare_cells(*pair, f"{where}, column {picked}", comparison)


def compare_cells(old: Sequence[str], new: Sequence[str], where: str, comparison: Comparison) -> None:
    """Compare the cells of one column as they are written."""
    wrong = []
    for number, (one, other) in enumerate(zip(old, new, strict=False), start=1):
        text, quoted = bare(one)
        if one != other and (bare(other)[1] != quoted or bare(other)[0] not in comparison.texts(text)):
            wrong.append(f"row {number}: {other} instead of {one}")
    comparison.count("cells", min(len(old), len(new)))
    if wrong:
        more = f", and {len(wrong) - MOST_SHOWN} more" if len(wrong) > MOST_SHOWN else ""
        comparison.differ(where, "; ".join(wrong[:MOST_SHOWN]) + more)


# JSON ------------------------------------------------------------------------------------------------------------


def compare_values(old: Any, new: Any, where: str, comparison: Comparison) -> None:
    """Compare two JSON values; numbers have to be the same to the last digit."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key, value in old.items():
            if key in UNCOMPARED:
                continue
            picked = comparison.pick(where, key, new)
            if picked is not None:
                compare_values(value, new[picked], f"{where}, {picked}", comparison)
    elif isinstance(old, list) and isinstance(new, list):
        if len(old) != len(new):
            comparison.differ(where, f"{len(new)} items instead of {len(old)}")
        for number, pair in enumerate(zip(old, new, strict=False)):
            compare_values(*pair, f"{where}[{number}]", comparison)
    elif isinstance(old, str) and isinstance(new, str):
        comparison.count("values")
        if new not in comparison.texts(old):
            comparison.differ(where, f"{new!r} instead of {old!r}")
    else:
        comparison.count("values")
        if type(old) is not type(new) or old != new:
            comparison.differ(where, f"{new!r} instead of {old!r}")


def compare_json(old: Path, new: Path, where: str, comparison: Comparison) -> None:
    """Compare two JSON files; grade names may be a list now."""
    contents = [json.loads(path.read_text(encoding="utf-8")) for path in (old, new)]
    if old.name == "class_indices.json" and isinstance(contents[1], list):
        contents[0] = sorted(contents[0], key=contents[0].get)
    compare_values(*contents, where, comparison)


# Arrays ----------------------------------------------------------------------------------------------------------


def compare_arrays(old: Path, new: Path, where: str, comparison: Comparison) -> None:
    """Compare two NumPy files, header included, byte by byte."""
    comparison.count("arrays")
    if old.read_bytes() == new.read_bytes():
        return
    one, other = (np.load(path) for path in (old, new))
    if one.shape != other.shape or one.dtype != other.dtype:
        comparison.differ(where, f"{other.dtype} {other.shape} instead of {one.dtype} {one.shape}")
    else:
        comparison.differ(where, f"{np.count_nonzero(one != other)} of {one.size} values differ")


def weights(model: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Yield name and array of each weight in a `.keras` file."""
    with zipfile.ZipFile(model) as archive:
        content = io.BytesIO(archive.read("model.weights.h5"))
    with h5py.File(content, "r") as file:
        found: dict[str, np.ndarray] = {}

        def keep(name: str, item: Any) -> None:
            if isinstance(item, h5py.Dataset):
                found[name] = item[()]

        file.visititems(keep)
    yield from found.items()


def compare_models(old: Path, new: Path, where: str, comparison: Comparison) -> None:
    """Compare the weight arrays of two `.keras` files."""
    one, other = dict(weights(old)), dict(weights(new))
    comparison.count("weights", len(one))
    for name in sorted(one.keys() ^ other.keys()):
        comparison.differ(where, f"weight {name} is in one of the two models")
    for name in sorted(one.keys() & other.keys()):
        pair = one[name], other[name]
        if pair[0].dtype != pair[1].dtype or not np.array_equal(*pair, equal_nan=pair[0].dtype.kind == "f"):
            comparison.differ(where, f"weight {name} differs")


# Folders ---------------------------------------------------------------------------------------------------------


COMPARE = {".csv": compare_tables, ".json": compare_json, ".npy": compare_arrays, ".keras": compare_models}


def compare(old: Path, new: Path) -> Comparison:
    """Compare two results folders."""
    comparison = Comparison(grade_mapping(old, new))
    for path in compared_files(old):
        found = next((present for present in present_paths(path) if (new / present).is_file()), None)
        if found is None:
            comparison.differ(str(path), f"no such file; expected {present_paths(path)[0]}")
            continue
        if found == path and len(present_paths(path)) > 1:
            comparison.former.add(str(path))
        comparison.count("files")
        COMPARE[path.suffix](old / path, new / found, str(found), comparison)
    if not comparison.compared:
        comparison.differ(str(old), "no results in this folder")
    return comparison


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare two results folders and print what differs."""
    parser = argparse.ArgumentParser(description="Compare results of the former layout with those of the present one.")
    parser.add_argument("old", type=Path, help="results folder of the former layout")
    parser.add_argument("new", type=Path, help="results folder of the present layout")
    given = parser.parse_args(arguments)
    comparison = compare(given.old, given.new)
    print("Compared:", ", ".join(f"{number:,} {kind}" for kind, number in sorted(comparison.compared.items())))
    if comparison.former:
        print("Former names still in use:", ", ".join(sorted(comparison.former)))
    for difference in comparison.differences:
        print(difference)
    print(f"{len(comparison.differences)} differences")
    return 1 if comparison.differences else 0


if __name__ == "__main__":
    sys.exit(main())
