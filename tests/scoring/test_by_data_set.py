"""Metrics of joined training sets, set by set."""

import numpy as np
import pytest

from retinaflow.errors import RetinaflowError
from retinaflow.evaluation.grades import Ranking
from retinaflow.evaluation.metrics import evaluate
from retinaflow.scoring.by_data_set import DATA_SET_COLUMNS, HeldOutFiles, JoinedSets, score_data_sets
from retinaflow.scoring.decision_rules import (
    LabelledOutputs,
    apply_decision_rule,
    cross_fit,
    fit_decision_rule,
    write_decision_rule,
)
from retinaflow.scoring.predictions import write_predictions
from retinaflow.scoring.raw_outputs import RawOutputs, write_raw_outputs
from retinaflow.storage.tables import write_table

KAPPA, AUC = "quadratic_weighted_kappa", "referable_auc"
RATES = ("operating_point_sensitivity", "operating_point_specificity")
NAMES = ["none", "mild", "severe"]
IMAGES = 40


def graded(folder, sets, constant=""):
    """Grade 40 images of each set, all of one grade in one. Return its row, its files, and their content."""
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(1)
    images = [f"{name}/{place}" for name in sets for place in range(IMAGES)]
    patients = [f"{name}/{place // 2}" for name in sets for place in range(IMAGES)]
    actual = np.array([place % 3 * (image.split("/")[0] != constant) for place, image in enumerate(images)])
    outputs = np.round(rng.dirichlet(np.ones(3), len(images)) + 0.4 * np.eye(3)[actual], 6)
    raw = RawOutputs(images, images, patients, [""] * len(images), actual, outputs / outputs.sum(axis=1, keepdims=True))
    labelled = LabelledOutputs("softmax", NAMES, raw.outputs, actual, patients)
    rule = fit_decision_rule(labelled, 1, referable_sensitivity=0.9, seed=1)
    grades = cross_fit(labelled, 1, referable_sensitivity=0.9, seed=1)
    files = HeldOutFiles(folder / "raw_outputs.csv", folder / "decision_rule.json")
    write_raw_outputs(files.raw_outputs, raw)
    write_decision_rule(files.decision_rule, rule)
    write_predictions(folder / "predictions.csv", raw, grades, NAMES)
    row = {"split": "validation", "rank": 1, "model": "A", "predictions": folder / "predictions.csv"}
    return {**row, "grade_names": NAMES, "referable_grade_name": "mild"}, files, (raw, rule, grades)


@pytest.mark.parametrize("folds", [0, 2])
def test_each_set_has_its_own_metrics_and_intervals(tmp_path, folds):
    row, files, (raw, rule, grades) = graded(tmp_path, ["one", "two"])
    indices = [tmp_path / f"fold-{fold}.csv" for fold in range(1, folds + 1)]
    for fold, index in enumerate(indices):
        write_table(index, ["image"], [{"image": image} for image in raw.images[fold::folds]])
    joined = JoinedSets(["one", "two", "empty"], {"A": files}, indices)
    rows = score_data_sets([row], joined, samples=50, seed=3)
    assert [found["data_set"] for found in rows] == ["one", "two"]
    probabilities = apply_decision_rule(rule, raw.outputs).probabilities
    for found, first in zip(rows, (0, IMAGES), strict=True):
        assert set(found) == set(DATA_SET_COLUMNS)
        of_set = slice(first, first + IMAGES)
        # One rule for all held-out images; with folds, only images of the same fold are compared.
        ranking = Ranking(probabilities[of_set], np.arange(IMAGES) % folds + 1 if folds else None)
        options = {"bootstrap_samples": 50, "seed": 3, "eyes": [""] * IMAGES, "grade_names": NAMES}
        expected = evaluate(
            raw.grades[of_set],
            type(grades)(*(values[of_set] for values in grades)),
            patients=raw.patients[of_set],
            referable_grade=1,
            ranking=ranking,
            **options,
        )
        assert found[KAPPA] == pytest.approx(expected[KAPPA])
        assert found[AUC] == pytest.approx(expected["referable"]["auc"])
        for name in (KAPPA, AUC):
            assert [found[f"{name}_{end}"] for end in ("low", "high")] == pytest.approx(expected["intervals"][name])
        point = expected["referable"]["operating_point"]
        assert [found[name] for name in RATES] == [point["sensitivity"], point["specificity"]]


def test_set_of_one_kind_has_no_area(tmp_path):
    row, files, _ = graded(tmp_path, ["one", "two"], constant="two")
    rows = score_data_sets([row], JoinedSets(["one", "two"], {"A": files}), samples=20, seed=3)
    assert rows[0][AUC] is not None
    assert [rows[1][name] for name in (AUC, f"{AUC}_low", f"{AUC}_high", RATES[0])] == [None] * 4


def test_one_set_has_no_rows_and_unknown_sets_are_errors(tmp_path):
    row, files, _ = graded(tmp_path, ["one", "two"])
    assert score_data_sets([row], None, samples=0, seed=1) == []
    assert score_data_sets([row], JoinedSets(["one"], {"A": files}), samples=0, seed=1) == []
    with pytest.raises(RetinaflowError, match="an image is of 'two', expected one of one, other"):
        score_data_sets([row], JoinedSets(["one", "other"], {"A": files}), samples=0, seed=1)
    other, _, _ = graded(tmp_path / "other", ["two", "one"])
    with pytest.raises(RetinaflowError, match="other images than in"):
        score_data_sets([other], JoinedSets(["one", "two"], {"A": files}), samples=0, seed=1)
