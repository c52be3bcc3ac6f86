"""Sweeps and repeats: what is trained, and what is copied from an earlier training."""


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
