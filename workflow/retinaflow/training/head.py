"""Features for the training of the head alone. The backbone computes them once."""

import logging
import time
from collections.abc import Callable, Sequence

import keras
import numpy as np

from retinaflow.networks import devices
from retinaflow.networks.building import policy
from retinaflow.preprocessing.batches import Batches
from retinaflow.settings.train import TrainingSettings
from retinaflow.training.checkpoints import Checkpoint
from retinaflow.training.schedule import VIEWS
from retinaflow.training.shared import Shared

AT_ONCE = 512  # images whose features are in memory together

log = logging.getLogger(__name__)
progress = logging.getLogger("retinaflow.progress")


class FeatureBatches(Batches):
    """Batches of features of the images of ``batches``, with the same epochs.

    Attributes:
        views: Features of each view, float32 (n, width) in the order of the images. The epochs use them in turn.
    """

    def __init__(self, views: Sequence[np.ndarray], batches: Batches) -> None:
        """``views`` may be mapped from files."""
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
        """Batch ``index`` of the current epoch: float32 (b, width), then the values of ``Batches``."""
        chosen = self.order[self._places(index)]
        return self.views[self.epoch % len(self.views)][chosen], *self._values(chosen)


def split(model: keras.Model) -> tuple[keras.Model, keras.Model]:
    """Split a network of ``building.build`` into backbone and head. Both share its weights."""
    features = model.get_layer("pool").output
    with policy(model.dtype_policy.name):
        halves = keras.Model(model.input, features), keras.Model(features, model.output, name=model.name)
    for half in halves:
        devices.adopt(half)
    return halves


def views_of(settings: TrainingSettings) -> int:
    """Return the number of views of each training image for the head."""
    return min(VIEWS, settings.head_epochs)


def feature_batches(
    backbone: keras.Model,
    batches: tuple[Batches, Batches],
    *,
    views: int,
    checkpoint: Checkpoint,
    shared: Shared | None,
    before: Callable[[str, float], None],
    after: Callable[[int, float], None],
) -> tuple[FeatureBatches, FeatureBatches]:
    """Compute features of the images, or read them from the checkpoint.

    Args:
        backbone: Network from images to features.
        batches: Batches of training and of validation images.
        views: Number of views of each training image. A view is the image as augmented in one epoch.
        checkpoint: Store of the features of each view.
        shared: Features of the models that share them, if any do.
        before: Called before each pass but the first, with its name and the seconds of the previous one.
        after: Called after each pass, with its number of images and its seconds.

    Returns:
        Batches of features of training and of validation images.
    """
    training, validation = batches
    # Each image once and unmixed, without balanced sampling.
    augment = training.augment and training.augment.model_copy(update={"mixup": 0, "cutmix": 0})
    unmixed = Batches(
        training.images,
        training.batch_size,
        threads=training.workers,
        seed=training.seed,
        augment=augment,
        devices=training.devices,
    )
    # One mapped file for each pass: the features may exceed memory.
    passes = [("validation", validation, 0), *((f"view-{view + 1}", unmixed, view) for view in range(views))]
    found: list[np.ndarray] = []
    seconds = None
    for name, source, view in passes:
        if not checkpoint.has_array(name) and not (shared and shared.take_features(checkpoint, name)):
            if seconds is not None:
                before(f"the features of {name}", seconds)
            step = f"features for the head, {len(found) + 1}/{len(passes)}"
            progress.debug("%s", step, extra={"progress": {"step": step}})
            start = time.monotonic()
            checkpoint.save_array(name, _features(backbone, source, view))
            seconds = time.monotonic() - start
            if shared:
                shared.keep_features(checkpoint, name)
            after(len(source.images), seconds)
            log.info("features of %s: %.1f images/s", name, len(source.images) / seconds)
        found.append(checkpoint.array(name))
    return FeatureBatches(found[1:], training), FeatureBatches(found[:1], validation)


def standardise(model: keras.Model, features: FeatureBatches) -> None:
    """Set the layer ``standardise`` of ``model`` so that each feature has mean 0 and deviation 1 over all views.

    All features then learn at the same speed (LeCun et al. 1998, Efficient BackProp, section 4.3).
    """
    mean = np.mean([view.mean(axis=0, dtype=np.float64) for view in features.views], axis=0)
    # In blocks of rows: all features may exceed memory.
    variance = np.zeros_like(mean)
    for view in features.views:
        for start in range(0, len(view), AT_ONCE):
            variance += ((view[start : start + AT_ONCE] - mean) ** 2).sum(axis=0)
    variance /= sum(len(view) for view in features.views)
    model.get_layer("standardise").set_weights([mean, variance])


def _features(backbone: keras.Model, batches: Batches, view: int) -> np.ndarray:
    batches.start_epoch(view)
    computed = backbone.predict(batches, verbose=0)
    ordered = np.empty(computed.shape, np.float32)
    ordered[batches.order] = computed
    return ordered
