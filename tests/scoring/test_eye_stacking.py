"""Eye stacking uses both eyes and all features, and never the label of a held-out patient."""

from pathlib import Path

import numpy as np
import pytest

from retinaflow.errors import RetinaflowError
from retinaflow.networks import objectives
from retinaflow.scoring.eye_stacking import (
    EyeStacking,
    RunFiles,
    StackingInputs,
    StackingModels,
    cross_fit_stacking,
    stack_eyes,
)
from retinaflow.scoring.eyes import both_eyes
from retinaflow.scoring.linear_model import read_linear_model
from retinaflow.scoring.raw_outputs import RawOutputs, read_raw_outputs, write_raw_outputs
from retinaflow.storage.tables import write_table


def planted(patients: int, seed: int = 0) -> tuple[StackingInputs, np.ndarray]:
    """Return both eyes of ``patients`` with equal grades. Severities are noisy; one feature has half as much noise."""
    rng = np.random.default_rng(seed)
    grades = np.repeat(rng.integers(0, 5, patients), 2)
    severity = 0.5 * grades + 1 + rng.normal(size=2 * patients)
    features = np.concatenate(
        [(grades + rng.normal(size=2 * patients))[:, np.newaxis], rng.normal(size=(2 * patients, 19))], axis=1
    )
    names = [str(seed) + "-" + str(number // 2) for number in range(2 * patients)]
    return StackingInputs(names, ["left", "right"] * patients, severity, features), grades


def models(folder: Path, count: int) -> StackingModels:
    """Files of the stackings of ``count`` folds."""
    source = {
        **{"network": "VGG16", "backbone": "VGG16", "weights": "imagenet", "digest": None, "feature_layers": []},
        **{"variant": "224-trim-keep-none", "views": 1, "severity": True, "deviations": True},
    }
    return StackingModels(
        model="VGG16+eye_stacking",
        network="VGG16",
        inputs=[{**source, "training_run": f"VGG16/fold-{number + 1}"} for number in range(count)],
        grade_names=list("abcde"),
        files=[folder / f"fold-{number + 1}.npz" for number in range(count)],
    )


def error(severity: np.ndarray, grades: np.ndarray) -> float:
    return float(np.mean((severity - grades) ** 2))


def test_stacking_uses_the_fellow_eye_and_the_features() -> None:
    (training, known), (new, grades) = planted(400), planted(4000, 1)
    stacked = error(EyeStacking(training, known, 1).severity(new), grades)
    alone = new._replace(eyes=[""] * 8000)
    one_eye = error(EyeStacking(training._replace(eyes=[""] * 800), known, 1).severity(alone), grades)
    without = [inputs._replace(features=inputs.features[:, 1:]) for inputs in (training, new)]
    no_features = error(EyeStacking(without[0], known, 1).severity(without[1]), grades)
    # Mean squared errors of the best linear predictions: grades have variance 2, the two errors 4 and 1.
    assert stacked == pytest.approx(1 / (1 / 2 + 2 * (1 / 4 + 1)), rel=0.15)
    assert one_eye == pytest.approx(1 / (1 / 2 + 1 / 4 + 1), rel=0.15)
    assert no_features == pytest.approx(1 / (1 / 2 + 2 / 4), rel=0.15)


def test_features_of_noise_do_no_harm() -> None:
    (training, known), (new, grades) = planted(60), planted(200, 1)
    rng = np.random.default_rng(3)
    noise = [inputs._replace(features=rng.normal(size=(len(inputs.severity), 400))) for inputs in (training, new)]
    none = [inputs._replace(features=rng.normal(size=(len(inputs.severity), 1))) for inputs in (training, new)]
    with_noise, with_none = (
        error(EyeStacking(first, known, 1).severity(second), grades) for first, second in (noise, none)
    )
    assert with_noise < 1.1 * with_none


def test_cross_fit_does_not_use_labels_of_the_patient() -> None:
    training, known = planted(100)
    # The features name the patient, whose other label would give this one away.
    named = training._replace(
        severity=np.zeros(200), features=np.repeat(np.random.default_rng(0).normal(size=(100, 150)), 2, axis=0)
    )
    assert abs(np.corrcoef(cross_fit_stacking(named, known, 1), known)[0, 1]) < 0.3
    assert error(EyeStacking(named, known, 1).severity(named), known) < error(
        cross_fit_stacking(named, known, 1), known
    )


def test_permuted_labels_are_not_learned() -> None:
    training, known = planted(100)
    permuted = np.repeat(np.random.default_rng(0).permutation(known[::2]), 2)
    assert abs(np.corrcoef(cross_fit_stacking(training, permuted, 1), permuted)[0, 1]) < 0.3
    assert np.corrcoef(cross_fit_stacking(training, known, 1), known)[0, 1] > 0.7


def test_image_without_fellow_eye_has_a_severity() -> None:
    (training, known), (new, _) = planted(100), planted(3, 1)
    half = StackingInputs(new.patients[::2], new.eyes[::2], new.severity[::2], new.features[::2])
    severity = EyeStacking(training, known, 1).severity(half)
    assert severity.shape == (3,)
    assert np.isfinite(severity).all()


def test_images_of_one_patient_are_an_error() -> None:
    one, known = planted(1)
    with pytest.raises(RetinaflowError, match="found 1 patients"):
        cross_fit_stacking(one, known, 1)


def write(folder: Path, inputs: StackingInputs, grades: np.ndarray) -> RunFiles:
    """Write features, and raw outputs of a network with ordinal outputs, whose sum is the severity."""
    folder.mkdir(parents=True)
    files = RunFiles(folder / "raw_outputs.csv", folder / "features.npy", folder / "features.csv")
    images = [f"{patient}_{eye}" for patient, eye in zip(inputs.patients, inputs.eyes, strict=True)]
    outputs = np.repeat(np.clip(inputs.severity, 0, 4)[:, np.newaxis] / 4, 4, axis=1)
    write_raw_outputs(files.raw_outputs, RawOutputs(images, images, inputs.patients, inputs.eyes, grades, outputs))
    np.save(files.features, inputs.features.astype(np.float16))
    write_table(files.rows, ("image", "digest"), ({"image": image, "digest": ""} for image in images))
    return files


def read(files: RunFiles) -> tuple[StackingInputs, np.ndarray]:
    raw = read_raw_outputs(files.raw_outputs, "ordinal", grade_count=5)
    severity = objectives.severity("ordinal", raw.outputs, 5)
    return StackingInputs(raw.patients, raw.eyes, severity, np.load(files.features)), raw.grades


def test_folds_are_joined_and_averaged(tmp_path: Path) -> None:
    folds = [write(tmp_path / f"validation{number}", *planted(30, number)) for number in (1, 2)]
    tests = [write(tmp_path / f"test{number}", *planted(10, 3)) for number in (1, 2)]
    outputs = {"validation": tmp_path / "out-of-fold.csv", "test": tmp_path / "test.csv"}
    runs = {"validation": folds, "test": tests}
    stack_eyes(runs, outputs, objective="ordinal", models=models(tmp_path, 2), seed=1)
    held_out, new = (read_raw_outputs(path, "regression", grade_count=5) for path in outputs.values())
    expected = np.concatenate([cross_fit_stacking(*read(files), 1) for files in folds])
    np.testing.assert_allclose(held_out.outputs[:, 0], expected, rtol=1e-7)
    assert held_out.patients == [*read(folds[0])[0].patients, *read(folds[1])[0].patients]
    expected = np.mean([EyeStacking(*read(files), 1).severity(read(tests[0])[0]) for files in folds], axis=0)
    np.testing.assert_allclose(new.outputs[:, 0], expected, rtol=1e-7)
    # The files predict the same.
    inputs, _ = read(tests[0])
    values = both_eyes(np.column_stack([inputs.severity, inputs.features]), inputs.patients, inputs.eyes)
    saved = [read_linear_model(tmp_path / f"fold-{number}.npz") for number in (1, 2)]
    np.testing.assert_allclose(np.mean([one.predict(values) for one in saved], axis=0), expected, atol=1e-4)
    assert saved[1].record["fallback"] == "VGG16"
    assert saved[1].record["inputs"][0]["training_run"] == "VGG16/fold-2"


def test_labels_of_the_test_set_are_not_used(tmp_path: Path) -> None:
    stacked = []
    for name in ("one", "other"):
        new, grades = planted(10, 3)
        files = (
            write(tmp_path / name / "validation", *planted(30)),
            write(tmp_path / name / "test", new, grades if name == "one" else 4 - grades),
        )
        written = {"validation": tmp_path / name / "validation.csv", "test": tmp_path / name / "test.csv"}
        runs = {"validation": [files[0]], "test": [files[1]]}
        stack_eyes(runs, written, objective="ordinal", models=models(tmp_path / name, 1), seed=1)
        stacked.append(read_raw_outputs(written["test"], "regression", grade_count=5).outputs)
    np.testing.assert_array_equal(*stacked)


def test_features_of_other_images_are_an_error(tmp_path: Path) -> None:
    own = write(tmp_path / "one", *planted(30))
    other = write(tmp_path / "other", *planted(30, 1))
    runs = {"validation": [other._replace(raw_outputs=own.raw_outputs)]}
    with pytest.raises(RetinaflowError, match=r"features\.npy: 60 images, expected the 60 of .* in their order"):
        stack_eyes(
            runs, {"validation": tmp_path / "stacked.csv"}, objective="ordinal", models=models(tmp_path, 1), seed=1
        )
