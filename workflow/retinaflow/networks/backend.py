"""What Keras computes with: looked at when the Snakefile is read, chosen before a job imports Keras."""

import os
import sys
from importlib.util import find_spec

from retinaflow.errors import RetinaflowError


def backend_fault(backend: str) -> str:
    """What keeps Keras from computing with ``backend``, ``tensorflow``, ``jax`` or ``torch``; empty if nothing does."""
    if find_spec(backend):
        return ""
    added = "make setup" if backend == "tensorflow" else f"make {backend}"
    return (
        f"{backend!r} is not installed for {sys.executable}; install it (`{added}` does, into .venv; with conda, add "
        "it to envs/retinaflow.yaml), or set `backend` to another"
    )


def choose(backend: str) -> None:
    """Have Keras, which must not have been imported yet, compute with ``backend``.

    The configuration alone decides what a result was computed with: what the user's environment and Keras's own
    configuration file say does not count. Raises ``RetinaflowError`` if ``backend`` is not installed.
    """
    if missing := backend_fault(backend):
        raise RetinaflowError(f"backend: {missing}.")
    os.environ["KERAS_BACKEND"] = backend
