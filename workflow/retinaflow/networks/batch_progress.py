"""Progress of a network over the batches of many images."""

import logging
from typing import Any

import keras

progress = logging.getLogger("retinaflow.progress")


class BatchProgress(keras.callbacks.Callback):
    """Reports the share of finished batches of ``keras.Model.predict`` to the screen of the run.

    Args:
        step: Short text for the user.
        first: Share that was finished before this call, 0 to 1.
        last: Share that is finished after it, 0 to 1.
    """

    def __init__(self, step: str, *, first: float = 0.0, last: float = 1.0) -> None:
        super().__init__()
        self.step, self.first, self.last = step, first, last

    def on_predict_batch_end(self, batch: int, logs: Any = None) -> None:  # noqa: ARG002
        """Report the share up to this batch."""
        batches = (self.params or {}).get("steps")
        if batches:
            share = self.first + (self.last - self.first) * min(1.0, (batch + 1) / batches)
            progress.debug("%s", self.step, extra={"progress": {"step": self.step, "share": round(share, 4)}})
