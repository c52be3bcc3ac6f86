import json

import numpy as np
import pytest

from retinaflow.errors import RetinaflowError
from retinaflow.scoring.data_set_rules import cross_fit_data_sets, images_of_sets, name_of_split, with_data_sets
from retinaflow.scoring.decision_rules import (
    LabelledOutputs,
    apply_decision_rule,
    cross_fit,
    fit_decision_rule,
    read_decision_rule,
)
from retinaflow.scoring.predictions import GradingJob, grade_model
from retinaflow.scoring.raw_outputs import RawOutputs, write_raw_outputs
from retinaflow.storage.tables import read_table

GRADES = ["none", "mild", "severe"]
# Severity of each set: as its readers mean it, or one grade higher.
SHIFTS = {"near": 0.0, "far": 1.0, "few": 0.0}
COUNTS = {"near": 200, "far": 200, "few": 60}


def outputs_of(name, count, seed):
    rng = np.random.default_rng(seed)
    grades = rng.integers(0, 3, count)
    names = [f"{name}/{seed}.{number // 2}_{'right' if number % 2 else 'left'}" for number in range(count)]
    outputs = (grades + SHIFTS.get(name, 0.0) + rng.normal(0, 0.4, count))[:, None]
    filenames = [f"{image.replace('/', '_')}.jpeg" for image in names]
    return RawOutputs(
        names, filenames, [image.split("_")[0] for image in names], ["left", "right"] * (count // 2), grades, outputs
    )


def joined(parts):
    return RawOutputs(
        *(
            np.concatenate([getattr(part, name) for part in parts])
            if name in ("grades", "outputs")
            else [value for part in parts for value in getattr(part, name)]
            for name in RawOutputs._fields
        )
    )


def known():
    return joined([outputs_of(name, count, number) for number, (name, count) in enumerate(COUNTS.items())])


def labelled(raw):
    return LabelledOutputs("regression", GRADES, raw.outputs, raw.grades, raw.patients)


def test_names_of_test_splits():
    assert [name_of_split(split) for split in ("test-far", "test", "validation", "left-out", "out-of-fold")] == [
        *("far", "", "", "", "")
    ]


def test_sets_with_enough_images_have_rules_of_their_own():
    raw = known()
    images, members = labelled(raw), images_of_sets(raw.images, list(COUNTS))
    rule = fit_decision_rule(images, 1, referable_sensitivity=0.9, seed=1)
    found = with_data_sets(rule, images, members, seed=1)
    assert sorted(found.data_sets) == ["far", "near"]
    own = fit_decision_rule(images.subset(members["far"]), 1, referable_sensitivity=0.9, seed=1)
    assert found.of_data_set("far") == own
    assert found.of_data_set("few") == found.of_data_set("elsewhere") == rule
    difference = np.subtract(own.thresholds, found.of_data_set("near").thresholds)
    assert (difference > 0.4).all()


def test_held_out_images_are_graded_by_other_patients_of_their_set():
    raw = known()
    images, members = labelled(raw), images_of_sets(raw.images, list(COUNTS))
    found = cross_fit_data_sets(images, 1, members=members, referable_sensitivity=0.9, seed=1)
    for name in ("near", "far"):
        own = cross_fit(images.subset(members[name]), 1, referable_sensitivity=0.9, seed=1)
        assert (found.predicted[members[name]] == own.predicted).all()
    together = cross_fit(images, 1, referable_sensitivity=0.9, seed=1)
    assert (found.predicted[members["few"]] == together.predicted[members["few"]]).all()


def test_set_of_one_patient_has_no_rule_of_its_own():
    raw = known()
    raw = raw._replace(patients=["one" if image.startswith("far/") else image for image in raw.images])
    images, members = labelled(raw), images_of_sets(raw.images, list(COUNTS))
    rule = fit_decision_rule(images, 1, referable_sensitivity=0.9, seed=1)
    assert list(with_data_sets(rule, images, members, seed=1).data_sets) == ["near"]
    found = cross_fit_data_sets(images, 1, members=members, referable_sensitivity=0.9, seed=1)
    together = cross_fit(images, 1, referable_sensitivity=0.9, seed=1)
    assert (found.predicted[members["far"]] == together.predicted[members["far"]]).all()


def grade(folder, splits):
    tables = {split: folder / split / "raw_outputs.csv" for split in splits}
    for split, raw in splits.items():
        write_raw_outputs(tables[split], raw)
    job = GradingJob(
        model="ridge",
        objective="regression",
        raw_outputs=tables,
        inventories=[],
        grade_names=GRADES,
        referable_grade=1,
        referable_sensitivity=0.9,
        bootstrap_samples=0,
        seed=1,
        decision_rule=folder / "decision_rule.json",
        predictions={split: folder / split / "predictions.csv" for split in splits},
        metrics={split: folder / split / "metrics.json" for split in splits},
        data_sets=list(COUNTS),
    )
    grade_model(job)
    rows = {split: [int(row["predicted_grade"]) for row in read_table(job.predictions[split])] for split in splits}
    return rows, {split: json.loads(path.read_text()) for split, path in job.metrics.items()}, job.decision_rule


def test_test_sets_have_the_rule_of_their_name(tmp_path):
    tests = {f"test-{name}": outputs_of(name, 80, 7) for name in ("far", "few", "elsewhere")}
    predicted, metrics, path = grade(tmp_path, {"validation": known(), **tests})
    rule = read_decision_rule(path)
    for split, own in (("test-far", "far"), ("test-few", ""), ("test-elsewhere", "")):
        expected = apply_decision_rule(rule.of_data_set(own), tests[split].outputs)
        assert predicted[split] == expected.predicted.tolist()
        of_split = rule.of_data_set(own)
        record = {"data_sets": [own] if own else [], "images": of_split.images, "patients": of_split.patients}
        assert metrics[split]["decision_rule"] == record
    assert metrics["validation"]["decision_rule"] == {"data_sets": ["far", "near"], "images": 460, "patients": 230}
    # The rule of all sets together is worse on images of a set that differs.
    together = apply_decision_rule(rule, tests["test-far"].outputs).predicted
    grades = tests["test-far"].grades
    assert np.mean(np.array(predicted["test-far"]) == grades) > np.mean(together == grades) + 0.1


def test_no_test_image_changes_a_rule(tmp_path):
    first = grade(tmp_path / "first", {"validation": known(), "test-far": outputs_of("far", 80, 7)})[2]
    second = grade(tmp_path / "second", {"validation": known(), "test-far": outputs_of("far", 20, 8)})[2]
    assert first.read_text() == second.read_text()


def test_rule_of_a_set_that_does_not_fit_is_refused(tmp_path):
    _, _, path = grade(tmp_path, {"validation": known(), "test-far": outputs_of("far", 80, 7)})
    content = json.loads(path.read_text())
    content["data_sets"]["far"]["thresholds"] = [2.0, 1.0]
    (tmp_path / "changed.json").write_text(json.dumps(content))
    with pytest.raises(RetinaflowError, match=r"thresholds are \[2\.0, 1\.0\], expected 2 ascending numbers"):
        read_decision_rule(tmp_path / "changed.json")
