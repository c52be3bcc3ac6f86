"""What the head of a network is trained on before the network is: features that the backbone, as it is, makes once."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from retinaflow.networks import devices
from retinaflow.networks.building import policy
from retinaflow.preprocessing.batches import Batches
from retinaflow.training.checkpoints import Checkpoint
from retinaflow.training.schedule import VIEWS

AT_ONCE = 512  # photographs whose features are in memory together

log = logging.getLogger(__name__)
progress = logging.getLogger("retinaflow.progress")


class Features(Batches):
    """Batches of what the backbone made of the photographs of ``batches``, in epochs like theirs.

    ``views``: each float32 (n, width) in the order of the photographs; the epochs take them in turn.
    """

    def __init__(self, views: Sequence[np.ndarray], batches: Batches) -> None:
        """Describe the batches; ``views`` may be mapped from files."""
        super().__init__(
            batches.images,
            batches.batch_size,
            seed=batches.seed,
            devices=batches.devices,
            targets=batches.targets,
            weights=batches.weights,
            balance=batches.balance,
        )
        self.views = views

    def __getitem__(self, index: int) -> tuple[np.ndarray, ...]:
        """Batch ``index`` of the current epoch: float32 (b, width), then as of ``Batches``."""
        chosen = self.order[self._places(index)]
        return self.views[self.epoch % len(self.views)][chosen], *self._values(chosen)


def split(model: keras.Model) -> tuple[keras.Model, keras.Model]:
    """``model``, made by ``model.build``, in two that share its weights: up to its features, and the head."""
    features = model.get_layer("pool").output
    with policy(model.dtype_policy.name):
        halves = keras.Model(model.input, features), keras.Model(features, model.output, name=model.name)
    for half in halves:
        devices.adopt(half)
    return halves


def views_of(settings: Mapping[str, Any]) -> int:
    """How many views of each training photograph the head is trained on."""
    return min(VIEWS, settings["head_epochs"]) if settings["augment"] else 1


def features(
    backbone: keras.Model,
    batches: Batches,
    held_out: Batches,
    views: int,
    checkpoint: Checkpoint,
    in_time: Callable[[str, float], None],
    passed: Callable[[int, float], None],
) -> tuple[Features, Features]:
    """What ``backbone`` makes of ``views`` views of the photographs of ``batches``, and of those of ``held_out``.

    A view is how an epoch would change the photographs. What is done is kept in ``checkpoint``, and looked up there.
    ``in_time`` is told before each pass but the first what comes and how many seconds the last one took. ``passed``
    gets the number of images of each pass and its seconds.
    """
    # Each photograph once, whatever the balance of classes, and by itself.
    alone = None if batches.augmentation is None else {**batches.augmentation, "mixup": 0, "cutmix": 0}
    plain = Batches(
        batches.images,
        batches.batch_size,
        threads=batches.workers,
        seed=batches.seed,
        augmentation=alone,
        devices=batches.devices,
    )
    # A file for each, mapped: they may exceed memory, and what is mapped need not stay there.
    passes = [("validation", held_out, 0), *((f"view-{view + 1}", plain, view) for view in range(views))]
    found: list[np.ndarray] = []
    seconds = None
    for name, source, view in passes:
        if not checkpoint.has_array(name):
            if seconds is not None:
                in_time(f"the features of {name}", seconds)
            step = f"features for the head, {len(found) + 1}/{len(passes)}"
            progress.debug("%s", step, extra={"progress": {"step": step}})
            start = time.monotonic()
            checkpoint.keep_array(name, _features(backbone, source, view))
            seconds = time.monotonic() - start
            passed(len(source.images), seconds)
            log.info("features of %s: %.1f images/s", name, len(source.images) / seconds)
        found.append(checkpoint.array(name))
    return Features(found[1:], batches), Features(found[:1], held_out)


def standardise(model: keras.Model, shown: Features) -> None:
    """Have the head of ``model`` scale each of the features ``shown`` to mean 0 and deviation 1 over all views.

    Steps then go as far along one feature as along another (LeCun et al. 1998, Efficient BackProp, section 4.3).
    """
    mean = np.mean([view.mean(axis=0, dtype=np.float64) for view in shown.views], axis=0)
    # By rows: all the features may exceed memory.
    variance = np.zeros_like(mean)
    for view in shown.views:
        for start in range(0, len(view), AT_ONCE):
            variance += ((view[start : start + AT_ONCE] - mean) ** 2).sum(axis=0)
    variance /= sum(len(view) for view in shown.views)
    model.get_layer("standardise").set_weights([mean, variance])


def _features(backbone: keras.Model, batches: Batches, view: int) -> np.ndarray:
    batches.start_epoch(view)
    shown = backbone.predict(batches, verbose=0)
    ordered = np.empty(shown.shape, np.float32)
    ordered[batches.order] = shown
    return ordered
