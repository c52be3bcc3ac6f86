"""Model cards and the data card: what a grader is, what it is worth and where it ends, from the files of its own run.

Their sections follow Mitchell et al. 2019, Model Cards for Model Reporting, arXiv:1810.03993, and Pushkarna et al.
2022, Data Cards, arXiv:2204.01075.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from retinaflow.scoring.decision_rules import Decision, read_decision
from retinaflow.storage.documents import read_own
from retinaflow.storage.files import whole_file
from retinaflow.storage.markdown import table
from retinaflow.storage.tables import read_table, stream_table

USE = (
    "Research on grading of diabetic retinopathy. It is no medical device: nobody has shown that it may decide on, or "
    "help to decide on, the treatment of a person."
)
LIMITS = (
    "It answers to any picture, also to one that is no fundus photograph, and knows of no disease but this one.",
    "Other cameras, clinics and populations than those it was trained on may be graded worse, and calibration and "
    "operating point may be off there: measure both on photographs of your own before you rely on them.",
    "Labels are what single graders said. Where these disagree, agreement with them is no truth.",
    "Age, sex and ancestry are not in the data, so nothing is known of how fair it is to whom.",
)
SHARES = (0.05, 0.5, 0.95)
NONE = "–"

Metrics = Mapping[str, Any]


def model_card(system: str, metrics: Sequence[Path], decision: Path, records: Sequence[Path], card: Path) -> str:
    """Write the card of a system as Markdown to ``card``; returns it.

    ``metrics``: ``metrics.json`` of its parts, the one it was fitted on first; ``records``: ``training_run.json`` of
    each of its
    trainings.
    """
    judged = [read_own(path) for path in metrics]
    trained = [read_own(path) for path in records]
    fitted = read_decision(decision)
    return _write(
        card,
        [
            f"# Model card: {system}",
            "## What it is",
            *_bullets(_what(trained, fitted)),
            "## What it is for",
            USE,
            "## What it was trained and judged on",
            *_table(
                ("split", "photographs", "patients", *fitted.grade_names),
                (
                    (its["split"], f"{its['images']:,}", f"{its['patients']:,}", *map(str, _counts(its)))
                    for its in judged
                ),
            ),
            _trained_on(trained),
            "## What it is worth",
            "In brackets, 95 % intervals over patients. Thresholds, temperature and operating point were fitted on "
            f"{judged[0]['split']}, each patient's by the others, and never on test.",
            *_table(("", *(its["split"] for its in judged)), _figures(judged, fitted)),
            "## Where it errs",
            *_table(
                ("grade", *(f"{figure}, {its['split']}" for its in judged for figure in ("recall", "precision"))),
                _per_class(judged),
            ),
            *_by_quality(judged[-1]),
            "## Where it ends",
            *_bullets(LIMITS),
        ],
    )


def data_card(
    inventories: Mapping[str, Path],
    problems: Mapping[str, Path],
    indices: Mapping[str, Path],
    classes: Sequence[str],
    card: Path,
) -> str:
    """Write the card of the photographs and labels as Markdown to ``card``; returns it.

    ``inventories`` and ``problems``: both tables of each data set; ``indices``: the table of each part.
    """
    blocks = [
        "# Data card",
        "Photographs of the fundus and their grades, as this run found them.",
    ]
    for name, inventory in inventories.items():
        blocks += [f"## Data set: {name}", *_data_set(inventory, problems[name])]
    levels = {
        part: Counter(row["grade_name"] for row in stream_table(index, ("grade_name",)))
        for part, index in indices.items()
    }
    blocks += [
        "## Parts",
        "Split by patient, so that no patient is in two of them.",
        *_table(
            ("split", "photographs", *classes),
            (
                (part, f"{sum(count.values()):,}", *(f"{count[name]:,}" for name in classes))
                for part, count in levels.items()
            ),
        ),
        "## What is not known",
        *_bullets(
            (
                "Who took and who graded the photographs, and by which protocol: whoever passes them on should say.",
                "Age, sex, ancestry and treatment of the patients.",
                "How often two graders would agree.",
            )
        ),
    ]
    return _write(card, blocks)


def _what(trained: Sequence[Metrics], fitted: Decision) -> Iterator[str]:
    for backbone in dict.fromkeys(record["backbone"] for record in trained):
        own = [record for record in trained if record["backbone"] == backbone]
        settings = own[0]["settings"]
        layers = " and ".join(settings["feature_layers"]) or "its last layer"
        yield (
            f"{backbone} of keras.applications, read at {layers}, {own[0]['parameters']:,} parameters; photographs of "
            f"{settings['image_size']} px; started from {_weights(settings['weights'])}; {len(own)} "
            f"training{'s' * (len(own) > 1)} of {_range(record['epochs_run'] for record in own)} epochs, "
            f"{sum(record['seconds'] for record in own) / 3600:.1f} hours on {own[0]['environment']['device']}"
        )
    packages = trained[0]["environment"]["packages"]
    versions = ", ".join(f"{name} {version}" for name, version in packages.items())
    yield f"objective {fitted.objective}; seed {trained[0]['seed']}; {versions}"
    yield (
        f"answers with a class ({', '.join(fitted.grade_names)}), a severity of 0 to {len(fitted.grade_names) - 1}, "
        f"calibrated probabilities, and whether to refer, for {fitted.grade_names[fitted.referable_grade]} or worse"
    )


def _weights(weights: str) -> str:
    return {"imagenet": "weights of ImageNet", "random": "random weights"}.get(
        weights, f"the weights {Path(weights).name}"
    )


def _range(numbers: Iterable[int]) -> str:
    found = sorted(set(numbers))
    return str(found[0]) if len(found) == 1 else f"{found[0]} to {found[-1]}"


def _trained_on(trained: Sequence[Metrics]) -> str:
    counts = _range(record["photographs"]["train"] for record in trained)
    digests = sorted({record["digests"]["train_index"] for record in trained})
    return (
        f"Each training saw {counts} photographs, none of them of a patient it is judged by. The index tables they are "
        f"in have the digests {', '.join(digests)}. `cards/data.md` tells more."
    )


def _counts(judged: Metrics) -> list[int]:
    return [sum(row) for row in judged["confusion_matrix"]]


def _figures(judged: Sequence[Metrics], fitted: Decision) -> Iterator[tuple[str, ...]]:
    asked = f"{fitted.referable_sensitivity:g}"
    for title, figure in (
        ("quadratic weighted kappa", lambda its: _with_interval(its, "quadratic_weighted_kappa")),
        ("without thresholds", lambda its: _number(its["argmax"]["quadratic_weighted_kappa"])),
        ("kappa of the other eye's label", lambda its: _number(its["fellow_eye"]["quadratic_weighted_kappa"])),
        ("accuracy", lambda its: _with_interval(its, "accuracy")),
        (f"accuracy of always {fitted.grade_names[0]}", lambda its: _number(its["baseline"]["accuracy"])),
        ("AUC of referable", lambda its: _number(its["referable"]["auc"], *_interval(its, "referable_auc"))),
        (f"sensitivity, fitted to {asked}", lambda its: _at_operating_point(its, "sensitivity")),
        ("specificity there", lambda its: _at_operating_point(its, "specificity")),
        ("expected calibration error", lambda its: _number(its["calibration"]["expected_calibration_error"])),
    ):
        yield title, *map(figure, judged)


def _at_operating_point(its: Metrics, name: str) -> str:
    return _number(its["referable"]["operating_point"][name], *_interval(its, f"operating_point_{name}"))


def _with_interval(its: Metrics, name: str) -> str:
    return _number(its[name], *_interval(its, name))


def _interval(its: Metrics, name: str) -> Sequence[float]:
    return (its["intervals"] or {}).get(name) or ()


def _per_class(judged: Sequence[Metrics]) -> Iterator[tuple[str, ...]]:
    for rows in zip(*(its["per_class"] for its in judged), strict=True):
        yield rows[0]["grade_name"], *(_number(row[figure]) for row in rows for figure in ("recall", "precision"))


def _by_quality(its: Metrics) -> list[str]:
    if not its["by_quality"]:
        return []
    rows = (
        (
            third["third"],
            f"{third['images']:,}",
            *(_number(third[name]) for name in ("quadratic_weighted_kappa", "accuracy")),
        )
        for third in its["by_quality"]
    )
    return [
        f"By quality of the photographs of {its['split']}:",
        *_table(("third", "photographs", "kappa", "accuracy"), rows),
    ]


def _data_set(inventory: Path, problems: Path) -> Iterator[str]:
    rows = read_table(inventory, ("image", "patient", "eye", "width", "height", "quality", "problem"))
    good = [row for row in rows if not row["problem"]]
    eyes = Counter(patient for patient, _ in {(row["patient"], row["eye"]) for row in good if row["eye"]})
    patients = len({row["patient"] for row in good})
    kinds = Counter(row["problem"] for row in stream_table(problems, ("problem",)))
    yield from _bullets(
        (
            f"{len(rows):,} photographs, of which {len(good):,} of {patients:,} patients have no problem",
            f"{sum(count > 1 for count in eyes.values()):,} patients with both eyes",
            "problems: " + (", ".join(f"{count:,} {kind}" for kind, count in sorted(kinds.items())) or "none"),
        )
    )
    if not good:
        return
    measures = {
        "width in pixels": [float(row["width"]) for row in good],
        "height in pixels": [float(row["height"]) for row in good],
        "quality, 0 to 1": [float(row["quality"]) for row in good],
    }
    yield from _table(
        ("", *(f"{share:.0%} are below" for share in SHARES)),
        (
            (name, *(f"{value:,.4g}" if value < 1000 else f"{value:,.0f}" for value in np.quantile(values, SHARES)))
            for name, values in measures.items()
        ),
    )


def _number(value: float | None, low: float | None = None, high: float | None = None) -> str:
    if value is None:
        return NONE
    return f"{value:.3f}" if low is None or high is None else f"{value:.3f} [{low:.3f}, {high:.3f}]"


def _bullets(lines: Iterable[str]) -> list[str]:
    return ["\n".join(f"- {line}" for line in lines)]


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return ["\n".join(table(header, rows))]


def _write(card: Path, blocks: Iterable[str]) -> str:
    text = "\n\n".join(blocks) + "\n"
    with whole_file(card) as part:
        part.write_text(text, encoding="utf-8", errors="replace")
    return text
