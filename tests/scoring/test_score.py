from pathlib import Path

import keras
import numpy as np
import pytest

from common import CLASSES
from retinaflow.errors import RetinaflowError
from retinaflow.networks import devices
from retinaflow.preprocessing.batches import Images
from retinaflow.scoring.score import BATCH, load_model, predict_outputs, predict_tta

# TensorFlow accepts a number of threads only before its first tensor. Other test files make tensors, too.
devices.prepare_process(seed=0, threads=1)


def small_model(grade_count: int = 5) -> keras.Model:
    """Return a model with different outputs for different images."""
    keras.utils.set_random_seed(1)
    pixels = keras.Input((8, 8, 3), dtype="uint8")
    x = keras.layers.Flatten()(keras.layers.Rescaling(1 / 127.5, offset=-1)(pixels))
    return keras.Model(pixels, keras.layers.Dense(grade_count, activation="softmax")(x))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    small_model().save(tmp_path / "model.keras")
    return tmp_path / "model.keras"


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("number", [1, BATCH, 2 * BATCH + 6])
def test_each_image_has_its_own_outputs(make_part, saved, shards, number):
    pixels = np.random.default_rng(0).integers(0, 256, (number, 8, 8, 3), dtype=np.uint8)
    images = Images(*make_part("test", pixels, [0] * number, shards), CLASSES)
    model = load_model(saved, CLASSES, seed=0, threads=1)
    probabilities = predict_outputs(model, images, threads=3)
    assert probabilities.dtype == np.float64
    assert probabilities.shape == (number, 5)
    assert probabilities.sum(axis=1) == pytest.approx(np.ones(number), abs=1e-12)
    assert len(np.unique(probabilities, axis=0)) == number
    for image, row in zip(images.names, probabilities, strict=True):
        place = int(image.removeprefix("test").removesuffix("_left"))
        assert row == pytest.approx(small_model().predict_on_batch(pixels[place : place + 1])[0], abs=1e-5)


def left_sum() -> keras.Model:
    """Return a model with two outputs: the brightness of the left half, and 1 minus it."""
    pixels = keras.Input((8, 8, 3), dtype="uint8")
    left = keras.layers.Cropping2D(((0, 0), (0, 4)))(keras.layers.Rescaling(1 / 255)(pixels))
    share = keras.layers.Reshape((1,))(keras.ops.mean(left, axis=(1, 2, 3)))
    return keras.Model(pixels, keras.layers.Concatenate()([share, 1 - share]))


def test_outputs_are_averaged_over_views(make_part):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)
    images = Images(*make_part("test", pixels, [0] * 40), CLASSES)
    pixels = np.stack([images[number] for number in range(40)]) / 255
    left, whole = pixels[:, :, :4].mean(axis=(1, 2, 3)), pixels.mean(axis=(1, 2, 3))
    model = left_sum()
    one, no_tta = predict_tta(model, images, objective="softmax", tta_views=1, threads=2)
    assert no_tta is None
    assert one[:, 0] == pytest.approx(left, abs=1e-6)
    # The second view is mirrored: its left half is the right one.
    for tta_views in (2, 8):
        both, no_tta = predict_tta(model, images, objective="softmax", tta_views=tta_views, threads=2)
        assert both[:, 0] == pytest.approx(whole, abs=1e-6)
        assert both.sum(axis=1) == pytest.approx(np.ones(40), abs=1e-12)
        assert np.array_equal(no_tta, one)
    assert np.abs(left - whole).max() > 0.01


def test_model_without_directions_has_equal_outputs_in_all_views(make_part):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
    images = Images(*make_part("test", pixels, [0] * 5), CLASSES)
    inputs = keras.Input((8, 8, 3), dtype="uint8")
    colours = keras.layers.GlobalAveragePooling2D()(keras.layers.Rescaling(1 / 127.5, offset=-1)(inputs))
    model = keras.Model(inputs, keras.layers.Dense(5, activation="softmax")(colours))
    mean, no_tta = predict_tta(model, images, objective="softmax", tta_views=8, threads=1)
    assert mean == pytest.approx(no_tta, abs=1e-6)
    assert len(np.unique(no_tta, axis=0)) == 5


def test_half_precision_sums_to_one(make_part):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)
    images = Images(*make_part("test", pixels, [0] * 40), CLASSES)
    model = small_model()
    half = keras.Model(model.inputs, keras.ops.cast(model.output, "float16"))
    assert predict_outputs(half, images, threads=1).sum(axis=1) == pytest.approx(np.ones(40), abs=1e-12)


@pytest.mark.parametrize("left", [0, 1, 20, 1000, -1000, -20, -1])
def test_truncated_model_is_refused(saved, left):
    saved.write_bytes(saved.read_bytes()[:left])
    with pytest.raises(RetinaflowError, match=r"model\.keras: Keras cannot load this model safely .*Delete the model"):
        load_model(saved, CLASSES, seed=0, threads=1)


@pytest.mark.parametrize(
    "content", [b"", b"<html>404 not found</html>", b"PK\x03\x04", b"\x89HDF\r\n\x1a\n" + bytes(90)]
)
@pytest.mark.parametrize("name", ["model.keras", "model.h5"])
def test_other_files_are_refused(tmp_path, content, name):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(RetinaflowError, match="Keras cannot load this model safely"):
        load_model(tmp_path / name, CLASSES, seed=0, threads=1)


def test_error_names_a_missing_model(tmp_path):
    with pytest.raises(RetinaflowError, match=r"model\.keras: Keras cannot load"):
        load_model(tmp_path / "model.keras", CLASSES, seed=0, threads=1)


def test_damaged_byte_is_found_or_harmless(saved):
    """Archives have checksums: a damaged one never loads as a model with other weights."""
    content = saved.read_bytes()
    weights = small_model().get_weights()
    for place in np.random.default_rng(0).integers(0, len(content), 25):
        saved.write_bytes(content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :])
        try:
            loaded = load_model(saved, CLASSES, seed=0, threads=1)
        except RetinaflowError:
            continue
        assert all(np.array_equal(a, b) for a, b in zip(loaded.get_weights(), weights, strict=True))


@pytest.mark.parametrize("grade_count", [2, 6])
def test_other_number_of_grades_is_refused(tmp_path, grade_count):
    small_model(grade_count).save(tmp_path / "model.keras")
    with pytest.raises(
        RetinaflowError, match=f"the model has {grade_count} outputs, expected the 5 of objective softmax"
    ):
        load_model(tmp_path / "model.keras", CLASSES, seed=0, threads=1)


def unusual_model(pixels: keras.KerasTensor, outputs: int = 1) -> keras.Model:
    x = keras.layers.Flatten()(keras.layers.Rescaling(1.0)(pixels))
    tensors = [keras.layers.Dense(5, activation="softmax")(x) for _ in range(outputs)]
    return keras.Model(pixels, tensors if outputs > 1 else tensors[0])


@pytest.mark.filterwarnings("ignore:You are saving a model that has not yet been built:UserWarning")
@pytest.mark.parametrize(
    ("model", "found"),
    [
        (lambda: unusual_model(keras.Input((8, 8, 3))), r"takes float32 \(None, 8, 8, 3\), expected uint8 RGB"),
        (lambda: unusual_model(keras.Input((8, 8, 1), dtype="uint8")), r"takes uint8 \(None, 8, 8, 1\)"),
        (lambda: unusual_model(keras.Input((8, 9, 3), dtype="uint8")), r"takes uint8 \(None, 8, 9, 3\)"),
        (lambda: unusual_model(keras.Input((24, 8), dtype="uint8")), r"takes uint8 \(None, 24, 8\)"),
        (lambda: unusual_model(keras.Input((8, 8, 3), dtype="uint8"), outputs=2), "one input and one output"),
        (lambda: keras.Sequential([keras.layers.Dense(5)]), "one input and one output"),
        (lambda: keras.Sequential([keras.Input((8, 8, 3), dtype="uint8"), keras.layers.Rescaling(1.0)]), "3 outputs"),
    ],
)
def test_models_with_other_inputs_or_outputs_are_refused(tmp_path, model, found):
    model().save(tmp_path / "model.keras")
    with pytest.raises(RetinaflowError, match=rf"model\.keras: .*{found}.*Delete the model"):
        load_model(tmp_path / "model.keras", CLASSES, seed=0, threads=1)


def test_images_of_another_size_are_refused(make_part, saved):
    pixels = np.zeros((2, 9, 9, 3), np.uint8)
    images = Images(*make_part("test", pixels, [0, 1]), CLASSES)
    with pytest.raises(RetinaflowError, match="takes images of 8 px, those of the shards have 9"):
        predict_outputs(load_model(saved, CLASSES, seed=0, threads=1), images, threads=1)


@pytest.mark.parametrize("value", [np.nan, np.inf, -1.0, 0.0])
def test_outputs_other_than_probabilities_are_refused(make_part, value):
    images = Images(*make_part("test", np.zeros((2, 8, 8, 3), np.uint8), [0, 1]), CLASSES)
    pixels = keras.Input((8, 8, 3), dtype="uint8")
    x = keras.layers.Flatten()(keras.layers.Rescaling(1.0)(pixels))
    constant = keras.initializers.Constant(value)
    model = keras.Model(pixels, keras.layers.Dense(5, kernel_initializer="zeros", bias_initializer=constant)(x))
    found = rf"2 of 2 images are impossible for objective softmax, first \[{value}, .* for 'test0_left'"
    with pytest.raises(RetinaflowError, match=found):
        predict_outputs(model, images, threads=1)


@pytest.mark.parametrize(("objective", "outputs"), [("regression", 1), ("ordinal", 4)])
def test_outputs_of_other_objectives_are_not_normalised(make_part, tmp_path, objective, outputs):
    pixels = keras.Input((8, 8, 3), dtype="uint8")
    x = keras.layers.Flatten()(keras.layers.Rescaling(1.0)(pixels))
    values = [7.5] if objective == "regression" else [0.9, 0.6, 0.2, 0.1]
    bias = keras.initializers.Constant(values)
    keras.Model(pixels, keras.layers.Dense(outputs, kernel_initializer="zeros", bias_initializer=bias)(x)).save(
        tmp_path / "model.keras"
    )
    images = Images(*make_part("test", np.zeros((2, 8, 8, 3), np.uint8), [0, 1]), CLASSES)
    model = load_model(tmp_path / "model.keras", CLASSES, objective=objective, seed=0, threads=1)
    assert predict_outputs(model, images, objective=objective, threads=1) == pytest.approx(np.array([values] * 2))
    with pytest.raises(RetinaflowError, match=f"{outputs} outputs, expected the 5 of objective softmax for the 5 of"):
        load_model(tmp_path / "model.keras", CLASSES, seed=0, threads=1)


class Custom(keras.layers.Layer):
    """Layer that Keras does not have, in a module that it could import."""

    def call(self, inputs: keras.KerasTensor) -> keras.KerasTensor:
        return inputs


def test_custom_layer_is_refused(tmp_path):
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
    # Without safe mode, the code runs.
    keras.saving.load_model(tmp_path / name, compile=False, safe_mode=False)
    assert Path(mark).exists()
