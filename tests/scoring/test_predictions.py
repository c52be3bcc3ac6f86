import json

import numpy as np
import pytest
from PIL import Image

from examples import OUTPUTS, SOFTMAX, of
from retinaflow.evaluation.calibration import reliability
from retinaflow.evaluation.grades import Grades
from retinaflow.evaluation.metrics import evaluate
from retinaflow.scoring.decision_rules import Labelled, cross_fitted, fit, grade, read_decision
from retinaflow.scoring.predictions import grade_system, read_quality, write_predictions
from retinaflow.scoring.raw_outputs import read_outputs, write_outputs
from retinaflow.storage.tables import read_table, write_table

CLASSES = ["no DR", "mild", "severe"]


def test_columns_and_values_of_predictions(tmp_path):
    grades = Grades(
        np.array([0.4, 1.5, 1.0, 0.5]), SOFTMAX, np.array([0, 2, 1, 0]), np.array([0, 2, 2, 1]), OUTPUTS.levels > 0
    )
    write_predictions(tmp_path / "predictions.csv", OUTPUTS, grades, CLASSES)
    assert (tmp_path / "predictions.csv").read_text().splitlines() == [
        "filename,grade_name,grade,predicted_grade_name,predicted_grade,"
        "probability_no DR,probability_mild,probability_severe,"
        "patient,eye,severity,argmax_grade_name,argmax_grade,referable",
        "1_left.jpeg,no DR,0,no DR,0,0.7,0.2,0.1,1,left,0.4,no DR,0,0",
        "1_right.jpeg,severe,2,severe,2,0.1,0.3,0.6,1,right,1.5,severe,2,1",
        "2_left.jpeg,no DR,0,severe,2,0.25,0.5,0.25,2,left,1,mild,1,0",
        "2_right.jpeg,mild,1,mild,1,0.5,0.5,0,2,right,0.5,no DR,0,1",
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
    written = {
        part: tuple(folder / part / name for name in ("predictions.csv", "metrics.json", "figure.png"))
        for part in parts
    }
    decision = folder / "decision_rule.json"
    grade_system(
        "Tiny/fold-1", "regression", tables, [inventory], CLASSES, level, sensitivity, 20, 1, decision, written
    )
    return written, read_decision(decision)


def test_a_system_is_graded_by_what_it_did_not_train_on(tmp_path):
    held_out, test = of(60), of(30, seed=1)
    written, decision = graded(tmp_path, {"validation": held_out, "test": test})
    # As they were written.
    held_out, test = (read_outputs(tmp_path / part / "raw_outputs.csv", "regression", 3) for part in written)
    known = Labelled("regression", CLASSES, held_out.outputs, held_out.levels, held_out.patients)
    assert decision == fit(known, 2, 0.9, seed=1)
    for said, part, grades in (
        (held_out, "validation", cross_fitted(known, 2, 0.9, seed=1)),
        (test, "test", grade(decision, test.outputs)),
    ):
        predictions, metrics, figure = written[part]
        table = read_table(predictions)
        assert [row["filename"] for row in table] == said.filenames
        assert [int(row["predicted_grade"]) for row in table] == grades.level.tolist()
        assert [int(row["argmax_grade"]) for row in table] == grades.plain.tolist()
        assert [int(row["referable"]) for row in table] == grades.referable.tolist()
        found = json.loads(metrics.read_text())
        assert (found["model"], found["network"], found["split"]) == ("Tiny/fold-1", "Tiny", part)
        quality = read_quality([tmp_path / "train.csv"], said.images)
        options = (CLASSES, 2, said.patients, said.eyes, 20, 1)
        expected = evaluate(said.levels, grades, *options, quality=quality)
        assert [third["images"] for third in expected["by_quality"]] == [len(table) // 3] * 3
        assert {key: found[key] for key in expected} == expected
        with Image.open(figure) as image:
            assert image.width > 100


def test_calibration_is_told_before_and_after_but_of_a_regression(tmp_path):
    said = of(60)
    probabilities = np.random.default_rng(2).dirichlet(np.ones(3), 60)
    for objective, outputs in (("regression", said.outputs), ("softmax", probabilities)):
        folder = tmp_path / objective
        write_outputs(folder / "raw_outputs.csv", said._replace(outputs=outputs))
        written = {"validation": tuple(folder / name for name in ("predictions.csv", "metrics.json", "figure.png"))}
        table = {"validation": folder / "raw_outputs.csv"}
        grade_system("Tiny", objective, table, [], CLASSES, 2, 0.9, 0, 1, folder / "decision_rule.json", written)
    before, regression = (
        json.loads((tmp_path / objective / "metrics.json").read_text())["calibration"]["uncalibrated"]
        for objective in ("softmax", "regression")
    )
    raw = reliability(said.levels, probabilities)
    assert before["expected_calibration_error"] == pytest.approx(raw.expected_calibration_error, abs=1e-7)
    assert regression is None


def test_test_labels_change_the_figures_of_the_test_set_and_nothing_else(tmp_path):
    held_out, test = of(60), of(30, seed=1)
    outcomes = []
    for name, levels in (("as_is", test.levels), ("turned", 2 - test.levels)):
        written, decision = graded(tmp_path / name, {"validation": held_out, "test": test._replace(levels=levels)})
        answers = [row["predicted_grade_name"] for row in read_table(written["test"][0])]
        outcomes.append((decision, answers, written["validation"][1].read_bytes(), written["test"][1].read_bytes()))
    assert outcomes[0][:3] == outcomes[1][:3]
    assert outcomes[0][3] != outcomes[1][3]
