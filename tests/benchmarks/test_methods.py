"""Metrics and tables of docs/methods.md, without any training."""

import importlib
import json
import sys
from types import ModuleType

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from common import CLASSES, ROOT
from retinaflow.config.loading import load
from retinaflow.evaluation.grades import Grades
from retinaflow.evaluation.metrics import evaluate
from retinaflow.storage.tables import write_table

COLUMNS = ("filename", "patient", "grade", "predicted_grade", "argmax_grade")


@pytest.fixture(scope="module")
def benchmarks():
    """Return a function that imports a benchmark. Its `common` is another module than that of the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delitem(sys.modules, "common")
        patch.syspath_prepend(ROOT / "benchmarks")
        yield importlib.import_module


@pytest.fixture
def methods(benchmarks, tmp_path, monkeypatch) -> ModuleType:
    module = benchmarks("methods")
    monkeypatch.setattr(module, "TARGET", tmp_path / "methods")
    monkeypatch.setattr(module.common, "TARGET", tmp_path)
    monkeypatch.setattr(module, "DOCUMENT", tmp_path / "methods.md")
    return module


def random_grades(methods, seed: int = 0, patients: int = 40):
    """Return random grades of both eyes of some patients. Predictions differ by one grade at most."""
    rng = np.random.default_rng(seed)
    actual = rng.integers(0, 5, 2 * patients)
    predicted = np.clip(actual + rng.integers(-1, 2, 2 * patients), 0, 4)
    filenames = [f"{patient:03}_{eye}.jpeg" for patient in range(patients) for eye in ("left", "right")]
    return methods.Graded(filenames, [name[:3] for name in filenames], actual, predicted)


def write_experiment(methods, experiment: str, graded, model: str = "InceptionV3") -> None:
    """Write the files of a finished experiment, in reverse order. Every argmax prediction is 0."""
    results = methods.TARGET / "eyepacs-256" / "5x3x224" / experiment / "results"
    rows = [dict(zip(COLUMNS, (*row, 0), strict=True)) for row in zip(*graded, strict=True)]
    write_table(results / "scores" / model / "out-of-fold/predictions.csv", COLUMNS, reversed(rows))
    for number in (1, 2):
        record = results / f"models/InceptionV3/fold-{number}/training_run.json"
        record.parent.mkdir(parents=True, exist_ok=True)
        record.write_text(json.dumps({"seconds": 90, "epochs_run": 2 + number}))


@pytest.mark.parametrize("reduction", [(5, 3), (2, None)])
def test_configuration_of_every_experiment_is_valid(methods, reduction):
    mode = methods.Mode(*reduction)
    for name, row in methods.ROWS.items():
        if row.experiment != "article" and methods.unfit("eyepacs-256", name, mode) is None:
            load(methods.experiment_configuration("eyepacs-256", row.experiment, mode))


def test_experiment_differs_from_plain_by_the_settings_of_its_row(methods):
    mode = methods.Mode(5, 3)
    plain, rotated = (
        load(methods.experiment_configuration("eyepacs-256", name, mode)).model_dump() for name in ("plain", "rotation")
    )
    for section in ("train", "models"):
        for config, degrees in ((plain, 20), (rotated, 180)):
            settings = config[section].get("InceptionV3", config[section])
            assert settings["augment"].pop("rotation") == degrees
    assert rotated == plain
    assert methods._title(methods.ROWS["rotation"]) == "augment: {rotation: 180}"
    assert "epochs" not in methods.experiment_configuration("eyepacs-256", "defaults_long", mode)["train"]


def test_metrics_are_equal_to_those_of_the_workflow(methods):
    graded = random_grades(methods)
    predicted = graded.predicted
    grades = Grades(predicted / 1, np.eye(5)[predicted], predicted * 0, predicted, predicted > 1)
    eyes = [name[4:-5] for name in graded.filenames]
    metrics = evaluate(
        graded.actual,
        grades,
        grade_names=CLASSES,
        referable_grade=2,
        patients=graded.patients,
        eyes=eyes,
        bootstrap_samples=1000,
        seed=methods.SEED,
    )
    assert methods.metrics_of(graded) == {
        "kappa": metrics["quadratic_weighted_kappa"],
        "kappa_interval": metrics["intervals"]["quadratic_weighted_kappa"],
        "accuracy": metrics["accuracy"],
        "accuracy_interval": metrics["intervals"]["accuracy"],
    }
    assert methods.interval(methods.kappas(graded)[0]) == metrics["intervals"]["quadratic_weighted_kappa"]


def test_rows_have_metrics_of_finished_experiments(methods):
    graded, better = random_grades(methods), random_grades(methods)
    better.predicted[::3] = better.actual[::3]
    write_experiment(methods, "plain", graded)
    write_experiment(methods, "rotation", better)
    write_experiment(methods, "plain", graded, "InceptionV3+eye_average")
    rows = {row["row"]: row for row in methods.table_rows("eyepacs-256")}
    assert rows.keys() == {"plain", "argmax", "rotation", "eye_average"}
    kappa = cohen_kappa_score(graded.actual, graded.predicted, weights="quadratic")
    assert rows["plain"]["kappa"] == pytest.approx(kappa)
    assert rows["plain"]["accuracy"] == np.mean(graded.actual == graded.predicted)
    assert (rows["plain"]["minutes"], rows["plain"]["trained"]) == (3, "network, epochs: 3 to 4")
    assert "difference" not in rows["plain"]  # The row of the article does not exist.
    assert rows["argmax"]["kappa"] == 0
    assert rows["rotation"]["difference"] == pytest.approx(
        cohen_kappa_score(better.actual, better.predicted, weights="quadratic") - kappa
    )
    low, high = rows["rotation"]["difference_interval"]
    assert 0 < low < rows["rotation"]["difference"] < high
    assert (rows["eye_average"]["difference"], rows["eye_average"]["difference_interval"]) == (0, [0, 0])


def test_article_has_metrics_by_fold_and_a_row(methods, benchmarks, capsys):
    article, graded = benchmarks("article"), random_grades(methods)
    mode = methods.Mode(5, 3)
    results = article.folder("eyepacs-256", mode)
    for number in range(1, 6):
        held_out = range(16 * (number - 1), 16 * number)
        rows = [
            {
                "image": graded.filenames[i][:-5],
                "path": f"somewhere/{graded.filenames[i]}",
                "patient": graded.patients[i],
            }
            | {"eye": graded.filenames[i][4:-5], "grade": str(graded.actual[i])}
            for i in held_out
        ]
        outputs = article.make_outputs(rows, 0.1 + 0.5 * np.eye(5)[graded.predicted[held_out]])
        article.write_raw_outputs(article.outputs_of(results, number), outputs)
        record = results / f"models/InceptionV3/fold-{number}/training_run.json"
        record.parent.mkdir(parents=True)
        record.write_text(json.dumps({"seconds": 30, "epochs_run": 3}))
        if number in (1, 5):
            assert not list(methods.table_rows("eyepacs-256"))
            article.publish("eyepacs-256", mode)
    rows = {row["row"]: row for row in methods.table_rows("eyepacs-256")}
    assert rows.keys() == {"article", "article_thresholds"}
    expected = methods.metrics_of(graded)
    assert {name: rows["article"][name] for name in expected} == expected
    written = json.loads((methods.common.TARGET / "article-eyepacs-256.json").read_text())["rows"]
    assert list(written) == [*(f"fold-{number}" for number in range(1, 6)), "out-of-fold"]
    assert written["out-of-fold"]["always_0"] == np.mean(graded.actual == 0)
    assert "| out-of-fold | " + methods.shown(expected, "kappa") in capsys.readouterr().out


def test_tables_replace_earlier_tables(methods):
    marks = [f"<!-- {word} eyepacs-256, by benchmarks/methods.py -->" for word in ("begin", "end")]
    methods.DOCUMENT.write_text(f"before\n{marks[0]}\nstale\n{marks[1]}\nafter\n")
    write_experiment(methods, "plain", random_grades(methods))
    for _ in range(2):
        methods.publish("eyepacs-256")
        text = methods.DOCUMENT.read_text()
        assert text.startswith(f"before\n{marks[0]}\n")
        assert text.endswith(f"{marks[1]}\nafter\n")
        assert text.count("\n| plain |") == 1
        assert "stale" not in text
    rows = json.loads((methods.common.TARGET / "methods-eyepacs-256.json").read_text())["rows"]
    assert f"| {rows[0]['kappa']:.3f} [{rows[0]['kappa_interval'][0]:.3f}, " in text


def test_folder_starts_as_a_copy_with_all_times(methods, tmp_path):
    old = tmp_path / "old"
    (old / "results").mkdir(parents=True)
    (old / "results/0.npy").write_bytes(b"pixels")
    (old / "results/scores").mkdir()
    (old / "config.yaml").write_text("a: 1")
    (old / "results/link").symlink_to("nowhere")
    (tmp_path / "new").mkdir()
    (tmp_path / "new/snakemake.log").write_text("of a run that had not begun")
    methods.start(tmp_path / "new", old)
    for name in ("results", "results/0.npy", "results/link", "config.yaml"):
        one, other = (folder / name for folder in (old, tmp_path / "new"))
        assert one.lstat().st_mtime_ns == other.lstat().st_mtime_ns
        assert (one.lstat().st_ino == other.lstat().st_ino) == (name == "results/0.npy")
    assert sorted(path.name for path in tmp_path.glob("new*/*")) == ["config.yaml", "results"]
    assert not (tmp_path / "new/results/scores").exists()


def test_rows_without_a_meaning_are_refused(methods):
    network, head = methods.Mode(5, 3), methods.Mode(2, None)
    assert methods.unfit("aptos-224", "eye_stacking", network)
    assert methods.unfit("aptos-224", "probe_VGG16_both", network)
    assert methods.unfit("eyepacs-256", "all_at_once", head)
    assert methods.unfit("eyepacs-256", "eye_stacking", head) is None
    assert methods.usual("eyepacs-1024", head) == ["plain", "not_cropped", "circle", "ben_graham", "clahe"]
    assert not {"circle", "eye_average"} & set(methods.usual("aptos-224", network))


def test_article_subtracts_means_and_does_not_average(benchmarks, tmp_path):
    import cv2

    article = benchmarks("article")
    # Blue, green, red; then columns of which every third is 255. The resize reads only these.
    pixels = np.full((9, 9, 3), (50, 100, 200), np.uint8)
    stripes = np.zeros((9, 9, 3), np.uint8)
    stripes[:, 1::3] = 255
    for name, values in (("plain", pixels), ("stripes", stripes)):
        cv2.imwrite(str(tmp_path / f"{name}.png"), values)
    rows = [{"path": str(tmp_path / f"{name}.png"), "grade": "2"} for name in ("plain", "stripes")]
    made, grades = article.read_pixels(rows, 3)
    assert grades.tolist() == [2, 2]
    assert made[0, 0, 0] == pytest.approx([50 - 103.939, 100 - 116.779, 200 - 123.68])
    assert made[1, 0, 0] == pytest.approx([255 - 103.939, 255 - 116.779, 255 - 123.68])


def test_article_freezes_ten_layers(benchmarks):
    chain = benchmarks("chain")
    model = chain.article_model(chain.Case("VGG16", 32, None, 1), 10)
    assert [layer.trainable for layer in model.layers] == [False] * 10 + [True] * (len(model.layers) - 10)
    assert [layer.units for layer in model.layers if hasattr(layer, "units")] == [512, 256, 5]
    assert float(model.optimizer.learning_rate) == pytest.approx(1e-4)
