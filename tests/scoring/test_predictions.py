import json

import numpy as np
import pytest

from examples import OUTPUTS, SOFTMAX, of
from retinaflow.evaluation.calibration import reliability
from retinaflow.evaluation.grades import Grades, GradeScale, Ranking
from retinaflow.evaluation.metrics import evaluate
from retinaflow.scoring.decision_rules import (
    LabelledOutputs,
    apply_decision_rule,
    cross_fit,
    fit_decision_rule,
    read_decision_rule,
)
from retinaflow.scoring.predictions import GradingJob, grade_model, read_quality, write_predictions
from retinaflow.scoring.raw_outputs import read_raw_outputs, write_raw_outputs
from retinaflow.storage.tables import read_table, write_table

GRADE_NAMES = ["no DR", "mild", "severe"]


def test_columns_and_values_of_predictions(tmp_path):
    grades = Grades(
        np.array([0.4, 1.5, 1.0, 0.5]), SOFTMAX, np.array([0, 2, 1, 0]), np.array([0, 2, 2, 1]), OUTPUTS.grades > 0
    )
    write_predictions(tmp_path / "predictions.csv", OUTPUTS, grades, GRADE_NAMES)
    assert (tmp_path / "predictions.csv").read_text().splitlines() == [
        "image,filename,grade_name,grade,predicted_grade_name,predicted_grade,"
        "probability_no DR,probability_mild,probability_severe,"
        "patient,eye,severity,argmax_grade_name,argmax_grade,referable",
        "1_left,1_left.jpeg,no DR,0,no DR,0,0.7,0.2,0.1,1,left,0.4,no DR,0,0",
        "1_right,1_right.jpeg,severe,2,severe,2,0.1,0.3,0.6,1,right,1.5,severe,2,1",
        "2_left,2_left.jpeg,no DR,0,severe,2,0.25,0.5,0.25,2,left,1,mild,1,0",
        "2_right,2_right.jpeg,mild,1,mild,1,0.5,0.5,0,2,right,0.5,no DR,0,1",
    ]


def graded(folder, splits, **options):
    """Grade a model. Return the files of each split, and the rule rule."""
    tables = {split: folder / f"{split}/raw_outputs.csv" for split in splits}
    for split, of_split in splits.items():
        write_raw_outputs(tables[split], of_split)
    inventory = folder / "train.csv"
    known = [image for of_split in splits.values() for image in of_split.images]
    rows = ({"image": image, "quality": number / len(known), "problem": ""} for number, image in enumerate(known))
    write_table(inventory, ("image", "quality", "problem"), rows)
    job = GradingJob(
        model="Tiny/fold-1",
        objective="regression",
        raw_outputs=tables,
        inventories=[inventory],
        grade_names=GRADE_NAMES,
        referable_grade=2,
        referable_sensitivity=0.9,
        bootstrap_samples=20,
        seed=1,
        decision_rule=folder / "decision_rule.json",
        predictions={split: folder / split / "predictions.csv" for split in splits},
        metrics={split: folder / split / "metrics.json" for split in splits},
        **options,
    )
    matrices = grade_model(job)
    written = {split: (job.predictions[split], job.metrics[split], matrices[split]) for split in splits}
    return written, read_decision_rule(job.decision_rule)


def test_decision_rule_is_fitted_on_the_first_split(tmp_path):
    held_out, test = of(60), of(30, seed=1)
    written, rule = graded(tmp_path, {"validation": held_out, "test": test})
    # With the rounding of the table.
    held_out, test = (
        read_raw_outputs(tmp_path / split / "raw_outputs.csv", "regression", grade_count=3) for split in written
    )
    known = LabelledOutputs("regression", GRADE_NAMES, held_out.outputs, held_out.grades, held_out.patients)
    assert rule == fit_decision_rule(known, 2, referable_sensitivity=0.9, seed=1)
    for raw_outputs, split, grades in (
        (held_out, "validation", cross_fit(known, 2, referable_sensitivity=0.9, seed=1)),
        (test, "test", apply_decision_rule(rule, test.outputs)),
    ):
        predictions, metrics, matrix = written[split]
        table = read_table(predictions)
        assert [row["filename"] for row in table] == raw_outputs.filenames
        assert [int(row["predicted_grade"]) for row in table] == grades.predicted.tolist()
        assert [int(row["argmax_grade"]) for row in table] == grades.argmax.tolist()
        assert [int(row["referable"]) for row in table] == grades.referable.tolist()
        found = json.loads(metrics.read_text())
        assert (found["model"], found["network"], found["split"]) == ("Tiny/fold-1", "Tiny", split)
        quality = read_quality([tmp_path / "train.csv"], raw_outputs.images)
        options = {"grade_names": GRADE_NAMES, "referable_grade": 2, "bootstrap_samples": 20, "seed": 1}
        people = {"patients": raw_outputs.patients, "eyes": raw_outputs.eyes}
        # Areas need one scale: cross-fitted probabilities have several.
        ranking = Ranking(apply_decision_rule(rule, raw_outputs.outputs).probabilities)
        expected = evaluate(raw_outputs.grades, grades, **options, **people, quality=quality, ranking=ranking)
        assert [third["images"] for third in expected["by_quality"]] == [len(table) // 3] * 3
        assert {key: found[key] for key in expected} == expected
        assert matrix.tolist() == found["confusion_matrix"]


def test_regression_has_no_calibration_before_the_fit(tmp_path):
    raw_outputs = of(60)
    probabilities = np.random.default_rng(2).dirichlet(np.ones(3), 60)
    for objective, outputs in (("regression", raw_outputs.outputs), ("softmax", probabilities)):
        folder = tmp_path / objective
        write_raw_outputs(folder / "raw_outputs.csv", raw_outputs._replace(outputs=outputs))
        job = GradingJob(
            model="Tiny",
            objective=objective,
            raw_outputs={"validation": folder / "raw_outputs.csv"},
            inventories=[],
            grade_names=GRADE_NAMES,
            referable_grade=2,
            referable_sensitivity=0.9,
            bootstrap_samples=0,
            seed=1,
            decision_rule=folder / "decision_rule.json",
            predictions={"validation": folder / "predictions.csv"},
            metrics={"validation": folder / "metrics.json"},
        )
        grade_model(job)
    before, regression = (
        json.loads((tmp_path / objective / "metrics.json").read_text())["calibration"]["uncalibrated"]
        for objective in ("softmax", "regression")
    )
    raw = reliability(raw_outputs.grades, probabilities)
    assert before["expected_calibration_error"] == pytest.approx(raw.expected_calibration_error, abs=1e-7)
    assert regression is None


def test_labels_of_the_test_set_change_its_metrics_only(tmp_path):
    held_out, test = of(60), of(30, seed=1)
    outcomes = []
    for name, grades in (("as_is", test.grades), ("inverted", 2 - test.grades)):
        written, rule = graded(tmp_path / name, {"validation": held_out, "test": test._replace(grades=grades)})
        predicted = [row["predicted_grade_name"] for row in read_table(written["test"][0])]
        outcomes.append((rule, predicted, written["validation"][1].read_bytes(), written["test"][1].read_bytes()))
    assert outcomes[0][:3] == outcomes[1][:3]
    assert outcomes[0][3] != outcomes[1][3]


def metrics_of(written, split):
    return json.loads(written[split][1].read_text())


def test_test_set_with_a_scale_is_scored_on_its_grades(tmp_path):
    """As if predictions and labels were merged by hand. The decision rule is the same."""
    held_out, test = of(60), of(30, seed=1)
    scale = GradeScale(["not_referable", "referable"], [0, 0, 1])
    merged = test._replace(grades=(test.grades == 2).astype(np.int64))
    whole, rule = graded(tmp_path / "whole", {"validation": held_out, "test": test})
    written, same_rule = graded(tmp_path / "own", {"validation": held_out, "test": merged}, scales={"test": scale})
    assert same_rule == rule
    assert written["validation"][1].read_bytes() == whole["validation"][1].read_bytes()
    rows, all_rows = read_table(written["test"][0]), read_table(whole["test"][0])
    for row, of_all in zip(rows, all_rows, strict=True):
        # Of two grades, the predicted one is the screening decision.
        assert row["predicted_grade"] == row["referable"]
        assert row["predicted_grade_name"] == scale.names[int(row["predicted_grade"])]
        assert float(row["probability_referable"]) == pytest.approx(float(of_all["probability_severe"]), abs=1e-8)
        assert (row["severity"], row["referable"]) == (of_all["severity"], of_all["referable"])
    found, of_all = metrics_of(written, "test"), metrics_of(whole, "test")
    pairs = [(int(row["grade"] == "2"), int(row["referable"])) for row in all_rows]
    assert any(row["referable"] != str(int(row["predicted_grade"] == "2")) for row in all_rows)
    assert found["confusion_matrix"] == [[pairs.count((i, j)) for j in (0, 1)] for i in (0, 1)]
    point = found["referable"]["operating_point"]
    assert point == {name: found["referable"][name] for name in ("sensitivity", "specificity")}
    assert found["referable"]["auc"] == pytest.approx(of_all["referable"]["auc"])
    assert found["referable"]["operating_point"] == of_all["referable"]["operating_point"]
    assert found["grade_names"] == scale.names
    assert found["joined_grades"] == {"not_referable": ["no DR", "mild"], "referable": ["severe"]}


def test_scale_of_three_grades_keeps_its_thresholds(tmp_path):
    test = of(30, seed=1)
    scale = GradeScale(GRADE_NAMES, [0, 1, 2])
    whole, _ = graded(tmp_path / "whole", {"validation": of(60), "test": test})
    written, _ = graded(tmp_path / "own", {"validation": of(60), "test": test}, scales={"test": scale})
    assert written["test"][0].read_bytes() == whole["test"][0].read_bytes()


def test_scale_without_the_referable_boundary_has_no_referable_metrics(tmp_path):
    test = of(30, seed=1)
    scale = GradeScale(["none", "any"], [0, 1, 1])
    merged = test._replace(grades=(test.grades > 0).astype(np.int64))
    written, _ = graded(tmp_path, {"validation": of(60), "test": merged}, scales={"test": scale})
    found = metrics_of(written, "test")
    whole, _ = graded(tmp_path / "whole", {"validation": of(60), "test": test})
    rows, all_rows = read_table(written["test"][0]), read_table(whole["test"][0])
    assert [int(row["predicted_grade"]) for row in rows] == [int(row["predicted_grade"] != "0") for row in all_rows]
    assert found["quadratic_weighted_kappa"] is not None
    unknown = {"sensitivity": None, "specificity": None}
    assert found["referable"] == {"grade": None, "images": None, "auc": None, **unknown, "operating_point": unknown}
    assert found["intervals"]["referable_auc"] is None
    assert found["intervals"]["quadratic_weighted_kappa"] is not None


def areas(written):
    metrics = metrics_of(written, "validation")
    return metrics["referable"]["auc"], metrics["macro_auc"]


def test_constant_model_has_an_area_of_half(tmp_path):
    """Its cross-fitted probabilities differ between groups of patients, in the wrong order."""
    held_out = of(30)
    constant = held_out._replace(outputs=np.full((30, 1), 1.2))
    written, _ = graded(tmp_path, {"validation": constant})
    assert areas(written) == (0.5, 0.5)
    assert metrics_of(written, "validation")["intervals"]["referable_auc"] == [0.5, 0.5]


def test_areas_of_folds_have_pairs_of_one_network(tmp_path):
    """Each network gives all images the mean grade of the patients that it has seen."""
    held_out = of(40)
    folds = np.arange(40) // 2 % 2
    outputs = np.array([held_out.grades[folds != fold].mean() for fold in folds])[:, np.newaxis]
    indices = [tmp_path / "fold-1.csv", tmp_path / "fold-2.csv"]
    for fold, index in enumerate(indices):
        chosen = [{"image": held_out.images[place]} for place in np.flatnonzero(folds == fold)]
        write_table(index, ["image"], chosen)
    constant = held_out._replace(outputs=outputs)
    without, _ = graded(tmp_path / "a", {"validation": constant})
    with_folds, _ = graded(tmp_path / "b", {"validation": constant}, folds=indices)
    assert areas(without)[0] != 0.5
    assert areas(with_folds) == (0.5, 0.5)
