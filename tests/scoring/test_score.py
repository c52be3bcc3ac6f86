from pathlib import Path

import keras
import numpy as np
import pytest

from common import CLASSES
from retinaflow.errors import RetinaflowError
from retinaflow.networks import devices
from retinaflow.preprocessing.batches import Images
from retinaflow.scoring.score import BATCH, load_model, predict, predict_views

# TensorFlow takes a number of threads only until it has made its first tensor, which other test files do, too.
devices.prepare(seed=0, threads=1)


def grader(classes: int = 5) -> keras.Model:
    """A model whose answers differ from photograph to photograph."""
    keras.utils.set_random_seed(1)
    pixels = keras.Input((8, 8, 3), dtype="uint8")
    x = keras.layers.Flatten()(keras.layers.Rescaling(1 / 127.5, offset=-1)(pixels))
    return keras.Model(pixels, keras.layers.Dense(classes, activation="softmax")(x))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    grader().save(tmp_path / "model.keras")
    return tmp_path / "model.keras"


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("number", [1, BATCH, 2 * BATCH + 6])
def test_each_photograph_gets_its_own_answer(make_part, saved, shards, number):
    pixels = np.random.default_rng(0).integers(0, 256, (number, 8, 8, 3), dtype=np.uint8)
    photographs = Images(*make_part("test", pixels, [0] * number, shards), CLASSES)
    model = load_model(saved, CLASSES, seed=0, threads=1)
    probabilities = predict(model, photographs, threads=3)
    assert probabilities.dtype == np.float64
    assert probabilities.shape == (number, 5)
    assert probabilities.sum(axis=1) == pytest.approx(np.ones(number), abs=1e-12)
    assert len(np.unique(probabilities, axis=0)) == number
    for image, row in zip(photographs.names, probabilities, strict=True):
        place = int(image.removeprefix("test").removesuffix("_left"))
        assert row == pytest.approx(grader().predict_on_batch(pixels[place : place + 1])[0], abs=1e-5)


def left_sum() -> keras.Model:
    """Answers with the brightness of the left half, and what is missing to 1."""
    pixels = keras.Input((8, 8, 3), dtype="uint8")
    left = keras.layers.Cropping2D(((0, 0), (0, 4)))(keras.layers.Rescaling(1 / 255)(pixels))
    share = keras.layers.Reshape((1,))(keras.ops.mean(left, axis=(1, 2, 3)))
    return keras.Model(pixels, keras.layers.Concatenate()([share, 1 - share]))


def test_outputs_are_averaged_over_views(make_part):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)
    photographs = Images(*make_part("test", pixels, [0] * 40), CLASSES)
    pixels = np.stack([photographs[number] for number in range(40)]) / 255
    left, whole = pixels[:, :, :4].mean(axis=(1, 2, 3)), pixels.mean(axis=(1, 2, 3))
    model = left_sum()
    one, single = predict_views(model, photographs, 2, "softmax", 1)
    assert single is None
    assert one[:, 0] == pytest.approx(left, abs=1e-6)
    # Mirrored, the right half is the left one.
    for views in (2, 8):
        both, single = predict_views(model, photographs, 2, "softmax", views)
        assert both[:, 0] == pytest.approx(whole, abs=1e-6)
        assert both.sum(axis=1) == pytest.approx(np.ones(40), abs=1e-12)
        assert np.array_equal(single, one)
    assert np.abs(left - whole).max() > 0.01


def test_a_model_that_heeds_no_direction_gives_the_same_from_every_view(make_part):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
    photographs = Images(*make_part("test", pixels, [0] * 5), CLASSES)
    inputs = keras.Input((8, 8, 3), dtype="uint8")
    colours = keras.layers.GlobalAveragePooling2D()(keras.layers.Rescaling(1 / 127.5, offset=-1)(inputs))
    model = keras.Model(inputs, keras.layers.Dense(5, activation="softmax")(colours))
    mean, single = predict_views(model, photographs, 1, "softmax", 8)
    assert mean == pytest.approx(single, abs=1e-6)
    assert len(np.unique(single, axis=0)) == 5


def test_half_precision_still_sums_to_one(make_part):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)
    photographs = Images(*make_part("test", pixels, [0] * 40), CLASSES)
    model = grader()
    half = keras.Model(model.inputs, keras.ops.cast(model.output, "float16"))
    assert predict(half, photographs, threads=1).sum(axis=1) == pytest.approx(np.ones(40), abs=1e-12)


@pytest.mark.parametrize("left", [0, 1, 20, 1000, -1000, -20, -1])
def test_a_truncated_model_is_refused(saved, left):
    saved.write_bytes(saved.read_bytes()[:left])
    with pytest.raises(RetinaflowError, match=r"model\.keras: Keras cannot load this model safely .*Delete the model"):
        load_model(saved, CLASSES, seed=0, threads=1)


@pytest.mark.parametrize(
    "content", [b"", b"<html>404 not found</html>", b"PK\x03\x04", b"\x89HDF\r\n\x1a\n" + bytes(90)]
)
@pytest.mark.parametrize("name", ["model.keras", "model.h5"])
def test_what_is_no_model_is_refused(tmp_path, content, name):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(RetinaflowError, match="Keras cannot load this model safely"):
        load_model(tmp_path / name, CLASSES, seed=0, threads=1)


def test_a_missing_model_is_named(tmp_path):
    with pytest.raises(RetinaflowError, match=r"model\.keras: Keras cannot load"):
        load_model(tmp_path / "model.keras", CLASSES, seed=0, threads=1)


def test_any_damaged_byte_is_found_or_harmless(saved):
    """Archives carry checksums: a damaged one never loads as a model that answers otherwise."""
    content = saved.read_bytes()
    weights = grader().get_weights()
    for place in np.random.default_rng(0).integers(0, len(content), 25):
        saved.write_bytes(content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :])
        try:
            loaded = load_model(saved, CLASSES, seed=0, threads=1)
        except RetinaflowError:
            continue
        assert all(np.array_equal(a, b) for a, b in zip(loaded.get_weights(), weights, strict=True))


@pytest.mark.parametrize("classes", [2, 6])
def test_another_number_of_classes_is_refused(tmp_path, classes):
    grader(classes).save(tmp_path / "model.keras")
    with pytest.raises(RetinaflowError, match=f"the model has {classes} outputs, expected the 5 of objective softmax"):
        load_model(tmp_path / "model.keras", CLASSES, seed=0, threads=1)


def other(pixels: keras.KerasTensor, outputs: int = 1) -> keras.Model:
    x = keras.layers.Flatten()(keras.layers.Rescaling(1.0)(pixels))
    answers = [keras.layers.Dense(5, activation="softmax")(x) for _ in range(outputs)]
    return keras.Model(pixels, answers if outputs > 1 else answers[0])


@pytest.mark.filterwarnings("ignore:You are saving a model that has not yet been built:UserWarning")
@pytest.mark.parametrize(
    ("model", "found"),
    [
        (lambda: other(keras.Input((8, 8, 3))), r"takes float32 \(None, 8, 8, 3\), expected uint8 RGB"),
        (lambda: other(keras.Input((8, 8, 1), dtype="uint8")), r"takes uint8 \(None, 8, 8, 1\)"),
        (lambda: other(keras.Input((8, 9, 3), dtype="uint8")), r"takes uint8 \(None, 8, 9, 3\)"),
        (lambda: other(keras.Input((24, 8), dtype="uint8")), r"takes uint8 \(None, 24, 8\)"),
        (lambda: other(keras.Input((8, 8, 3), dtype="uint8"), outputs=2), "one input and one output"),
        (lambda: keras.Sequential([keras.layers.Dense(5)]), "one input and one output"),
        (lambda: keras.Sequential([keras.Input((8, 8, 3), dtype="uint8"), keras.layers.Rescaling(1.0)]), "3 outputs"),
    ],
)
def test_a_model_that_is_no_grader_is_refused(tmp_path, model, found):
    model().save(tmp_path / "model.keras")
    with pytest.raises(RetinaflowError, match=rf"model\.keras: .*{found}.*Delete the model"):
        load_model(tmp_path / "model.keras", CLASSES, seed=0, threads=1)


def test_a_model_for_photographs_of_another_size_is_refused(make_part, saved):
    pixels = np.zeros((2, 9, 9, 3), np.uint8)
    photographs = Images(*make_part("test", pixels, [0, 1]), CLASSES)
    with pytest.raises(RetinaflowError, match="takes photographs of 8 px, those of the shards have 9"):
        predict(load_model(saved, CLASSES, seed=0, threads=1), photographs, threads=1)


@pytest.mark.parametrize("value", [np.nan, np.inf, -1.0, 0.0])
def test_answers_that_are_no_probabilities_are_refused(make_part, value):
    photographs = Images(*make_part("test", np.zeros((2, 8, 8, 3), np.uint8), [0, 1]), CLASSES)
    pixels = keras.Input((8, 8, 3), dtype="uint8")
    x = keras.layers.Flatten()(keras.layers.Rescaling(1.0)(pixels))
    constant = keras.initializers.Constant(value)
    model = keras.Model(pixels, keras.layers.Dense(5, kernel_initializer="zeros", bias_initializer=constant)(x))
    found = rf"2 of 2 photographs are none of objective softmax, first \[{value}, .* to 'test0_left'"
    with pytest.raises(RetinaflowError, match=found):
        predict(model, photographs, threads=1)


@pytest.mark.parametrize(("objective", "outputs"), [("regression", 1), ("ordinal", 4)])
def test_outputs_of_other_objectives_stay_as_they_are(make_part, tmp_path, objective, outputs):
    pixels = keras.Input((8, 8, 3), dtype="uint8")
    x = keras.layers.Flatten()(keras.layers.Rescaling(1.0)(pixels))
    values = [7.5] if objective == "regression" else [0.9, 0.6, 0.2, 0.1]
    bias = keras.initializers.Constant(values)
    keras.Model(pixels, keras.layers.Dense(outputs, kernel_initializer="zeros", bias_initializer=bias)(x)).save(
        tmp_path / "model.keras"
    )
    photographs = Images(*make_part("test", np.zeros((2, 8, 8, 3), np.uint8), [0, 1]), CLASSES)
    model = load_model(tmp_path / "model.keras", CLASSES, 0, 1, objective)
    assert predict(model, photographs, 1, objective) == pytest.approx(np.array([values] * 2))
    with pytest.raises(RetinaflowError, match=f"{outputs} outputs, expected the 5 of objective softmax for the 5 of"):
        load_model(tmp_path / "model.keras", CLASSES, 0, 1)


class Custom(keras.layers.Layer):
    """A layer that Keras does not have, in a module that could be imported."""

    def call(self, inputs: keras.KerasTensor) -> keras.KerasTensor:
        return inputs


def test_a_layer_that_keras_does_not_have_is_refused(tmp_path):
    pixels = keras.Input((8, 8, 3), dtype="uint8")
    x = keras.layers.Flatten()(Custom()(keras.layers.Rescaling(1.0)(pixels)))
    keras.Model(pixels, keras.layers.Dense(5)(x)).save(tmp_path / "model.keras")
    with pytest.raises(RetinaflowError, match=r"model\.keras: Keras cannot load this model safely .*Custom"):
        load_model(tmp_path / "model.keras", CLASSES, seed=0, threads=1)


@pytest.mark.parametrize("name", ["model.keras", "model.h5"])
def test_code_inside_a_model_is_refused_and_not_run(tmp_path, name):
    mark = str(tmp_path / "ran")
    pixels = keras.Input((8, 8, 3), dtype="uint8")
    x = keras.layers.Lambda(lambda x: __import__("pathlib").Path(mark).touch() or x)(pixels)
    x = keras.layers.Dense(5, activation="softmax")(keras.layers.Flatten()(x))
    keras.Model(pixels, x).save(tmp_path / name)
    Path(mark).unlink()
    with pytest.raises(RetinaflowError, match="cannot load this model safely"):
        load_model(tmp_path / name, CLASSES, seed=0, threads=1)
    assert not Path(mark).exists()
    # It would have run.
    keras.saving.load_model(tmp_path / name, compile=False, safe_mode=False)
    assert Path(mark).exists()
