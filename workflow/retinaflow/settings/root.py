"""The whole configuration: as it is written, and complete with every setting of every model."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Discriminator, Field, Tag, model_validator

from retinaflow.settings.data import DataSettings
from retinaflow.settings.demo import DemoSettings
from retinaflow.settings.evidence import EvidenceSettings
from retinaflow.settings.export import ExportSettings
from retinaflow.settings.eyes import EyeSettings
from retinaflow.settings.features import FeatureSettings
from retinaflow.settings.linear import LinearSection
from retinaflow.settings.organize import OrganizeSettings
from retinaflow.settings.preprocess import PreprocessSettings
from retinaflow.settings.score import ScoreSettings
from retinaflow.settings.screening import GradeSet, ScreeningSettings
from retinaflow.settings.section import Place, Section, Text
from retinaflow.settings.split import SplitSettings
from retinaflow.settings.tracking import TrackingSettings
from retinaflow.settings.train import ModelSection, TrainingSettings, TrainSection


class _Sections(Section):
    """All of the configuration but the models."""

    results: Place = "results"
    """Folder of all results."""
    seed: Annotated[int, Field(ge=0)] = 2015
    """Seed of every random choice: split, initial weights, shuffling, augmentation, images of the demo."""
    repeats: Annotated[int, Field(ge=1, le=100)] = 1
    """Trainings of each model, on the same split with other seeds. The comparison shows their mean and spread, and
    ranks their ensemble. A higher number keeps the trainings so far."""
    images: Place | None = None
    """New images for `snakemake predict`: a folder (with its subfolders), a `.zip` archive, or a list of files,
    `.txt` with one path a line or `.csv` with the column `image`."""
    model: Text | None = None
    """Model that grades the new images: a name from `models`, `ensemble`, or none for the best of them on held-out
    images."""
    tracking: TrackingSettings = TrackingSettings()
    """Experiment trackers (TensorBoard, MLflow). Optional; a tracker that fails never stops training. `make track`
    installs them."""
    export: ExportSettings = ExportSettings()
    """File formats of `snakemake export`."""
    demo: DemoSettings | None = None
    """Draw synthetic images instead of using real ones, into the folders that `data` names. For a first try of the
    workflow."""
    data: DataSettings
    """Images and labels, and what to do about problems in them."""
    split: SplitSettings = SplitSettings()
    """How the training set is split."""
    organize: OrganizeSettings = OrganizeSettings()
    """How the class folders are made."""
    preprocess: PreprocessSettings = PreprocessSettings()
    """How images become arrays."""
    train: TrainSection = TrainSection()
    """Training settings of every model. `models` overrides them model by model."""
    features: FeatureSettings = FeatureSettings()
    """Features of images, for linear models, `snakemake probe` and eye stacking."""
    eyes: EyeSettings = EyeSettings()
    """Models that use both eyes of a patient, made of each trained network."""
    endpoints: Annotated[dict[Text, GradeSet], Field(min_length=1)] = {"referable": [2, 3, 4]}
    """Endpoints by name, each with the list of its grades, counted from 0. Without this key, `referable` has all grades
    of `data.grade_names` from the third on, or the second of two."""
    screening: ScreeningSettings = ScreeningSettings()
    """The screening decision: for which endpoint, and at which operating point."""
    score: ScoreSettings = ScoreSettings()
    """How predictions are scored."""
    evidence: EvidenceSettings = EvidenceSettings()
    """Evidence for a clinical review."""


def _kind(value: Any) -> str:
    kind = value.get("kind") if isinstance(value, Mapping) else getattr(value, "kind", None)
    return "network" if kind is None else "linear"


Entry = Annotated[
    Annotated[ModelSection | None, Tag("network")] | Annotated[LinearSection, Tag("linear")], Discriminator(_kind)
]


class ConfigurationFile(_Sections):
    """Every key of the configuration, its default and its meaning. Unknown keys are errors."""

    models: Annotated[dict[Text, Entry], Field(min_length=1)] = {
        **dict.fromkeys(("VGG16", "ResNet50", "InceptionV3")),
        "ridge": LinearSection(kind="linear", features=["InceptionV3"]),
    }
    """Models by name. A network has the training settings that differ from `train`, and without `backbone`, its name
    is that of its backbone. A linear model has `kind: linear`."""


class Configuration(_Sections):
    """The configuration with a value for each key and complete settings of each model, sorted by name.

    Some keys stay as they are until more is known: ``eyes.models`` may be ``auto`` (see ``lookups.eye_models``), and
    ``train`` holds what all models share, with its ``auto``. ``loading.load`` makes it.
    """

    models: dict[str, TrainingSettings]
    """Settings of each network."""
    linear: dict[str, LinearSection] = {}
    """Settings of each linear model."""
    frozen: dict[str, TrainingSettings] = {}
    """Settings of networks with features that are not trained. ``loading.complete`` makes those of backbones that only
    linear models name of ``train``. Networks in ONNX form have settings of their own."""

    @model_validator(mode="before")
    @classmethod
    def _separate_linear(cls, values: Any) -> Any:
        if not isinstance(values, Mapping) or not isinstance(values.get("models"), Mapping):
            return values
        linear = {name: entry for name, entry in values["models"].items() if _kind(entry) == "linear"}
        networks = {name: entry for name, entry in values["models"].items() if name not in linear}
        return {**values, "models": networks, "linear": {**values.get("linear", {}), **linear}}

    def model_dump(self, **options: Any) -> dict[str, Any]:
        """Values by key, as a configuration file has them."""
        values = super().model_dump(**options)
        linear = values.pop("linear", {})
        # A backbone that only linear models name has no entry.
        own = {name: entry for name, entry in values.pop("frozen", {}).items() if entry.get("backbone") != name}
        return {**values, "models": dict(sorted({**values["models"], **own, **linear}.items()))}
