"""TensorBoard and MLflow record each epoch of a training once, after any number of interruptions."""

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import small
from common import Part
from retinaflow.errors import RetinaflowError
from retinaflow.settings.tracking import TrackingSettings
from retinaflow.storage.tables import read_table
from retinaflow.training import checkpoints, tracking
from retinaflow.training.job import train_job

accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator", reason="make track")
tensor_util = pytest.importorskip("tensorboard.util.tensor_util")
mlflow = pytest.importorskip("mlflow", reason="make track")

SETTINGS = {"tensorboard": True, "mlflow": None, "experiment": "fundus"}


@pytest.fixture
def parts(make_part: Any) -> tuple[Part, Part]:
    return tuple(  # type: ignore[return-value]
        make_part(name, *small.planted(number), classes=small.THREE)
        for name, number in (("train", 18), ("validation", 6))
    )


def trackers(asked: dict[str, Any], run: str, folder: Path) -> list[tracking.Guarded]:
    return tracking.trackers(TrackingSettings.model_validate(asked), run, folder)


def train(
    folder: Path, parts: tuple[Part, Part], asked: dict[str, Any], halve: str = "error", **changes: Any
) -> list[dict[str, str]]:
    """Train with the trackers of ``asked``, and return the history."""
    followed = trackers(asked, "Tiny", folder / "events")
    settings = small.typed(on_out_of_memory=halve, **changes)
    with pytest.MonkeyPatch.context() as patch:
        small.register(patch)
        train_job(small.small_job(folder, parts, settings, checkpoints=folder / "checkpoints", trackers=followed))
    return read_table(folder / "history.csv")


@contextmanager
def cut_short(after: int) -> Iterator[None]:
    """End a training after it has saved and recorded some epochs, as a kill would. 0 is before the first is saved."""
    write = checkpoints.Checkpoint.save

    def save(self: checkpoints.Checkpoint, *arguments: Any) -> None:
        if after:
            write(self, *arguments)
        if len(self.rows) == after:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoints.Checkpoint, "save", save)
        yield


def events(folder: Path) -> dict[str, list[tuple[int, float]]]:
    accumulated = accumulator.EventAccumulator(str(folder), size_guidance={"tensors": 0})
    accumulated.Reload()
    return {
        tag: [(event.step, tensor_util.make_ndarray(event.tensor_proto).item()) for event in accumulated.Tensors(tag)]
        for tag in accumulated.Tags()["tensors"]
    }


def test_tensorboard_has_the_history(tmp_path: Path, parts: tuple[Part, Part]) -> None:
    with cut_short(2), pytest.raises(KeyboardInterrupt):
        train(tmp_path, parts, SETTINGS, epochs=4)
    assert [step for step, _ in events(tmp_path / "events")["loss/train"]] == [1, 2]
    history = train(tmp_path, parts, SETTINGS, epochs=4)
    found = events(tmp_path / "events")
    assert set(found) == {
        *(
            f"{name}/{part}"
            for name in ("loss", "accuracy", "quadratic_weighted_kappa")
            for part in ("train", "validation")
        ),
        *("learning_rate/train", "seconds/train"),
    }
    for tag, column in (
        ("loss/train", "loss"),
        ("accuracy/validation", "val_accuracy"),
        ("learning_rate/train", "learning_rate"),
    ):
        assert found[tag] == [(int(row["epoch"]), pytest.approx(float(row[column]), rel=1e-6)) for row in history]
    # Another training of the same name replaces it.
    history = train(tmp_path, parts, SETTINGS, epochs=2, learning_rate=0.02)
    assert [step for step, _ in events(tmp_path / "events")["loss/train"]] == [1, 2]


def test_mlflow_has_the_history(tmp_path: Path, parts: tuple[Part, Part], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each training is one run of MLflow in a folder."""
    monkeypatch.delenv("MLFLOW_ALLOW_FILE_STORE", raising=False)
    asked = {**SETTINGS, "tensorboard": False, "mlflow": str(tmp_path / "my runs")}
    with cut_short(2), pytest.raises(KeyboardInterrupt):
        train(tmp_path, parts, asked, epochs=4)
    client = mlflow.MlflowClient(tracking_uri=asked["mlflow"])
    experiment = client.get_experiment_by_name("fundus").experiment_id
    (run,) = client.search_runs([experiment])
    assert run.info.status == "RUNNING"

    history = train(tmp_path, parts, asked, epochs=4)
    (run,) = client.search_runs([experiment])
    assert (run.info.status, run.info.run_name) == ("FINISHED", "Tiny")
    assert run.data.tags["retinaflow.run"] == "Tiny"
    assert run.data.params["settings.epochs"] == "4"
    assert run.data.params["settings.augment.rotation"] == "20"
    for name in ("loss", "val_quadratic_weighted_kappa", "learning_rate"):
        recorded = client.get_metric_history(run.info.run_id, name)
        assert [(metric.step, metric.value) for metric in recorded] == [
            (int(row["epoch"]), pytest.approx(float(row[name]))) for row in history
        ]
    assert {artifact.path for artifact in client.list_artifacts(run.info.run_id)} == {
        "history.csv",
        "training_run.json",
    }

    train(tmp_path, parts, asked, epochs=1)
    assert len(client.search_runs([experiment])) == 2


def runs_of(address: str) -> list[Any]:
    client = mlflow.MlflowClient(tracking_uri=address)
    return client.search_runs([client.get_experiment_by_name("fundus").experiment_id], order_by=["start_time"])


def test_mlflow_runs_have_the_status_of_the_training(tmp_path: Path, parts: tuple[Part, Part]) -> None:
    asked = {**SETTINGS, "tensorboard": False, "mlflow": f"file:{tmp_path}/runs"}
    with pytest.raises(RetinaflowError, match="no longer finite"):
        train(tmp_path, parts, asked, class_weights=[1e38] * 3)
    assert [run.info.status for run in runs_of(asked["mlflow"])] == ["FAILED"]
    # A kill before the first saved epoch leaves a run, which the next attempt ends.
    with cut_short(0), pytest.raises(KeyboardInterrupt):
        train(tmp_path, parts, asked, epochs=1)
    train(tmp_path, parts, asked, epochs=1)
    assert [run.info.status for run in runs_of(asked["mlflow"])] == ["FAILED", "KILLED", "FINISHED"]


def test_restarted_training_is_recorded_from_its_first_epoch(
    tmp_path: Path, parts: tuple[Part, Part], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The memory is too small after the first epoch, so training starts again with half the batch size."""
    save = checkpoints.Checkpoint.save

    def full_once(self: checkpoints.Checkpoint, *arguments: Any) -> None:
        save(self, *arguments)
        if self.batch_size == small.SETTINGS["batch_size"]:
            raise MemoryError

    monkeypatch.setattr(checkpoints.Checkpoint, "save", full_once)
    asked = {**SETTINGS, "mlflow": str(tmp_path / "runs")}
    history = train(tmp_path, parts, asked, halve="halve", epochs=2)
    expected = [(int(row["epoch"]), pytest.approx(float(row["loss"]), rel=1e-6)) for row in history]
    assert events(tmp_path / "events")["loss/train"] == expected
    assert [run.info.status for run in runs_of(asked["mlflow"])] == ["KILLED", "FINISHED"]
    client = mlflow.MlflowClient(tracking_uri=asked["mlflow"])
    recorded = client.get_metric_history(runs_of(asked["mlflow"])[1].info.run_id, "loss")
    assert [(metric.step, metric.value) for metric in recorded] == expected


def test_trainings_that_start_together_share_an_experiment(tmp_path: Path) -> None:
    asked = {**SETTINGS, "tensorboard": False, "mlflow": str(tmp_path / "runs")}
    with ThreadPoolExecutor(4) as pool:
        for tracker in [trackers(asked, f"run {number}", tmp_path)[0] for number in range(4)]:
            pool.submit(tracker.start, tracker._tracker._name, {}, [])
    assert len(runs_of(asked["mlflow"])) == 4


def test_training_continues_without_a_broken_tracker(
    tmp_path: Path, parts: tuple[Part, Part], caplog: pytest.LogCaptureFixture
) -> None:
    """The server does not exist, and the folder is a file."""
    (tmp_path / "events").write_text("")
    asked = {**SETTINGS, "mlflow": "http://127.0.0.1:9"}
    with caplog.at_level(logging.WARNING):
        assert len(train(tmp_path, parts, asked, epochs=2)) == 2
    warnings = [record.message for record in caplog.records if "training continues without it" in record.message]
    assert len(warnings) == 2
    assert warnings[0].startswith("TensorBoard: cannot record this training run (")
    assert warnings[1].startswith("MLflow: cannot record this training run (")


def test_no_tracker_is_used_by_default(tmp_path: Path) -> None:
    assert trackers({"tensorboard": False, "mlflow": None, "experiment": "a"}, "A", tmp_path) == []
