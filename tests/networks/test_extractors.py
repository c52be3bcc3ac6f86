"""Feature extractors in ONNX and Keras form: one small network in both, and files that cannot be used."""

import json
import zipfile

import keras
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from retinaflow.errors import RetinaflowError
from retinaflow.networks import devices
from retinaflow.networks.extractor_files import extractor_faults, needed_extractor_files, read_onnx
from retinaflow.preprocessing.batches import Images
from retinaflow.scoring.feature_files import read_features
from retinaflow.scoring.features import FeatureViews, fine_tuned, frozen_backbone, write_features
from retinaflow.serving.bundle import BundledNetwork
from retinaflow.serving.convert import convert_network
from retinaflow.serving.explain import relevance
from retinaflow.serving.runtime import NetworkGraph
from retinaflow.serving.sessions import graph_session
from retinaflow.settings.augment import AugmentSettings
from retinaflow.settings.train import NormalisationSettings
from retinaflow.training.job import train_job
from small import THREE, planted, small_job, typed

# TensorFlow accepts a number of threads only until it has made its first tensor.
devices.prepare_process(seed=0, threads=1)
SIZE = 32
RNG = np.random.default_rng(0)
KERNEL = RNG.normal(size=(5, 5, 3, 6)).astype(np.float32) / 9
BIAS = RNG.normal(size=6).astype(np.float32)
PIXELS = RNG.integers(0, 256, (5, SIZE, SIZE, 3), dtype=np.uint8)
HALF = NormalisationSettings(mean=[0.5, 0.4, 0.3], std=[0.5, 0.25, 0.2])


class Plain:
    """Batches of given pixels."""

    num_batches = 2

    def __getitem__(self, index):
        return (PIXELS[:3],) if index == 0 else (PIXELS[3:],)


def onnx_model(path, *, layout="NCHW", form="maps", dtype=TensorProto.FLOAT, count="n", size=SIZE, **more):
    """Write a convolution with ReLU: its maps, its means, or its cells as tokens."""
    shape = [count, 3, size, size] if layout == "NCHW" else [count, size, size, 3]
    nodes, name = [], "pixels"

    def add(kind, *inputs, **attributes):
        nonlocal name
        name = f"x{len(nodes)}"
        nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))

    if dtype != TensorProto.FLOAT:
        add("Cast", name, to=TensorProto.FLOAT)
    if layout == "NHWC":
        add("Transpose", name, perm=[0, 3, 1, 2])
    add("Conv", name, "kernel", "bias", strides=[4, 4])
    add("Relu", name)
    ends = {"maps": 4, "means": 2, "tokens": 3}[form]
    if form == "means":
        add("ReduceMean", name, axes=[2, 3], keepdims=0)
    elif form == "tokens":
        add("Reshape", name, "tokens")
        add("Transpose", name, perm=[0, 2, 1])
    elif layout == "NHWC":
        add("Transpose", name, perm=[0, 2, 3, 1])
    weights = [
        numpy_helper.from_array(KERNEL.transpose(3, 2, 0, 1).copy(), "kernel"),
        numpy_helper.from_array(BIAS, "bias"),
        numpy_helper.from_array(np.array([0, 6, 49]), "tokens"),
    ]
    output = helper.make_tensor_value_info(name, TensorProto.FLOAT, more.get("output", [None] * ends))
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("pixels", dtype, shape)], [output], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    onnx.save(model, path, **{key: value for key, value in more.items() if key != "output"})
    return path


def keras_model(path, *, form="maps", dtype="float32"):
    """Save the same network in Keras form."""
    pixels = keras.Input((SIZE, SIZE, 3), dtype=dtype)
    x = keras.layers.Rescaling(1.0)(pixels) if dtype == "uint8" else pixels
    layer = keras.layers.Conv2D(6, 5, strides=4, activation="relu", name="maps")
    x = layer(x)
    layer.set_weights([KERNEL, BIAS])
    x = {
        "maps": lambda x: x,
        "means": keras.layers.GlobalAveragePooling2D(),
        "tokens": keras.layers.Reshape((49, 6)),
    }[form](x)
    keras.Model(pixels, x).save(path)
    return path


def features(path, *, normalisation=HALF, pooling="mean", layers=()):
    settings = {"layers": list(layers), "weights": None, "seed": 0, "threads": 1}
    found = frozen_backbone(str(path), SIZE, normalisation=normalisation, pooling=pooling, **settings)
    batches = Plain() if str(path).endswith(".onnx") else PIXELS
    computed = found.predict(batches, verbose=0)
    assert computed.shape[1] == found.output_shape[-1]
    return computed


def expected(scaled):
    """Maps of the network in NumPy, (n, 7, 7, 6)."""
    windows = np.lib.stride_tricks.sliding_window_view(scaled, (5, 5), axis=(1, 2))[:, ::4, ::4]
    return np.maximum(np.einsum("nijcyx,yxcd->nijd", windows, KERNEL) + BIAS, 0)


SCALED = (PIXELS / 255 - HALF.mean) / HALF.std


@pytest.mark.parametrize("form", ["maps", "means", "tokens"])
def test_both_forms_have_the_same_features(tmp_path, form):
    maps = expected(SCALED)
    keras_features = features(keras_model(tmp_path / "a.keras", form=form))
    np.testing.assert_allclose(keras_features, maps.mean(axis=(1, 2)), atol=1e-5)
    for layout in ("NCHW", "NHWC"):
        found = features(onnx_model(tmp_path / f"{layout}.onnx", layout=layout, form=form))
        np.testing.assert_allclose(found, keras_features, atol=1e-5)


def test_first_token_is_the_same_in_both_forms(tmp_path):
    first = expected(SCALED)[:, 0, 0]
    for path in (keras_model(tmp_path / "a.keras", form="tokens"), onnx_model(tmp_path / "a.onnx", form="tokens")):
        np.testing.assert_allclose(features(path, pooling="first"), first, atol=1e-5)


def test_uint8_input_is_the_same_in_both_forms(tmp_path):
    means = expected(PIXELS.astype(float)).mean(axis=(1, 2))
    of_keras = keras_model(tmp_path / "a.keras", dtype="uint8")
    of_onnx = onnx_model(tmp_path / "a.onnx", dtype=TensorProto.UINT8)
    for path in (of_keras, of_onnx):
        np.testing.assert_allclose(features(path, normalisation="none"), means, rtol=1e-4)


def test_fixed_number_of_images_is_filled(tmp_path):
    path = onnx_model(tmp_path / "a.onnx", count=2, form="means")
    np.testing.assert_allclose(features(path), expected(SCALED).mean(axis=(1, 2)), atol=1e-5)


def test_feature_layers_name_layers_of_keras_and_outputs_of_onnx(tmp_path):
    means = expected(SCALED).mean(axis=(1, 2))
    path = keras_model(tmp_path / "a.keras", form="means")
    np.testing.assert_allclose(features(path, layers=["maps"]), means, atol=1e-5)
    path = onnx_model(tmp_path / "a.onnx")
    (output,) = read_onnx(path).outputs
    np.testing.assert_allclose(features(path, layers=[output.name] * 2), np.tile(means, 2), atol=1e-5)


def test_features_of_a_split_are_written(tmp_path, make_part):
    indices, shards = make_part("train", PIXELS, [0, 1, 2, 3, 4])
    images = Images(indices, shards, [f"class{n}" for n in range(5)])
    network = frozen_backbone(
        str(onnx_model(tmp_path / "a.onnx")),
        SIZE,
        layers=[],
        weights=None,
        seed=0,
        threads=1,
        normalisation=HALF,
        pooling="mean",
    )
    files = {"features": tmp_path / "f.npy", "rows": tmp_path / "f.csv"}
    write_features(network, images, indices=indices, views=FeatureViews(1, AugmentSettings(), 0), threads=1, **files)
    array, names = read_features(files["features"], files["rows"])
    assert names == images.names
    assert array.shape == (5, 12)
    np.testing.assert_allclose(array[:, :6], expected(SCALED).mean(axis=(1, 2)), rtol=1e-3, atol=1e-3)


def fault(path, **changes):
    """The only fault of a file that a check before all jobs finds."""
    (found,) = extractor_faults(typed(**{"backbone": str(path), "normalisation": "none", **changes}))
    return found


def test_usable_files_have_no_fault(tmp_path):
    for path in (onnx_model(tmp_path / "a.onnx"), keras_model(tmp_path / "a.keras")):
        assert not list(extractor_faults(typed(backbone=str(path), normalisation="none")))


@pytest.mark.parametrize(
    ("name", "content", "found"),
    [
        ("a.onnx", b"", "this is no ONNX file"),
        ("a.onnx", b"<html>Not found</html>", "this is no ONNX file"),
        ("a.onnx", b"\x80\x04\x95\x0b", "this is no ONNX file"),
        ("a.onnx", b"\x08\x08", "it has no graph"),
        ("a.onnx", b"\x3a\xff\xff\xff\xff\x7f", "a field is longer than its message"),
        ("a.onnx", b"\xff" * 20, "more than ten bytes"),
        ("a.keras", b"\x89HDF\r\n\x1a\n", "is no Keras file"),
    ],
)
def test_other_files_are_refused_before_any_job(tmp_path, name, content, found):
    (tmp_path / name).write_bytes(content)
    assert found in fault(tmp_path / name)
    assert "there is no file" in fault(tmp_path / f"b{name}")


def test_every_cut_file_is_refused(tmp_path):
    content = onnx_model(tmp_path / "a.onnx").read_bytes()
    for end in range(1, len(content), 97):
        (tmp_path / "cut.onnx").write_bytes(content[:end])
        assert fault(tmp_path / "cut.onnx")


@pytest.mark.parametrize(
    ("made", "changes", "found"),
    [
        ({"size": 64}, {}, "takes images of 64 x 64 px, found image_size 32"),
        ({"output": [None]}, {}, "has the shape (?), expected features (n, d)"),
        ({"dtype": TensorProto.DOUBLE}, {}, "has type 11 of ONNX, expected float32"),
        ({"dtype": TensorProto.UINT8}, {"normalisation": "imagenet"}, "set normalisation to none"),
        ({}, {"feature_layers": ["other"]}, "there is no output 'other', found x1"),
    ],
)
def test_unfit_onnx_is_refused_before_any_job(tmp_path, made, changes, found):
    assert found in fault(onnx_model(tmp_path / "a.onnx", **made), **changes)


def external(path, **changes):
    """Write an ONNX file with its weights in another file, with some values of the description of one changed."""
    onnx_model(path, save_as_external_data=True, location=f"{path.stem}.data", size_threshold=0)
    model = onnx.load(path, load_external_data=False)
    for entry in model.graph.initializer[0].external_data:
        entry.value = changes.get(entry.key, entry.value)
    path.write_bytes(model.SerializeToString())
    return path


def test_weights_beside_the_file_are_used(tmp_path):
    path = external(tmp_path / "a.onnx")
    assert needed_extractor_files(path) == [path, tmp_path / "a.data"]
    np.testing.assert_allclose(features(path), expected(SCALED).mean(axis=(1, 2)), atol=1e-5)
    (tmp_path / "a.data").write_bytes(b"")
    assert "found 0 bytes, expected" in fault(path)
    (tmp_path / "a.data").unlink()
    assert "there is no such file; copy it, too" in fault(path)


@pytest.mark.parametrize("location", ["../outside.data", "/etc/passwd", "link/outside.data", ""])
def test_weights_outside_of_the_folder_are_refused(tmp_path, location):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path)
    (tmp_path / "outside.data").write_bytes(bytes(10_000))
    assert "outside of its folder" in fault(external(folder / "a.onnx", location=location))


def test_unknown_operation_is_one_error(tmp_path):
    path = onnx_model(tmp_path / "a.onnx")
    model = onnx.load(path)
    model.graph.node[0].domain = "own.code"
    model.opset_import.append(helper.make_opsetid("own.code", 1))
    path.write_bytes(model.SerializeToString())
    with pytest.raises(RetinaflowError, match="ONNX Runtime cannot load this network"):
        features(path)


def test_first_token_of_maps_is_an_error(tmp_path):
    with pytest.raises(RetinaflowError, match="has maps and no tokens; set pooling to mean"):
        features(onnx_model(tmp_path / "a.onnx"), pooling="first")


def test_code_in_a_keras_file_is_never_run(tmp_path):
    pixels = keras.Input((SIZE, SIZE, 3))
    keras.Model(pixels, keras.layers.Lambda(lambda x: x * 2)(pixels)).save(tmp_path / "a.keras")
    with pytest.raises(RetinaflowError, match=r"cannot load this network safely.*without Lambda layers"):
        features(tmp_path / "a.keras")


def test_keras_file_of_a_class_of_its_own_is_refused(tmp_path):
    path, other = keras_model(tmp_path / "a.keras"), tmp_path / "b.keras"
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(other, "w") as target:
        for name in source.namelist():
            content = source.read(name)
            if name == "config.json":
                config = json.loads(content)
                config["config"]["layers"][1].update(module="os", class_name="system", registered_name="system")
                content = json.dumps(config).encode()
            target.writestr(name, content)
    with pytest.raises(RetinaflowError, match="cannot load this network safely"):
        features(other)


def test_head_of_a_keras_file_predicts_from_images(tmp_path, make_part):
    parts = (make_part("train", *planted(12), classes=THREE), make_part("validation", *planted(6, 1), classes=THREE))
    path = keras_model(tmp_path / "own encoder.keras", form="tokens")
    head = {"freeze_layers": "all", "head_epochs": 2, "epochs": 1, "batch_norm": "inference"}
    settings = typed(backbone=str(path), normalisation=HALF.model_dump(), **head)
    job = small_job(tmp_path / "run", parts, settings, weights=path)
    train_job(job)
    model = keras.saving.load_model(job.outputs.model, safe_mode=True)
    assert model.name == "own_encoder"
    assert model.predict(PIXELS, verbose=0).shape == (5, 3)
    np.testing.assert_allclose(
        fine_tuned(model).predict(PIXELS, verbose=0), expected(SCALED).mean(axis=(1, 2)), atol=1e-5
    )
    with pytest.raises(RetinaflowError, match="features without places in the image, so there are no heat maps"):
        relevance(model, PIXELS, "softmax", np.zeros(5, int))
    convert_network(model, "softmax", 3, tmp_path / "network.onnx")
    network = BundledNetwork("own", "softmax", f"{SIZE}-trim-keep-none", ["network.onnx"])
    graph = NetworkGraph(graph_session((tmp_path / "network.onnx").read_bytes(), 1), "network.onnx", network)
    np.testing.assert_allclose(graph.outputs(PIXELS, 3), model.predict(PIXELS, verbose=0), atol=1e-5)
    assert not graph.relevance(PIXELS, np.zeros(5, int)).any()
