"""Heat maps lie where the cause of an answer is known to lie."""

from pathlib import Path

import cv2
import keras
import numpy as np
import pytest

import small
from common import CLASSES
from retinaflow.networks.building import build
from retinaflow.serving.explain import EXPLAIN_COLUMNS, RIGHT, WRONG, ExplainJob, chosen, explain, overlay, relevance
from retinaflow.storage.tables import read_table, write_table

pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="explains with TensorFlow")

SIZE = 32
PIXELS = np.random.default_rng(0).integers(60, 200, (6, SIZE, SIZE, 3), dtype=np.uint8)


def of_a_corner(objective: str, layers: int) -> keras.Model:
    """Answers by the brightness of the upper left quarter alone, at one or several resolutions."""
    pixels = keras.Input((SIZE, SIZE, 3), dtype="uint8")
    x = keras.layers.Rescaling(1 / 255)(pixels)
    mask = np.zeros((1, SIZE, SIZE, 1), np.float32)
    mask[:, : SIZE // 2, : SIZE // 2] = 1
    maps = [keras.layers.AveragePooling2D(2**number)(x * mask) for number in range(1, layers + 1)]
    means = [
        keras.layers.GlobalAveragePooling2D(name=f"pool_{n}" if layers > 1 else "pool")(one)
        for n, one in enumerate(maps)
    ]
    features = keras.layers.Concatenate(name="pool")(means) if layers > 1 else means[0]
    if objective == "softmax":
        bright = np.tile([[-3.0, 3.0]], (3 * layers, 1))
        head = keras.layers.Dense(2, activation="softmax", kernel_initializer=keras.initializers.Constant(bright))
    else:
        head = keras.layers.Dense(1, kernel_initializer="ones")
    return keras.Model(pixels, head(features))


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("objective", ["softmax", "regression"])
def test_heat_map_of_a_corner_lies_in_the_corner(objective: str, layers: int) -> None:
    shares = relevance(of_a_corner(objective, layers), PIXELS, objective, np.ones(len(PIXELS), np.int64))
    assert shares.shape == (len(PIXELS), SIZE, SIZE)
    assert np.allclose(shares.max(axis=(1, 2)), 1)
    inside = shares[:, : SIZE // 2, : SIZE // 2].sum(axis=(1, 2))
    # Interpolation blurs the edge by half a cell, 8 pixels at most.
    assert (inside > 0.8 * shares.sum(axis=(1, 2))).all()
    assert not shares[:, SIZE // 2 + 8 :].any()
    assert not shares[:, :, SIZE // 2 + 8 :].any()


@pytest.mark.parametrize("objective", ["softmax", "regression"])
def test_heat_map_without_support_is_zero(objective: str) -> None:
    """Brightness supports grade 1 only."""
    assert not relevance(of_a_corner(objective, 1), PIXELS, objective, np.zeros(len(PIXELS), np.int64)).any()


@pytest.mark.parametrize("layers", [[], ["first"], ["first", "last"]])
@pytest.mark.parametrize(("objective", "head_epochs"), [("softmax", 1), ("ordinal", 0)])
def test_models_of_this_workflow_are_explained(
    monkeypatch: pytest.MonkeyPatch, objective: str, head_epochs: int, layers: list[str]
) -> None:
    small.register(monkeypatch)
    settings = {**small.SETTINGS, "objective": objective, "head_epochs": head_epochs, "feature_layers": layers}
    keras.utils.set_random_seed(1)
    model = build(small.typed(**settings), 3)
    shares = relevance(model, PIXELS, objective, np.array([0, 1, 2, 0, 1, 2]))
    assert shares.shape == (len(PIXELS), SIZE, SIZE)
    assert shares.min() >= 0
    assert shares.max() == 1


def test_overlay_keeps_irrelevant_pixels() -> None:
    shares = np.zeros((SIZE, SIZE))
    shares[:4] = 1
    shown = overlay(PIXELS[0], shares)
    assert shown.dtype == np.uint8
    grey = cv2.cvtColor(PIXELS[0], cv2.COLOR_RGB2GRAY)[..., np.newaxis]
    assert (shown[4:] == grey[4:]).all()
    assert (shown[:4] != grey[:4]).any(axis=2).all()


def predictions(path: Path) -> None:
    """Image n of a grade is right for even n; a larger n is more probable. No image has grade 4."""
    rows = [
        {
            "filename": f"{level}-{n}.png",
            "grade_name": CLASSES[level],
            "predicted_grade_name": CLASSES[level if n % 2 == 0 else level + 1],
            **{f"probability_{name}": 0.5 + n / 20 for name in CLASSES},
        }
        for level in range(4)
        for n in range(8)
    ]
    write_table(path, rows[0], rows)


def test_most_probable_answers_of_each_grade_are_chosen(tmp_path: Path) -> None:
    predictions(tmp_path / "p.csv")
    names = [one.row["filename"] for one in chosen(tmp_path / "p.csv", CLASSES)]
    assert names == [f"{level}-{n}.png" for level in range(4) for n in (6, 4, 7, 5)]
    assert RIGHT == WRONG == 2


def test_explanation_is_a_figure_and_a_table(tmp_path: Path, make_part) -> None:
    predictions(tmp_path / "p.csv")
    images = {f"{level}-{n}.png": f"part{8 * level + n}_left" for level in range(4) for n in range(8)}
    pixels = np.random.default_rng(1).integers(0, 255, (32, SIZE, SIZE, 3), dtype=np.uint8)
    _, shards = make_part("part", pixels, [0] * 32)
    figure, table = tmp_path / "e.png", tmp_path / "e.csv"
    model = of_a_corner("regression", 1)
    explain(ExplainJob("Tiny", model, "regression", tmp_path / "p.csv", images, shards, CLASSES, figure, table))
    assert figure.read_bytes().startswith(b"\x89PNG")
    rows = read_table(table, EXPLAIN_COLUMNS)
    assert [row["image"] for row in rows] == [f"part{8 * level + n}_left" for level in range(4) for n in (6, 4, 7, 5)]
    assert [row["right"] for row in rows] == ["1", "1", "0", "0"] * 4
