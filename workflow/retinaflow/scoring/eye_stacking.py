"""Fusion of both eyes: severity by what a network makes of each, fitted to photographs it was not trained on."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from sklearn.linear_model import LinearRegression

from retinaflow.errors import RetinaflowError
from retinaflow.networks import objectives
from retinaflow.scoring import ridge
from retinaflow.scoring.eyes import both_eyes
from retinaflow.scoring.feature_files import read_features
from retinaflow.scoring.raw_outputs import Outputs, read_outputs, write_outputs
from retinaflow.storage.tables import REBUILD

log = logging.getLogger(__name__)


class Seen(NamedTuple):
    """What one network, not trained on them, makes of n photographs of ``patients`` and their ``eyes``, names (n,).

    ``severity``: float64 (n,); ``features``: float (n, 2 d).
    """

    patients: Sequence[str]
    eyes: Sequence[str]
    severity: np.ndarray
    features: np.ndarray


class Fusion:
    """Severity by what a network makes of both eyes: a linear function of its severities, and of its features.

    The former is fitted by least squares; what it leaves, by ridge regression on what it does not tell of the features.
    That is ridge regression on both in which the severities are not shrunk (Frisch and Waugh 1933, Econometrica 1(4),
    387-401): where features add nothing, so large a strength is chosen that they count for nothing. It knows no other
    photographs than those it is fitted to, which must be such that the network was not trained on.
    """

    def __init__(self, seen: Seen, grades: np.ndarray, seed: int) -> None:
        """Fit to ``seen`` of known ``grades``, int64 (n,).

        Raises ``RetinaflowError`` if all photographs are of one patient.
        """
        both = both_eyes(seen.severity[:, np.newaxis], seen.patients, seen.eyes)
        features = both_eyes(seen.features, seen.patients, seen.eyes)
        self.line = LinearRegression().fit(both, grades)
        self.told = LinearRegression().fit(both, features)
        left = grades - self.line.predict(both)
        self.correction = ridge.fit(features - self.told.predict(both), left, grades, seen.patients, seed)

    def severity(self, seen: Seen) -> np.ndarray:
        """Of photographs that may be new: float64 (m,), about 0 to the highest level."""
        both = both_eyes(seen.severity[:, np.newaxis], seen.patients, seen.eyes)
        features = both_eyes(seen.features, seen.patients, seen.eyes)
        return self.line.predict(both) + self.correction.answer(features - self.told.predict(both))


def cross_fused(seen: Seen, grades: np.ndarray, seed: int) -> np.ndarray:
    """Severity float64 (n,) of each photograph by a ``Fusion`` that was fitted without its patient.

    Raises ``RetinaflowError`` if all photographs are of one patient.
    """
    severity = np.empty(len(grades))
    for training, held_out in ridge.divided(grades, seen.patients, seed):
        fusion = Fusion(_chosen(seen, training), grades[training], seed)
        severity[held_out] = fusion.severity(_chosen(seen, held_out))
    return severity


def _chosen(seen: Seen, places: np.ndarray) -> Seen:
    return Seen(
        [seen.patients[place] for place in places],
        [seen.eyes[place] for place in places],
        seen.severity[places],
        seen.features[places],
    )


Files = tuple[Path, Path, Path]


def fuse(
    runs: Mapping[str, Sequence[Files]], objective: str, classes: int, seed: int, fused: Mapping[str, Path]
) -> None:
    """Write what a ``Fusion`` of each run of a backbone says, as outputs of a regression.

    ``runs`` are, of each part, the runs' outputs, features and names of images. The first part is what each run was not
    trained on: of these photographs, each is answered without its patient, and where there are several runs, folds, the
    answers are put together. To the photographs of another part all runs answer, and the answers are averaged. Features
    of different networks do not mean the same: so each has a fusion of its own.

    Raises ``RetinaflowError`` if outputs and features are not of the same photographs.
    """
    held_out, *others = runs
    read = [_read(files, objective, classes) for files in runs[held_out]]
    answered = [said._replace(outputs=cross_fused(seen, said.grades, seed)[:, np.newaxis]) for said, seen in read]
    write_outputs(fused[held_out], _together(answered))
    if not others:
        return
    fusions = [Fusion(seen, said.grades, seed) for said, seen in read]
    log.info("strengths of the ridge regressions: %s", [fusion.correction.strength for fusion in fusions])
    for part in others:
        severities = []
        for fusion, files in zip(fusions, runs[part], strict=True):
            said, seen = _read(files, objective, classes)
            severities.append(fusion.severity(seen))
        write_outputs(fused[part], said._replace(outputs=np.mean(severities, axis=0)[:, np.newaxis]))


def _together(parts: Sequence[Outputs]) -> Outputs:
    images, filenames, patients, eyes = ([name for said in parts for name in said[place]] for place in range(4))
    grades, outputs = (np.concatenate([said[place] for said in parts]) for place in (4, 5))
    return Outputs(images, filenames, patients, eyes, grades, outputs)


def _read(files: tuple[Path, Path, Path], objective: str, classes: int) -> tuple[Outputs, Seen]:
    outputs, features, rows = files
    said = read_outputs(outputs, objective, classes)
    values, images = read_features(features, rows)
    if images != said.images:
        raise RetinaflowError(
            f"{features}: {len(images)} photographs, expected the {len(said.images)} of {outputs} in their order. "
            f"{REBUILD}"
        )
    return said, Seen(said.patients, said.eyes, objectives.severity(objective, said.outputs, classes), values)
