"""Cards have the values of the files of a workflow run, and no others."""

import json
from pathlib import Path

import numpy as np
import pytest

from examples import TRAINING_RECORD, of
from retinaflow.reporting.cards import _rules, data_card, model_card
from retinaflow.reporting.pages import from_markdown
from retinaflow.scoring.decision_rules import read_decision_rule
from retinaflow.scoring.linear_model import LinearModel, write_linear_model
from retinaflow.scoring.predictions import GradingJob, grade_model
from retinaflow.scoring.raw_outputs import write_raw_outputs
from retinaflow.storage.files import write_json
from retinaflow.storage.tables import write_table

GRADE_NAMES = ["no DR", "mild", "severe"]


def cards(folder: Path, bootstrap_samples: int, records: list[dict], qualities: bool = True) -> tuple[str, list[dict]]:
    """Return the card of a model of two splits, and its metrics."""
    tables = {split: folder / split / "raw_outputs.csv" for split in ("validation", "test")}
    raw = [of(60), of(30, seed=1)]
    for path, outputs in zip(tables.values(), raw, strict=True):
        write_raw_outputs(path, outputs)
    rows = [
        {"image": image, "quality": number / 90, "problem": ""}
        for number, image in enumerate(image for outputs in raw for image in outputs.images)
    ]
    write_table(folder / "train.csv", rows[0], rows)
    inventories = [folder / "train.csv"] if qualities else []
    decision_rule = folder / "decision_rule.json"
    job = GradingJob(
        model="VGG16",
        objective="regression",
        raw_outputs=tables,
        inventories=inventories,
        grade_names=GRADE_NAMES,
        referable_grade=2,
        referable_sensitivity=0.9,
        bootstrap_samples=bootstrap_samples,
        seed=1,
        decision_rule=decision_rule,
        predictions={split: folder / split / "p.csv" for split in tables},
        metrics={split: folder / split / "m.json" for split in tables},
    )
    grade_model(job)
    metrics = list(job.metrics.values())
    paths = [folder / f"run-{number}.json" for number in range(len(records))]
    for path, record in zip(paths, records, strict=True):
        write_json(path, record)
    text = model_card("VGG16", metrics, decision_rule, paths, folder / "cards/VGG16.md")
    assert (folder / "cards/VGG16.md").read_text(encoding="utf-8") == text
    return text, [json.loads(path.read_text()) for path in metrics]


def row(text: str, title: str) -> list[str]:
    (line,) = (line for line in text.splitlines() if line.startswith(f"| {title} |"))
    return line.split(" | ")[1:]


def test_card_has_the_values_of_the_metrics(tmp_path: Path) -> None:
    text, metrics = cards(tmp_path, 20, [TRAINING_RECORD])
    title, _, first = text.splitlines()[:3]
    assert (title, first.split(",")[0]) == ("# Model card: VGG16", "A `.keras` file has no calibration")
    for title, name in (("quadratic weighted kappa", "quadratic_weighted_kappa"), ("accuracy", "accuracy")):
        for cell, values in zip(row(text, title), metrics, strict=True):
            low, high = values["intervals"][name]
            assert cell.rstrip(" |") == f"{values[name]:.3f} [{low:.3f}, {high:.3f}]"
    sensitivities = [values["referable"]["operating_point"]["sensitivity"] for values in metrics]
    for cell, value in zip(row(text, "sensitivity, fitted to 0.9"), sensitivities, strict=True):
        assert cell.startswith(f"{value:.3f} [")
    test = metrics[1]
    counts = [str(sum(row_counts)) for row_counts in test["confusion_matrix"]]
    assert [cell.rstrip(" |") for cell in row(text, "test")] == [str(test["images"]), str(test["patients"]), *counts]
    for third in test["by_quality"]:
        assert row(text, third["third"])[0] == str(third["images"])
    for expected in (
        "block3_pool and block4_pool",
        "299 px",
        "weights of ImageNet",
        "1.5 hours on Tesla V100",
        "1234",
        "52dc",
    ):
        assert expected in text
    assert "no medical device" in text


def test_folds_are_one_line_and_unknown_values_are_left_out(tmp_path: Path) -> None:
    folds = [
        {**TRAINING_RECORD, "training_run": f"VGG16/fold-{fold}", "epochs_run": 10 + fold, "seconds": 1800}
        for fold in (1, 2, 3)
    ]
    settings = {"feature_layers": [], "image_size": 64, "weights": "/home/somebody/mine.h5"}
    text, metrics = cards(tmp_path, 0, [{**fold, "settings": settings} for fold in folds], qualities=False)
    assert "3 training runs of 11 to 13 epochs, 1.5 hours" in text
    assert "features of its last layer" in text
    assert "the weights mine.h5" in text
    assert "somebody" not in text
    assert "By quality" not in text
    assert row(text, "accuracy")[0] == f"{metrics[0]['accuracy']:.3f}"


@pytest.fixture
def tables(tmp_path: Path) -> dict[str, Path]:
    names = ("image", "patient", "eye", "width", "height", "quality", "problem")
    good = [(f"{n}_{eye}", str(n), eye, 100 * n, 90 * n, n / 10, "") for n in (1, 2, 3) for eye in ("left", "right")]
    rows = [*good[:-1], ("4_left", "4", "left", "", "", "", "truncated")]
    write_table(tmp_path / "train.csv", names, [dict(zip(names, each, strict=True)) for each in rows])
    write_table(tmp_path / "problems.csv", ["problem"], [{"problem": kind} for kind in ("truncated", "no_image")])
    write_table(tmp_path / "index.csv", ["grade_name"], [{"grade_name": name} for name in ("no DR", "no DR", "severe")])
    return {name: tmp_path / f"{name}.csv" for name in ("train", "problems", "index")}


def test_data_card_counts_images_and_problems(tables: dict[str, Path], tmp_path: Path) -> None:
    text = data_card(
        {"train": tables["train"]},
        {"train": tables["problems"]},
        indices={"test": tables["index"]},
        grade_names=GRADE_NAMES,
        card=tmp_path / "d.md",
    )
    assert "- 6 images, of which 5 of 3 patients have no problem" in text
    assert "- 2 patients with both eyes" in text
    assert "- problems: 1 no_image, 1 truncated" in text
    assert "| test | 3 | 2 | 0 | 1 |" in text
    median = np.median([100, 100, 200, 200, 300])
    assert row(text, "width in pixels")[1] == f"{median:.4g}"
    assert "<td>test</td>\n<td>3</td>" in from_markdown(text)


def test_data_card_without_a_usable_image(tables: dict[str, Path], tmp_path: Path) -> None:
    names = ("image", "patient", "eye", "width", "height", "quality", "problem")
    write_table(tables["train"], names, [dict.fromkeys(names, "") | {"image": "1", "problem": "empty"}])
    text = data_card(
        {"train": tables["train"]},
        {"train": tables["problems"]},
        indices={},
        grade_names=GRADE_NAMES,
        card=tmp_path / "d.md",
    )
    assert "- 1 images, of which 0 of 0 patients have no problem" in text


def test_card_of_a_linear_model_names_backbones_strength_and_fallback(tmp_path: Path) -> None:
    source = {
        **{"network": "frozen", "training_run": None, "backbone": "InceptionV3", "weights": "imagenet", "digest": None},
        **{"variant": "299-trim-keep-none", "feature_layers": ["mixed2"], "views": 1, "severity": False},
        **{"deviations": False, "values": 3},
    }
    record = {
        **{"model": "VGG16", "kind": "linear", "objective": "regression", "grade_names": GRADE_NAMES, "eyes": "both"},
        **{"fallback": "VGG16+one_eye", "inputs": [source], "strength": 100.0, "images": 90, "patients": 45},
        **{"seed": 7, "packages": {"numpy": "2"}, "digests": {"train_index": "abc"}},
    }
    write_linear_model(tmp_path / "linear.npz", LinearModel(np.zeros(7), 0.0, record))
    cards(tmp_path, 0, [TRAINING_RECORD])
    metrics = [tmp_path / split / "m.json" for split in ("validation", "test")]
    text = model_card("VGG16", metrics, tmp_path / "decision_rule.json", [tmp_path / "linear.npz"], tmp_path / "c.md")
    assert "- features of mixed2 of InceptionV3; images of 299 px; weights of ImageNet\n" in text
    assert "of both eyes of a patient; strength chosen on held-out patients: 100; fitted to 90 images\n" in text
    assert "- an image without fellow eye is graded by VGG16+one_eye and its decision rule\n" in text
    assert "objective regression; seed 7; numpy 2" in text
    assert "used 90 images" in text
    assert "digests of its index tables are abc." in text


def test_card_of_joined_sets_says_which_rule_grades(tmp_path: Path) -> None:
    cards(tmp_path, 0, [TRAINING_RECORD])
    rule = read_decision_rule(tmp_path / "decision_rule.json")
    own = rule._replace(data_sets={"near": {"images": 1200}})
    splits = [
        {"split": split, "decision_rule": {"data_sets": names}}
        for split, names in {"validation": ["near"], "test-near": ["near"], "test-else": []}.items()
    ]
    text = _rules(own, splits)
    assert "fitted on their images of validation: near (1,200 images). A test set" in text
    assert "All other images, here test-else, have the rule of all training sets together (60 images)." in text
    assert "none, since each has too few. A test set" in _rules(rule, splits)
    assert "All other images have the rule of all training sets" in _rules(own, splits[:2])
