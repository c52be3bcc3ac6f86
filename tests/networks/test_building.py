"""Networks: normalisation, heads, frozen layers, and weights files."""

import inspect
import pickle  # only to write a file that must never be read
import re
import subprocess
import sys

import keras
import numpy as np
import pytest

import small
from common import ROOT, backbones
from retinaflow.errors import RetinaflowError
from retinaflow.networks.backbones import BACKBONES
from retinaflow.networks.building import (
    Loss,
    build,
    compile_model,
    freeze,
    in_float32,
    load_backbone,
    normalise,
    policy,
    pooled,
    up_to,
)
from retinaflow.networks.objectives import grade_probabilities, severity, targets, width

SETTINGS = {
    "image_size": 32,
    "normalisation": "imagenet",
    "feature_layers": [],
    "freeze_layers": 0,
    "batch_norm": "inference",
    "head_epochs": 0,
    "objective": "softmax",
    "dense_units": [8, 4],
    "dropout": 0.5,
}


def typed(backbone, **changes):
    return small.typed(backbone, **{**SETTINGS, **changes})


def rgb(size=32, count=2):
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def normalised(kind, mode, pixels, statistics=None):
    inputs = keras.Input(pixels.shape[1:], dtype="uint8")
    return keras.ops.convert_to_numpy(keras.Model(inputs, normalise(inputs, kind, mode, statistics))(pixels))


@pytest.mark.parametrize(
    ("mode", "module"),
    [("caffe", "vgg16"), ("caffe", "resnet"), ("tf", "inception_v3"), ("tf", "resnet_v2"), ("torch", "densenet")],
)
def test_normalisation_equals_that_of_the_weights(mode, module):
    """The article had channels in the wrong order, and caffe means for InceptionV3."""
    pixels = rgb()
    expected = getattr(keras.applications, module).preprocess_input(pixels.astype("float32"))
    assert normalised("imagenet", mode, pixels) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("kind", ["imagenet", "dataset", "per_image"])
@pytest.mark.parametrize("mode", ["caffe", "tf", "torch", "builtin"])
def test_normalisation_stays_in_float32(kind, mode):
    """In bfloat16, 103.939 is 104, and neighbouring pixel values become one."""
    statistics = ([100.0, 60.0, 30.0], [50.0, 40.0, 20.0])
    full = normalised(kind, mode, rgb(), statistics)
    with policy("mixed_bfloat16"):
        mixed = normalised(kind, mode, rgb(), statistics)
    assert mixed.dtype == np.float32
    assert np.array_equal(mixed, full)


@pytest.mark.parametrize("name", ["EfficientNetV2B0", "MobileNetV3Small", "ConvNeXtTiny"])
def test_normalisation_inside_a_network_stays_in_float32(name):
    with policy("mixed_bfloat16"):
        network = load_backbone(name, max(32, BACKBONES[name].minimum_size), None)
    scaling = [layer for layer in network.layers if type(layer).__name__ in ("Rescaling", "Normalization")]
    assert scaling
    assert {layer.compute_dtype for layer in scaling} == {"float32"}
    assert network.layers[-1].compute_dtype == "bfloat16"


def test_mixed_precision_is_used_by_one_model_alone():
    model = build(typed("MobileNetV3Small"), 5, precision="mixed_float16")
    assert keras.config.dtype_policy().name == "float32"
    assert model.get_layer("dense_1").compute_dtype == "float16"
    assert {weight.dtype for weight in model.trainable_weights} == {"float32"}
    output = keras.ops.convert_to_numpy(model(rgb()))
    assert output.dtype == np.float32
    plain = in_float32(model, typed("MobileNetV3Small"), 5)
    assert plain.get_layer("dense_1").compute_dtype == "float32"
    assert keras.ops.convert_to_numpy(plain(rgb())) == pytest.approx(output, abs=0.02)


@pytest.mark.parametrize("name", backbones())
def test_registered_input_mode_equals_that_of_keras(name):
    """Networks of the mode ``builtin`` scale their input, and no others do."""
    network = load_backbone(name, max(32, BACKBONES[name].minimum_size), None)
    scaling = [layer for layer in network.layers[:4] if type(layer).__name__ in ("Rescaling", "Normalization")]
    inside = bool(scaling) or any("prestem" in layer.name for layer in network.layers[:3])
    assert inside == (BACKBONES[name].input_mode == "builtin")


@pytest.mark.parametrize("name", backbones())
def test_registered_minimum_size_equals_that_of_keras(name):
    least = BACKBONES[name].minimum_size
    assert load_backbone(name, least, None).output_shape[-1] > 0
    with pytest.raises(ValueError, match=r"(?i)size|shape|negative"):
        load_backbone(name, least - 1, None)


def test_each_network_of_keras_applications_has_its_input_mode():
    """Modules without a mode have a `preprocess_input` that changes nothing."""
    modes = {}
    for module in vars(keras.applications).values():
        if not inspect.ismodule(module) or not hasattr(module, "decode_predictions"):
            continue
        mode = re.search(r'mode="(\w+)"', inspect.getsource(module.preprocess_input))
        modes.update(dict.fromkeys(vars(module), mode[1] if mode else "builtin"))
    constructors = [name for name, each in vars(keras.applications).items() if inspect.isfunction(each)]
    assert {name: backbone.input_mode for name, backbone in BACKBONES.items()} == {
        # They stand beside their module.
        name: modes.get(name, "builtin")
        for name in constructors
    }


def scaled(network, pixels):
    """Pixels as the first convolution of an EfficientNet gets them, without its padding."""
    inside = keras.Model(network.input, network.get_layer("stem_conv_pad").input)
    return keras.ops.convert_to_numpy(inside(pixels.astype("float32")))


@pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16"])
def test_efficientnet_from_a_file_scales_as_keras_does(tmp_path, precision):
    """Keras puts a layer between only if it fetches the weights itself."""
    network = keras.applications.EfficientNetB0(include_top=False, weights=None, input_shape=(32, 32, 3))
    mean, variance = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
    scaling = next(layer for layer in network.layers if isinstance(layer, keras.layers.Normalization))
    scaling.set_weights([mean, variance, np.int32(0)])
    network.save_weights(tmp_path / "net.weights.h5")
    with policy(precision):
        loaded = load_backbone("EfficientNetB0", 32, tmp_path / "net.weights.h5")
    pixels = rgb()
    expected = (pixels / 255 - mean) / np.sqrt(variance) / np.sqrt([0.229, 0.224, 0.225])
    assert scaled(loaded, pixels) == pytest.approx(expected, abs=1e-3)
    loaded.save(tmp_path / "net.keras")
    assert scaled(keras.saving.load_model(tmp_path / "net.keras"), pixels) == pytest.approx(expected, abs=1e-3)


def test_efficientnet_in_float32_keeps_its_scaling():
    settings = typed("EfficientNetB0")
    mixed = build(settings, 5, precision="mixed_bfloat16")
    scaling = next(layer for layer in mixed.layers[2].layers if isinstance(layer, keras.layers.Normalization))
    scaling.set_weights([np.float32([1, 2, 3]), np.float32([4, 5, 6]), np.int32(0)])
    scaling.finalize_state()
    copy = in_float32(mixed, settings, 5)
    copied = next(layer for layer in copy.layers[2].layers if isinstance(layer, keras.layers.Normalization))
    assert keras.ops.convert_to_numpy(copied.mean).ravel().tolist() == [1, 2, 3]
    assert keras.ops.convert_to_numpy(copied.variance).ravel().tolist() == [4, 5, 6]


def test_efficientnet_can_take_normalised_values(tmp_path):
    values = rgb().astype("float32") / 100 - 1
    network = load_backbone("EfficientNetB0", 32, normalised=False)
    assert scaled(network, values) == pytest.approx(values, abs=1e-5)
    network.save(tmp_path / "net.keras")
    assert scaled(keras.saving.load_model(tmp_path / "net.keras"), values) == pytest.approx(values, abs=1e-5)


@pytest.mark.parametrize("kind", ["imagenet", "dataset", "per_image"])
def test_caffe_weights_get_bgr_with_each_normalisation(kind):
    pixels = np.zeros((1, 8, 8, 3), np.uint8)
    pixels[..., 0] = 200
    mean = normalised(kind, "caffe", pixels, ([100.0, 60.0, 30.0], [50.0, 40.0, 20.0])).mean(axis=(0, 1, 2))
    assert mean.argmax() == 2


def test_dataset_normalisation_has_mean_zero_and_deviation_one():
    # The channels differ, so that statistics of a wrong channel would show.
    pixels = rgb() // np.array([1, 2, 4], dtype=np.uint8)
    flat = pixels.reshape(-1, 3).astype(float)
    result = normalised("dataset", "caffe", pixels, (flat.mean(axis=0).tolist(), flat.std(axis=0).tolist())).reshape(
        -1, 3
    )
    assert result.mean(axis=0) == pytest.approx([0, 0, 0], abs=1e-4)
    assert result.std(axis=0) == pytest.approx([1, 1, 1], abs=1e-4)


def test_dataset_normalisation_of_a_constant_channel_is_finite():
    assert np.isfinite(normalised("dataset", "tf", rgb(), ([0.0, 1.0, 2.0], [0.0, 1.0, 1.0]))).all()


def test_per_image_normalisation_removes_brightness_and_contrast():
    pixels = rgb() // 4
    brighter = pixels * 2 + 50
    a, b = normalised("per_image", "tf", pixels), normalised("per_image", "tf", brighter)
    assert a == pytest.approx(b, abs=1e-2)
    assert a.mean(axis=(1, 2, 3)) == pytest.approx([0, 0], abs=1e-4)
    assert a.std(axis=(1, 2, 3)) == pytest.approx([1, 1], abs=1e-2)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *((name, "imagenet") for name in ("VGG16", "MobileNetV3Small")),
        *(pytest.param(name, "imagenet", marks=pytest.mark.slow) for name in ("ResNet50V2", "ConvNeXtTiny")),
        *(("MobileNetV3Small", kind) for kind in ("dataset", "per_image")),
    ],
)
def test_saved_model_has_the_same_outputs_for_raw_pixels(tmp_path, name, kind):
    keras.utils.set_random_seed(1)
    model = build(typed(name, normalisation=kind), 5, statistics=([100.0, 60.0, 30.0], [50.0, 40.0, 20.0]))
    answer = model.predict(rgb(), verbose=0)
    assert answer.shape == (2, 5)
    assert answer.sum(axis=1) == pytest.approx([1, 1], abs=1e-5)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    assert loaded.predict(rgb(), verbose=0) == pytest.approx(answer, abs=1e-6)


@pytest.mark.parametrize("objective", ["softmax", "regression", "ordinal"])
def test_untrained_model_predicts_the_grade_frequencies(monkeypatch, objective):
    small.register(monkeypatch)
    frequencies = np.array([700, 70, 150, 50, 30.0])
    model = build(small.typed(objective=objective), 5, frequencies=frequencies)
    inner = model.layers[-1 if objective != "ordinal" else -2]
    inner.set_weights([np.zeros_like(inner.get_weights()[0]), *inner.get_weights()[1:]])
    answer = keras.ops.convert_to_numpy(model(rgb())).astype(np.float64)
    assert answer.shape == (2, width(objective, 5))
    shares = frequencies / frequencies.sum()
    assert severity(objective, answer, 5) == pytest.approx([shares @ np.arange(5)] * 2, abs=1e-5)
    if objective != "regression":
        assert grade_probabilities(objective, answer, 5, 1.0)[0] == pytest.approx(shares, abs=1e-5)


@pytest.mark.parametrize(
    ("objective", "kind", "expected"),
    [
        ("softmax", "mse", [-np.log(0.2), -0.5 * np.log(0.5) - 0.5 * np.log(0.3)]),
        ("ordinal", "mse", [-np.log(0.6) - np.log(0.9), -np.log(0.2) - 0.5 * np.log(0.3) - 0.5 * np.log(0.7)]),
        ("regression", "mse", [0.25, 9.0]),
        ("regression", "smooth_l1", [0.125, 2.5]),
    ],
)
def test_losses_equal_a_hand_calculation(objective, kind, expected):
    """Some targets are mixtures of two grades."""
    outputs, wanted = {
        "softmax": ([[0.2, 0.5, 0.3], [0.2, 0.5, 0.3]], [[1, 0, 0], [0, 0.5, 0.5]]),
        "ordinal": ([[0.6, 0.1], [0.2, 0.3]], [[1, 0], [1, 0.5]]),
        "regression": ([[1.5], [-1.0]], [[2.0], [2.0]]),
    }[objective]
    loss = Loss(objective, kind)
    each = np.asarray(loss.call(*(np.array(values, np.float32) for values in (wanted, outputs))))
    assert each == pytest.approx(expected, rel=1e-5)
    mean = loss(np.array(wanted, np.float32), np.array(outputs, np.float32), sample_weight=np.array([3.0, 0.0]))
    assert float(mean) == pytest.approx(3 * expected[0] / 2, rel=1e-5)


def test_ordinal_probabilities_never_rise_with_the_grade(monkeypatch, tmp_path):
    """All grades share one kernel, and training keeps the biases in order."""
    small.register(monkeypatch)
    keras.utils.set_random_seed(1)
    settings = small.typed(objective="ordinal", learning_rate=0.05)
    model = build(settings, 5, frequencies=np.array([700, 70, 150, 50, 30.0]), precision="mixed_bfloat16")
    compile_model(model, settings, 5, jit=False)
    before = model.get_layer("probabilities").get_weights()[1]
    grades = np.random.default_rng(1).integers(0, 5, 40)
    model.fit(rgb(count=40), targets("ordinal", grades, 5), batch_size=8, epochs=4, verbose=0)
    kernel, biases = model.get_layer("probabilities").get_weights()
    assert (kernel == 1).all()
    assert not np.array_equal(biases, before)
    assert (np.diff(biases) <= 0).all()
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", compile=False, safe_mode=True)
    answer = loaded.predict(rgb(count=40), verbose=0)
    assert answer.dtype == np.float32
    assert answer.std(axis=0).min() > 0
    assert (np.diff(answer, axis=1) <= 0).all()


def test_random_weights_follow_from_the_seed():
    def first_kernel(seed):
        keras.utils.set_random_seed(seed)
        return np.asarray(build(typed("MobileNetV3Small"), 5).weights[0])

    assert np.array_equal(first_kernel(1), first_kernel(1))
    assert not np.array_equal(first_kernel(1), first_kernel(2))


def steps(settings, count=3):
    """Train a few steps. Return the backbone, and whether each weight changed, by its path."""
    keras.utils.set_random_seed(1)
    model = build(typed("MobileNetV3Small", **settings), 5)
    network = next(layer for layer in model.layers if isinstance(layer, keras.Model))
    before = [np.array(weight) for weight in network.weights]
    model.compile(keras.optimizers.SGD(0.5), keras.losses.SparseCategoricalCrossentropy())
    model.fit(rgb(count=8), np.arange(8) % 5, batch_size=4, epochs=count, verbose=0)
    changed = {
        weight.path: not np.array_equal(old, np.asarray(weight))
        for weight, old in zip(network.weights, before, strict=True)
    }
    return network, changed


def test_freeze_layers_all_keeps_every_weight_and_statistic():
    _, changed = steps({"freeze_layers": "all", "batch_norm": "train"})
    assert not any(changed.values())


def test_freeze_layers_zero_trains_every_kernel():
    _, changed = steps({"freeze_layers": 0, "batch_norm": "train"})
    kernels = [path for path in changed if path.endswith("kernel")]
    assert len(kernels) > 20
    assert all(changed[path] for path in kernels)


@pytest.mark.parametrize("batch_norm", ["inference", "train"])
def test_freeze_layers_n_keeps_those_weights_and_statistics(batch_norm):
    """The article never froze layers. BatchNormalization of frozen layers must not learn either."""
    network, changed = steps({"freeze_layers": 60, "batch_norm": batch_norm})
    frozen = {weight.path for layer in network.layers[:60] for weight in layer.weights}
    assert len(frozen) > 20
    assert not any(changed[path] for path in frozen)
    rest = [path for path in changed if path not in frozen]
    assert any(changed[path] for path in rest if path.endswith("kernel"))
    assert any(changed[path] for path in rest if "moving" in path) == (batch_norm == "train")


def test_features_of_several_layers_are_joined_in_their_order():
    network = load_backbone("VGG16", 32, None)
    names = ["block3_pool", "block1_conv2", "block2_pool"]
    cut = up_to(network, names)
    assert cut.layers[-1].name == "block3_pool", "later layers are left out"
    inputs = rgb().astype("float32")
    joined = keras.Model(cut.inputs, pooled(cut.outputs)).predict_on_batch(inputs)
    maps = [keras.Model(network.inputs, network.get_layer(name).output).predict_on_batch(inputs) for name in names]
    np.testing.assert_allclose(joined, np.concatenate([each.mean(axis=(1, 2)) for each in maps], axis=1), rtol=1e-5)


def test_network_of_several_layers_trains_and_is_saved(tmp_path):
    # With these settings, gradients are not 0 for any initial weights.
    start = {"normalisation": "per_image", "dense_units": [64, 64]}
    settings = typed("VGG16", **start, feature_layers=["block1_pool", "block2_pool"], freeze_layers=2)
    model = build(settings, 5)
    before = {weight.path: weight.numpy().copy() for weight in model.weights}  # JAX trains in the same memory
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(rgb(), np.array([0, 4]), verbose=0)
    still = {path for path, old in before.items() if np.array_equal(model_weight(model, path), old)}
    assert {path.split("/")[0] for path in still} == {"block1_conv1"}
    assert not any("block3" in path for path in before)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", compile=False)
    np.testing.assert_array_equal(loaded.predict_on_batch(rgb()), model.predict_on_batch(rgb()))
    np.testing.assert_array_equal(in_float32(model, settings, 5).predict_on_batch(rgb()), model.predict_on_batch(rgb()))


def model_weight(model, path):
    return next(weight.numpy() for weight in model.weights if weight.path == path)


def test_unknown_feature_layer_is_an_error():
    with pytest.raises(RetinaflowError, match=r"vgg16 has no layer 'block3_pol'.*similar ones are block3_pool"):
        build(typed("VGG16", feature_layers=["block2_pool", "block3_pol"]), 5)


@pytest.mark.parametrize("name", [name for name, backbone in BACKBONES.items() if backbone.feature_layers])
def test_default_feature_layers_exist(name):
    layers = BACKBONES[name].feature_layers
    assert len(up_to(load_backbone(name, 96, None), layers).outputs) == len(layers)


def test_more_frozen_layers_than_layers_is_an_error():
    with pytest.raises(RetinaflowError, match="freeze_layers: 99 of vgg16, which has 19 layers"):
        freeze(load_backbone("VGG16", 32, None), 99, statistics_too=True)


def test_weights_are_read_from_the_file(tmp_path):
    source = load_backbone("MobileNetV3Small", 32, None)
    source.save_weights(tmp_path / "a.weights.h5")
    loaded = load_backbone("MobileNetV3Small", 64, tmp_path / "a.weights.h5")
    for old, new in zip(source.weights, loaded.weights, strict=True):
        assert np.array_equal(old, new)


@pytest.fixture(scope="module")
def weights_files(tmp_path_factory):
    """Return a folder of files for `weights`. Some fit MobileNetV3Small, others are of another kind or damaged."""
    folder = tmp_path_factory.mktemp("weights")
    for name, network in {
        "own": load_backbone("MobileNetV3Small", 32, None),
        "other": load_backbone("VGG16", 32, None),
        "sibling": load_backbone("MobileNetV3Large", 32, None),
        "top": keras.applications.MobileNetV3Small(weights=None, input_shape=(32, 32, 3), classes=5),
    }.items():
        network.save(folder / f"{name}.h5")
        network.save_weights(folder / f"{name}.weights.h5")
    load_backbone("MobileNetV3Small", 32, None).save(folder / "model.keras")
    for suffix in (".h5", ".weights.h5"):
        content = (folder / f"own{suffix}").read_bytes()
        for percent in (10, 50, 90):
            (folder / f"cut{percent}{suffix}").write_bytes(content[: len(content) * percent // 100])
        (folder / f"signature{suffix}").write_bytes(content[:8])
        (folder / f"noise{suffix}").write_bytes(content[:48] + bytes(len(content) - 48))
        (folder / f"html{suffix}").write_text("\n<!DOCTYPE html><html><title>404</title></html>")
        (folder / f"empty{suffix}").touch()
        (folder / f"model{suffix}").write_bytes((folder / "model.keras").read_bytes())
        (folder / f"pickle{suffix}").write_bytes(pickle.dumps({"weights": [1.0]}))
        (folder / f"folder{suffix}").mkdir()
    return folder


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("other", "these weights do not fit MobileNetV3Small without its top"),
        ("sibling", "these weights do not fit MobileNetV3Small without its top"),
        ("cut10", r"is cut off after \d+ of \d+ bytes"),
        ("cut50", r"is cut off after \d+ of \d+ bytes"),
        ("cut90", r"is cut off after \d+ of \d+ bytes"),
        ("signature", "is cut off after 8 of"),
        ("noise", "these weights do not fit"),
        ("html", "found an HTML page"),
        ("empty", "found an empty file"),
        ("model", "found a zip archive, such as a .keras model"),
        ("pickle", "found the bytes"),
        ("folder", "Is a directory"),
        ("missing", "No such file"),
    ],
)
@pytest.mark.parametrize("suffix", [".weights.h5", ".h5"])
def test_unfit_weights_file_is_an_error(weights_files, name, found, suffix):
    path = weights_files / f"{name}{suffix}"
    with pytest.raises(
        RetinaflowError, match=rf"{path.name}: .*{found}.*; expected a \.h5 or .*Set `weights`"
    ) as caught:
        load_backbone("MobileNetV3Small", 32, path)
    assert len(str(caught.value)) < 1500


def test_saved_model_is_no_weights_file(weights_files):
    with pytest.raises(RetinaflowError, match=r"model\.keras: has another extension than \.h5"):
        load_backbone("MobileNetV3Small", 32, weights_files / "model.keras")


def test_weights_with_the_top_need_names_of_layers(weights_files):
    with pytest.raises(RetinaflowError, match=r"top\.h5: these weights do not fit .*Layer count mismatch"):
        load_backbone("MobileNetV3Small", 32, weights_files / "top.h5")
    loaded = load_backbone("MobileNetV3Small", 32, weights_files / "top.weights.h5")
    whole = keras.applications.MobileNetV3Small(weights=None, input_shape=(32, 32, 3), classes=5)
    whole.load_weights(weights_files / "top.weights.h5")
    for found, expected in zip(loaded.weights, whole.weights, strict=False):
        assert np.array_equal(found, expected)


def test_damaged_weights_never_end_the_process(weights_files):
    """It runs in a new process, as libraries in C could end it. Metadata are damaged, not the numbers."""
    code = """
import sys
from pathlib import Path
import numpy as np
from retinaflow.errors import RetinaflowError
from retinaflow.networks.building import load_backbone
random = np.random.default_rng(0)
for path in map(Path, sys.argv[1:]):
    content, refused = path.read_bytes(), 0
    for place in random.integers(8, 3000, 5):
        damaged = bytearray(content)
        damaged[place : place + 4] = random.bytes(4)
        broken = path.with_name(f"damaged-{path.name}")
        broken.write_bytes(damaged)
        try:
            load_backbone("MobileNetV3Small", 32, broken)
        except RetinaflowError:
            refused += 1
    print(refused)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, *(weights_files / name for name in ("own.h5", "own.weights.h5"))],
        cwd=ROOT / "workflow",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert all(int(refused) > 0 for refused in done.stdout.split())


@pytest.mark.real
@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("VGG16", "vgg16_notop_imagenet_fp16.weights.h5"),
        ("InceptionV3", "inception_v3_notop_imagenet_fp16.weights.h5"),
        ("ResNet50", "resnet50_v1.5_notop_imagenet_fp16.weights.h5"),
    ],
)
def test_imagenet_weights_load(real_data, name, file):
    network = load_backbone(name, 96, real_data / "weights" / file)
    kernels = [np.asarray(weight) for weight in network.weights if weight.path.endswith("kernel")]
    assert all(np.isfinite(kernel).all() and kernel.std() > 0 for kernel in kernels)
