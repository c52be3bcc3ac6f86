"""Backend of Keras: checked when the Snakefile is read, chosen before a job imports Keras."""

import os
import sys
from importlib.util import find_spec

from retinaflow.errors import RetinaflowError


def backend_fault(backend: str) -> str:
    """Return why Keras cannot use ``backend`` (``tensorflow``, ``jax`` or ``torch``). Empty if it can."""
    if find_spec(backend):
        return ""
    added = "make setup" if backend == "tensorflow" else f"make {backend}"
    return (
        f"{backend!r} is not installed for {sys.executable}; install it (`{added}` does, into .venv; with conda, add "
        "it to envs/retinaflow.yaml), or set another `backend`"
    )


def choose(backend: str) -> None:
    """Make Keras use ``backend``. Call before Keras is imported.

    The configuration alone decides the backend. The user's environment and the configuration file of Keras do not.

    Raises:
        RetinaflowError: ``backend`` is not installed.
    """
    if missing := backend_fault(backend):
        raise RetinaflowError(f"backend: {missing}.")
    os.environ["KERAS_BACKEND"] = backend
