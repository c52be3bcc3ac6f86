"""Studies: several data sets, sweeps and repeats."""

import pytest

from retinaflow.data.demo import draw_collection
from retinaflow.storage.tables import read_table


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
