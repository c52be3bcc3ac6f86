"""Weights of a model of an earlier run, taken into a new network."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from retinaflow.errors import RetinaflowError
from retinaflow.networks.building import LEAST_VARIANCE, refresh_scaling
from retinaflow.networks.earlier_model import COPY, differences, has_same_head, read_record
from retinaflow.networks.keras_files import load_safely
from retinaflow.settings.train import TrainingSettings

log = logging.getLogger(__name__)


def take_weights(model: keras.Model, path: Path, settings: TrainingSettings, grade_names: Sequence[str]) -> None:
    """Set the weights of ``model`` to those of an earlier model: its backbone and, where it fits, its head.

    Args:
        model: Network that ``building.build`` made with ``settings``.
        path: Keras file of the earlier model.
        settings: Settings of the new network.
        grade_names: Names of the grades.

    Raises:
        RetinaflowError: The file is damaged, or its network has another backbone, other layers or another
            normalisation.
    """
    record = read_record(path)
    if wrong := list(differences(path, record, settings)):
        raise RetinaflowError("; ".join(wrong) + ".")
    source = load_safely(path, "model", COPY)
    take_backbone(model, source, path)
    if has_same_head(record, settings, grade_names):
        _take_head(model, source)
        log.info("backbone and head start with the weights of %s", path)
    else:
        log.info("the backbone starts with the weights of %s, and the head with new ones", path)


def take_backbone(model: keras.Model, source: keras.Model, path: Path) -> None:
    """Set the weights of the backbone in ``model`` to those in ``source``, the network of the file ``path``."""
    own, theirs = _backbone(model), _backbone(source)
    found = [] if theirs is None else theirs.get_weights()
    if own is None or [weight.shape for weight in found] != [tuple(weight.shape) for weight in own.weights]:
        raise RetinaflowError(
            f"{path}: its backbone has {len(found)} arrays of weights, and they do not fit those of {model.name}. "
            "Start from a model with the same backbone and feature_layers, trained by this version."
        )
    own.set_weights(found)
    refresh_scaling(own)


def _backbone(model: keras.Model) -> Any:
    return next((layer for layer in getattr(model, "layers", []) if isinstance(layer, keras.Model)), None)


def _take_head(model: keras.Model, source: keras.Model) -> None:
    """Copy the layers of the head. Without a layer that standardises features, the first dense layer does it."""
    scaling = [layer for layer in source.layers if layer.name == "standardise"]
    has_scaling = any(layer.name == "standardise" for layer in model.layers)
    for layer in model.layers:
        if not isinstance(layer, keras.layers.Dense):
            continue
        weights = source.get_layer(layer.name).get_weights()
        if layer.name == "dense_1" and scaling and not has_scaling:
            mean, variance = scaling[0].get_weights()
            kernel = weights[0] / np.sqrt(variance + LEAST_VARIANCE)[:, np.newaxis]
            weights = [kernel, weights[1] - mean @ kernel]
        layer.set_weights(weights)
    if scaling and has_scaling:
        model.get_layer("standardise").set_weights(scaling[0].get_weights())
