"""The linear probe: planted features give the kappa they must, permuted labels none."""

import json
from pathlib import Path

import numpy as np
import pytest

from common import CLASSES
from retinaflow.errors import RetinaflowError
from retinaflow.scoring.probe import COLUMNS, probe, probe_job, rank
from retinaflow.storage.tables import read_table, write_table


def planted(patients: int, noise: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray, list[str], list[str]]:
    """Features of both eyes that tell the level of a patient with ``noise``, among others that tell nothing."""
    rng = np.random.default_rng(seed)
    levels = np.repeat(rng.choice(5, patients, p=[0.6, 0.1, 0.15, 0.1, 0.05]), 2)
    features = rng.normal(size=(2 * patients, 8))
    features[:, 3] = 10 * (levels + noise * rng.normal(size=2 * patients))
    return (
        features.astype(np.float16),
        levels,
        [str(number // 2) for number in range(2 * patients)],
        ["left", "right"] * patients,
    )


def test_planted_features_give_planted_kappa() -> None:
    features, levels, patients, eyes = planted(100, 0.01)
    one, both = probe(features, levels, patients, eyes, 5, 100, 1)
    assert (one["eyes"], both["eyes"]) == ("one", "both")
    for result in (one, both):
        assert result["quadratic_weighted_kappa"] > 0.99
        assert result["images"] == result["paired"] == 200
        assert result["baseline_accuracy"] == np.mean(levels == 0)
        assert result["low"] <= result["quadratic_weighted_kappa"] <= result["high"] <= 1


def test_both_eyes_are_worth_more_than_one() -> None:
    one, both = probe(*planted(200, 1.5), 5, 100, 1)
    assert 0.4 < one["quadratic_weighted_kappa"] < both["quadratic_weighted_kappa"] - 0.05
    assert one["low"] < one["quadratic_weighted_kappa"] < one["high"] < one["low"] + 0.25


def test_permuted_labels_give_no_kappa() -> None:
    features, levels, patients, eyes = planted(200, 0.5)
    # Both eyes of a patient keep one label, and features name patients: whoever saw one eye would know the other.
    permuted = np.repeat(np.random.default_rng(1).permutation(levels[::2]), 2)
    names = np.repeat(np.random.default_rng(2).normal(size=(200, 60)), 2, axis=0).astype(np.float16)
    for result in probe(np.concatenate([features, names], axis=1), permuted, patients, eyes, 5, 0, 1):
        assert abs(result["quadratic_weighted_kappa"]) < 0.15
        assert result["low"] is None


def test_without_pairs_there_is_no_result_for_both() -> None:
    features, levels, _, _ = planted(60, 0.5)
    (result,) = probe(features, levels, [str(number) for number in range(120)], [""] * 120, 5, 0, 1)
    assert (result["eyes"], result["paired"]) == ("one", 0)


def write(folder: Path, order: np.ndarray, parts: int) -> tuple[list[Path], list[tuple[Path, Path]]]:
    """Index tables and features of planted photographs, in any order, spread over parts."""
    features, levels, patients, eyes = planted(60, 0.5)
    names = [f"{patient}_{eye}" for patient, eye in zip(patients, eyes, strict=True)]
    indices, files = [], []
    for part in range(parts):
        rows = order[part::parts]
        indices.append(folder / f"index{part}.csv")
        write_table(
            indices[-1],
            ("image", "grade_name", "patient", "eye"),
            (
                {"image": names[row], "grade_name": CLASSES[levels[row]], "patient": patients[row], "eye": eyes[row]}
                for row in rows
            ),
        )
        pair = folder / f"{part}.npy", folder / f"{part}.csv"
        np.save(pair[0], features[rows[::-1]])
        write_table(pair[1], ("image", "digest"), ({"image": names[row], "digest": ""} for row in rows[::-1]))
        files.append(pair)
    return indices, files


def test_order_and_parts_do_not_matter(tmp_path: Path) -> None:
    written = []
    for number, (order, parts) in enumerate([(np.arange(120), 1), (np.random.default_rng(0).permutation(120), 3)]):
        folder = tmp_path / str(number)
        folder.mkdir()
        probe_job("VGG16", "last", *write(folder, order, parts), CLASSES, 20, 1, folder / "probe.json")
        written.append((folder / "probe.json").read_bytes())
    assert written[0] == written[1]


def test_a_photograph_without_features_is_an_error(tmp_path: Path) -> None:
    indices, files = write(tmp_path, np.arange(120), 2)
    with pytest.raises(RetinaflowError, match=r"60 images of .*index0\.csv, .*have no features, first '0_right'"):
        probe_job("VGG16", "last", indices, files[:1], CLASSES, 0, 1, tmp_path / "probe.json")


def test_ranked_by_kappa(tmp_path: Path) -> None:
    probes = []
    for name, kappa in (("VGG16", 0.3), ("ResNet50", 0.5), ("InceptionV3", None)):
        result = {
            "eyes": "one", "images": 10, "paired": 0, "quadratic_weighted_kappa": kappa, "low": None, "high": None,
            "accuracy": 0.5, "baseline_accuracy": 0.75, "strengths": [],
        }  # fmt: skip
        probes.append(tmp_path / f"{name}.json")
        probes[-1].write_text(json.dumps({"network": name, "layer": "last", "results": [result]}))
    text = rank(probes, tmp_path / "probe.csv", tmp_path / "probe.md")
    rows = read_table(tmp_path / "probe.csv", COLUMNS)
    assert [(row["rank"], row["network"]) for row in rows] == [("1", "ResNet50"), ("2", "VGG16"), ("3", "InceptionV3")]
    assert "| 1 | ResNet50 | last | one | 0.500 | 0.500 | 0.750 |" in text
    assert "no row for both eyes" in text
    assert (tmp_path / "probe.md").read_text() == text
    probes[0].write_text('{"backbone": "VGG16", "layer": "last", "results": [{"eyes": "three"}]}')
    with pytest.raises(RetinaflowError, match=r"VGG16\.json: is no result of a probe"):
        rank(probes, tmp_path / "probe.csv", tmp_path / "probe.md")
