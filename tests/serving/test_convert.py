"""Networks as ONNX graphs: raw outputs and heat maps are those of Keras."""

from pathlib import Path

import keras
import numpy as np
import pytest

import small
from retinaflow.errors import RetinaflowError
from retinaflow.networks import devices
from retinaflow.networks.backbones import BACKBONES, Backbone
from retinaflow.networks.building import build
from retinaflow.networks.objectives import width
from retinaflow.scoring.features import frozen_backbone
from retinaflow.serving import convert
from retinaflow.serving.bundle import BundledNetwork
from retinaflow.serving.convert import convert_backbone, convert_network
from retinaflow.serving.explain import relevance
from retinaflow.serving.runtime import BackboneGraph, NetworkGraph
from retinaflow.serving.sessions import graph_session

if keras.backend.backend() != "tensorflow":
    pytest.skip("converts with TensorFlow", allow_module_level=True)
devices.prepare_process(seed=0, threads=1)

SIZE = 32
PIXELS = np.random.default_rng(0).integers(0, 256, (40, SIZE, SIZE, 3), dtype=np.uint8)


def trained(**settings: object) -> keras.Model:
    """Return a network with drawn weights, those of statistics included."""
    model = build(small.typed(**settings), 3)
    for number, weight in enumerate(model.weights):
        drawn = np.random.default_rng(number).normal(0, 0.4, weight.shape)
        weight.assign(np.abs(drawn) + 0.1 if "variance" in weight.path else drawn)
    return model


@pytest.mark.parametrize(
    ("objective", "settings", "input_mode"),
    [
        ("softmax", {"head_epochs": 1}, "tf"),
        ("ordinal", {"feature_layers": ["first", "last"]}, "tf"),
        ("regression", {"feature_layers": ["first"]}, "tf"),
        ("regression", {"feature_layers": ["first"]}, "caffe"),
    ],
)
def test_graph_answers_like_keras(
    monkeypatch, tmp_path: Path, objective: str, settings: dict[str, object], input_mode: str
) -> None:
    small.register(monkeypatch)
    monkeypatch.setitem(BACKBONES, "Tiny", Backbone("Tiny", input_mode))
    model = trained(objective=objective, **settings)
    convert_network(model, objective, 3, tmp_path / "network.onnx")
    network = BundledNetwork("A", objective, f"{SIZE}-trim-keep-none", ["network.onnx"])
    graph = NetworkGraph(graph_session((tmp_path / "network.onnx").read_bytes(), 1), "network.onnx", network)
    expected = model.predict(PIXELS, verbose=0)
    assert np.ptp(expected, axis=0).max() > 0.01
    np.testing.assert_allclose(graph.outputs(PIXELS, width(objective, 3)), expected, rtol=1e-4, atol=1e-5)
    grades = np.arange(len(PIXELS)) % 3
    np.testing.assert_allclose(graph.relevance(PIXELS, grades), relevance(model, PIXELS, objective, grades), atol=1e-3)


MANY = {"poolings": ["mean", "max", "std", "generalised"], "root": True}


@pytest.mark.parametrize(("layers", "pooled"), [([], {}), (["first", "last"], {}), (["first", "last"], MANY)])
def test_backbone_graph_has_the_features_of_keras(monkeypatch, tmp_path: Path, layers: list[str], pooled: dict) -> None:
    small.register(monkeypatch)
    own_input = {"normalisation": "imagenet", "pooling": "mean", **pooled}
    model = frozen_backbone("Tiny", SIZE, layers=layers, weights=None, seed=3, threads=1, **own_input)
    convert_backbone(model, tmp_path / "backbone.onnx")
    network = BundledNetwork("A", "features", f"{SIZE}-trim-keep-none", ["backbone.onnx"])
    graph = BackboneGraph(graph_session((tmp_path / "backbone.onnx").read_bytes(), 1), "backbone.onnx", network)
    expected = model.predict(PIXELS, verbose=0)
    assert np.ptp(expected, axis=0).max() > 0.01
    np.testing.assert_allclose(graph.features(PIXELS), expected, rtol=1e-3, atol=1e-4)


def test_graph_that_answers_otherwise_is_no_output(monkeypatch, tmp_path: Path) -> None:
    small.register(monkeypatch)
    monkeypatch.setattr(convert, "TOLERANCE", -1.0)
    with pytest.raises(RetinaflowError, match=r"its ONNX graph cannot be used .raw outputs differ by"):
        convert_network(trained(), "softmax", 3, tmp_path / "network.onnx")
    assert not list(tmp_path.iterdir())
