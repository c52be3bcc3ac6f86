"""Settings of the experiment trackers."""

from retinaflow.settings.section import Place, Section, Text


class TrackingSettings(Section):
    """Experiment trackers that record each epoch."""

    tensorboard: bool = False
    """Write event files below `tensorboard/` in the results folder, for `tensorboard --logdir
    results/tensorboard`."""
    mlflow: Place | None = None
    """Folder or server address of MLflow, which records each training run; `null` for none. Jobs on nodes without a
    network need a folder. MLflow's own telemetry is off, unless `MLFLOW_DISABLE_TELEMETRY` is set."""
    experiment: Text = "retinaflow"
    """Name of MLflow's experiment."""
