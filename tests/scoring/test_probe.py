"""The linear probe: planted features give a known kappa, permuted labels give none."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common import CLASSES
from retinaflow.data.frames import read_frame
from retinaflow.errors import RetinaflowError
from retinaflow.scoring.probe import PROBE_COLUMNS, ProbeJob, probe, probe_job, rank
from retinaflow.storage.tables import write_table


def planted(patients: int, noise: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray, list[str], list[str]]:
    """Return features of both eyes, grades, patients and eyes. One feature is the grade with ``noise``."""
    rng = np.random.default_rng(seed)
    grades = np.repeat(rng.choice(5, patients, p=[0.6, 0.1, 0.15, 0.1, 0.05]), 2)
    features = rng.normal(size=(2 * patients, 8))
    features[:, 3] = 10 * (grades + noise * rng.normal(size=2 * patients))
    return (
        features.astype(np.float16),
        grades,
        [str(number // 2) for number in range(2 * patients)],
        ["left", "right"] * patients,
    )


def probed(
    features: np.ndarray, grades: np.ndarray, patients: list[str], eyes: list[str], samples: int = 100
) -> list[dict[str, Any]]:
    return probe(features, grades, patients=patients, eyes=eyes, grade_count=5, bootstrap_samples=samples, seed=1)


def test_planted_features_give_a_high_kappa() -> None:
    features, grades, patients, eyes = planted(100, 0.01)
    one, both = probed(features, grades, patients, eyes)
    assert (one["eyes"], both["eyes"]) == ("one", "both")
    for result in (one, both):
        assert result["quadratic_weighted_kappa"] > 0.99
        assert result["images"] == result["paired"] == 200
        assert result["baseline_accuracy"] == np.mean(grades == 0)
        assert result["low"] <= result["quadratic_weighted_kappa"] <= result["high"] <= 1


def test_both_eyes_have_a_higher_kappa_than_one() -> None:
    one, both = probed(*planted(200, 1.5))
    assert 0.4 < one["quadratic_weighted_kappa"] < both["quadratic_weighted_kappa"] - 0.05
    assert one["low"] < one["quadratic_weighted_kappa"] < one["high"] < one["low"] + 0.25


def test_permuted_labels_give_no_kappa() -> None:
    features, grades, patients, eyes = planted(200, 0.5)
    # Features name the patient. The label of the fellow eye in training would give the label away.
    permuted = np.repeat(np.random.default_rng(1).permutation(grades[::2]), 2)
    names = np.repeat(np.random.default_rng(2).normal(size=(200, 60)), 2, axis=0).astype(np.float16)
    for result in probed(np.concatenate([features, names], axis=1), permuted, patients, eyes, samples=0):
        assert abs(result["quadratic_weighted_kappa"]) < 0.15
        assert result["low"] is None


def test_images_without_fellow_eyes_have_no_result_for_both() -> None:
    features, grades, _, _ = planted(60, 0.5)
    (result,) = probed(features, grades, [str(number) for number in range(120)], [""] * 120, samples=0)
    assert (result["eyes"], result["paired"]) == ("one", 0)


def write(folder: Path, order: np.ndarray, splits: int) -> tuple[list[Path], list[tuple[Path, Path]]]:
    """Write index tables and features of planted images, in an order, spread over splits."""
    features, grades, patients, eyes = planted(60, 0.5)
    names = [f"{patient}_{eye}" for patient, eye in zip(patients, eyes, strict=True)]
    indices, files = [], []
    for split in range(splits):
        rows = order[split::splits]
        indices.append(folder / f"index{split}.csv")
        write_table(
            indices[-1],
            ("image", "grade", "patient", "eye"),
            ({"image": names[row], "grade": grades[row], "patient": patients[row], "eye": eyes[row]} for row in rows),
        )
        pair = folder / f"{split}.npy", folder / f"{split}.csv"
        np.save(pair[0], features[rows[::-1]])
        write_table(pair[1], ("image", "digest"), ({"image": names[row], "digest": ""} for row in rows[::-1]))
        files.append(pair)
    return indices, files


def job(indices: list[Path], features: list[tuple[Path, Path]], output: Path) -> ProbeJob:
    return ProbeJob(
        network="VGG16",
        layer="last",
        indices=indices,
        features=features,
        grade_names=CLASSES,
        bootstrap_samples=20,
        seed=1,
        output=output,
    )


def test_results_do_not_depend_on_order_and_splits(tmp_path: Path) -> None:
    written = []
    for number, (order, splits) in enumerate([(np.arange(120), 1), (np.random.default_rng(0).permutation(120), 3)]):
        folder = tmp_path / str(number)
        folder.mkdir()
        probe_job(job(*write(folder, order, splits), folder / "probe.json"))
        written.append((folder / "probe.json").read_bytes())
    assert written[0] == written[1]


def test_image_without_features_is_an_error(tmp_path: Path) -> None:
    indices, files = write(tmp_path, np.arange(120), 2)
    with pytest.raises(RetinaflowError, match=r"60 images of .*index0\.csv, .*have no features, first '0_right'"):
        probe_job(job(indices, files[:1], tmp_path / "probe.json"))


def test_backbones_are_ranked_by_kappa(tmp_path: Path) -> None:
    probes = []
    for name, kappa in (("VGG16", 0.3), ("ResNet50", 0.5), ("InceptionV3", None)):
        result = {
            "eyes": "one", "images": 10, "paired": 0, "quadratic_weighted_kappa": kappa, "low": None, "high": None,
            "accuracy": 0.5, "baseline_accuracy": 0.75, "strengths": [],
        }  # fmt: skip
        probes.append(tmp_path / f"{name}.json")
        probes[-1].write_text(json.dumps({"network": name, "layer": "last", "results": [result]}))
    text = rank(probes, tmp_path / "probe.csv", tmp_path / "probe.md")
    rows = read_frame(tmp_path / "probe.csv", PROBE_COLUMNS)
    assert rows[["rank", "network", "quadratic_weighted_kappa", "low", "images"]].to_numpy().tolist() == [
        ["1", "ResNet50", "0.5", "", "10"],
        ["2", "VGG16", "0.3", "", "10"],
        ["3", "InceptionV3", "", "", "10"],
    ]
    assert "| 1 | ResNet50 | last | one | 0.500 | 0.500 | 0.750 |" in text
    assert "no row for both eyes" in text
    assert (tmp_path / "probe.md").read_text() == text
    probes[0].write_text('{"backbone": "VGG16", "layer": "last", "results": [{"eyes": "three"}]}')
    with pytest.raises(RetinaflowError, match=r"VGG16\.json: has no results of a probe"):
        rank(probes, tmp_path / "probe.csv", tmp_path / "probe.md")
