"""Steps that several models share: features of the frozen backbone, and epochs of the head.

Variants of a model often differ only in settings that act later, such as ``freeze_layers``. The first of them computes
these steps, and the others copy them. The result is the same as without sharing.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from retinaflow.storage.file_cache import FileCache
from retinaflow.storage.files import digest_json
from retinaflow.training.checkpoints import Checkpoint

log = logging.getLogger(__name__)

# Settings that act after the head only.
AFTER_HEAD = frozenset(
    {
        *("freeze_layers", "epochs", "learning_rate", "warmup_epochs", "schedule", "minimum_learning_rate"),
        *("reduce_lr_factor", "reduce_lr_patience", "early_stopping_patience", "on_out_of_memory"),
    }
)
# Settings that decide the features of the frozen backbone.
OF_FEATURES = frozenset(
    {
        *("backbone", "backend", "image_size", "feature_layers", "normalisation", "augment", "batch_norm"),
        *("batch_size", "gpus", "precision", "jit", "cpu_threads"),
    }
)

ARRAY_FILE = "features.npy"


@dataclass(frozen=True)
class Shared:
    """Cache of the steps that the models of a configuration share, as one training run sees it.

    Attributes:
        cache: Files of these steps.
        features_key: Digest of everything that decides the features.
        head_key: Digest of everything that decides the epochs of the head.
        batch_size: Batch size that the digests are of.
    """

    cache: FileCache
    features_key: str
    head_key: str
    batch_size: int

    @classmethod
    def of(cls, cache: FileCache, decisive: Mapping[str, Any]) -> "Shared":
        """``decisive`` is everything that decides the result, with ``settings`` among it."""
        settings = decisive["settings"]
        features = {key: value for key, value in settings.items() if key in OF_FEATURES}
        head = {key: value for key, value in settings.items() if key not in AFTER_HEAD}
        return cls(
            cache,
            f"features-{digest_json({**decisive, 'settings': features})}",
            f"head-{digest_json({**decisive, 'settings': head})}",
            settings["batch_size"],
        )

    def take_head(self, checkpoint: Checkpoint) -> bool:
        """Copy the epochs of the head into ``checkpoint``, if they are cached. Return whether they are."""
        found = self.cache.find(self.head_key) if self._usable(checkpoint) else None
        if not found:
            return False
        checkpoint.adopt(found, found.about)
        log.info("the %d epochs of the head are those of another model", len(found.about))
        return True

    def keep_head(self, checkpoint: Checkpoint) -> None:
        """Cache the epochs of the head, which ``checkpoint`` has."""
        if self._usable(checkpoint):
            self.cache.keep(self.head_key, checkpoint.weights_files(), checkpoint.rows)

    def take_features(self, checkpoint: Checkpoint, name: str) -> bool:
        """Copy the features called ``name`` into ``checkpoint``, if they are cached. Return whether they are."""
        found = self.cache.find(f"{self.features_key}-{name}") if self._usable(checkpoint) else None
        if not found:
            return False
        checkpoint.adopt_array(name, found.files[ARRAY_FILE], found.digests[ARRAY_FILE])
        log.info("the features of %s are those of another model", name)
        return True

    def keep_features(self, checkpoint: Checkpoint, name: str) -> None:
        """Cache the features called ``name``, which ``checkpoint`` has."""
        if self._usable(checkpoint):
            self.cache.keep(f"{self.features_key}-{name}", {ARRAY_FILE: checkpoint.array_file(name)})

    def _usable(self, checkpoint: Checkpoint) -> bool:
        """Whether anything is shared: sums of other batches, which memory may require, are rounded differently."""
        return checkpoint.batch_size == self.batch_size
