import json

import numpy as np
import pytest

from examples import OUTPUTS, SOFTMAX, of
from retinaflow.evaluation.calibration import reliability
from retinaflow.evaluation.grades import Grades
from retinaflow.evaluation.metrics import evaluate
from retinaflow.scoring.decision_rules import Labelled, cross_fitted, fit, grade, read_decision_rule
from retinaflow.scoring.predictions import GradingJob, grade_model, read_quality, write_predictions
from retinaflow.scoring.raw_outputs import read_outputs, write_outputs
from retinaflow.storage.tables import read_table, write_table

CLASSES = ["no DR", "mild", "severe"]


def test_columns_and_values_of_predictions(tmp_path):
    grades = Grades(
        np.array([0.4, 1.5, 1.0, 0.5]), SOFTMAX, np.array([0, 2, 1, 0]), np.array([0, 2, 2, 1]), OUTPUTS.grades > 0
    )
    write_predictions(tmp_path / "predictions.csv", OUTPUTS, grades, CLASSES)
    assert (tmp_path / "predictions.csv").read_text().splitlines() == [
        "image,filename,grade_name,grade,predicted_grade_name,predicted_grade,"
        "probability_no DR,probability_mild,probability_severe,"
        "patient,eye,severity,argmax_grade_name,argmax_grade,referable",
        "1_left,1_left.jpeg,no DR,0,no DR,0,0.7,0.2,0.1,1,left,0.4,no DR,0,0",
        "1_right,1_right.jpeg,severe,2,severe,2,0.1,0.3,0.6,1,right,1.5,severe,2,1",
        "2_left,2_left.jpeg,no DR,0,severe,2,0.25,0.5,0.25,2,left,1,mild,1,0",
        "2_right,2_right.jpeg,mild,1,mild,1,0.5,0.5,0,2,right,0.5,no DR,0,1",
    ]


def graded(folder, parts, level=2, sensitivity=0.9):
    """Files of a system, by part, and its decision."""
    tables = {part: folder / f"{part}/raw_outputs.csv" for part in parts}
    for part, said in parts.items():
        write_outputs(tables[part], said)
    inventory = folder / "train.csv"
    known = [image for said in parts.values() for image in said.images]
    rows = ({"image": image, "quality": number / len(known), "problem": ""} for number, image in enumerate(known))
    write_table(inventory, ("image", "quality", "problem"), rows)
    job = GradingJob(
        model="Tiny/fold-1",
        objective="regression",
        raw_outputs=tables,
        inventories=[inventory],
        grade_names=CLASSES,
        referable_grade=level,
        referable_sensitivity=sensitivity,
        bootstrap_samples=20,
        seed=1,
        decision_rule=folder / "decision_rule.json",
        predictions={part: folder / part / "predictions.csv" for part in parts},
        metrics={part: folder / part / "metrics.json" for part in parts},
    )
    matrices = grade_model(job)
    written = {part: (job.predictions[part], job.metrics[part], matrices[part]) for part in parts}
    return written, read_decision_rule(job.decision_rule)


def test_a_system_is_graded_by_what_it_did_not_train_on(tmp_path):
    held_out, test = of(60), of(30, seed=1)
    written, decision = graded(tmp_path, {"validation": held_out, "test": test})
    # As they were written.
    held_out, test = (read_outputs(tmp_path / part / "raw_outputs.csv", "regression", 3) for part in written)
    known = Labelled("regression", CLASSES, held_out.outputs, held_out.grades, held_out.patients)
    assert decision == fit(known, 2, 0.9, seed=1)
    for said, part, grades in (
        (held_out, "validation", cross_fitted(known, 2, 0.9, seed=1)),
        (test, "test", grade(decision, test.outputs)),
    ):
        predictions, metrics, matrix = written[part]
        table = read_table(predictions)
        assert [row["filename"] for row in table] == said.filenames
        assert [int(row["predicted_grade"]) for row in table] == grades.predicted.tolist()
        assert [int(row["argmax_grade"]) for row in table] == grades.argmax.tolist()
        assert [int(row["referable"]) for row in table] == grades.referable.tolist()
        found = json.loads(metrics.read_text())
        assert (found["model"], found["network"], found["split"]) == ("Tiny/fold-1", "Tiny", part)
        quality = read_quality([tmp_path / "train.csv"], said.images)
        options = {"grade_names": CLASSES, "referable_grade": 2, "bootstrap_samples": 20, "seed": 1}
        expected = evaluate(said.grades, grades, **options, patients=said.patients, eyes=said.eyes, quality=quality)
        assert [third["images"] for third in expected["by_quality"]] == [len(table) // 3] * 3
        assert {key: found[key] for key in expected} == expected
        assert matrix.tolist() == found["confusion_matrix"]


def test_calibration_is_told_before_and_after_but_of_a_regression(tmp_path):
    said = of(60)
    probabilities = np.random.default_rng(2).dirichlet(np.ones(3), 60)
    for objective, outputs in (("regression", said.outputs), ("softmax", probabilities)):
        folder = tmp_path / objective
        write_outputs(folder / "raw_outputs.csv", said._replace(outputs=outputs))
        job = GradingJob(
            model="Tiny",
            objective=objective,
            raw_outputs={"validation": folder / "raw_outputs.csv"},
            inventories=[],
            grade_names=CLASSES,
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
    raw = reliability(said.grades, probabilities)
    assert before["expected_calibration_error"] == pytest.approx(raw.expected_calibration_error, abs=1e-7)
    assert regression is None


def test_test_labels_change_the_figures_of_the_test_set_and_nothing_else(tmp_path):
    held_out, test = of(60), of(30, seed=1)
    outcomes = []
    for name, levels in (("as_is", test.grades), ("turned", 2 - test.grades)):
        written, decision = graded(tmp_path / name, {"validation": held_out, "test": test._replace(grades=levels)})
        answers = [row["predicted_grade_name"] for row in read_table(written["test"][0])]
        outcomes.append((decision, answers, written["validation"][1].read_bytes(), written["test"][1].read_bytes()))
    assert outcomes[0][:3] == outcomes[1][:3]
    assert outcomes[0][3] != outcomes[1][3]
