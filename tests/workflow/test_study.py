"""Studies: several data sets, sweeps and repeats, and data sets that are left out in turn."""

import json
import shutil

import h5py
import pytest

from retinaflow.data.demo import draw_collection
from retinaflow.data.trained_on import find_seen
from retinaflow.storage.tables import read_table, write_table


def log_of(project, run):
    return project.read(f"results/logs/train/{run}.log")


def test_renamed_and_swept_model_trains_only_new_values(finished):
    section = finished.config["models"].pop("MobileNetV3Small")
    dropout = finished.config["train"].get("dropout", 0.5)
    sweep = {"dropout": [dropout, 0.25]}
    finished.config["models"]["small"] = {"backbone": "MobileNetV3Small", **section, "sweep": sweep}
    same, other = f"small-dropout-{dropout}", "small-dropout-0.25"
    files = [f"results/models/{name}/model.keras" for name in (same, other)]
    finished.snakemake("--cores", "2", *files)
    assert "trained before as MobileNetV3Small" in log_of(finished, same)
    assert "trained before" not in log_of(finished, other)
    first = finished.folder / "results/models/MobileNetV3Small/model.keras"
    assert (finished.folder / files[0]).read_bytes() == first.read_bytes()
    assert not finished.planned(*files)


def test_repeats_train_only_new_seeds(finished):
    finished.config["repeats"] = 2
    planned = finished.planned()
    trained = {job for job in planned if job.startswith("train ")}
    assert trained == {"train MobileNetV3Small-repeat-2", "train VGG16-repeat-2"}
    ensembles = {job for job in planned if job.startswith("ensemble ")}
    assert ensembles == {"ensemble MobileNetV3Small+ensemble", "ensemble VGG16+ensemble", "ensemble ensemble"}
    assert not [job for job in planned if job.split()[0] in ("inventory", "split", "organize", "preprocess")]
    finished.config["repeats"] = 1
    assert not finished.planned()


def test_images_of_an_earlier_training_are_refused_before_any_training(finished):
    section = finished.config["models"]["MobileNetV3Small"]
    weights = "results/models/MobileNetV3Small"
    data = finished.config["data"]
    data["train"], data["test"] = data["test"], data["train"]
    finished.config.update(
        results="other", models={"small": {**section, "backbone": "MobileNetV3Small", "weights": weights}}
    )
    output = finished.snakemake("--cores", "2", "preflight", check=False)
    assert "test: small starts from a model that was trained on" in " ".join(output.split())
    assert "name these images in `exclude`" in " ".join(output.split())


def drawn_set(folder, seed, *, patients=15, first_patient=1):
    """A data set, as the configuration describes it, of drawn images in ``folder``."""
    images, labels = f"images {seed}", f"{seed}.csv"
    draw_collection(
        folder / images, folder / labels, patients=patients, first_patient=first_patient, size=64, seed=seed
    )
    return {"images": images, "labels": labels}


MERGED = {"not_referable": [0, 1], "referable": [2, 3, 4]}


@pytest.fixture(scope="module")
def study(bare):
    """A project of several data sets, after its run. Three of them number their patients alike."""
    project = bare(models={"small": {"backbone": "MobileNetV3Small", "feature_layers": ["expanded_conv_project_bn"]}})
    train = {"one": drawn_set(project.folder, 1, patients=20), "two": drawn_set(project.folder, 2)}
    test = {"two": drawn_set(project.folder, 3, first_patient=12), "three": drawn_set(project.folder, 4)}
    # A set with two grades.
    test["three"] |= {"scale": {"referable": [2, 3, 4], "not_referable": [0, 1]}, "grade_map": MERGED}
    # The test set of the name of a training set has the same patients: some of these were trained on.
    policy = {"on_problem": {"patient_in_both": "exclude"}, "exclude_limit": 1}
    project.config["data"].update(train=train, test=test, **policy)
    project.snakemake()
    return project


def rows_of(project, name):
    return read_table(project.folder / "results" / name)


def test_joined_sets_are_split_by_set_and_patient(study):
    sides = {side: rows_of(study, f"split/{side}.csv") for side in ("train", "validation")}
    patients = {side: {row["patient"] for row in rows} for side, rows in sides.items()}
    assert not patients["train"] & patients["validation"]
    for side in patients:
        assert {patient.split("/")[0] for patient in patients[side]} == {"one", "two"}
    assert sum(map(len, sides.values())) == 2 * (20 + 15)


def test_patients_of_another_set_are_others(study):
    """Sets one to three have a patient 1 each. Of set two, patients 12 to 15 are in training and test images."""
    assert not [row for row in rows_of(study, "inventory/test-three.csv") if row["problem"]]
    shared = [row for row in rows_of(study, "inventory/test-two.csv") if row["problem"] == "patient_in_both"]
    assert {row["patient"] for row in shared} == {f"two/{number}" for number in range(12, 16)}


def test_each_test_set_has_its_own_scores(study):
    rows = rows_of(study, "comparison/comparison.csv")
    assert {(row["model"], row["split"]) for row in rows} == {
        ("small", "validation"),
        ("small", "test-two"),
        ("small", "test-three"),
    }
    counts = {row["split"]: int(row["images"]) for row in rows}
    assert counts["test-two"] == 2 * 11
    assert counts["test-three"] == 2 * 15


def test_each_training_set_has_its_own_row(study):
    rows = rows_of(study, "comparison/by_data_set.csv")
    assert [(row["model"], row["data_set"], row["split"]) for row in rows] == [
        ("small", "one", "validation"),
        ("small", "two", "validation"),
    ]
    assert sum(int(row["images"]) for row in rows) == len(rows_of(study, "split/validation.csv"))
    assert all(0 <= float(row["referable_auc"]) <= 1 for row in rows)


def test_small_training_sets_share_one_decision_rule(study):
    """Each has fewer held-out images than a rule of its own needs."""
    for split in ("validation", "test-two", "test-three"):
        metrics = json.loads(study.read(f"results/scores/small/{split}/metrics.json"))
        assert metrics["decision_rule"]["data_sets"] == []
    assert "data_sets" not in json.loads(study.read("results/models/small/decision_rule.json"))
    assert json.loads(study.read("results/comparison/selected_model.json"))["model"] == "small"


def test_set_with_fewer_grades_is_scored_on_them(study):
    drawn = {row["image"]: int(row["level"]) for row in read_table(study.folder / "4.csv")}
    rows = rows_of(study, "scores/small/test-three/predictions.csv")
    assert {row["image"]: row["grade_name"] for row in rows} == {
        image: "referable" if grade > 1 else "not_referable" for image, grade in drawn.items()
    }
    assert all(row["predicted_grade_name"] in MERGED and row["predicted_grade"] == row["referable"] for row in rows)
    folders = study.folder / "results/organized/test-three"
    assert {folder.name for folder in folders.iterdir() if folder.is_dir()} == MERGED.keys()
    (auc,) = [
        row["referable_auc"] for row in rows_of(study, "comparison/comparison.csv") if row["split"] == "test-three"
    ]
    assert 0 <= float(auc) <= 1


def test_new_test_set_trains_nothing(study):
    third = study.config["data"]["test"].pop("three")
    assert not [job for job in study.planned() if job.startswith(("train", "preprocess", "split"))]
    study.config["data"]["test"]["three"] = third
    assert not study.planned()


@pytest.fixture(scope="module")
def left_out(bare):
    """A project of two data sets after its run. An image of one of them is also in the other one."""
    project = bare(models={"small": {"backbone": "MobileNetV3Small", "feature_layers": ["expanded_conv_project_bn"]}})
    one, two = drawn_set(project.folder, 1, patients=20), drawn_set(project.folder, 2)
    rows = read_table(project.folder / two["labels"])
    first = rows[0]["image"]
    (grade,) = [row["level"] for row in rows if row["image"] == first]
    (source,) = (project.folder / two["images"]).glob(f"{first}.*")
    shutil.copy(source, project.folder / one["images"] / f"copy_left{source.suffix}")
    labels = project.folder / one["labels"]
    rows = read_table(labels)
    write_table(labels, list(rows[0]), [*rows, {**rows[0], "image": "copy_left", "level": grade}])
    del project.config["data"]["test"]
    project.config["data"]["train"] = {"one": one, "two": two}
    project.config["split"] = {"leave_out": "data_set"}
    project.snakemake()
    return project


def indices(project, data_set):
    """Index tables of both parts of a data set."""
    folder = project.folder / "results/organized"
    return [folder / f"{data_set}-{side}" / "index.csv" for side in ("train", "validation")]


def test_no_image_of_the_left_out_set_was_trained_on(left_out):
    for data_set, other in (("one", "two"), ("two", "one")):
        record = left_out.folder / f"results/models/small/without-{data_set}/trained_on.json"
        assert not any(find_seen(record, indices(left_out, data_set)))
        images = {row["image"] for table in indices(left_out, other) for row in read_table(table)}
        assert set(find_seen(record, indices(left_out, other)).images) == images
        tested = rows_of(left_out, f"scores/small/without-{data_set}/left-out/predictions.csv")
        own = {row["image"] for table in indices(left_out, data_set) for row in read_table(table)}
        assert {row["image"] for row in tested} == own
        held_out = rows_of(left_out, f"scores/small/without-{data_set}/validation/predictions.csv")
        assert {row["image"].split("/")[0] for row in held_out} == {other}


def test_copy_of_an_image_in_both_sets_is_listed_and_used_once(left_out):
    problems = [row for row in rows_of(left_out, "inventory/problems.csv") if row["problem"] == "identical"]
    assert len(problems) == 1
    assert problems[0]["action"] == "excluded"
    usable = [row for row in rows_of(left_out, "inventory/train.csv") if not row["problem"]]
    assert len(usable) == 2 * (20 + 15)
    assert len({row["digest"] for row in usable}) == len(usable)


def test_one_table_joins_the_left_out_sets(left_out):
    rows = rows_of(left_out, "comparison/leave_out.csv")
    assert [(row["model"], row["split"]) for row in rows] == [
        ("small", split) for split in ("mean of validation", "one", "two", "mean over sets")
    ]
    for data_set in ("one", "two"):
        (own,) = [row for row in rows if row["split"] == data_set]
        compared = rows_of(left_out, f"comparison/without-{data_set}/comparison.csv")
        assert {row["model"] for row in compared} == {"small"}
        (tested,) = [row for row in compared if row["split"] == "left-out"]
        for name in ("images", "quadratic_weighted_kappa", "referable_auc", "referable_auc_low"):
            assert own[name] == tested[name]
        assert (left_out.folder / f"results/comparison/without-{data_set}/roc-left-out.png").exists()
    assert "| model | mean of validation | one | two | mean over sets |" in left_out.read(
        "results/comparison/leave_out.md"
    )


def test_pixels_are_stored_once_and_a_second_run_does_nothing(left_out):
    (variant,) = [folder for folder in (left_out.folder / "results/shards").iterdir() if not folder.is_file()]
    stored = {folder.name for folder in variant.iterdir() if folder.is_dir() and not folder.name.startswith(".")}
    assert stored == {f"{name}-{side}" for name in ("one", "two") for side in ("train", "validation")}
    assert not left_out.planned(bundles=True)


def test_there_are_no_bundles_and_no_evidence(left_out):
    assert not list((left_out.folder / "results/models").rglob("bundle"))
    output = " ".join(left_out.snakemake("-n", "evidence", check=False).split())
    assert "`snakemake evidence` describes one model" in output
    output = left_out.snakemake("-n", "predict", "--config", f"images={left_out.folder}/images 1", check=False)
    assert "none of them grades new images (with split.leave_out" in " ".join(output.split())


def test_new_data_set_is_in_all_other_trainings(left_out):
    left_out.config["data"]["train"]["three"] = drawn_set(left_out.folder, 3)
    trained = {job for job in left_out.planned() if job.startswith("train ")}
    assert trained == {f"train small/without-{name}" for name in ("one", "two", "three")}
    del left_out.config["data"]["train"]["three"]
    assert not left_out.planned()


def test_finished_models_without_each_set_are_ranked_after_a_failure(left_out):
    with h5py.File(left_out.folder / "no.weights.h5", "w"):
        pass
    left_out.config["models"]["broken"] = {"backbone": "MobileNetV3Small", "weights": "no.weights.h5"}
    shown = left_out.snakemake("--cores", "2", check=False)
    for data_set in ("one", "two"):
        rows = rows_of(left_out, f"comparison/without-{data_set}/unfinished.csv")
        assert {row["model"] for row in rows if row["rank"]} == {"small"}
        (remark,) = {row["remark"] for row in rows if row["model"] == "broken"}
        assert remark.startswith("train failed: ")
        assert f"Details: results/comparison/without-{data_set}/unfinished.md" in shown
    del left_out.config["models"]["broken"]
    assert not left_out.planned()
    (left_out.folder / "results/comparison/leave_out.csv").unlink()
    left_out.snakemake()
    assert not list((left_out.folder / "results/comparison").rglob("*unfinished*"))


@pytest.mark.slow
def test_new_image_of_a_set_keeps_the_training_without_it(left_out, image_bytes):
    run = "small/without-one"
    model = left_out.folder / f"results/models/{run}/model.keras"
    before = model.read_bytes()
    labels = left_out.folder / "1.csv"
    rows = read_table(labels)
    (left_out.folder / "images 1/900_left.jpeg").write_bytes(image_bytes)
    write_table(labels, list(rows[0]), [*rows, {**rows[0], "image": "900_left", "level": "0"}])
    left_out.snakemake("--cores", "2", f"results/models/{run}/model.keras")
    assert model.read_bytes() == before
    assert "trained before" in log_of(left_out, run)
