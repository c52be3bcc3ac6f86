"""Values of images from the graphs of a bundle, and the answers that follow from them and from the fellow eyes."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from retinaflow.networks import objectives
from retinaflow.preprocessing.augmentation import image_number
from retinaflow.scoring.eyes import average_eyes, both_eyes, fellow_eye_weights, have_fellow_eye
from retinaflow.scoring.linear_model import LinearModel
from retinaflow.serving.bundle import BundledNetwork
from retinaflow.serving.runtime import (
    Answers,
    BackboneGraph,
    LoadedModel,
    NetworkGraph,
    mean_raw_outputs,
    view_means,
)


class Computed(NamedTuple):
    """Values of n images, before fellow eyes are known.

    Attributes:
        outputs: Mean raw outputs of the trained networks, float64 (n, width); (n, 0) for frozen backbones.
        values: Values of one eye for linear models, float32 (n, d). One array for each graph of an eye stacking, one
            for all models on frozen backbones, none for other kinds.
    """

    outputs: np.ndarray
    values: list[np.ndarray]


class EyeAnswers(NamedTuple):
    """Answers for n images.

    Attributes:
        own: Answers of the model.
        models: Name of the model whose decision rule each answer has: the model itself, or that for one eye.
        thresholds: Threshold of referral of each, float64 (n,).
        both: Answers of the mean of both eyes, if the model has one image an answer.
        paired: Images that have a fellow eye, bool (n,).
    """

    own: Answers
    models: list[str]
    thresholds: np.ndarray
    both: Answers | None
    paired: np.ndarray


def compute(loaded: LoadedModel, decoded: Mapping[str, np.ndarray], names: Sequence[str] | None = None) -> Computed:
    """Run the graphs of a model.

    Args:
        loaded: The model.
        decoded: Pixels of n images, uint8 RGB (n, size, size, 3), by preprocessing variant.
        names: Name of each image without extension. The random views of features follow from it.
    """
    count = len(next(iter(decoded.values())))
    numbers = [image_number(name) for name in names or [""] * count]
    if loaded.backbones:
        parts = [
            _features(loaded, network, graph, decoded=decoded, numbers=numbers) for network, graph in loaded.backbones
        ]
        return Computed(np.empty((len(parts[0]), 0)), [np.concatenate(parts, axis=1)])
    means = view_means(loaded, decoded)
    outputs = mean_raw_outputs(loaded, means)
    if not loaded.linear:
        return Computed(outputs, [])
    [(network, graphs)], [of_graphs] = loaded.networks, means
    grades = len(loaded.bundle.grade_names)
    values = []
    for graph, raw, model in zip(graphs, of_graphs, loaded.linear, strict=True):
        severity = objectives.severity(network.objective, raw, grades)[:, np.newaxis]
        features = _features(loaded, network, graph, decoded=decoded, numbers=numbers)
        parts = [severity, features]
        # Deviations over one view are 0.
        one_view = loaded.bundle.feature_views.views == 1
        parts += [np.zeros_like(features)] if one_view and model.record["inputs"][0]["deviations"] else []
        values.append(np.concatenate(parts, axis=1, dtype=np.float32))
    return Computed(outputs, values)


def _features(
    loaded: LoadedModel,
    network: BundledNetwork,
    graph: BackboneGraph | NetworkGraph,
    *,
    decoded: Mapping[str, np.ndarray],
    numbers: Sequence[int],
) -> np.ndarray:
    """Features of images, float32 (n, d); of several views, (n, 2 d) with their deviations."""
    pixels = decoded[network.variant]
    if not network.augment or loaded.bundle.feature_views.views == 1:
        return graph.features(pixels)
    return graph.view_features(pixels, views=loaded.bundle.feature_views, augment=network.augment, numbers=numbers)


def joined(parts: Sequence[Computed]) -> Computed:
    """Join the values of several groups of images."""
    values = [np.concatenate(arrays) for arrays in zip(*(part.values for part in parts), strict=True)]
    return Computed(np.concatenate([part.outputs for part in parts]), values)


def eye_answers(computed: Computed, patients: Sequence[str], eyes: Sequence[str], *, loaded: LoadedModel) -> EyeAnswers:
    """Answer the values of n images.

    Args:
        computed: Values of the images.
        patients: Name of each patient, empty if unknown.
        eyes: Name of each eye, empty if unknown.
        loaded: The model.
    """
    bundle = loaded.bundle
    paired = have_fellow_eye(fellow_eye_weights(patients, eyes))
    models = [bundle.model] * len(paired)
    thresholds = np.full(len(paired), float(bundle.answer.decision_rule["referable_cut"]))
    one = loaded.one_eye
    if one:
        own = loaded.answer(_severity(loaded.linear, computed.values, (patients, eyes))[:, np.newaxis])
        if not paired.all():
            outputs = _severity(one.linear, computed.values)[:, np.newaxis] if one.linear else computed.outputs
            own = Answers(*map(_chosen(paired), own, one.answer(outputs)))
            models = [bundle.model if pair else one.name for pair in paired]
            thresholds = np.where(paired, thresholds, one.threshold)
        return EyeAnswers(own, models, thresholds, None, paired)
    outputs = _severity(loaded.linear, computed.values)[:, np.newaxis] if loaded.linear else computed.outputs
    averaged = average_eyes(outputs, patients, eyes=eyes, fellow_eye_weight=bundle.fellow_eye_weight)
    both = loaded.eye_average(averaged)
    return EyeAnswers(
        both if bundle.kind == "eye_average" else loaded.answer(outputs), models, thresholds, both, paired
    )


def _severity(
    models: Sequence[LinearModel],
    values: Sequence[np.ndarray],
    pairs: tuple[Sequence[str], Sequence[str]] | None = None,
) -> np.ndarray:
    """Mean severity by linear models, float64 (n,). ``pairs``: patients and eyes, for models of both eyes."""
    joint = [both_eyes(each, *pairs) if pairs else each for each in values]
    # Models on frozen backbones share one array.
    shared = joint if len(joint) == len(models) else joint * len(models)
    severities = [model.predict(each) for model, each in zip(models, shared, strict=True)]
    return np.asarray(np.mean(severities, axis=0))


def _chosen(paired: np.ndarray) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Return a function that takes rows with a fellow eye from its first array, and the others from its second."""

    def choose(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        return np.where(paired.reshape(-1, *[1] * (first.ndim - 1)), first, second)

    return choose
