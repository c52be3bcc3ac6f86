"""Linear models of few images: layers, poolings, views, sizes and estimators, by folds of patients."""

import argparse
import csv
import functools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.linalg import eigh
from scipy.stats import norm
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import cohen_kappa_score, roc_auc_score

import common
from retinaflow.data.decoding import decode_image
from retinaflow.data.folds import assign_folds
from retinaflow.evaluation.bootstrap import bootstrap_kappas
from retinaflow.preprocessing.preprocess import prepare
from retinaflow.preprocessing.variant import Variant
from retinaflow.scoring.decision_rules import mean_thresholds
from retinaflow.scoring.ridge import STRENGTHS
from retinaflow.storage.files import whole_file

# Layers of each backbone. Those after the last of them are not computed.
LAYERS = {
    "InceptionV3": [f"mixed{number}" for number in range(8)],
    "ResNet50": ["conv2_block3_out", "conv3_block2_out", "conv3_block4_out", "conv4_block2_out", "conv4_block4_out"],
    "VGG16": ["block3_pool", "block4_pool", "block5_pool"],
}
POOLINGS = ("mean", "max", "std", "gem")
FOLDER = common.TARGET / "few"
IMAGES = {"eyepacs-256": "images", "eyepacs-1024": "resized train 15", "aptos-224": "images"}


class View(NamedTuple):
    """Pixels that a backbone sees: the side of its images, and their enhancement."""

    backbone: str
    size: int
    enhance: str = "none"

    @property
    def name(self) -> str:
        return f"{self.backbone}-{self.size}-{self.enhance}"


# Features -------------------------------------------------------------------------------------------------------------


def labelled(data_set: str) -> tuple[list[Path], np.ndarray]:
    """Return the image files of a data set and their grades, int64 (n,), in the order of their names."""
    with open(common.DATA / data_set / "labels.csv", newline="", encoding="utf-8") as file:
        grades = {row["image"]: int(row["level"]) for row in csv.DictReader(file)}
    paths = sorted(path for path in (common.DATA / data_set / IMAGES[data_set]).iterdir() if path.stem in grades)
    return paths, np.array([grades[path.stem] for path in paths])


def graph(view: View) -> Any:
    """Return a session of ONNX Runtime from uint8 images to the features of all layers and poolings."""
    path = FOLDER / f"{view.backbone}-{view.size}.onnx"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        _convert(view, path)
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _convert(view: View, path: Path) -> None:
    import keras

    from retinaflow.networks.backbones import BACKBONES
    from retinaflow.networks.building import load_backbone, normalise, up_to
    from retinaflow.serving.convert import write_onnx

    weights = common.DATA / "weights" / common.WEIGHTS[view.backbone]
    network = up_to(load_backbone(view.backbone, view.size, weights, normalised=True), LAYERS[view.backbone])
    pixels = keras.Input((view.size, view.size, 3), dtype="uint8", name="pixels")
    maps = network(normalise(pixels, "imagenet", BACKBONES[view.backbone].input_mode, None))
    features = []
    for each in maps:
        mean = keras.ops.mean(each, axis=(1, 2))
        square = keras.ops.mean(keras.ops.square(each), axis=(1, 2))
        cube = keras.ops.mean(each * each * each, axis=(1, 2))
        deviation = keras.ops.sqrt(keras.ops.maximum(square - mean * mean, 0.0))
        features += [mean, keras.ops.max(each, axis=(1, 2)), deviation, keras.ops.maximum(cube, 0.0) ** (1 / 3)]
    model = keras.Model(pixels, keras.ops.concatenate(features, axis=1))
    model(np.zeros((1, view.size, view.size, 3), np.uint8))
    write_onnx(model, path)


def extract(data_set: str, view: View) -> None:
    """Write the features of all images of a data set, float16 (n, d), and the seconds that they took."""
    target = FOLDER / data_set / f"{view.name}.npz"
    if target.is_file():
        return
    session, (paths, _) = graph(view), labelled(data_set)
    start, parts = time.process_time(), []
    for first in range(0, len(paths), 16):
        pixels = np.stack([_pixels(path, view) for path in paths[first : first + 16]])
        parts.append(session.run(None, {"pixels": pixels})[0].astype(np.float16))
    seconds = time.process_time() - start
    target.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(target) as part, open(part, "wb") as file:
        np.savez(file, features=np.concatenate(parts), seconds=seconds)
    print(f"{data_set}, {view.name}: {seconds:.0f} s of CPU, {np.isfinite(np.concatenate(parts)).all()}", flush=True)


def _pixels(path: Path, view: View) -> np.ndarray:
    from PIL import Image

    content = path.read_bytes()
    width, height = Image.open(path).size
    return prepare(content, width, height, Variant(view.size, "trim", "keep", view.enhance), decode=decode_image)


# Kernels --------------------------------------------------------------------------------------------------------------

CHANNELS = {
    "InceptionV3": [256, 288, 288, 768, 768, 768, 768, 768],
    "ResNet50": [256, 512, 512, 1024, 1024],
    "VGG16": [256, 512, 512],
}


class Block(NamedTuple):
    """Features of one view: those of some layers, pooled in some ways."""

    view: View
    layers: tuple[str, ...]
    poolings: tuple[str, ...] = ("mean",)
    root: bool = False


@functools.cache
def _features(data_set: str, view: View) -> tuple[np.ndarray, float]:
    with np.load(FOLDER / data_set / f"{view.name}.npz") as arrays:
        return arrays["features"], float(arrays["seconds"])


def _pooled(data_set: str, view: View, layer: str, pooling: str) -> np.ndarray:
    """Return the features of one layer and pooling, float32 (n, channels)."""
    channels, place = CHANNELS[view.backbone], LAYERS[view.backbone].index(layer)
    first = len(POOLINGS) * sum(channels[:place]) + POOLINGS.index(pooling) * channels[place]
    return _features(data_set, view)[0][:, first : first + channels[place]].astype(np.float32)


@functools.cache
def kernel(data_set: str, view: View, layer: str, pooling: str, root: bool) -> np.ndarray:
    """Return products of the features of each two images, float64 (n, n). Each feature has mean 0 and deviation 1."""
    x = _pooled(data_set, view, layer, pooling)
    x = np.sqrt(np.maximum(x, 0)) if root else x
    x = x - x.mean(axis=0)
    deviation = x.std(axis=0)
    x = x[:, deviation > 0] / deviation[deviation > 0]
    return (x @ x.T).astype(np.float64)


def joined(data_set: str, blocks: Sequence[Block]) -> np.ndarray:
    """Return the kernel of all features of ``blocks`` together."""
    return np.sum(
        [
            kernel(data_set, block.view, layer, pooling, block.root)
            for block in blocks
            for layer in block.layers
            for pooling in block.poolings
        ],
        axis=0,
    )


# Estimators -----------------------------------------------------------------------------------------------------------


class Data(NamedTuple):
    """Labels of a data set: grades, patients, and the place of each image's fellow eye (itself if there is none)."""

    grades: np.ndarray
    patients: np.ndarray
    fellow: np.ndarray


@functools.cache
def data_of(data_set: str) -> Data:
    """Return the labels of a data set."""
    paths, grades = labelled(data_set)
    names = [path.stem for path in paths]
    pairs = data_set.startswith("eyepacs")
    patients = np.array([name.split("_")[0] if pairs else name for name in names], dtype=object)
    places = {name: place for place, name in enumerate(names)}
    swap = {"left": "right", "right": "left"}
    fellow = [places.get(f"{n.split('_')[0]}_{swap[n.split('_')[1]]}", i) if pairs else i for i, n in enumerate(names)]
    return Data(grades, patients, np.array(fellow))


class Fit(NamedTuple):
    """Severity of the training images, each predicted without its patient, and of the test images."""

    held_out: np.ndarray
    test: np.ndarray


def ridge(k: np.ndarray, target: np.ndarray, train: np.ndarray, test: np.ndarray, fellow: np.ndarray) -> Fit:
    """Fit a kernel ridge regression. Its strength has the least squared error on left-out patients, in closed form."""
    a, b = k[np.ix_(train, train)], k[np.ix_(test, train)]
    means, mean = a.mean(axis=0), a.mean()
    b = b - b.mean(axis=1, keepdims=True) - means + mean
    values, vectors = eigh((a - means - means[:, np.newaxis] + mean).astype(np.float32), driver="evd")
    values, vectors = np.maximum(values, 0).astype(np.float64), vectors.astype(np.float64)
    centred = target[train] - target[train].mean()
    turned = vectors.T @ centred
    place = np.full(len(k), -1)
    place[train] = np.arange(len(train))
    own, other = np.arange(len(train)), place[fellow[train]]
    cross = vectors * vectors[other]
    square = vectors**2
    best = (np.inf, None, None)
    for strength in STRENGTHS:
        share = values / (values + strength)
        residual = centred - vectors @ (share * turned)
        d = 1 - square @ share - 1 / len(train)
        o = np.where(other == own, 0, -(cross @ share) - 1 / len(train))
        # Residual without the patient: the inverse of a matrix of the one or two images.
        left_out = (d[other] * residual - o * residual[other]) / (d * d[other] - o * o)
        left_out = np.where(other == own, residual / d, left_out)
        error = float(np.mean(left_out**2))
        if error < best[0]:
            best = (error, strength, left_out)
    weights = vectors @ (turned / (values + best[1]))
    return Fit(target[train] - best[2], target[train].mean() + b @ weights)


def rbf(k: np.ndarray, width: float) -> np.ndarray:
    """Return the Gaussian kernel of the same features, its width relative to the median distance."""
    squares = np.diag(k)
    distances = np.maximum(squares[:, np.newaxis] + squares - 2 * k, 0)
    return np.exp(-distances / (width * np.median(distances)))


# Rows -----------------------------------------------------------------------------------------------------------------

REPEATS, SAMPLES, SEED = 3, 1000, 1
Severity = tuple[np.ndarray, np.ndarray]  # of the training images without their own patient, and of the test images


class Recipe(NamedTuple):
    """A row of the table.

    Attributes:
        title: Words for the table.
        blocks: Features. With several groups, one model a group is fitted, and the severities are averaged.
        estimator: Name of the estimator in ``ESTIMATORS``.
        both: Whether the features of the fellow eye are joined.
    """

    title: str
    blocks: Sequence[Sequence[Block]]
    estimator: str = "ridge"
    both: bool = False


def fitted(data_set: str, recipe: Recipe, train: np.ndarray, test: np.ndarray) -> Severity:
    """Fit a recipe to the places ``train``, and return severities."""
    data = data_of(data_set)
    parts = []
    for group in recipe.blocks:
        k = joined(data_set, group)
        if recipe.both:
            k = k + k[np.ix_(data.fellow, data.fellow)]
        parts.append(ESTIMATORS[recipe.estimator](k, data, train, test))
    return np.mean([part[0] for part in parts], axis=0), np.mean([part[1] for part in parts], axis=0)


def _ridge(k: np.ndarray, data: Data, train: np.ndarray, test: np.ndarray) -> Severity:
    return ridge(k, data.grades.astype(float), train, test, data.fellow)


def _by_threshold(k: np.ndarray, data: Data, train: np.ndarray, test: np.ndarray) -> Severity:
    fits = [ridge(k, (data.grades > grade).astype(float), train, test, data.fellow) for grade in range(4)]
    return np.sum([fit[0] for fit in fits], axis=0), np.sum([fit[1] for fit in fits], axis=0)


def _ranks(k: np.ndarray, data: Data, train: np.ndarray, test: np.ndarray) -> Severity:
    """Ridge on the normal scores of the grades, instead of the grades."""
    counts = np.bincount(data.grades[train], minlength=5)
    shares = (np.cumsum(counts) - counts / 2) / counts.sum()
    return ridge(k, norm.ppf(np.clip(shares, 1e-3, 1 - 1e-3))[data.grades], train, test, data.fellow)


def _gaussian(k: np.ndarray, data: Data, train: np.ndarray, test: np.ndarray) -> Severity:
    """Kernel ridge with a Gaussian kernel: the mean of a Gaussian process. The width is chosen like the strength."""
    target, scale = data.grades.astype(float), np.trace(k) / len(k)
    fits = [ridge(scale * rbf(k, width), target, train, test, data.fellow) for width in (1, 4)]
    errors = [np.mean((fit.held_out - target[train]) ** 2) for fit in fits]
    return fits[int(np.argmin(errors))]


def components(k: np.ndarray, count: int, train: np.ndarray) -> np.ndarray:
    """Return principal components of all images, of deviation 1 on the training images."""
    a = k[np.ix_(train, train)]
    b = k[:, train] - a.mean(axis=0)
    _, vectors = np.linalg.eigh(a - a.mean(axis=0) - a.mean(axis=0)[:, np.newaxis] + a.mean())
    turned = (b - b.mean(axis=1, keepdims=True)) @ vectors[:, ::-1][:, :count]
    return turned / np.maximum(turned[train].std(axis=0), 1e-9)


def _whitened(k: np.ndarray, data: Data, train: np.ndarray, test: np.ndarray) -> Severity:
    x = components(k, 100, train)
    return _ridge(x @ x.T * 10, data, train, test)


def _classes(k: np.ndarray, data: Data, train: np.ndarray, test: np.ndarray, ordinal: bool = False) -> Severity:
    """Logistic regression on 200 components that keep their deviations: of all grades, or of each threshold."""
    x = components(k, 200, train) * np.sqrt(
        np.maximum(np.linalg.eigvalsh(k[np.ix_(train, train)])[::-1][:200], 0) / len(train)
    )
    x = x / x[train].std()
    groups = np.asarray(assign_folds(data.patients[train].tolist(), data.grades[train].tolist(), folds=5, seed=SEED))

    def severity(own: np.ndarray, other: np.ndarray, c: float) -> np.ndarray:
        if not ordinal:
            model = LogisticRegression(C=c, max_iter=200).fit(x[own], data.grades[own])
            return model.predict_proba(x[other]) @ model.classes_
        return np.sum(
            [
                LogisticRegression(C=c, max_iter=200)
                .fit(x[own], data.grades[own] > grade)
                .predict_proba(x[other])[:, 1]
                for grade in range(4)
            ],
            axis=0,
        )

    best: tuple[float, float, np.ndarray] = (np.inf, 1.0, np.empty(0))
    for c in (1e-4, 1e-3, 1e-2):
        held_out = np.empty(len(train))
        for group in np.unique(groups):
            inside = groups == group
            held_out[inside] = severity(train[~inside], train[inside], c)
        error = float(np.mean((held_out - data.grades[train]) ** 2))
        best = min(best, (error, c, held_out), key=lambda found: found[0])
    return best[2], severity(train, test, best[1])


ESTIMATORS: dict[str, Callable[[np.ndarray, Data, np.ndarray, np.ndarray], Severity]] = {
    "ridge": _ridge,
    "by threshold": _by_threshold,
    "ranks": _ranks,
    "gaussian": _gaussian,
    "whitened": _whitened,
    "softmax": _classes,
    "ordinal": functools.partial(_classes, ordinal=True),
}


class Result(NamedTuple):
    """Severities and predicted grades of all images, one row a repeat, and the seconds of the fits."""

    severity: np.ndarray
    predicted: np.ndarray
    seconds: float


def measure(data_set: str, recipe: Recipe) -> Result:
    """Grade each image by a model that did not see its patient, in three divisions into five folds."""
    data, start = data_of(data_set), time.process_time()
    severity = np.empty((REPEATS, len(data.grades)))
    predicted = np.empty((REPEATS, len(data.grades)), np.int64)
    for repeat in range(REPEATS):
        folds = np.array(assign_folds(data.patients.tolist(), data.grades.tolist(), folds=5, seed=SEED + repeat))
        for fold in np.unique(folds):
            train, test = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
            held_out, found = fitted(data_set, recipe, train, test)
            thresholds = mean_thresholds(
                held_out, data.grades[train], patients=data.patients[train].tolist(), grade_count=5, seed=SEED
            )
            severity[repeat, test] = found
            predicted[repeat, test] = np.searchsorted(thresholds, found, side="left")
    return Result(severity, predicted, time.process_time() - start)


def line(data_set: str, recipe: Recipe, result: Result, plain: Result | None) -> dict[str, Any]:
    """Return the values of a row: kappa, AUC, spread over the repeats, and the difference from the plain row."""
    data = data_of(data_set)
    kappas = [cohen_kappa_score(data.grades, p, weights="quadratic") for p in result.predicted]
    aucs = [roc_auc_score(data.grades >= 2, severity) for severity in result.severity]
    drawn = _drawn(data, result)
    found = {
        "row": recipe.title,
        "kappa": float(np.mean(kappas)),
        "deviation": float(np.std(kappas, ddof=1)),
        "low_high": np.quantile(drawn, [0.025, 0.975]).tolist(),
        "auc": float(np.mean(aucs)),
        "seconds": sum({b.view.name: _features(data_set, b.view)[1] for g in recipe.blocks for b in g}.values()) / 2
        + result.seconds / 2 / REPEATS / 5,
    }
    if plain is not None:
        others = _drawn(data, plain)
        mean = np.mean([cohen_kappa_score(data.grades, p, weights="quadratic") for p in plain.predicted])
        found["difference"] = found["kappa"] - float(mean)
        found["difference_low_high"] = np.quantile(drawn - others, [0.025, 0.975]).tolist()
    return found


def _drawn(data: Data, result: Result) -> np.ndarray:
    """Mean kappa over the repeats for each bootstrap sample of the patients."""
    drawn = bootstrap_kappas(
        data.grades,
        list(result.predicted),
        grade_count=5,
        patients=data.patients.tolist(),
        samples=SAMPLES,
        seed=SEED,
    )
    return np.asarray(drawn).mean(axis=0)


# Table ----------------------------------------------------------------------------------------------------------------

DOCUMENT = common.ROOT / "docs/methods.md"
PLAIN_VIEW = View("InceptionV3", 224)
LARGE_VIEW = View("InceptionV3", 336)
AUTO_LAYERS = ("mixed2", "mixed4", "mixed6")


def recipes(data_set: str) -> dict[str, Recipe]:
    """Return the rows of a data set by name. Differences are from the row ``plain``."""
    both = data_set.startswith("eyepacs")

    def of(title: str, *groups: Sequence[Block], estimator: str = "ridge") -> Recipe:
        return Recipe(title, groups, estimator, both)

    plain, large = Block(PLAIN_VIEW, AUTO_LAYERS), Block(LARGE_VIEW, AUTO_LAYERS)
    rows = {"one_eye": Recipe("plain, one eye", [[plain]])} if both else {}
    rows["plain"] = of("mean of `mixed2`, `mixed4` and `mixed6` of InceptionV3 at 224 px, ridge", [plain])
    if data_set == "eyepacs-1024":
        fine = Block(View("InceptionV3", 448), AUTO_LAYERS)
        return rows | {
            "448": of("448 px", [fine]),
            "224_448": of("224 and 448 px, joined", [plain, fine]),
            "448_max": of("448 px, mean and maximum", [fine._replace(poolings=("mean", "max"))]),
        }
    three = plain._replace(root=True, poolings=("mean", "max", "std"))
    rows |= {
        "maximum": of("maximum", [plain._replace(poolings=("max",))]),
        "mean_max": of("mean and maximum", [plain._replace(poolings=("mean", "max"))]),
        "std": of("standard deviation", [plain._replace(poolings=("std",))]),
        "mean_std": of("mean and standard deviation", [plain._replace(poolings=("mean", "std"))]),
        "generalised": of("generalised mean, power 3", [plain._replace(poolings=("gem",))]),
        "averaged": of(
            "four poolings, a ridge for each, averaged", *([plain._replace(poolings=(name,))] for name in POOLINGS)
        ),
        "root": of("square root of each feature", [plain._replace(root=True)]),
        "root_four": of("square root, all four poolings", [plain._replace(root=True, poolings=POOLINGS)]),
        "root_two": of("square root; mean, standard deviation", [plain._replace(root=True, poolings=("mean", "std"))]),
        "root_three": of("square root; mean, maximum, standard deviation", [three]),
        "root_three_one": Recipe("the same, one eye", [[three]]),
        "layers": of("`mixed0` to `mixed7`", [plain._replace(layers=tuple(LAYERS["InceptionV3"]))]),
        "by_layer": of(
            "three layers, a ridge for each, averaged", *([plain._replace(layers=(n,))] for n in AUTO_LAYERS)
        ),
        "whitened": of("100 components of deviation 1", [plain], estimator="whitened"),
        "gaussian": of("Gaussian process (kernel ridge)", [plain], estimator="gaussian"),
        "ranks": of("ridge on normal scores of the grade", [plain], estimator="ranks"),
        "by_threshold": of("a ridge for each threshold, summed", [plain], estimator="by threshold"),
        "softmax": of("softmax on 200 components", [plain], estimator="softmax"),
        "ordinal": of("logistic regression for each threshold", [plain], estimator="ordinal"),
        "336": of("336 px, enlarged", [large]),
        "336_root": of("336 px, square root", [large._replace(root=True)]),
        "224_336": of("224 and 336 px, joined", [plain, large]),
        "224_336_averaged": of("224 and 336 px, a ridge for each, averaged", [plain], [large]),
    }
    return rows


def saved(data_set: str, name: str, recipe: Recipe) -> Result:
    """Measure a row, or read it if it was measured before."""
    path = FOLDER / data_set / "rows" / f"{name}.npz"
    if not path.is_file():
        result = measure(data_set, recipe)
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as part, open(part, "wb") as file:
            np.savez(file, **result._asdict())
    with np.load(path) as arrays:
        return Result(arrays["severity"], arrays["predicted"], float(arrays["seconds"]))


def measured(data_set: str, name: str) -> bool:
    """Whether a row was measured before."""
    return (FOLDER / data_set / "rows" / f"{name}.npz").is_file()


def table(data_set: str, again: bool) -> str:
    """Measure all rows of a data set, or ``again`` only read those that were measured. Return a table in Markdown."""
    rows = {name: recipe for name, recipe in recipes(data_set).items() if not again or measured(data_set, name)}
    plain = saved(data_set, "plain", rows["plain"])
    lines = ["| row | kappa | spread | referable AUC | difference | minutes |", "|---|---|---|---|---|---|"]
    for name, recipe in rows.items():
        result = saved(data_set, name, recipe)
        found = line(data_set, recipe, result, None if name == "plain" else plain)
        low, high = found["low_high"]
        difference = ""
        if name != "plain":
            ends = found["difference_low_high"]
            difference = f"{found['difference']:+.3f} [{ends[0]:+.3f}, {ends[1]:+.3f}]"
        print(f"{data_set}: {name}: {found['kappa']:.3f} {difference}", flush=True)
        lines.append(
            f"| {recipe.title} | {found['kappa']:.3f} [{low:.3f}, {high:.3f}] | {found['deviation']:.3f} | "
            f"{found['auc']:.3f} | {difference} | {found['seconds'] / 60:.1f} |"
        )
    return "\n".join(lines)


# Several data sets ----------------------------------------------------------------------------------------------------


def across(first: str, second: str) -> str:
    """Measure ridges of one eye that are trained on one data set or on both, with thresholds of both or of each."""
    sets = [data_of(first), data_of(second)]
    x = np.concatenate(
        [
            np.concatenate([_pooled(name, PLAIN_VIEW, layer, "mean") for layer in AUTO_LAYERS], axis=1)
            for name in (first, second)
        ]
    )
    x = (x - x.mean(axis=0)) / np.maximum(x.std(axis=0), 1e-6)
    k = (x @ x.T).astype(np.float64)
    grades = np.concatenate([data.grades for data in sets])
    patients = np.concatenate(
        [[f"{name}/{p}" for p in data.patients] for name, data in zip((first, second), sets, strict=True)]
    )
    of_set = np.repeat([0, 1], [len(data.grades) for data in sets])
    fellow = np.concatenate([sets[0].fellow, sets[1].fellow + len(sets[0].grades)])
    titles = ("the same set alone", "the other set alone", "both, thresholds of both", "both, thresholds of each")
    kappas: dict[tuple[str, int], list[float]] = {(title, number): [] for title in titles for number in (0, 1)}
    for repeat in range(REPEATS):
        folds = np.empty(len(grades), int)
        for number in (0, 1):
            own = of_set == number
            folds[own] = assign_folds(patients[own].tolist(), grades[own].tolist(), folds=5, seed=SEED + repeat)
        predicted = {title: np.full(len(grades), -1) for title in titles}
        for fold in np.unique(folds):
            test = np.flatnonzero(folds == fold)
            for chosen in ((0,), (1,), (0, 1)):
                train = np.flatnonzero((folds != fold) & np.isin(of_set, chosen))
                fit = ridge(k, grades.astype(float), train, test, fellow)
                cuts = {
                    number: mean_thresholds(
                        fit.held_out[mask],
                        grades[train][mask],
                        patients=patients[train][mask].tolist(),
                        grade_count=5,
                        seed=SEED,
                    )
                    for number, mask in ((0, of_set[train] == 0), (1, of_set[train] == 1), (2, train >= 0))
                    if mask.any()
                }
                for number in (0, 1):
                    places = of_set[test] == number
                    by = {}
                    if len(chosen) == 2:
                        by = {titles[2]: cuts[2], titles[3]: cuts[number]}
                    else:
                        by[titles[0] if chosen == (number,) else titles[1]] = cuts[2]
                    for title, thresholds in by.items():
                        predicted[title][test[places]] = np.searchsorted(thresholds, fit.test[places], side="left")
        for title, number in kappas:
            own = of_set == number
            kappas[title, number].append(cohen_kappa_score(grades[own], predicted[title][own], weights="quadratic"))
    lines = [f"| trained on | {first} | {second} |", "|---|---|---|"]
    for title in titles:
        cells = [f"{np.mean(kappas[title, n]):.3f} ± {np.std(kappas[title, n], ddof=1):.3f}" for n in (0, 1)]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _publish(name: str, text: str) -> None:
    common.publish_between_markers(DOCUMENT, f"few {name}", text, script="benchmarks/few.py")


def main() -> None:
    """Compute features, measure rows, and write their tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data_sets", nargs="*", choices=[*IMAGES, "across", []], help="data sets, or `across`")
    parser.add_argument("--view", nargs="*", default=[], metavar="BACKBONE,SIZE", help="only compute these features")
    parser.add_argument("--again", action="store_true", help="only write the rows that were measured before")
    arguments = parser.parse_args()
    for data_set in arguments.data_sets:
        for view in arguments.view:
            backbone, size, *enhance = view.split(",")
            extract(data_set, View(backbone, int(size), *enhance))
        if data_set == "across":
            _publish("across", across("eyepacs-256", "aptos-224"))
        elif not arguments.view:
            for recipe in [] if arguments.again else recipes(data_set).values():
                for group in recipe.blocks:
                    for block in group:
                        extract(data_set, block.view)
            _publish(data_set, table(data_set, arguments.again))


if __name__ == "__main__":
    main()
