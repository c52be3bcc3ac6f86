"""Preflight: one table and one summary of the problems of all data sets, and one error if any must not be used."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from retinaflow.data.frames import read_frame, write_frame
from retinaflow.data.inventory import EXAMPLES, INVENTORY_COLUMNS, PROBLEM_COLUMNS, read_usable
from retinaflow.data.labels import UNGRADED, matches_none
from retinaflow.data.matching import composed
from retinaflow.data.new_site import too_few_patients
from retinaflow.data.policies import DataSetPolicy
from retinaflow.data.problem_policy import Check, Reason, check_data_set
from retinaflow.data.trained_on import Seen, find_seen, seen_reason
from retinaflow.errors import RetinaflowError
from retinaflow.settings.data import ProblemSettings
from retinaflow.storage.files import whole_file
from retinaflow.storage.tables import ENCODING

log = logging.getLogger(__name__)

SOLUTIONS = {
    "excluded": "nothing: it is named in `exclude` of its data set",
    "duplicate_image": "keep one file of each name, or write folders, too, in the label table (P1/OD.jpg); case and "
    "extension make no other name",
    "empty": "copy or fetch the file again",
    "not_an_image": "replace the file by the image, or remove it",
    "unreadable": "make the file readable, or copy or fetch it again",
    "truncated": "copy or fetch the file again: pixels are missing or wrong",
    "blank": "remove the image: it is black all over",
    "oversized": "store it with fewer pixels, or raise `data.pixel_limit`",
    "no_label": "add a row to the label table, or remove the image",
    "no_image": "add the image, or remove the row of the label table",
    UNGRADED: "nothing: `ungradable` of the data set has its grade",
    "bad_grade": "correct the row of the label table or the name of the folder, or name the value in `grade_map`",
    "duplicate_label": "leave one row for each image in the label table",
    "repeated_label": "nothing: the rows agree",
    "identical_conflict": "find out which label is right, and remove the other images",
    "identical": "remove all but one of the images",
    "patient_in_both": "move all images of a patient to one of the data sets, or correct `data.patient_pattern`",
    "no_end_marker": "nothing, or copy or fetch the file again: its last bytes are missing, but no pixel is",
    "other_file": "nothing: the workflow ignores it",
}


@dataclass(frozen=True)
class GradesNeeded:
    """Grades that each side of a split needs.

    Args:
        grade_names: Names of the grades.
        unit: ``patient`` or ``image``: the units that stay whole.
        sides: Number of sides: 2, or the number of folds.
    """

    grade_names: Sequence[str]
    unit: str
    sides: int


@dataclass(frozen=True)
class EarlierModels:
    """Models of earlier workflow runs that networks start from.

    Args:
        records: File of the images that the model was trained on, by the name of the network that starts from it.
        data_sets: Names of the data sets that must have none of these images or of their patients.
        shared_patients: Groups of names of data sets with the same patients.
    """

    records: Mapping[str, Path]
    data_sets: Sequence[str]
    shared_patients: Sequence[Sequence[str]] = ()


def preflight(
    data_sets: Mapping[str, tuple[Path, Path]],
    on_problem: ProblemSettings,
    *,
    exclude_limit: float,
    table: Path,
    summary: Path,
    patient_patterns: Mapping[str, str] | None = None,
    needed: GradesNeeded | None = None,
    earlier: EarlierModels | None = None,
    own: Mapping[str, DataSetPolicy] | None = None,
    recalibration: Mapping[str, int] | None = None,
) -> None:
    """Apply the problem policy to all data sets.

    Args:
        data_sets: Tables of images and of problems of each data set, by its name.
        on_problem: Policy for each kind of problem.
        exclude_limit: Largest share of images that may be excluded, and of labels without an image, 0 to 1.
        table: Output, all problems (``PROBLEM_COLUMNS`` and ``action``).
        summary: Output, Markdown with counts, some problems of each kind, and solutions. It is logged, too.
        patient_patterns: Pattern of the image names of each data set whose label table has no column of patients. A
            data set ``train-NAME`` is that part of the joined one, ``train``. There is a notice if no name matches.
        needed: Grades that a split of the training set needs.
        earlier: Models that networks start from.
        own: Policies of data sets that have one of their own.
        recalibration: Number of patients that refit a model, by the name of their test set.

    Raises:
        RetinaflowError: The policy forbids the use of a data set. The message lists all reasons. Both outputs are
            written before.
    """
    checks = {
        name: check_data_set(*tables, on_problem=on_problem, exclude_limit=exclude_limit, data_set=name, own=own)
        for name, tables in data_sets.items()
    }
    if needed and "train" in checks and checks["train"].report.usable:
        checks["train"].reasons.extend(_grade_reasons(data_sets["train"][0], needed))
    for name, found in _seen_reasons(earlier, data_sets).items() if earlier else ():
        checks[name].reasons.extend(found)
    for name, count in (recalibration or {}).items():
        checks[name].reasons.extend(_new_site_reasons(data_sets[name][0], count))
    write_frame(table, pd.concat([check.problems for check in checks.values()]))
    patterns = patient_patterns or {}
    notices = [
        line for name, (inventory, _) in data_sets.items() for line in patient_notices(name, inventory, patterns)
    ]
    for notice in notices:
        log.warning("%s", notice)
    text = summarise(checks, notices)
    with whole_file(summary) as part:
        part.write_text(text, **ENCODING)
    log.info("problems of the images and label tables:\n\n%s", text, extra={"screen": True})
    reasons = [line for name, check in checks.items() for line in _reason_lines(name, check)]
    if reasons:
        raise RetinaflowError(
            "the images and labels cannot be used as they are\n"
            + "".join(f"{reason}\n" for reason in reasons)
            + f"All problems are listed in {table}, with a summary in {summary}."
        )


def _grade_reasons(inventory: Path, needed: GradesNeeded) -> Iterator[Reason]:
    """Reasons against a training set that no split can have on all its sides."""
    images = read_usable(inventory)
    counts = images.groupby("grade")[needed.unit].nunique()
    none = pd.DataFrame(columns=[*PROBLEM_COLUMNS, "action"])
    missing = [repr(name) for grade, name in enumerate(needed.grade_names) if not counts.get(grade, 0)]
    if missing:
        yield Reason(
            f"no usable image has the grade {' or '.join(missing)}, expected some of each grade: add images, or remove "
            "it from data.grade_names",
            none,
        )
    for grade, name in enumerate(needed.grade_names):
        count = counts.get(grade, 0)
        if 0 < count < needed.sides:
            yield Reason(
                f"{count} {needed.unit}{'s have' if count > 1 else ' has'} usable images of grade {name!r}, expected "
                f"at least {needed.sides}, one for each side of the split",
                none,
            )


def _new_site_reasons(inventory: Path, count: int) -> Iterator[Reason]:
    """Reasons against a test set with too few patients to give some of them to recalibration."""
    if fault := too_few_patients(read_usable(inventory)["patient"].nunique(), count):
        yield Reason(f"among usable images, it {fault}", pd.DataFrame(columns=[*PROBLEM_COLUMNS, "action"]))


def _seen_reasons(earlier: EarlierModels, data_sets: Mapping[str, tuple[Path, Path]]) -> dict[str, list[Reason]]:
    """Reasons against data sets with images that a model at the start of a network was trained on."""
    none = pd.DataFrame(columns=[*PROBLEM_COLUMNS, "action"])
    reasons: dict[str, list[Reason]] = {}
    found: dict[tuple[str, Path], Seen] = {}
    for network, record in earlier.records.items():
        for name in earlier.data_sets:
            # Models of a sweep start from one model.
            if (name, record) not in found:
                seen = found[name, record] = find_seen(record, [data_sets[name][0]], earlier.shared_patients)
                if any(seen):
                    reasons.setdefault(name, []).append(Reason(seen_reason(network, record, seen), none))
    return reasons


def patient_notices(data_set: str, inventory: Path, patterns: Mapping[str, str]) -> list[str]:
    """Return a notice for each data set of an inventory in which no image has a known patient."""
    images = read_frame(inventory, INVENTORY_COLUMNS)
    notices = []
    for name, pattern in patterns.items():
        prefix = f"{name.partition('-')[2]}/" if name.startswith(f"{data_set}-") else ""
        if name != data_set and not prefix:
            continue
        rows = images[images["image"].str.startswith(prefix)]
        names = [composed(image.removeprefix(prefix)) for image in rows["image"]]
        own = all(
            patient.endswith(image.replace("/", "_")) for patient, image in zip(rows["patient"], names, strict=True)
        )
        if names and own and matches_none(pattern, names):
            notices.append(
                f"{name}: NO PATIENTS. The pattern {pattern!r} matches none of the {len(names)} image names, such as "
                f"{names[0]!r}, so each image counts as a patient of its own. If patients have several images, both "
                "sides of the split have them, and scores are too good: set patient_column or patient_pattern. If not, "
                "set patient_pattern to '(?P<patient>.+)'."
            )
    return notices


def summarise(checks: Mapping[str, Check], notices: Sequence[str] = ()) -> str:
    """Write the Markdown summary: a table of the data sets, notices, then the problems of each with some examples."""
    lines = ["# Images and labels", ""]
    lines += ["| data set | images | usable | patients | may be used |", "|---|---|---|---|---|"]
    for name, check in checks.items():
        report = check.report
        answer = f"no: {'; '.join(reason.text for reason in check.reasons)}" if check.reasons else "yes"
        lines.append(f"| {name} | {report.images} | {report.usable} | {report.patients} | {answer} |")
    for notice in notices:
        lines += ["", f"**{notice}**"]
    for name, check in checks.items():
        if check.problems.empty:
            continue
        kinds = _by_kind(check.problems)
        lines += ["", f"## {name}", "", "| problem | count | action | solution |", "|---|---|---|---|"]
        lines += [f"| {kind} | {len(rows)} | {_action(rows)} | {SOLUTIONS[kind]} |" for kind, rows in kinds.items()]
        for kind, rows in kinds.items():
            lines += ["", f"{kind}:", "", *(f"- {example}" for example in _examples(rows))]
    return "\n".join(lines) + "\n"


def _reason_lines(data_set: str, check: Check) -> Iterator[str]:
    for reason in check.reasons:
        yield f"{data_set}: {reason.text}"
        for kind, rows in _by_kind(reason.problems).items():
            policy = f", or set data.on_problem.{kind}: exclude" if _action(rows) == "error" else ""
            yield f"  {kind}: {len(rows)} ({SOLUTIONS[kind]}{policy})"
            yield from (f"    {example}" for example in _examples(rows))


def _by_kind(problems: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Problems of each kind, in the order in which the kinds first occur."""
    return {str(kind): rows for kind, rows in problems.groupby("problem", sort=False)}


def _action(problems: pd.DataFrame) -> str:
    """Action of problems of one kind."""
    return str(problems["action"].iloc[0])


def _examples(problems: pd.DataFrame) -> list[str]:
    more = [f"and {len(problems) - EXAMPLES} more"] if len(problems) > EXAMPLES else []
    shown = problems.head(EXAMPLES).itertuples(index=False)
    return [f"{(problem.path or problem.image)!r}: {problem.found}" for problem in shown] + more
