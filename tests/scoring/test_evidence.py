import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from faults import check_faults
from retinaflow.errors import RetinaflowError
from retinaflow.evaluation.bootstrap import weighted_auc
from retinaflow.evaluation.subgroups import Guard
from retinaflow.evaluation.units import COUNTINGS
from retinaflow.reporting import evidence
from retinaflow.reporting.evidence import (
    EVIDENCE_TABLES,
    EvidenceJob,
    FlowFiles,
    ModelFiles,
    chosen_model,
    local_rows,
    write_evidence,
)
from retinaflow.reporting.study_facts import study_facts
from retinaflow.scoring.decision_rules import apply_decision_rule, read_decision_rule
from retinaflow.scoring.evidence import EvidencePlan, endpoint_rows, fit_cut, subgroup_rows
from retinaflow.scoring.flow import inventory_flow, result_flow
from retinaflow.scoring.local_patients import draw_local_patients
from retinaflow.scoring.predictions import GradingJob, grade_model
from retinaflow.scoring.recalibration import recalibration_rows
from retinaflow.scoring.study_images import StudyFiles, read_study
from retinaflow.storage.tables import write_table

NAMES = ["none", "mild", "severe"]
INVENTORY = ["image", "path", "grade", "patient", "eye", "quality", "camera", "subgroup_oedema", "problem"]

SETTINGS = {
    "networks": ["A (VGG16, 96 px)"],
    "train": {"class_weights": "inverse", "balanced_sampling": 0},
    "preprocess": {"crop": "trim"},
    "split": {"unit": "patient", "folds": 0, "validation": 0.2},
    "seed": 1,
}


def plan(**changes):
    values = {
        "endpoints": {"referable": [1, 2]},
        "also_positive": {},
        "operating_points": ["sensitivity 0.90", "threshold 0.50"],
        "prevalences": [0.1],
        "targets": {"sensitivity": 0.85, "specificity": 0.825},
        "margin": 0.05,
        "guard": Guard(20, 5),
        "bands": {},
        "samples": 50,
        "seed": 1,
    }
    return EvidencePlan(**{**values, **changes})


def draw(folder: Path, split: str, patients: int, seed: int):
    """Write raw outputs of a good network, and the inventory, of patients with two eyes. Return the files."""
    rng = np.random.default_rng(seed)
    severity = np.repeat(rng.normal(0, 1, patients), 2) + rng.normal(0, 0.4, 2 * patients)
    grades = (severity > 0.3).astype(int) + (severity > 1.2)
    logits = -2 * (severity[:, None] + rng.normal(0, 0.5, (2 * patients, 1)) - [-0.5, 0.7, 1.7]) ** 2
    outputs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    names = [f"{split}{number // 2}_{('left', 'right')[number % 2]}" for number in range(2 * patients)]
    rows = [
        {
            "image": name,
            "filename": f"{name}.png",
            "grade": grade,
            "patient": name.split("_")[0],
            "eye": name.split("_")[1],
            **{f"output_{place}": repr(float(value)) for place, value in enumerate(values)},
        }
        for name, grade, values in zip(names, grades.tolist(), outputs, strict=True)
    ]
    write_table(folder / f"{split}-raw.csv", list(rows[0]), rows)
    described = [
        {
            **{name: row[name] for name in ("image", "grade", "patient", "eye")},
            "quality": f"{rng.random():.4f}",
            "camera": ("old", "new")[number % 3 == 0],
            "subgroup_oedema": int(number % 10 == 0),
        }
        for number, row in enumerate(rows)
    ]
    lost = {"image": "lost_left", "grade": 2, "patient": "lost", "eye": "left", "problem": "truncated"}
    other = {**lost, "image": "other_left", "patient": "other", "problem": "identical"}
    write_table(folder / f"{split}-inventory.csv", INVENTORY, [*described, lost, other])
    write_table(folder / f"{split}-problems.csv", ["data_set", "image", "path", "problem", "found"], [])
    write_table(
        folder / f"{split}-index.csv", ["image", "patient"], [{k: row[k] for k in ("image", "patient")} for row in rows]
    )
    return StudyFiles(
        split=split,
        raw_outputs=folder / f"{split}-raw.csv",
        predictions=folder / f"{split}-predictions.csv",
        inventory=folder / f"{split}-inventory.csv",
        is_test=split == "test",
    )


def grade(folder, local=frozenset()):
    """Return the files of a graded model on two splits, and its decision rule."""
    files = [draw(folder, "validation", 150, 1), replace(draw(folder, "test", 150, 2), local=local)]
    grade_model(
        GradingJob(
            model="A",
            objective="softmax",
            raw_outputs={one.split: one.raw_outputs for one in files},
            inventories=[],
            grade_names=NAMES,
            referable_grade=1,
            referable_sensitivity=0.9,
            bootstrap_samples=0,
            seed=1,
            decision_rule=folder / "decision_rule.json",
            predictions={one.split: one.predictions for one in files},
            metrics={one.split: folder / f"{one.split}.json" for one in files},
            local={"test": local} if local else {},
        )
    )
    return files, folder / "decision_rule.json"


@pytest.fixture(scope="module")
def graded(tmp_path_factory):
    return grade(tmp_path_factory.mktemp("graded"))


@pytest.fixture(scope="module")
def recalibrated(tmp_path_factory):
    """Likewise, with 60 patients of the test set that refit the model."""
    folder = tmp_path_factory.mktemp("recalibrated")
    drawn = draw(folder, "test", 150, 2)
    return grade(folder, draw_local_patients(drawn.inventory, "test", 60, 1))


def studies(graded, quality=0.0):
    files, rule = graded
    return [read_study(one, read_decision_rule(rule), kind="output", ungradable_quality=quality) for one in files]


def value(rows, metric, **chosen):
    (found,) = [row for row in rows if row["metric"] == metric and all(row.get(k) == v for k, v in chosen.items())]
    return found


def test_cuts_are_fitted_on_validation_alone(graded):
    known, test = studies(graded)
    rows = endpoint_rows(plan(), known, test)
    point = {"unit": "image", "operating_point": "sensitivity 0.90", "counting": "left out"}
    risk, positive = known.probabilities[:, 1:].sum(axis=1), known.grades >= 1
    cut = fit_cut(positive, risk, "sensitivity 0.90")
    found = value(rows, "sensitivity", **point)
    assert found["cut"] == cut
    usable = np.isfinite(test.probabilities[:, 0])
    flagged = test.probabilities[usable, 1:].sum(axis=1) >= cut
    assert found["value"] == flagged[test.grades[usable] >= 1].mean()
    assert found["p_non_inferiority"] < found["p_superiority"] < 0.025
    assert value(rows, "sensitivity", **{**point, "operating_point": "threshold 0.50"})["cut"] == 0.5


def test_fitted_points_reach_their_aim():
    rng = np.random.default_rng(3)
    positive, risk = rng.random(200) < 0.4, rng.random(200)
    assert (risk[positive] >= fit_cut(positive, risk, "sensitivity 0.95")).mean() >= 0.95
    assert (risk[~positive] < fit_cut(positive, risk, "specificity 0.90")).mean() >= 0.9


def test_unreadable_test_images_have_no_result(graded):
    known, test = studies(graded)
    assert (len(known.grades), len(test.grades)) == (300, 301)
    rows = endpoint_rows(plan(), known, test)
    assert value(rows, "imageability", unit="patient")["value"] == 150 / 151
    assert {row["counting"] for row in rows if row.get("counting")} == {"left out", "counted as positive", "worst case"}
    point = {"unit": "patient", "operating_point": "threshold 0.50"}
    ways = [value(rows, "sensitivity", counting=way, **point)["value"] for way in ("worst case", "counted as positive")]
    assert ways[0] < ways[1]


def test_poor_quality_is_ungradable(graded):
    known, _ = studies(graded, quality=0.5)
    share = value(endpoint_rows(plan(), known, known), "imageability", unit="image")["value"]
    assert 0.3 < share < 0.7


def test_a_column_makes_images_positive(graded):
    known, _ = studies(graded)
    with_oedema = plan(also_positive={"referable": ["oedema"]}).positive(known, "referable")
    assert with_oedema.sum() > (known.grades >= 1).sum()
    with pytest.raises(RetinaflowError, match="has no column 'sex'; found oedema"):
        plan(also_positive={"referable": ["sex"]}).positive(known, "referable")


def test_subgroups_have_camera_quality_and_columns(graded):
    known, test = studies(graded)
    rows = subgroup_rows(plan(), known, test)
    assert {row["column"] for row in rows} == {"quality", "camera", "oedema"}
    assert {row["unit"] for row in rows} == {"image"}


def evidence_job(graded, folder, **changes):
    files, rule = graded
    flows = {
        ("train" if one.split == "validation" else one.split): FlowFiles(
            inventory=one.inventory,
            problems=one.inventory.with_name(f"{one.split}-problems.csv"),
            is_test=one.is_test,
            indices={} if one.is_test else {"validation": [one.inventory.with_name("validation-index.csv")]},
        )
        for one in files
    }
    return EvidenceJob(
        model="A",
        files=ModelFiles(rule, "output", files),
        data_sets=flows,
        plan=plan(**changes),
        screened="referable",
        ungradable_quality=0.0,
        folder=folder,
        settings=SETTINGS,
        readers=["oedema"],
    )


def test_evidence_has_all_files(graded, tmp_path):
    write_evidence(evidence_job(graded, tmp_path))
    written = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("[!.]*") if path.is_file()}
    tables = {f"{name}.csv" for name in (*EVIDENCE_TABLES, "flow", "checklists")}
    figures = {
        f"{split}/{name}.png"
        for split in ("validation", "test")
        for name in ("roc", "calibration", "subgroups", "suspects")
    }
    assert written == {*tables, *figures, "train/flow.png", "test/flow.png", "evidence.html", "evidence.tex"}
    with open(tmp_path / "flow.csv", newline="") as file:
        flow = [tuple(row.values()) for row in csv.DictReader(file)]
    assert ("test", "excluded", "identical", "1", "1") in flow
    assert ("test", "no result", "condition present", "0", "1") in flow
    assert ("train", "excluded", "truncated", "1", "1") in flow
    with open(tmp_path / "agreement.csv", newline="") as file:
        assert [(row["split"], row["other_reader"]) for row in csv.DictReader(file)] == [
            ("validation", "A"),
            ("test", "A"),
        ]
    with open(tmp_path / "checklists.csv", newline="") as file:
        checklists = list(csv.DictReader(file))
    assert {row["guideline"] for row in checklists} == {"STARD-AI", "TRIPOD+AI", "CLAIM"}
    # Every item has an answer, or somebody who has to give it.
    assert all(row["answer"] or row["who"] for row in checklists)
    page = (tmp_path / "evidence.html").read_text()
    assert 'src="test/roc.png"' in page
    assert "\\begin{longtable}" in (tmp_path / "evidence.tex").read_text()


def test_flow_of_a_test_set_without_results_ends_with_the_eligible(graded, tmp_path):
    job = evidence_job(graded, tmp_path)
    steps = {row.step for row in evidence._flow(job, "test", studies(graded)[:1])}
    assert steps == {"labels without an image", "images found", "excluded", "eligible"}
    assert "no result" in {row.step for row in evidence._flow(job, "test", studies(graded))}


def test_evidence_on_a_disk_that_fails(graded, tmp_path):
    """The values are computed once: the writers of tables, figures and pages are tested."""
    known = evidence.study_tables(plan(samples=2), studies(graded))
    changed = {
        "study_tables": lambda *_: dict(known),
        "recalibration_rows": lambda *_: [],
        "agreement_rows": lambda *_: [],
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, function in changed.items():
            patch.setattr(evidence, name, function)
        job = evidence_job((graded[0][:1], graded[1]), tmp_path)
        assert check_faults(lambda folder: write_evidence(replace(job, folder=folder)), tmp_path, most=1) == 4


def test_model_is_the_first_of_those_on_all_splits(tmp_path):
    table = tmp_path / "comparison.csv"
    write_table(
        table, ["rank", "model"], [{"rank": rank, "model": name} for rank, name in ((2, "A"), (1, "B"), ("", "C"))]
    )
    assert chosen_model(table, None, ["A", "B"]) == "B"
    assert chosen_model(table, None, ["A"]) == "A"
    assert chosen_model(table, "C", ["A"]) == "C"


def of_new_site(study, rule):
    """The images with outputs of another scale."""
    outputs = study.raw.outputs**0.3
    raw = study.raw._replace(outputs=outputs / outputs.sum(axis=1, keepdims=True))
    probabilities = np.full_like(study.probabilities, np.nan)
    probabilities[: len(raw.images)] = apply_decision_rule(rule, raw.outputs).probabilities
    return replace(study, raw=raw, probabilities=probabilities, calibrated=probabilities)


def test_recalibration_mends_a_shifted_site(recalibrated):
    known, test = studies(recalibrated)
    rule = read_decision_rule(recalibrated[1])
    test = replace(of_new_site(test, rule), local=of_new_site(test.local, rule))
    rows = recalibration_rows(plan(), known, test, rule)
    slopes = {way: value(rows, "slope", correction=way)["value"] for way in ("uncorrected", "recalibrated")}
    assert abs(np.log(slopes["recalibrated"])) < 0.5 * abs(np.log(slopes["uncorrected"]))
    # 151 patients less the 60 that refit.
    assert {row["patients"] for row in rows if "patients" in row} == {91}
    assert {row["local_patients"] for row in rows if row["correction"] == "recalibrated"} == {60}
    curve = [row for row in rows if row["correction"] == "local operating point" and row["metric"] == "sensitivity"]
    assert [row["local_patients"] for row in curve] == [25]


def test_local_patients_are_in_no_other_table(recalibrated):
    (known_files, test_files), _ = recalibrated
    known, test = studies(recalibrated)
    assert (len(set(test.patients)), len(set(test.local.patients))) == (91, 60)
    assert not set(test.patients) & set(test.local.patients)
    assert value(endpoint_rows(plan(), known, test), "imageability", unit="image")["units"] == 181
    with open(test_files.predictions, newline="") as file:
        assert {row["patient"] for row in csv.DictReader(file)} == set(test.patients) - {"lost"}
    metrics = json.loads((test_files.predictions.parent / "test.json").read_text())
    assert (metrics["images"], metrics["recalibration"]) == (180, {"images": 120, "patients": 60})
    assert "recalibration" not in json.loads((known_files.predictions.parent / "validation.json").read_text())
    facts = study_facts("A", plan(), [known, test], SETTINGS)
    assert facts["recalibration"].startswith("60 patients of test (120 images) refit the model and are in no other")
    rows = local_rows(test)
    assert {row["patient"] for row in rows} == set(test.local.patients)
    assert local_rows(known) == []
    table = test_files.inventory
    flow = {
        (row.step, row.reason): row
        for row in inventory_flow(table, table.with_name("test-problems.csv"), is_test=True, local=test.local.patients)
    }
    assert flow["excluded", "refit the model"][2:] == (120, 60)
    assert flow["eligible", ""][2:] == (181, 91)


def test_data_set_without_problems_excludes_nothing(tmp_path):
    rows = [{"image": f"{number}_left", "patient": str(number), "grade": "0"} for number in range(3)]
    write_table(tmp_path / "inventory.csv", INVENTORY, rows)
    write_table(tmp_path / "problems.csv", ["image", "problem"], [])
    flow = inventory_flow(tmp_path / "inventory.csv", tmp_path / "problems.csv", is_test=False)
    counts = {row.step: (row.images, row.patients) for row in flow}
    assert counts == {"labels without an image": (0, None), "images found": (3, 3), "eligible": (3, 3)}


def test_draw_of_local_patients_depends_on_names_and_seed(graded):
    table = graded[0][1].inventory
    drawn = draw_local_patients(table, "test", 20, 1)
    assert drawn == draw_local_patients(table, "test", 20, 1) < draw_local_patients(table, "test", 40, 1)
    assert drawn != draw_local_patients(table, "test", 20, 2)
    assert "lost" not in draw_local_patients(table, "test", 75, 1)
    with pytest.raises(RetinaflowError, match=r"test has 150 patients; expected at least 152, twice those that refit"):
        draw_local_patients(table, "test", 76, 1)


def test_images_that_nobody_could_grade_have_no_truth(graded, tmp_path):
    files, rule = graded
    with open(files[1].inventory, newline="") as file:
        rows = list(csv.DictReader(file))
    unclear = {"image": "unclear_left", "patient": "unclear", "eye": "left", "problem": "ungradable"}
    write_table(tmp_path / "inventory.csv", INVENTORY, [*rows, unclear])
    known, test = studies(([files[0], replace(files[1], inventory=tmp_path / "inventory.csv")], rule))
    rows = endpoint_rows(plan(), known, test)
    assert value(rows, "imageability", unit="patient")["value"] == 150 / 152
    point = {"unit": "patient", "operating_point": "threshold 0.50"}
    found = {way: value(rows, "sensitivity", counting=way, **point) for way in COUNTINGS}
    # The unreadable image is of a positive patient; the other has no truth.
    without = endpoint_rows(plan(), known, studies(graded)[1])
    before = {way: value(without, "sensitivity", counting=way, **point) for way in COUNTINGS}
    cells = ("true_positive", "false_positive", "false_negative", "true_negative")
    added = {way: tuple(found[way][cell] - before[way][cell] for cell in cells) for way in COUNTINGS}
    assert added == {"left out": (0, 0, 0, 0), "counted as positive": (0, 1, 0, 0), "worst case": (0, 0, 1, 0)}
    flow = inventory_flow(tmp_path / "inventory.csv", files[1].inventory.with_name("test-problems.csv"), is_test=True)
    assert flow[-1][2:] == (302, 152)
    units = plan().units(test, "referable", "patient")
    results = {row[:2]: row.patients for row in result_flow(units, units.gradable)}
    assert results["no result", "condition unknown"] == 1
    facts = study_facts("A", plan(), [known, test], SETTINGS)
    assert facts["grades"].endswith(", and 1 that people could not grade.")
    assert facts["recalibration"].startswith("No patient refits the model: ")


def test_area_of_subgroups_counts_pairs_of_one_network(graded):
    known, _ = studies(graded)
    folds = np.arange(len(known.grades)) // 2 % 3
    study = replace(known, strata=folds)
    of_group = value(subgroup_rows(plan(), study, study), "auc", column="camera", group="new")
    inside = (study.columns["camera"] == "new").to_numpy()
    risk, positive = study.probabilities[:, 1:].sum(axis=1), study.grades >= 1
    expected = weighted_auc(positive[inside], risk[inside], folds[inside])(np.ones((1, int(inside.sum()))))[0]
    assert of_group["value"] == pytest.approx(expected)
    pooled = weighted_auc(positive[inside], risk[inside])(np.ones((1, int(inside.sum()))))[0]
    assert of_group["value"] != pytest.approx(pooled)
