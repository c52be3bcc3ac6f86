"""Models of a configuration: their names, what each is made of, and the splits each is scored on.

A network is a model of the configuration; it is trained. A training run trains one network, once or on one fold. All
other models combine the raw outputs of networks, except for linear models: they use features of frozen backbones.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from retinaflow.config import lookups
from retinaflow.settings.linear import LinearSection
from retinaflow.settings.root import Configuration

NO_TTA = "no_tta"  # a network without test-time augmentation, to measure its gain
EYE_AVERAGE, EYE_STACKING = "eye_average", "eye_stacking"
OUT_OF_FOLD = "out-of-fold"
REGRESSION = "regression"


def network_of(model: str) -> str:
    """Name of the network that a training run, or a model of one network, belongs to."""
    return model.split("/")[0].split("+")[0]


def needs_pairs(model: str) -> bool:
    """Whether a model of a network needs the fellow eye of each image, by its name."""
    return model.rpartition("+")[2] in (EYE_AVERAGE, EYE_STACKING)


@dataclass(frozen=True)
class Models:
    """All models of a configuration.

    Attributes:
        networks: The objective of each network by its name, in the order of the configuration.
        folds: Number of folds; 0 for one split.
        tests: Names of the test sets, or ``left-out`` if training sets are left out in turn.
        tta: Whether raw outputs are means over several TTA views.
        eye_kinds: Kinds of models of both eyes that each network has: ``eye_average``, ``eye_stacking``.
        ensembles: Networks of each ensemble by its name.
        unpaired: Test sets without fellow eyes. Models of both eyes are not scored on them.
        linear: Linear models on features of frozen backbones by name, of one eye or both.
        drawn: Frozen backbones with random weights that another backend than TensorFlow draws.
        onnx: Networks in ONNX form. Only linear models use them.
        left_out: Training sets that are left out in turn. Then each network is one training run, with the name of the
            set that is left out of it: ``VGG16/without-NAME``. The same holds for all other models.
    """

    networks: Mapping[str, str]
    folds: int
    tests: Sequence[str]
    tta: bool
    eye_kinds: tuple[str, ...]
    ensembles: Mapping[str, Sequence[str]] = field(default_factory=dict)
    unpaired: Sequence[str] = ()
    linear: Mapping[str, LinearSection] = field(default_factory=dict)
    drawn: Sequence[str] = ()
    onnx: Sequence[str] = ()
    left_out: Sequence[str] = ()

    @classmethod
    def of(cls, config: Configuration) -> "Models":
        """The models of ``config``. Its label tables are read if it has models of both eyes or may have some."""
        eye_kinds = tuple(f"eye_{kind}" for kind in lookups.eye_models(config))
        linear = lookups.linear_models(config)
        paired = eye_kinds or any(settings.eyes == "both" for settings in linear.values())
        left_out = lookups.left_out_sets(config)
        versions: list[Callable[[str], str]] = [partial(lookups.without, data_set=name) for name in left_out] or [str]
        return cls(
            networks={named(name): entry.objective for name, entry in config.models.items() for named in versions},
            folds=config.split.folds,
            tests=[lookups.LEFT_OUT_SPLIT] if left_out else lookups.scored_sets(config),
            tta=config.score.tta_views > 1,
            eye_kinds=eye_kinds,
            ensembles={
                named(name): list(map(named, members))
                for name, members in lookups.ensembles(config).items()
                for named in versions
            },
            unpaired=lookups.unpaired_sets(config) if paired else (),
            linear={named(name): settings for name, settings in linear.items() for named in versions},
            drawn=[
                name
                for name, settings in lookups.linear_networks(config).items()
                if settings.weights == "random" and settings.backend != "tensorflow"
            ],
            onnx=lookups.onnx_networks(config),
            left_out=left_out,
        )

    @property
    def scored(self) -> list[str]:
        """Splits that a training run is scored on: its validation split, and the test sets or the left-out set."""
        return ["validation", *self.tests]

    @property
    def scored_pairs(self) -> list[str]:
        """Splits of ``scored`` with fellow eyes."""
        return [split for split in self.scored if split not in self.unpaired]

    @property
    def training_runs(self) -> list[str]:
        """Names of all training runs."""
        return [run for network in self.networks for run in self.runs_of(network)]

    def runs_of(self, network: str) -> list[str]:
        """Training runs of a network, or fits of a linear model: one, or one a fold (``NETWORK/fold-1``)."""
        return [f"{network}/{fold}" for fold in lookups.fold_names(self.folds)] or [network]

    @property
    def names(self) -> list[str]:
        """All models that are scored: the training runs, and the models made of their raw outputs."""
        pooled = list(self.networks) if self.folds else []
        without_tta = [f"{network}+{NO_TTA}" for network in self.networks] if self.tta else []
        of_both_eyes = [f"{network}+{kind}" for network in self.networks for kind in self.eye_kinds]
        return [*self.linear, *self.training_runs, *pooled, *without_tta, *of_both_eyes, *self.ensembles]

    @property
    def ranked(self) -> list[str]:
        """Models that the comparison ranks: all but the single folds of a network."""
        folds = set(self.training_runs) if self.folds else set()
        return [name for name in self.names if name not in folds]

    def splits_of(self, model: str) -> list[str]:
        """Splits that a model is scored on. Its decision rule is fitted on the first."""
        pooled = self.folds and model not in self.training_runs
        tests = self.scored_pairs[1:] if self.needs_pairs(model) else self.tests
        return [OUT_OF_FOLD if pooled else "validation", *tests]

    def reviewed(self, chosen: str | None) -> tuple[list[str], list[str]]:
        """Return the models that the evidence can describe, and the splits that they are scored on.

        Args:
            chosen: The model to describe. Without one, these are all ranked models with scores on every split.
        """
        if chosen:
            return [chosen], self.splits_of(chosen)
        splits = max((self.splits_of(model) for model in self.ranked), key=len)
        return [model for model in self.ranked if self.splits_of(model) == splits], splits

    def needs_pairs(self, model: str) -> bool:
        """Whether a model needs the fellow eye of each image. It has no scores on images without fellow eyes."""
        of_both = model in self.linear and self.linear[model].eyes == "both"
        return of_both or needs_pairs(model)

    @property
    def bundled(self) -> list[str]:
        """Ranked models that have a bundle, which grades new images."""
        return [model for model in self.ranked if not self.unbundled(model)]

    def unbundled(self, model: str) -> str:
        """Reason why a ranked model has no bundle; empty if it has one."""
        if self.left_out:
            return "with split.leave_out, a model measures how well others would do on new data sets"
        if not self.is_linear(model):
            return ""
        files = [network for network in self.feature_networks_of(model) if network in self.onnx]
        if files:  # ``serving.graph_check`` refuses most of them.
            return f"{files[0]} is an ONNX file, which may have operations or weights beside it that a bundle refuses"
        drawn = [name for name in self.feature_networks_of(model) if name in self.drawn and model in self.linear]
        return f"TensorFlow cannot draw the random weights of {drawn[0]} again" if drawn else ""

    def kind(self, model: str) -> str:
        """Kind of a bundle: ``network``, ``ensemble``, ``eye_average``, ``eye_stacking`` or ``linear``."""
        for kind in (EYE_AVERAGE, EYE_STACKING):
            if model.endswith(f"+{kind}"):
                return kind
        if model in self.linear:
            return "linear"
        return "ensemble" if model in self.ensembles else "network"

    def objective(self, model: str) -> str:
        """Kind of the raw outputs of a model: ``softmax``, ``regression`` or ``ordinal``."""
        if self.is_linear(model):
            return REGRESSION
        objectives = {self.networks[network] for network in self.networks_of(model)}
        # Severities can be averaged, whatever the objectives.
        return objectives.pop() if len(objectives) == 1 else REGRESSION

    def is_linear(self, model: str) -> bool:
        """Whether a model has files of linear models: one, or one for each fold."""
        return model in self.linear or model.endswith(f"+{EYE_STACKING}")

    def feature_networks_of(self, model: str) -> list[str]:
        """Networks that see the images of a model."""
        return list(self.linear[model].features) if model in self.linear else self.networks_of(model)

    def one_eye(self, model: str) -> str | None:
        """Model that answers for an image without fellow eye, if ``model`` is linear and needs both eyes."""
        if model in self.linear:
            return lookups.one_eye(model) if self.needs_pairs(model) else None
        return self._network(model) if self.is_linear(model) else None

    def networks_of(self, model: str) -> list[str]:
        """Networks that a model is made of. A linear model has none."""
        return [] if model in self.linear else list(self.ensembles.get(model, [self._network(model)]))

    def _network(self, model: str) -> str:
        """Name of the network of a training run, or of a model of one network, among ``networks``."""
        name = model.split("+")[0]
        return name if name in self.networks else network_of(model)

    def records_of(self, model: str) -> list[str]:
        """Training runs that a model is made of. A linear model has none."""
        return [run for network in self.networks_of(model) for run in self.runs_of(network)]

    def stored_splits(self, training_run: str, use: str) -> list[str]:
        """Stored splits of the images that a training run uses.

        A fold is stored once, as the images it holds out; the training runs of the other folds train on it there. Data
        sets that are left out in turn are stored once, too, each as a training and a validation split.

        Args:
            training_run: Its name, or that of another model of one left-out data set.
            use: ``train``, ``validation`` or the name of a test set.
        """
        if self.left_out:
            left_out = lookups.left_out_of(training_run)
            if use == lookups.LEFT_OUT_SPLIT:
                return lookups.set_splits(left_out)
            others = [lookups.set_splits(name) for name in self.left_out if name != left_out]
            return [train if use == "train" else validation for train, validation in others]
        if use in self.tests or not self.folds:
            return [use]
        held_out = training_run.split("/")[1]
        return [fold for fold in lookups.fold_names(self.folds) if (fold == held_out) == (use == "validation")]
