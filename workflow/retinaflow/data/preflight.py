"""Put the problems of all data sets into one table and one summary, and stop where one of them may not be used."""

import logging
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from retinaflow.data.inventory import EXAMPLES, PROBLEM_COLUMNS
from retinaflow.data.problem_policy import Verdict, verdict
from retinaflow.errors import RetinaflowError
from retinaflow.storage.files import whole_file
from retinaflow.storage.tables import ENCODING, Row, write_table

log = logging.getLogger(__name__)

CURES = {
    "excluded": "nothing: it is named in `exclude` of its data set",
    "duplicate_image": "keep one file of each name; case and extension make no other name",
    "empty": "copy or fetch the file again",
    "not_an_image": "replace the file by the photograph, or remove it",
    "unreadable": "make the file readable, or copy or fetch it again",
    "truncated": "copy or fetch the file again: pixels are missing or wrong",
    "oversized": "store it with fewer pixels, or raise `data.pixel_limit`",
    "no_label": "add a row to the label table, or remove the photograph",
    "no_image": "add the photograph, or remove the row of the label table",
    "bad_grade": "correct the row of the label table",
    "duplicate_label": "leave one row for each image in the label table",
    "repeated_label": "nothing: the rows agree",
    "identical_conflict": "find out which label is right, and remove the other photographs",
    "identical": "remove all but one of the photographs",
    "patient_in_both": "move all photographs of a patient to one of the data sets, or correct `data.patient_pattern`",
    "other_file": "nothing: it is not looked at",
}


def preflight(
    datasets: Mapping[str, tuple[Path, Path]],
    on_problem: Mapping[str, str],
    exclude_limit: float,
    table: Path,
    summary: Path,
) -> None:
    """Judge all ``datasets``, each given by the two tables of its inventory, with ``verdict``.

    Writes the problems of all of them to ``table`` (``PROBLEM_COLUMNS`` and action) and ``summary`` (Markdown: counts,
    the first few of each kind, what to do), which is logged as well.
    Raises one ``RetinaflowError``, having written both, that says for each data set why it may not be used.
    """
    verdicts = {name: verdict(*tables, on_problem, exclude_limit) for name, tables in datasets.items()}
    problems = [row for judged in verdicts.values() for row in judged.problems]
    write_table(table, (*PROBLEM_COLUMNS, "action"), problems)
    text = summarise(verdicts)
    with whole_file(summary) as part:
        part.write_text(text, **ENCODING)
    log.info("what was found in the photographs and label tables:\n\n%s", text, extra={"screen": True})
    reasons = [line for name, judged in verdicts.items() for line in _reasons(name, judged)]
    if reasons:
        raise RetinaflowError(
            "the photographs and labels may not be used as they are\n"
            + "".join(f"{reason}\n" for reason in reasons)
            + f"All problems are listed in {table}, with a summary in {summary}."
        )


def summarise(verdicts: Mapping[str, Verdict]) -> str:
    """Markdown: a table of the data sets, then for each a table of its kinds of problems and the first few of each."""
    lines = ["# Photographs and labels", ""]
    lines += ["| data set | photographs | usable | patients | may be used |", "|---|---|---|---|---|"]
    for name, judged in verdicts.items():
        photographs, usable, patients, _ = judged.report
        why_not = f"no: {'; '.join(reason for reason, _ in judged.reasons)}" if judged.reasons else "yes"
        lines.append(f"| {name} | {photographs} | {usable} | {patients} | {why_not} |")
    for name, judged in verdicts.items():
        if not judged.problems:
            continue
        kinds = _by_kind(judged.problems)
        lines += ["", f"## {name}", "", "| problem | count | action | what to do |", "|---|---|---|---|"]
        lines += [f"| {kind} | {len(rows)} | {rows[0]['action']} | {CURES[kind]} |" for kind, rows in kinds.items()]
        for kind, rows in kinds.items():
            lines += ["", f"{kind}:", "", *(f"- {example}" for example in _examples(rows))]
    return "\n".join(lines) + "\n"


def _reasons(dataset: str, judged: Verdict) -> Iterator[str]:
    for reason, problems in judged.reasons:
        yield f"{dataset}: {reason}"
        for kind, rows in _by_kind(problems).items():
            way_out = f", or set data.on_problem.{kind}: exclude" if rows[0]["action"] == "error" else ""
            yield f"  {kind}: {len(rows)} ({CURES[kind]}{way_out})"
            yield from (f"    {example}" for example in _examples(rows))


def _by_kind(problems: Sequence[Row]) -> dict[str, list[Row]]:
    kinds: dict[str, list[Row]] = defaultdict(list)
    for row in problems:
        kinds[row["problem"]].append(row)
    return kinds


def _examples(rows: Sequence[Row]) -> list[str]:
    more = [f"and {len(rows) - EXAMPLES} more"] if len(rows) > EXAMPLES else []
    return [f"{row['path'] or row['image']!r}: {row['found']}" for row in rows[:EXAMPLES]] + more
