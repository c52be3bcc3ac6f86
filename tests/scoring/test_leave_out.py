"""One table of models and left-out data sets."""

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score, roc_auc_score

from common import grades_of
from retinaflow.config.lookups import without
from retinaflow.errors import RetinaflowError
from retinaflow.evaluation.metrics import evaluate
from retinaflow.scoring.leave_out import LEAVE_OUT_COLUMNS, MEAN, VALIDATION, compare_left_out
from retinaflow.storage.files import write_json
from retinaflow.storage.tables import read_table, write_table

NAMES = ["none", "mild", "severe"]
KAPPA = "quadratic_weighted_kappa"
# Share of right answers of each model on validation images and on each left-out set.
MODELS = {"good": (0.9, 0.5), "good-repeat-2": (0.8, 0.6), "poor": (0.4, 0.9)}
REPEATS = {"good": ["good", "good-repeat-2"]}


def scored_model(folder, model, split, share, *, images=60, fellow_eyes=True, samples=20):
    """Write metrics and predictions of a model, as grading writes them, and return their paths."""
    actual = np.arange(images) % 3
    rng = np.random.default_rng([len(model), len(split), int(100 * share)])
    chosen = np.where(rng.random(images) < share, actual, rng.integers(0, 3, images))
    probabilities = 0.7 * np.eye(3)[chosen] + 0.1 * rng.dirichlet(np.ones(3), images) + 0.2 / 3
    grades = grades_of(probabilities, 1)
    patients = [f"p/{place // 2}" for place in range(images)]
    metrics = evaluate(
        actual,
        grades,
        grade_names=NAMES,
        referable_grade=1,
        patients=patients,
        eyes=["left", "right"] * (images // 2) if fellow_eyes else [""] * images,
        bootstrap_samples=samples,
        seed=1,
    )
    target = folder / model / split
    write_json(
        target / "metrics.json", {"model": model, "network": model, "split": split, "grade_names": NAMES} | metrics
    )
    rows = [
        {
            **{"filename": f"{split}{place}.png", "patient": patients[place], "grade": actual[place]},
            "predicted_grade": grades.predicted[place],
            **{f"probability_{name}": probabilities[place, number] for number, name in enumerate(NAMES)},
        }
        for place in range(images)
    ]
    write_table(target / "predictions.csv", list(rows[0]), rows)
    return target / "metrics.json", target / "predictions.csv"


def scored_sets(folder, sets=("a", "b"), models=MODELS, **options):
    found = {}
    for number, data_set in enumerate(sets):
        files = [
            scored_model(folder, without(model, data_set), split, share, images=60 + 12 * number, **options)
            for model, shares in models.items()
            for split, share in zip(("validation", "left-out"), shares, strict=True)
        ]
        found[data_set] = tuple(map(list, zip(*files, strict=True)))
    return found


def joined(folder, scored, samples=30, repeats=REPEATS):
    table, markdown = folder / "leave_out.csv", folder / "leave_out.md"
    options = {"bootstrap_samples": samples, "seed": 3, "repeats": repeats}
    text = compare_left_out(scored, **options, table=table, markdown=markdown)
    assert markdown.read_text() == text
    return read_table(table, LEAVE_OUT_COLUMNS), text


def test_table_has_each_model_on_each_left_out_set_and_the_mean(tmp_path):
    scored = scored_sets(tmp_path)
    rows, _ = joined(tmp_path, scored)
    found = {(row["model"], row["split"]): row for row in rows}
    assert set(found) == {(model, split) for model in MODELS for split in (VALIDATION, "a", "b", MEAN)}
    for model in MODELS:
        kappas, areas = [], []
        for data_set in "ab":
            predicted = read_table(tmp_path / without(model, data_set) / "left-out/predictions.csv")
            actual = [int(row["grade"]) for row in predicted]
            given = [int(row["predicted_grade"]) for row in predicted]
            risk = [float(row["probability_mild"]) + float(row["probability_severe"]) for row in predicted]
            kappas.append(cohen_kappa_score(actual, given, weights="quadratic"))
            areas.append(roc_auc_score(np.array(actual) > 0, risk))
            row = found[model, data_set]
            assert float(row[KAPPA]) == pytest.approx(kappas[-1])
            assert float(row["referable_auc"]) == pytest.approx(areas[-1])
            assert int(row["images"]) == len(predicted)
            assert float(row[f"{KAPPA}_low"]) < float(row[f"{KAPPA}_high"])
        mean = found[model, MEAN]
        assert float(mean[KAPPA]) == pytest.approx(np.mean(kappas))
        assert float(mean["referable_auc"]) == pytest.approx(np.mean(areas))
        assert int(mean["images"]) == 60 + 72
        for name in (KAPPA, "referable_auc"):
            assert float(mean[f"{name}_low"]) < float(mean[name]) < float(mean[f"{name}_high"])


def test_interval_of_the_mean_is_that_of_independent_sets(tmp_path):
    scored = scored_sets(tmp_path, models={"good": (0.9, 0.5)}, samples=1000)
    rows, _ = joined(tmp_path, scored, samples=1000, repeats={})
    widths = {row["split"]: float(row[f"{KAPPA}_high"] or 0) - float(row[f"{KAPPA}_low"] or 0) for row in rows}
    assert widths[MEAN] == pytest.approx(np.hypot(widths["a"], widths["b"]) / 2, rel=0.1)


def test_models_are_ranked_on_validation_and_never_on_test(tmp_path):
    rows, text = joined(tmp_path, scored_sets(tmp_path))
    ranks = {row["model"]: row["rank"] for row in rows}
    assert ranks == {"good": "1", "good-repeat-2": "2", "poor": "3"}
    mean = {row["model"]: float(row[KAPPA]) for row in rows if row["split"] == MEAN}
    assert mean["poor"] > mean["good"]
    assert text.index("| good |") < text.index("| poor |")


def test_page_has_models_as_rows_and_sets_as_columns(tmp_path):
    _, text = joined(tmp_path, scored_sets(tmp_path))
    assert f"| model | {VALIDATION} | a | b | {MEAN} |" in text
    for metric in ("kappa", "referable AUC"):
        assert f"## All models: {metric}, repeats: mean ± standard deviation" in text
    good, _ = [line for line in text.splitlines() if line.startswith("| good |")]
    assert good.count("±") == 4
    poor, _ = [line for line in text.splitlines() if line.startswith("| poor |")]
    assert poor.count("[") == 3
    assert "| b | 72 | 36 |" in text


def test_model_that_needs_pairs_has_a_remark_and_no_rank(tmp_path):
    models = {"good": (0.9, 0.5), "good+eye_average": (0.9, 0.6)}
    scored = scored_sets(tmp_path, models=models, fellow_eyes=False)
    rows, text = joined(tmp_path, scored, repeats={})
    pairs = [row for row in rows if row["model"] == "good+eye_average"]
    assert {(row["rank"], row["remark"], row[KAPPA]) for row in pairs} == {("", "no fellow eyes", "")}
    assert "| good |" in text
    assert "good+eye_average has no rank: no fellow eyes." in text.splitlines()


def test_no_bootstrap_samples_give_no_intervals(tmp_path):
    rows, text = joined(tmp_path, scored_sets(tmp_path), samples=0)
    assert {row[f"{KAPPA}_low"] for row in rows if row["split"] == MEAN} == {""}
    assert "bootstrap samples" not in text


def test_model_without_scores_on_a_set_is_an_error(tmp_path):
    scored = scored_sets(tmp_path)
    scored["b"] = tuple(files[:2] for files in scored["b"])
    with pytest.raises(RetinaflowError, match="the model 'good-repeat-2' is scored on one of a and b alone"):
        joined(tmp_path, scored)
