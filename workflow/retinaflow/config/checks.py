"""Combinations of settings that cannot work, and settings that need a package which is not installed."""

import difflib
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from retinaflow.config.lookups import (
    ENSEMBLE,
    data_sets,
    feature_networks,
    grading_models,
    label_tables,
    may_name_eyes,
    recalibration,
    scored_sets,
    split_columns,
    training_sets,
)
from retinaflow.config.messages import raise_problems, unknown_name
from retinaflow.config.old_keys import present_value
from retinaflow.data.grade_texts import map_faults, scale_faults
from retinaflow.networks.backbones import BACKBONES
from retinaflow.networks.backend import backend_fault
from retinaflow.networks.extractor_files import extractor_file, is_onnx
from retinaflow.settings.data import HELD_OUT, DataSetSettings, DataSettings, set_key
from retinaflow.settings.linear import LinearSection
from retinaflow.settings.root import Configuration
from retinaflow.settings.train import TrainingSettings

LARGEST_SEED = 2**32 - 1
LONGEST_NAME = 100  # file systems take names of 255 bytes
PATTERN_HINT = "expected for example '(?P<patient>.+)_(?P<eye>left|right)'"
MODEL_NAME = re.compile("[A-Za-z0-9_][A-Za-z0-9_.-]*")
# Names that stand beside those of models below `models/` and `scores/`.
RESERVED = (ENSEMBLE, "bundle.json")


def combination_problems(config: Configuration) -> Iterable[str]:
    """A line for each key whose value does not go with that of another."""
    yield from _data_problems(config.data)
    for name, source in data_sets(config).items():
        yield from _source_problems(name, source, config.data)
    yield from _sharing_problems(config)
    if config.seed + config.repeats - 1 > LARGEST_SEED:
        yield f"seed: {config.seed} is above {LARGEST_SEED - config.repeats + 1}, the largest that NumPy takes"
    yield from _case_problems("models", [*config.models, *config.linear], "results")
    for name, settings in config.models.items():
        yield from _model_problems(name, settings, len(config.data.grade_names))
    for name, settings in config.frozen.items():
        if is_onnx(settings.backbone):
            yield from _model_problems(name, settings, len(config.data.grade_names))
    if not config.models and not config.linear:
        yield (
            "models: a network in ONNX form is not trained, and no model uses its features; add one, such as "
            f"`ridge: {{kind: linear, features: [{next(iter(config.frozen))}]}}`"
        )
    for name, linear in config.linear.items():
        yield from _linear_problems(name, linear, config)
    yield from _pooling_problems(config)
    yield from _choice_problems(config)
    if isinstance(config.eyes.models, list) and config.eyes.models:
        yield from _eye_problems(config)
    if config.demo:
        yield from _demo_problems(config)


def _choice_problems(config: Configuration) -> Iterable[str]:
    if config.model is not None and config.model not in grading_models(config):
        present = present_value("model", config.model)
        renamed = f" ({config.model} is now called {present})" if present else ""
        yield (
            f"model: {config.model!r} grades no new images; expected one of {', '.join(grading_models(config))}, or "
            f"null for the best{renamed}"
        )
    if config.data.validation:
        yield from _validation_problems(config)
    if config.split.lists or split_columns(config):
        yield from _given_split_problems(config)
    if config.split.leave_out:
        yield from _leave_out_problems(config)
    if config.split.folds == 1:
        yield "split.folds: 1 fold leaves nothing to train on; expected 0 (one split) or at least 2"
    yield from _soft_label_problems(config)
    yield from _endpoint_problems(config)
    yield from _evidence_problems(config)


def _soft_label_problems(config: Configuration) -> Iterable[str]:
    """Problems of models whose labels are those of several readers."""
    for model, settings in config.models.items():
        for data_set in training_sets(config) if settings.soft_labels else ():
            found = [column.strip() for column in data_sets(config)[data_set].subgroups or []]
            if missing := [column for column in settings.soft_labels if column.strip() not in found]:
                yield (
                    f"models.{model}.soft_labels: data set {data_set} has no grades of {', '.join(missing)}; its "
                    f"subgroups are {', '.join(found) or 'none'}; add the columns of the readers to them"
                )


def _endpoint_problems(config: Configuration) -> Iterable[str]:
    count = len(config.data.grade_names)
    for name, grades in config.endpoints.items():
        for grade in grades:
            if grade >= count:
                yield (
                    f"endpoints.{name}: {grade} is no grade of the {count} grades of data.grade_names; expected 0 to "
                    f"{count - 1}"
                )
        if len(grades) == count and max(grades) < count:
            yield f"endpoints.{name}: has all {count} grades; leave out at least one"
    screened = config.screening.endpoint
    if screened not in config.endpoints:
        yield f"screening.endpoint: there is no endpoint {screened!r}; {unknown_name(screened, config.endpoints)}"
    elif sorted(set(range(count)) & {*config.endpoints[screened]}) not in [
        [*range(low, count)] for low in range(count)
    ]:
        yield (
            f"screening.endpoint: {screened!r} has the grades {', '.join(map(str, config.endpoints[screened]))}; "
            f"expected all grades from one grade on, to {count - 1}, since a higher grade is referred, too"
        )


def _evidence_problems(config: Configuration) -> Iterable[str]:
    evidence, tests = config.evidence, scored_sets(config)
    for name, split in zip(evidence.recalibration, recalibration(config), strict=True):
        if split not in tests:
            known = [one.removeprefix("test-") for one in tests]
            yield f"evidence.recalibration: there is no test set {name!r}; {unknown_name(name, known)}"
        elif data_sets(config)[split].scale:
            yield f"evidence.recalibration: {name!r} has a scale of its own; only other test sets refit a model"
    for name in evidence.also_positive:
        if name not in config.endpoints:
            yield f"evidence.also_positive: there is no endpoint {name!r}; {unknown_name(name, config.endpoints)}"
    for name, edges in evidence.bands.items():
        if not edges or sorted(set(edges)) != edges:
            yield f"evidence.bands.{name}: {edges} do not ascend; expected for example [40, 60]"


def _given_split_problems(config: Configuration) -> Iterable[str]:
    columns = split_columns(config)
    key = "split.lists" if config.split.lists else "split.column" if config.split.column else "split_column"
    if columns and config.split.lists:
        yield "split.lists: a column prescribes the split, too; leave one of them"
    if config.split.folds:
        shown = f"{config.split.column!r} " if key == "split.column" else ""
        yield f"{key}: {shown}prescribes one split; set split.folds to 0, or {key} to null"
    if config.demo:
        yield f"{key}: the names and tables of the demo prescribe no split; set it to null"
    for name, column in columns.items():
        if not label_tables(data_sets(config)[name]):
            yield f"{key}: {set_key(name)} has no label table; name one, or set {key} to null"
        if column is None:
            yield f"{set_key(name)}.split_column: expected a column, as other training sets have one; name it"


def _leave_out_problems(config: Configuration) -> Iterable[str]:
    key = "split.leave_out"
    if config.demo:
        yield f"{key}: the demo draws one training set; remove it"
        return
    names = {name.partition("-")[2] for name in training_sets(config)}
    if len(names) < 2:
        yield (
            f"{key}: each of several training sets is left out once, and data.train has one; expected at least two, by "
            "name, as {eyepacs: {...}, aptos: {...}}"
        )
    if config.split.folds:
        yield f"{key}: split.folds is {config.split.folds}, and one of the two decides the trainings; set folds to 0"
    if config.split.lists or split_columns(config):
        yield f"{key}: a column or lists prescribe one split of all training sets; remove one of the two"
    if config.data.validation:
        yield f"{key}: each training validates on a part of its own training sets; remove data.validation"
    if config.data.test:
        yield f"{key}: each training set is the test set of one training; remove data.test, or use two configurations"
    if config.model is not None:
        yield f"model: with {key}, no model grades new images; remove it"
    for group in config.data.shared_patients:
        shared = [name for name in group if name in names]
        if len(shared) > 1:
            yield (
                f"data.shared_patients: {' and '.join(shared)} are training sets, and with {key}, no patient of "
                "the set that is left out may be trained on; describe them as one data set, with all images and labels"
            )


def _validation_problems(config: Configuration) -> Iterable[str]:
    if isinstance(config.data.train, DataSetSettings):
        yield "data.train: with data.validation, training sets have names; write it as {NAME: {...}}"
    else:
        taken = [name for name in config.data.train if name.startswith(HELD_OUT)]
        yield from (f"data.train.{name}: the name starts as those of validation sets; rename it" for name in taken)
    if config.split.folds:
        yield "data.validation: it prescribes one split; set split.folds to 0, or remove it"
    if config.split.lists or split_columns(config):
        yield "data.validation: a column or lists prescribe the split, too; leave one of them"
    if config.demo:
        yield "data.validation: the demo draws none; remove it"


def _data_problems(data: DataSettings) -> Iterable[str]:
    if "patient" not in re.compile(data.patient_pattern).groupindex:
        yield f"data.patient_pattern: {data.patient_pattern!r} has no group (?P<patient>...); {PATTERN_HINT}"
    yield from _long_names("data.grade_names", data.grade_names)
    yield from _case_problems("data.grade_names", data.grade_names, "folders")


def _long_names(key: str, names: Iterable[str]) -> Iterable[str]:
    for name in names:
        if len(name) > LONGEST_NAME:
            found = f"{name[:20] + '...'!r} has {len(name)} characters"
            yield f"{key}: {found}, expected at most {LONGEST_NAME}"


def _source_problems(name: str, source: DataSetSettings, data: DataSettings) -> Iterable[str]:
    key = set_key(name)
    if source.patient_pattern != data.patient_pattern:
        pattern = str(source.patient_pattern)
        if "patient" not in re.compile(pattern).groupindex:
            yield f"{key}.patient_pattern: {pattern!r} has no group (?P<patient>...); {PATTERN_HINT}"
    if source.split_column and name.split("-")[0] != "train":
        yield f"{key}.split_column: only training sets are split; remove it"
    for setting in ("folder", "part"):
        if not source.preset and getattr(source, setting):
            yield f"{key}.{setting}: without preset, it has no effect; name a preset, or remove it"
    own = source.grade_column != data.grade_column or source.image_column != data.image_column
    yield from _column_problems(key if own else "data", source)
    of_patients = source.patient_column != data.patient_column or source.image_column != data.image_column
    yield from _patient_problems(key if of_patients else "data", source)
    if source.scale:
        yield from _scale_problems(name, source.scale, data.grade_names)
    if source.grade_map:
        where = key if source.scale or source.grade_map != data.grade_map else "data"
        names = list(source.scale or data.grade_names)
        yield from (f"{where}.grade_map: {fault}" for fault in map_faults(source.grade_map, names))
    if source.grade_separator and not source.grade_map:
        yield f"{key}.grade_separator: without grade_map, it has no effect; add a grade_map"


def _scale_problems(name: str, scale: Mapping[str, str | Sequence[str]], grade_names: Sequence[str]) -> Iterable[str]:
    key = f"{set_key(name)}.scale"
    if name.split("-")[0] == "train":
        yield f"{key}: training sets have the grades of data.grade_names; join other grades with grade_map"
        return
    yield from (f"{key}: {fault}" for fault in scale_faults(scale, grade_names))
    yield from _long_names(key, scale)
    yield from _case_problems(key, scale, "folders")


def _column_problems(where: str, source: DataSetSettings) -> Iterable[str]:
    images, grades = _as_list(source.image_column), _as_list(source.grade_column)
    for column in images:
        if column in grades:
            yield f"{where}.grade_column: {column!r} is {where}.image_column, too; expected another column"
    if len(images) > 1 and len(grades) not in (1, len(images)):
        yield (
            f"{where}.grade_column: {len(grades)} columns for the {len(images)} of image_column; expected one for each "
            "image, or one for all"
        )
    if len(images) > 1 and source.eye_column:
        yield f"{where}.eye_column: a row has several images; set it to null, and patient_pattern to one with the eye"


def _patient_problems(where: str, source: DataSetSettings) -> Iterable[str]:
    if not source.patient_column:
        return
    column, images = _plain(source.patient_column), list(map(_plain, _as_list(source.image_column)))
    # With several images a row, one of their columns can name the patient.
    if images == [column]:
        yield (
            f"{where}.patient_column: {source.patient_column!r} is the column of the images, too, so that both eyes "
            "of a patient would be two patients; name the column of the patients, or set it to null"
        )
    elif column in map(_plain, _as_list(source.grade_column)):
        yield f"{where}.patient_column: {source.patient_column!r} is the column of the grades, too; name another"
    elif source.eye_column and column == _plain(source.eye_column):
        yield f"{where}.patient_column: {source.patient_column!r} is the column of the eyes, too; name another"


def _plain(column: str) -> str:
    """Name of a column as tables are searched for it."""
    return column.strip().casefold()


def _as_list(columns: str | list[str] | None) -> list[str]:
    return columns if isinstance(columns, list) else [columns or ""]


def _sharing_problems(config: Configuration) -> Iterable[str]:
    names = {name.partition("-")[2].removeprefix(HELD_OUT) for name in data_sets(config)} - {""}
    for group in config.data.shared_patients:
        for name in group:
            if name not in names:
                yield f"data.shared_patients: there is no data set {name!r}; {unknown_name(name, names)}"
    members = [name for group in config.data.shared_patients for name in group]
    for name in sorted({name for name in members if members.count(name) > 1}):
        yield f"data.shared_patients: {name!r} is in several groups; join them"


def _case_problems(key: str, names: Iterable[str], kind: str) -> Iterable[str]:
    seen: dict[str, str] = {}
    for name in names:
        if name.casefold() in seen:
            yield (
                f"{key}: {seen[name.casefold()]!r} and {name!r} differ in case only, and on some disks their {kind} "
                "would be one; give one of them another name"
            )
        seen[name.casefold()] = name


def _eye_problems(config: Configuration, key: str = "eyes.models", other: str = "[]") -> Iterable[str]:
    sources = list(data_sets(config).values())
    if not any(map(may_name_eyes, sources)):
        yield (
            f"{key}: data.patient_pattern, {str(sources[0].patient_pattern)!r}, has no group (?P<eye>...) for the "
            f"eye; add it, or set data.eye_column, or set {key} to {other}"
        )


def _demo_problems(config: Configuration) -> Iterable[str]:
    if not config.data.test:
        yield "data.test: the demo draws a test set; name its folder and table, as for data.train"
    if data_sets(config).keys() - {"train", "test"}:
        yield "data: the demo draws one training set and one test set; describe one of each, without a name"
        return
    if len(config.data.grade_names) != 5:
        yield f"data.grade_names: the demo draws 5 grades, found {len(config.data.grade_names)} names"
    yield from _demo_places(config)


def _demo_places(config: Configuration) -> Iterable[str]:
    results = Path(config.results).resolve()
    for data_set, source in data_sets(config).items():
        if source.scale:
            yield f"data.{data_set}.scale: the demo draws all grades; leave it out"
        if not isinstance(source.labels, str) or not label_tables(source):
            yield f"data.{data_set}.labels: the demo draws one table; name it"
        if len(source.images) > 1:
            yield f"data.{data_set}.images: the demo draws one folder, found {len(source.images)}"
        for key, names in (("images", source.images), ("labels", label_tables(source))):
            for name in names:
                # The demo replaces what stands there; images of the user must never be replaced.
                if results not in Path(name).resolve().parents:
                    place = f"is not below {config.results!r}, the folder of the demo"
                    yield f"data.{data_set}.{key}: {name!r} {place}; write {config.results + '/' + name!r}"


def _model_problems(name: str, settings: TrainingSettings, grades: int) -> Iterable[str]:
    key = f"models.{name}"
    yield from _name_problems(name, settings.backbone)
    if extractor_file(settings.backbone):
        yield from (f"{key}.{problem}" for problem in _extractor_problems(name, settings))
        if not is_onnx(settings.backbone):
            yield from _general_problems(key, settings, grades)
        return
    yield from _backbone_problems(name, settings.backbone)
    if settings.backbone not in BACKBONES:
        return
    yield from (f"{key}.{problem}" for problem in _own_input_problems(settings))
    least = BACKBONES[settings.backbone].minimum_size
    if settings.image_size < least:
        yield f"{key}.image_size: {settings.image_size} px; {settings.backbone} needs at least {least}"
    yield from _general_problems(key, settings, grades)


def _general_problems(key: str, settings: TrainingSettings, grades: int) -> Iterable[str]:
    for check in (
        _weight_problems,
        _objective_problems,
        _random_weight_problems,
        _schedule_problems,
        _optimizer_problems,
        _gpu_problems,
        _mixing_problems,
    ):
        yield from (f"{key}.{problem}" for problem in check(settings))
    weights = settings.class_weights
    if isinstance(weights, list) and len(weights) != grades:
        yield f"{key}.class_weights: {len(weights)} weights, expected {grades}, one for each of data.grade_names"


def _linear_problems(name: str, settings: LinearSection, config: Configuration) -> Iterable[str]:
    yield from _name_problems(name, "")
    if name in config.models or name in BACKBONES:  # such as a repeat, or a model of a sweep
        yield f"models.{name}: a network has this name; give the linear model another"
    for used in settings.features:
        if used in config.models or (used in config.frozen and is_onnx(config.frozen[used].backbone)):
            continue
        key = f"models.{name}.features"
        if used in config.linear:
            yield f"{key}: {used!r} is a linear model, which has no features; name a network or a backbone"
        elif used not in BACKBONES:
            yield f"{key}: there is no network or backbone {used!r}; {unknown_name(used, {*config.models, *BACKBONES})}"
        elif config.frozen[used].image_size < BACKBONES[used].minimum_size:
            size, least = config.frozen[used].image_size, BACKBONES[used].minimum_size
            yield f"{key}: {used} needs at least {least} px, found train.image_size {size}; set it higher"
    if settings.eyes == "both":
        yield from _eye_problems(config, f"models.{name}.eyes", "one")


def _pooling_problems(config: Configuration) -> Iterable[str]:
    """Problems of linear models whose features have other poolings than their means."""
    used = dict.fromkeys(name for linear in config.linear.values() for name in linear.features)
    for name in used if config.features.pooled() else ():
        settings = config.models.get(name) or config.frozen.get(name)
        if settings is not None and extractor_file(settings.backbone):
            yield (
                f"features.poolings, features.root: {name} is a backbone by path, with features of means alone; leave "
                "both out, or use a backbone of keras.applications"
            )


def _extractor_problems(name: str, settings: TrainingSettings) -> Iterable[str]:
    """Problems of a model whose backbone is a file."""
    if name == settings.backbone:
        yield "backbone: this name is a path; give the model a name, and set its backbone to the path"
    if settings.weights != "imagenet":
        yield (
            f"weights: {settings.weights}, but a backbone by path has the weights of its file; set it to imagenet, the "
            "default"
        )
    if settings.normalisation in ("dataset", "per_image"):
        yield (
            f"normalisation: {settings.normalisation}, but a backbone by path keeps the input that it was trained "
            "with; set it to imagenet, none, or a section with mean, std and scale"
        )
    if not is_onnx(settings.backbone) and settings.freeze_layers != "all":
        yield f"freeze_layers: {settings.freeze_layers}, but a backbone by path stays frozen; set it to all"


def _own_input_problems(settings: TrainingSettings) -> Iterable[str]:
    """Problems of a network of ``keras.applications`` with settings of a backbone by path."""
    if settings.normalisation not in ("imagenet", "dataset", "per_image"):
        yield "normalisation: only a backbone by path has this one; set it to imagenet, dataset or per_image"
    if settings.pooling != "mean":
        yield f"pooling: {settings.pooling}, but {settings.backbone} has no tokens; set it to mean"


def _name_problems(name: str, backbone: str) -> Iterable[str]:
    if name == backbone:
        return
    if not MODEL_NAME.fullmatch(name) or len(name) > LONGEST_NAME:
        yield (
            f"models.{name[:LONGEST_NAME]}: expected a name of at most {LONGEST_NAME} letters, digits, points, hyphens "
            "and underscores, which does not start with a point or hyphen"
        )
    if name.casefold() in RESERVED:
        yield f"models.{name}: this name is reserved; give the model another"


def _backbone_problems(name: str, backbone: str) -> Iterable[str]:
    if backbone not in BACKBONES:
        near = difflib.get_close_matches(backbone, BACKBONES, cutoff=0.5)
        # Two characters in the wrong order are the likeliest mistake.
        near.sort(key=lambda known: sorted(known) != sorted(backbone))
        hint = f"did you mean {near[0]!r}? " if near else ""
        key = f"models.{name}" if name == backbone else f"models.{name}.backbone"
        found = "unknown backbone" if name == backbone else f"{backbone!r} is an unknown backbone"
        named = "; or name the backbone of this model with `backbone`" if name == backbone else ""
        file = "" if "/" not in backbone and "." not in backbone else "a path ends with .onnx or .keras. "
        yield f"{key}: {found}; {hint}{file}known: {', '.join(BACKBONES)}{named}"


def _weight_problems(settings: TrainingSettings) -> Iterable[str]:
    weights = settings.class_weights
    if isinstance(weights, list) and not any(weights):
        yield f"class_weights: {weights} are all 0, so that nothing would be learned; set one above 0"
    if settings.balanced_epochs and not settings.balanced_sampling:
        yield "balanced_epochs: nothing is balanced; set balanced_sampling, too"


def _objective_problems(settings: TrainingSettings) -> Iterable[str]:
    if settings.label_smoothing and settings.objective != "softmax":
        yield (
            f"label_smoothing: {settings.label_smoothing} with objective {settings.objective}, whose labels are no "
            "probabilities of grades; set it to 0, or objective to softmax"
        )
    if settings.regression_loss != "mse" and settings.objective != "regression":
        yield (
            f"regression_loss: {settings.regression_loss} with objective {settings.objective}, to which it does not "
            "apply; set it to mse, or objective to regression"
        )


def _random_weight_problems(settings: TrainingSettings) -> Iterable[str]:
    if settings.weights != "random":
        return
    if settings.freeze_layers != 0:
        yield f"freeze_layers: {settings.freeze_layers} would freeze random weights; set it to 0"
    if settings.batch_norm != "train":
        yield "batch_norm: random weights have no statistics to use; set it to train"
    if settings.head_epochs:
        yield "head_epochs: with random weights, the features of the backbone are of no use to the head; set it to 0"


def _schedule_problems(settings: TrainingSettings) -> Iterable[str]:
    if settings.minimum_learning_rate > settings.learning_rate:
        yield (
            f"minimum_learning_rate: {settings.minimum_learning_rate} is above learning_rate {settings.learning_rate}; "
            "set it lower"
        )
    if settings.warmup_epochs >= settings.epochs:
        yield (
            f"warmup_epochs: {settings.warmup_epochs} of {settings.epochs} epochs, so that learning_rate is never "
            "reached; set it lower"
        )
    if settings.head_epochs and settings.batch_norm == "train":
        yield (
            "head_epochs: the head would learn from the stored statistics, which batch_norm: train replaces; set "
            "batch_norm to inference, or head_epochs to 0"
        )


def _optimizer_problems(settings: TrainingSettings) -> Iterable[str]:
    if settings.optimizer == "adam" and settings.weight_decay:
        yield f"weight_decay: {settings.weight_decay}, but optimizer is adam; set that to adamw"
    if settings.optimizer == "adamw" and not settings.weight_decay:
        yield "optimizer: adamw without weight_decay is adam; set weight_decay, or optimizer to adam"
    if settings.layer_decay != 1 and settings.freeze_layers == "all":
        yield f"layer_decay: {settings.layer_decay}, but freeze_layers: all leaves no layer to it; set it to 1"
    if settings.clip_norm and settings.gpus > 1 and settings.backend == "tensorflow":
        yield (
            "clip_norm: on several GPUs, TensorFlow would clip the gradient of each GPU before the sum; set clip_norm "
            "to 0, gpus to 1, or backend to jax"
        )


def _gpu_problems(settings: TrainingSettings) -> Iterable[str]:
    if settings.batch_size % settings.gpus:
        yield (
            f"batch_size: {settings.batch_size} images cannot be divided evenly among {settings.gpus} GPUs; set it to "
            "a multiple of that"
        )
    if settings.gpus > 1 and settings.backend == "torch":
        yield "gpus: with torch, Keras trains a network on one GPU; set gpus to 1, or backend to another"
    elif settings.gpus > 1 and settings.jit not in ("auto", settings.backend == "jax"):
        yield f"jit: {settings.jit}, which {settings.backend} cannot do on several GPUs; set jit to auto, or gpus to 1"


def _mixing_problems(settings: TrainingSettings) -> Iterable[str]:
    zoom, mixup, cutmix = settings.augment.zoom, settings.augment.mixup, settings.augment.cutmix
    if zoom[0] > zoom[1]:
        yield f"augment.zoom: {zoom} has its lower end above its upper end; write the lower one first"
    if mixup and cutmix:
        yield f"augment.cutmix: {cutmix}, and mixup {mixup}, too; set one of them to 0"
    if not mixup and not cutmix:
        return
    mixing = "mixup" if mixup else "cutmix"
    if settings.class_weights != "none":
        yield (
            f"class_weights: an image mixed by augment.{mixing} is of two grades and has no weight of one; set "
            "class_weights to none, or mixup and cutmix to 0"
        )
    if settings.batch_size == 1:
        yield f"batch_size: 1 leaves none that augment.{mixing} could mix an image with; set it to at least 2"


def check_packages(config: Configuration) -> None:
    """Check that the packages which the settings need are installed for this Python.

    Raises:
        RetinaflowError: one error that lists all settings without their package.
    """
    used = {name: settings.backend for name, settings in feature_networks(config).items()}
    backends = [f"backend of {name}: {fault}" for name, backend in used.items() if (fault := backend_fault(backend))]
    asked = {"tensorboard": config.tracking.tensorboard, "mlflow": config.tracking.mlflow is not None}
    trackers = [
        f"tracking.{name}: {name} is not installed for {sys.executable}; install it (`make track` does, into .venv), "
        "or leave it out"
        for name, wanted in asked.items()
        if wanted and not find_spec(name)
    ]
    raise_problems(backends + trackers)
