"""Features of images against a direct computation: mean and deviation over views of a layer's outputs."""

from pathlib import Path

import keras
import numpy as np
import pytest

import small
from common import CLASSES
from retinaflow.errors import RetinaflowError
from retinaflow.networks import devices
from retinaflow.preprocessing import augmentation
from retinaflow.preprocessing.augmentation import image_number
from retinaflow.preprocessing.batches import Images
from retinaflow.scoring.feature_files import read_features
from retinaflow.scoring.features import (
    AT_ONCE,
    BATCH,
    FeatureViews,
    extract,
    fine_tuned,
    frozen_backbone,
    write_features,
)
from retinaflow.settings.augment import AugmentSettings
from retinaflow.storage.tables import read_table

# TensorFlow accepts a number of threads only until it has made its first tensor, also in other test files.
devices.prepare_process(seed=0, threads=1)

AUGMENT = AugmentSettings()
PIXELS = np.random.default_rng(0).integers(0, 256, (BATCH + 5, 32, 32, 3), dtype=np.uint8)


def backbone(layers: list[str]) -> keras.Model:
    own_input = {"normalisation": "imagenet", "pooling": "mean"}
    return frozen_backbone("Tiny", 32, layers=layers, weights=None, seed=1, threads=1, **own_input)


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> keras.Model:
    """The small network up to its last layer."""
    small.register(monkeypatch)
    return backbone([])


@pytest.fixture
def images(make_part) -> Images:
    return Images(*make_part("part", PIXELS, [0] * len(PIXELS), shards=2), CLASSES)


def views(count: int) -> FeatureViews:
    return FeatureViews(count, AUGMENT, seed=7)


def pixels_of(image: str) -> np.ndarray:
    return PIXELS[int(image.removeprefix("part").removesuffix("_left"))]


def test_features_are_mean_and_deviation_over_views(network: keras.Model, images: Images) -> None:
    (features,) = extract(network, images, views(3), threads=2)
    assert features.dtype == np.float16
    assert features.shape == (len(PIXELS), 32)
    for row, image in list(zip(features, images.names, strict=True))[::9]:
        expected = np.repeat(pixels_of(image)[np.newaxis], 3, axis=0)
        for view in (1, 2):
            rng = np.random.default_rng((7, view, image_number(image)))
            augmentation.augment(pixels_of(image), AUGMENT, rng, expected[view])
        pooled = network.predict_on_batch(expected)
        np.testing.assert_allclose(row, np.concatenate([pooled.mean(axis=0), pooled.std(axis=0)]), rtol=2e-3, atol=1e-5)


def test_one_view_is_the_image_itself(network: keras.Model, images: Images) -> None:
    (features,) = extract(network, images, views(1), threads=1)
    expected = network.predict_on_batch(np.stack([pixels_of(image) for image in images.names]))
    np.testing.assert_allclose(features[:, :16], expected, rtol=2e-3, atol=1e-5)
    assert not features[:, 16:].any()


def test_layer_is_averaged_over_its_area(network: keras.Model) -> None:
    area = keras.Model(network.inputs, network.get_layer("pool").input).predict_on_batch(PIXELS[:4])
    assert area.shape[1:3] == (7, 7)
    np.testing.assert_allclose(network.predict_on_batch(PIXELS[:4]), area.mean(axis=(1, 2)), rtol=1e-5)


@pytest.mark.parametrize("root", [False, True])
def test_channels_are_pooled_in_several_ways(network: keras.Model, root: bool) -> None:
    area = keras.Model(network.inputs, network.get_layer("pool").input).predict_on_batch(PIXELS[:4])
    area = area.astype(np.float64)
    own_input = {"normalisation": "imagenet", "pooling": "mean", "weights": None, "seed": 1, "threads": 1}
    poolings = ["std", "max", "mean", "generalised"]
    found = frozen_backbone("Tiny", 32, layers=[], **own_input, poolings=poolings, root=root)
    generalised = np.maximum((area**3).mean(axis=(1, 2)), 0) ** (1 / 3)
    values = [area.std(axis=(1, 2)), area.max(axis=(1, 2)), area.mean(axis=(1, 2)), generalised]
    expected = np.concatenate(values, axis=1)
    expected = np.sign(expected) * np.sqrt(np.abs(expected)) if root else expected
    np.testing.assert_allclose(found.predict_on_batch(PIXELS[:4]), expected, rtol=2e-3, atol=2e-4)


def test_few_images_are_in_memory_together(network: keras.Model, images: Images, monkeypatch) -> None:
    (whole,) = extract(network, images, views(2), threads=1)
    monkeypatch.setattr("retinaflow.scoring.features.AT_ONCE", 10)
    blocks = list(extract(network, images, views(2), threads=3))
    assert max(map(len, blocks)) == 10 < AT_ONCE
    # Other batches can round sums in another way, by less than float16 does.
    np.testing.assert_allclose(np.concatenate(blocks), whole, rtol=2e-3, atol=1e-4)


def test_written_features_are_read_again(network, images, make_part, tmp_path: Path) -> None:
    indices, _ = make_part("part", PIXELS, [0] * len(PIXELS))
    files = tmp_path / "part.npy", tmp_path / "part.csv"
    options = {"indices": indices, "views": views(2), "threads": 2}
    for _ in range(2):  # The second time gives the same bytes.
        write_features(network, images, **options, features=files[0], rows=files[1])
        written = [file.read_bytes() for file in files]
    features, names = read_features(*files)
    assert names == images.names
    np.testing.assert_array_equal(features, np.concatenate(list(extract(network, images, views(2), threads=1))))
    assert written == [file.read_bytes() for file in files]
    digests = {row["image"]: row["digest"] for row in read_table(indices[0])}
    assert {row["image"]: row["digest"] for row in read_table(files[1])} == digests


@pytest.mark.parametrize("damage", ["missing", "truncated", "float32", "odd", "infinite", "rows"])
def test_damaged_features_are_refused(tmp_path: Path, damage: str) -> None:
    features, rows = tmp_path / "part.npy", tmp_path / "part.csv"
    values = np.zeros((2, 3 if damage == "odd" else 4), np.float32 if damage == "float32" else np.float16)
    values[0, 0] = np.inf if damage == "infinite" else 0
    np.save(features, values)
    rows.write_text("image,digest\na,1\n" + ("" if damage == "rows" else "b,2\n"))
    if damage == "truncated":
        features.write_bytes(features.read_bytes()[:-1])
    if damage == "missing":
        features.unlink()
    with pytest.raises(RetinaflowError, match=r"part\.npy: .*(rebuild|Delete)"):
        read_features(features, rows)


def test_values_beyond_float16_are_an_error(images: Images) -> None:
    pixels = keras.Input((32, 32, 3), dtype="uint8")
    large = keras.Model(pixels, 1e4 * keras.ops.mean(keras.ops.cast(pixels, "float32"), axis=(1, 2)), name="large")
    with pytest.raises(RetinaflowError, match=r"'part0_left' have the value 1\.\d+e\+06.*float16"):
        list(extract(large, images, views(1), threads=1))


def test_unknown_layer_error_names_similar_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    small.register(monkeypatch)
    with pytest.raises(RetinaflowError, match=r"feature_layers: tiny has no layer 'lasts'.*similar ones are last"):
        backbone(["lasts"])


def test_features_of_a_trained_network_enter_its_head() -> None:
    pixels = keras.Input((32, 32, 3), dtype="uint8")
    pooled = keras.layers.GlobalAveragePooling2D(name="pool")(keras.ops.cast(pixels, "float32"))
    model = keras.Model(pixels, keras.layers.Dense(5, activation="softmax")(pooled))
    np.testing.assert_allclose(fine_tuned(model).predict_on_batch(PIXELS[:3]), PIXELS[:3].mean(axis=(1, 2)), rtol=1e-5)
