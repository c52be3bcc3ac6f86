"""Metrics of joined training sets, set by set."""

import numpy as np
import pytest

from common import grades_of
from retinaflow.errors import RetinaflowError
from retinaflow.evaluation.metrics import evaluate
from retinaflow.scoring.by_data_set import DATA_SET_COLUMNS, score_data_sets
from retinaflow.storage.tables import write_table

KAPPA = "quadratic_weighted_kappa"
RATES = ("operating_point_sensitivity", "operating_point_specificity")
NAMES = ["none", "mild", "severe"]


def table_of(path, sets):
    """Write predictions of 40 images of 20 patients of each set. Return their grades and probabilities by set."""
    rng = np.random.default_rng(1)
    rows, found = [], {}
    for name in sets:
        actual, probabilities = np.arange(40) % 3, rng.dirichlet(np.ones(3), 40)
        found[name] = actual, probabilities
        for place, (grade, values) in enumerate(zip(actual, probabilities, strict=True)):
            row = {"image": f"{name}/{place}", "patient": f"{name}/{place // 2}", "grade": grade}
            rows.append({**row, "predicted_grade": values.argmax(), "referable": int(values.argmax() >= 1)})
    write_table(path, list(rows[0]), rows)
    row = {"split": "validation", "rank": 1, "model": "A", "predictions": path, "grade_names": NAMES}
    return {**row, "referable_grade_name": "mild"}, found


def test_each_set_has_its_own_metrics_and_intervals(tmp_path):
    row, sets = table_of(tmp_path / "predictions.csv", ["one", "two"])
    rows = score_data_sets([row], ["one", "two", "empty"], samples=50, seed=3)
    assert [found["data_set"] for found in rows] == ["one", "two"]
    for found, (name, (actual, probabilities)) in zip(rows, sets.items(), strict=True):
        assert set(found) == set(DATA_SET_COLUMNS)
        options = {"bootstrap_samples": 50, "seed": 3, "eyes": [""] * 40, "grade_names": NAMES, "referable_grade": 1}
        patients = [f"{name}/{place // 2}" for place in range(40)]
        expected = evaluate(actual, grades_of(probabilities, 1), patients=patients, **options)
        assert found[KAPPA] == pytest.approx(expected[KAPPA])
        assert [found[f"{KAPPA}_{end}"] for end in ("low", "high")] == pytest.approx(expected["intervals"][KAPPA])
        point = expected["referable"]["operating_point"]
        assert [found[name] for name in RATES] == [point["sensitivity"], point["specificity"]]


def test_one_set_has_no_rows_and_unknown_sets_are_errors(tmp_path):
    row, _ = table_of(tmp_path / "predictions.csv", ["one", "two"])
    assert score_data_sets([row], ["one"], samples=0, seed=1) == []
    with pytest.raises(RetinaflowError, match="an image is of 'two', expected one of one, other"):
        score_data_sets([row], ["one", "other"], samples=0, seed=1)
