"""Gates before grading: the share that is refused, and what is refused."""

import json

import cv2
import numpy as np
import pytest

from retinaflow.errors import RetinaflowError
from retinaflow.serving.gates import (
    FIGURES,
    fit_fundus_gate,
    fit_gates,
    fit_quality_gate,
    parse_gates,
    separates_better,
    thumbnail_features,
)
from retinaflow.storage.tables import write_table


def figures(count, seed=0):
    rng = np.random.default_rng(seed)
    return {name: np.round(rng.beta(8, 3, count), 4) for name in ("focus", "exposure", "field")}


@pytest.mark.parametrize("share", [0.0, 0.01, 0.05])
@pytest.mark.parametrize("count", [1, 50, 2000])
def test_quality_gate_refuses_the_stated_share(share, count):
    values = figures(count)
    gate = fit_quality_gate(values, share)
    rows = [dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True)]
    refused = np.mean([bool(gate.reason(row)) for row in rows])
    assert refused <= share
    assert share - refused <= 3 / count or refused == share
    unseen = figures(2000, seed=1)
    if count == 2000:
        rows = [dict(zip(unseen, row, strict=True)) for row in zip(*unseen.values(), strict=True)]
        assert np.mean([bool(gate.reason(row)) for row in rows]) == pytest.approx(share, abs=0.012)


def test_labels_of_quality_make_a_linear_gate(tmp_path):
    rng = np.random.default_rng(0)
    # Ungradable images are blurred, and have a higher exposure: not a reason to refuse.
    good, poor = rng.normal((0.7, 0.6, 0.8), 0.05, (400, 3)), rng.normal((0.55, 0.7, 0.78), 0.05, (60, 3))
    values = [(row, "") for row in good] + [(row, "ungradable") for row in poor] + [(("", "", ""), "ungradable")]
    rows = [{**dict(zip(FIGURES, row, strict=True)), "problem": problem} for row, problem in values]
    write_table(tmp_path / "train.csv", (*FIGURES, "problem"), rows)
    content = fit_gates(tmp_path / "train.csv", [])
    gate = parse_gates(json.dumps(content).encode(), "gates.json").quality
    refused = [bool(gate.reason(dict(zip(FIGURES, row, strict=True)))) for row in (*good, *poor)]
    assert sum(refused[:400]) == 4
    assert np.mean(refused[400:]) == gate.found
    assert gate.found > 0.5
    assert gate.weights["exposure"] == 0
    assert gate.reason({"focus": 0.4, "exposure": 0.9, "field": 0.8}) == FIGURES["focus"]
    assert gate.reason({"focus": 0.7, "exposure": 0.1, "field": 0.8}) == ""
    assert separates_better(good, poor)
    # Fewer labels than needed: the lowest values of good images.
    write_table(tmp_path / "few.csv", (*FIGURES, "problem"), rows[:410])
    assert "labelled_quality" not in fit_gates(tmp_path / "few.csv", [])

    del content["labelled_quality"]["means"]["focus"]
    with pytest.raises(RetinaflowError, match="labelled_quality lacks a figure"):
        parse_gates(json.dumps(content).encode(), "gates.json")
    # A bundle of an earlier version.
    del content["labelled_quality"]
    assert parse_gates(json.dumps(content).encode(), "gates.json").quality.lowest.keys() == FIGURES.keys()


def test_lowest_values_stay_if_they_separate_unseen_images_better(tmp_path):
    """Each ungradable image has one low figure, and two high ones that outweigh it in a sum."""
    rng = np.random.default_rng(0)
    good = rng.normal(0.6, 0.04, (400, 3))
    poor = rng.normal(0.72, 0.04, (60, 3))
    poor[np.arange(60), np.arange(60) % 3] = 0.42
    assert not separates_better(good, poor)
    rows = [{**dict(zip(FIGURES, row, strict=True)), "problem": ""} for row in good]
    rows += [{**dict(zip(FIGURES, row, strict=True)), "problem": "ungradable"} for row in poor]
    write_table(tmp_path / "train.csv", (*FIGURES, "problem"), rows)
    content = fit_gates(tmp_path / "train.csv", [])
    assert "labelled_quality" not in content
    gate = parse_gates(json.dumps(content).encode(), "gates.json").quality
    assert np.mean([bool(gate.reason(dict(zip(FIGURES, row, strict=True)))) for row in poor]) > 0.9


def test_quality_gate_names_the_worst_figure():
    gate = fit_quality_gate(figures(500), 0.01)
    good = {"focus": 0.8, "exposure": 0.8, "field": 0.8}
    assert gate.reason(good) == ""
    assert gate.reason({**good, "focus": 0.01}) == FIGURES["focus"]
    assert gate.reason({**good, "focus": 0.2, "exposure": 0.0}) == FIGURES["exposure"]


def test_fundus_gate_refuses_one_percent_of_unseen_images_and_all_that_are_far():
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(20, 200))
    real = rng.normal(size=(2000, 20)) @ mixing + rng.normal(size=(2000, 200))
    gate = fit_fundus_gate(real[:500])
    assert (gate.distance(real[500:]) > gate.threshold).mean() == pytest.approx(0.01, abs=0.01)
    other = rng.normal(size=(100, 200)) * 30
    assert (gate.distance(other) > gate.threshold).all()
    # Other images within the same span of features, but far away.
    far = rng.normal(size=(100, 20)) @ mixing * 6
    assert (gate.distance(far) > gate.threshold).mean() > 0.95
    assert gate.reason(gate.threshold + 1).startswith("unlike all training images")
    assert gate.reason(gate.threshold) == ""


def fundus(seed):
    """A drawn fundus: an orange disc with a bright spot, on black."""
    rng = np.random.default_rng(seed)
    image = np.zeros((64, 64, 3), np.uint8)
    shift = int(rng.integers(-3, 4))
    colour = [int(value) for value in np.array([180, 90, 40]) + rng.integers(-25, 26, 3)]
    cv2.circle(image, (32 + shift, 32), 28, colour, -1)
    cv2.circle(image, (32 + (14 if seed % 2 else -14), 32), 5, (250, 220, 160), -1)
    return cv2.add(image, rng.integers(0, 12, image.shape, dtype=np.uint8))


@pytest.fixture
def content(tmp_path):
    rows = [
        {**{name: repr(float(value)) for name, value in zip(figures(1), row, strict=True)}, "problem": ""}
        for row in zip(*figures(200).values(), strict=True)
    ]
    write_table(tmp_path / "train.csv", list(rows[0]), rows)
    for shard in range(2):
        np.save(tmp_path / f"{shard}.npy", np.stack([fundus(100 * shard + seed) for seed in range(100)]))
    return fit_gates(tmp_path / "train.csv", [tmp_path / "0.npy", tmp_path / "1.npy"])


def refusal(gates, figures, pixels):
    """Answer of the gates to an image."""
    return gates.refusal(figures, gates.distance(thumbnail_features([pixels])))


def test_gates_of_a_bundle_refuse_by_kind(content):
    gates = parse_gates(json.dumps(content).encode(), "gates.json")
    good = {"focus": 0.7, "exposure": 0.7, "field": 0.7}
    passed = [refusal(gates, good, fundus(1000 + seed)) is None for seed in range(100)]
    assert np.mean(passed) > 0.93
    assert refusal(gates, {**good, "field": 0.0}, fundus(0)) == ("poor_quality", FIGURES["field"])
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    for other in (
        255 - fundus(1),
        noise,
        np.full((64, 64, 3), 128, np.uint8),
        np.ascontiguousarray(fundus(1)[..., ::-1]),
    ):
        assert refusal(gates, good, other)[0] == "no_fundus_image"


def test_too_few_images_make_no_gate(tmp_path):
    write_table(tmp_path / "train.csv", (*FIGURES, "problem"), [dict.fromkeys((*FIGURES,), "0.5") | {"problem": ""}])
    content = fit_gates(tmp_path / "train.csv", [])
    assert content == {"quality": None, "fundus": None}
    assert refusal(parse_gates(json.dumps(content).encode(), ""), dict.fromkeys(FIGURES, 0.0), fundus(0)) is None
    flat = fit_fundus_gate(np.zeros((40, 5)))
    assert np.isfinite(flat.distance(np.zeros((3, 5)))).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fundus": {}}, "is a required property"),
        ({"quality": 3}, "3 is not of type"),
        ({"mean": [0.0]}, "do not fit together"),
        ({"scale": [0.0] * 112}, "do not fit together"),
        ({"rest": 0}, "rest: 0 is less than or equal to the minimum"),
        ({"threshold": 1e300}, "threshold"),
    ],
)
def test_wrong_gates_are_one_error(content, change, message):
    for name, value in change.items():
        (content if name in content else content["fundus"])[name] = value
    with pytest.raises(RetinaflowError, match=message):
        parse_gates(json.dumps(content).encode(), "gates.json")
    with pytest.raises(RetinaflowError, match="not valid JSON"):
        parse_gates(b"{", "gates.json")
