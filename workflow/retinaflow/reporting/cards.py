"""Model cards and the data card, made from the files of a workflow run.

Their sections follow Mitchell et al. 2019, Model Cards for Model Reporting, arXiv:1810.03993, and Pushkarna et al.
2022, Data Cards, arXiv:2204.01075.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from retinaflow.data.frames import parse_numbers, read_frame
from retinaflow.preprocessing.variant import Variant
from retinaflow.reporting.templates import render
from retinaflow.scoring.decision_rules import DecisionRule, read_decision_rule
from retinaflow.scoring.linear_model import read_linear_model
from retinaflow.storage import markdown
from retinaflow.storage.documents import read_own
from retinaflow.storage.files import whole_file

QUANTILES = (0.05, 0.5, 0.95)
UNKNOWN = "–"

Metrics = Mapping[str, Any]


def model_card(model: str, metrics: Sequence[Path], decision_rule: Path, records: Sequence[Path], card: Path) -> str:
    """Write the card of a model.

    Args:
        model: Its name.
        metrics: ``metrics.json`` of each split; first the split that its decision rule is fitted on.
        decision_rule: Its decision rule.
        records: ``training_run.json`` of each of its training runs, and ``linear.npz`` of a linear model.
        card: The Markdown file.

    Returns:
        The text.
    """
    of_splits = [read_own(path) for path in metrics]
    fits = [read_linear_model(path).record for path in records if path.suffix == ".npz"]
    runs = [read_own(path) for path in records if path.suffix != ".npz"]
    rule = read_decision_rule(decision_rule)
    last = of_splits[-1]
    alike = [of_split for of_split in of_splits if of_split["grade_names"] == rule.grade_names]
    text = render(
        "model_card.md",
        model=model,
        keras_files=bool(runs),
        description=list(_description(runs, fits, rule)),
        data=_table(
            ("split", "images", "patients", *rule.grade_names),
            (
                (of_split["split"], f"{of_split['images']:,}", f"{of_split['patients']:,}", *_counts(of_split, rule))
                for of_split in of_splits
            ),
        ),
        training_images=_range(record["photographs"]["train"] for record in runs) if runs else _fitted(fits),
        digests=", ".join(sorted({record["digests"]["train_index"] for record in runs or fits})),
        fitted_on=of_splits[0]["split"],
        rules=_rules(rule, of_splits) if "decision_rule" in of_splits[0] else "",
        metrics=_table(("", *(of_split["split"] for of_split in of_splits)), _metric_rows(of_splits, rule)),
        grades=_table(
            (
                "grade",
                *(f"{metric}, {of_split['split']}" for of_split in alike for metric in ("recall", "precision")),
            ),
            _grade_rows(alike),
        ),
        quality=_quality_table(last),
        quality_split=last["split"],
    )
    return _write(card, text)


def data_card(
    inventories: Mapping[str, Path],
    problems: Mapping[str, Path],
    *,
    indices: Mapping[str, Path],
    grade_names: Sequence[str],
    card: Path,
) -> str:
    """Write the card of the images and grades.

    Args:
        inventories: Inventory of each data set.
        problems: Table of the problems of each data set.
        indices: Index table of each split.
        grade_names: Name of each grade.
        card: The Markdown file.

    Returns:
        The text.
    """
    # Test sets with a scale of their own have other names.
    counts = {split: Counter(read_frame(index, ("grade_name",))["grade_name"]) for split, index in indices.items()}
    names = list(dict.fromkeys([*grade_names, *(name for count in counts.values() for name in sorted(count))]))
    text = render(
        "data_card.md",
        data_sets=[_data_set(name, inventory, problems[name]) for name, inventory in inventories.items()],
        splits=_table(
            ("split", "images", *names),
            (
                (split, f"{sum(count.values()):,}", *(f"{count[name]:,}" for name in names))
                for split, count in counts.items()
            ),
        ),
    )
    return _write(card, text)


def _description(runs: Sequence[Metrics], fits: Sequence[Metrics], rule: DecisionRule) -> Iterator[str]:
    """Lines on the networks, packages and answers of a model."""
    for backbone in dict.fromkeys(record["backbone"] for record in runs):
        own = [record for record in runs if record["backbone"] == backbone]
        settings = own[0]["settings"]
        layers = " and ".join(settings["feature_layers"]) or "its last layer"
        yield (
            f"{backbone} of keras.applications, features of {layers}, {own[0]['parameters']:,} parameters; images of "
            f"{settings['image_size']} px; started from {_weights(settings['weights'])}; {len(own)} training "
            f"run{'s' * (len(own) > 1)} of {_range(record['epochs_run'] for record in own)} epochs, "
            f"{sum(record['seconds'] for record in own) / 3600:.1f} hours on {own[0]['environment']['device']}"
        )
    if fits:
        yield from _linear_description(fits)
    packages = runs[0]["environment"]["packages"] if runs else fits[0]["packages"]
    versions = ", ".join(f"{name} {version}" for name, version in packages.items())
    yield f"objective {rule.objective}; seed {(runs or fits)[0]['seed']}; {versions}"
    yield (
        f"answers: a grade ({', '.join(rule.grade_names)}), a severity of 0 to {len(rule.grade_names) - 1}, "
        f"calibrated probabilities, and whether to refer, for {rule.grade_names[rule.referable_grade]} or worse"
    )


def _rules(rule: DecisionRule, of_splits: Sequence[Metrics]) -> str:
    """Which images of joined training sets fit the decision rule of each split."""
    own = ", ".join(f"{name} ({values['images']:,} images)" for name, values in rule.data_sets.items())
    tests = " and ".join(one["split"] for one in of_splits[1:] if not one["decision_rule"]["data_sets"])
    return (
        f"Training sets with a decision rule of their own, fitted on their images of {of_splits[0]['split']}: "
        f"{own or 'none, since each has too few'}. A test set with the name of one of them has its rule. All other "
        f"images{f', here {tests},' if tests else ''} have the rule of all training sets together ({rule.images:,} "
        "images). `retinaflow predict --data-set NAME` grades by the rule of a training set."
    )


def _linear_description(fits: Sequence[Metrics]) -> Iterator[str]:
    for item in fits[0]["inputs"]:
        layers = " and ".join(item["feature_layers"]) or "its last layer"
        origin = f"started from {_weights(item['weights'])}" if item["training_run"] else _weights(item["weights"])
        severity = ", and the severity of the network" if item["severity"] else ""
        size = Variant.parse(item["variant"]).size
        pooled = f", pooled by {', '.join(item['poolings'])}" if "poolings" in item else ""
        pooled += ", as square roots" if item.get("root") else ""
        yield f"features of {layers} of {item['backbone']}{pooled}{severity}; images of {size} px; {origin}"
    strengths = ", ".join(f"{fit['strength']:g}" for fit in fits)
    yield (
        f"ridge regression on these values of {fits[0]['eyes']} eye{'s' * (fits[0]['eyes'] == 'both')} of a patient; "
        f"strength chosen on held-out patients: {strengths}; fitted to {_fitted(fits)} images"
    )
    if fits[0]["fallback"]:
        yield f"an image without fellow eye is graded by {fits[0]['fallback']} and its decision rule"


def _fitted(fits: Sequence[Metrics]) -> str:
    return _range(fit["images"] for fit in fits)


def _weights(weights: str) -> str:
    kind = "weights" if weights.endswith(".h5") else "model"
    return {"imagenet": "weights of ImageNet", "random": "random weights"}.get(
        weights, f"the {kind} {Path(weights).name}"
    )


def _range(numbers: Iterable[int]) -> str:
    found = sorted(set(numbers))
    return str(found[0]) if len(found) == 1 else f"{found[0]} to {found[-1]}"


def _counts(of_split: Metrics, rule: DecisionRule) -> list[str]:
    """Number of images of each grade; unknown for a test set with a scale of its own."""
    if of_split["grade_names"] != rule.grade_names:
        return [UNKNOWN] * len(rule.grade_names)
    return [str(sum(row)) for row in of_split["confusion_matrix"]]


def _metric_rows(of_splits: Sequence[Metrics], rule: DecisionRule) -> Iterator[tuple[str, ...]]:
    """A row for each metric, with its value in each split."""
    sensitivity = f"{rule.referable_sensitivity:g}"
    for title, value in (
        ("quadratic weighted kappa", lambda found: _with_interval(found, "quadratic_weighted_kappa")),
        ("kappa of argmax", lambda found: _number(found["argmax"]["quadratic_weighted_kappa"])),
        ("kappa of the fellow eye's label", lambda found: _number(found["fellow_eye"]["quadratic_weighted_kappa"])),
        ("accuracy", lambda found: _with_interval(found, "accuracy")),
        (f"accuracy of always {rule.grade_names[0]}", lambda found: _number(found["baseline"]["accuracy"])),
        ("AUC of referable", lambda found: _number(found["referable"]["auc"], *_interval(found, "referable_auc"))),
        (f"sensitivity, fitted to {sensitivity}", lambda found: _at_operating_point(found, "sensitivity")),
        ("specificity there", lambda found: _at_operating_point(found, "specificity")),
        ("expected calibration error", lambda found: _number(found["calibration"]["expected_calibration_error"])),
    ):
        yield title, *map(value, of_splits)


def _at_operating_point(of_split: Metrics, name: str) -> str:
    return _number(of_split["referable"]["operating_point"][name], *_interval(of_split, f"operating_point_{name}"))


def _with_interval(of_split: Metrics, name: str) -> str:
    return _number(of_split[name], *_interval(of_split, name))


def _interval(of_split: Metrics, name: str) -> Sequence[float]:
    return (of_split["intervals"] or {}).get(name) or ()


def _grade_rows(of_splits: Sequence[Metrics]) -> Iterator[tuple[str, ...]]:
    for rows in zip(*(of_split["per_class"] for of_split in of_splits), strict=True):
        yield rows[0]["grade_name"], *(_number(row[metric]) for row in rows for metric in ("recall", "precision"))


def _quality_table(of_split: Metrics) -> str:
    """Metrics by image quality; empty if the quality is not known."""
    if not of_split["by_quality"]:
        return ""
    rows = (
        (
            third["third"],
            f"{third['images']:,}",
            *(_number(third[name]) for name in ("quadratic_weighted_kappa", "accuracy")),
        )
        for third in of_split["by_quality"]
    )
    return _table(("third", "images", "kappa", "accuracy"), rows)


def _data_set(name: str, inventory: Path, problems: Path) -> dict[str, Any]:
    """Values of a data set in the template of the data card."""
    images = read_frame(inventory, ("image", "patient", "eye", "width", "height", "quality", "problem"))
    good = images[images["problem"] == ""]
    eyes = good[good["eye"] != ""].groupby("patient")["eye"].nunique()
    kinds = Counter(read_frame(problems, ("problem",))["problem"])
    measures = {
        title: parse_numbers(inventory, good[column], float).to_numpy()
        for title, column in (
            ("width in pixels", "width"),
            ("height in pixels", "height"),
            ("quality, 0 to 1", "quality"),
        )
    }
    quantiles = _table(
        ("", *(f"{share:.0%} are below" for share in QUANTILES)),
        ((title, *_quantiles(values)) for title, values in measures.items() if len(values)),
    )
    return {
        "name": name,
        "images": len(images),
        "usable": len(good),
        "patients": good["patient"].nunique(),
        "both_eyes": int((eyes > 1).sum()),
        "problems": ", ".join(f"{count:,} {kind}" for kind, count in sorted(kinds.items())) or "none",
        "measures": quantiles if len(good) else "",
    }


def _quantiles(values: np.ndarray) -> Iterator[str]:
    for value in np.quantile(values, QUANTILES):
        yield f"{value:,.4g}" if value < 1000 else f"{value:,.0f}"


def _number(value: float | None, low: float | None = None, high: float | None = None) -> str:
    """A value with its confidence interval, if there is one."""
    if value is None:
        return UNKNOWN
    return f"{value:.3f}" if low is None or high is None else f"{value:.3f} [{low:.3f}, {high:.3f}]"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join(markdown.table(header, rows))


def _write(card: Path, text: str) -> str:
    with whole_file(card) as part:
        part.write_text(text, encoding="utf-8", errors="replace")
    return text
