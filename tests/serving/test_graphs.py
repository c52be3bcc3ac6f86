"""Joined graphs: TTA views and the decision rule in one file with the network."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from bundles import SIZE, VARIANT, network_graph, write_toy_bundle
from retinaflow.preprocessing.augmentation import write_view
from retinaflow.scoring.decision_rules import read_decision_rule
from retinaflow.serving.bundle import read_bundle
from retinaflow.serving.computed import compute
from retinaflow.serving.graph_check import graph_fault
from retinaflow.serving.graphs import MOST_GRAPH_VIEWS, answering_graph, view_graph
from retinaflow.serving.runtime import load_bundled_model
from retinaflow.serving.sessions import ANSWERS, graph_session

IMAGES = np.random.default_rng(0).integers(0, 256, (5, SIZE, SIZE, 3), np.uint8)


def test_views_of_a_graph_are_those_of_augmentation() -> None:
    session = graph_session(view_graph(MOST_GRAPH_VIEWS, SIZE).SerializeToString(), 1)
    (found,) = session.run(["views"], {"pixels": IMAGES})
    expected = np.empty((MOST_GRAPH_VIEWS, *IMAGES.shape), np.uint8)
    for number, view in enumerate(expected):
        for image, out in zip(IMAGES, view, strict=True):
            write_view(image, number, out)
    np.testing.assert_array_equal(found, expected.reshape(-1, SIZE, SIZE, 3))


@pytest.mark.parametrize(("objective", "views"), [("softmax", 8), ("regression", 2), ("ordinal", 1)])
def test_joined_graph_answers_like_the_bundle(tmp_path: Path, objective: str, views: int) -> None:
    folder = write_toy_bundle(tmp_path, "A", [("A", objective, ["A"])], tta_views=views)
    loaded = load_bundled_model(read_bundle(folder), 1)
    computed = compute(loaded, {VARIANT: IMAGES})
    expected = loaded.answer(computed.outputs)
    network_graph(tmp_path / "network.onnx", objective, 0)
    rule = read_decision_rule(tmp_path / "models/A/decision_rule.json")
    joined = answering_graph(onnx.load(tmp_path / "network.onnx"), rule, tta_views=views, size=SIZE)
    assert not graph_fault(joined.SerializeToString())
    session = graph_session(joined.SerializeToString(), 1)
    outputs, *answers = session.run(["outputs", *ANSWERS], {"pixels": IMAGES})
    np.testing.assert_allclose(outputs, computed.outputs, atol=1e-6)
    for name, found in zip(ANSWERS, answers, strict=True):
        np.testing.assert_allclose(found, getattr(expected, name), atol=1e-6)
