"""Follow trainings from elsewhere: TensorBoard and MLflow, told of each epoch once it is kept.

Neither decides anything: where one cannot be written to, the log says so, and the training goes on without it. What a
training that was cut short has told is told once: both end up with the rows of `history.csv`.
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

log = logging.getLogger(__name__)

# Of a row of the history, what is no figure.
_OTHER = ("epoch", "phase")
_KEY = "retinaflow.training"
# Longest value of a setting that servers of MLflow take.
_LONGEST = 500

Row = Mapping[str, Any]


def trackers(settings: Mapping[str, Any], run: str, folder: Path) -> list["Guarded"]:
    """Those that the section ``tracking`` of the configuration asks for; TensorBoard's files go to ``folder``."""
    found: list[TensorBoard | MLflow] = []
    if settings["tensorboard"]:
        found.append(TensorBoard(folder))
    if settings["mlflow"] is not None:
        found.append(MLflow(settings["mlflow"], settings["experiment"], run))
    return [Guarded(tracker) for tracker in found]


class Guarded:
    """A tracker whose failure is told once and ends nothing."""

    def __init__(self, tracker: "TensorBoard | MLflow") -> None:
        self._tracker = tracker
        self._works = True

    def start(self, key: str, about: Mapping[str, Any], rows: Sequence[Row]) -> None:
        """A training that ``key`` tells from others, described by ``about``, goes on after its epochs ``rows``."""
        self._try(lambda: self._tracker.start(key, about, rows))

    def epoch(self, row: Row) -> None:
        """An epoch is kept."""
        self._try(lambda: self._tracker.epoch(row))

    def end(self, files: Sequence[Path]) -> None:
        """The training is done and has left ``files``."""
        self._try(lambda: self._tracker.end(files))

    def fail(self) -> None:
        """The training has ended in an error."""
        self._try(self._tracker.fail)

    def _try(self, tell: Callable[[], None]) -> None:
        if not self._works:
            return
        try:
            tell()
        except Exception as error:  # disks, networks and servers fail in ways of their own
            self._works = False
            told = " ".join(str(error).split())[:400]
            log.warning(
                "%s: cannot be told (%s: %s); training goes on without it",
                self._tracker.name,
                type(error).__name__,
                told,
            )


class TensorBoard:
    """Event files in a folder: `tensorboard --logdir results/tensorboard` shows those of all runs."""

    name = "TensorBoard"

    def __init__(self, folder: Path) -> None:
        """They take the place of what an earlier training has left in ``folder``."""
        self._folder = folder

    def start(self, key: str, about: Mapping[str, Any], rows: Sequence[Row]) -> None:  # noqa: ARG002
        """Begin with the epochs so far."""
        # With TensorFlow's own writer, another backend would share the GPU with TensorFlow.
        from tensorboard.summary import DirectoryOutput, Writer

        for old in self._folder.glob("events.out.tfevents.*"):
            old.unlink()
        self._writer = Writer(DirectoryOutput(str(self._folder)))
        for row in rows:
            self.epoch(row)

    def epoch(self, row: Row) -> None:
        """Figures of training and validation under one name, so that they are drawn together."""
        for name, value in _figures(row).items():
            figure = name.removeprefix("val_")
            part = "validation" if name.startswith("val_") else "train"
            self._writer.add_scalar(f"{figure}/{part}", value, row["epoch"])
        self._writer.flush()

    def end(self, files: Sequence[Path]) -> None:  # noqa: ARG002
        """Close the file."""
        self._writer.close()

    def fail(self) -> None:
        """Nothing: the file is whole as it is."""


class MLflow:
    """A run of an experiment, in a folder or on a server."""

    name = "MLflow"

    def __init__(self, address: str, experiment: str, run: str) -> None:
        """``address``: of a server, or a folder."""
        self._address, self._experiment, self._name = address, experiment, run
        self._run = ""

    def start(self, key: str, about: Mapping[str, Any], rows: Sequence[Row]) -> None:
        """Take up the run of ``key`` that was not ended, if ``rows`` say that it goes on, or begin one."""
        # A server that is not there must not hold up a GPU for minutes, and nobody else is told of anything.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        if (folder := _folder(self._address)) is not None:
            # Which MLflow keeps without developing it further, and asks for a word that this is known.
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        from mlflow import MlflowClient

        self._client = MlflowClient(tracking_uri=self._address)
        experiment = self._found_experiment(folder)
        wanted = f"tags.`{_KEY}` = '{key}' and attributes.status = 'RUNNING'"
        earlier = [found.info.run_id for found in self._client.search_runs([experiment], wanted)]
        if rows and earlier:
            self._run = earlier[0]
        else:
            for run in earlier:  # of an attempt that was given up
                self._client.set_terminated(run, "KILLED")
            tags = {_KEY: key, "retinaflow.run": self._name}
            self._run = self._client.create_run(experiment, run_name=self._name, tags=tags).info.run_id
            for name, value in flat(about).items():
                self._client.log_param(self._run, name, str(value)[:_LONGEST])
        told = {metric.step for metric in self._client.get_metric_history(self._run, "loss")} if rows else set()
        for row in rows:
            if row["epoch"] not in told:
                self.epoch(row)

    def _found_experiment(self, folder: Path | None) -> str:
        """The experiment, made if there is none: trainings that begin together have the same one."""
        from mlflow.exceptions import MlflowException

        with contextlib.ExitStack() as until:
            if folder is not None:
                folder.mkdir(parents=True, exist_ok=True)
                fcntl.flock(until.enter_context(open(folder / ".lock", "ab")), fcntl.LOCK_EX)
            if known := self._client.get_experiment_by_name(self._experiment):
                return str(known.experiment_id)
            try:
                return str(self._client.create_experiment(self._experiment))
            except MlflowException:  # in between, another training may have
                known = self._client.get_experiment_by_name(self._experiment)
                if known is None:
                    raise
                return str(known.experiment_id)

    def epoch(self, row: Row) -> None:
        """All figures, under the names of the history, at once."""
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        figures = [Metric(name, value, now, row["epoch"]) for name, value in _figures(row).items()]
        self._client.log_batch(self._run, metrics=figures)

    def end(self, files: Sequence[Path]) -> None:
        """Keep the files with the run, which is done."""
        for path in files:
            self._client.log_artifact(self._run, str(path))
        self._client.set_terminated(self._run)

    def fail(self) -> None:
        """What goes on after it is another run, with all epochs."""
        if self._run:
            self._client.set_terminated(self._run, "FAILED")


def _folder(address: str) -> Path | None:
    """The folder that ``address`` is; None of a server."""
    parts = urlsplit(address)
    if parts.scheme == "file":
        return Path(unquote(parts.path))
    return None if "://" in address else Path(address)


def _figures(row: Row) -> dict[str, float]:
    return {name: float(value) for name, value in row.items() if name not in _OTHER}
