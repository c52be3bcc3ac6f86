"""Figures and pages of the report."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from common import CLASSES
from examples import write_record
from retinaflow.errors import RetinaflowError
from retinaflow.evaluation.grades import Grades
from retinaflow.reporting.pages import page_of
from retinaflow.reporting.report import (
    IllustrateDataJob,
    IllustrateJob,
    illustrate,
    illustrate_data,
    loss_weights,
    provenance,
    stored_pixels,
    worst_mistakes,
)
from retinaflow.scoring.decision_rules import (
    LabelledOutputs,
    cross_fit,
    fit_decision_rule,
    write_decision_rule,
)
from retinaflow.scoring.predictions import write_predictions
from retinaflow.scoring.raw_outputs import RawOutputs, raw_rows, write_raw_outputs
from retinaflow.storage.files import write_json
from retinaflow.storage.tables import write_table

COUNT = 40
GRADES = np.arange(COUNT) % 5
IMAGES = [f"{number:02}" for number in range(COUNT)]
PIXELS = np.arange(COUNT, dtype=np.uint8)[:, None, None, None] * np.ones((1, 16, 16, 3), np.uint8)


@pytest.fixture
def shards(tmp_path: Path) -> list[tuple[Path, Path]]:
    """Two shards; the brightness of an image is its number."""
    files = []
    for shard in range(2):
        pixels, rows = tmp_path / f"{shard}.npy", tmp_path / f"{shard}.csv"
        np.save(pixels, PIXELS[shard::2])
        write_table(rows, ["image", "digest"], [{"image": image, "digest": ""} for image in IMAGES[shard::2]])
        files.append((pixels, rows))
    return files


@pytest.mark.parametrize("objective", ["softmax", "regression"])
def test_every_figure_of_a_model_is_drawn(tmp_path: Path, shards: list[tuple[Path, Path]], objective: str) -> None:
    rng = np.random.default_rng(0)
    outputs = rng.dirichlet(np.ones(5), COUNT) if objective == "softmax" else rng.normal(GRADES, 1)[:, np.newaxis]
    raw = RawOutputs(IMAGES, [f"{image}.png" for image in IMAGES], IMAGES, [""] * COUNT, GRADES, outputs)
    tables = [tmp_path / name for name in ("predictions.csv", "metrics.json", "raw_outputs.csv")]
    labelled = LabelledOutputs(objective, CLASSES, outputs, GRADES, IMAGES)
    grades = cross_fit(labelled, 2, referable_sensitivity=0.9, seed=0)
    write_predictions(tables[0], raw, grades, CLASSES)
    write_json(tables[1], {"by_quality": None})
    write_raw_outputs(tables[2], raw)
    figures = {name: tmp_path / f"drawn/{name}.png" for name in ("roc", "reliability", "quality", "mistakes")}
    job = IllustrateJob(
        title="VGG16 on test",
        **dict(zip(("predictions", "metrics", "raw_outputs"), tables, strict=True)),
        kind="output",
        objective=objective,
        shards=shards,
        grade_names=CLASSES,
        referable_grade=2,
        figures=figures,
        decision_rule=tmp_path / "decision_rule.json",
    )
    write_decision_rule(
        tmp_path / "decision_rule.json", fit_decision_rule(labelled, 2, referable_sensitivity=0.9, seed=0)
    )
    illustrate(job)
    assert {path.stem for path in (tmp_path / "drawn").iterdir()} == figures.keys()
    other = r"predictions\.csv: other images than in .*raw_outputs\.csv"
    # Images lack predictions only if the metrics count them as local ones.
    tested = Grades(*(values[4:] for values in grades))
    write_predictions(tables[0], raw_rows(raw, np.arange(COUNT) >= 4), tested, CLASSES)
    with pytest.raises(RetinaflowError, match=other):
        illustrate(job)
    write_json(tables[1], {"by_quality": None, "recalibration": {"images": 4, "patients": 4}})
    illustrate(job)
    write_raw_outputs(tables[2], raw._replace(filenames=["other.png"] * COUNT))
    with pytest.raises(RetinaflowError, match=other):
        illustrate(job)


def test_worst_mistakes_come_first() -> None:
    actual = np.array([0, 4, 0, 3, 3, 1, 2])
    grade = np.array([0, 0, 4, 0, 0, 2, 2])
    sure = np.full((7, 5), 0.1)
    sure[4, 0] = 0.9
    # Grade 4 called 0, then grade 0 called 4, then grade 3 called 0, the surer one first. Correct grades are absent.
    assert worst_mistakes(actual, grade, sure).tolist() == [1, 2, 4, 3, 5]
    assert worst_mistakes(actual, actual, sure).tolist() == []


def test_pixels_are_read_from_every_shard(shards: list[tuple[Path, Path]]) -> None:
    found = stored_pixels(shards, ["07", "30", "06", "07"])
    assert [int(pixels[0, 0, 0]) for pixels in found] == [7, 30, 6, 7]
    assert stored_pixels([], []) == []
    with pytest.raises(RetinaflowError, match="'no' is in no shard"):
        stored_pixels(shards, ["07", "no"])


def test_figures_of_data_are_drawn(tmp_path: Path, shards: list[tuple[Path, Path]]) -> None:
    rows = [
        {"image": image, "filename": f"{image}.png", "grade_name": CLASSES[grade], "grade": grade}
        for image, grade in zip(IMAGES, GRADES % 4, strict=True)
    ]
    for row in rows:
        path = tmp_path / "organized" / row["grade_name"] / row["filename"]
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), np.zeros((30, 600, 3), np.uint8))
    index, empty = tmp_path / "organized/index.csv", tmp_path / "none.csv"
    write_table(index, rows[0], rows)
    write_table(empty, rows[0], [])
    figures = tmp_path / "grades.png", tmp_path / "samples.png"
    trained = [write_record(tmp_path / "training_run.json", "VGG16")]
    job = IllustrateDataJob({"train": index, "test": empty}, shards, trained, CLASSES, *figures)
    illustrate_data(job)
    assert all(figure.is_file() for figure in figures)
    path.write_bytes(b"")
    for image in path.parent.iterdir():
        image.write_bytes(b"none")
    with pytest.raises(RetinaflowError, match=r"\.png: cannot be decoded"):
        illustrate_data(job)


def test_shared_class_weights_are_one_entry(tmp_path: Path) -> None:
    weights = {"a": 0.5, "b": 2.0}
    records = [
        write_record(tmp_path / "1.json", "A/fold-1", class_weights=weights),
        write_record(tmp_path / "2.json", "A/fold-2", class_weights={"a": 1.5, "b": 4.0}),
        write_record(tmp_path / "3.json", "B/fold-1"),
        write_record(tmp_path / "4.json", "C/fold-1"),
    ]
    assert loss_weights(records, ["a", "b"]) == {"A": [1.0, 3.0], "B, C": [1.0, 1.0]}


def test_provenance_has_shared_values_once(tmp_path: Path) -> None:
    records = [write_record(tmp_path / f"{run}.json", run, seconds=1.5 + len(run)) for run in ("A", "BB")]
    provenance([["train.epochs", 3, 80], ["results", "<here>", None]], records, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<tr><td>train.epochs</td><td>3</td><td>80</td></tr>" in page
    assert "<tr><td>results</td><td>&lt;here&gt;</td><td>–</td></tr>" in page
    assert page.count("<tr><td>environment.python</td><td>3.12.1</td></tr>") == 1
    assert "<tr><td>computed.jit</td><td>false</td></tr>" in page
    assert (
        "<tr><th>training_run</th><th>seconds</th></tr>\n<tr><td>A</td><td>2.5</td></tr>\n<tr><td>BB</td><td>3.5"
        in page
    )
    provenance([], records[:1], tmp_path / "page.html")
    assert "<th>training_run</th>" not in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_markdown_becomes_a_page(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("# Heading\n", encoding="utf-8")
    page_of(tmp_path / "a.md", tmp_path / "a.html", "Title")
    assert "<title>Title</title>" in (tmp_path / "a.html").read_text()
    assert "<h1>Heading</h1>" in (tmp_path / "a.html").read_text()
