"""Training of a small network: metrics, checkpoints, interruptions, precision and memory."""

import contextlib
import io
import json
import logging
import math
import multiprocessing
import os
import pty
import re
import sys
import termios
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import pytest

from common import Part
from retinaflow.errors import RetinaflowError
from retinaflow.networks import devices, objectives
from retinaflow.networks.building import build, compile_model
from retinaflow.preprocessing.batches import Batches, Images
from retinaflow.storage.files import digest_files
from retinaflow.storage.integrity import record_of
from retinaflow.storage.lock import lock
from retinaflow.storage.tables import read_table
from retinaflow.training import fit as fit_module
from retinaflow.training import job as job_module
from retinaflow.training.callbacks import OutOfTimeError
from retinaflow.training.checkpoints import Checkpoint
from retinaflow.training.fit import TrainingData, train
from retinaflow.training.history import HISTORY_COLUMNS
from retinaflow.training.job import train_job
from small import OUTPUTS, SETTINGS, STILL, THREE, planted, register, small_job, tiny, train_small, typed

# TensorFlow accepts a number of threads only until it has made its first tensor, also in other test files.
devices.prepare_process(seed=0, threads=1)


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch)


@pytest.fixture
def parts(make_part) -> tuple[Part, Part]:
    """Return 36 training images and 21 validation images. Neither number is a multiple of the batch size 8."""
    return make_part("train", *planted(36), classes=THREE), make_part("validation", *planted(21, seed=1), classes=THREE)


def fit(folder: Path, training: Part, validation: Part, seed: int = 1, on_out_of_memory: str = "error", **changes: Any):
    settings = typed(on_out_of_memory=on_out_of_memory, **changes)
    return train(
        settings.model_copy(update=devices.resolve(settings)),
        TrainingData(Images(*training, THREE), Images(*validation, THREE), THREE),
        checkpoint=Checkpoint(folder / "checkpoints", "key"),
        seed=seed,
    )


def evaluated(model: keras.Model, validation: Part, batch_size: int = 50) -> dict[str, float]:
    """Return loss and accuracy of all images by Keras, from plain arrays."""
    images = Images(*validation, THREE)
    plain = keras.Model(model.inputs, model.outputs)
    plain.compile(loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    pixels = np.stack([images[number] for number in range(len(images))])
    return plain.evaluate(pixels, images.grades, batch_size=batch_size, verbose=0, return_dict=True)


def test_training_improves_kappa_and_loss(tmp_path, parts):
    _, history, decided = fit(tmp_path, *parts, epochs=6)
    assert max(row["val_quadratic_weighted_kappa"] for row in history) > 0.8
    assert history[-1]["loss"] < history[0]["loss"] / 1.5
    assert [row["epoch"] for row in history] == [1, 2, 3, 4, 5, 6]
    assert all(tuple(row) == HISTORY_COLUMNS for row in history)
    assert all(math.isfinite(value) for row in history for column, value in row.items() if column != "phase")
    assert decided["epochs_run"] == 6
    assert decided["photographs"] == {"train": 36, "validation": 21}


@pytest.mark.parametrize(("objective", "kind"), [("softmax", "cutmix"), ("regression", "mixup")])
def test_training_with_mixed_images_improves_kappa(tmp_path, parts, objective, kind):
    _, history, _ = fit(tmp_path, *parts, epochs=6, objective=objective, augment={kind: 1.0})
    assert max(row["val_quadratic_weighted_kappa"] for row in history) > 0.8


@pytest.mark.parametrize("objective", ["regression", "ordinal"])
def test_models_of_each_objective_need_only_keras(tmp_path, parts, objective):
    folder = job(tmp_path / objective, parts, objective=objective, epochs=8, monitor="val_quadratic_weighted_kappa")
    record = json.loads((folder / "training_run.json").read_text())
    best = read_table(folder / "history.csv")[record["best_epoch"] - 1]
    assert float(best["val_quadratic_weighted_kappa"]) > 0.7
    images = Images(*parts[1], THREE)
    pixels = np.stack([images[number] for number in range(len(images))])
    outputs = keras.saving.load_model(folder / "model.keras", safe_mode=True).predict(pixels, verbose=0)
    predicted = objectives.argmax_grades(objective, outputs, 3)
    assert np.mean(predicted == images.grades) == pytest.approx(float(best["val_accuracy"]), abs=1e-6)
    if objective == "ordinal":
        assert (np.diff(outputs, axis=1) <= 0).all()


def test_only_training_labels_are_smoothed(tmp_path, parts):
    changes = {"epochs": 1, "learning_rate": 1e-9, "dropout": 0.0, "class_weights": "none", "batch_norm": "inference"}
    (_, (plain,), _), (model, (smoothed,), _) = (
        fit(tmp_path / str(share), *parts, label_smoothing=share, augment=STILL, **changes) for share in (0, 0.5)
    )
    assert smoothed["val_loss"] == pytest.approx(plain["val_loss"], rel=1e-4)
    assert smoothed["val_loss"] == pytest.approx(evaluated(model, parts[1])["loss"], rel=1e-4)
    assert smoothed["loss"] != pytest.approx(plain["loss"], rel=1e-3)


@pytest.mark.parametrize(
    ("monitor", "better"), [("val_loss", min), ("val_accuracy", max), ("val_quadratic_weighted_kappa", max)]
)
def test_model_has_the_weights_of_the_best_epoch(tmp_path, make_part, parts, monitor, better):
    """The last epoch is not the best, because the order of the validation labels is reversed.

    Equal metrics of plain pixels show that validation neither changes, repeats nor drops an image.
    """
    pixels, grades = planted(21, seed=1)
    opposed = make_part("opposed", pixels, [2 - grade for grade in grades], classes=THREE)
    model, history, decided = fit(
        tmp_path, parts[0], opposed, monitor=monitor, epochs=20, early_stopping_patience=4, learning_rate=0.003
    )
    values = [row[monitor] for row in history]
    best = values.index(better(values))
    assert decided["best_epoch"] == best + 1
    assert len(history) == best + 1 + 4 < 20
    metrics = evaluated(model, opposed)
    assert metrics["loss"] == pytest.approx(history[best]["val_loss"], rel=1e-4)
    assert metrics["accuracy"] == pytest.approx(history[best]["val_accuracy"], abs=1e-6)
    assert metrics["loss"] != pytest.approx(history[-1]["val_loss"], rel=1e-2)


def test_plateau_halves_the_learning_rate_then_stops_training(tmp_path, parts):
    """Steps are too small to change a weight, so no epoch is better than the first."""
    _, history, decided = fit(
        tmp_path,
        *parts,
        epochs=30,
        batch_norm="inference",
        monitor="val_accuracy",
        learning_rate=1e-12,
        minimum_learning_rate=3e-13,
        early_stopping_patience=10,
    )
    rates = [row["learning_rate"] for row in history]
    assert rates == pytest.approx([1e-12] * 4 + [5e-13] * 3 + [3e-13] * 4, rel=1e-6, abs=0)
    assert decided["best_epoch"] == 1


def test_class_weights_reach_the_loss(tmp_path, parts):
    """A grade with weight 0 is never predicted. The others are learned.

    The metric is accuracy, as the unweighted validation loss is lowest before the first step.
    """
    model, _, decided = fit(tmp_path, *parts, class_weights=[1, 1, 0], epochs=10, monitor="val_accuracy")
    images = Images(*parts[1], THREE)
    pixels = np.stack([images[number] for number in range(len(images))])
    predicted = model.predict(pixels, verbose=0).argmax(axis=1)
    assert set(predicted) == {0, 1}
    assert (predicted == images.grades)[images.grades < 2].mean() > 0.8
    assert decided["class_weights"] == {"none": 1.0, "mild": 1.0, "severe": 0.0}


@pytest.mark.parametrize("kind", ["none", "inverse", [1, 1, 1]])
def test_grade_without_images_is_an_error(tmp_path, make_part, parts, kind):
    pixels, grades = planted(12)
    without = make_part("without", pixels, [min(grade, 1) for grade in grades], classes=THREE)
    with pytest.raises(RetinaflowError, match=r"no image of severe\. Add some, or leave the grade out"):
        fit(tmp_path, without, parts[1], class_weights=kind)


def test_infinite_loss_is_an_error(tmp_path, parts):
    with pytest.raises(RetinaflowError, match=r"Tiny: the loss is no longer finite in epoch 1\. Lower learning_rate"):
        fit(tmp_path, *parts, class_weights=[1e38] * 3)


@pytest.mark.parametrize(("trained", "epoch"), [(True, 3), (False, 1)])
def test_infinite_loss_in_one_epoch_is_an_error(tmp_path, parts, monkeypatch, trained, epoch):
    """It is infinite in training after two good epochs, or in validation in the first epoch alone.

    To Keras, the first epoch is the best so far for any metrics, and no value is less than NaN.
    """
    read = Batches.__getitem__

    def weighted(batches: Batches, index: int) -> tuple[np.ndarray, ...]:
        pixels, targets = read(batches, index)
        infinite = batches.epoch == epoch - 1 and trained == (batches.seed is not None)
        return pixels, targets, np.full(len(targets), np.inf if infinite else 1.0, np.float32)

    monkeypatch.setattr(Batches, "__getitem__", weighted)
    with pytest.raises(RetinaflowError, match=f"no longer finite in epoch {epoch}"):
        fit(tmp_path, *parts, class_weights="none")


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="torch traces no step")
def test_training_step_is_traced_once(tmp_path, parts, monkeypatch):
    """JAX traces once for each batch size."""
    traced = []
    step = keras.Model.train_step
    monkeypatch.setattr(keras.Model, "train_step", lambda model, *data: traced.append(1) or step(model, *data))
    fit(tmp_path, *parts)
    assert len(traced) == (2 if keras.backend.backend() == "jax" else 1)


def job(
    folder: Path,
    parts: tuple[Part, Part],
    seed: int = 1,
    code: str = "",
    minutes: float | None = None,
    on_out_of_memory: str = "error",
    **changes: Any,
) -> Path:
    """Train in ``folder`` as the workflow does."""
    settings = typed(on_out_of_memory=on_out_of_memory, **changes)
    limits = {"start": time.monotonic(), "minutes": minutes, "gpus": ["GPU 3"]}
    train_job(small_job(folder, parts, settings, seed=seed, code=code, **limits))
    return folder


def checkpoints_of(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}-checkpoints")


def job_elsewhere(folder: Path, parts: tuple[Part, Part], seed: int) -> Path:
    """Run ``job`` in a new process."""
    with pytest.MonkeyPatch.context() as patch:
        register(patch)
        return job(folder, parts, seed)


def outcome(folder: Path) -> tuple[list[dict[str, str]], list[np.ndarray]]:
    """Return the history without seconds, and the weights, of a trained model."""
    history = [{**row, "seconds": ""} for row in read_table(folder / "history.csv")]
    return history, keras.saving.load_model(folder / "model.keras").get_weights()


def test_result_depends_only_on_the_seed(tmp_path, parts):
    """Results are equal to the last bit in every process."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        elsewhere = pool.submit(job_elsewhere, tmp_path / "elsewhere", parts, 1)
        here, another_seed = (outcome(job(tmp_path / str(seed), parts, seed)) for seed in (1, 2))
        history, weights = outcome(elsewhere.result())
    assert history == here[0]
    assert all(np.array_equal(a, b) for a, b in zip(weights, here[1], strict=True))
    assert history != another_seed[0]
    assert not np.array_equal(weights[0], another_seed[1][0])


def test_two_processes_cannot_train_the_same_run(tmp_path, parts):
    with lock(checkpoints_of(tmp_path / "run")), pytest.raises(RetinaflowError, match="another run is writing there"):
        job(tmp_path / "run", parts)
    job(tmp_path / "run", parts, epochs=1)


def test_job_writes_four_files_with_all_results(tmp_path, parts, caplog):
    with caplog.at_level(logging.INFO):
        folder = job(tmp_path / "models" / "Tiny", parts, seed=7, normalisation="dataset")
    assert {path.name for path in folder.iterdir() if path.name[0] != "."} == set(OUTPUTS)
    assert not checkpoints_of(folder).exists()
    assert json.loads((folder / "grade_names.json").read_text()) == {"none": 0, "mild": 1, "severe": 2}
    history = read_table(folder / "history.csv", HISTORY_COLUMNS)
    assert len(history) == 3

    record = json.loads((folder / "training_run.json").read_text())
    assert record["training_run"] == record["backbone"] == "Tiny"
    assert record["settings"] == {
        **SETTINGS,
        **{
            "normalisation": "dataset",
            "backbone": "Tiny",
            "repeat": 1,
            "weights": "imagenet",
            "backend": "tensorflow",
            "pooling": "mean",
        },
    }
    assert (record["seed"], record["batch_size"]) == (7, 8)
    assert record["grade_names"] == THREE
    assert record["digests"] == {
        "train_index": digest_files(parts[0][0]),
        "validation_index": digest_files(parts[1][0]),
        "weights": None,
    }
    assert record["environment"] == devices.describe_environment()
    # A job without a GPU computes on the CPU, even if it was given a GPU.
    assert record["computed"]["devices"] == (["GPU 3"] if devices.has_gpu() else ["CPU"])
    assert record["seconds"] == pytest.approx(sum(float(row["seconds"]) for row in history), abs=0.1)
    mean, _ = Images(*parts[0], THREE).channel_statistics()
    assert record["channel_statistics"][0] == pytest.approx(mean.tolist())
    losses = [float(row["val_loss"]) for row in history]
    assert record["best_epoch"] == losses.index(min(losses)) + 1

    model = keras.saving.load_model(folder / "model.keras", safe_mode=True)
    assert not model.compiled
    assert record["parameters"] == model.count_params()
    assert record["parameters"] - record["trainable_parameters"] == 2 * 16  # mean and variance of each filter
    assert evaluated(model, parts[1])["loss"] == pytest.approx(min(losses), rel=1e-4)
    lines = [message for message in caplog.messages if message.startswith("epoch ")]
    assert len(lines) == 3
    for epoch, line in enumerate(lines, start=1):
        assert re.match(rf"epoch {epoch}/3: [\d.]+ images/s, at most \d+ s left: .*val_loss [\d.e-]+", line)
    assert "at most 0 s left" in lines[-1]


def test_weights_file_is_recorded_by_its_digest(tmp_path, parts):
    path = tmp_path / "tiny.weights.h5"
    source = tiny(False, None, (32, 32, 3))
    source.save_weights(path)
    run = small_job(tmp_path / "run", parts, typed(freeze_layers="all", epochs=1), weights=path)
    train_job(run)
    assert json.loads(run.outputs.record.read_text())["digests"]["weights"] == digest_files([path])
    trained = keras.saving.load_model(run.outputs.model).get_layer("tiny").get_weights()
    for old, new in zip(source.get_weights(), trained, strict=True):
        assert np.array_equal(old, new)


class Killed(BaseException):
    """A kill. No part of the training may catch it."""


# Everything with a state: dropout, mixed images, a falling learning rate and early stopping.
LIVELY = {
    "augment": {"mixup": 0.4, "brightness": 0.1},
    "dropout": 0.5,
    "epochs": 12,
    "monitor": "val_accuracy",
    "reduce_lr_patience": 1,
    "early_stopping_patience": 4,
    "learning_rate": 0.003,
}


def cut_short(patch: pytest.MonkeyPatch, folder: Path, parts: tuple[Part, Part], after: int, **settings: Any) -> None:
    """Kill a job in the first step after it has saved ``after`` epochs."""
    train_step = keras.callbacks.CallbackList.on_train_batch_end
    saved = checkpoints_of(folder) / f"epoch-{after}.weights.h5"

    def kill(callbacks: keras.callbacks.CallbackList, batch: int, logs: dict[str, float] | None = None) -> None:
        if saved.exists():
            raise Killed
        train_step(callbacks, batch, logs)

    with patch.context() as only:
        only.setattr(keras.callbacks.CallbackList, "on_train_batch_end", kill)
        with pytest.raises(Killed):
            job(folder, parts, **settings)


def test_killed_training_resumes_with_equal_results(tmp_path, parts, monkeypatch, caplog):
    undisturbed = outcome(job(tmp_path / "undisturbed", parts, **LIVELY))
    rates = [float(row["learning_rate"]) for row in undisturbed[0]]
    assert len(set(rates)) > 2, "the learning rate falls"
    assert len(rates) < LIVELY["epochs"], "the training stops early"
    for epochs in range(1, len(rates)):
        cut_short(monkeypatch, tmp_path / "killed", parts, epochs, **LIVELY)
        assert len(list(checkpoints_of(tmp_path / "killed").glob("*.h5"))) <= 2
    with caplog.at_level(logging.INFO):
        history, weights = outcome(job(tmp_path / "killed", parts, **LIVELY))
    assert f"resuming after epoch {len(rates) - 1}" in caplog.messages
    assert history == undisturbed[0]
    assert all(np.array_equal(a, b) for a, b in zip(weights, undisturbed[1], strict=True))
    assert not checkpoints_of(tmp_path / "killed").exists()


# All methods together. The monitored metric is smoothed, so that the best epoch is neither the first nor the last.
EVERYTHING = {
    "feature_layers": ["first", "last"],
    "precision": "mixed_float16",
    "dropout": 0.5,
    "batch_norm": "inference",
    "class_weights": "effective_number",
    "balanced_sampling": 0.8,
    "balanced_epochs": 4,
    "head_epochs": 3,
    "head_learning_rate": 0.02,
    "epochs": 4,
    "warmup_epochs": 1,
    "schedule": "cosine",
    "layer_decay": 0.9,
    "optimizer": "adamw",
    "weight_decay": 0.05,
    "clip_norm": 1.0,
    "ema": 0.8,
    "monitor": "val_quadratic_weighted_kappa",
    "monitor_smoothing": 2,
}


def test_killed_training_with_all_methods_resumes_with_equal_results(tmp_path, parts, monkeypatch):
    undisturbed = outcome(job(tmp_path / "undisturbed", parts, **EVERYTHING))
    assert [row["phase"] for row in undisturbed[0]] == ["head"] * 3 + ["network"] * 4
    rates = [float(row["learning_rate"]) for row in undisturbed[0]]
    assert rates[:5] == pytest.approx([0.02] * 3 + [0.005, 0.01])
    assert rates[4:] == sorted(rates[4:], reverse=True)
    folder = tmp_path / "killed"
    cut_short(monkeypatch, folder, parts, 1, **EVERYTHING)
    saved = {path.name for path in checkpoints_of(folder).glob("*.npy")}
    assert saved == {f"{name}.array.npy" for name in ("validation", "view-1", "view-2", "view-3")}
    with monkeypatch.context() as patch:
        patch.setattr(keras.Model, "predict", None)  # features are not computed again
        for epochs in (3, 5):  # between head and network, and after
            cut_short(patch, folder, parts, epochs, **EVERYTHING)
        assert not list(checkpoints_of(folder).glob("*.npy"))
        history, weights = outcome(job(folder, parts, **EVERYTHING))
    assert history == undisturbed[0]
    assert all(np.array_equal(a, b) for a, b in zip(weights, undisturbed[1], strict=True))
    assert not checkpoints_of(folder).exists()


def test_time_limit_ends_a_job_between_feature_passes(tmp_path, parts):
    settings = {"batch_norm": "inference", "head_epochs": 2, "epochs": 1}
    for done, following in (("validation", "view-1"), ("view-1", "view-2")):
        message = rf"within the features of {following}, as one takes \d+ s\. The features so far are saved"
        with pytest.raises(OutOfTimeError, match=message):
            job(tmp_path / "limited", parts, minutes=1, **settings)
        assert (checkpoints_of(tmp_path / "limited") / f"{done}.array.npy").exists()


def test_features_of_the_head_have_mean_0_and_deviation_1(tmp_path, parts):
    settings = {"batch_norm": "inference", "freeze_layers": "all", "head_epochs": 1, "epochs": 2, "augment": STILL}
    trained, *_ = fit(tmp_path, *parts, feature_layers=["first", "last"], **settings)
    shown = keras.Model(trained.input, [trained.get_layer("pool").output, trained.get_layer("standardise").output])
    images = Images(*parts[0], THREE)
    plain, scaled = shown.predict(np.stack([images[number] for number in range(len(images))]), verbose=0)
    vary = plain.std(axis=0) > 0.02
    assert vary.sum() > 16, "the test would show nothing"
    np.testing.assert_allclose(scaled.mean(axis=0), 0, atol=1e-3)
    np.testing.assert_allclose(scaled[:, vary].std(axis=0), 1, rtol=0.02)
    assert not scaled[:, ~vary].std(axis=0).max(initial=0) > 1


def test_head_epochs_change_no_weight_of_the_backbone(tmp_path, parts):
    """The validation metrics are those of the whole model."""
    settings = {
        "batch_norm": "inference",
        "head_epochs": 6,
        "epochs": 1,
        "learning_rate": 1.0,
        "minimum_learning_rate": 0,
    }
    trained, history, decided = fit(tmp_path, *parts, **settings)
    assert decided["best_epoch"] <= 6, "the large step of the network phase makes the network worse"
    assert decided["epochs_run"] == 7
    best = history[decided["best_epoch"] - 1]
    assert evaluated(trained, parts[1])["loss"] == pytest.approx(best["val_loss"], rel=1e-4)
    assert best["val_loss"] < history[0]["val_loss"]
    devices.prepare_process(1, 1)
    fresh = build(typed(**settings), 3)
    for new, old in zip(trained.get_layer("tiny").get_weights(), fresh.get_layer("tiny").get_weights(), strict=True):
        assert np.array_equal(new, old)
    for name in ("dense_1", "probabilities"):
        assert not np.array_equal(trained.get_layer(name).get_weights()[0], fresh.get_layer(name).get_weights()[0])


def test_averaged_weights_are_validated_and_saved(tmp_path, parts):
    """The steps are so large that the weights themselves have a high loss."""
    settings = {"optimizer": "sgd", "learning_rate": 0.05, "epochs": 2, "ema": 0.9, "batch_norm": "inference"}
    model, history, decided = fit(tmp_path, *parts, **settings)
    best = history[decided["best_epoch"] - 1]
    assert evaluated(model, parts[1])["loss"] == pytest.approx(best["val_loss"], rel=1e-4)
    plain = fit(tmp_path / "plain", *parts, **{**settings, "ema": 0})[1]
    assert [row["loss"] for row in plain] == [row["loss"] for row in history], "training itself is the same"
    assert plain[0]["val_loss"] != history[0]["val_loss"]


def test_rare_grades_occur_more_often_in_the_first_epochs(tmp_path, parts, monkeypatch):
    shown: dict[tuple[int, int], np.ndarray] = {}  # Keras also reads the first batch before it starts.
    read = Batches.__getitem__

    def note(batches: Batches, index: int) -> tuple[np.ndarray, ...]:
        given = read(batches, index)
        if batches.seed is not None:
            shown[batches.epoch, index] = given[1].sum(axis=0)
        return given

    monkeypatch.setattr(Batches, "__getitem__", note)
    fit(tmp_path, *parts, balanced_sampling=1, balanced_epochs=2, class_weights="none")
    counts = [np.sum([shown[epoch, index] for index in range(5)], axis=0).tolist() for epoch in range(3)]
    assert counts == [[12, 12, 12], [15, 12, 9], [18, 12, 6]]


@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_resumes_and_saves_a_float32_model(tmp_path, parts, precision):
    changes = {"precision": precision, "epochs": 2}
    undisturbed = outcome(job(tmp_path / "undisturbed", parts, **changes))
    train_small(tmp_path / "limited", parts, minutes=1, **changes)  # less than the margin of the time limit
    history, weights = outcome(tmp_path / "limited")
    assert history == undisturbed[0]
    assert all(np.array_equal(a, b) for a, b in zip(weights, undisturbed[1], strict=True))
    record = json.loads((tmp_path / "limited/training_run.json").read_text())
    assert record["computed"]["precision"] == precision
    model = keras.saving.load_model(tmp_path / "limited/model.keras")
    assert {layer.compute_dtype for layer in model._flatten_layers()} <= {"float32", "uint8"}
    assert weights[0].dtype == np.float32
    best = history[record["best_epoch"] - 1]
    assert evaluated(model, parts[1])["loss"] == pytest.approx(float(best["val_loss"]), rel=0.02)
    # Full precision gives another loss.
    assert evaluated(model, parts[1])["loss"] != float(best["val_loss"])


def test_checkpoint_saves_the_scale_of_float16_losses(tmp_path):
    def fresh() -> keras.Model:
        model = build(typed(), 3, precision="mixed_float16")
        compile_model(model, typed(), 3, jit=False)
        return model

    model, other = fresh(), fresh()
    model.optimizer.dynamic_scale.assign(64.0)
    model.optimizer.step_counter.assign(17)
    row = dict.fromkeys(HISTORY_COLUMNS, 1.0)
    checkpoint = Checkpoint(tmp_path, "key")
    checkpoint.restart(8)
    checkpoint.save(model, [row], 1, finished=False)
    checkpoint.load(other, 1)
    assert (float(other.optimizer.dynamic_scale), int(other.optimizer.step_counter)) == (64.0, 17)


def test_killed_job_after_the_last_epoch_only_writes_files(tmp_path, parts, monkeypatch):
    undisturbed = outcome(job(tmp_path / "undisturbed", parts))

    def kill(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(job_module, "write_history", kill)
        with pytest.raises(Killed):
            job(tmp_path / "killed", parts)
    with monkeypatch.context() as patch:
        patch.setattr(keras.Model, "fit", None)
        history, weights = outcome(job(tmp_path / "killed", parts))
    assert history == undisturbed[0]
    assert all(np.array_equal(a, b) for a, b in zip(weights, undisturbed[1], strict=True))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("setting", "it is of other data, settings or code"),
        ("code", "it is of other data, settings or code"),
        ("pixels", "it is of other data, settings or code"),
        ("label", "it is of other data, settings or code"),
        ("damage", "is damaged"),
        ("state", "cannot be used"),
    ],
)
def test_checkpoint_of_other_data_settings_or_code_is_not_used(tmp_path, parts, monkeypatch, caplog, change, message):
    folder = tmp_path / "killed"
    cut_short(monkeypatch, folder, parts, 2)
    changes: dict[str, Any] = {}
    shard, index = parts[0][1][0][0], parts[0][0][0]
    if change == "setting":
        changes["learning_rate"] = 0.02
    elif change == "code":
        changes["code"] = "another"
    elif change == "pixels":
        np.save(shard, np.load(shard)[:, ::-1])
    elif change == "label":
        index.write_text(index.read_text().replace(",mild,1,", ",none,0,", 1))
        record_of(index).unlink()
    elif change == "damage":
        weights = checkpoints_of(folder) / "epoch-2.weights.h5"
        content = bytearray(weights.read_bytes())
        content[len(content) // 2] ^= 1
        weights.write_bytes(content)
    else:
        (checkpoints_of(folder) / "state.json").write_text("[]")
    with caplog.at_level(logging.INFO):
        after_change = outcome(job(folder, parts, **changes))
    assert message in caplog.text
    assert "resuming" not in caplog.text
    fresh = outcome(job(tmp_path / "fresh", parts, **changes))
    assert after_change[0] == fresh[0]
    assert all(np.array_equal(a, b) for a, b in zip(after_change[1], fresh[1], strict=True))


def test_time_limit_ends_a_job_between_epochs(tmp_path, parts):
    undisturbed = outcome(job(tmp_path / "undisturbed", parts))
    for epochs in (1, 2):
        message = rf"within epoch {epochs + 1}, as one takes \d+ s\. The {epochs} epochs so far are saved"
        with pytest.raises(OutOfTimeError, match=message):
            job(tmp_path / "limited", parts, minutes=1)  # less than the margin of the time limit
    assert outcome(job(tmp_path / "limited", parts, minutes=1))[0] == undisturbed[0]
    assert outcome(job(tmp_path / "enough", parts, minutes=60))[0] == undisturbed[0]


def memory_for(patch: pytest.MonkeyPatch, limit: int) -> None:
    """Let the device have no memory for batches of more than ``limit`` images."""
    plenty = fit_module._fit_phase

    def scarce(
        fit: fit_module.Fit, model: keras.Model, batches: tuple[Batches, Batches], *others: Any, **options: Any
    ) -> None:
        if batches[0].batch_size > limit:
            raise MemoryError
        plenty(fit, model, batches, *others, **options)

    patch.setattr(fit_module, "_fit_phase", scarce)


def test_out_of_memory_error_names_the_batch_size(tmp_path, parts, monkeypatch):
    memory_for(monkeypatch, 4)
    with pytest.raises(RetinaflowError) as error:
        fit(tmp_path, *parts)
    assert "Tiny: out of memory with batches of 8 images of 32 x 32 pixels. Lower batch_size" in str(error.value)


def test_out_of_memory_halves_the_batch_size_on_request(tmp_path, parts, monkeypatch, caplog):
    small = outcome(job(tmp_path / "small", parts, batch_size=2))
    memory_for(monkeypatch, 3)
    # The next run starts with the smaller batch size.
    cut_short(monkeypatch, tmp_path / "halved", parts, 1, on_out_of_memory="halve")
    caplog.set_level(logging.INFO)
    caplog.clear()
    halved = outcome(job(tmp_path / "halved", parts, on_out_of_memory="halve"))
    assert "resuming after epoch 1" in caplog.text
    assert "out of memory" not in caplog.text
    assert halved[0] == small[0]
    assert all(np.array_equal(a, b) for a, b in zip(halved[1], small[1], strict=True))
    assert json.loads((tmp_path / "halved/training_run.json").read_text())["batch_size"] == 2
    memory_for(monkeypatch, 0)
    with pytest.raises(RetinaflowError, match="batches of 1 images"):
        fit(tmp_path, *parts, on_out_of_memory="halve")


def test_batches_smaller_than_the_devices_are_not_tried(tmp_path, parts, monkeypatch):
    monkeypatch.setattr(devices, "parallel", lambda _: contextlib.nullcontext())
    memory_for(monkeypatch, 0)
    with pytest.raises(RetinaflowError, match="batches of 6 images"):
        fit(tmp_path, *parts, on_out_of_memory="halve", gpus=2, batch_size=12)


def shown_on_terminal(work: Callable[[], object]) -> str:
    """Return the text that ``work`` prints on a terminal as standard error. Linux buffers 4 kB of it."""
    leader, follower = pty.openpty()
    termios.tcsetwinsize(follower, (24, 80))
    with os.fdopen(leader, "rb") as reader, os.fdopen(follower, "w") as terminal:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "stderr", terminal)
            work()
        terminal.write("END")
        terminal.flush()
        shown = b""
        while not shown.endswith(b"END"):
            shown += reader.read1()
    return shown.decode()


def test_progress_has_step_speed_and_time_left(tmp_path, parts, caplog, monkeypatch):
    """The screen has step and time left of each batch. The log has a line each half minute, here for each batch."""
    minutes, tens = count(step=60), count(step=10)
    monkeypatch.setattr("retinaflow.training.callbacks.time", SimpleNamespace(monotonic=lambda: next(minutes)))
    monkeypatch.setattr("retinaflow.training.pace.time", SimpleNamespace(monotonic=lambda: next(tens)))
    with caplog.at_level(logging.INFO), caplog.at_level(logging.DEBUG, "retinaflow.progress"):
        shown = shown_on_terminal(lambda: fit(tmp_path, *parts, epochs=1))
    states = [record.progress for record in caplog.records if "step" in getattr(record, "progress", ())]
    assert [state["step"] for state in states] == ["epoch 1/1"] * 6
    # The first batch is not measured. The others need ten seconds. A validation image counts as a third of an image.
    left = [state["left"] for state in states]
    assert left[:2] == [None, None]
    work = 36 + len(Images(*parts[1], THREE)) / 3
    assert left[2:] == pytest.approx([10 / 8 * (work - done) for done in (16, 24, 32)] + [40 / 28 * (work - 36)])
    lines = [message for message in caplog.messages if "images/s" in message]
    assert re.match(r"8/36 images, 0\.1 images/s, 210 s left, loss [\d.]+$", lines[0])
    assert [line.split("/")[0] for line in lines[:-1]] == ["8", "16", "24", "32", "36"]

    plain = io.StringIO()
    monkeypatch.setattr(sys, "stderr", plain)
    fit(tmp_path, *parts, epochs=1)
    for text in (shown, plain.getvalue()):
        assert "epoch" not in text
