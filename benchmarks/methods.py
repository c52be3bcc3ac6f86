"""Gain of each method in quadratic weighted kappa. Each row changes one setting, and all rows have the same images.

Each row is a configuration that the workflow itself trains and scores, in its own folder below
`results/benchmarks/methods/{data set}/`. All rows have the same folds by patient. The network that was not trained on
an image grades it. A folder starts as a copy of the folder of `plain`, with pixels and models as hard links. Snakemake
then repeats the stages that the settings of the row change, also after an interruption.

- `python benchmarks/article.py eyepacs-256`: the row to compare the others with
- `python benchmarks/methods.py eyepacs-256`: all rows, or those after `--rows`
- `python benchmarks/methods.py aptos-224 --folds 2 --size 128`: smaller networks and images, in minutes
- `python benchmarks/methods.py eyepacs-1024 --folds 2 --head`: heads on a frozen network

Prints all finished rows of any size. Writes them to `results/benchmarks/methods-{data set}.json` and into
docs/methods.md. The table names the reductions: `--folds` (each network trains on all images but one fold), `--epochs`
of the whole network, and `--size`. With `--head`, the network keeps the weights of ImageNet. As many trainings run side
by side as there are cores, each in one thread.

Brackets hold the 95 % interval over patients, of 1000 bootstrap samples. A difference uses the same samples for both
rows. The interval shows the uncertainty from the choice of images. It does not include the seed of the training.
"""

import argparse
import csv
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

import common
from retinaflow.evaluation.bootstrap import bootstrap_kappas, bootstrap_metrics, interval, kappa
from retinaflow.evaluation.grades import Grades
from retinaflow.storage.files import write_json

TARGET = common.TARGET / "methods"
DOCUMENT = common.sized(common.ROOT / "docs/methods.md", common.TARGET / "methods.md")
SEED = 2015
FOLDS, EPOCHS, SIZE = common.sized((5, 3, 224), (2, 1, 32))
BACKBONE = common.sized("InceptionV3", "MobileNetV3Small")
FEATURE_LAYERS = common.sized(["mixed2", "mixed4", "mixed6"], ["expanded_conv_project_bn"])
PROBED = common.sized(("InceptionV3", "VGG16"), (BACKBONE,))
BOOTSTRAP_SAMPLES = common.sized(1000, 50)
HEAD_EPOCHS = common.sized(30, 0)  # A head learns nothing from the features of random weights.
BATCH_NORM = common.sized("inference", "train")
# Files that are linked instead of copied. The workflow replaces such a file and never writes into an old one.
LARGE = {".npy", ".keras", ".h5"}


class DataSet(NamedTuple):
    """The folder of labelled images, and whether there are both eyes of each patient."""

    images: str
    pairs: bool


DATA_SETS = {
    "aptos-224": DataSet("images", False),
    "eyepacs-256": DataSet("images", True),
    # Large enough, and in natural colours, to compare crops and enhancements before the resize.
    "eyepacs-1024": DataSet("resized train 15", True),
    # To check that everything works; drawn images show nothing about quality.
    "drawn": DataSet("images", True),
}

# The reference. Each row changes one thing of it, independent of the defaults.
PLAIN: dict[str, Any] = {
    "train": {
        "objective": "softmax",
        "class_weights": "none",
        "normalisation": "imagenet",
        "batch_norm": BATCH_NORM,
        "feature_layers": FEATURE_LAYERS,
        "freeze_layers": 0,
        "head_epochs": HEAD_EPOCHS,
        "head_learning_rate": 0.0003,
        "learning_rate": 0.00001,
        "schedule": "cosine",
        "optimizer": "adam",
        "ema": 0,
        "augment": common.AUGMENT.model_dump(),
    },
    "preprocess": {"crop": "trim", "enhance": "none"},
    "score": {"tta_views": 1},
}
COLOUR = {"brightness": 0.2, "contrast": 0.2, "saturation": 0.2, "hue": 10}
STILL = {"rotation": 0, "shift": 0, "zoom": [1, 1], "flip_horizontal": False, "flip_vertical": False}
CHANGES: dict[str, dict[str, Any]] = {
    "plain": {},
    "regression": {"train": {"objective": "regression"}},
    "ordinal": {"train": {"objective": "ordinal"}},
    "inverse": {"train": {"class_weights": "inverse"}},
    "sqrt_inverse": {"train": {"class_weights": "sqrt_inverse"}},
    "effective_number": {"train": {"class_weights": "effective_number"}},
    "last_layer": {"train": {"feature_layers": []}},
    "head_only": {"train": {"freeze_layers": "all", "epochs": 1}},
    "all_at_once": {"train": {"head_epochs": 0}},
    "long_head": {"train": {"head_epochs": 60}},
    "fast": {"train": {"learning_rate": 0.0001}},
    "plateau": {"train": {"schedule": "plateau"}},
    # The average over about 20 steps. Three epochs on these images have 40 to 100.
    "average": {"train": {"ema": 0.95}},
    "not_augmented": {"train": {"augment": STILL}},
    "rotation": {"train": {"augment": {"rotation": 180}}},
    "colour": {"train": {"augment": {"rotation": 180, **COLOUR}}},
    "mixup": {"train": {"augment": {"mixup": 0.2}}},
    "views": {"score": {"tta_views": 8}},
    "rotation_views": {"train": {"augment": {"rotation": 180}}, "score": {"tta_views": 8}},
    "not_cropped": {"preprocess": {"crop": "none"}},
    "circle": {"preprocess": {"crop": "circle"}},
    "ben_graham": {"preprocess": {"enhance": "ben_graham"}},
    "clahe": {"preprocess": {"enhance": "clahe"}},
    "dataset_means": {"train": {"normalisation": "dataset"}},
    "per_image_means": {"train": {"normalisation": "per_image"}},
    # Without training the head first, because it would learn from statistics that change later.
    "batch_norm": {"train": {"batch_norm": "train", "head_epochs": 0}},
}
# These start from the defaults instead of PLAIN. None removes a setting, so that its default applies.
WHOLE: dict[str, dict[str, Any]] = {
    "defaults": {},
    "defaults_long": {"train": {"epochs": None}},
    # The average covers half an epoch, as that of config/best.yaml does for Kaggle 2015.
    "best": {"train": {"ema": 0.975}},
}
# Settings of `train` that have no effect on a head on a frozen network.
OF_THE_NETWORK = {"freeze_layers", "head_epochs", "schedule", "ema", "batch_norm"}


class Row(NamedTuple):
    """A row of the table.

    Attributes:
        title: Shown in the table. An empty title shows the changed settings.
        experiment: Name of the configuration, and of its folder.
        against: The row to compare with, or None.
        model: The model whose predictions are read.
        argmax: Read the argmax prediction instead of the grades by thresholds.
    """

    title: str
    experiment: str
    against: str | None = "plain"
    model: str = BACKBONE
    argmax: bool = False


ROWS = {
    "article": Row("the article's scripts", "article", None, argmax=True),
    "article_thresholds": Row("the same, graded by thresholds", "article", "article"),
    **{
        f"probe_{backbone}_{eyes}": Row(f"linear probe, {backbone}, {eyes} eye{'s' * (eyes == 'both')}", "probe", None)
        for backbone in PROBED
        for eyes in ("one", "both")
    },
    "defaults": Row("fine-tuned, all settings at their defaults", "defaults", "article"),
    "defaults_eye_average": Row("the same, mean of both eyes", "defaults", "defaults", f"{BACKBONE}+eye_average"),
    "defaults_eye_stacking": Row("the same, features of both eyes", "defaults", "defaults", f"{BACKBONE}+eye_stacking"),
    "defaults_long": Row("the default number of epochs", "defaults_long", "article"),
    "best": Row(f"config/best.yaml, {BACKBONE} at {SIZE} px", "best", "article"),
    "best_eye_stacking": Row("the same, both eyes", "best", "article", f"{BACKBONE}+eye_stacking"),
    "plain": Row("plain: the reference of the rows below", "plain", "article"),
    "argmax": Row("without thresholds: the most probable grade", "plain", argmax=True),
    "eye_average": Row("mean of both eyes", "plain", model=f"{BACKBONE}+eye_average"),
    "eye_stacking": Row("features of both eyes", "plain", model=f"{BACKBONE}+eye_stacking"),
    **{name: Row("", name) for name in CHANGES if name != "plain"},
    "batch_norm": Row("", "batch_norm", "all_at_once"),
    "rounded": Row("objective: regression, without thresholds: rounded", "regression", "regression", argmax=True),
}


class Mode(NamedTuple):
    """The reductions of a call: folds, epochs of the whole network (None: heads only) and image size in pixels."""

    folds: int
    epochs: int | None
    size: int = SIZE

    @property
    def name(self) -> str:
        """Name of its folder."""
        return f"{self.folds}x{self.epochs or 'head'}x{self.size}"

    @classmethod
    def named(cls, name: str) -> "Mode":
        """Return the mode of a folder."""
        folds, epochs, size = name.split("x")
        return cls(int(folds), int(epochs) if epochs.isdecimal() else None, int(size))

    def columns(self) -> dict[str, int]:
        """Return its columns of the table."""
        return {"folds": self.folds, "size": self.size}

    def settings(self) -> dict[str, Any]:
        """Return its settings of the workflow."""
        head = {"freeze_layers": "all", "head_epochs": HEAD_EPOCHS, "epochs": 1}
        epochs = {"epochs": self.epochs} if self.epochs else head
        return {"split": {"folds": self.folds}, "train": {"image_size": self.size, "cpu_threads": 1, **epochs}}


def configuration(data_set: str, folds: int) -> dict[str, Any]:
    """Return the configuration that splits a data set into ``folds`` by patient."""
    source = common.drawn() if data_set == "drawn" else common.DATA / data_set
    train = {"images": str(source / DATA_SETS[data_set].images), "labels": str(source / "labels.csv")}
    return {"data": {"train": train}, "split": {"folds": folds}, "seed": SEED}


def initial_weights(backbone: str) -> str:
    """Return the file of initial weights, or ``random`` in a quick run."""
    return "random" if common.QUICK else str(common.DATA / "weights" / common.WEIGHTS[backbone])


def experiment_configuration(data_set: str, experiment: str, mode: Mode) -> dict[str, Any]:
    """Return the whole configuration of an experiment."""
    names = PROBED if experiment == "probe" else (BACKBONE,)
    backbones = {name: {"weights": initial_weights(name)} for name in names}
    config = merged(configuration(data_set, mode.folds), {"models": backbones})
    if experiment == "probe":
        return merged(config, {"train": {"image_size": mode.size, "cpu_threads": 2}})
    if experiment == "best":
        best = yaml.safe_load((common.ROOT / "config/best.yaml").read_text(encoding="utf-8"))
        config = merged({key: best[key] for key in best.keys() - {"data", "models", "results", "split"}}, config)
    elif experiment not in WHOLE:
        config = merged(config, PLAIN)
    return merged(merged(config, mode.settings()), {**CHANGES, **WHOLE}[experiment])


def merged(settings: Mapping[str, Any], others: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``settings`` updated by ``others``, section by section, without those that are None."""
    result = dict(settings)
    for key, value in others.items():
        result[key] = merged(result.get(key) or {}, value) if isinstance(value, Mapping) else value
    return {key: value for key, value in result.items() if value is not None}


# Run ------------------------------------------------------------------------------------------------------------------


def workflow(folder: Path, config: Mapping[str, Any], *arguments: str) -> None:
    """Run ``snakemake`` in ``folder``, configured by ``config``. End the benchmark if it fails."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(dict(config)), encoding="utf-8")
    # Arguments first, because `--configfile` accepts several files and would include arguments after it.
    command = [str(Path(sys.executable).with_name("snakemake")), *arguments, "--snakefile", common.ROOT / "Snakefile"]
    profile = ["--workflow-profile", common.ROOT / "profiles/default", "--configfile", "config.yaml"]
    profile += ["--resources", f"gpu={os.cpu_count()}"]
    with open(folder / "snakemake.log", "ab") as log:
        done = subprocess.run([*command, *profile], cwd=folder, stdout=log, stderr=log)
    if done.returncode:
        sys.exit(f"{folder}: snakemake failed; see snakemake.log and results/logs in this folder")


def start(folder: Path, other: Path) -> None:
    """Copy ``other`` to ``folder``, with the records and times that Snakemake compares.

    Scores are not copied, so ``folder`` has no scores until the workflow makes them.
    """
    part = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    shutil.copytree(other, part, symlinks=True, ignore=shutil.ignore_patterns("scores"), copy_function=_copy)
    shutil.rmtree(folder, ignore_errors=True)
    part.replace(folder)


def _copy(source: str, target: str) -> None:
    if Path(source).suffix in LARGE:
        os.link(source, target)
    else:
        shutil.copy2(source, target)


def make(data_set: str, names: Sequence[str], mode: Mode) -> None:
    """Run the experiments of the rows ``names``."""
    for experiment in dict.fromkeys(ROWS[name].experiment for name in names):
        if experiment == "article":  # article.py makes it.
            continue
        folder = TARGET / data_set / mode.name / experiment
        plain = folder.with_name("plain")
        if (plain / "results").is_dir() and not (folder / "results").is_dir():
            start(folder, plain)
        print(f"{data_set}, {mode.name}: {experiment}", flush=True)
        models = {ROWS[name].model for name in names if ROWS[name].experiment == experiment}
        targets = [f"results/scores/{model}/out-of-fold/metrics.json" for model in sorted(models)]
        requested = ["probe"] if experiment == "probe" else targets
        workflow(folder, experiment_configuration(data_set, experiment, mode), *requested)


def split(data_set: str, folds: int) -> list[tuple[Sequence[dict[str, str]], Sequence[dict[str, str]]]]:
    """Return the rows of the (training, held-out) images of each fold, as the workflow splits them."""
    folder = TARGET / data_set / "split"
    workflow(folder, configuration(data_set, folds) | {"models": {"VGG16": {}}}, "--until", "split")
    tables = [folder / f"results/split/fold-{i}" for i in range(1, folds + 1)]
    return [(table(fold / "train.csv"), table(fold / "validation.csv")) for fold in tables]


def table(path: Path) -> list[dict[str, str]]:
    """Return the rows of a CSV table."""
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


# Read -----------------------------------------------------------------------------------------------------------------


class Graded(NamedTuple):
    """Predictions of a row, in the order of the file names.

    Attributes:
        filenames: Names of the image files.
        patients: Patient of each image.
        actual: int64 (n,), true grades.
        predicted: int64 (n,), predicted grades.
    """

    filenames: list[str]
    patients: list[str]
    actual: np.ndarray
    predicted: np.ndarray


def read_graded(folder: Path, argmax: bool) -> Graded:
    """Read the predictions of a split: grades by thresholds, or with ``argmax`` the argmax predictions."""
    column = "argmax_grade" if argmax else "predicted_grade"
    rows = sorted(table(folder / "predictions.csv"), key=lambda row: row["filename"])
    actual, predicted = (np.array([int(row[name]) for row in rows]) for name in ("grade", column))
    return Graded([row["filename"] for row in rows], [row["patient"] for row in rows], actual, predicted)


def kappas(*graded: Graded) -> np.ndarray:
    """Bootstrap quadratic weighted kappa over patients, with the same samples for all.

    Returns:
        float64 (len(graded), BOOTSTRAP_SAMPLES).
    """
    return bootstrap_kappas(
        graded[0].actual,
        [row.predicted for row in graded],
        grade_count=len(common.GRADE_NAMES),
        patients=graded[0].patients,
        samples=BOOTSTRAP_SAMPLES,
        seed=SEED,
    )


def metrics_of(graded: Graded) -> dict[str, Any]:
    """Return kappa and accuracy with their intervals, equal to those in `metrics.json` of the workflow."""
    k = len(common.GRADE_NAMES)
    predicted = graded.predicted
    grades = Grades(predicted.astype(float), np.eye(k)[predicted], predicted, predicted, predicted > 0)
    drawn = bootstrap_metrics(
        graded.actual, grades, referable_grade=1, patients=graded.patients, samples=BOOTSTRAP_SAMPLES, seed=SEED
    )
    confusion = np.zeros((k, k))
    np.add.at(confusion, (graded.actual, predicted), 1)
    return {
        "kappa": float(kappa(confusion)),
        "kappa_interval": interval(drawn["quadratic_weighted_kappa"]),
        "accuracy": float(np.mean(graded.actual == predicted)),
        "accuracy_interval": interval(drawn["accuracy"]),
    }


def table_rows(data_set: str) -> Iterator[dict[str, Any]]:
    """Yield the finished rows of a data set, of all reductions."""
    for name in sorted(folder.name for folder in (TARGET / data_set).glob("[0-9]*x*x*")):
        mode = Mode.named(name)
        found = {}
        for row in ROWS:
            yield from _probed(data_set, row, mode)
            if (predictions := read_row(data_set, row, mode)) is not None:
                found[row] = predictions
                yield _line(data_set, row, mode, found)


def read_row(data_set: str, name: str, mode: Mode) -> Graded | None:
    """Return the predictions of the row ``name``, or None if it is not finished."""
    row = ROWS[name]
    folder = TARGET / data_set / mode.name / row.experiment / "results/scores" / row.model / "out-of-fold"
    return read_graded(folder, row.argmax) if (folder / "predictions.csv").is_file() else None


def _line(data_set: str, name: str, mode: Mode, found: Mapping[str, Graded]) -> dict[str, Any]:
    row, predictions = ROWS[name], found[name]
    folder = TARGET / data_set / mode.name / row.experiment / "results/models" / BACKBONE
    records = [json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("fold-*/training_run.json")]
    trained = f"network, epochs: {_range([record['epochs_run'] for record in records])}" if mode.epochs else "head"
    line = {"row": name, "what": _title(row), "trained": trained, **mode.columns(), **metrics_of(predictions)}
    line["minutes"] = sum(record["seconds"] * record.get("threads", 1) for record in records) / 60
    if row.against in found:
        own, others = kappas(predictions, found[row.against])
        line |= {"against": row.against, "difference": line["kappa"] - metrics_of(found[row.against])["kappa"]}
        line["difference_interval"] = interval(own - others)
    return line


def _range(numbers: Sequence[int]) -> str:
    return f"{min(numbers)}" if len(set(numbers)) == 1 else f"{min(numbers)} to {max(numbers)}"


def _title(row: Row) -> str:
    change = CHANGES.get(row.experiment, {})
    return row.title or "; ".join(_words(change[section]) for section in change)


def _words(settings: Mapping[str, Any]) -> str:
    return yaml.safe_dump(dict(settings), default_flow_style=True, width=1000, sort_keys=False).strip()[1:-1]


def _probed(data_set: str, name: str, mode: Mode) -> Iterator[dict[str, Any]]:
    probes = TARGET / data_set / mode.name / ROWS[name].experiment / "results/probe/probe.csv"
    for probe in table(probes) if probes.is_file() else ():
        if name == f"probe_{probe['network']}_{probe['eyes']}":
            metrics = {"kappa": float(probe["quadratic_weighted_kappa"]), "accuracy": float(probe["accuracy"])}
            ends = [float(probe[end]) for end in ("low", "high")] if probe["low"] else None
            line = {"row": name, "what": _title(ROWS[name]), "trained": "nothing", **mode.columns()}
            yield {**line, **metrics, "kappa_interval": ends}


# Write ----------------------------------------------------------------------------------------------------------------


def publish(data_set: str) -> None:
    """Print the finished rows, and write them as JSON and into docs/methods.md."""
    rows = list(table_rows(data_set))
    metrics = sorted((TARGET / data_set).glob("*/*/results/scores/*/out-of-fold/metrics.json"))
    about = _about(json.loads(metrics[0].read_text(encoding="utf-8"))) if metrics else ""
    write_json(common.TARGET / f"methods-{data_set}.json", {"about": about, "machine": common.machine(), "rows": rows})
    text = f"{about}\n\n{markdown(rows)}".strip() if rows else "Not measured yet."
    print(text)
    DOCUMENT.touch()
    common.publish_between_markers(DOCUMENT, data_set, text, script="benchmarks/methods.py")


def _about(metrics: Mapping[str, Any]) -> str:
    counts = " / ".join(str(sum(row)) for row in metrics["confusion_matrix"])
    fellow_eye = metrics["fellow_eye"]["quadratic_weighted_kappa"]
    return (
        f"{metrics['images']} images of {metrics['patients']} patients, of grades 0 to 4 {counts}. "
        f"Always 0: accuracy {metrics['baseline']['accuracy']:.3f}, kappa 0. "
        + ("One eye of each." if fellow_eye is None else f"The true grade of the fellow eye: kappa {fellow_eye:.3f}.")
    )


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the rows as a Markdown table."""
    lines = [
        "| row | what | trained | folds | px | kappa | accuracy | difference | to | minutes |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        shares = [shown(row, name) for name in ("kappa", "accuracy")]
        difference = shown(row, "difference", "+.3f") if "difference" in row else ""
        minutes = f"{row['minutes']:.0f}" if "minutes" in row else ""
        cells = [
            row["row"],
            row["what"],
            row["trained"],
            row["folds"],
            row["size"],
            *shares,
            difference,
            row.get("against", ""),
            minutes,
        ]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def shown(row: Mapping[str, Any], name: str, form: str = ".3f") -> str:
    """Return a value of a row with its interval, if it has one."""
    ends = row.get(f"{name}_interval")
    return f"{row[name]:{form}}" + (f" [{ends[0]:{form}}, {ends[1]:{form}}]" if ends else "")


# Choose ---------------------------------------------------------------------------------------------------------------


def unfit(data_set: str, name: str, mode: Mode) -> str | None:
    """Return the reason if a row has no meaning for a data set and mode, otherwise None."""
    row = ROWS[name]
    changed = CHANGES.get(row.experiment, {}).get("train", {}).keys()
    if (row.model != BACKBONE or name.endswith("_both")) and not DATA_SETS[data_set].pairs:
        return "it needs both eyes of each patient"
    if not mode.epochs and (changed & OF_THE_NETWORK or row.experiment in WHOLE):
        return "it changes the training of the network, which --head skips"
    return None


def usual(data_set: str, mode: Mode) -> list[str]:
    """Return the default rows of a data set. Rows about crop and enhancement have a data set of their own."""
    if common.QUICK:
        return ["plain", "argmax", "eye_average"]
    large = data_set == "eyepacs-1024"

    def suits(name: str) -> bool:
        about_pixels = "preprocess" in CHANGES.get(ROWS[name].experiment, {})
        return unfit(data_set, name, mode) is None and (name == "plain" or large == about_pixels)

    return [name for name in ROWS if suits(name)]


def main() -> None:
    """Run the experiments of the requested rows, and publish all finished rows."""
    parser = argparse.ArgumentParser(description="Measure the gain of each method in quadratic weighted kappa.")
    parser.add_argument("data_set", choices=DATA_SETS)
    parser.add_argument(
        "--rows",
        nargs="*",
        choices=ROWS,
        metavar="row",
        help=f"some of: {', '.join(ROWS)}; default: the rows that suit the data set",
    )
    parser.add_argument("--folds", type=int, default=FOLDS)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--size", type=int, default=SIZE, help="side of the network's input in pixels")
    parser.add_argument("--head", action="store_true", help="train heads on a frozen network")
    arguments = parser.parse_args()
    mode = Mode(arguments.folds, None if arguments.head else arguments.epochs, arguments.size)
    names = usual(arguments.data_set, mode) if arguments.rows is None else arguments.rows
    for name in names:
        if reason := unfit(arguments.data_set, name, mode):
            parser.error(f"{name} has no meaning for {arguments.data_set} with these options: {reason}")
    # `plain` first, because the other folders start from it.
    make(arguments.data_set, sorted(names, key=lambda name: ROWS[name].experiment != "plain"), mode)
    publish(arguments.data_set)


if __name__ == "__main__":
    main()
