"""Deployment bundle of one model: a folder with graphs in ONNX and a description of how they grade new images.

The folder has no path to other folders, so it can be copied anywhere. It may come from another person. So its values
have bounds, its files are named in it with their digests, and its pattern of names has a time limit.
"""

import os
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from retinaflow.errors import RetinaflowError
from retinaflow.storage.documents import read_document
from retinaflow.storage.files import digest
from retinaflow.storage.tables import read_table

NOTICE = "This is research software, not a medical device."
BUNDLE_FILE = "bundle.json"
BUNDLE_FOLDER = "bundle"
FORMAT = "retinaflow bundle 1"
BACKBONE_FEATURES = "features"  # objective of a frozen backbone, which returns features alone
CARD = "card.md"
LINEAR, EYE_STACKING = "linear", "eye_stacking"
LINEAR_KINDS = (LINEAR, EYE_STACKING)

BUNDLE_BYTES = 4_000_000
GRAPH_BYTES = 2**31  # the largest message of protobuf
MOST_VIEWS = 32
MOST_FEATURE_VIEWS = 1000
MOST_SIZE = 4096
RUN_TO_END = "Let the workflow run to its end, or name the folder of a bundle: --model."
COPY_AGAIN = "Copy the whole folder again, or let the workflow run to its end again."

_TEXT = {"type": "string", "maxLength": 10_000}
_NAME = {"type": "string", "minLength": 1, "maxLength": 500}
_FILE = {"type": "string", "pattern": r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,199}\Z"}
_SHARE = {"type": "number", "minimum": 0, "maximum": 1}
_NUMBER = {"type": "number", "minimum": -1e9, "maximum": 1e9}
_OBJECTIVE = {"enum": ["softmax", "regression", "ordinal"]}
_VARIANT = {
    "type": "string",
    "pattern": r"^[1-9][0-9]{0,4}-(none|trim|circle)-(keep|squash)-(none|ben_graham|clahe)\Z",
}


def _count(most: int) -> dict[str, Any]:
    return {"type": "integer", "minimum": 1, "maximum": most}


def _object(may_lack: Sequence[str] = (), **properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "additionalProperties": False,
        "required": [name for name in properties if name not in may_lack],
        "properties": properties,
    }


def _list(item: dict[str, Any], least: int = 1, most: int = 100) -> dict[str, Any]:
    return {"type": "array", "minItems": least, "maxItems": most, "items": item}


def _optional(schema: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [{"type": "null"}, schema]}


_RULE = _object(
    objective=_OBJECTIVE,
    grade_names=_list(_NAME, 2, 20),
    thresholds=_list(_NUMBER, 1, 19),
    temperature={"type": "number", "exclusiveMinimum": 0, "maximum": 1e9},
    cutpoints=_optional(_list(_NUMBER, 1, 19)),
    referable_grade=_count(19),
    referable_sensitivity={**_SHARE, "exclusiveMinimum": 0},
    referable_cut=_SHARE,
    images=_count(10**12),
    patients=_count(10**12),
)
_ANSWER = _object(decision_rule=_RULE, graph=_FILE)
_SEED = {"type": "integer", "minimum": 0, "maximum": 2**63}
_FACTOR = {"type": "number", "exclusiveMinimum": 0, "maximum": 10}
# The settings of ``train.augment`` that views of features depend on.
_AUGMENT = _object(
    flip_horizontal={"type": "boolean"},
    flip_vertical={"type": "boolean"},
    shift=_SHARE,
    zoom=_list(_FACTOR, 2, 2),
    rotation={"type": "number", "minimum": 0, "maximum": 180},
    crop={**_SHARE, "exclusiveMinimum": 0},
    brightness=_SHARE,
    contrast=_SHARE,
    saturation=_SHARE,
    hue={"type": "number", "minimum": 0, "maximum": 180},
)
_VIEWS = _object(views=_count(MOST_FEATURE_VIEWS), seed=_SEED)
_NETWORK = _object(
    may_lack=["augment"],
    name=_NAME,
    objective={"enum": [*_OBJECTIVE["enum"], BACKBONE_FEATURES]},
    variant=_VARIANT,
    graphs=_list(_FILE),
    augment=_optional(_AUGMENT),
)
_ONE_EYE = _object(model=_NAME, linear=_list(_FILE, 0), answer=_ANSWER)
_OF_DATA_SET = _object(answer=_ANSWER, eye_average=_optional(_ANSWER), one_eye=_optional(_ANSWER))
_EVALUATION = _object(
    split=_NAME,
    images=_count(10**12),
    quadratic_weighted_kappa=_optional(_NUMBER),
    quadratic_weighted_kappa_low=_optional(_NUMBER),
    baseline_grade_name=_NAME,
)
_RUN = _object(
    training_run=_NAME,
    seed=_SEED,
    digests={"type": "object", "maxProperties": 100, "additionalProperties": _optional(_TEXT)},
    packages={"type": "object", "maxProperties": 100, "additionalProperties": _TEXT},
)
BUNDLE_SCHEMA = _object(
    # Bundles of networks, of a single training set, and of earlier versions.
    may_lack=["linear", "one_eye", "feature_views", "data_sets"],
    format={"const": FORMAT},
    retinaflow=_NAME,
    model=_NAME,
    kind={"enum": ["network", "ensemble", "eye_average", *LINEAR_KINDS]},
    grade_names=_list(_NAME, 2, 20),
    objective=_OBJECTIVE,
    patient_pattern={**_NAME, "maxLength": 1000},
    pixel_limit=_count(10_000),
    tta_views=_count(MOST_VIEWS),
    fellow_eye_weight=_SHARE,
    quality_share=_SHARE,
    quality_threshold=_SHARE,
    networks=_list(_NETWORK),
    answer=_ANSWER,
    eye_average=_optional(_ANSWER),
    linear=_list(_FILE, 0),
    one_eye=_optional(_ONE_EYE),
    feature_views=_optional(_VIEWS),
    data_sets={
        "type": "object",
        "maxProperties": 100,
        "propertyNames": _NAME,
        "additionalProperties": _OF_DATA_SET,
    },
    evaluation=_list(_EVALUATION),
    provenance=_list(_RUN, 0, 1000),
    files={
        "type": "object",
        "maxProperties": 1000,
        "propertyNames": _FILE,
        "additionalProperties": {"type": "string", "pattern": r"^[0-9a-f]{32}\Z"},
    },
    notice=_TEXT,
)


class AugmentRanges(NamedTuple):
    """The settings of ``train.augment`` that random changes of an image depend on."""

    flip_horizontal: bool
    flip_vertical: bool
    shift: float
    zoom: list[float]
    rotation: float
    crop: float
    brightness: float
    contrast: float
    saturation: float
    hue: float


class BundledViews(NamedTuple):
    """Views of each image that its features are means and standard deviations of, and the seed of the changes."""

    views: int
    seed: int


class BundledNetwork(NamedTuple):
    """A network of a bundle.

    Attributes:
        name: Its name in the configuration.
        objective: Kind of its raw outputs: ``softmax``, ``regression`` or ``ordinal``.
        variant: Preprocessing variant of its images.
        graphs: Name of its ONNX file, or one name for each fold.
        augment: Ranges of the random changes of the views of its features; None for features of one view.
    """

    name: str
    objective: str
    variant: str
    graphs: list[str]
    augment: AugmentRanges | None = None


class BundledAnswer(NamedTuple):
    """Answers to raw outputs: a decision rule, and the name of the ONNX file that applies it."""

    decision_rule: dict[str, Any]
    graph: str


class BundledRules(NamedTuple):
    """Answers by the decision rules of one training set.

    Attributes:
        answer: Answers for one eye, or for both eyes, as ``Bundle.answer``.
        eye_average: Answers for the mean of both eyes, if the bundle has some.
        one_eye: Answers for an image without fellow eye, if the bundle has another model for it.
    """

    answer: BundledAnswer
    eye_average: BundledAnswer | None
    one_eye: BundledAnswer | None


class BundledOneEye(NamedTuple):
    """The model that answers for an image without fellow eye.

    Attributes:
        model: Its name.
        linear: Files of its linear models; empty if it is the network itself.
        answer: Its answers.
    """

    model: str
    linear: list[str]
    answer: BundledAnswer


class Bundle(NamedTuple):
    """One model that grades new images. ``docs/file-formats-bundle.md`` describes each value.

    Attributes:
        folder: Folder of the bundle.
        model: Name of the model.
        kind: ``network``, ``ensemble``, ``eye_average``, ``eye_stacking`` or ``linear``.
        grade_names: Name of each grade.
        objective: Kind of the mean raw outputs of the networks.
        patient_pattern: Regular expression for patient and eye in an image's name.
        pixel_limit: Largest image, in megapixels.
        tta_views: Views of test-time augmentation.
        fellow_eye_weight: Weight of the fellow eye in an eye average, 0 to 1.
        quality_share: Share of the training images whose quality is below ``quality_threshold``.
        quality_threshold: Quality below which an image is of low quality, 0 to 1.
        networks: The networks whose raw outputs are averaged.
        answer: Answers for one eye; those for the mean of both eyes if the kind is ``eye_average``.
        eye_average: Answers for the mean of both eyes, if there are any.
        linear: Files of the linear models, whose severities are averaged; empty for other kinds.
        one_eye: Model for images without fellow eye, if the linear models need both eyes.
        evaluation: Metrics of the model on each split. The first split ranked it.
        provenance: Training run, seed, digests and packages of each training run.
        files: Digest of each file of the folder but ``bundle.json``.
        feature_views: Views of the features of linear models.
        data_sets: Answers by the rules of each joined training set that has its own.
        data_set: Training set whose rules answer; empty for the rules of all sets together.
    """

    folder: Path
    model: str
    kind: str
    grade_names: list[str]
    objective: str
    patient_pattern: str
    pixel_limit: int
    tta_views: int
    fellow_eye_weight: float
    quality_share: float
    quality_threshold: float
    networks: list[BundledNetwork]
    answer: BundledAnswer
    eye_average: BundledAnswer | None
    linear: list[str]
    one_eye: BundledOneEye | None
    evaluation: list[dict[str, Any]]
    provenance: list[dict[str, Any]]
    files: dict[str, str]
    feature_views: BundledViews = BundledViews(1, 0)
    data_sets: Mapping[str, BundledRules] = {}
    data_set: str = ""

    def of_data_set(self, name: str) -> "Bundle":
        """Return the bundle with the decision rules of a training set. An empty name is for the rules of all together.

        Raises:
            RetinaflowError: The set has no rules of its own.
        """
        if not name:
            return self
        if name not in self.data_sets:
            known = ", ".join(sorted(self.data_sets)) or "none, since only several large training sets have some"
            raise RetinaflowError(
                f"--data-set: {self.model} has no decision rule of {name!r}; it has those of: {known}. Name one of "
                "them, or leave the option out for the rule of all training sets together."
            )
        rules = self.data_sets[name]
        one_eye = self.one_eye
        if one_eye and rules.one_eye:
            one_eye = one_eye._replace(answer=rules.one_eye)
        return self._replace(answer=rules.answer, eye_average=rules.eye_average, one_eye=one_eye, data_set=name)

    @property
    def named(self) -> str:
        """Return the model, with the training set whose decision rule it has."""
        return f"{self.model}, decision rule of {self.data_set}" if self.data_set else self.model

    @property
    def warning(self) -> str:
        """Return a warning for a model that is no better than a constant answer; empty otherwise."""
        first = self.evaluation[0]
        kappa, low = first["quadratic_weighted_kappa"], first["quadratic_weighted_kappa_low"]
        least = kappa if low is None else low
        # The constant answer has a kappa of 0.
        if least is not None and least > 0:
            return ""
        found = "undefined" if kappa is None else f"{kappa:.3f}" + ("" if low is None else f" (95 % from {low:.3f})")
        return (
            f"{self.model} is no better than the answer {first['baseline_grade_name']} for every image: its kappa on "
            f"{first['images']} images of {first['split']} is {found}. Do not rely on it."
        )

    def read_file(self, name: str) -> bytes:
        """Read a file of the bundle.

        Raises:
            RetinaflowError: It is missing, is a link or too large, or has another digest.
        """
        path = self.folder / name
        try:
            status = path.lstat()
            if not stat.S_ISREG(status.st_mode):
                raise RetinaflowError(f"{path}: expected a file, found a link or a folder. {COPY_AGAIN}")
            if status.st_size > GRAPH_BYTES:
                raise RetinaflowError(f"{path}: {status.st_size} bytes, expected {GRAPH_BYTES} at most. {COPY_AGAIN}")
            content = path.read_bytes()
        except OSError as error:
            raise RetinaflowError(f"{path}: {error.strerror}; expected a file of the bundle. {COPY_AGAIN}") from error
        if digest(content) != self.files.get(name):
            raise RetinaflowError(f"{path}: its digest is not the one in {BUNDLE_FILE}. {COPY_AGAIN}")
        return content


def read_bundle(folder: str | os.PathLike[str]) -> Bundle:
    """Read the description of a bundle. Its graphs are read later.

    Raises:
        RetinaflowError: The folder has no bundle, or its values are out of bounds or do not fit together.
    """
    path = Path(folder) / BUNDLE_FILE
    try:
        size = path.stat().st_size
    except OSError as error:
        raise RetinaflowError(f"{path}: {error.strerror}; expected the bundle of a model. {COPY_AGAIN}") from error
    if size > BUNDLE_BYTES:
        raise RetinaflowError(f"{path}: {size} bytes, expected {BUNDLE_BYTES} at most. {COPY_AGAIN}")
    content = read_document(path, BUNDLE_SCHEMA, kind="the bundle of a model", again=COPY_AGAIN)
    bundle = Bundle(
        folder=Path(folder),
        networks=[_network(network) for network in content["networks"]],
        answer=BundledAnswer(**content["answer"]),
        eye_average=BundledAnswer(**content["eye_average"]) if content["eye_average"] else None,
        linear=content.get("linear", []),
        one_eye=_one_eye(content.get("one_eye")),
        feature_views=BundledViews(**(content.get("feature_views") or {"views": 1, "seed": 0})),
        data_sets={name: _rules(rules) for name, rules in content.get("data_sets", {}).items()},
        **{name: content[name] for name in Bundle._fields if name not in _READ},
    )
    for one in (bundle, *map(bundle.of_data_set, bundle.data_sets)):
        if fault := _fault(one):
            raise RetinaflowError(f"{path}: {fault}. {COPY_AGAIN}")
    return bundle


_READ = (
    *("folder", "networks", "answer", "eye_average", "linear", "one_eye", "feature_views"),
    *("data_sets", "data_set"),
)


def _rules(content: Mapping[str, Any]) -> BundledRules:
    answers = {name: BundledAnswer(**answer) if answer else None for name, answer in content.items()}
    return BundledRules(BundledAnswer(**content["answer"]), answers["eye_average"], answers["one_eye"])


def _network(content: Mapping[str, Any]) -> BundledNetwork:
    augment = content.get("augment")
    return BundledNetwork(**{**content, "augment": AugmentRanges(**augment) if augment else None})


def _one_eye(content: Mapping[str, Any] | None) -> BundledOneEye | None:
    return BundledOneEye(content["model"], content["linear"], BundledAnswer(**content["answer"])) if content else None


def _fault(bundle: Bundle) -> str:
    """Words for values that do not fit together; empty if they do."""
    if fault := _kind_fault(bundle):
        return fault
    answers = [(bundle.objective, bundle.answer)]
    if bundle.eye_average:
        answers.append((bundle.objective, bundle.eye_average))
    if one := bundle.one_eye:
        answers.append(("regression" if one.linear else bundle.networks[0].objective, one.answer))
    for objective, answer in answers:
        rule = answer.decision_rule
        if (rule["objective"], rule["grade_names"]) != (objective, bundle.grade_names):
            return f"a decision rule for {rule['objective']} of {', '.join(rule['grade_names'])}, not that of the model"
        if rule["referable_grade"] >= len(bundle.grade_names):
            return f"referable_grade {rule['referable_grade']}, expected a grade below {len(bundle.grade_names)}"
    large = [network.variant for network in bundle.networks if int(network.variant.split("-")[0]) > MOST_SIZE]
    if large:
        return f"variant {large[0]}: expected images of {MOST_SIZE} px at most"
    named = [graph for network in bundle.networks for graph in network.graphs] + [answer.graph for _, answer in answers]
    named += [*bundle.linear, *(bundle.one_eye.linear if bundle.one_eye else [])]
    missing = [name for name in named if name not in bundle.files]
    return f"{missing[0]} is not listed under files" if missing else ""


def _kind_fault(bundle: Bundle) -> str:
    """Words for files that a model of this kind has not, or lacks; empty if they fit."""
    linear = bundle.kind in LINEAR_KINDS
    if linear != bool(bundle.linear) or (bundle.one_eye and not linear):
        return f"kind {bundle.kind} with {len(bundle.linear)} linear models"
    if linear and bundle.objective != "regression":
        return f"objective {bundle.objective} of a linear model, expected regression"
    if bundle.feature_views.views > 1 and not (linear and all(network.augment for network in bundle.networks)):
        return "several views of features without their random changes, or without a linear model"
    frozen = [network.objective == BACKBONE_FEATURES for network in bundle.networks]
    if any(each != (bundle.kind == LINEAR) for each in frozen):
        return f"kind {bundle.kind} with networks of {', '.join(network.objective for network in bundle.networks)}"
    if bundle.kind == EYE_STACKING and [len(network.graphs) for network in bundle.networks] != [len(bundle.linear)]:
        return f"{len(bundle.linear)} linear models, expected one for each graph of one network"
    if bundle.kind == LINEAR and any(len(network.graphs) != 1 for network in bundle.networks):
        return "several graphs of a backbone, expected one"
    if bundle.kind == EYE_STACKING and (not bundle.one_eye or bundle.one_eye.linear):
        return "one_eye, expected the network itself"
    return ""


def best_bundle(results: Path) -> Path:
    """Return the bundle of the model that is ranked first of those with a bundle.

    Raises:
        RetinaflowError: There is no bundle, or no comparison that ranks several.
    """
    bundles = bundles_of(results)
    if not bundles:
        raise RetinaflowError(f"{results}: no bundle of a model below {results / 'models'}. {RUN_TO_END}")
    comparison = results / "comparison/comparison.csv"
    # While networks train, the linear models have a table of their own.
    first = comparison if comparison.exists() else results / "comparison/linear.csv"
    return first_ranked(list(bundles.values()), first if first.exists() else comparison)


def first_ranked(folders: Sequence[Path], comparison: Path) -> Path:
    """Return the folder of the model that a comparison ranks first. A single folder needs no comparison.

    Raises:
        RetinaflowError: The comparison cannot be read, or ranks none of several models.
    """
    if len(folders) == 1:
        return folders[0]
    bundles = {folder.parent.name: folder for folder in folders}
    rows = read_table(comparison, ("rank", "model"))
    ranked = [row["model"] for row in rows if row["rank"] and row["model"] in bundles]
    if not ranked:
        raise RetinaflowError(f"{comparison}: it ranks none of {', '.join(bundles)}. Name one of them: --model.")
    return bundles[ranked[0]]


def named_bundle(results: Path, name: str) -> Path:
    """Return the folder of a bundle by its path, or by the name of its model in a run.

    Raises:
        RetinaflowError: There is none.
    """
    if (Path(name) / BUNDLE_FILE).is_file():
        return Path(name)
    bundles = bundles_of(results)
    if name not in bundles:
        known = ", ".join(bundles) or "none"
        raise RetinaflowError(
            f"model: {name!r} is no folder with a {BUNDLE_FILE}, and no model with a bundle in {results}; there are: "
            f"{known}. Name a folder or one of these models."
        )
    return bundles[name]


def bundles_of(results: Path) -> dict[str, Path]:
    """Return the folder of each bundle of a workflow run by the name of its model."""
    found = sorted((results / "models").glob(f"*/{BUNDLE_FOLDER}/{BUNDLE_FILE}"))
    return {path.parent.parent.name: path.parent for path in found}
