"""Check for a results folder of version 0.1, before any file in it is deleted."""

from pathlib import Path

from retinaflow.errors import RetinaflowError

# Files of version 0.1 that have another name in this version. Each stage wrote at least one.
FORMER_FILES = (
    "inventory/.kept",
    "shards/*/*/.kept",
    "models/graders.json",
    "models/*/run.json",
    "models/*/*/run.json",
    "models/*/class_indices.json",
    "models/*/decision.json",
    "scores/*/*/outputs.csv",
    "scores/*/*/*/outputs.csv",
)


def check_layout(results: Path) -> None:
    """Refuse a results folder of the former layout.

    A run would delete its files as outdated and train all networks again.

    Args:
        results: The results folder. It may be missing.

    Raises:
        RetinaflowError: The folder has a file of the former layout. The message names one.
    """
    for pattern in FORMER_FILES:
        found = next(results.glob(pattern), None)
        if found is not None:
            raise RetinaflowError(
                f"{results}: the folder has the layout of retinaflow 0.1 (found {found}), expected that of 0.2, where "
                "files and columns have other names. Nothing in it was changed. Move it away, or set `results` to "
                f"another folder: mv '{results}' '{results}-0.1'"
            )
