"""Labels that may be wrong: confident learning.

Northcutt, C. G., Jiang, L. and Chuang, I. L. (2021), Confident learning,
Journal of Artificial Intelligence Research 70, 1373-1411. The probabilities must be of a model that has not trained on
the image, since networks learn wrong labels by heart.
"""

from typing import NamedTuple

import numpy as np


class SuspectLabels(NamedTuple):
    """Images whose label may be wrong, the most suspect first.

    Attributes:
        places: Place of each image, int64 (m,).
        suggested: Grade that the model suggests, int64 (m,).
        margin: Probability of the label minus that of the suggestion, float64 (m,); -1 is most suspect.
    """

    places: np.ndarray
    suggested: np.ndarray
    margin: np.ndarray


def find_suspect_labels(actual: np.ndarray, probabilities: np.ndarray) -> SuspectLabels:
    """Find images that the model confidently gives another grade than the label.

    The model is confident of a grade if its probability is at least the mean probability of this grade over the images
    with this label. So rare grades, with smaller probabilities, are suggested as often as others.

    Args:
        actual: Labels, int (n,), 0 to k - 1.
        probabilities: Probabilities of images that the model did not train on, float (n, k).
    """
    k = probabilities.shape[1]
    # A grade without images is never suggested.
    least = np.array(
        [probabilities[actual == grade, grade].mean() if (actual == grade).any() else 2 for grade in range(k)]
    )
    confident = np.where(probabilities >= least, probabilities, -1.0)
    suggested = confident.argmax(axis=1)
    rows = np.arange(len(actual))
    found = np.flatnonzero((confident[rows, suggested] > 0) & (suggested != actual))
    margin = probabilities[found, actual[found]] - probabilities[found, suggested[found]]
    order = np.argsort(margin, kind="stable")
    return SuspectLabels(found[order], suggested[found][order], margin[order])
