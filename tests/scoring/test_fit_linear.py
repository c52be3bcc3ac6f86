"""Linear models on features: fits with and without folds, files that predict the raw outputs, and errors."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from retinaflow.errors import RetinaflowError
from retinaflow.scoring.eyes import both_eyes
from retinaflow.scoring.fit_linear import LinearJob, LinearRun, StoredSplit, fit_linear
from retinaflow.scoring.linear_model import read_linear_model
from retinaflow.scoring.raw_outputs import read_raw_outputs
from retinaflow.storage.tables import read_table, write_table

WIDTHS = {"A": 6, "B": 4}


def network(name):
    return {
        **{"network": name, "training_run": None, "backbone": "VGG16", "weights": "imagenet", "digest": None},
        **{"variant": "224-trim-keep-none", "feature_layers": [], "views": 1, "severity": False, "deviations": False},
    }


def stored(folder: Path, split: str, patients: int, seed: int) -> StoredSplit:
    """Write both eyes of patients whose first feature of each network follows the grade."""
    rng = np.random.default_rng(seed)
    grades = np.repeat(rng.integers(0, 3, patients), 2)
    images = [f"{split}{number // 2}_{('left', 'right')[number % 2]}" for number in range(2 * patients)]
    index = folder / f"{split}.csv"
    columns = ("image", "filename", "patient", "eye", "grade")
    rows = [
        dict(zip(columns, (image, f"{image}.png", *image.split("_"), grade), strict=True))
        for image, grade in zip(images, grades.tolist(), strict=True)
    ]
    write_table(index, columns, rows)
    pairs = []
    for name, width in WIDTHS.items():
        features = rng.normal(size=(len(images), 2 * width))
        features[:, 0] += 2 * grades
        features[:, width:] = 0
        files = folder / f"{split}-{name}.npy", folder / f"{split}-{name}.csv"
        # The order of the files differs from that of the index.
        order = rng.permutation(len(images))
        np.save(files[0], features[order].astype(np.float16))
        write_table(files[1], ("image", "digest"), [{"image": images[place], "digest": "0"} for place in order])
        pairs.append(files)
    return StoredSplit(index, pairs)


def job(folder: Path, eyes: str = "both", folds: int = 0) -> LinearJob:
    trained = [f"fold-{number}" for number in range(1, folds + 1)] or ["train", "validation"]
    splits = {split: stored(folder, split, 20, seed) for seed, split in enumerate((*trained, "test"))}
    runs = [
        LinearRun([split for split in trained if split != fold], fold, folder / fold / "linear.npz")
        for fold in (trained if folds else ["validation"])
    ]
    held_out = "out-of-fold" if folds else "validation"
    return LinearJob(
        model="ridge",
        eyes=eyes,
        fallback="ridge+one_eye" if eyes == "both" else None,
        networks=[network(name) for name in WIDTHS],
        splits=splits,
        runs=runs,
        outputs={split: folder / "scores" / f"{split}.csv" for split in (held_out, "test")},
        grade_names=["none", "mild", "severe"],
        seed=1,
    )


def features_of(files: StoredSplit) -> tuple[np.ndarray, list[str]]:
    """Means of both networks for the images, by name."""
    joined, names = [], []
    for (features, rows), width in zip(files.features, WIDTHS.values(), strict=True):
        names = [line.split(",")[0] for line in rows.read_text().splitlines()[1:]]
        joined.append(np.load(features)[np.argsort(names), :width])
    return np.concatenate(joined, axis=1), sorted(names)


def test_model_of_both_eyes_predicts_its_raw_outputs(tmp_path):
    linear = job(tmp_path)
    fit_linear(linear)
    saved = read_linear_model(tmp_path / "validation/linear.npz")
    assert [item["values"] for item in saved.record["inputs"]] == list(WIDTHS.values())
    assert saved.record["images"] == 40
    assert saved.record["patients"] == 20
    assert len(saved.weights) == 2 * sum(WIDTHS.values()) + 1
    for split in ("validation", "test"):
        features, names = features_of(linear.splits[split])
        patients, eyes = zip(*(name.split("_") for name in names), strict=True)
        raw = read_raw_outputs(linear.outputs[split], "regression", grade_count=3)
        predicted = dict(zip(names, saved.predict(both_eyes(features, patients, eyes)), strict=True))
        np.testing.assert_allclose(raw.outputs[:, 0], [predicted[image] for image in raw.images], rtol=1e-6)
        assert np.corrcoef(raw.outputs[:, 0], raw.grades)[0, 1] > 0.8


def test_model_of_one_eye_has_no_fellow_eye(tmp_path):
    linear = job(tmp_path, "one")
    (model,) = fit_linear(linear)
    assert len(model.weights) == sum(WIDTHS.values())
    assert model.record["fallback"] is None
    features, names = features_of(linear.splits["test"])
    raw = read_raw_outputs(linear.outputs["test"], "regression", grade_count=3)
    predicted = dict(zip(names, model.predict(features), strict=True))
    np.testing.assert_allclose(raw.outputs[:, 0], [predicted[image] for image in raw.images], rtol=1e-6)


def test_folds_score_held_out_images_and_average_on_test(tmp_path):
    linear = job(tmp_path, "one", folds=3)
    models = fit_linear(linear)
    pooled = read_raw_outputs(linear.outputs["out-of-fold"], "regression", grade_count=3)
    assert [image.split("_")[0][:6] for image in pooled.images[::40]] == ["fold-1", "fold-2", "fold-3"]
    features, names = features_of(linear.splits["fold-2"])
    expected = dict(zip(names, models[1].predict(features), strict=True))
    np.testing.assert_allclose(pooled.outputs[40:80, 0], [expected[image] for image in pooled.images[40:80]], rtol=1e-6)
    assert {model.record["images"] for model in models} == {80}
    test = read_raw_outputs(linear.outputs["test"], "regression", grade_count=3)
    features, names = features_of(linear.splits["test"])
    mean = dict(zip(names, np.mean([model.predict(features) for model in models], axis=0), strict=True))
    np.testing.assert_allclose(test.outputs[:, 0], [mean[image] for image in test.images], rtol=1e-6)


def test_image_without_features_is_an_error(tmp_path):
    linear = job(tmp_path)
    table = linear.splits["train"].table
    rows = read_table(table)
    write_table(table, tuple(rows[0]), [*rows, {**rows[0], "image": "new_left"}])
    with pytest.raises(RetinaflowError, match=r"train-A\.npy: 1 images of .*train\.csv have no features, first 'new"):
        fit_linear(linear)
    assert not (tmp_path / "validation").exists()


def test_left_out_set_is_scored_by_a_model_without_it(tmp_path):
    names = [f"{name}-{side}" for name in ("a", "b") for side in ("train", "validation")]
    linear = dataclasses.replace(
        job(tmp_path, "one"),
        splits={split: stored(tmp_path, split, 20, seed) for seed, split in enumerate(names)},
        runs=[LinearRun(["b-train"], "validation", tmp_path / "linear.npz")],
        outputs={split: tmp_path / "scores" / f"{split}.csv" for split in ("validation", "left-out")},
        joined={"validation": ["b-validation"], "left-out": ["a-train", "a-validation"]},
    )
    (model,) = fit_linear(linear)
    assert model.record["patients"] == 20
    tested = read_raw_outputs(linear.outputs["left-out"], "regression", grade_count=3)
    expected = {}
    for split in ("a-train", "a-validation"):
        features, images = features_of(linear.splits[split])
        expected |= dict(zip(images, model.predict(features), strict=True))
    assert len(tested.images) == len(expected) == 80
    np.testing.assert_allclose(tested.outputs[:, 0], [expected[image] for image in tested.images], rtol=1e-6)
