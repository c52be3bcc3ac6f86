"""Exported models answer like Keras, describe their input and output, and differences are reported."""

import errno
import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from sklearn.metrics import cohen_kappa_score

import small
from bundles import network_graph
from common import CLASSES, QUICK_BACKBONES
from faults import check_faults
from retinaflow.errors import RetinaflowError
from retinaflow.networks import devices
from retinaflow.networks.building import build
from retinaflow.networks.objectives import width
from retinaflow.preprocessing.batches import Images
from retinaflow.preprocessing.variant import Variant
from retinaflow.scoring.decision_rules import DecisionRule, LabelledOutputs, fit_decision_rule
from retinaflow.serving import exported
from retinaflow.storage.disk_errors import disk_refusal
from retinaflow.storage.tables import read_table

if keras.backend.backend() != "tensorflow":
    pytest.skip("exports with TensorFlow", allow_module_level=True)
export = pytest.importorskip("retinaflow.serving.export", reason="make export installs it")

# TensorFlow accepts a number of threads only before its first tensor, which other test files make, too.
devices.prepare_process(seed=0, threads=1)

FILES = {"onnx": "model.onnx", "litert": "model.tflite", "litert_int8": "model.int8.tflite"}
SIZE = 32


def decision_of(objective: str, classes: Sequence[str] = small.THREE) -> DecisionRule:
    rng, k = np.random.default_rng(0), len(classes)
    outputs = rng.dirichlet(np.ones(k), 60) if objective == "softmax" else rng.uniform(0, 1, (60, width(objective, k)))
    return fit_decision_rule(
        LabelledOutputs(objective, classes, outputs, rng.integers(0, k, 60), list("abcdef") * 10),
        1,
        referable_sensitivity=0.9,
        seed=0,
    )


@pytest.fixture
def images(make_part: Any) -> Images:
    pixels, levels = small.planted(40)
    return Images(*make_part("part", pixels, levels, classes=small.THREE), small.THREE)


def model_of(objective: str, monkeypatch: pytest.MonkeyPatch) -> keras.Model:
    small.register(monkeypatch)
    keras.utils.set_random_seed(0)
    model = build(small.typed(objective=objective), 3)
    for number, weight in enumerate(model.trainable_weights):
        values = np.random.default_rng(number).normal(0, 0.5, weight.shape)
        # So that no unit is dead, and a severity lies between the levels.
        weight.assign(np.abs(values) / 5 if objective == "regression" else values)
    return model


def exported_to(
    folder: Path,
    model: keras.Model,
    objective: str,
    images: Images,
    views: int = 1,
    classes: Sequence[str] = small.THREE,
) -> list[Any]:
    export.export(job_of(folder, model, objective, images, views, classes))
    return read_table(folder / "differences.csv", exported.DIFFERENCE_COLUMNS)


def job_of(
    folder: Path,
    model: keras.Model,
    objective: str,
    images: Images,
    views: int = 1,
    classes: Sequence[str] = small.THREE,
) -> Any:
    model.save(folder / "model.keras")
    files = {kind: folder / name for kind, name in FILES.items()}
    return export.ExportJob(
        training_run="A/fold-1",
        model=model,
        keras_file=folder / "model.keras",
        variant=Variant.parse(f"{images.size}-trim-keep-none"),
        decision_rule=decision_of(objective, classes),
        tta_views=views,
        training=images,
        validation=images,
        seed=3,
        threads=1,
        files=files,
        differences=folder / "differences.csv",
    )


@pytest.mark.parametrize(("objective", "views"), [("softmax", 1), ("softmax", 4), ("regression", 1), ("ordinal", 1)])
def test_outputs_are_equal_to_those_of_keras(
    tmp_path: Path, images: Images, monkeypatch: pytest.MonkeyPatch, objective: str, views: int
) -> None:
    model = model_of(objective, monkeypatch)
    rows = exported_to(tmp_path, model, objective, images, views)
    assert [(row["training_run"], row["format"], row["file"]) for row in rows] == [
        ("A/fold-1", kind, name) for kind, name in {"keras": "model.keras", **FILES}.items()
    ]
    assert [int(row["bytes"]) for row in rows] == [(tmp_path / row["file"]).stat().st_size for row in rows]
    assert {row["images"] for row in rows} == {"40"}
    for row in rows[:3]:
        assert float(row["largest_probability_difference"]) < 1e-5
        assert (row["grades_changed"], float(row["kappa_difference"])) == ("0", 0)
    largest, mean = (float(rows[3][f"{name}_probability_difference"]) for name in ("largest", "mean"))
    assert 1e-6 < mean <= largest < 0.2
    written = {path.name for path in tmp_path.glob("[!.]*.*")}
    assert written == {*FILES.values(), "model.keras", "differences.csv"}
    # Four bytes a weight there, one here.
    assert int(rows[3]["bytes"]) < int(rows[2]["bytes"])


def test_files_describe_input_and_output(tmp_path: Path, images: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    exported_to(tmp_path, model_of("softmax", monkeypatch), "softmax", images)
    found = [export.read_metadata(tmp_path / name) for name in FILES.values()]
    outputs = [content.pop("output") for content in found]
    assert found[0] == found[1] == found[2]
    answers = ["outputs", "severity", "probabilities", "risk", "grade", "referable"]
    assert [output["names"] for output in outputs] == [answers, answers, ["outputs"]]
    assert [output["decision_rule_inside"] for output in outputs] == [True, True, False]
    assert found[0]["input"]["shape"] == [None, SIZE, SIZE, 3]
    assert [found[0]["input"][name] for name in ("type", "channels", "crop", "aspect", "enhance")] == [
        *("uint8", "RGB", "trim", "keep", "none")
    ]
    assert DecisionRule(**found[0]["decision_rule"]) == decision_of("softmax")
    assert found[0]["training_run"] == "A/fold-1"
    # As anybody reads it who has no library of ours.
    with zipfile.ZipFile(tmp_path / "model.tflite") as archive:
        assert archive.namelist() == ["retinaflow.json"]
        assert json.loads(archive.read("retinaflow.json")) == {**found[0], "output": outputs[0]}


def test_repeated_export_is_the_same_bytes(tmp_path: Path, images: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    """Converters number names by counters of the process."""
    found, model = [], model_of("softmax", monkeypatch)
    for folder in (tmp_path / "first", tmp_path / "second"):
        folder.mkdir()
        rows = exported_to(folder, model, "softmax", images)
        # The row of the Keras file is left out: it has the time at which it was saved, and is the input of an export.
        found.append(rows[1:])
    assert found[0] == found[1]
    for name in FILES.values():
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()


def test_unsupported_format_is_one_clear_error(tmp_path: Path, images: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise ValueError("operation Erfc is not known")

    monkeypatch.setitem(export._RUNTIMES, "litert", (fail, export.run_litert))
    with pytest.raises(
        RetinaflowError, match=r"A/fold-1: litert cannot hold this model \(ValueError: operation Erfc .*"
    ):
        exported_to(tmp_path, model_of("softmax", monkeypatch), "softmax", images)
    assert sorted(path.name for path in tmp_path.glob("model*")) == ["model.keras", "model.onnx"]


def test_full_disk_is_not_an_unsupported_format(
    tmp_path: Path, images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setitem(export._RUNTIMES, "onnx", (fail, export.run_onnx))
    with pytest.raises(OSError, match="No space left on device"):
        exported_to(tmp_path, model_of("softmax", monkeypatch), "softmax", images)


def _impossible(count: int) -> dict[str, np.ndarray]:
    return {"outputs": np.full((count, 3), np.nan), "grade": np.zeros(count), "probabilities": np.zeros((count, 3))}


def test_converter_whose_scratch_disk_is_full_names_it(
    tmp_path: Path, images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keras writes a SavedModel to a temporary folder for LiteRT."""

    def fail(*_: Any) -> None:
        raise tf.errors.ResourceExhaustedError(None, None, "scratch/variables.data; No space left on device")

    monkeypatch.setitem(export._RUNTIMES, "onnx", (fail, export.run_onnx))
    with pytest.raises(tf.errors.ResourceExhaustedError) as caught:
        exported_to(tmp_path, model_of("softmax", monkeypatch), "softmax", images)
    assert disk_refusal(caught.value).startswith("scratch/variables.data: No space left on device. ")
    assert not list(tmp_path.glob("*.onnx"))


def test_exported_file_on_a_disk_that_fails(tmp_path: Path, images: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    """The writer of the file, and of the metadata in it. Keras itself writes with Python."""
    network_graph(tmp_path / "graph.onnx", "softmax", 1, SIZE)
    content = (tmp_path / "graph.onnx").read_bytes()

    def write(written: Any, _images: Any) -> None:
        written.path.write_bytes(content)

    def answer(*_: Any) -> Any:
        return lambda batch: {"outputs": np.full((len(batch), 3), 1 / 3, np.float32)}

    for kind in FILES:
        monkeypatch.setitem(export._RUNTIMES, kind, (write, answer))
    model = model_of("softmax", monkeypatch)
    job = job_of(tmp_path, model, "softmax", images)
    for kind, name in (("onnx", "model.onnx"), ("litert", "model.tflite")):

        def write_format(folder: Path, kind: str = kind, name: str = name) -> None:
            export._write_format(job, model, kind, folder / name)

        (tmp_path / kind).mkdir()
        assert check_faults(write_format, tmp_path / kind, most=3) >= 9


def test_invalid_outputs_are_refused(tmp_path: Path, images: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    write, _ = export._RUNTIMES["onnx"]
    monkeypatch.setitem(export._RUNTIMES, "onnx", (write, lambda *_: lambda batch: _impossible(len(batch))))
    with pytest.raises(RetinaflowError, match=r"model\.onnx: its answers do not fit objective softmax"):
        exported_to(tmp_path, model_of("softmax", monkeypatch), "softmax", images)


def test_changed_grades_are_counted() -> None:
    decision = decision_of("softmax")._replace(thresholds=[0.5, 1.5], temperature=1.0)
    levels = np.array([0, 1, 2, 0])
    right = np.eye(3)[levels]
    other = right.copy()
    other[3] = [0, 0, 1]
    path = Path(__file__)
    row = export.compared(
        "A", export.Exported("onnx", path, other), export.Exported("keras", path, right), levels, decision
    )
    assert row["grades_changed"] == 1
    assert float(row["largest_probability_difference"]) == pytest.approx(1)
    assert float(row["mean_probability_difference"]) == pytest.approx(2 / 12, abs=1e-6)
    kappa = cohen_kappa_score(levels, [0, 1, 2, 2], weights="quadratic")
    assert float(row["quadratic_weighted_kappa"]) == pytest.approx(kappa, abs=1e-6)
    assert float(row["kappa_difference"]) == pytest.approx(kappa - 1, abs=1e-6)


def test_undefined_kappa_is_left_empty(tmp_path: Path) -> None:
    decision = decision_of("softmax")._replace(thresholds=[0.5, 1.5])
    right = np.eye(3)[np.zeros(3, int)]
    one = export.Exported("keras", Path(__file__), right)
    row = export.compared("A", one, one, np.zeros(3, np.int64), decision)
    assert (row["quadratic_weighted_kappa"], row["kappa_difference"]) == ("", "")
    exported.write_table(tmp_path / "a.csv", exported.DIFFERENCE_COLUMNS, [row])
    exported.summarise_differences([tmp_path / "a.csv", tmp_path / "a.csv"], tmp_path / "all.csv", tmp_path / "all.md")
    assert len(read_table(tmp_path / "all.csv")) == 2
    assert (tmp_path / "all.md").read_text().count("| undefined | undefined | 0 of 3 |") == 2


def test_unknown_layers_are_replaced() -> None:
    """Of which EfficientNetV2 and ConvNeXt are made, with weights that are none of the start."""
    pixels = keras.Input((8, 8, 3), dtype="uint8")
    x = keras.layers.Normalization(mean=[10, 20, 30], variance=[4, 9, 0])(keras.ops.flip(pixels, axis=-1))
    x = keras.layers.Conv2D(6, 3, groups=3, padding="same", name="two_each")(x)
    x = keras.layers.Conv2D(6, 3, groups=6, strides=2, padding="same", activation="relu", name="one_each")(x)
    x = keras.layers.BatchNormalization()(keras.layers.Activation("gelu")(x))
    inner = keras.Model(pixels, x)
    outer = keras.Input((8, 8, 3), dtype="uint8")
    model = keras.Model(outer, keras.layers.GlobalAveragePooling2D()(inner(outer)))
    for number, weight in enumerate(model.weights):
        weight.assign(np.abs(np.random.default_rng(number).normal(1, 0.3, weight.shape)))
    shown = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
    known = export.convertible(model)
    names = {type(layer).__name__ for layer in known.layers[1].layers}
    assert {"Rescaling", "DepthwiseConv2D"} < names
    assert "Normalization" not in names
    np.testing.assert_allclose(known.predict(shown, verbose=0), model.predict(shown, verbose=0), rtol=1e-5)


def test_learned_normalisation_is_exported() -> None:
    """EfficientNet B0 to B7 have such a layer."""
    scaling = keras.layers.Normalization()
    pixels = keras.Input((8, 8, 3), dtype="uint8")
    inner = keras.Model(pixels, scaling(keras.layers.Rescaling(1 / 255)(pixels)))
    scaling.set_weights([np.float32([0.1, 0.2, 0.3]), np.float32([4, 5, 6]), np.int32(0)])
    scaling.finalize_state()
    outer = keras.Input((8, 8, 3), dtype="uint8")
    model = keras.Model(outer, keras.layers.GlobalAveragePooling2D()(inner(outer)))
    shown = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
    known = export.convertible(model)
    np.testing.assert_allclose(known.predict(shown, verbose=0), model.predict(shown, verbose=0), rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(QUICK_BACKBONES))
def test_every_backbone_can_be_exported(tmp_path: Path, make_part: Any, name: str) -> None:
    size = 96
    pixels = np.random.default_rng(0).integers(0, 256, (8, size, size, 3), dtype=np.uint8)
    levels = [0, 1, 2, 3, 4, 0, 1, 2]
    some = Images(*make_part("part", pixels, levels), CLASSES)
    keras.utils.set_random_seed(0)
    model = build(small.typed(name, image_size=size), 5)
    rows = exported_to(tmp_path, model, "softmax", some, classes=CLASSES)
    assert all(float(row["largest_probability_difference"]) < 1e-4 for row in rows[:3])
