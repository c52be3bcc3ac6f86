"""Networks and answers of a bundle in ONNX Runtime. Needs NumPy and OpenCV, no TensorFlow."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, cast

import cv2
import numpy as np
import onnxruntime

from retinaflow.errors import RetinaflowError
from retinaflow.networks.objectives import impossible_rows, mean_outputs, width
from retinaflow.preprocessing import augmentation
from retinaflow.preprocessing.augmentation import write_view
from retinaflow.preprocessing.variant import Variant
from retinaflow.scoring.linear_model import LinearModel, parse_linear_model
from retinaflow.serving.bundle import (
    BACKBONE_FEATURES,
    COPY_AGAIN,
    LINEAR,
    AugmentRanges,
    Bundle,
    BundledAnswer,
    BundledNetwork,
    BundledViews,
)
from retinaflow.serving.cores import available_cores
from retinaflow.serving.drift import REFERENCE_FILE, DriftReference, parse_reference
from retinaflow.serving.gates import GATES_FILE, Gates, parse_gates
from retinaflow.serving.graph_check import graph_fault
from retinaflow.serving.heat_maps import scaled
from retinaflow.serving.known_images import TRAINED_ON_FILE, KnownImages, parse_known_images
from retinaflow.serving.sessions import ANSWERS, MAP, OUTPUTS, PIXELS, RELEVANCE, graph_session

if TYPE_CHECKING:
    from retinaflow.settings.augment import AugmentSettings

# Images of one run of a graph. Layers of more images do not fit into the caches of a processor.
BATCH = 4


class Answers(NamedTuple):
    """Answers to n images of k grades.

    Attributes:
        severity: float64 (n,), 0 to k - 1.
        probabilities: float32 (n, k), calibrated; rows sum to 1.
        risk: float32 (n,), probability of the referable grades.
        grade: int64 (n,), by the thresholds of the decision rule.
        referable: bool (n,), whether the risk reaches the operating point.
    """

    severity: np.ndarray
    probabilities: np.ndarray
    risk: np.ndarray
    grade: np.ndarray
    referable: np.ndarray


class OneEyeModel(NamedTuple):
    """Model that answers for an image without fellow eye.

    Attributes:
        name: Its name.
        linear: Its linear models; empty if it is the network itself.
        answer: Graph that answers its raw outputs.
        threshold: Its threshold of referral.
    """

    name: str
    linear: list[LinearModel]
    answer: "AnswerGraph"
    threshold: float


class LoadedModel(NamedTuple):
    """A bundle with its graphs loaded.

    Attributes:
        bundle: The bundle.
        networks: Each trained network with the graphs of its files.
        backbones: Each frozen backbone of a linear model, with its graph.
        linear: Linear models, whose severities are averaged.
        one_eye: Model for images without fellow eye, if the linear models need both eyes.
        answer: Graph that answers raw outputs.
        eye_average: Graph that answers the mean raw outputs of both eyes.
        gates: Gates before grading, if the bundle has some.
        known: Images that it was trained on, if the bundle has their digests.
        drift: Figures of the training images, if the bundle has them.
    """

    bundle: Bundle
    networks: list[tuple[BundledNetwork, list["NetworkGraph"]]]
    backbones: list[tuple[BundledNetwork, "BackboneGraph"]]
    linear: list[LinearModel]
    one_eye: OneEyeModel | None
    answer: "AnswerGraph"
    eye_average: "AnswerGraph"
    gates: Gates | None
    known: KnownImages | None = None
    drift: DriftReference | None = None

    @property
    def variants(self) -> list[str]:
        """Return the preprocessing variant of each network. The first one is shown, and has the gates."""
        return [network.variant for network, _ in (*self.networks, *self.backbones)]


def load_bundled_model(bundle: Bundle, threads: int | None = None, images: int = 1) -> LoadedModel:
    """Load the graphs of a bundle.

    Args:
        bundle: The bundle.
        threads: Threads of the networks, by default one for each core.
        images: Number of images to grade. The threads share the work on each of a few images. Of many images, each
            thread has its own.

    Raises:
        RetinaflowError: A file is missing, changed or not allowed, or does not fit the bundle.
    """
    networks, backbones = _pixel_graphs(bundle, threads or available_cores(), images)
    grades = len(bundle.grade_names)

    def answer(of: BundledAnswer) -> AnswerGraph:
        return AnswerGraph(_session(bundle, of.graph, 1), str(bundle.folder / of.graph), grades)

    one_eye = None
    if one := bundle.one_eye:
        threshold = float(one.answer.decision_rule["referable_cut"])
        one_eye = OneEyeModel(one.model, _linear_models(bundle, one.linear, "one"), answer(one.answer), threshold)
    own = answer(bundle.answer)
    gates = None
    if GATES_FILE in bundle.files:
        gates = parse_gates(bundle.read_file(GATES_FILE), str(bundle.folder / GATES_FILE))
    known = None
    if TRAINED_ON_FILE in bundle.files:
        known = parse_known_images(bundle.read_file(TRAINED_ON_FILE), str(bundle.folder / TRAINED_ON_FILE))
    drift = None
    if REFERENCE_FILE in bundle.files:
        drift = parse_reference(bundle.read_file(REFERENCE_FILE), str(bundle.folder / REFERENCE_FILE))
    return LoadedModel(
        bundle=bundle,
        networks=networks,
        backbones=backbones,
        linear=_linear_models(bundle, bundle.linear, "both" if one_eye else "one"),
        one_eye=one_eye,
        answer=own,
        eye_average=answer(bundle.eye_average) if bundle.eye_average else own,
        gates=gates,
        known=known,
        drift=drift,
    )


def _pixel_graphs(
    bundle: Bundle, threads: int, images: int
) -> tuple[list[tuple[BundledNetwork, list["NetworkGraph"]]], list[tuple[BundledNetwork, "BackboneGraph"]]]:
    """Load the graphs of trained networks and of frozen backbones."""
    at_once = threads if images >= 2 * BATCH * threads else 1
    networks: list[tuple[BundledNetwork, list[NetworkGraph]]] = []
    backbones: list[tuple[BundledNetwork, BackboneGraph]] = []
    for network in bundle.networks:
        files = [(_session(bundle, name, threads // at_once), str(bundle.folder / name)) for name in network.graphs]
        if network.objective == BACKBONE_FEATURES:
            backbones += [(network, BackboneGraph(session, path, network, at_once)) for session, path in files]
        else:
            networks.append((network, [NetworkGraph(session, path, network, at_once) for session, path in files]))
    return networks, backbones


def _linear_models(bundle: Bundle, names: Sequence[str], eyes: str) -> list[LinearModel]:
    """Read linear models, and check that they fit the bundle."""
    models = []
    networks = [(network.name, network.variant) for network in bundle.networks]
    for name in names:
        path = bundle.folder / name
        model = parse_linear_model(bundle.read_file(name), Path(path))
        inputs = [(item["network"], item["variant"]) for item in model.record["inputs"]]
        found = (model.record["eyes"], model.record["grade_names"], inputs)
        if found != (eyes, bundle.grade_names, networks):
            raise RetinaflowError(
                f"{path}: a linear model of {found}, expected {(eyes, bundle.grade_names, networks)}. {COPY_AGAIN}"
            )
        for item in model.record["inputs"]:
            views = bundle.feature_views.views
            if item["views"] != views or item["severity"] == (bundle.kind == LINEAR):
                raise RetinaflowError(
                    f"{path}: features of {item['views']} views, severity {item['severity']}; expected views: {views}, "
                    f"and a severity for eye_stacking alone. {COPY_AGAIN}"
                )
        models.append(model)
    return models


def _session(bundle: Bundle, name: str, threads: int) -> onnxruntime.InferenceSession:
    content = bundle.read_file(name)
    if fault := graph_fault(content):
        raise RetinaflowError(f"{bundle.folder / name}: {fault}. {COPY_AGAIN}")
    try:
        return graph_session(content, threads)
    except Exception as error:  # ONNX Runtime has a type of exception for each of its status codes.
        raise _unusable(str(bundle.folder / name), error) from None


def _unusable(path: str, error: Exception) -> RetinaflowError:
    cause = " ".join(str(error).split())[-300:]
    return RetinaflowError(f"{path}: ONNX Runtime cannot use this graph ({cause}). {COPY_AGAIN}")


class _PixelGraph:
    """A graph whose input is pixels."""

    def __init__(
        self,
        session: onnxruntime.InferenceSession,
        path: str,
        network: BundledNetwork,
        needed: Sequence[str],
        *,
        at_once: int,
    ) -> None:
        """Check inputs and outputs of the graph of ``network``, of which ``at_once`` batches run at once."""
        self._session, self._path, self._objective, self._at_once = session, path, network.objective, at_once
        self.size = Variant.parse(network.variant).size
        inputs = [(each.name, each.type, each.shape[1:]) for each in session.get_inputs()]
        expected = [(PIXELS, "tensor(uint8)", [self.size, self.size, 3])]
        outputs = {output.name for output in session.get_outputs()}
        if inputs != expected or not set(needed) <= outputs:
            raise RetinaflowError(
                f"{path}: found inputs {inputs} and outputs {sorted(outputs)}; expected inputs {expected} and outputs "
                f"{', '.join(needed)}. {COPY_AGAIN}"
            )

    def _run(self, names: Sequence[str], pixels: np.ndarray) -> list[np.ndarray]:
        try:
            found: list[np.ndarray] = self._session.run(list(names), {PIXELS: pixels})
        except Exception as error:
            raise _unusable(self._path, error) from None
        return found

    def _run_batches(self, names: Sequence[str], pixels: np.ndarray) -> list[list[np.ndarray]]:
        """Return the outputs ``names`` of each batch of ``pixels``."""
        batches = [pixels[start : start + BATCH] for start in range(0, len(pixels), BATCH)]
        if self._at_once == 1:
            return [self._run(names, batch) for batch in batches]
        with ThreadPoolExecutor(self._at_once) as pool:
            return list(pool.map(lambda batch: self._run(names, batch), batches))

    def raw_features(self, pixels: np.ndarray) -> np.ndarray:
        """Compute features, float32 (n, d), of ``pixels``, uint8 RGB (n, size, size, 3)."""
        raise NotImplementedError

    def features(self, pixels: np.ndarray) -> np.ndarray:
        """Compute features of one view, float32 (n, d) of float16 values, of ``pixels``, uint8 (n, size, size, 3)."""
        return self._checked(self.raw_features(pixels), len(pixels))

    def view_features(
        self, pixels: np.ndarray, *, views: BundledViews, augment: AugmentRanges, numbers: Sequence[int]
    ) -> np.ndarray:
        """Compute means and standard deviations over views, as ``scoring.features.extract`` does with Keras.

        Args:
            pixels: uint8 RGB (n, size, size, 3).
            views: Number of views, and the seed of the changes.
            augment: Ranges of the random changes.
            numbers: Number of each image, as of ``augmentation.image_number``.

        Returns:
            float32 (n, 2 d) of float16 values.
        """
        of_views = [self.raw_features(pixels)]
        settings = cast("AugmentSettings", augment)  # They have the same attributes. Settings need pydantic.
        for view in range(1, views.views):
            changed = np.empty_like(pixels)
            for image, number, out in zip(pixels, numbers, changed, strict=True):
                augmentation.augment(image, settings, np.random.default_rng((views.seed, view, number)), out)
            of_views.append(self.raw_features(changed))
        stacked = np.stack(of_views)
        return self._checked(np.concatenate([stacked.mean(axis=0), stacked.std(axis=0)], axis=1), len(pixels))

    def _checked(self, features: np.ndarray, count: int) -> np.ndarray:
        """Check features (count, d), and round them as the file of features does."""
        # NaN fails the comparison.
        if features.ndim != 2 or len(features) != count or not (np.abs(features) <= np.finfo(np.float16).max).all():
            raise RetinaflowError(
                f"{self._path}: its features {features.shape} are not {count} rows of values from -65504 to 65504, the "
                f"range of float16. {COPY_AGAIN}"
            )
        return features.astype(np.float16).astype(np.float32)


class BackboneGraph(_PixelGraph):
    """A frozen backbone: from pixels to features."""

    def __init__(
        self, session: onnxruntime.InferenceSession, path: str, network: BundledNetwork, at_once: int = 1
    ) -> None:
        """Check inputs and outputs of the graph of ``network``, of which ``at_once`` batches run at once."""
        super().__init__(session, path, network, (BACKBONE_FEATURES,), at_once=at_once)

    def raw_features(self, pixels: np.ndarray) -> np.ndarray:
        """Compute features, float32 (n, d), of ``pixels``, uint8 RGB (n, size, size, 3)."""
        return np.concatenate([batch[0] for batch in self._run_batches([BACKBONE_FEATURES], pixels)])


class NetworkGraph(_PixelGraph):
    """A trained network: from pixels to raw outputs, feature maps and their weights."""

    def __init__(
        self, session: onnxruntime.InferenceSession, path: str, network: BundledNetwork, at_once: int = 1
    ) -> None:
        """Check inputs and outputs of the graph of ``network``, of which ``at_once`` batches run at once."""
        super().__init__(session, path, network, (OUTPUTS, RELEVANCE, f"{MAP}1"), at_once=at_once)
        names = [output.name for output in session.get_outputs() if output.name.startswith(MAP)]
        self._maps = sorted(names, key=lambda name: (len(name), name))

    def raw_features(self, pixels: np.ndarray) -> np.ndarray:
        """Compute the input of the head: the means of all maps, joined, float32 (n, d).

        Args:
            pixels: uint8 RGB (n, size, size, 3).
        """
        parts = [
            np.concatenate([each.mean(axis=(1, 2)) for each in maps], axis=1)
            for maps in self._run_batches(self._maps, pixels)
        ]
        return np.concatenate(parts)

    def outputs(self, pixels: np.ndarray, width: int) -> np.ndarray:
        """Compute raw outputs.

        Args:
            pixels: uint8 RGB (n, size, size, 3).
            width: Number of raw outputs of the objective.

        Returns:
            float64 (n, width). Rows of softmax sum to 1.

        Raises:
            RetinaflowError: The graph fails or gives values that its objective excludes.
        """
        parts = [batch[0] for batch in self._run_batches([OUTPUTS], pixels)]
        outputs = np.concatenate(parts).astype(np.float64)
        if outputs.shape != (len(pixels), width) or impossible_rows(self._objective, outputs).any():
            raise RetinaflowError(
                f"{self._path}: its raw outputs {outputs.shape} do not fit objective {self._objective}, expected "
                f"{(len(pixels), width)}. {COPY_AGAIN}"
            )
        if self._objective == "softmax":
            outputs /= np.maximum(outputs.sum(axis=1, keepdims=True), np.finfo(np.float32).tiny)
        return outputs

    def relevance(self, pixels: np.ndarray, grades: np.ndarray) -> np.ndarray:
        """Compute the heat maps of answers, as ``explain.relevance`` does with TensorFlow.

        Args:
            pixels: uint8 RGB (n, size, size, 3).
            grades: The answers, int (n,).

        Returns:
            float32 (n, size, size), 0 to 1. The largest value of each image is 1, or 0 without a region that supports
            the answer.
        """
        total = np.zeros((len(pixels), self.size, self.size), np.float32)
        for first in range(0, len(pixels), BATCH):
            chosen = slice(first, min(first + BATCH, len(pixels)))
            weights, *layers = self._run([RELEVANCE, *self._maps], pixels[chosen])
            weights = weights[np.arange(len(weights)), grades[chosen]]
            start = 0
            for layer in layers:
                # Channels are last, as in Keras.
                sums = np.einsum("nhwc,nc->nhw", layer, weights[:, start : start + layer.shape[-1]])
                total[chosen] += np.stack([cv2.resize(of_image, (self.size, self.size)) for of_image in sums])
                start += layer.shape[-1]
        return scaled(np.maximum(total, 0))


class AnswerGraph:
    """A decision rule: from raw outputs to calibrated probabilities, risk, grade and referral."""

    def __init__(self, session: onnxruntime.InferenceSession, path: str, grades: int) -> None:
        """Check inputs and outputs of the graph for a number of ``grades``."""
        self._session, self._path, self._grades = session, path, grades
        inputs, outputs = (
            [each.name for each in of_graph] for of_graph in (session.get_inputs(), session.get_outputs())
        )
        if inputs != [OUTPUTS] or not set(ANSWERS) <= set(outputs):
            raise RetinaflowError(
                f"{path}: found inputs {inputs} and outputs {outputs}; expected input {OUTPUTS} and outputs "
                f"{', '.join(ANSWERS)}. {COPY_AGAIN}"
            )

    def __call__(self, outputs: np.ndarray) -> Answers:
        """Answer raw ``outputs``, float64 (n, width)."""
        try:
            answers = Answers(*self._session.run(ANSWERS, {OUTPUTS: outputs}))
        except Exception as error:
            raise _unusable(self._path, error) from None
        n, k = len(outputs), self._grades
        fits = answers.probabilities.shape == (n, k) and all(
            each.shape == (n,) for each in (answers.severity, answers.risk, answers.grade, answers.referable)
        )
        # A grade is the place of a name.
        if not fits or not ((answers.grade >= 0) & (answers.grade < k)).all():
            raise RetinaflowError(f"{self._path}: its answers are not those of {k} grades. {COPY_AGAIN}")
        return answers


def mean_raw_outputs(loaded: LoadedModel, means: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
    """Average the results of ``view_means`` over folds and networks: float64 (n, width)."""
    grades = len(loaded.bundle.grade_names)
    of_networks = [
        (
            network.objective,
            mean_outputs([(network.objective, outputs) for outputs in of_graphs], network.objective, grades),
        )
        for (network, _), of_graphs in zip(loaded.networks, means, strict=True)
    ]
    objective = loaded.networks[0][0].objective if loaded.linear else loaded.bundle.objective
    return mean_outputs(of_networks, objective, grades)


def view_means(loaded: LoadedModel, decoded: Mapping[str, np.ndarray]) -> list[list[np.ndarray]]:
    """Compute the mean raw outputs over the TTA views of each graph of each network.

    Args:
        loaded: The model.
        decoded: Pixels of n images by preprocessing variant.

    Returns:
        float64 (n, width) for each graph of each network.
    """
    grades = len(loaded.bundle.grade_names)
    totals: dict[tuple[str, int], np.ndarray] = {}
    graphs = [
        (network, number, graph) for network, of_network in loaded.networks for number, graph in enumerate(of_network)
    ]
    for view in range(loaded.bundle.tta_views):
        shown = {variant: _view(pixels, view) for variant, pixels in decoded.items()}
        for network, number, graph in graphs:
            outputs = graph.outputs(shown[network.variant], width(network.objective, grades))
            totals[network.name, number] = totals.get((network.name, number), 0.0) + outputs
    return [
        [totals[network.name, number] / loaded.bundle.tta_views for number in range(len(of_network))]
        for network, of_network in loaded.networks
    ]


def _view(pixels: np.ndarray, number: int) -> np.ndarray:
    if number == 0:
        return pixels
    view = np.empty_like(pixels)
    for image, out in zip(pixels, view, strict=True):
        write_view(image, number, out)
    return view


def heat_maps(loaded: LoadedModel, decoded: Mapping[str, np.ndarray], grades: np.ndarray) -> np.ndarray:
    """Return the mean heat map of all networks.

    Args:
        loaded: The model.
        decoded: Pixels of n images by preprocessing variant.
        grades: The answers, int (n,).

    Returns:
        float (n, size, size), 0 to 1, in the image size of the first network.
    """
    size = loaded.networks[0][1][0].size
    of_graphs = [
        np.stack([cv2.resize(share, (size, size)) for share in graph.relevance(decoded[network.variant], grades)])
        for network, of_network in loaded.networks
        for graph in of_network
    ]
    return scaled(np.mean(of_graphs, axis=0))
