"""Bundles of linear models and eye stackings: severities of the stages, a missing fellow eye, and files that differ."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from bundles import THREE, VARIANT, save_decision_rule, weights, write_toy_bundle
from retinaflow.cli import main
from retinaflow.errors import RetinaflowError
from retinaflow.scoring.decision_rules import read_decision_rule
from retinaflow.scoring.eye_stacking import RunFiles, StackingModels, stack_eyes
from retinaflow.scoring.features import FeatureViews, extract
from retinaflow.scoring.fit_linear import LinearJob, LinearRun, StoredSplit, fit_linear
from retinaflow.scoring.raw_outputs import RawOutputs, read_raw_outputs, write_raw_outputs
from retinaflow.serving.bundle import read_bundle
from retinaflow.serving.bundling import OneEyeFiles
from retinaflow.serving.examination import examine_patient
from retinaflow.serving.predict import Answer, grade_files
from retinaflow.serving.reading import read_new_images
from retinaflow.serving.runtime import load_bundled_model
from retinaflow.settings.augment import AugmentSettings
from retinaflow.storage.files import digest
from retinaflow.storage.tables import write_table

# Image 5 of patient 3 has no fellow eye, and patient 2 has two images of an eye.
NAMES = ["1_left", "1_right", "2_left", "2_right", "3_left"]
AUGMENT = AugmentSettings(rotation=180, brightness=0.4, hue=30)
RANGES = AUGMENT.model_dump(exclude={"mixup", "cutmix"})


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    """Path of each new image: discs of random colours."""
    found = {}
    for seed, name in enumerate(NAMES):
        pixels = cv2.resize(np.random.default_rng(seed).integers(60, 256, (6, 6, 3), dtype=np.uint8), (40, 40))
        found[f"{name}.png"] = str(tmp_path / f"{name}.png")
        cv2.imwrite(found[f"{name}.png"], pixels)
    return found


def means_of(files: dict[str, str]) -> np.ndarray:
    """Mean colours that enter a network, float32 (n, 3)."""
    images = read_new_images(list(files.items()), [VARIANT], 1, 1)
    return np.stack([image.pixels[VARIANT] for image in images]).mean(axis=(1, 2), dtype=np.float32) / np.float32(255)


def source(network: str, training_run: str | None = None) -> dict[str, Any]:
    trained = training_run is not None
    return {
        **{"network": network, "training_run": training_run, "backbone": "VGG16", "weights": "random", "digest": None},
        **{"variant": VARIANT, "feature_layers": [], "views": 1, "severity": trained, "deviations": trained},
    }


def save_features(
    stem: Path, names: Sequence[str], features: np.ndarray, deviations: np.ndarray | None = None
) -> tuple[Path, Path]:
    array, rows = stem.with_suffix(".npy"), stem.with_suffix(".csv")
    array.parent.mkdir(parents=True, exist_ok=True)
    second = np.zeros_like(features) if deviations is None else deviations
    np.save(array, np.concatenate([features, second], axis=1).astype(np.float16))
    write_table(rows, ("image", "digest"), [{"image": name, "digest": "0"} for name in names])
    return array, rows


def training_means() -> tuple[list[str], np.ndarray, np.ndarray]:
    """Names, mean colours and grades of both eyes of 20 patients."""
    rng = np.random.default_rng(9)
    names = [f"{patient}_{eye}" for patient in range(100, 120) for eye in ("left", "right")]
    means = rng.uniform(0.3, 0.9, (40, 3)).astype(np.float32)
    return names, means, np.digitize(means[:, 0] + rng.normal(0, 0.1, 40), [0.5, 0.7])


def split_of(folder: Path, names: Sequence[str], means: np.ndarray, grades: np.ndarray) -> StoredSplit:
    """Images with the features of backbones A and B."""
    columns = ("image", "filename", "patient", "eye", "grade")
    rows = [
        dict(zip(columns, (name, f"{name}.png", *name.split("_"), grade), strict=True))
        for name, grade in zip(names, grades.tolist(), strict=True)
    ]
    write_table(folder / "index.csv", columns, rows)
    # The graphs of both have seed 0.
    features = [save_features(folder / name, names, means @ weights("softmax", 0)) for name in "AB"]
    return StoredSplit(folder / "index.csv", features)


def linear_severities(folder: Path, means: np.ndarray, eyes: str) -> tuple[list[Path], np.ndarray]:
    """Fit a linear model with two folds. Return its files, and the raw outputs of new images by the stage."""
    names, known, grades = training_means()
    splits = {
        "fold-1": split_of(folder / "1", names[:20], known[:20], grades[:20]),
        "fold-2": split_of(folder / "2", names[20:], known[20:], grades[20:]),
        "test": split_of(folder / "test", NAMES, means, np.arange(len(NAMES)) % 3),
    }
    models = [folder / "fold-1/linear.npz", folder / "fold-2/linear.npz"]
    runs = [LinearRun(["fold-2"], "fold-1", models[0]), LinearRun(["fold-1"], "fold-2", models[1])]
    outputs = {"out-of-fold": folder / "held_out.csv", "test": folder / "test.csv"}
    one_eye = "ridge+one_eye" if eyes == "both" else None
    fit_linear(LinearJob("ridge", eyes, one_eye, [source("A"), source("B")], splits, runs, outputs, THREE, 1))
    return models, read_raw_outputs(outputs["test"], "regression", grade_count=3).outputs[:, 0]


def answers_of_bundle(bundle: Path, files: dict[str, str]) -> list[Answer]:
    graded = grade_files(files, load_bundled_model(read_bundle(bundle), 1), 1)
    assert not graded.problems
    return graded.answers


def write_linear_bundle(folder: Path, means: np.ndarray) -> tuple[Path, np.ndarray, np.ndarray]:
    """Return the bundle of a linear model of both eyes, and the raw outputs of it and of the model of one eye."""
    both, expected = linear_severities(folder / "both", means, "both")
    one, expected_one = linear_severities(folder / "one", means, "one")
    save_decision_rule(folder / "one_rule.json", "regression", 5)
    bundle = write_toy_bundle(
        folder / "results",
        "ridge",
        [("A", "features", ["A"]), ("B", "features", ["B"])],
        linear=both,
        one_eye=OneEyeFiles("ridge+one_eye", one, folder / "one_rule.json"),
        kind="linear",
        tta_views=4,
    )
    return bundle, expected, expected_one


def test_linear_bundle_has_the_severities_of_the_stage(tmp_path: Path, files: dict[str, str], capsys) -> None:
    bundle, expected, one = write_linear_bundle(tmp_path, means_of(files))
    answers = answers_of_bundle(bundle, files)
    assert np.ptp(expected) > 0.1
    severities = np.clip([*expected[:4], one[4]], 0, 2)
    np.testing.assert_allclose([answer["severity"] for answer in answers], severities, atol=1e-4)
    assert [answer["answered_by"] for answer in answers] == ["ridge"] * 4 + ["ridge+one_eye"]
    files_of_rules = ("results/models/ridge/decision_rule.json", "one_rule.json")
    rules = [read_decision_rule(tmp_path / name) for name in files_of_rules]
    assert [answer["risk_threshold"] for answer in answers] == [rules[0].referable_cut] * 4 + [rules[1].referable_cut]
    for answer, rule in zip(answers[3:], rules, strict=True):
        assert answer["predicted_grade"] == np.searchsorted(rule.thresholds, answer["severity"])
    assert {answer["eye_average_grade"] for answer in answers} == {None}
    assert main(["predict", "--model", str(bundle), files["3_left.png"]]) == 0
    assert "the fellow eye is missing: answered by ridge+one_eye" in capsys.readouterr().out


def test_linear_bundle_of_one_eye(tmp_path: Path, files: dict[str, str]) -> None:
    models, expected = linear_severities(tmp_path / "one", means_of(files), "one")
    bundle = write_toy_bundle(
        tmp_path / "results", "ridge", [(name, "features", [name]) for name in "AB"], linear=models, kind="linear"
    )
    answers = answers_of_bundle(bundle, files)
    np.testing.assert_allclose([answer["severity"] for answer in answers], np.clip(expected, 0, 2), atol=1e-4)
    assert {answer["answered_by"] for answer in answers} == {"ridge"}
    assert [answer["eye_average_grade"] is None for answer in answers] == [False] * 4 + [True]


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True), np.float64)


class DrawnImages:
    """Stands for the shards of images."""

    def __init__(self, names: Sequence[str], pixels: np.ndarray) -> None:
        self.names, self.pixels, self.size = list(names), pixels, pixels.shape[1]

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, number: int) -> np.ndarray:
        return np.asarray(self.pixels[number])

    def read_into(self, out: np.ndarray, number: int) -> None:
        out[:] = self.pixels[number]


class MeanColour:
    """A network of ``bundles`` as the stage of features sees it: its mean colours, times ``factors``."""

    name, output_shape = "A", (None, 3)

    def __init__(self, factors: np.ndarray) -> None:
        self.factors = factors

    def predict(self, batches: Any, **_: Any) -> np.ndarray:
        shown = [batches[number][0] for number in range(batches.num_batches)]
        means = np.concatenate(shown).mean(axis=(1, 2), dtype=np.float32) / np.float32(255)
        return means @ self.factors


def several_views(files: dict[str, str], network: MeanColour, count: int) -> np.ndarray:
    """Features of new images and their deviations over views, float32 (n, 6), by the stage of features."""
    images = read_new_images(list(files.items()), [VARIANT], 1, 1)
    shards = DrawnImages(NAMES, np.stack([image.pixels[VARIANT] for image in images]))
    [features] = extract(network, shards, FeatureViews(count, AUGMENT, 5), threads=1)
    return features


@pytest.mark.parametrize("views", [1, 3])
def test_stacking_bundle_has_the_severities_of_the_stage(tmp_path: Path, files: dict[str, str], views: int) -> None:
    names, known, grades = training_means()
    new, of_views = means_of(files), several_views(files, MeanColour(np.eye(3, dtype=np.float32)), views)
    assert (of_views[:, 3:] > 0.005).all() == (views > 1)
    deviations = np.zeros_like(known) if views == 1 else known[:, ::-1] ** 2
    runs: dict[str, list[RunFiles]] = {"out-of-fold": [], "test": []}
    for seed, half in enumerate((slice(0, 20), slice(20, 40))):
        for split, (images, means, true, extracted) in {
            "out-of-fold": (names[half], known[half], grades[half], np.hstack([known, deviations])[half]),
            "test": (NAMES, new, np.arange(len(NAMES)) % 3, of_views),
        }.items():
            folder = tmp_path / split / str(seed)
            patients, eyes = zip(*(name.split("_") for name in images), strict=True)
            outputs = softmax(means @ weights("softmax", seed))
            raw = RawOutputs(images, [f"{name}.png" for name in images], list(patients), list(eyes), true, outputs)
            features = save_features(folder / "features", images, extracted[:, :3], extracted[:, 3:])
            write_raw_outputs(folder / "raw_outputs.csv", raw)
            runs[split].append(RunFiles(folder / "raw_outputs.csv", *features))
    written = {split: tmp_path / f"{split}.csv" for split in runs}
    stackings = [tmp_path / f"linear-{fold}.npz" for fold in (1, 2)]
    sources = [{**source("A", f"A/fold-{fold}"), "views": views} for fold in (1, 2)]
    models = StackingModels("A+eye_stacking", "A", sources, THREE, stackings)
    stack_eyes(runs, written, objective="softmax", models=models, seed=1)
    expected = read_raw_outputs(written["test"], "regression", grade_count=3).outputs[:, 0]

    save_decision_rule(tmp_path / "rule.json", "softmax", 5)
    bundle = write_toy_bundle(
        tmp_path / "results",
        "A+eye_stacking",
        [("A", "softmax", ["A/fold-1", "A/fold-2"])],
        linear=stackings,
        one_eye=OneEyeFiles("A", [], tmp_path / "rule.json"),
        kind="eye_stacking",
        **({"feature_views": {"views": views, "seed": 5}, "augment": RANGES} if views > 1 else {}),
    )
    answers = answers_of_bundle(bundle, files)
    alone = np.mean([softmax(new[4:] @ weights("softmax", seed)) @ np.arange(3) for seed in (0, 1)])
    severities = np.clip([*expected[:4], alone], 0, 2)
    np.testing.assert_allclose([answer["severity"] for answer in answers], severities, atol=1e-4)
    assert [answer["answered_by"] for answer in answers] == ["A+eye_stacking"] * 4 + ["A"]

    # On the page: no heat map, and the model that answered.
    loaded = load_bundled_model(read_bundle(bundle), 1)
    shown = examine_patient({"left": files["1_left.png"], "right": files["1_right.png"]}, loaded, 1)["images"]
    assert [(image["heat_map"], image["answered_by"]) for image in shown] == [(None, "A+eye_stacking")] * 2
    # Random views follow from the name of the image, which the page does not have.
    close = 1e-6 if views == 1 else 0.2
    severities = [answer["severity"] for answer in answers[:2]]
    assert [image["severity"] for image in shown] == pytest.approx(severities, abs=close)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "network"}, "kind network with 2 linear models"),
        ({"linear": []}, "kind linear with 0 linear models"),
        ({"one_eye": None}, "expected .'one'"),
        ({"linear": ["card.md"]}, "cannot be read as a linear model"),
    ],
)
def test_linear_bundle_that_does_not_fit_is_refused(
    tmp_path: Path, files: dict[str, str], change: dict[str, Any], message: str
) -> None:
    bundle, *_ = write_linear_bundle(tmp_path, means_of(files))
    content = json.loads((bundle / "bundle.json").read_text())
    (bundle / "bundle.json").write_text(json.dumps({**content, **change}))
    with pytest.raises(RetinaflowError, match=message):
        load_bundled_model(read_bundle(bundle), 1)


def test_network_in_place_of_a_backbone_is_refused(tmp_path: Path, files: dict[str, str]) -> None:
    bundle, *_ = write_linear_bundle(tmp_path, means_of(files))
    graph, description = bundle / "backbone-A.onnx", bundle / "bundle.json"
    # A network in place of a backbone.
    other = write_toy_bundle(tmp_path / "other", "A", [("A", "softmax", ["A"])]) / "network-A.onnx"
    graph.unlink()
    graph.write_bytes(other.read_bytes())
    content = json.loads(description.read_text())
    content["files"]["backbone-A.onnx"] = digest(graph.read_bytes())
    description.write_text(json.dumps(content))
    with pytest.raises(RetinaflowError, match=r"expected inputs .* and outputs features"):
        load_bundled_model(read_bundle(bundle), 1)


def test_features_of_several_views_are_those_of_the_stage(tmp_path: Path, files: dict[str, str]) -> None:
    new = several_views(files, MeanColour(weights("softmax", 0)), 3)
    assert (new[:, 3:] > 0.01).all()
    names, known, grades = training_means()
    splits = {"test": split_of(tmp_path / "test", NAMES, known[:5], np.arange(5) % 3)}
    splits["test"].features[:] = [save_features(tmp_path / "test/A", NAMES, new[:, :3], new[:, 3:])]
    for split, chosen in (("train", slice(0, 30)), ("validation", slice(30, 40))):
        splits[split] = split_of(tmp_path / split, names[chosen], known[chosen], grades[chosen])
        features = save_features(tmp_path / split / "A", names[chosen], known[chosen], known[chosen][:, ::-1] ** 2)
        splits[split].features[:] = [features]
    outputs = {"validation": tmp_path / "validation.csv", "test": tmp_path / "test.csv"}
    runs = [LinearRun(["train"], "validation", tmp_path / "linear.npz")]
    inputs = {**source("A"), "views": 3, "deviations": True}
    fit_linear(LinearJob("ridge", "one", None, [inputs], splits, runs, outputs, THREE, 1))
    expected = read_raw_outputs(outputs["test"], "regression", grade_count=3).outputs[:, 0]
    bundle = write_toy_bundle(
        tmp_path / "results",
        "ridge",
        [("A", "features", ["A"])],
        linear=[tmp_path / "linear.npz"],
        kind="linear",
        tta_views=1,
        feature_views={"views": 3, "seed": 5},
        augment=RANGES,
    )
    severities = [answer["severity"] for answer in answers_of_bundle(bundle, files)]
    assert severities == pytest.approx(expected.clip(0, 2).tolist(), abs=1e-4)
    assert np.ptp(expected) > 0.01

    description = json.loads((bundle / "bundle.json").read_text())
    description["networks"][0]["augment"] = None
    (bundle / "bundle.json").write_text(json.dumps(description))
    with pytest.raises(RetinaflowError, match="several views of features without their random changes"):
        read_bundle(bundle)
