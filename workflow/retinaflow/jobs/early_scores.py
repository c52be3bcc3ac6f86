"""Raw outputs and features of a network, computed by the job that trained it.

That job has loaded the backend, which takes longer than an epoch of a small network. The results are those of the
stages `score` and `run_features`, which copy them from the cache. None of this decides a result of training: test sets
are no inputs of it, and images that are not preprocessed yet are left to these stages.
"""

import contextlib
import functools
import logging
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras

from retinaflow.config.lookups import shard_counts, variant
from retinaflow.config.models import EYE_STACKING, Models, network_of
from retinaflow.errors import RetinaflowError
from retinaflow.jobs.code import code_digests
from retinaflow.jobs.score_cache import CACHE, FEATURE_ROWS, FEATURE_VALUES, RAW_OUTPUTS, ScoreCache, ScoredFiles
from retinaflow.preprocessing.batches import Images
from retinaflow.scoring.features import FeatureViews, fine_tuned, write_features
from retinaflow.scoring.score import load_model, score_images
from retinaflow.settings.augment import AugmentSettings
from retinaflow.settings.root import Configuration
from retinaflow.settings.train import TrainingSettings
from retinaflow.storage.documents import read_own
from retinaflow.storage.tables import read_table
from retinaflow.training.schedule import NETWORK

log = logging.getLogger(__name__)

# Writes files for images to a folder, and returns them by name.
Write = Callable[[Images, ScoredFiles, Path], Mapping[str, Path]]
OUTPUTS_SCRIPT, FEATURES_SCRIPT = "score.py", "run_features.py"


@dataclass(frozen=True, kw_only=True)
class EarlyScores:
    """Results of the later stages with the network of one training run.

    Attributes:
        training_run: Name of the training run.
        config: Complete configuration.
        scripts: Folder of the scripts of these stages.
        threads: Number of threads that read images.
        end: Time on the clock of ``time.monotonic`` at which the job must have ended.
    """

    training_run: str
    config: Configuration
    scripts: Path
    threads: int
    end: float = math.inf

    def __post_init__(self) -> None:
        """Read the code of the later stages now, as this process imports it. It may change during the training."""
        with contextlib.suppress(RetinaflowError, OSError):  # ``compute`` logs it.
            for script in (OUTPUTS_SCRIPT, FEATURES_SCRIPT):
                code_digests(self.scripts / script)  # It reads each file once.

    def compute(self) -> None:
        """Fill the cache. After an error, which is logged, the later stages compute their results themselves."""
        running = self._cache / f"{self.training_run.replace('/', '-')}.running"
        if self._settings.gpus > 1:  # The later stages use one.
            return
        if running.exists():
            log.warning("%s: an earlier job ended while it was scoring; the later stages score it", self.training_run)
            running.unlink(missing_ok=True)
            return
        try:
            running.parent.mkdir(parents=True, exist_ok=True)
            running.touch()
            self._score()
            if EYE_STACKING in self._models.eye_kinds:
                self._extract()
        except Exception as error:
            log.warning("%s: not scored by the job that trained it: %s", self.training_run, error)
        # After a kill, this file stays: the next job does not try it, and removes the file.
        running.unlink(missing_ok=True)

    def _score(self) -> None:
        views = self.config.score.tta_views
        own: dict[str, Any] = {"objective": self._settings.objective, "tta_views": views}

        def write(images: Images, _: ScoredFiles, folder: Path) -> Mapping[str, Path]:
            table = folder / RAW_OUTPUTS
            score_images(self._network, images, table, threads=self.threads, **own)
            return {RAW_OUTPUTS: table}

        self._fill(self._cache_of(OUTPUTS_SCRIPT, own), self._models.scored, views=views, write=write)

    def _extract(self) -> None:
        views = self.config.features.views
        augment = self._settings.augment if views > 1 else None
        own = {"objective": self._settings.objective, "views": views, "augment": augment and augment.model_dump()}

        def write(images: Images, files: ScoredFiles, folder: Path) -> Mapping[str, Path]:
            features, rows = folder / FEATURE_VALUES, folder / FEATURE_ROWS
            write_features(
                fine_tuned(self._network),
                images,
                indices=files.indices,
                views=FeatureViews(views, augment or AugmentSettings(), self.config.seed),
                threads=self.threads,
                features=features,
                rows=rows,
            )
            return {FEATURE_VALUES: features, FEATURE_ROWS: rows}

        self._fill(self._cache_of(FEATURES_SCRIPT, own), self._models.scored_pairs, views=views, write=write)

    def _fill(self, cache: ScoreCache, splits: Sequence[str], *, views: int, write: Write) -> None:
        """Cache what ``write`` writes for the images of each split to a folder."""
        for split in splits:
            files = self._files(self._models.stored_splits(self.training_run, split))
            key, images = self._missing(cache, files, views)
            if images:
                with tempfile.TemporaryDirectory(dir=self._cache, prefix=".part-") as part:
                    cache.keep(key, files, results=write(images, files, Path(part)), rows=len(images))

    def _missing(self, cache: ScoreCache, files: ScoredFiles, views: int) -> tuple[str | None, Images | None]:
        """Key and images of a split that can be computed now and are not in the cache."""
        key = cache.key(files) if files.present else None
        if key is None or cache.has(files):
            return None, None
        images = Images(files.indices, files.shards, self.config.data.grade_names)
        return key, images if self._fits(len(images) * views) else None

    def _fits(self, images: int) -> bool:
        """Whether the time limit leaves time for ``images``, if each takes as long as in training."""
        if self.end == math.inf:
            return True
        rows = read_table(self._model.with_name("history.csv"), ("phase", "seconds"))
        epochs = [float(row["seconds"]) for row in rows if row["phase"] == NETWORK]
        if not epochs:
            return False
        trained = read_own(self._model.with_name("training_run.json"))["photographs"]
        return time.monotonic() + images * statistics.median(epochs) / sum(trained.values()) < self.end

    def _cache_of(self, script: str, own: Mapping[str, Any]) -> ScoreCache:
        """Cache of the stage with this ``script``. Its parameters are those of the rule."""
        parameters = {
            "code": code_digests(self.scripts / script),
            "grade_names": list(self.config.data.grade_names),
            "seed": self.config.seed,
            "backend": self._settings.backend,
            "cpu_threads": self._settings.cpu_threads,
            **own,
        }
        return ScoreCache(self._cache, self._model, parameters)

    def _files(self, splits: list[str]) -> ScoredFiles:
        results = Path(self.config.results)
        folder = results / "shards" / variant(self.config, network_of(self.training_run)).name
        places = [folder / split / str(number) for split in splits for number in range(self._shards[split])]
        return ScoredFiles(
            [results / "organized" / split / "index.csv" for split in splits],
            [place.with_suffix(".npy") for place in places],
            [place.with_suffix(".csv") for place in places],
        )

    @functools.cached_property
    def _models(self) -> Models:
        return Models.of(self.config)

    @functools.cached_property
    def _shards(self) -> Mapping[str, int]:
        return shard_counts(self.config)

    @functools.cached_property
    def _network(self) -> keras.Model:
        """The network as the later stages load it."""
        return load_model(
            self._model,
            self.config.data.grade_names,
            objective=self._settings.objective,
            seed=self.config.seed,
            threads=self._settings.cpu_threads,
        )

    @property
    def _settings(self) -> TrainingSettings:
        return self.config.models[network_of(self.training_run)]

    @property
    def _model(self) -> Path:
        return Path(self.config.results, "models", self.training_run, "model.keras")

    @property
    def _cache(self) -> Path:
        return Path(self.config.results, CACHE)
