"""Linear models: their predictions, their files, and damaged files."""

import subprocess
import sys

import numpy as np
import pytest

from retinaflow.errors import RetinaflowError
from retinaflow.scoring.linear_model import LinearModel, join_eyes, read_linear_model, write_linear_model

INPUT = {
    "network": "InceptionV3",
    "training_run": None,
    "backbone": "InceptionV3",
    "weights": "imagenet",
    "digest": "0" * 32,
    "variant": "299-trim-keep-none",
    "feature_layers": ["mixed2"],
    "views": 1,
    "severity": False,
    "deviations": False,
    "values": 3,
}
RECORD = {
    "model": "ridge",
    "kind": "linear",
    "objective": "regression",
    "grade_names": ["none", "mild"],
    "eyes": "both",
    "fallback": "ridge+one_eye",
    "inputs": [INPUT],
    "strength": 10.0,
    "images": 4,
    "patients": 2,
    "seed": 1,
    "packages": {"numpy": "2"},
    "digests": {},
}


def model(**changes):
    return LinearModel(np.arange(7.0), 0.5, {**RECORD, **changes})


def test_prediction_is_weighted_sum_of_both_eyes():
    own = np.array([[1, 0, 0], [0, 1, 0]])
    joined = join_eyes(own, own[::-1], np.array([True, False]))
    # Weights 0 to 2 are of the own eye, 3 to 5 of the fellow eye, 6 of its presence.
    assert model().predict(joined).tolist() == [0 + 4 + 6 + 0.5, 1 + 4 + 0.5]
    assert model().values == 3


def test_prediction_refuses_other_widths():
    with pytest.raises(RetinaflowError, match=r"ridge: found features of shape \(2, 3\), expected \(n, 7\)"):
        model().predict(np.zeros((2, 3)))


def test_file_reads_back_and_has_equal_bytes(tmp_path):
    for name in ("a.npz", "b.npz"):
        write_linear_model(tmp_path / name, model())
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    found = read_linear_model(tmp_path / "a.npz")
    assert found.record == RECORD
    assert found.intercept == 0.5
    np.testing.assert_array_equal(found.weights, np.arange(7.0))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.npz", "b.npz"]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"weights": np.zeros(7)}, "expected a NumPy archive of weights, intercept, record"),
        ({"weights": np.zeros(7), "intercept": np.zeros(()), "record": np.zeros(3, np.uint8)}, "cannot be read"),
        ({"weights": np.array([{}]), "intercept": np.zeros(()), "record": np.zeros(3, np.uint8)}, "cannot be read"),
    ],
)
def test_other_archives_are_refused(tmp_path, arrays, message):
    np.savez(tmp_path / "linear.npz", **arrays)
    with pytest.raises(RetinaflowError, match=message) as error:
        read_linear_model(tmp_path / "linear.npz")
    assert str(tmp_path / "linear.npz") in str(error.value)


def test_damaged_files_are_refused(tmp_path):
    file = tmp_path / "linear.npz"
    write_linear_model(file, model())
    whole = file.read_bytes()
    for content in (b"", whole[:200], whole[:-30], b"no archive"):
        file.write_bytes(content)
        with pytest.raises(RetinaflowError, match="cannot be read as a linear model"):
            read_linear_model(file)
    with pytest.raises(RetinaflowError, match="cannot be read as a linear model"):
        read_linear_model(tmp_path / "missing.npz")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (model(kind="tree"), "record: kind: 'tree' is not one of"),
        (model(eyes="one"), r"weights of shape \(7,\), expected \(3,\)"),
        (LinearModel(np.full(7, np.nan), 0.0, RECORD), "a weight is not finite"),
    ],
)
def test_impossible_models_are_never_written(tmp_path, changed, message):
    with pytest.raises(ValueError, match=message):
        write_linear_model(tmp_path / "linear.npz", changed)
    assert list(tmp_path.iterdir()) == []


def test_import_needs_no_heavy_package():
    code = (
        "import sys; from retinaflow.scoring import linear_model; "
        "print([name for name in ('pandas', 'sklearn', 'scipy', 'keras', 'tensorflow') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
