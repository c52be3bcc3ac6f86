"""One test for each defect of the published scripts, which this workflow replaces."""

import io
import json
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from common import CLASSES, grades_of
from retinaflow.config.loading import load
from retinaflow.data.inventory import InventoryJob, take_inventory
from retinaflow.data.labels import LabelRow
from retinaflow.data.split import split_patients
from retinaflow.errors import RetinaflowError
from retinaflow.evaluation.metrics import evaluate
from retinaflow.networks import devices
from retinaflow.networks.backbones import BACKBONES
from retinaflow.networks.building import build, load_backbone, normalise
from retinaflow.preprocessing.batches import Batches, Images
from retinaflow.preprocessing.preprocess import prepare
from retinaflow.preprocessing.variant import Variant
from retinaflow.scoring.predictions import GradingJob, grade_model
from retinaflow.scoring.raw_outputs import RawOutputs, write_raw_outputs
from retinaflow.storage.tables import read_table
from retinaflow.training.class_weights import class_weights
from small import typed

# TensorFlow accepts a number of threads only until it has made its first tensor, also in other test files.
devices.prepare_process(seed=0, threads=1)

PLAIN = Variant(32, "none", "squash", "none")


def png(pixels: np.ndarray) -> bytes:
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "png")
    return content.getvalue()


def prepared(pixels: np.ndarray) -> np.ndarray:
    """Return the pixels of an image as a shard has them."""
    return prepare(png(pixels), pixels.shape[1], pixels.shape[0], PLAIN)


def network_input(name: str, pixels: np.ndarray) -> np.ndarray:
    """Return the input of the backbone ``name`` for pixels (32, 32, 3) of a shard."""
    inputs = keras.Input((32, 32, 3), dtype="uint8")
    model = keras.Model(inputs, normalise(inputs, "imagenet", BACKBONES[name].input_mode))
    return np.asarray(model(pixels[None]))[0]


def test_channels_are_not_copies_and_do_not_wrap_round():
    """All three channels were copies of the first. Normalised values were cast to uint8, where -1 is 255."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
    assert np.array_equal(prepared(pixels), pixels)
    inputs = keras.Input((32, 32, 3), dtype="uint8")
    normalised = np.asarray(keras.Model(inputs, normalise(inputs, "per_image", "tf"))(pixels[None]))[0]
    assert normalised == pytest.approx((pixels - pixels.mean()) / pixels.std(), abs=0.01)


def test_only_caffe_backbones_get_bgr():
    """RGB and BGR were confused."""
    red = prepared(np.full((64, 64, 3), (200, 100, 50), np.uint8))
    assert (red == (200, 100, 50)).all()
    assert network_input("VGG16", red)[0, 0] == pytest.approx([50 - 103.939, 100 - 116.779, 200 - 123.68], abs=1e-3)
    assert network_input("InceptionV3", red)[0, 0] == pytest.approx([200 / 127.5 - 1, 100 / 127.5 - 1, 50 / 127.5 - 1])


def test_inception_gets_values_from_minus_one_to_one():
    """It got the input of VGG16: BGR less the means of ImageNet."""
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    given = network_input("InceptionV3", pixels)
    assert given == pytest.approx(keras.applications.inception_v3.preprocess_input(pixels.astype("float32")), abs=1e-6)
    assert (given.min(), given.max()) == pytest.approx((-1, 1))


def test_shrinking_averages_pixels():
    """`cv2.resize(image, size, cv2.INTER_AREA)` passes the flag as `dst` and interpolates between neighbours."""
    pixels = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    means = pixels.reshape(32, 8, 32, 8, 3).mean(axis=(1, 3))
    assert np.abs(prepared(pixels) - means).max() <= 1


def test_image_names_have_no_extension(tmp_path):
    """`filename[:-4]` of `10_left.jpeg` is `10_left.`, which no label has."""
    names = ["10_left.jpeg", "10_right.jpg", "11_left.JPEG", "11_right.tiff", "12_left.png"]
    for name in names:
        (tmp_path / name).write_bytes(png(np.full((4, 4, 3), 90, np.uint8)))
    labels = [LabelRow(name.split(".")[0], str(grade), grade + 2) for grade, name in enumerate(names)]
    tables = tmp_path / "inventory.csv", tmp_path / "problems.csv"
    take_inventory(
        InventoryJob(
            data_set="train",
            folders=[tmp_path],
            labels=labels,
            grade_names=CLASSES,
            patient_pattern="(?P<patient>.+)_(left|right)",
            exclude=[],
            megapixels=1,
            train=None,
            inventory=tables[0],
            problems=tables[1],
            cache=tmp_path / "headers.json",
            code="code",
        )
    )
    found = {Path(row["path"]).name: (row["image"], row["grade"]) for row in read_table(tables[0])}
    assert found == {name: (name.split(".")[0], str(grade)) for grade, name in enumerate(names)}


def test_only_layers_that_are_not_frozen_learn():
    """Layers were never frozen."""
    settings = {
        "image_size": 32,
        "normalisation": "imagenet",
        "feature_layers": [],
        "freeze_layers": 15,
        "batch_norm": "inference",
        "head_epochs": 0,
        "objective": "softmax",
        "dense_units": [32, 16],
        "dropout": 0.0,
    }
    keras.utils.set_random_seed(1)
    model = build(typed("VGG16", **settings), 5)
    network = model.get_layer("vgg16")
    before = [layer.get_weights() for layer in network.layers]
    model.compile(keras.optimizers.Adam(0.001), "sparse_categorical_crossentropy")
    model.fit(np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3)), np.arange(4), verbose=0)
    changed = [
        not all(np.array_equal(old, new) for old, new in zip(olds, layer.get_weights(), strict=True))
        for olds, layer in zip(before, network.layers, strict=True)
    ]
    assert [layer.name for layer, learned in zip(network.layers, changed, strict=True) if learned] == [
        "block5_conv1",
        "block5_conv2",
        "block5_conv3",
    ]


def test_misspelt_backbone_is_an_error():
    """`Resnet50` was never used, without a message."""
    data = {"train": {"images": "images", "labels": "labels.csv"}}
    load({"data": data, "models": {"ResNet50": {}}})
    with pytest.raises(RetinaflowError, match=r"models\.Resnet50: unknown backbone; did you mean 'ResNet50'\?"):
        load({"data": data, "models": {"Resnet50": {}}})


def test_each_backbone_has_the_published_number_of_parameters():
    """Numbers without the top, from https://keras.io/api/applications/ and the papers."""
    assert all(name == description.constructor for name, description in BACKBONES.items())
    parameters = {name: load_backbone(name, 96, None).count_params() for name in ("VGG16", "ResNet50", "InceptionV3")}
    assert parameters == {"VGG16": 14_714_688, "ResNet50": 23_587_712, "InceptionV3": 21_802_784}


def test_class_weights_follow_the_training_split(make_part):
    """They were numbers in the script."""
    for grades in ([0, 0, 0, 0, 1, 2, 3, 4], [0, 1, 1, 2, 2, 3, 3, 4, 4, 4]):
        part = make_part(f"train{len(grades)}", np.zeros((len(grades), 8, 8, 3), np.uint8), grades)
        weights = class_weights("inverse", Images(*part, CLASSES).grades, CLASSES)
        assert weights == {grade: pytest.approx(len(grades) / 5 / grades.count(grade)) for grade in range(5)}


def test_both_eyes_of_a_patient_are_in_one_split():
    """A random split of images put the fellow eye of most validation images into training."""
    rng = np.random.default_rng(0)
    rows = [
        {"image": f"{patient}_{eye}", "patient": str(patient), "grade": rng.integers(5)}
        for patient in range(200)
        for eye in ("left", "right")
    ]
    training, validation = split_patients(pd.DataFrame(rows), 0.2, unit="patient", seed=1)
    assert len(training) + len(validation) == 400
    assert 70 <= len(validation) <= 90
    assert not set(training["patient"]) & set(validation["patient"])
    leaking = split_patients(pd.DataFrame(rows), 0.2, unit="image", seed=1)
    assert set(leaking[0]["patient"]) & set(leaking[1]["patient"])


def test_metrics_of_always_no_disease_equal_the_baseline():
    """The published metrics hid this: on EyePACS, the accuracy of always no disease is 0.73."""
    actual = np.repeat(np.arange(5), [73, 7, 15, 3, 2])
    always = np.tile([0.96, 0.01, 0.01, 0.01, 0.01], (100, 1))
    unknown = [""] * len(actual)
    metrics = evaluate(
        actual,
        grades_of(always, 2),
        grade_names=CLASSES,
        referable_grade=2,
        patients=unknown,
        eyes=unknown,
        bootstrap_samples=0,
        seed=0,
    )
    assert metrics["accuracy"] == metrics["baseline"]["accuracy"] == 0.73
    assert metrics["quadratic_weighted_kappa"] == 0
    assert metrics["macro_auc"] == 0.5
    assert metrics["referable"]["sensitivity"] == 0
    assert [row["recall"] for row in metrics["per_class"]] == [1, 0, 0, 0, 0]


@pytest.mark.parametrize("batch_size", [1, 4, 7, 21, 50])
def test_each_validation_image_counts_once(make_part, batch_size):
    """The number of steps was a float. The images of a smaller last batch count, too."""
    pixels = np.random.default_rng(0).integers(0, 256, (21, 8, 8, 3), dtype=np.uint8)
    images = Images(*make_part("validation", pixels, [number % 5 for number in range(21)]), CLASSES)
    batches = Batches(images, batch_size)
    assert type(batches.num_batches) is int
    keras.utils.set_random_seed(1)
    inputs = keras.Input((8, 8, 3), dtype="uint8")
    x = keras.layers.Flatten()(keras.layers.Rescaling(1 / 255)(inputs))
    model = keras.Model(inputs, keras.layers.Dense(5, activation="softmax")(x))
    model.compile(loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    model.evaluate(batches, steps=1, verbose=0)  # as `train` does before the first epoch
    metrics = model.evaluate(batches, verbose=0, return_dict=True)
    predicted = model.predict(np.stack([images[number] for number in range(21)]), verbose=0)
    assert metrics["accuracy"] == pytest.approx((predicted.argmax(axis=1) == images.grades).mean())
    assert metrics["loss"] == pytest.approx(-np.log(predicted[np.arange(21), images.grades]).mean(), rel=1e-5)


@pytest.mark.parametrize(
    "grade_names", [["no DR", "mild", "moderate", "severe", "proliferative"], [f"class{grade}" for grade in range(11)]]
)
def test_metrics_do_not_depend_on_the_length_of_names(make_part, tmp_path, grade_names):
    """The grade was `path[:6]`: right for `class4`, wrong for `no DR`, and `class1` for `class10`."""
    grades = [number % len(grade_names) for number in range(3 * len(grade_names))]
    pixels = np.zeros((len(grades), 8, 8, 3), np.uint8)
    images = Images(*make_part("test", pixels, grades, 3, grade_names), grade_names)
    predicted = images.grades.copy()
    last = len(grade_names) - 1
    predicted[np.flatnonzero(predicted == last)[0]] = 1  # one mistake
    names = images.names, images.filenames, images.patients, images.eyes, images.grades
    tables = {split: tmp_path / f"{split}.csv" for split in ("validation", "test")}
    for table, output in zip(tables.values(), (images.grades, predicted), strict=True):
        write_raw_outputs(table, RawOutputs(*names, np.eye(len(grade_names))[output]))
    predictions = {split: tmp_path / split / "predictions.csv" for split in tables}
    metrics = {split: tmp_path / split / "metrics.json" for split in tables}
    job = GradingJob(
        model="VGG16",
        objective="softmax",
        raw_outputs=tables,
        inventories=[],
        grade_names=grade_names,
        referable_grade=2,
        referable_sensitivity=0.9,
        bootstrap_samples=0,
        seed=1,
        decision_rule=tmp_path / "decision_rule.json",
        predictions=predictions,
        metrics=metrics,
    )
    grade_model(job)

    expected = 3 * np.eye(len(grade_names), dtype=int)
    expected[last, last], expected[last, 1] = 2, 1
    assert json.loads(metrics["test"].read_text())["confusion_matrix"] == expected.tolist()
    truth = {f"test{number}_left.jpeg": grade_names[grade] for number, grade in enumerate(grades)}
    rows = read_table(predictions["test"])
    assert {row["filename"]: row["grade_name"] for row in rows} == truth
    wrong = [row for row in rows if row["predicted_grade_name"] != row["grade_name"]]
    assert [(row["grade_name"], row["predicted_grade_name"]) for row in wrong] == [(grade_names[last], grade_names[1])]
