"""Settings of the experiment trackers."""

from retinaflow.settings.section import Place, Section, Text


class TrackingSettings(Section):
    """Experiment trackers that record each epoch."""

    tensorboard: bool = False
    """Write event files below `tensorboard/` in the results folder, for `tensorboard --logdir
    results/tensorboard`."""
    mlflow: Place | None = None
    """Folder or server address where MLflow keeps a run for each training; `null` for none. Jobs on nodes without a
    network need a folder. MLflow's own telemetry is off, unless `MLFLOW_DISABLE_TELEMETRY` says otherwise."""
    experiment: Text = "retinaflow"
    """Name of MLflow's experiment."""
