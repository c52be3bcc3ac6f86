"""Whole chains of real jobs, from images to the comparison, and the content of every file."""

import csv
import json
import os
import re
import shutil
import stat
import subprocess
import sys
from collections import Counter
from pathlib import Path
from uuid import uuid4
from zipfile import ZipFile

import cv2
import numpy as np
import pytest
import yaml
from sklearn.metrics import accuracy_score, cohen_kappa_score, confusion_matrix, log_loss, recall_score, roc_auc_score

from retinaflow.jobs import gpus
from retinaflow.preprocessing.preprocess import prepare
from retinaflow.preprocessing.variant import Variant
from retinaflow.storage.files import digest, digest_files
from retinaflow.storage.tables import read_table, write_table

ROOT = Path(__file__).resolve().parents[2]
CLASSES = ["class0", "class1", "class2", "class3", "class4"]
VARIANT = "32-trim-keep-none"

# Models with these settings distinguish images after an epoch, so scores show a row in the wrong position.
DISTINCT = {
    "image_size": 32,
    "weights": "start.weights.h5",
    "normalisation": "per_image",
    "dense_units": [32, 16],
    "dropout": 0.0,
    "learning_rate": 0.001,
    "batch_size": 16,
    "head_epochs": 0,
    "epochs": 2,
}


DEFAULT_GRADE_NAMES = ["no_dr", "mild", "moderate", "severe", "proliferative"]
# A model needs Keras alone: an import of this library fails here.
PLAIN_KERAS = """
import json, sys
sys.modules["retinaflow"] = None
import keras, numpy as np
results = []
for job in json.load(sys.stdin):
    if "tree" in job:
        data = keras.utils.image_dataset_from_directory(job["tree"], image_size=(32, 32), verbose=False)
        labels = np.concatenate([labels for _, labels in data])
        results.append({"classes": data.class_names, "counts": np.bincount(labels).tolist()})
    else:
        model = keras.saving.load_model(job["model"], safe_mode=True)
        assert model.inputs[0].dtype == "uint8"
        results.append(model.predict(np.load(job["pixels"]), verbose=0).tolist())
json.dump(results, sys.stdout)
"""


def plain_keras(jobs):
    """Run ``jobs`` in a process without this library. Each job names a model and pixels, or a tree of folders."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-P", "-c", PLAIN_KERAS],
        input=json.dumps(jobs, default=os.fspath),
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def contents(folder):
    """Return name and digest of every file below ``folder``."""
    return {
        path.relative_to(folder).as_posix(): digest(path.read_bytes()) for path in folder.rglob("*") if path.is_file()
    }


def rows_of(project, name):
    return read_table(project.folder / "results" / name)


def json_of(project, name):
    return json.loads(project.read(f"results/{name}"))


def images_of(rows):
    return [row["image"] for row in rows]


# The first is the mean of the others.
MODELS = ("ensemble", "MobileNetV3Small", "VGG16")


def patients_of(rows):
    return {row["patient"] for row in rows}


def pixels_of(project, split):
    """Return the pixels of each image of a split, from all its shards."""
    found = {}
    for pixels in sorted((project.folder / "results/shards" / VARIANT / split).glob("[0-9]*.npy")):
        array = np.load(pixels)
        assert array.dtype == np.uint8
        names = images_of(read_table(pixels.with_suffix(".csv")))
        assert array.shape == (len(names), 32, 32, 3)
        assert not found.keys() & set(names)
        found.update(zip(names, array, strict=True))
    return found


def name_of(cell):
    """Return the name in a cell. An apostrophe keeps spreadsheets from computing names like ``-1``."""
    return re.sub(r"^'(?=[=+\-@])", "", cell)


def predictions_of(project, run, split):
    """Read columns, file names, true and predicted grades and probabilities, without this library."""
    path = project.folder / "results/scores" / run / split / "predictions.csv"
    with open(path, newline="", encoding="utf-8") as file:
        header, *rows = list(csv.reader(file))
    actual = np.array([int(row[3]) for row in rows])
    predicted = np.array([int(row[5]) for row in rows])
    columns = slice(6, 6 + len([name for name in header if name.startswith("probability_")]))
    probabilities = np.array([list(map(float, row[columns])) for row in rows])
    return header, [name_of(row[1]) for row in rows], actual, predicted, probabilities


def outputs_of(project, run, split):
    """Read the raw outputs of each image, without this library."""
    with open(
        project.folder / "results/scores" / run / split / "raw_outputs.csv", newline="", encoding="utf-8"
    ) as file:
        _, *rows = list(csv.reader(file))
    return {row[0]: np.array(row[5:], float) for row in rows}


def probabilities_by_rule(project, run, split):
    """Return probabilities by the decision rule of a model, which rank all images on one scale."""
    outputs = np.array(list(outputs_of(project, run, split).values()))
    powers = outputs ** (1 / json_of(project, f"models/{run}/decision_rule.json")["temperature"])
    return powers / powers.sum(axis=1, keepdims=True)


def area_under_curve(positive, risk, networks):
    """Return the share of pairs in the right order, of pairs that one network graded."""
    right = pairs = 0
    for network in np.unique(networks):
        own = networks == network
        number = positive[own].sum() * (~positive[own]).sum()
        right += number * roc_auc_score(positive[own], risk[own]) if number else 0
        pairs += number
    return right / pairs


def check_scores(project, run, split, classes, index, fold_of=None):
    """Check predictions against the images and grades of ``index``, and metrics against those of scikit-learn.

    ``fold_of``: the fold of each file, if networks of several folds graded them.
    """
    header, names, actual, predicted, probabilities = predictions_of(project, run, split)
    assert header == [
        "image",
        "filename",
        "grade_name",
        "grade",
        "predicted_grade_name",
        "predicted_grade",
        *(f"probability_{name}" for name in classes),
        "patient",
        "eye",
        "severity",
        "argmax_grade_name",
        "argmax_grade",
        "referable",
    ]
    rows = read_table(project.folder / "results/scores" / run / split / "predictions.csv")
    assert {row["filename"]: row["grade_name"] for row in rows} == {row["filename"]: row["grade_name"] for row in index}
    assert len(names) == len(index)
    assert [classes[grade] for grade in actual] == [row["grade_name"] for row in rows]
    assert [classes[grade] for grade in predicted] == [row["predicted_grade_name"] for row in rows]
    argmax = np.array([int(row["argmax_grade"]) for row in rows])
    assert argmax.tolist() == [outputs.argmax() for outputs in outputs_of(project, run, split).values()]
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-6)

    metrics = json_of(project, f"scores/{run}/{split}/metrics.json")
    grades = np.arange(len(classes))
    assert (metrics["model"], metrics["split"], metrics["grade_names"]) == (run, split, classes)
    assert metrics["images"] == len(names)
    assert metrics["accuracy"] == pytest.approx(accuracy_score(actual, predicted))
    kappa = cohen_kappa_score(actual, predicted, labels=grades, weights="quadratic")
    assert metrics["quadratic_weighted_kappa"] == pytest.approx(kappa, abs=1e-12)
    kappa = cohen_kappa_score(actual, argmax, labels=grades, weights="quadratic")
    assert metrics["argmax"]["quadratic_weighted_kappa"] == pytest.approx(kappa, abs=1e-12)
    assert metrics["log_loss"] == pytest.approx(log_loss(actual, probabilities, labels=grades), rel=1e-6)
    assert metrics["confusion_matrix"] == confusion_matrix(actual, predicted, labels=grades).tolist()
    ranking = probabilities_by_rule(project, run, split)
    networks = np.array([fold_of[name] if fold_of else 1 for name in names])
    aucs = [area_under_curve(actual == grade, ranking[:, grade], networks) for grade in grades]
    assert metrics["macro_auc"] == pytest.approx(np.mean(aucs), abs=1e-9)
    referable = metrics["referable"]
    threshold = referable["grade"]
    assert referable["auc"] == pytest.approx(
        area_under_curve(actual >= threshold, ranking[:, threshold:].sum(axis=1), networks), abs=1e-9
    )
    for name, positive in (("sensitivity", True), ("specificity", False)):
        recall = recall_score(actual >= threshold, predicted >= threshold, pos_label=positive)
        assert referable[name] == pytest.approx(recall)
    assert metrics["baseline"] == {
        "grade_name": classes[0],
        "accuracy": pytest.approx(np.mean(actual == 0)),
        "quadratic_weighted_kappa": 0.0,
    }


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """Return weights for VGG16 that keep the size of signals through all layers (He et al. 2015)."""
    import keras

    network = keras.applications.VGG16(weights=None, include_top=False, input_shape=(32, 32, 3))
    he = keras.initializers.HeNormal(seed=0)
    for layer in network.layers:
        if layer.weights:
            layer.kernel.assign(he(layer.kernel.shape))
    path = tmp_path_factory.mktemp("weights") / "start.weights.h5"
    network.save_weights(path)
    return path


# A finished project of the smallest configuration ---------------------------------------------------------------------


def test_inventory_has_all_images_and_labels(finished_once, drawn):
    for data_set, folder, labels in (("train", "my photographs", "labels train"), ("test", "test", "labels test")):
        with open(drawn / f"{labels}.csv") as table:
            grades = {row["image"]: row["level"] for row in csv.DictReader(table)}
        rows = rows_of(finished_once, f"inventory/{data_set}.csv")
        assert {row["path"] for row in rows} == {f"{folder}/{path.name}" for path in (drawn / folder).iterdir()}
        assert {row["image"]: row["grade"] for row in rows} == grades
        for row in rows:
            content = (drawn / row["path"]).read_bytes()
            assert (row["bytes"], row["digest"]) == (str(len(content)), digest(content))
            assert row["image"] == Path(row["path"]).stem == f"{row['patient']}_{row['eye']}"
            assert (row["width"], row["height"], row["problem"]) == ("64", "48", "")
    assert rows_of(finished_once, "inventory/problems.csv") == []


def test_split_keeps_patients_together_and_all_images(finished_once):
    inventory = rows_of(finished_once, "inventory/train.csv")
    train, validation = (rows_of(finished_once, f"split/{split}.csv") for split in ("train", "validation"))
    assert sorted(images_of(train) + images_of(validation)) == sorted(images_of(inventory))
    assert not patients_of(train) & patients_of(validation)
    assert 0.1 < len(validation) / len(inventory) < 0.3
    for split in (train, validation):
        assert {row["grade"] for row in split} == set("01234")
        assert all(row in [{column: known[column] for column in row} for known in inventory] for row in split)


def test_organized_trees_are_relative_links_to_the_originals(finished_once):
    tables = {"train": "split/train.csv", "validation": "split/validation.csv", "test": "inventory/test.csv"}
    for split, table in tables.items():
        tree = finished_once.folder / "results/organized" / split
        rows = {row["image"]: row for row in rows_of(finished_once, table)}
        index = read_table(tree / "index.csv")
        assert images_of(index) == list(rows)
        links = {path for path in tree.rglob("*") if path.parent != tree and not path.name.startswith(".")}
        assert links == {tree / row["grade_name"] / row["filename"] for row in index}
        assert {path.name for path in tree.iterdir() if path.is_dir()} == set(CLASSES)
        for row in index:
            link, original = tree / row["grade_name"] / row["filename"], rows[row["image"]]
            assert row["grade_name"] == f"class{original['grade']}"
            assert not link.readlink().is_absolute()
            assert link.resolve() == (finished_once.folder / original["path"]).resolve()
            assert row["digest"] == original["digest"]


def test_shards_have_the_pixels_of_the_images_in_their_rows(finished_once):
    for split in ("train", "validation", "test"):
        index = {row["image"]: row for row in rows_of(finished_once, f"organized/{split}/index.csv")}
        pixels = pixels_of(finished_once, split)
        assert pixels.keys() == index.keys()
        for image, row in index.items():
            original = finished_once.folder / "results/organized" / split / row["grade_name"] / row["filename"]
            expected = prepare(original.read_bytes(), 64, 48, Variant.parse(VARIANT))
            np.testing.assert_array_equal(pixels[image], expected)


@pytest.mark.parametrize("backbone", ["MobileNetV3Small", "VGG16"])
def test_training_record_and_history_are_complete(finished_once, backbone):
    history = rows_of(finished_once, f"models/{backbone}/history.csv")
    figures = ["loss", "accuracy", "quadratic_weighted_kappa"]
    assert list(history[0]) == [
        "epoch", "phase", *figures, *(f"val_{name}" for name in figures), "learning_rate", "seconds"
    ]  # fmt: skip
    assert [row["epoch"] for row in history] == ["1"]
    assert json_of(finished_once, f"models/{backbone}/grade_names.json") == {
        name: grade for grade, name in enumerate(CLASSES)
    }
    record = json_of(finished_once, f"models/{backbone}/training_run.json")
    assert (record["training_run"], record["backbone"], record["seed"], record["grade_names"]) == (
        backbone,
        backbone,
        2015,
        CLASSES,
    )
    assert record["settings"].items() >= finished_once.config["train"].items()
    # The record has defaults too, so it names every setting.
    assert record["settings"]["monitor"] == "val_loss"
    assert record["settings"]["augment"]["rotation"] == 20
    assert record["environment"]["device"] in ("CPU", "GPU")
    assert {"keras", "numpy"} <= record["environment"]["packages"].keys()
    splits = ("train", "validation")
    indices = {split: finished_once.folder / f"results/organized/{split}/index.csv" for split in splits}
    assert record["digests"] == {
        **{f"{split}_index": digest_files([index]) for split, index in indices.items()},
        "weights": None,
    }
    assert record["photographs"] == {split: len(read_table(index)) for split, index in indices.items()}
    assert record["seconds"] > 0


def test_plain_keras_reads_the_trees_and_the_models(finished_once):
    results = finished_once.folder / "results"
    trees = [results / "organized" / split for split in ("train", "validation", "test")]
    models = [results / "models" / backbone / "model.keras" for backbone in ("MobileNetV3Small", "VGG16")]
    pixels = results / f"shards/{VARIANT}/test/0.npy"
    got = plain_keras([{"tree": tree} for tree in trees] + [{"model": model, "pixels": pixels} for model in models])
    for tree, found in zip(trees, got, strict=False):
        classes = [row["grade_name"] for row in read_table(tree / "index.csv")]
        assert found == {"classes": CLASSES, "counts": [classes.count(name) for name in CLASSES]}
    images = images_of(read_table(pixels.with_suffix(".csv")))
    for model, found in zip(models, got[len(trees) :], strict=True):
        outputs = outputs_of(finished_once, model.parent.name, "test")
        np.testing.assert_allclose(found, [outputs[image] for image in images], atol=1e-5)


def test_metrics_follow_from_the_predictions(finished_once):
    for model in MODELS:
        for split in ("validation", "test"):
            check_scores(finished_once, model, split, CLASSES, rows_of(finished_once, f"organized/{split}/index.csv"))


def test_ensemble_is_the_mean_of_the_networks(finished_once):
    for split in ("validation", "test"):
        average, *each = (outputs_of(finished_once, model, split) for model in MODELS)
        for image, mean in average.items():
            np.testing.assert_allclose(mean, np.mean([outputs[image] for outputs in each], axis=0), atol=1e-8)


def test_every_run_draws_its_figures(finished_once):
    figures = {path.relative_to(finished_once.folder / "results") for path in finished_once.folder.rglob("*.png")}
    runs = [Path("scores", backbone) for backbone in ("MobileNetV3Small", "VGG16")]
    assert figures == {
        Path("comparison/comparison.png"),
        Path("comparison/roc-test.png"),
        *(run / "learning_curves.png" for run in runs),
        *(Path("scores", model, split, "confusion_matrix.png") for model in MODELS for split in ("validation", "test")),
    }
    for figure in figures:
        image = cv2.imread(str(finished_once.folder / "results" / figure))
        assert image is not None
        assert min(image.shape[:2]) > 200
        assert image.std() > 1


def test_no_partial_file_remains(finished_once):
    names = [path.name for path in (finished_once.folder / "results").rglob("*")]
    assert not [name for name in names if name.startswith(".part-")]
    assert "best.weights.h5" not in names


def test_images_of_the_user_are_unchanged(finished_once, drawn):
    for folder in ("my photographs", "test"):
        assert contents(finished_once.folder / folder) == contents(drawn / folder)


def test_comparison_ranks_by_validation_kappa(finished):
    comparison = rows_of(finished, "comparison/comparison.csv")
    kappas = {model: json_of(finished, f"scores/{model}/validation/metrics.json") for model in MODELS}
    ranked = sorted(MODELS, key=lambda model: (-kappas[model]["quadratic_weighted_kappa"], model))
    assert [(row["network"], row["split"]) for row in comparison] == [
        (model, split) for model in ranked for split in ("validation", "test")
    ]
    for row in comparison:
        metrics = json_of(finished, f"scores/{row['model']}/{row['split']}/metrics.json")
        assert float(row["quadratic_weighted_kappa"]) == metrics["quadratic_weighted_kappa"]
        assert float(row["accuracy"]) == metrics["accuracy"]
        assert float(row["baseline_accuracy"]) == metrics["baseline"]["accuracy"]
        assert int(row["images"]) == metrics["images"]

    # The last model becomes better on validation and worse on test.
    for model in MODELS:
        for split, kappa in (("validation", 0.5), ("test", -0.5)):
            file = finished.folder / f"results/scores/{model}/{split}/metrics.json"
            changed = {"quadratic_weighted_kappa": kappa if model == "VGG16" else 0.0}
            file.write_text(json.dumps({**json.loads(file.read_text()), **changed}))
            file.with_name(".metrics.json.digest").unlink()
    finished.snakemake()
    ranks = {row["network"]: row["rank"] for row in rows_of(finished, "comparison/comparison.csv")}
    assert ranks == {"VGG16": "1", "MobileNetV3Small": "2", "ensemble": "3"}
    table = [
        line
        for line in finished.read("results/comparison/comparison.md").splitlines()
        if line.startswith(("| 1 ", "| 2 "))
    ]
    # Rows of validation, then rows of test.
    assert ["VGG16" in line for line in table] == [True, False, True, False]


# The layout of the article --------------------------------------------------------------------------------------------


def article_layout(drawn, folder):
    """Copy the drawn images to the layout of the unpacked Kaggle 2015 download, as in config/eyepacs.yaml."""
    shutil.copytree(drawn / "my photographs", folder / "resized train 15")
    shutil.copytree(drawn / "test", folder / "resized test 15")
    (folder / "labels").mkdir()
    shutil.copy(drawn / "labels train.csv", folder / "labels/trainLabels15.csv")
    with open(drawn / "labels test.csv") as table:
        rows = [{**row, "Usage": "Private"} for row in csv.DictReader(table)]
    write_table(folder / "labels/testLabels15.csv", ("image", "level", "Usage"), rows)
    return folder


def zipped(archive, folder, names):
    with ZipFile(archive, "w") as file:
        for name in names:
            for path in sorted((folder / name).rglob("*")) or [folder / name]:
                file.write(path, path.relative_to(folder).as_posix())


@pytest.fixture(scope="module")
def article(bare, drawn, start, tmp_path_factory):
    """Return a finished project with one archive of all images and labels."""
    folder = article_layout(drawn, tmp_path_factory.mktemp("article"))
    project = bare(
        data={
            data_set: {
                "images": f"data/archive.zip/resized {data_set} 15",
                "labels": f"data/archive.zip/labels/{data_set}Labels15.csv",
            }
            for data_set in ("train", "test")
        },
        train=DISTINCT,
        models={"VGG16": {}},
    )
    (project.folder / "data").mkdir()
    zipped(project.folder / "data/archive.zip", folder, ["resized train 15", "resized test 15", "labels"])
    shutil.copy(start, project.folder)
    project.snakemake()
    return project


def without_paths(rows):
    return [{name: value for name, value in row.items() if name != "path"} for row in rows]


def test_archive_of_the_article_gives_the_same_as_its_folders(article, bare, drawn):
    project = bare(data=yaml.safe_load((ROOT / "config/eyepacs.yaml").read_text())["data"], train=DISTINCT)
    project.config["train"] = {**DISTINCT, "weights": "random", "batch_norm": "train"}
    article_layout(drawn, project.folder / "data")
    project.snakemake("--until", "preprocess")
    for table in ("inventory/train", "inventory/test", "split/train", "split/validation"):
        expected = without_paths(rows_of(project, f"{table}.csv"))
        assert without_paths(rows_of(article, f"{table}.csv")) == expected
        assert expected
    shards = sorted((project.folder / "results/shards").glob(f"{VARIANT}/*/[0-9]*.npy"))
    assert len(shards) == 6
    for shard in shards:
        same = article.folder / shard.relative_to(project.folder)
        assert shard.read_bytes() == same.read_bytes()
        assert shard.with_suffix(".csv").read_bytes() == same.with_suffix(".csv").read_bytes()


def test_separate_archives_give_the_same(article, bare, drawn, tmp_path):
    folder = article_layout(drawn, tmp_path)
    project = bare(
        data={
            "train": {"images": "data/resized train 15.zip", "labels": "data/trainLabels15.csv.zip"},
            "test": {"images": "data/resized test 15.zip", "labels": "data/testLabels15.csv"},
        }
    )
    data = project.folder / "data"
    data.mkdir()
    zipped(data / "resized train 15.zip", folder, ["resized train 15"])
    zipped(data / "resized test 15.zip", folder, ["resized test 15"])
    zipped(data / "trainLabels15.csv.zip", folder / "labels", ["trainLabels15.csv"])
    shutil.copy(folder / "labels/testLabels15.csv", data)
    project.snakemake("results/split/train.csv", "results/inventory/test.csv")
    for table in ("inventory/test", "split/train", "split/validation"):
        assert without_paths(rows_of(project, f"{table}.csv")) == without_paths(rows_of(article, f"{table}.csv"))


def test_archive_of_the_article_is_trained_and_scored(article):
    for split in ("validation", "test"):
        check_scores(article, "VGG16", split, DEFAULT_GRADE_NAMES, rows_of(article, f"organized/{split}/index.csv"))
    record = json_of(article, "models/VGG16/training_run.json")
    assert record["digests"]["weights"] == digest_files([article.folder / "start.weights.h5"])
    assert len(rows_of(article, "models/VGG16/history.csv")) == record["epochs_run"] == 2
    assert not article.planned()


def test_each_prediction_is_of_the_image_it_names(article):
    results = article.folder / "results"
    outputs = outputs_of(article, "VGG16", "test")
    assert np.std(list(outputs.values()), axis=0).max() > 1e-4
    model = results / "models/VGG16/model.keras"
    shards = sorted((results / "shards" / VARIANT / "test").glob("[0-9]*.npy"))
    for shard, found in zip(shards, plain_keras([{"model": model, "pixels": shard} for shard in shards]), strict=True):
        images = images_of(read_table(shard.with_suffix(".csv")))
        np.testing.assert_allclose(found, [outputs[image] for image in images], atol=1e-5)


# Folds, no test set, and every choice of names ------------------------------------------------------------------------

GRADES = ["none", "Mild_to.moderate", "severe or worse"]
GRADE_OF_LEVEL = {"0": 0, "1": 1, "2": 1, "3": 2, "4": 2}
AWKWARD = dict(
    enumerate(
        [
            "-1",
            "two  blanks",
            "qu'o\"te",
            "Größe 眼",
            "new\nline",
            "car\rriage",
            "br{ace}s",
            "comma, semi;",
            "#50% & $HOME `x`",
            "*glob?[a]",
            "back~tick",
            "a.b.jpeg",
        ],
        start=1,
    )
)
GPUS = [f"GPU-{uuid4()}" for _ in range(2)]
FOLDERS = ["-left {eyes} of 'é\"\n*", "right/eyes"]


@pytest.fixture(scope="module")
def folds(bare, drawn, start):
    """Yield a finished project of three folds without a test set, with unusual names everywhere.

    It ran two jobs at a time, on a machine with two pretended GPUs.
    """
    project = bare(
        data={
            "train": {"images": FOLDERS, "labels": "labels of \"all'.csv"},
            "image_column": "Bild Name",
            "grade_column": "Diagnose",
            "grade_names": GRADES,
        },
        split={"folds": 3},
        organize={"mode": "copy"},
        endpoints={"referable": [1, 2]},
        train={**DISTINCT, "epochs": 1},
        models={"VGG16": {}},
    )
    rows = []
    for folder in FOLDERS:
        (project.folder / folder / "deeper").mkdir(parents=True)
    with open(drawn / "labels train.csv") as table:
        for row in csv.DictReader(table):
            patient, eye = row["image"].split("_")
            name = f"{AWKWARD.get(int(patient), patient)}_{eye}"
            folder = FOLDERS[0] if eye == "left" else f"{FOLDERS[1]}/deeper"
            shutil.copy(drawn / f"my photographs/{row['image']}.jpeg", project.folder / folder / f"{name}.jpeg")
            rows.append({"Bild Name": name, "rest": "x", "Diagnose": GRADES[GRADE_OF_LEVEL[row["level"]]]})
    with open(project.folder / "labels of \"all'.csv", "w", newline="", encoding="utf-8") as table:
        writer = csv.DictWriter(table, ("rest", "Bild Name", "Diagnose"), quoting=csv.QUOTE_ALL)
        writer.writeheader()
        writer.writerows(rows)
    shutil.copy(start, project.folder)
    smi = project.folder / "bin/nvidia-smi"
    smi.parent.mkdir()
    smi.write_text("#!/bin/sh\n" + "".join(f"echo 'GPU {i}: Fake (UUID: {uuid})'\n" for i, uuid in enumerate(GPUS)))
    smi.chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", str(smi.parent), prepend=os.pathsep)
        patch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        # Two jobs at a time, because most of each job is the start of TensorFlow.
        project.snakemake("--set-threads", "train=1", "score=1", "--resources", "gpu=2")
    yield project
    for uuid in GPUS:
        next(gpus.LOCKS.glob(f"*{uuid}*")).unlink()


def test_jobs_side_by_side_have_different_devices(folds):
    """Two trainings start together, and the third after one of them. Their raw outputs are copied, without a device."""
    devices = Counter(
        re.search(
            r" on GPU \d \(Fake, (\S+)\)$", folds.read(f"results/logs/train/VGG16/fold-{fold}.log"), re.MULTILINE
        )[1]
        for fold in (1, 2, 3)
    )
    assert sorted(devices) == sorted(GPUS)
    for fold in (1, 2, 3):
        log = folds.read(f"results/logs/score/VGG16/fold-{fold}.log")
        assert "computed before with this network" in log
        assert not any(uuid in log for uuid in GPUS)
        assert json_of(folds, f"models/VGG16/fold-{fold}/training_run.json")["computed"]["devices"] == ["CPU"]


def test_every_image_is_held_out_once_without_its_patient(folds):
    inventory = rows_of(folds, "inventory/train.csv")
    assert len(inventory) == 48
    assert len(patients_of(inventory)) == 24
    held_out = []
    for fold in (1, 2, 3):
        train, validation = (rows_of(folds, f"split/fold-{fold}/{split}.csv") for split in ("train", "validation"))
        assert sorted(images_of(train) + images_of(validation)) == sorted(images_of(inventory))
        assert not patients_of(train) & patients_of(validation)
        assert {row["grade"] for row in train} == {row["grade"] for row in validation} == set("012")
        held_out += images_of(validation)
        # The record of the training names the images it read.
        record = json_of(folds, f"models/VGG16/fold-{fold}/training_run.json")
        indices = [folds.folder / f"results/organized/fold-{other}/index.csv" for other in (1, 2, 3) if other != fold]
        assert record["photographs"] == {"train": len(train), "validation": len(validation)}
        assert record["digests"]["train_index"] == digest_files(indices)
        assert sorted(images_of(row for index in indices for row in read_table(index))) == sorted(images_of(train))
    assert sorted(held_out) == sorted(images_of(inventory))


def test_out_of_fold_scores_pool_the_outputs_of_folds(folds):
    pooled = rows_of(folds, "scores/VGG16/out-of-fold/raw_outputs.csv")
    by_fold = [rows_of(folds, f"scores/VGG16/fold-{fold}/validation/raw_outputs.csv") for fold in (1, 2, 3)]
    assert pooled == [row for rows in by_fold for row in rows]
    indices = [rows_of(folds, f"organized/fold-{fold}/index.csv") for fold in (1, 2, 3)]
    for fold, index in enumerate(indices, start=1):
        check_scores(folds, f"VGG16/fold-{fold}", "validation", GRADES, index)
    fold_of = {row["filename"]: fold for fold, index in enumerate(indices) for row in index}
    check_scores(folds, "VGG16", "out-of-fold", GRADES, [row for index in indices for row in index], fold_of)


def test_comparison_has_the_pooled_row_and_the_folds(folds):
    comparison = rows_of(folds, "comparison/comparison.csv")
    assert [(row["rank"], row["model"], row["split"], row["images"]) for row in comparison] == [
        ("1", "VGG16", "out-of-fold", "48"),
        *(
            ("", f"VGG16/fold-{fold}", "validation", str(len(rows_of(folds, f"organized/fold-{fold}/index.csv"))))
            for fold in (1, 2, 3)
        ),
    ]
    assert "out-of-fold" in folds.read("results/comparison/comparison.md")


def test_without_a_test_set_no_file_mentions_one(folds):
    assert not list((folds.folder / "results").rglob("test*"))
    assert "test" not in folds.read("results/comparison/comparison.md").replace("never on test", "")


def test_names_survive_from_the_folder_to_the_predictions(folds):
    on_disk = {path.name for folder in FOLDERS for path in (folds.folder / folder).rglob("*.jpeg")}
    assert len(on_disk) == 48
    assert {f"{name}_left.jpeg" for name in AWKWARD.values()} <= on_disk
    with open(folds.folder / "results/scores/VGG16/out-of-fold/predictions.csv", newline="", encoding="utf-8") as file:
        assert {name_of(row["filename"]) for row in csv.DictReader(file)} == on_disk
    assert json_of(folds, "models/VGG16/fold-2/grade_names.json") == {name: i for i, name in enumerate(GRADES)}


def test_copies_are_separate_files_with_the_same_content(folds, drawn):
    sources = {row["image"]: row for row in rows_of(folds, "inventory/train.csv")}
    for fold in (1, 2, 3):
        tree = folds.folder / f"results/organized/fold-{fold}"
        for row in read_table(tree / "index.csv"):
            copy, source = tree / row["grade_name"] / row["filename"], folds.folder / sources[row["image"]]["path"]
            status = copy.lstat()
            assert stat.S_ISREG(status.st_mode)
            assert status.st_nlink == 1
            assert copy.read_bytes() == source.read_bytes()
            assert row["grade_name"] == GRADES[int(sources[row["image"]]["grade"])]
    originals = [content for folder in FOLDERS for content in contents(folds.folder / folder).values()]
    assert sorted(originals) == sorted(contents(drawn / "my photographs").values())


def test_unusual_names_repeat_nothing(folds):
    assert not folds.planned()


# Choices that need no training ----------------------------------------------------------------------------------------


def test_hard_links_and_split_by_image_are_applied(fresh):
    project = fresh(
        data={"train": {"images": "my photographs", "labels": "labels train.csv"}},
        split={"unit": "image", "validation": 0.3},
        organize={"mode": "hardlink"},
    )
    project.snakemake("--until", "organize")
    train, validation = (rows_of(project, f"split/{split}.csv") for split in ("train", "validation"))
    assert sorted(images_of(train) + images_of(validation)) == sorted(
        images_of(rows_of(project, "inventory/train.csv"))
    )
    # The preflight warns of this for a split by image.
    assert patients_of(train) & patients_of(validation)
    for split, rows in (("train", train), ("validation", validation)):
        paths = {row["image"]: project.folder / row["path"] for row in rows}
        tree = project.folder / "results/organized" / split
        for row in read_table(tree / "index.csv"):
            link = tree / row["grade_name"] / row["filename"]
            assert not link.is_symlink()
            assert link.samefile(paths[row["image"]])


def test_only_the_seed_changes_the_split(fresh, finished_once):
    project = fresh(preprocess={"shard_size": 5})
    project.snakemake("--cores", "1", "--until", "preprocess")
    for table in ("split/train.csv", "split/validation.csv", "organized/train/index.csv"):
        assert project.read(f"results/{table}") == finished_once.read(f"results/{table}")
    shards = {
        split: len(list(project.folder.glob(f"results/shards/*/{split}/[0-9]*.npy"))) for split in ("train", "test")
    }
    assert shards == {"train": 8, "test": 7}
    for split in ("train", "validation", "test"):
        ours, theirs = pixels_of(project, split), pixels_of(finished_once, split)
        assert ours.keys() == theirs.keys()
        for image, pixels in ours.items():
            np.testing.assert_array_equal(pixels, theirs[image])

    project.config["seed"] = 1
    project.snakemake("--until", "split")
    other = images_of(rows_of(project, "split/validation.csv"))
    assert set(other) != set(images_of(rows_of(finished_once, "split/validation.csv")))
