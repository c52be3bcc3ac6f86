"""Patients of a test set that refit the model at a new site. They are in no test result."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

from retinaflow.data.frames import read_frame
from retinaflow.data.new_site import too_few_patients
from retinaflow.errors import RetinaflowError


def local_patients(inventories: Mapping[str, Path], counts: Mapping[str, int], seed: int) -> dict[str, frozenset[str]]:
    """Draw the patients of each test set that refits the model.

    Args:
        inventories: Inventory of each test set by name.
        counts: Number of patients of those that refit it.
        seed: Seed of the draw.
    """
    return {split: draw_local_patients(inventories[split], split, count, seed) for split, count in counts.items()}


def draw_local_patients(inventory: Path, split: str, count: int, seed: int) -> frozenset[str]:
    """Draw patients with usable images. A digest of their names and the seed chooses them, whatever the model.

    Args:
        inventory: Inventory of the test set.
        split: Name of the test set, for the message.
        count: Number of patients.
        seed: Seed of the draw.

    Raises:
        RetinaflowError: The test set has fewer than twice as many patients.
    """
    frame = read_frame(inventory, ("patient", "problem"))
    patients = sorted(set(frame["patient"][frame["problem"] == ""]))
    if fault := too_few_patients(len(patients), count):
        raise RetinaflowError(f"{inventory}: {split} {fault}.")
    return frozenset(sorted(patients, key=lambda patient: _key(patient, seed))[:count])


def _key(patient: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed} {patient}".encode(errors="surrogateescape")).digest()
