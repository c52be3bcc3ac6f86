"""What networks make of both eyes, put together: as much as there is to be had, and nothing of who is held out."""

from pathlib import Path

import numpy as np
import pytest

from retinaflow.errors import RetinaflowError
from retinaflow.networks import objectives
from retinaflow.scoring.eye_stacking import Fusion, Seen, cross_fused, fuse
from retinaflow.scoring.raw_outputs import Outputs, read_outputs, write_outputs
from retinaflow.storage.tables import write_table


def seen(patients: int, seed: int = 0) -> tuple[Seen, np.ndarray]:
    """Both eyes of ``patients``, of one level each; severities with much noise, and a feature that has half as much."""
    rng = np.random.default_rng(seed)
    levels = np.repeat(rng.integers(0, 5, patients), 2)
    severity = 0.5 * levels + 1 + rng.normal(size=2 * patients)
    features = np.concatenate(
        [(levels + rng.normal(size=2 * patients))[:, np.newaxis], rng.normal(size=(2 * patients, 19))], axis=1
    )
    names = [str(seed) + "-" + str(number // 2) for number in range(2 * patients)]
    return Seen(names, ["left", "right"] * patients, severity, features), levels


def error(severity: np.ndarray, levels: np.ndarray) -> float:
    return float(np.mean((severity - levels) ** 2))


def test_fusion_uses_the_fellow_eye_and_the_features() -> None:
    (training, known), (new, levels) = seen(400), seen(4000, 1)
    fused = error(Fusion(training, known, 1).severity(new), levels)
    alone = new._replace(eyes=[""] * 8000)
    one_eye = error(Fusion(training._replace(eyes=[""] * 800), known, 1).severity(alone), levels)
    without = [part._replace(features=part.features[:, 1:]) for part in (training, new)]
    no_features = error(Fusion(without[0], known, 1).severity(without[1]), levels)
    # Best linear answers to two errors of variance 4 and of variance 1, of one eye or of two, where levels vary by 2.
    assert fused == pytest.approx(1 / (1 / 2 + 2 * (1 / 4 + 1)), rel=0.15)
    assert one_eye == pytest.approx(1 / (1 / 2 + 1 / 4 + 1), rel=0.15)
    assert no_features == pytest.approx(1 / (1 / 2 + 2 / 4), rel=0.15)


def test_features_that_say_nothing_do_no_harm() -> None:
    (training, known), (new, levels) = seen(60), seen(200, 1)
    rng = np.random.default_rng(3)
    noise = [part._replace(features=rng.normal(size=(len(part.severity), 400))) for part in (training, new)]
    none = [part._replace(features=rng.normal(size=(len(part.severity), 1))) for part in (training, new)]
    with_noise, with_none = (error(Fusion(first, known, 1).severity(second), levels) for first, second in (noise, none))
    assert with_noise < 1.1 * with_none


def test_cross_fused_knows_no_label_of_the_patient() -> None:
    training, known = seen(100)
    # A feature that names the patient: whoever has seen the other eye's label knows this one's.
    named = training._replace(
        severity=np.zeros(200), features=np.repeat(np.random.default_rng(0).normal(size=(100, 150)), 2, axis=0)
    )
    assert abs(np.corrcoef(cross_fused(named, known, 1), known)[0, 1]) < 0.3
    assert error(Fusion(named, known, 1).severity(named), known) < error(cross_fused(named, known, 1), known)


def test_permuted_labels_are_not_learned() -> None:
    training, known = seen(100)
    permuted = np.repeat(np.random.default_rng(0).permutation(known[::2]), 2)
    assert abs(np.corrcoef(cross_fused(training, permuted, 1), permuted)[0, 1]) < 0.3
    assert np.corrcoef(cross_fused(training, known, 1), known)[0, 1] > 0.7


def test_a_photograph_without_its_fellow_is_graded_by_itself() -> None:
    (training, known), (new, _) = seen(100), seen(3, 1)
    half = Seen(new.patients[::2], new.eyes[::2], new.severity[::2], new.features[::2])
    severity = Fusion(training, known, 1).severity(half)
    assert severity.shape == (3,)
    assert np.isfinite(severity).all()


def test_fusion_of_one_patient_is_refused() -> None:
    one, known = seen(1)
    with pytest.raises(RetinaflowError, match="found 1 patients"):
        cross_fused(one, known, 1)


def write(folder: Path, made: Seen, levels: np.ndarray) -> tuple[Path, Path, Path]:
    """Outputs and features of a network with ordinal outputs, whose sum is the severity, in an order of their own."""
    folder.mkdir(parents=True)
    files = folder / "raw_outputs.csv", folder / "features.npy", folder / "features.csv"
    images = [f"{patient}_{eye}" for patient, eye in zip(made.patients, made.eyes, strict=True)]
    outputs = np.repeat(np.clip(made.severity, 0, 4)[:, np.newaxis] / 4, 4, axis=1)
    write_outputs(files[0], Outputs(images, images, made.patients, made.eyes, levels, outputs))
    np.save(files[1], made.features.astype(np.float16))
    write_table(files[2], ("image", "digest"), ({"image": image, "digest": ""} for image in images))
    return files


def read(files: tuple[Path, Path, Path]) -> tuple[Seen, np.ndarray]:
    said = read_outputs(files[0], "ordinal", 5)
    severity = objectives.severity("ordinal", said.outputs, 5)
    return Seen(said.patients, said.eyes, severity, np.load(files[1])), said.grades


def test_folds_are_put_together_and_averaged(tmp_path: Path) -> None:
    folds = [write(tmp_path / f"validation{number}", *seen(30, number)) for number in (1, 2)]
    tests = [write(tmp_path / f"test{number}", *seen(10, 3)) for number in (1, 2)]
    fused = {"validation": tmp_path / "out-of-fold.csv", "test": tmp_path / "test.csv"}
    fuse({"validation": folds, "test": tests}, "ordinal", 5, 1, fused)
    held_out, new = (read_outputs(path, "regression", 5) for path in fused.values())
    expected = np.concatenate([cross_fused(*read(files), 1) for files in folds])
    np.testing.assert_allclose(held_out.outputs[:, 0], expected, rtol=1e-7)
    assert held_out.patients == [*read(folds[0])[0].patients, *read(folds[1])[0].patients]
    expected = np.mean([Fusion(*read(files), 1).severity(read(tests[0])[0]) for files in folds], axis=0)
    np.testing.assert_allclose(new.outputs[:, 0], expected, rtol=1e-7)


def test_the_labels_of_the_test_set_are_of_no_account(tmp_path: Path) -> None:
    fused = []
    for name in ("one", "other"):
        new, levels = seen(10, 3)
        files = (
            write(tmp_path / name / "validation", *seen(30)),
            write(tmp_path / name / "test", new, levels if name == "one" else 4 - levels),
        )
        written = {"validation": tmp_path / name / "validation.csv", "test": tmp_path / name / "test.csv"}
        fuse({"validation": [files[0]], "test": [files[1]]}, "ordinal", 5, 1, written)
        fused.append(read_outputs(written["test"], "regression", 5).outputs)
    np.testing.assert_array_equal(*fused)


def test_features_of_other_photographs_are_refused(tmp_path: Path) -> None:
    outputs, _, _ = write(tmp_path / "one", *seen(30))
    _, features, rows = write(tmp_path / "other", *seen(30, 1))
    with pytest.raises(RetinaflowError, match=r"features\.npy: 60 photographs, expected the 60 of .* in their order"):
        fuse({"validation": [(outputs, features, rows)]}, "ordinal", 5, 1, {"validation": tmp_path / "fused.csv"})
