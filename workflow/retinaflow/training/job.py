"""The training job: from the files of earlier stages to the files of a trained network."""

import json
import logging
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import keras
import numpy as np

from retinaflow.data.trained_on import find_seen, write_trained_on
from retinaflow.networks import devices
from retinaflow.networks.earlier_model import MODEL, RECORD, TRAINED_ON, earlier_model, has_same_head, read_record
from retinaflow.networks.extractor_files import backbone_name, extractor_file
from retinaflow.preprocessing.batches import Images
from retinaflow.preprocessing.checksums import has_checksums
from retinaflow.settings.train import TrainingSettings, decisive_settings
from retinaflow.storage.file_cache import CachedFiles, FileCache
from retinaflow.storage.files import digest_files, digest_json
from retinaflow.storage.integrity import recorded_file, write_document
from retinaflow.storage.lock import lock
from retinaflow.training.callbacks import OutOfTimeError
from retinaflow.training.checkpoints import Checkpoint
from retinaflow.training.fit import TrainingData, train
from retinaflow.training.history import write_history
from retinaflow.training.shared import Shared
from retinaflow.training.soft_labels import read_readers

log = logging.getLogger(__name__)
# The screen has a handler for the progress of jobs.
progress = logging.getLogger("retinaflow.progress")

# Seconds for the time before the first epoch and after the last one, and for slower epochs.
MARGIN = 120
HISTORY = "history.csv"


class Tracker(Protocol):
    """Experiment tracker. It receives each epoch of a training run."""

    def start(self, key: str, about: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> None:
        """Training with the digest ``key`` and the description ``about`` begins, or resumes after epochs ``rows``."""

    def epoch(self, row: Mapping[str, Any]) -> None:
        """An epoch is saved."""

    def end(self, files: Sequence[Path]) -> None:
        """Training is done and has written ``files``."""

    def fail(self) -> None:
        """Training has ended with an error."""


@dataclass(frozen=True)
class SplitFiles:
    """Files of a split: its index tables, and its shards as (pixels, rows)."""

    indices: Sequence[Path]
    shards: Sequence[tuple[Path, Path]]


@dataclass(frozen=True)
class TrainedFiles:
    """Files of a trained network."""

    model: Path
    history: Path
    grade_names: Path
    record: Path
    trained_on: Path


@dataclass(frozen=True, kw_only=True)
class TrainingJob:
    """Everything that a training job needs.

    Attributes:
        training_run: Name of the training run.
        settings: Settings of the model.
        grade_names: Names of the grades.
        seed: Seed of the training run.
        training: Files of the training split.
        validation: Files of the validation split.
        weights: Weights file of the backbone, Keras file of an earlier model, or None for random weights.
        shared_patients: Groups of names of data sets with the same patients.
        code: Digest of the code that training depends on.
        workers: Number of threads that read batches ahead.
        start: Start of the job on the clock of ``time.monotonic``.
        minutes: Time limit of the job, or None. The job ends before it with ``OutOfTimeError``, unless it is done.
        outputs: Files to write.
        checkpoints: Folder of the checkpoint. A finished job leaves nothing there.
        gpus: Names of the GPUs that the job may use.
        trackers: Experiment trackers.
        trained: Cache of trained networks. A network that is there is not trained again. None for no cache.
        shared: Cache of the steps that several models share. None if each model computes its own.
    """

    training_run: str
    settings: TrainingSettings
    grade_names: Sequence[str]
    seed: int
    training: SplitFiles
    validation: SplitFiles
    outputs: TrainedFiles
    checkpoints: Path
    weights: Path | None = None
    shared_patients: Sequence[Sequence[str]] = ()
    code: str = ""
    workers: int = 1
    start: float = 0.0
    minutes: float | None = None
    gpus: Sequence[str] = ()
    trackers: Sequence[Tracker] = ()
    trained: FileCache | None = None
    shared: FileCache | None = None

    @property
    def earlier(self) -> Path | None:
        """Keras file of the model that the training starts from, if any."""
        # The file of a backbone by path is no earlier model.
        return None if self.weights is None or extractor_file(self.settings.backbone) else earlier_model(self.weights)

    @property
    def deadline(self) -> float:
        """Latest end of the last epoch on the clock of ``time.monotonic``."""
        return math.inf if self.minutes is None else self.start + 60 * self.minutes - MARGIN

    def description(self, resolved: Mapping[str, Any]) -> dict[str, Any]:
        """Return everything but code and shards that decides the result; ``resolved`` is of ``devices.resolve``."""
        return {
            "training_run": self.training_run,
            "backbone": self.settings.backbone,
            "settings": decisive_settings(self.settings),
            "seed": self.seed,
            "grade_names": list(self.grade_names),
            "digests": {
                "train_index": digest_files(self.training.indices),
                "validation_index": digest_files(self.validation.indices),
                "weights": None if self.weights is None else digest_files([self.weights]),
            },
            "environment": devices.describe_environment(),
            "computed": dict(resolved),
        }

    def decisive(
        self,
        description: Mapping[str, Any],
        training: Images,
        validation: Images,
        reader_grades: np.ndarray | None = None,
    ) -> dict[str, Any]:
        """Return everything that decides the result, of the images and the grades of several readers.

        Names of the training run and of grades decide nothing. Neither do the rest of the index tables.
        """
        names = {"training_run", "grade_names", "digests"}
        # Names of grades decide whether the head of an earlier model fits.
        head = has_same_head(read_record(self.earlier), self.settings, self.grade_names) if self.earlier else None
        return {
            **({} if head is None else {"earlier_head": head}),
            **({} if reader_grades is None else {"reader_grades": reader_grades.tolist()}),
            **{key: value for key, value in description.items() if key not in names},
            "grades": len(self.grade_names),
            "weights": description["digests"]["weights"],
            "images": [[images.names, images.grades.tolist()] for images in (training, validation)],
            "code": self.code,
            "shards": [_pixels_state(*shard) for files in (self.training, self.validation) for shard in files.shards],
        }


def _pixels_state(pixels: Path, rows: Path) -> str | tuple[int, int]:
    """Return a value that differs for other pixels.

    Pixels are too much to read for a digest. Their table has the checksum of each image, so that a shard that is built
    again from the same images, such as after new names of grades, is the same. Without checksums, the time counts.
    """
    state = pixels.stat()
    return digest_files([rows]) if has_checksums(rows) else (state.st_size, state.st_mtime_ns)


def train_job(job: TrainingJob) -> None:
    """Train one network and write its files.

    An interrupted job leaves its epochs in the checkpoint. The next job resumes after them if data, settings and code
    are the same.

    Raises:
        RetinaflowError: Another process trains with the same checkpoint, or ``train`` failed.
        OutOfTimeError: The time limit would pass before the end of the next epoch.
    """
    settings = job.settings
    devices.prepare_process(job.seed, settings.cpu_threads, devices.compiles(settings.jit))
    resolved = devices.resolve(settings)
    names = job.grade_names
    training, validation = (Images(files.indices, files.shards, names) for files in (job.training, job.validation))
    description = job.description(resolved)
    by_reader = read_readers(job.training.indices, training.names, settings.soft_labels, names)
    decisive = job.decisive(description, training, validation, by_reader)
    key = digest_json(decisive)
    _warn_of_seen(job)
    # On a cluster, the job of a killed `snakemake` continues. Only this lock shows it to the next run.
    with lock(job.checkpoints):
        if job.trained and (found := job.trained.find(key)):
            _copy(job, found, description)
            return
        checkpoint = Checkpoint(job.checkpoints, key)
        _follow(checkpoint, job.trackers, description)
        try:
            trained, rows, summary = train(
                settings.model_copy(update=resolved),
                TrainingData(training, validation, names, by_reader),
                checkpoint=checkpoint,
                seed=job.seed,
                weights=job.weights,
                workers=job.workers,
                deadline=job.deadline,
                shared=Shared.of(job.shared, decisive) if job.shared else None,
            )
        except OutOfTimeError:  # the next job resumes
            raise
        except Exception:
            for tracker in job.trackers:
                tracker.fail()
            raise
        # The GPUs do not decide the result: an interrupted job resumes on any of them.
        used = list(job.gpus) if job.gpus and devices.has_gpu() else devices.names(settings.gpus)
        seconds = round(sum(row["seconds"] for row in rows), 1)
        computed = {**resolved, "devices": used}
        _write(job, trained, rows, {**description, "key": key, **summary, "computed": computed, "seconds": seconds})
        for tracker in job.trackers:
            tracker.end([job.outputs.history, job.outputs.record])
        checkpoint.remove()
    _report(rows, summary["best_epoch"])


def _follow(checkpoint: Checkpoint, trackers: Sequence[Tracker], description: Mapping[str, Any]) -> None:
    """Send the epochs of the checkpoint, and each one that it saves later, to the trackers."""

    def follow(rows: Sequence[Mapping[str, Any]]) -> None:
        for tracker in trackers:
            if rows:
                tracker.epoch(rows[-1])
            else:
                tracker.start(checkpoint.key, description, [])

    if checkpoint.batch_size:
        for tracker in trackers:
            tracker.start(checkpoint.key, description, checkpoint.rows)
    checkpoint.follow = follow


def _write(job: TrainingJob, trained: keras.Model, rows: Sequence[dict[str, Any]], record: Mapping[str, Any]) -> None:
    with recorded_file(job.outputs.model) as part:
        # Without compiled metrics and optimizer, each Keras can load the file, and it is a third as large.
        keras.Model(trained.input, trained.output, name=backbone_name(job.settings.backbone)).save(part)
    write_history(job.outputs.history, rows)
    _write_grade_names(job)
    _write_trained_on(job)
    write_document(job.outputs.record, record)
    if job.trained:
        outputs = job.outputs
        files = {MODEL: outputs.model, HISTORY: outputs.history, RECORD: outputs.record}
        job.trained.keep(record["key"], files)


def _write_grade_names(job: TrainingJob) -> None:
    write_document(job.outputs.grade_names, {name: grade for grade, name in enumerate(job.grade_names)})


def _copy(job: TrainingJob, found: CachedFiles, description: Mapping[str, Any]) -> None:
    """Write the files of a job whose network was trained before, from the files of that network."""
    record = json.loads(found.files[RECORD].read_text(encoding="utf-8"))
    # Copies: as links, they would have the time of that training, and Snakemake would take them for outdated.
    for source, target in ((found.files[MODEL], job.outputs.model), (found.files[HISTORY], job.outputs.history)):
        with recorded_file(target) as part:
            shutil.copyfile(source, part)
    _write_grade_names(job)
    _write_trained_on(job)
    names = {key: description[key] for key in ("training_run", "grade_names")}
    write_document(job.outputs.record, {**record, **names})
    result = f"trained before as {record['training_run']}: its files are copied"
    log.info("%s: %s", job.training_run, result)
    progress.debug("%s", result, extra={"progress": {"result": result}})


def _write_trained_on(job: TrainingJob) -> None:
    write_trained_on(
        job.outputs.trained_on,
        [*job.training.indices, *job.validation.indices],
        seed=job.seed,
        shared_patients=job.shared_patients,
        earlier=job.earlier and job.earlier.with_name(TRAINED_ON),
    )


def _warn_of_seen(job: TrainingJob) -> None:
    """Warn if the model that the training starts from was trained on images or patients of the validation split."""
    if job.earlier is None:
        return
    seen = find_seen(job.earlier.with_name(TRAINED_ON), job.validation.indices, job.shared_patients)
    if any(seen):
        log.warning(
            "%s: the model that it starts from was trained on %s of the validation split; scores there are too good",
            job.training_run,
            seen,
        )


def _report(rows: Sequence[Mapping[str, Any]], best: int) -> None:
    row = rows[best - 1]
    log.info("best epoch %d: %s", best, json.dumps(row))
    result = f"best epoch {best} of {len(rows)}, validation kappa {row['val_quadratic_weighted_kappa']:.3f}"
    progress.debug("%s", result, extra={"progress": {"result": result}})
