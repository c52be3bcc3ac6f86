"""Check the configuration and work out what each stage needs of it. Imports nothing heavy: a dry run does."""

import copy
import difflib
import math
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import jsonschema
import jsonschema.exceptions
import jsonschema.validators
import yaml

from retinaflow.data.labels import read_labels
from retinaflow.errors import RetinaflowError
from retinaflow.networks.backbones import BACKBONES
from retinaflow.networks.backend import fault as backend_fault
from retinaflow.networks.weights import EXPECTED as EXPECTED_WEIGHTS
from retinaflow.networks.weights import fault as weights_fault
from retinaflow.preprocessing.variant import Recipe
from retinaflow.storage import object_storage
from retinaflow.storage.archives import split_archive

Config = dict[str, Any]

LARGEST_SEED = 2**32 - 1
LONGEST_CLASS = 100  # file systems take names of 255 bytes
NUMBERS = ("number", "integer")
AVERAGE = "average"  # the mean of all backbones, where there are several
HEAD_EPOCHS = 30  # where `head_epochs` is auto
# Where `learning_rate` is auto: after a head, and without.
RATES = 1e-5, 1e-4


def check(config: Mapping[str, Any], schema: Mapping[str, Any]) -> None:
    """Raise one ``RetinaflowError`` that lists everything wrong with a configuration by itself, files not looked at.

    ``schema`` is the content of ``workflow/schemas/config.schema.yaml``.
    """
    _raise(list(_key_problems(config)))
    problems = list(_schema_problems(config, schema, schema))
    if all(isinstance(config.get(key, {}), Mapping) for key in ("train", "backbones")):
        problems += _training_problems(config, schema)
    _raise(problems)
    _raise(list(_combination_problems(with_defaults(config, schema))))


def check_text(paths: Iterable[str | os.PathLike[str]]) -> None:
    """Raise one ``RetinaflowError`` that names each key that stands twice in a configuration file.

    Snakemake, which has read ``paths``, keeps the last one and drops the other with all that is in it.
    """
    problems = []
    for path in paths:
        try:
            root = yaml.compose(Path(path).read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
        except yaml.YAMLError:  # JSON, which Snakemake reads too, may be indented by tabs
            continue
        problems += [f"{path}: {problem}" for problem in _repeated(root, (), set())]
    _raise(problems)


def _repeated(node: yaml.Node | None, steps: tuple[str, ...], seen: set[int]) -> Iterable[str]:
    if id(node) in seen:  # what an anchor names may hold itself
        return
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for inner in node.value:
            yield from _repeated(inner, steps, seen)
    if isinstance(node, yaml.MappingNode):
        lines: dict[str, int] = {}
        for key, value in node.value:
            name, line = str(key.value), key.start_mark.line + 1
            if name in lines:
                key_path = ".".join((*steps, name))
                yield f"{key_path} stands in line {lines[name]} and again in line {line}; keep one of them"
            lines[name] = line
            yield from _repeated(value, (*steps, name), seen)


def check_files(config: Config) -> None:
    """Raise one ``RetinaflowError`` that names each key whose folder or file is missing or cannot be used.

    ``config`` is complete (``with_defaults``). The photographs of a demo are drawn later and not looked for.
    """
    problems = []
    for key, name in _tracked(config):
        if "{" in name or "}" in name:
            problems.append(
                f"{key}: {name!r} has a brace, which Snakemake takes for the start of a wildcard; give it another name"
            )
        if "\0" in name:
            problems.append(f"{key}: {name!r} has a NUL character, which no path may have; remove it")
    _raise(problems)
    problems += _results_problems(config["results"])
    if "demo" not in config:
        for dataset, source in datasets(config).items():
            for key, images in _image_keys(dataset, source):
                problems += _images_problems(key, images, config["results"])
            archive = split_archive(source["labels"])
            if object_storage.is_remote(source["labels"]):
                problems += _remote_problems(f"data.{dataset}.labels", source["labels"])
            elif not os.path.isfile(archive[0] if archive else source["labels"]):
                problems.append(f"data.{dataset}.labels: there is no file {source['labels']!r}; correct the path")
    problems += _overlaps(
        [place for dataset, source in datasets(config).items() for place in _image_keys(dataset, source)]
    )
    for name in config["backbones"]:
        weights = training(config, name)["weights"]
        if weights in ("imagenet", "random"):
            continue
        if object_storage.is_remote(weights):
            problems += _remote_problems(f"weights of {name}", weights)
            if not weights.endswith(".h5"):
                problems.append(f"weights of {name}: {weights!r}: has another extension than .h5; {EXPECTED_WEIGHTS}")
        elif not os.path.isfile(weights):
            problems.append(
                f"weights of {name}: there is no file {weights!r}; expected 'imagenet', 'random' or a weights file"
            )
        elif fault := weights_fault(weights):
            problems.append(f"weights of {name}: {weights!r}: {fault}; or set `weights` to 'imagenet' or 'random'")
    _raise(problems)


def check_packages(config: Config) -> None:
    """Raise one ``RetinaflowError`` that names each setting which asks for what is not installed for this Python."""
    used = {name: training(config, name)["backend"] for name in config["backbones"]}
    backends = [f"backend of {name}: {fault}" for name, backend in used.items() if (fault := backend_fault(backend))]
    asked = {"tensorboard": config["tracking"]["tensorboard"], "mlflow": config["tracking"]["mlflow"] is not None}
    trackers = [
        f"tracking.{name}: {name} is not installed for {sys.executable}; install it (`make track` does, into .venv), "
        "or leave it out"
        for name, wanted in asked.items()
        if wanted and not find_spec(name)
    ]
    _raise([*backends, *trackers])


def _image_keys(dataset: str, source: Config) -> list[tuple[str, str]]:
    key = f"data.{dataset}.images"
    several = len(source["images"]) > 1
    return [(f"{key}[{number}]" if several else key, images) for number, images in enumerate(source["images"])]


# os.path and not Path: it takes a path that is too long or may not be looked at for one that is not there.
# ruff: noqa: PTH112, PTH113


def _results_problems(results: str) -> Iterable[str]:
    existing = Path(results).absolute()
    while not os.path.lexists(existing):
        existing = existing.parent
    if not os.path.isdir(existing):
        yield f"results: {str(existing)!r} is not a folder, expected one that results can be written to; name another"
    elif not os.access(existing, os.W_OK | os.X_OK):
        yield f"results: {str(existing)!r} may not be written to; name another folder, or have its owner permit it"


def _images_problems(key: str, images: str, results: str) -> Iterable[str]:
    archive = split_archive(images)
    if object_storage.is_remote(images):
        yield from _remote_problems(key, images)
    elif archive:
        if not os.path.isfile(archive[0]):
            yield f"{key}: there is no archive {str(archive[0])!r}; correct the path"
        elif not is_zipfile(archive[0]):
            yield f"{key}: {str(archive[0])!r} is no .zip archive, or not all of one; fetch or copy it again"
    elif not os.path.isdir(images):
        yield f"{key}: {images!r} is not a folder; expected a folder of photographs or a .zip archive"
    elif Path(os.path.realpath(results)).is_relative_to(os.path.realpath(images)):
        yield f"{key}: {images!r} holds the results folder {results!r}; move that out of it"


def _remote_problems(key: str, url: str) -> Iterable[str]:
    if fault := object_storage.fault(url):
        yield f"{key}: {fault}"


def _overlaps(places: Sequence[tuple[str, str]]) -> Iterable[str]:
    for number, (key, images) in enumerate(places):
        for other_key, others in places[:number]:
            (archive, steps), (other_archive, other_steps) = _location(images), _location(others)
            if archive == other_archive and all(a == b for a, b in zip(steps, other_steps, strict=False)):
                yield (
                    f"{key}: {images!r} and {others!r} of {other_key} are one folder, or one lies inside the other, "
                    "and subfolders are searched: each photograph would count twice; name folders that are apart"
                )


def _location(images: str) -> tuple[str, tuple[str, ...]]:
    """The real path of the archive, if any, and the steps from there."""
    archive = split_archive(images)
    if archive:
        return os.path.realpath(archive[0]), Path(archive[1]).parts
    return "", Path(os.path.realpath(images)).parts


def _tracked(config: Config) -> Iterable[tuple[str, str]]:
    """Key and name of everything that becomes an input or output of a rule as it is called."""
    yield "results", config["results"]
    for dataset, source in datasets(config).items():
        yield f"data.{dataset}.labels", source["labels"]
        # Photographs that are there already are none: only their listing is looked at.
        made = [images for images in source["images"] if "demo" in config or split_archive(images)]
        yield from ((f"data.{dataset}.images", images) for images in made)
    for name in config["backbones"]:
        yield f"weights of {name}", training(config, name)["weights"]


@dataclass(frozen=True)
class Remote:
    """What a key of the configuration names in a storage, and the path that it is fetched to."""

    key: str
    url: str
    path: str
    kind: str  # folder, archive, table or weights


def fetched(config: Config) -> tuple[Config, list[Remote]]:
    """``config`` with a path in place of each address in a storage, and what is to be fetched there.

    ``config`` is complete (``with_defaults``) and was looked at by ``check_files``. Label tables are wanted before
    anything runs, and so do not go to the results folder.
    """
    local, remote = copy.deepcopy(config), []
    for dataset, source in datasets(config).items():
        images = source["images"]
        for number, (key, url) in enumerate(_image_keys(dataset, source)):
            if object_storage.is_remote(url):
                stem = Path(config["results"], "downloaded", f"{dataset}-{number}").as_posix()
                archive = object_storage.split_archive(url)
                if archive:
                    remote.append(Remote(key, archive[0], f"{stem}.zip", "archive"))
                else:
                    remote.append(Remote(key, url, stem, "folder"))
                images[number] = f"{stem}.zip/{archive[1]}".rstrip("/") if archive else stem
        local["data"][dataset]["images"] = images
        if object_storage.is_remote(source["labels"]):
            url = (object_storage.split_archive(source["labels"]) or [source["labels"]])[0]
            remote.append(Remote(f"data.{dataset}.labels", url, _table_path(url), "table"))
            local["data"][dataset]["labels"] = _table_path(source["labels"])
    for name in config["backbones"]:
        url = training(config, name)["weights"]
        if object_storage.is_remote(url):
            # Keras tells its two formats apart by the name.
            suffix = ".weights.h5" if url.endswith(".weights.h5") else ".h5"
            path = Path(config["results"], "downloaded", name + suffix).as_posix()
            remote.append(Remote(f"weights of {name}", url, path, "weights"))
            local["backbones"][name]["weights"] = path
    return local, remote


def _table_path(url: str) -> str:
    return Path(".snakemake/labels", url.removeprefix(object_storage.SCHEME)).as_posix()


def check_remote(client: Any, remote: Iterable[Remote]) -> None:
    """Raise one ``RetinaflowError`` that names each key whose folder or file is not in its storage or may not be read.

    Label tables are fetched, unless they are here already as they are there.
    """
    problems = []
    for one in remote:
        try:
            if one.kind == "table":
                object_storage.fetch_table(client, one.url, Path(one.path))
            elif one.kind == "folder":
                object_storage.check_folder(client, one.url)
            else:
                object_storage.find(client, one.url)
        except RetinaflowError as error:
            problems.append(f"{one.key}: {error}")
    _raise(problems)


def with_defaults(config: Mapping[str, Any], schema: Mapping[str, Any]) -> Config:
    """A copy of ``config`` in which every key of the schema has a value, each backbone's training settings too.

    Of the backbones, ``head_epochs`` and ``learning_rate`` are numbers and ``feature_layers`` a list.
    """
    full: Config = copy.deepcopy(dict(config))
    _fill(full, schema)
    shared = full["train"]
    for name, own in full["backbones"].items():
        full["backbones"][name] = _merged(shared, own or {})
        _fill(full["backbones"][name], schema["$defs"]["training"])
        _resolve(name, full["backbones"][name])
    return _ordered(full)


def _resolve(backbone: str, settings: Config) -> None:
    told = settings["weights"] != "random"
    if settings["feature_layers"] == "auto":
        # An unknown backbone is refused afterwards.
        settings["feature_layers"] = list(BACKBONES[backbone].feature_layers) if told and backbone in BACKBONES else []
    if settings["head_epochs"] == "auto":
        settings["head_epochs"] = HEAD_EPOCHS if told and settings["batch_norm"] == "inference" else 0
    if settings["learning_rate"] == "auto":
        settings["learning_rate"] = RATES[0] if settings["head_epochs"] else RATES[1]


def training(config: Config, backbone: str) -> Config:
    """Training settings of one backbone of a complete configuration (``with_defaults``)."""
    settings: Config = config["backbones"][backbone]
    return settings


def changed(config: Config, schema: Mapping[str, Any]) -> list[list[Any]]:
    """Key, value and default of each setting of a complete configuration that is not the default of the schema.

    What a backbone has in common with ``train`` is left out, and so is what decides nothing of the models. The default
    is None where there is none.
    """
    default: Config = {"data": {}, "train": {}, "backbones": dict.fromkeys(config["backbones"])}
    default = with_defaults(default, schema)
    _fill(default["train"], schema["$defs"]["training"])
    defaults = flat(default)
    values = flat(config)
    found = []
    for key, value in values.items():
        if key.startswith(("tracking.", "export.")):
            continue
        shared = re.sub(r"^backbones\.[^.]+\.", "train.", key)
        if value != defaults.get(key) and (shared == key or value != values.get(shared)):
            found.append([key, value, defaults.get(key)])
    return found


def flat(nested: Mapping[str, Any]) -> Config:
    """The values of nested mappings, by keys such as ``train.epochs``."""
    found = {}
    for key, value in nested.items():
        if isinstance(value, Mapping):
            found.update({f"{key}.{inner}": its for inner, its in flat(value).items()})
        else:
            found[key] = value
    return found


def datasets(config: Config) -> dict[str, Config]:
    """``train`` and, where there is one, ``test``: each with ``images`` (a list), ``labels`` and ``exclude``."""
    return {
        name: {
            "images": [source["images"]] if isinstance(source["images"], str) else source["images"],
            "labels": source["labels"],
            "exclude": source.get("exclude", []),
        }
        for name in ("train", "test")
        if (source := config["data"][name])
    }


def held_out_parts(config: Config) -> list[str]:
    """Names of the parts that the training set is split into: ``train, validation`` or ``fold-1 ... fold-k``."""
    folds = config["split"]["folds"]
    return [f"fold-{i}" for i in range(1, folds + 1)] if folds else ["train", "validation"]


def graders(config: Config) -> list[str]:
    """Names of what can grade new photographs: the backbones and, of several, their average."""
    backbones = list(config["backbones"])
    return [*backbones, AVERAGE] if len(backbones) > 1 else backbones


def eye_systems(config: Config) -> list[str]:
    """Which of ``blend`` and ``fusion`` are made of each backbone; ``auto`` makes both where there are both eyes.

    ``config`` is complete and its label tables are there.
    """
    chosen: str | list[str] = config["eyes"]["systems"]
    if not isinstance(chosen, str):
        return chosen
    return ["blend", "fusion"] if "demo" in config or _has_both_eyes(config["data"]) else []


def _has_both_eyes(data: Config) -> bool:
    pattern = re.compile(data["patient"], re.DOTALL)
    if "eye" not in pattern.groupindex:
        return False
    eyes: dict[str, str] = {}
    for label in read_labels(data["train"]["labels"], data["image_column"], data["level_column"]):
        match = pattern.fullmatch(label.image)
        if match and match["eye"] and eyes.setdefault(match["patient"], match["eye"]) != match["eye"]:
            return True
    return False


def recipe(config: Config, backbone: str) -> Recipe:
    """How the photographs of one backbone are preprocessed."""
    how = config["preprocess"]
    return Recipe(training(config, backbone)["image_size"], how["crop"], how["aspect"], how["enhance"])


def photograph_counts(config: Config) -> dict[str, float]:
    """About how many photographs each part has, before any was looked at.

    It follows from the number of labels (of drawn photographs for a demo) and the share that goes into the part.
    """
    folds = config["split"]["folds"]
    labelled = {name: _photographs(config, name) for name in datasets(config)}
    held_out = 1 / folds if folds else config["split"]["validation"]
    shares = dict.fromkeys(held_out_parts(config), held_out)
    if not folds:
        shares["train"] = 1 - held_out
    counts = {part: labelled["train"] * share for part, share in shares.items()}
    if "test" in labelled:
        counts["test"] = labelled["test"]
    return counts


def shard_counts(config: Config) -> dict[str, int]:
    """Number of shards of each part, at least 1: by ``photograph_counts``, so that a first dry run shows every job."""
    size = config["preprocess"]["shard_size"]
    # Rounded first, so that 0.2 * 5 photographs, 1.0000000000000002 in floating point, stay one.
    return {part: max(1, math.ceil(round(count / size, 6))) for part, count in photograph_counts(config).items()}


def _photographs(config: Config, dataset: str) -> int:
    if "demo" in config:
        return 2 * int(config["demo"][f"{dataset}_patients"])
    data = config["data"]
    return len(read_labels(data[dataset]["labels"], data["image_column"], data["level_column"]))


def _raise(problems: list[str]) -> None:
    if problems:
        listed = "\n".join(f"  - {problem}" for problem in problems)
        raise RetinaflowError(
            f"The configuration cannot be used:\n{listed}\nEvery key is explained in config/README.md."
        )


def _key_problems(section: Mapping[Any, Any], prefix: str = "") -> Iterable[str]:
    for key, value in section.items():
        if not isinstance(key, str):
            yield f"{prefix}{key}: YAML reads this key as {type(key).__name__}, expected text; correct it"
        if isinstance(value, Mapping):
            yield from _key_problems(value, f"{prefix}{key}.")


_FORMATS = jsonschema.FormatChecker(())


@_FORMATS.checks("regex", raises=(re.error, OverflowError, RecursionError))
def _is_regex(value: Any) -> bool:
    return not isinstance(value, str) or bool(re.compile(value))


# JSON Schema takes 224.0 for an integer and knows no infinity; both would fail later, inside a job.
_Validator = jsonschema.validators.extend(
    jsonschema.Draft202012Validator,
    type_checker=jsonschema.Draft202012Validator.TYPE_CHECKER.redefine(
        "integer", lambda _, value: isinstance(value, int) and not isinstance(value, bool)
    ).redefine(
        "number",
        lambda _, value: isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value),
    ),
)


def _schema_problems(
    instance: Any, part: Mapping[str, Any], schema: Mapping[str, Any], prefix: str = ""
) -> Iterable[str]:
    validator = _Validator({**part, "$defs": schema["$defs"]}, format_checker=_FORMATS)
    for error in sorted(validator.iter_errors(instance), key=lambda error: [str(step) for step in error.absolute_path]):
        yield from _describe(jsonschema.exceptions.best_match([error]), prefix)


def _describe(error: jsonschema.exceptions.ValidationError, prefix: str) -> Iterable[str]:
    steps = [prefix] if prefix else []
    for step in error.absolute_path:
        if isinstance(step, int) and steps:
            steps[-1] += f"[{step}]"
        else:
            steps.append(str(step))
    if error.validator == "additionalProperties":
        known = list(error.schema.get("properties", {}))
        for unknown in sorted(str(name) for name in error.instance if name not in known):
            near = difflib.get_close_matches(unknown, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(sorted(known))}"
            yield f"{'.'.join([*steps, unknown])}: unknown key; {hint}"
    elif error.validator == "required":
        # The one key that this error is about stands in its message alone.
        missing = next(name for name in error.validator_value if error.message.startswith(repr(name)))
        yield f"{'.'.join([*steps, missing])}: this key is required and missing"
    else:
        # Of several forms a value may have, jsonschema names none where it cannot tell which one was meant.
        told = ", and ".join(choice.message for choice in error.context) if error.context else error.message
        told = told if len(told) < 400 else f"{told[:200]} ... {told[-150:]}"
        yield f"{'.'.join(steps) or 'configuration'}: {told}{_hint(error)}"


def _hint(error: jsonschema.exceptions.ValidationError) -> str:
    """What to do about a mistake that YAML or a habit invites, in brackets; empty for any other."""
    value, rule, wanted = error.instance, error.validator, error.validator_value
    if rule in ("maximum", "exclusiveMaximum") and wanted == 1 and value > 1:
        return f" (it is a share: {value} % is {value / 100:g})"
    if value is None:
        return " (nothing stands there: give it a value or delete the key)"
    if isinstance(value, bool) and wanted != "boolean":
        return " (YAML reads yes, no, on and off as true and false: put the word in quotes)"
    forms = error.context or [error]
    if _is_number(value) and any(one.validator == "type" and one.validator_value in NUMBERS for one in forms):
        return " (this is text: take off the quotes; YAML needs a point and a sign in an exponent, 1.0e-4)"
    if rule == "type" and wanted == "string" and not isinstance(value, list | dict):
        return " (put it in quotes)"
    if rule == "type" and "object" in wanted and isinstance(value, list):
        return " (a list; expected a section, with a line `key: value` for each)"
    return ""


def _is_number(value: Any) -> bool:
    try:
        return isinstance(value, str) and math.isfinite(float(value))
    except ValueError:
        return False


def _training_problems(config: Mapping[str, Any], schema: Mapping[str, Any]) -> Iterable[str]:
    part = schema["$defs"]["training"]
    yield from _schema_problems(config.get("train", {}), part, schema, "train")
    for name, own in (config.get("backbones") or {}).items():
        yield from _schema_problems(own or {}, part, schema, f"backbones.{name}")


def _combination_problems(config: Config) -> Iterable[str]:
    classes = len(config["data"]["classes"])
    yield from _data_problems(config["data"])
    if config["seed"] > LARGEST_SEED:
        yield f"seed: {config['seed']} is above {LARGEST_SEED}, the largest that NumPy takes"
    for name, settings in config["backbones"].items():
        key = f"backbones.{name}"
        if name not in BACKBONES:
            near = difflib.get_close_matches(name, BACKBONES, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}? " if near else ""
            yield f"{key}: unknown backbone; {hint}Known: {', '.join(BACKBONES)}"
            continue
        least = BACKBONES[name].minimum_size
        if settings["image_size"] < least:
            yield f"{key}.image_size: {settings['image_size']} px; {name} needs at least {least}"
        weights = settings["class_weights"]
        if isinstance(weights, list) and len(weights) != classes:
            yield f"{key}.class_weights: {len(weights)} weights for the {classes} classes of data.classes"
        if isinstance(weights, list) and not any(weights):
            yield f"{key}.class_weights: {weights} are all 0, so that nothing would be learned"
        if settings["label_smoothing"] and settings["objective"] != "softmax":
            yield (
                f"{key}.label_smoothing: {settings['label_smoothing']} with objective {settings['objective']}, whose "
                "labels are no probabilities of classes; set it to 0, or objective to softmax"
            )
        if settings["regression_loss"] != "mse" and settings["objective"] != "regression":
            yield (
                f"{key}.regression_loss: {settings['regression_loss']} with objective {settings['objective']}, to "
                "which it does not apply; set it to mse, or objective to regression"
            )
        yield from _schedule_problems(key, settings)
        yield from _optimizer_problems(key, settings)
        if settings["batch_size"] % settings["gpus"]:
            yield (
                f"{key}.batch_size: {settings['batch_size']} photographs cannot be divided evenly among "
                f"{settings['gpus']} GPUs; set it to a multiple of that"
            )
        if settings["gpus"] > 1 and settings["backend"] == "torch":
            yield f"{key}.gpus: with torch, Keras trains a network on one GPU; set gpus to 1, or backend to another"
        elif settings["gpus"] > 1 and settings["jit"] not in ("auto", settings["backend"] == "jax"):
            yield (
                f"{key}.jit: {settings['jit']}, which {settings['backend']} cannot do on several GPUs; set jit to "
                "auto, or gpus to 1"
            )
        zoom = settings["augment"]["zoom"]
        if zoom[0] > zoom[1]:
            yield f"{key}.augment.zoom: {zoom} has its lower end above its upper end"
        mixup, cutmix = settings["augment"]["mixup"], settings["augment"]["cutmix"]
        if mixup and cutmix:
            yield f"{key}.augment.cutmix: {cutmix}, and mixup {mixup}, too; set one of them to 0"
        if (mixup or cutmix) and settings["class_weights"] != "none":
            yield (
                f"{key}.class_weights: what augment.{'mixup' if mixup else 'cutmix'} mixes is of two classes and "
                "has no weight of one; set class_weights to none, or mixup and cutmix to 0"
            )
        if (mixup or cutmix) and settings["batch_size"] == 1:
            yield (
                f"{key}.batch_size: 1 leaves none that augment.{'mixup' if mixup else 'cutmix'} could mix a photograph "
                "with; set it to at least 2"
            )
        if settings["weights"] == "random" and settings["freeze_layers"] != 0:
            yield f"{key}.freeze_layers: {settings['freeze_layers']} would freeze random weights; set it to 0"
        if settings["weights"] == "random" and settings["batch_norm"] != "train":
            yield f"{key}.batch_norm: random weights have no statistics to go by; set it to train"
    if config["system"] not in (None, *graders(config)):
        yield (
            f"system: {config['system']!r} grades no new photographs; expected one of {', '.join(graders(config))}, or "
            "null for the best"
        )
    if config["split"]["folds"] == 1:
        yield "split.folds: 1 fold leaves nothing to train on; expected 0 (one split) or at least 2"
    if config["score"]["referable_level"] >= classes:
        yield (
            f"score.referable_level: {config['score']['referable_level']} is no level of the {classes} classes of "
            f"data.classes; expected 1 to {classes - 1}"
        )
    if isinstance(config["eyes"]["systems"], list) and config["eyes"]["systems"]:
        yield from _eye_problems(config["data"])
    if "demo" in config:
        yield from _demo_problems(config)


def _eye_problems(data: Config) -> Iterable[str]:
    if "eye" not in re.compile(data["patient"]).groupindex:
        yield (
            f"eyes.systems: data.patient, {data['patient']!r}, has no group (?P<eye>...) that tells both eyes apart; "
            "add it, or set eyes.systems to []"
        )


def _schedule_problems(key: str, settings: Config) -> Iterable[str]:
    if settings["minimum_learning_rate"] > settings["learning_rate"]:
        yield (
            f"{key}.minimum_learning_rate: {settings['minimum_learning_rate']} is above "
            f"learning_rate {settings['learning_rate']}"
        )
    if settings["warmup_epochs"] >= settings["epochs"]:
        yield (
            f"{key}.warmup_epochs: {settings['warmup_epochs']} of {settings['epochs']} epochs, so that learning_rate "
            "is never reached; set it lower"
        )
    if settings["head_epochs"] and settings["weights"] == "random":
        yield f"{key}.head_epochs: with random weights, the backbone has nothing to tell the head; set it to 0"
    if settings["head_epochs"] and settings["batch_norm"] == "train":
        yield (
            f"{key}.head_epochs: the head would learn from the stored statistics, which batch_norm: train replaces; "
            "set batch_norm to inference, or head_epochs to 0"
        )
    if settings["balanced_epochs"] and not settings["balanced_sampling"]:
        yield f"{key}.balanced_epochs: nothing is balanced; set balanced_sampling, too"


def _optimizer_problems(key: str, settings: Config) -> Iterable[str]:
    if settings["optimizer"] == "adam" and settings["weight_decay"]:
        yield f"{key}.weight_decay: {settings['weight_decay']}, but optimizer is adam; set that to adamw"
    if settings["optimizer"] == "adamw" and not settings["weight_decay"]:
        yield f"{key}.optimizer: adamw without weight_decay is adam; set weight_decay, or optimizer to adam"
    if settings["layer_decay"] != 1 and settings["freeze_layers"] == "all":
        yield f"{key}.layer_decay: {settings['layer_decay']}, but freeze_layers: all leaves no layer to it; set it to 1"
    if settings["clip_norm"] and settings["gpus"] > 1 and settings["backend"] == "tensorflow":
        yield (
            f"{key}.clip_norm: on several GPUs, TensorFlow would clip what each has found before the sum; set "
            "clip_norm to 0, gpus to 1, or backend to jax"
        )


def _data_problems(data: Config) -> Iterable[str]:
    if "patient" not in re.compile(data["patient"]).groupindex:
        yield f"data.patient: {data['patient']!r} has no group (?P<patient>...)"
    if data["image_column"] == data["level_column"]:
        yield f"data.level_column: {data['level_column']!r} is data.image_column, too; expected another column"
    seen: dict[str, str] = {}
    for name in data["classes"]:
        if len(name) > LONGEST_CLASS:
            yield f"data.classes: {name[:20] + '...'!r} has {len(name)} characters, expected at most {LONGEST_CLASS}"
        if name.casefold() in seen:
            yield (
                f"data.classes: {seen[name.casefold()]!r} and {name!r} differ in case only, and on some disks their "
                "folders would be one; give one of them another name"
            )
        seen[name.casefold()] = name


def _demo_problems(config: Config) -> Iterable[str]:
    if not config["data"]["test"]:
        yield "data.test: the demo draws a test set; say where, as for data.train"
    if len(config["data"]["classes"]) != 5:
        yield f"data.classes: the demo draws 5 grades, found {len(config['data']['classes'])} classes"
    results = Path(config["results"]).resolve()
    for dataset, source in datasets(config).items():
        if len(source["images"]) > 1:
            yield f"data.{dataset}.images: the demo draws one folder, found {len(source['images'])}"
        for key, names in (("images", source["images"]), ("labels", [source["labels"]])):
            for name in names:
                # What the demo draws is replaced at will; photographs of the user must never be.
                if results not in Path(name).resolve().parents:
                    yield f"data.{dataset}.{key}: {name!r} is not below {config['results']!r}, where the demo draws to"


def _fill(instance: Config, part: Mapping[str, Any]) -> None:
    for key, rule in part.get("properties", {}).items():
        if "default" in rule:
            instance.setdefault(key, copy.deepcopy(rule["default"]))
        if isinstance(instance.get(key), dict):
            _fill(instance[key], rule)


def _merged(base: Config, own: Config) -> Config:
    merged = copy.deepcopy(base)
    for key, value in own.items():
        merged[key] = (
            _merged(merged[key], value) if isinstance(merged.get(key), dict) and isinstance(value, dict) else value
        )
    return merged


def _ordered(value: Any) -> Any:
    """Keys in alphabetical order all the way down: the order in a file must not look like a change of a setting."""
    return {key: _ordered(value[key]) for key in sorted(value)} if isinstance(value, dict) else value
