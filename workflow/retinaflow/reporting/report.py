"""Figures and pages of the report. It reads the files of other stages and changes none."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd

from retinaflow.config.changes import flat
from retinaflow.data.decoding import decode_image
from retinaflow.data.frames import read_frame
from retinaflow.errors import RetinaflowError
from retinaflow.evaluation.calibration import reliability
from retinaflow.evaluation.grades import GradeScale
from retinaflow.networks import objectives
from retinaflow.preprocessing.shards import open_shard, verify_pixels
from retinaflow.reporting.illustrations import (
    ModelCurve,
    captioned_figure,
    grades_figure,
    model_curves,
    operating_curves,
    quality_figure,
    reliability_diagram,
    samples_figure,
    shortened,
)
from retinaflow.reporting.pages import html_table, write_page
from retinaflow.reporting.templates import render
from retinaflow.scoring.decision_rules import apply_decision_rule, read_decision_rule
from retinaflow.scoring.raw_outputs import RawOutputs, raw_rows, read_raw_outputs
from retinaflow.storage.documents import read_own
from retinaflow.storage.tables import REBUILD, read_table

MISTAKES = 12  # mistakes of a figure
AUC = "referable_auc"
LONGEST_TITLE = 70  # characters of a legend
SAMPLES = 3  # images of a grade
SAMPLE_SIDE = 320  # longest side of a sample in pixels
# Keys of training_run.json that describe the origin of a network.
PROVENANCE = (
    *("seed", "digests", "environment", "computed", "photographs", "batch_size", "epochs_run", "best_epoch"),
    *("parameters", "trainable_parameters", "seconds"),
)

Shards = Sequence[tuple[Path, Path]]  # pixels and rows of each


@dataclass(frozen=True)
class IllustrateJob:
    """Input and output of the figures of a model on a split.

    Attributes:
        title: Title of all figures.
        predictions: Predictions of the model.
        metrics: Metrics of the predictions.
        raw_outputs: Raw outputs that the predictions are made of.
        kind: Columns of the raw outputs: ``output`` or ``no_tta``.
        objective: Kind of the raw outputs: ``softmax``, ``regression`` or ``ordinal``.
        shards: Shards of the split.
        grade_names: Name of each grade.
        referable_grade: Lowest grade to refer.
        figures: Files of ``roc``, ``reliability``, ``quality`` and ``mistakes``.
        scale: Scale of the split if its labels have other grades; the predictions have its grades.
        decision_rule: Decision rule of the model, which ranks all images for the curves. Without it, they are ranked by
            their probabilities, which have no common scale on the validation split.
    """

    title: str
    predictions: Path
    metrics: Path
    raw_outputs: Path
    kind: str
    objective: str
    shards: Shards
    grade_names: Sequence[str]
    referable_grade: int
    figures: Mapping[str, Path]
    scale: GradeScale | None = None
    decision_rule: Path | None = None

    @property
    def names(self) -> Sequence[str]:
        """Names of the grades of the split."""
        return self.scale.names if self.scale else self.grade_names

    @property
    def lowest_referable(self) -> int:
        """Lowest referable grade of the split; one above the highest if no grade is known to be referable."""
        found = self.scale.referable_grade(self.referable_grade) if self.scale else self.referable_grade
        return len(self.names) if found is None else found


def illustrate(job: IllustrateJob) -> None:
    """Draw the figures of a model on a split.

    Raises:
        RetinaflowError: The two tables have different images, or an image is in no shard.
    """
    names, title, lowest = job.names, job.title, job.lowest_referable
    every = read_raw_outputs(job.raw_outputs, job.objective, grade_count=len(job.grade_names), kind=job.kind)
    numbers = ["grade", "predicted_grade", "referable"]
    columns = [*numbers, *(f"probability_{name}" for name in names)]
    types = {**dict.fromkeys(numbers, int), **dict.fromkeys(columns[len(numbers) :], float)}
    graded = read_frame(job.predictions, ("filename", *columns), types=types)
    metrics = read_own(job.metrics)
    # Images of patients that refit the model have no predictions.
    raw = raw_rows(every, np.isin(every.filenames, graded["filename"].tolist()))
    without = len(every.filenames) - metrics.get("recalibration", {"images": 0})["images"]
    if list(graded["filename"]) != list(raw.filenames) or len(graded) != without:
        raise RetinaflowError(f"{job.predictions}: other images than in {job.raw_outputs}. {REBUILD}")
    actual, predicted, referred = (graded[name].to_numpy() for name in numbers)
    probabilities = graded[columns[len(numbers) :]].to_numpy()

    positive, risk = actual >= lowest, _ranking(job, raw, probabilities)[:, lowest:].sum(axis=1)
    operating_curves(job.figures["roc"], positive, risk, referred=referred == 1, title=title)
    before = None
    if job.objective != "regression":
        uncalibrated = objectives.grade_probabilities(job.objective, raw.outputs, len(job.grade_names), 1.0)
        before = reliability(actual, job.scale.merge_probabilities(uncalibrated) if job.scale else uncalibrated)
    reliability_diagram(job.figures["reliability"], reliability(actual, probabilities), before=before, title=title)
    quality_figure(job.figures["quality"], metrics["by_quality"], title)
    _draw_mistakes(job, raw, actual, predicted, probabilities)


def _ranking(job: IllustrateJob, raw: RawOutputs, probabilities: np.ndarray) -> np.ndarray:
    """Probabilities that rank all images on one scale, float64 (n, grades of the split)."""
    if job.decision_rule is None:
        return probabilities
    by_rule = apply_decision_rule(read_decision_rule(job.decision_rule), raw.outputs).probabilities
    return job.scale.merge_probabilities(by_rule) if job.scale else by_rule


def draw_model_curves(
    table: Path, predictions: Mapping[str, Path], split: str, *, referable_names: Sequence[str], figure: Path
) -> None:
    """Draw the ROC curves of all ranked models on a split.

    Args:
        table: Table of the comparison.
        predictions: Predictions of each model.
        split: The split.
        referable_names: Names of the referable grades; none if they are not known.
        figure: The file.

    Raises:
        RetinaflowError: A table of predictions has other images or grades than the first.
    """
    columns = ("rank", "model", "split", "repeat_of", "title", AUC, f"{AUC}_low", f"{AUC}_high")
    rows = [row for row in read_table(table, columns) if row["rank"] and row["split"] == split]
    risks = [f"probability_{name}" for name in referable_names]
    first, curves, families = None, [], set()
    for row in sorted(rows, key=lambda row: int(row["rank"])):
        path = predictions[row["model"]]
        graded = read_frame(path, ("filename", "grade_name", *risks), types=dict.fromkeys(risks, float))
        graded = graded.sort_values("filename")
        labels = graded[["filename", "grade_name"]].to_numpy().tolist()
        if first is not None and labels != first:
            raise RetinaflowError(f"{path}: other images or grades than those of other models. {REBUILD}")
        first, family = labels, row["repeat_of"] or row["model"]
        risk = graded[risks].sum(axis=1).to_numpy()
        curves.append(ModelCurve(shortened(row["title"], LONGEST_TITLE), risk, _auc_text(row), family not in families))
        families.add(family)
    positive = np.array([name in referable_names for _, name in first or []], bool)
    model_curves(figure, positive, curves, f"Referable on {split}")


def _auc_text(row: Mapping[str, str]) -> str:
    value, low, high = (row[f"{AUC}{end}"] for end in ("", "_low", "_high"))
    if not value:
        return "undefined"
    return f"{float(value):.3f}" + (f" [{float(low):.3f}, {float(high):.3f}]" if low else "")


def _draw_mistakes(
    job: IllustrateJob, raw: RawOutputs, actual: np.ndarray, predicted: np.ndarray, probabilities: np.ndarray
) -> None:
    names, lowest = job.names, job.lowest_referable
    positive = actual >= lowest
    worst = worst_mistakes(actual, predicted, probabilities)[:MISTAKES]
    pixels = stored_pixels(job.shards, [raw.images[place] for place in worst])
    texts = [
        f"{shortened(raw.filenames[place])}\nactual {shortened(names[actual[place]])}\n"
        f"predicted {shortened(names[predicted[place]])}, {probabilities[place, predicted[place]]:.0%}"
        for place in worst
    ]
    missed = int((predicted[positive] == 0).sum())
    counted = ""
    if lowest < len(names):
        counted = (
            f"\nof {positive.sum():,} images of {shortened(names[lowest])} or worse, {missed:,} predicted as "
            f"{shortened(names[0])}"
        )
    captioned_figure(
        job.figures["mistakes"],
        list(zip(pixels, texts, strict=True)),
        title=f"{job.title}{counted}",
        empty="no image is graded wrongly",
    )


def worst_mistakes(actual: np.ndarray, predicted: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Order the images that are graded wrongly, the worst first.

    The worst are furthest off. Of these, grades that are too low come first, then answers of high probability.

    Args:
        actual: Labelled grades, int (n,).
        predicted: Predicted grades, int (n,).
        probabilities: float (n, k).

    Returns:
        Places of the images, int64.
    """
    wrong = np.flatnonzero(predicted != actual)
    off = (predicted - actual)[wrong]
    return wrong[np.lexsort((-probabilities[wrong, predicted[wrong]], off > 0, -np.abs(off)))]


def stored_pixels(shards: Shards, images: Sequence[str]) -> list[np.ndarray]:
    """Read the pixels of images from shards.

    Returns:
        uint8 RGB (size, size, 3) for each image.

    Raises:
        RetinaflowError: An image is in no shard, or a shard is damaged.
    """
    found: dict[str, np.ndarray] = {}
    wanted = set(images)
    for pixels, rows in shards:
        if wanted <= found.keys():
            break
        shard = open_shard(pixels, rows)
        for row, name in enumerate(shard.names):
            if name in wanted:
                found[name] = np.array(shard.array[row])
                verify_pixels(found[name], shard.checksums[row], image=name, file=str(pixels))
    if absent := wanted - found.keys():
        raise RetinaflowError(f"{min(absent)!r} is in no shard. Delete the shards of its split and run again.")
    return [found[image] for image in images]


@dataclass(frozen=True)
class IllustrateDataJob:
    """Input and output of the figures of the data.

    Attributes:
        indices: Index table of each split.
        shards: Shards of the first split.
        records: ``training_run.json`` of all training runs.
        grade_names: Name of each grade.
        grades: Figure of the number of images and the class weights.
        samples: Figure of images before and after preprocessing.
    """

    indices: Mapping[str, Path]
    shards: Shards
    records: Sequence[Path]
    grade_names: Sequence[str]
    grades: Path
    samples: Path


def illustrate_data(job: IllustrateDataJob) -> None:
    """Draw the number of images of each grade, the class weights, and samples before and after preprocessing."""
    names = job.grade_names
    columns = ("image", "filename", "grade_name", "grade")
    tables = {split: read_frame(index, columns, types={"grade": int}) for split, index in job.indices.items()}
    counts = {split: np.bincount(images["grade"], minlength=len(names)) for split, images in tables.items()}
    grades_figure(job.grades, counts, weights=loss_weights(job.records, names), grade_names=names)
    split, images = next(iter(tables.items()))
    chosen = {name: _spread(images[images["grade_name"] == name]) for name in names}
    after = {name: stored_pixels(job.shards, list(of_grade["image"])) for name, of_grade in chosen.items()}
    pairs = {
        name: [
            (original_image(job.indices[split].parent / name / filename), pixels)
            for filename, pixels in zip(of_grade["filename"], after[name], strict=True)
        ]
        for name, of_grade in chosen.items()
    }
    samples_figure(job.samples, pairs, columns=SAMPLES, title=f"{split}, before and after preprocessing")


def loss_weights(records: Sequence[Path], grade_names: Sequence[str]) -> dict[str, list[float]]:
    """Class weights of the loss by the networks that share them; the mean over folds."""
    of_network: dict[str, list[list[float]]] = {}
    for record in map(read_own, records):
        weights = record["class_weights"] or dict.fromkeys(grade_names, 1.0)
        network = record["training_run"].split("/")[0]
        of_network.setdefault(network, []).append([weights[name] for name in grade_names])
    users: dict[tuple[float, ...], list[str]] = {}
    for network, weights in of_network.items():
        users.setdefault(tuple(np.mean(weights, axis=0).tolist()), []).append(network)
    return {shortened(", ".join(names)): list(weights) for weights, names in users.items()}


def _spread(images: pd.DataFrame) -> pd.DataFrame:
    """Up to ``SAMPLES`` rows, evenly spaced."""
    count = min(SAMPLES, len(images))
    return images.iloc[[place * len(images) // count for place in range(count)]]


def original_image(path: Path) -> np.ndarray:
    """An image before preprocessing, made small: uint8 RGB (height, width, 3)."""
    try:
        pixels = decode_image(path.read_bytes())
    except RetinaflowError as error:
        raise RetinaflowError(f"{path}: {error}; it has changed since the inventory. Restore it.") from None
    height, width = pixels.shape[:2]
    scale = min(1, SAMPLE_SIDE / max(height, width))
    small = cv2.resize(
        pixels, (max(1, round(scale * width)), max(1, round(scale * height))), interpolation=cv2.INTER_AREA
    )
    return cv2.cvtColor(small, cv2.COLOR_BGR2RGB)


def provenance(changed: Sequence[Sequence[Any]], records: Sequence[Path], page: Path) -> None:
    """Write the page on the origin of the results.

    Args:
        changed: Key, value and default of each setting that is not the default.
        records: ``training_run.json`` of all training runs. Values that all share are written once.
        page: The file.
    """
    runs = [read_own(record) for record in records]
    facts = [flat({key: record[key] for key in PROVENANCE}) for record in runs]
    keys = list(dict.fromkeys(key for of_run in facts for key in of_run))
    common = [key for key in keys if all(of_run.get(key) == facts[0].get(key) for of_run in facts)]
    own = [key for key in keys if key not in common]
    rows = [
        [record["training_run"], *(_text(of_run.get(key)) for key in own)]
        for record, of_run in zip(runs, facts, strict=True)
    ]
    body = render(
        "provenance.html",
        settings=html_table(("setting", "value", "default"), [(key, *map(_text, both)) for key, *both in changed]),
        common=html_table(("of all", ""), [(key, _text(facts[0][key])) for key in common]),
        own=html_table(("training_run", *own), rows) if own else "",
    )
    write_page(page, "Provenance", body)


def _text(value: Any) -> str:
    """A value as in the configuration."""
    if value is None:
        return "–"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
