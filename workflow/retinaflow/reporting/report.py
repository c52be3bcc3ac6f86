"""What the report shows beside the figures that other stages leave behind: it reads their files and changes none."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from retinaflow.config.changes import flat
from retinaflow.errors import RetinaflowError
from retinaflow.evaluation.calibration import reliability
from retinaflow.networks import objectives
from retinaflow.preprocessing.shards import read_shard
from retinaflow.reporting.illustrations import (
    captioned_figure,
    grades_figure,
    operating_curves,
    quality_figure,
    reliability_diagram,
    samples_figure,
    shortened,
)
from retinaflow.reporting.pages import from_markdown, table, write_page
from retinaflow.scoring.raw_outputs import read_outputs
from retinaflow.storage.documents import read_own
from retinaflow.storage.tables import REBUILD, Row, read_table

# Mistakes that are shown; photographs of a class that are shown, and their longest side in pixels.
MISTAKES = 12
SAMPLES = 3
SAMPLE_SIDE = 320
# Of training_run.json, what says where a model comes from.
PROVENANCE = (
    *("seed", "digests", "environment", "computed", "photographs", "batch_size", "epochs_run", "best_epoch"),
    *("parameters", "trainable_parameters", "seconds"),
)

Shards = Sequence[tuple[Path, Path]]


def illustrate(
    title: str,
    predictions: Path,
    metrics: Path,
    outputs: Path,
    shards: Shards,
    objective: str,
    kind: str,
    classes: Sequence[str],
    referable_grade: int,
    figures: Mapping[str, Path],
) -> None:
    """Draw how a system does on a part: ``roc``, ``reliability``, ``quality`` and ``mistakes`` of ``figures``.

    ``outputs`` is what ``predictions`` and ``metrics`` were made of, with the ``objective`` and ``kind`` of
    ``read_outputs``; ``shards`` are those of the part, each (pixels, rows).

    Raises ``RetinaflowError`` if the two tables are not of the same photographs, or one is in no shard.
    """
    said = read_outputs(outputs, objective, len(classes), kind)
    numbers = ["grade", "predicted_grade", "referable"]
    columns = [*numbers, *(f"probability_{name}" for name in classes)]
    rows = read_table(predictions, ("filename", *columns))
    if [row["filename"] for row in rows] != list(said.filenames):
        raise RetinaflowError(f"{predictions}: other photographs than in {outputs}. {REBUILD}")
    actual, level, referred = (np.array([int(row[name]) for row in rows]) for name in numbers)
    probabilities = np.array([[float(row[name]) for name in columns[len(numbers) :]] for row in rows])

    positive, risk = actual >= referable_grade, probabilities[:, referable_grade:].sum(axis=1)
    operating_curves(figures["roc"], positive, risk, referred == 1, title)
    before = None
    if objective != "regression":
        before = reliability(actual, objectives.grade_probabilities(objective, said.outputs, len(classes), 1.0))
    reliability_diagram(figures["reliability"], reliability(actual, probabilities), before, title)
    thirds = read_own(metrics)["by_quality"]
    quality_figure(figures["quality"], thirds, title)

    worst = worst_mistakes(actual, level, probabilities)[:MISTAKES]
    pixels = photographs(shards, [said.images[place] for place in worst])
    texts = [
        f"{shortened(said.filenames[place])}\nactual {shortened(classes[actual[place]])}\n"
        f"predicted {shortened(classes[level[place]])}, {probabilities[place, level[place]]:.0%}"
        for place in worst
    ]
    missed = int((level[positive] == 0).sum())
    captioned_figure(
        figures["mistakes"],
        list(zip(pixels, texts, strict=True)),
        f"{title}\nof {positive.sum():,} photographs of {shortened(classes[referable_grade])} or worse, "
        f"{missed:,} called {shortened(classes[0])}",
        "no photograph is graded wrongly",
    )


def worst_mistakes(actual: np.ndarray, level: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Places of the photographs that are graded wrongly, the worst first: int64.

    The worst are furthest off; of these, those called too low come first, and then those with the most probable answer.
    ``actual``, ``level``: int (n,); ``probabilities``: float (n, k).
    """
    wrong = np.flatnonzero(level != actual)
    off = (level - actual)[wrong]
    return wrong[np.lexsort((-probabilities[wrong, level[wrong]], off > 0, -np.abs(off)))]


def photographs(shards: Shards, images: Sequence[str]) -> list[np.ndarray]:
    """Pixels of ``images``, each uint8 RGB (size, size, 3); ``RetinaflowError`` if one is in none of ``shards``."""
    found: dict[str, np.ndarray] = {}
    wanted = set(images)
    for pixels, rows in shards:
        if wanted <= found.keys():
            break
        array, names = read_shard(pixels, rows)
        found.update({name: np.array(array[row]) for row, name in enumerate(names) if name in wanted})
    if absent := wanted - found.keys():
        raise RetinaflowError(f"{min(absent)!r} is in no shard. Delete the shards of its part and run again.")
    return [found[image] for image in images]


def illustrate_data(
    indices: Mapping[str, Path],
    shards: Shards,
    records: Sequence[Path],
    classes: Sequence[str],
    grades: Path,
    samples: Path,
) -> None:
    """Draw how many photographs of each class there are, what they weigh, and some before and after preprocessing.

    ``indices``: table of each part; ``shards``, each (pixels, rows), are those of the first. ``records``:
    ``training_run.json``
    of all trainings.
    """
    tables = {part: read_table(index, ("image", "filename", "grade_name", "grade")) for part, index in indices.items()}
    counts = {
        part: np.bincount([int(row["grade"]) for row in rows], minlength=len(classes)) for part, rows in tables.items()
    }
    grades_figure(grades, counts, loss_weights(records, classes), classes)
    part, rows = next(iter(tables.items()))
    chosen = {name: _spread([row for row in rows if row["grade_name"] == name]) for name in classes}
    after = {name: photographs(shards, [row["image"] for row in of_class]) for name, of_class in chosen.items()}
    pairs = {
        name: [
            (_original(indices[part].parent / name / row["filename"]), pixels)
            for row, pixels in zip(of_class, after[name], strict=True)
        ]
        for name, of_class in chosen.items()
    }
    samples_figure(samples, pairs, SAMPLES, f"{part}, before and after preprocessing")


def loss_weights(records: Sequence[Path], classes: Sequence[str]) -> dict[str, list[float]]:
    """What a photograph of each class weighs in the loss, by the backbones that use the same; the mean over folds."""
    of_backbone: dict[str, list[list[float]]] = {}
    for record in map(read_own, records):
        weights = record["class_weights"] or dict.fromkeys(classes, 1.0)
        of_backbone.setdefault(record["backbone"], []).append([weights[name] for name in classes])
    users: dict[tuple[float, ...], list[str]] = {}
    for backbone, weights in of_backbone.items():
        users.setdefault(tuple(np.mean(weights, axis=0).tolist()), []).append(backbone)
    return {shortened(", ".join(names)): list(weights) for weights, names in users.items()}


def _spread(rows: Sequence[Row]) -> list[Row]:
    """Up to ``SAMPLES`` of them, evenly spaced."""
    count = min(SAMPLES, len(rows))
    return [rows[place * len(rows) // count] for place in range(count)]


def _original(path: Path) -> np.ndarray:
    """A photograph as it is, made small: uint8 RGB (height, width, 3)."""
    pixels = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_COLOR)
    if pixels is None:
        raise RetinaflowError(f"{path}: cannot be decoded; it has changed since the inventory. Restore it.")
    height, width = pixels.shape[:2]
    scale = min(1, SAMPLE_SIDE / max(height, width))
    small = cv2.resize(
        pixels, (max(1, round(scale * width)), max(1, round(scale * height))), interpolation=cv2.INTER_AREA
    )
    return cv2.cvtColor(small, cv2.COLOR_BGR2RGB)


def page_of(markdown: Path, page: Path, title: str) -> None:
    """Write ``markdown``, a file of another stage, as a page."""
    write_page(page, title, from_markdown(markdown.read_text(encoding="utf-8", errors="surrogateescape")))


def provenance(changed: Sequence[Sequence[Any]], records: Sequence[Path], page: Path) -> None:
    """Write where the results come from: settings (key, value, default) that were ``changed``, and what ``records``,
    ``training_run.json`` of all trainings, say. What these have in common is said once.
    """
    runs = [read_own(record) for record in records]
    facts = [flat({key: record[key] for key in PROVENANCE}) for record in runs]
    keys = list(dict.fromkeys(key for of_run in facts for key in of_run))
    common = [key for key in keys if all(of_run.get(key) == facts[0].get(key) for of_run in facts)]
    own = [key for key in keys if key not in common]
    body = "<h1>Settings other than the defaults</h1>\n"
    body += table(("setting", "value", "default"), [(key, *map(_text, both)) for key, *both in changed])
    body += "<h1>Trainings</h1>\n"
    body += table(("of all", ""), [(key, _text(facts[0][key])) for key in common])
    if own:
        rows = [
            [record["training_run"], *(_text(of_run.get(key)) for key in own)]
            for record, of_run in zip(runs, facts, strict=True)
        ]
        body += table(("training_run", *own), rows)
    write_page(page, "Provenance", body)


def _text(value: Any) -> str:
    """As it would stand in the configuration."""
    if value is None:
        return "–"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
