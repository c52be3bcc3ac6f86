"""Units of a screening study: images, eyes or patients, each with its truth, its risk, and whether it was gradable.

A unit is positive if at least one of its images is. Its risk is the highest risk of its gradable images. So a patient
is positive if at least one gradable eye is, as in the study of Abramoff, M. D. et al. (2018), Pivotal trial of an
autonomous AI-based diagnostic system for detection of diabetic retinopathy in primary care offices, npj Digital
Medicine 1, 39.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from retinaflow.evaluation.bootstrap import patient_indices

UNITS = ("image", "eye", "patient")
# Ways to count units without a result.
LEFT_OUT, AS_POSITIVE, WORST_CASE = COUNTINGS = ("left out", "counted as positive", "worst case")


class UnitImages(NamedTuple):
    """Images that are grouped to units.

    Attributes:
        positive: Truth of each image, bool (n,).
        risk: Risk of each image, float64 (n,), higher is worse; NaN of an ungradable image.
        patients: Names of the patients (n,).
        eyes: Names of the eyes (n,), "" for an unknown eye.
        unknown: Images without truth, which nobody could grade, bool (n,). They have no risk. None for no such image.
    """

    positive: np.ndarray
    risk: np.ndarray
    patients: Sequence[str]
    eyes: Sequence[str]
    unknown: np.ndarray | None = None


class StudyUnits(NamedTuple):
    """Units of a study.

    Attributes:
        positive: Truth of each unit by all of its images, bool (u,).
        gradable_positive: Truth of each unit by its gradable images, bool (u,).
        risk: Highest risk of the gradable images, float64 (u,); NaN if there is none.
        complete: Whether all images of the unit are gradable, bool (u,).
        members: Index of the patient of each unit, int64 (u,).
        of_image: Index of the unit of each image, int64 (n,).
        unknown: Units all of whose images have no truth, bool (u,).
    """

    positive: np.ndarray
    gradable_positive: np.ndarray
    risk: np.ndarray
    complete: np.ndarray
    members: np.ndarray
    of_image: np.ndarray
    unknown: np.ndarray

    @property
    def gradable(self) -> np.ndarray:
        """Whether each unit has a result, bool (u,)."""
        return np.isfinite(self.risk)


def group_units(images: UnitImages, unit: str) -> StudyUnits:
    """Group images to units.

    Args:
        images: At least one image.
        unit: ``image``, ``eye`` or ``patient``. An image of an unknown eye is an eye of its own.
    """
    members = patient_indices(images.patients)
    numbers = np.arange(len(members))
    if unit == "image":
        of_image = numbers
    elif unit == "patient":
        of_image = members
    else:
        rows = zip(images.patients, images.eyes, numbers.tolist(), strict=True)
        keys = [(patient, eye, -1 if eye else number) for patient, eye, number in rows]
        number_of = {key: place for place, key in enumerate(dict.fromkeys(keys))}
        of_image = np.array([number_of[key] for key in keys], dtype=np.int64)
    count = int(of_image.max()) + 1
    gradable = np.isfinite(images.risk)
    risk = np.full(count, -np.inf)
    np.maximum.at(risk, of_image, np.where(gradable, images.risk, -np.inf))
    patient_of = np.zeros(count, dtype=np.int64)
    patient_of[of_image] = members
    known = np.ones(len(members), dtype=bool) if images.unknown is None else ~images.unknown
    return StudyUnits(
        positive=_any(images.positive, of_image, count),
        gradable_positive=_any(images.positive & gradable, of_image, count),
        risk=np.where(np.isfinite(risk), risk, np.nan),
        complete=~_any(~gradable, of_image, count),
        members=patient_of,
        of_image=of_image,
        unknown=~_any(known, of_image, count),
    )


def count_results(units: StudyUnits, flagged: np.ndarray, counting: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return truth, result and patient of the units that count, bool, bool and int64 (m,).

    - ``left out``: units with a result, by their gradable images.
    - ``counted as positive``: all units. A unit with an ungradable image is referred.
    - ``worst case``: all units. A unit with an ungradable image is wrong, unless a gradable one flags a positive unit.

    A unit without truth is negative if it is counted as positive, and a missed positive in the worst case. So it never
    makes the model look better.

    Args:
        units: The units.
        flagged: Result of each unit, bool (u,); without a meaning where the unit is not gradable.
        counting: One of ``COUNTINGS``.
    """
    found = flagged & units.gradable
    if counting == LEFT_OUT:
        chosen = units.gradable
        return units.gradable_positive[chosen], found[chosen], units.members[chosen]
    if counting == AS_POSITIVE:
        return units.positive, found | ~units.complete, units.members
    positive = units.positive | units.unknown
    return positive, found | (~units.complete & ~positive), units.members


def _any(chosen: np.ndarray, of_image: np.ndarray, count: int) -> np.ndarray:
    return np.bincount(of_image, chosen, count) > 0
