"""Gates before grading: images whose quality is too low, and images that are no fundus image. NumPy and OpenCV alone.

Both gates are fitted on the training set. Their thresholds refuse a stated share of good images.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from retinaflow.data.labels import UNGRADED
from retinaflow.errors import RetinaflowError
from retinaflow.storage.documents import parse_document
from retinaflow.storage.tables import stream_table

GATES_FILE = "gates.json"
# Kinds of problems of images that were read, and are not graded.
GATE_PROBLEMS = POOR_QUALITY, NO_FUNDUS = "poor_quality", "no_fundus_image"
# Figures of quality, each 0 to 1, and the reason and advice for an image with a low one.
FIGURES = {
    "focus": "blurred; clean the lens, focus again, and ask the patient not to move",
    "exposure": "too dark or too bright; adjust the flash, and wait until the pupil is wide",
    "field": "part of the field is missing or dark; centre the pupil, keep the distance, and lift the lid",
}
REFUSED_SHARE = 0.01
# Ungradable images that a linear model of quality needs, and its ridge penalty for figures with a deviation of 1.
FEWEST_UNGRADABLE = 20
PENALTY = 1e-3
MOST_COMPONENTS = 16
# Images for each component. Fewer make the distance of an unseen image too large.
IMAGES_A_COMPONENT = 8
FEWEST_IMAGES = 100
# Least standard deviation along a component, of features with a deviation of 1: smaller ones are noise.
LEAST_SPREAD = 0.1
FITTED_IMAGES = 500
# Side of the thumbnail, in cells, and of the cells, in pixels.
CELLS, CELL = 4, 16

_NUMBER = {"type": "number", "minimum": -1e12, "maximum": 1e12}
_NUMBERS = {"type": "array", "maxItems": 1000, "items": _NUMBER}
_GATE = {
    "share": {"type": "number", "minimum": 0, "maximum": 1},
    "images": {"type": "integer", "minimum": 1},
}


def _nullable(**properties: Any) -> dict[str, Any]:
    return {
        "type": ["object", "null"],
        "additionalProperties": False,
        "required": [*properties, *_GATE],
        "properties": {**properties, **_GATE},
    }


_LOWEST = {"type": "object", "additionalProperties": _NUMBER, "propertyNames": {"enum": list(FIGURES)}}
_SHARE = {"type": "number", "minimum": 0, "maximum": 1}
GATES_SCHEMA = {
    "type": "object",
    "additionalProperties": False,
    "required": ["quality", "fundus"],
    "properties": {
        "quality": _nullable(lowest=_LOWEST),
        "labelled_quality": _nullable(
            weights=_LOWEST,
            means=_LOWEST,
            threshold=_NUMBER,
            ungradable={"type": "integer", "minimum": 1},
            found=_SHARE,
        ),
        "fundus": _nullable(
            mean=_NUMBERS,
            scale=_NUMBERS,
            components={"type": "array", "maxItems": MOST_COMPONENTS, "items": _NUMBERS},
            spread=_NUMBERS,
            rest={**_NUMBER, "exclusiveMinimum": 0},
            threshold={**_NUMBER, "minimum": 0},
        ),
    },
}


class QualityGate(NamedTuple):
    """Lowest value of each figure of quality.

    Attributes:
        lowest: Value by figure. An image with a lower one is refused.
        share: Share of the training images that is refused.
        images: Number of training images.
    """

    lowest: dict[str, float]
    share: float
    images: int

    def reason(self, figures: Mapping[str, float]) -> str:
        """Return the reason to refuse an image; empty if it passes."""
        below = {name: figures[name] / max(cut, 1e-9) for name, cut in self.lowest.items() if figures[name] < cut}
        return FIGURES[min(below, key=lambda name: below[name])] if below else ""


def fit_quality_gate(figures: Mapping[str, np.ndarray], share: float = REFUSED_SHARE) -> QualityGate:
    """Fit the lowest values: the same quantile of each figure, such that a ``share`` of the images is refused at most.

    Args:
        figures: Values of n training images by figure, float (n,).
        share: Share of them to refuse.
    """
    names = [name for name in FIGURES if name in figures]
    values = np.stack([np.asarray(figures[name], float) for name in names], axis=1)
    count = len(values)
    # Rank of each value, and of the worst value of each image. Equal values have the lowest rank.
    ranks = np.stack([np.searchsorted(np.sort(column), column) for column in values.T], axis=1)
    worst = np.sort(ranks.min(axis=1))
    cut = int(worst[min(int(share * count), count - 1)])
    lowest = {name: float(np.sort(column)[cut]) for name, column in zip(names, values.T, strict=True)}
    return QualityGate(lowest, share, count)


class LabelledQualityGate(NamedTuple):
    """A linear model of the figures of quality, fitted to images that people could and could not grade.

    Attributes:
        weights: Weight by figure, 0 or more. The weighted sum is high for good images.
        means: Mean of the figures of good images.
        threshold: An image with a lower weighted sum is refused.
        ungradable: Number of ungradable images.
        found: Share of these that is refused.
        share: Share of the good images that is refused.
        images: Number of good images.
    """

    weights: dict[str, float]
    means: dict[str, float]
    threshold: float
    ungradable: int
    found: float
    share: float
    images: int

    def score(self, figures: Mapping[str, float]) -> float:
        """Return the weighted sum of an image's figures."""
        return sum(weight * figures[name] for name, weight in self.weights.items())

    def reason(self, figures: Mapping[str, float]) -> str:
        """Return the reason to refuse an image, its worst figure; empty if it passes."""
        if self.score(figures) >= self.threshold:
            return ""
        return FIGURES[min(self.weights, key=lambda name: self.weights[name] * (figures[name] - self.means[name]))]


def fit_labelled_quality_gate(
    good: np.ndarray, ungradable: np.ndarray, share: float = REFUSED_SHARE
) -> LabelledQualityGate:
    """Fit a linear model that separates both kinds of images, and its threshold.

    Both kinds have the same weight. A figure whose weight would be negative is left out: better quality is never a
    reason to refuse an image.

    Args:
        good: Figures of n images with a grade, float (n, figures), in the order of ``FIGURES``.
        ungradable: Figures of m images that nobody could grade, float (m, figures).
        share: Share of the good images to refuse at most.
    """
    values = np.concatenate([good, ungradable])
    scale = np.maximum(values.std(axis=0), 1e-6)
    importance = np.repeat([1 / len(good), 1 / len(ungradable)], [len(good), len(ungradable)])
    targets = np.repeat([1.0, -1.0], [len(good), len(ungradable)])
    centred = (values - importance @ values / 2) / scale
    used = np.ones(len(scale), bool)
    slopes = np.zeros(len(scale))
    while used.any():
        some = centred[:, used]
        gram = some.T @ (some * importance[:, np.newaxis]) + PENALTY * np.eye(some.shape[1])
        slopes[:] = 0
        slopes[used] = np.linalg.solve(gram, some.T @ (importance * targets))
        if (slopes[used] > 0).all():
            break
        used &= slopes > 0
    weights = dict(zip(FIGURES, (slopes / scale * used).tolist(), strict=True))
    means = dict(zip(FIGURES, good.mean(axis=0).tolist(), strict=True))
    gate = LabelledQualityGate(weights, means, -np.inf, len(ungradable), 0.0, share, len(good))
    scores, poor = (
        np.array([gate.score(dict(zip(FIGURES, row, strict=True))) for row in rows.tolist()])
        for rows in (good, ungradable)
    )
    threshold = float(np.sort(scores)[min(int(share * len(good)), len(good) - 1)])
    return gate._replace(threshold=threshold, found=float((poor < threshold).mean()))


def separates_better(good: np.ndarray, ungradable: np.ndarray) -> bool:
    """Return whether a linear model separates both kinds of unseen images better than the lowest values do.

    Each half of the images is ranked by the gates of the other half. The area under the curve decides. The lowest
    values rank an image by its worst figure.

    Args:
        good: Figures of n images with a grade, float (n, figures).
        ungradable: Figures of m images that nobody could grade, float (m, figures).
    """
    kinds = [(rows, np.arange(len(rows)) // 10 % 2 == 0) for rows in (good, ungradable)]
    areas = []
    for side in (True, False):
        known_good, known_poor = (rows[half == side] for rows, half in kinds)
        gate = fit_labelled_quality_gate(known_good, known_poor)
        weights = np.array(list(gate.weights.values()))
        ordered = np.sort(known_good, axis=0)
        by_gate = []
        for rows, half in kinds:
            unseen = rows[half != side]
            ranks = [np.searchsorted(column, values) for column, values in zip(ordered.T, unseen.T, strict=True)]
            by_gate.append((unseen @ weights, np.min(ranks, axis=0)))
        areas.append([_area(high, low) for high, low in zip(*by_gate, strict=True)])
    linear, lowest = np.mean(areas, axis=0)
    return bool(linear > lowest)


def _area(good: np.ndarray, ungradable: np.ndarray) -> float:
    """Area under the ROC curve: the share of pairs in which the good image has the higher value."""
    ordered = np.sort(good)
    above = [len(good) - np.searchsorted(ordered, ungradable, side=side) for side in ("left", "right")]
    return float(np.mean(above)) / len(good)


class FundusGate(NamedTuple):
    """Distance of an image's features from those of the training images.

    Attributes:
        mean: Mean of the features, float (d,).
        scale: Standard deviation of each, float (d,).
        components: Principal components, float (m, d).
        spread: Standard deviation along each component, float (m,).
        rest: Standard deviation of what the components leave, above 0.
        threshold: An image is refused if its distance is larger.
        share: Share of unseen real images that is refused.
        images: Number of training images.
    """

    mean: np.ndarray
    scale: np.ndarray
    components: np.ndarray
    spread: np.ndarray
    rest: float
    threshold: float
    share: float
    images: int

    def distance(self, features: np.ndarray) -> np.ndarray:
        """Return the distance of n images, float (n,), from their ``features``, float (n, d)."""
        centred = (features - self.mean) / self.scale
        along = centred @ self.components.T
        rest = centred - along @ self.components
        return np.asarray(
            np.sqrt(((along / self.spread) ** 2).mean(axis=1) + (rest**2).mean(axis=1) / self.rest**2), float
        )

    def reason(self, distance: float) -> str:
        """Return the reason to refuse an image at a distance; empty if it passes."""
        return "" if distance <= self.threshold else "unlike all training images; send an image of the retina"


def fit_fundus_gate(features: np.ndarray, share: float = REFUSED_SHARE) -> FundusGate:
    """Fit a gate. Its threshold is that of images which the distance was not fitted on: half by half.

    Args:
        features: Pooled features of n training images, float (n, d).
        share: Share of unseen real images to refuse.

    Returns:
        The gate.
    """
    count = len(features)
    # Blocks of ten keep neighbours together, which are often the eyes of a patient.
    halves = np.arange(count) // 10 % 2 == 0
    unseen = [_shape(features[half], share).distance(features[~half]) for half in (halves, ~halves)]
    threshold = float(np.quantile(np.concatenate(unseen), 1 - share))
    return _shape(features, share)._replace(threshold=threshold)


def unseen_distances(features: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Return the distance of n images from those of other groups, float (n,), which estimates that of new images.

    Args:
        features: Pooled features of the images, float (n, d).
        groups: Group of each image, int (n,), at least two. The images of a patient have one group.
    """
    distances = np.empty(len(features))
    for group in np.unique(groups):
        inside = groups == group
        distances[inside] = _shape(features[~inside], REFUSED_SHARE).distance(features[inside])
    return distances


def _shape(features: np.ndarray, share: float) -> FundusGate:
    mean, scale = features.mean(axis=0), np.maximum(features.std(axis=0), 1e-6)
    centred = (features - mean) / scale
    most = max(1, min(MOST_COMPONENTS, len(features) // IMAGES_A_COMPONENT, features.shape[1] - 1))
    _, values, components = np.linalg.svd(centred, full_matrices=False)
    spread = np.maximum(values[:most] / np.sqrt(len(features)), LEAST_SPREAD)
    rest = centred - centred @ components[:most].T @ components[:most]
    deviation = max(float(np.sqrt((rest**2).mean())), LEAST_SPREAD)
    return FundusGate(mean, scale, components[:most], spread, deviation, np.inf, share, len(features))


def thumbnail_features(pixels: Iterable[np.ndarray]) -> np.ndarray:
    """Return features of images: colours, shares of the colours, and contrast in each cell of a thumbnail.

    Args:
        pixels: n images, uint8 RGB (size, size, 3), prepared for a network.

    Returns:
        float64 (n, 7 * CELLS**2).
    """
    found = []
    for image in pixels:
        small = cv2.resize(image, (CELLS * CELL, CELLS * CELL), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
        colours = cv2.resize(small, (CELLS, CELLS), interpolation=cv2.INTER_AREA)
        light = small.mean(axis=2)
        edges = np.hypot(cv2.Sobel(light, cv2.CV_32F, 1, 0), cv2.Sobel(light, cv2.CV_32F, 0, 1))
        contrast = cv2.resize(edges, (CELLS, CELLS), interpolation=cv2.INTER_AREA)
        shares = colours / (colours.sum(axis=2, keepdims=True) + 0.05)
        found.append(np.concatenate([colours.ravel(), contrast.ravel(), shares.ravel()]))
    return np.array(found, np.float64)


class Gates(NamedTuple):
    """The gates of a bundle. A gate that had too few training images is None and refuses nothing.

    A linear model of quality replaces the lowest values, if people have labelled ungradable images and it separates
    unseen ones better.
    """

    quality: QualityGate | LabelledQualityGate | None
    fundus: FundusGate | None

    def distance(self, features: np.ndarray) -> float | None:
        """Return the distance of an image from the training images, None without a gate.

        Args:
            features: ``thumbnail_features`` of the image, prepared for the first network, float (1, d).
        """
        return float(self.fundus.distance(features)[0]) if self.fundus else None

    def refusal(self, figures: Mapping[str, float], distance: float | None) -> tuple[str, str] | None:
        """Return the kind of problem of an image and the reason; None if it can be graded.

        Args:
            figures: Its figures of quality.
            distance: Its ``distance``.
        """
        if self.fundus and distance is not None and (reason := self.fundus.reason(distance)):
            return NO_FUNDUS, reason
        if self.quality and (reason := self.quality.reason(figures)):
            return POOR_QUALITY, reason
        return None


def fit_gates(inventory: Path, shards: Sequence[Path]) -> dict[str, Any]:
    """Fit the gates of a bundle. Return the content of ``GATES_FILE``.

    Args:
        inventory: Inventory of the training images.
        shards: Shards of training images in the preprocessing variant of the first network.
    """
    rows = list(stream_table(inventory, (*FIGURES, "problem")))
    good, ungradable = (_figures_of(rows, problem) for problem in ("", UNGRADED))
    labelled = None
    enough = len(good) >= FEWEST_IMAGES and len(ungradable) >= FEWEST_UNGRADABLE
    if enough and separates_better(good, ungradable):
        labelled = fit_labelled_quality_gate(good, ungradable)
    columns = dict(zip(FIGURES, good.T, strict=True))
    _, features = fitted_thumbnails(shards)
    quality = fit_quality_gate(columns) if len(good) >= FEWEST_IMAGES else None
    fundus = fit_fundus_gate(features) if len(features) >= FEWEST_IMAGES else None
    return {
        "quality": quality._asdict() if quality else None,
        **({"labelled_quality": labelled._asdict()} if labelled and any(labelled.weights.values()) else {}),
        "fundus": _listed(fundus._asdict()) if fundus else None,
    }


def _figures_of(rows: Iterable[Mapping[str, str]], problem: str) -> np.ndarray:
    """Figures of the images with a problem, float (n, figures). Images that could not be read have none."""
    found = [[float(row[name]) for name in FIGURES] for row in rows if row["problem"] == problem and row["focus"]]
    return np.array(found).reshape(-1, len(FIGURES))


def fitted_thumbnails(shards: Sequence[Path]) -> tuple[list[tuple[int, int]], np.ndarray]:
    """Choose images of ``shards`` at equal distances.

    Returns:
        Shard and row of each of the n images, and their ``thumbnail_features``, float (n, d).
    """
    arrays = [np.load(path, mmap_mode="r", allow_pickle=False) for path in shards]
    places = [(shard, row) for shard, array in enumerate(arrays) for row in range(len(array))]
    numbers = np.linspace(0, max(0, len(places) - 1), min(FITTED_IMAGES, len(places))).astype(int)
    chosen = [places[number] for number in numbers]
    return chosen, thumbnail_features(arrays[shard][row] for shard, row in chosen)


def _listed(content: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in content.items()}


def parse_gates(content: bytes, path: str) -> Gates:
    """Read the content of ``GATES_FILE`` of the bundle in the folder of ``path``.

    Raises:
        RetinaflowError: It is no description of gates, or its numbers do not fit together.
    """
    again = "Copy the whole bundle again."
    found = parse_document(content, GATES_SCHEMA, path=path, kind="the gates of a bundle", again=again)
    fundus = found["fundus"]
    if fundus:
        arrays = {name: np.array(fundus[name], float) for name in ("mean", "scale", "components", "spread")}
        width = 7 * CELLS**2
        shapes = {"mean": (width,), "scale": (width,), "components": (len(fundus["components"]), width)}
        shapes["spread"] = shapes["components"][:1]
        fits = all(array.shape == shapes[name] for name, array in arrays.items())
        if not fits or not (arrays["scale"] > 0).all() or not (arrays["spread"] > 0).all():
            raise RetinaflowError(f"{path}: the numbers of the fundus gate do not fit together. {again}")
        fundus = FundusGate(**{**fundus, **arrays})
    if labelled := found.get("labelled_quality"):
        if not labelled["weights"].keys() == labelled["means"].keys() == FIGURES.keys():
            raise RetinaflowError(f"{path}: labelled_quality lacks a figure, expected {', '.join(FIGURES)}. {again}")
        return Gates(LabelledQualityGate(**labelled), fundus)
    return Gates(QualityGate(**found["quality"]) if found["quality"] else None, fundus)
