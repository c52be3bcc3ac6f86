"""Experiment trackers (TensorBoard, MLflow). Optional; a tracker that fails never stops training.

Trackers receive each epoch after it is saved. Also after an interruption, they have each row of `history.csv` once.
"""

import contextlib
import fcntl
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from retinaflow.config.changes import flat
from retinaflow.settings.tracking import TrackingSettings

log = logging.getLogger(__name__)

# Columns of the history without a metric.
_OTHER = ("epoch", "phase")
_KEY = "retinaflow.training"
# Longest value of a setting that servers of MLflow accept.
_LONGEST = 500

HistoryRow = Mapping[str, Any]


def trackers(settings: TrackingSettings, run: str, folder: Path) -> list["Guarded"]:
    """Create the trackers that ``settings`` name. TensorBoard writes to ``folder``."""
    found: list[TensorBoard | MLflow] = []
    if settings.tensorboard:
        found.append(TensorBoard(folder))
    if settings.mlflow is not None:
        found.append(MLflow(settings.mlflow, settings.experiment, run))
    return [Guarded(tracker) for tracker in found]


class Guarded:
    """Tracker whose first failure is a warning in the log. Training continues without it."""

    def __init__(self, tracker: "TensorBoard | MLflow") -> None:
        self._tracker = tracker
        self._works = True

    def start(self, key: str, about: Mapping[str, Any], rows: Sequence[HistoryRow]) -> None:
        """Training with the digest ``key`` and the description ``about`` begins, or resumes after epochs ``rows``."""
        self._try(lambda: self._tracker.start(key, about, rows))

    def epoch(self, row: HistoryRow) -> None:
        """An epoch is saved."""
        self._try(lambda: self._tracker.epoch(row))

    def end(self, files: Sequence[Path]) -> None:
        """Training is done and has written ``files``."""
        self._try(lambda: self._tracker.end(files))

    def fail(self) -> None:
        """Training has ended with an error."""
        self._try(self._tracker.fail)

    def _try(self, send: Callable[[], None]) -> None:
        if not self._works:
            return
        try:
            send()
        except Exception as error:  # disks, networks and servers fail in ways of their own
            self._works = False
            reason = " ".join(str(error).split())[:400]
            log.warning(
                "%s: cannot record this training run (%s: %s); training continues without it",
                self._tracker.name,
                type(error).__name__,
                reason,
            )


class TensorBoard:
    """Event files in a folder: `tensorboard --logdir results/tensorboard` shows those of all runs."""

    name = "TensorBoard"

    def __init__(self, folder: Path) -> None:
        """The files replace those of an earlier training run in ``folder``."""
        self._folder = folder

    def start(self, key: str, about: Mapping[str, Any], rows: Sequence[HistoryRow]) -> None:  # noqa: ARG002
        """Begin with the epochs so far."""
        # With TensorFlow's own writer, another backend would share the GPU with TensorFlow.
        from tensorboard.summary import DirectoryOutput, Writer

        for old in self._folder.glob("events.out.tfevents.*"):
            old.unlink()
        self._writer = Writer(DirectoryOutput(str(self._folder)))
        for row in rows:
            self.epoch(row)

    def epoch(self, row: HistoryRow) -> None:
        """Write metrics of training and validation under one name, so that one chart has both."""
        for name, value in _metrics(row).items():
            metric = name.removeprefix("val_")
            split = "validation" if name.startswith("val_") else "train"
            self._writer.add_scalar(f"{metric}/{split}", value, row["epoch"])
        self._writer.flush()

    def end(self, files: Sequence[Path]) -> None:  # noqa: ARG002
        """Close the file."""
        self._writer.close()

    def fail(self) -> None:
        """Leave the file, which is complete."""


class MLflow:
    """A run of an experiment, in a folder or on a server."""

    name = "MLflow"

    def __init__(self, address: str, experiment: str, run: str) -> None:
        """``address`` is a server or a folder."""
        self._address, self._experiment, self._name = address, experiment, run
        self._run = ""

    def start(self, key: str, about: Mapping[str, Any], rows: Sequence[HistoryRow]) -> None:
        """Resume the unfinished run of ``key`` if there are ``rows``, or begin a new one."""
        # A server that does not answer must not block a GPU for minutes. MLflow sends no telemetry.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        if (folder := _folder(self._address)) is not None:
            # MLflow asks for this consent: it maintains folders without developing them further.
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        from mlflow import MlflowClient

        self._client = MlflowClient(tracking_uri=self._address)
        experiment = self._found_experiment(folder)
        wanted = f"tags.`{_KEY}` = '{key}' and attributes.status = 'RUNNING'"
        earlier = [found.info.run_id for found in self._client.search_runs([experiment], wanted)]
        if rows and earlier:
            self._run = earlier[0]
        else:
            for run in earlier:  # of an abandoned attempt
                self._client.set_terminated(run, "KILLED")
            tags = {_KEY: key, "retinaflow.run": self._name}
            self._run = self._client.create_run(experiment, run_name=self._name, tags=tags).info.run_id
            for name, value in flat(about).items():
                self._client.log_param(self._run, name, str(value)[:_LONGEST])
        known = {metric.step for metric in self._client.get_metric_history(self._run, "loss")} if rows else set()
        for row in rows:
            if row["epoch"] not in known:
                self.epoch(row)

    def _found_experiment(self, folder: Path | None) -> str:
        """Return the experiment, or create it. Training runs that begin together share one."""
        from mlflow.exceptions import MlflowException

        with contextlib.ExitStack() as until:
            if folder is not None:
                folder.mkdir(parents=True, exist_ok=True)
                fcntl.flock(until.enter_context(open(folder / ".lock", "ab")), fcntl.LOCK_EX)
            if known := self._client.get_experiment_by_name(self._experiment):
                return str(known.experiment_id)
            try:
                return str(self._client.create_experiment(self._experiment))
            except MlflowException:  # another training run may have created it
                known = self._client.get_experiment_by_name(self._experiment)
                if known is None:
                    raise
                return str(known.experiment_id)

    def epoch(self, row: HistoryRow) -> None:
        """Log all metrics at once, under the names of the history."""
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        metrics = [Metric(name, value, now, row["epoch"]) for name, value in _metrics(row).items()]
        self._client.log_batch(self._run, metrics=metrics)

    def end(self, files: Sequence[Path]) -> None:
        """Store the files with the run and end it."""
        for path in files:
            self._client.log_artifact(self._run, str(path))
        self._client.set_terminated(self._run)

    def fail(self) -> None:
        """Mark the run as failed. A later attempt is another run with all epochs."""
        if self._run:
            self._client.set_terminated(self._run, "FAILED")


def _folder(address: str) -> Path | None:
    """Return ``address`` as a folder, or None for a server."""
    parts = urlsplit(address)
    if parts.scheme == "file":
        return Path(unquote(parts.path))
    return None if "://" in address else Path(address)


def _metrics(row: HistoryRow) -> dict[str, float]:
    return {name: float(value) for name, value in row.items() if name not in _OTHER}
