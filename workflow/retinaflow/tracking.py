"""Follow trainings from elsewhere: TensorBoard and MLflow, told of each epoch once it is kept.

Neither decides anything: where one cannot be written to, the log says so, and the training goes on without it. What a
training that was cut short has told is told once: both end up with the rows of `history.csv`.
"""

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from retinaflow.settings import flat

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
        """A training that ``key`` tells from others, described by ``about``, begins after its epochs ``rows``."""
        self._try(lambda: self._tracker.start(key, about, rows))

    def epoch(self, row: Row) -> None:
        """An epoch is kept."""
        self._try(lambda: self._tracker.epoch(row))

    def end(self, files: Sequence[Path]) -> None:
        """The training is done and has left ``files``."""
        self._try(lambda: self._tracker.end(files))

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


class MLflow:
    """A run of an experiment, in a folder or on a server."""

    name = "MLflow"

    def __init__(self, address: str, experiment: str, run: str) -> None:
        """``address``: of a server, or a folder."""
        self._address, self._experiment, self._name = address, experiment, run

    def start(self, key: str, about: Mapping[str, Any], rows: Sequence[Row]) -> None:
        """Take up the run that was begun for ``key``, if ``rows`` say that there is one, or begin it."""
        if self._address.startswith("file:") or "://" not in self._address:
            # Which MLflow keeps without developing it further, and asks for a word that this is known.
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        # A server that is not there must not hold up a GPU for minutes.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        from mlflow import MlflowClient

        self._client = MlflowClient(tracking_uri=self._address)
        known = self._client.get_experiment_by_name(self._experiment)
        identity = known.experiment_id if known else self._client.create_experiment(self._experiment)
        earlier = self._client.search_runs([identity], f"tags.`{_KEY}` = '{key}'", max_results=1) if rows else []
        if earlier:
            self._run = earlier[0].info.run_id
            told = {metric.step for metric in self._client.get_metric_history(self._run, "loss")}
        else:
            tags = {_KEY: key, "retinaflow.run": self._name}
            self._run = self._client.create_run(identity, run_name=self._name, tags=tags).info.run_id
            told = set()
            for name, value in flat(about).items():
                self._client.log_param(self._run, name.replace("[", ".").replace("]", ""), str(value)[:_LONGEST])
        for row in rows:
            if row["epoch"] not in told:
                self.epoch(row)

    def epoch(self, row: Row) -> None:
        """All figures, under the names of the history."""
        for name, value in _figures(row).items():
            self._client.log_metric(self._run, name, value, step=row["epoch"])

    def end(self, files: Sequence[Path]) -> None:
        """Keep the files with the run, which is done."""
        for path in files:
            self._client.log_artifact(self._run, str(path))
        self._client.set_terminated(self._run)


def _figures(row: Row) -> dict[str, float]:
    return {name: float(value) for name, value in row.items() if name not in _OTHER}
