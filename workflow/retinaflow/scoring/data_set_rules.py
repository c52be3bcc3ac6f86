"""Decision rules of single data sets.

Cameras, populations and readers differ. One severity hence means another grade in another data set. Joined training
sets hence have a rule each, fitted on their own held-out images. No test image takes part.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from retinaflow.evaluation.grades import Grades
from retinaflow.scoring.decision_rules import OWN_VALUES, DecisionRule, LabelledOutputs, cross_fit, fit_decision_rule

# Fewest held-out images of a data set with a rule of its own, and of those on each side of the referable grade. These
# numbers are a choice: docs/methods.md has sets of 900 and 1,400 images.
SMALLEST_SET = 100
FEWEST_OF_A_SIDE = 10


def name_of_split(split: str) -> str:
    """Name of the data set of a test split: ``idrid`` of ``test-idrid``; empty for other splits."""
    return split.removeprefix("test-") if split.startswith("test-") else ""


def images_of_sets(images: Sequence[str], data_sets: Sequence[str]) -> dict[str, np.ndarray]:
    """Return the images of each joined data set, bool (n,). Their names begin with that of the set."""
    sets = np.array([image.partition("/")[0] for image in images], dtype=object)
    return {name: sets == name for name in data_sets}


def with_data_sets(
    rule: DecisionRule, labelled: LabelledOutputs, members: Mapping[str, np.ndarray], *, seed: int
) -> DecisionRule:
    """Return a rule with those of single data sets.

    Args:
        rule: Rule of all images together.
        labelled: The images that ``rule`` was fitted on.
        members: Images of each data set, bool (n,).
        seed: Seed of the fits.
    """
    found = {}
    for name, mask in _large_enough(labelled, members, rule.referable_grade).items():
        own = fit_decision_rule(
            labelled.subset(mask), rule.referable_grade, referable_sensitivity=rule.referable_sensitivity, seed=seed
        )
        found[name] = {value: getattr(own, value) for value in OWN_VALUES}
    return rule._replace(data_sets=found)


def cross_fit_data_sets(
    labelled: LabelledOutputs,
    referable_grade: int,
    *,
    members: Mapping[str, np.ndarray],
    referable_sensitivity: float,
    seed: int,
) -> Grades:
    """Predict each image by a rule that was fitted on other patients, of its own data set where there are enough.

    Args and result are those of ``cross_fit``; ``members`` has the images of each data set, bool (n,).
    """
    found = cross_fit(labelled, referable_grade, referable_sensitivity=referable_sensitivity, seed=seed)
    for mask in _large_enough(labelled, members, referable_grade).values():
        own = cross_fit(labelled.subset(mask), referable_grade, referable_sensitivity=referable_sensitivity, seed=seed)
        for values, of_set in zip(found, own, strict=True):
            values[mask] = of_set
    return found


def _large_enough(
    labelled: LabelledOutputs, members: Mapping[str, np.ndarray], referable_grade: int
) -> dict[str, np.ndarray]:
    """Images of the data sets that have enough for a rule of their own."""
    referable, patients = labelled.grades >= referable_grade, np.asarray(labelled.patients, dtype=object)
    return {
        name: mask
        for name, mask in members.items()
        if mask.sum() >= SMALLEST_SET
        and min((mask & referable).sum(), (mask & ~referable).sum()) >= FEWEST_OF_A_SIDE
        and len(set(patients[mask])) > 1  # A patient is graded by a rule of other patients.
    }
