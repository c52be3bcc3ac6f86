"""What each method adds to quadratic weighted kappa, one thing at a time, on photographs that every row has.

Each row is a configuration that the workflow itself trains and scores, in a folder of its own below
`results/benchmarks/methods/{dataset}/`; all have the same folds by patient, and a photograph is graded by the network
that was not trained on it. A folder starts as a copy of the one of `plain`, pixels and models as hard links: Snakemake
makes again what the settings of the row change, and nothing else, also after it was interrupted.

    python benchmarks/article.py eyepacs-256                          # the row that the others are to beat
    python benchmarks/methods.py eyepacs-256                          # all rows, or the ones after --rows
    python benchmarks/methods.py aptos-224 --folds 2 --size 128       # smaller networks and photographs: minutes
    python benchmarks/methods.py eyepacs-1024 --folds 2 --head        # heads on a frozen network

Prints the rows that are there, however they were cut, writes them to `results/benchmarks/methods-{dataset}.json` and
into docs/methods.md. What is cut is in the table: `--folds` (each network trains on all photographs but one fold),
`--epochs` of the whole network, `--size`, and with `--head` the network, which keeps the weights of ImageNet.
As many trainings run side by side as there are cores, each in one thread.

Brackets hold the 95 % interval over patients, drawn anew 1000 times; a difference is that of two
rows on the same draws. It says how much the figure owes to these photographs. What it owes to the seed of the training
is not in it.
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
from retinaflow.storage.files import whole_file, write_json

TARGET = common.TARGET / "methods"
DOCUMENT = common.sized(common.ROOT / "docs/methods.md", common.TARGET / "methods.md")
SEED = 2015
FOLDS, EPOCHS, SIZE = common.sized((5, 3, 224), (2, 1, 32))
BACKBONE = common.sized("InceptionV3", "MobileNetV3Small")
FEATURE_LAYERS = common.sized(["mixed2", "mixed4", "mixed6"], ["expanded_conv_project_bn"])
PROBED = common.sized(("InceptionV3", "VGG16"), (BACKBONE,))
WEIGHTS = {
    "InceptionV3": "inception_v3_notop_imagenet_fp16.weights.h5",
    "VGG16": "vgg16_notop_imagenet_fp16.weights.h5",
}
REPLICATES = common.sized(1000, 50)
HEAD_EPOCHS = common.sized(30, 0)  # random weights have nothing to show to the head
BATCH_NORM = common.sized("inference", "train")
# What one folder links to instead of copying it: nothing that writes to the place of an old file, but in its stead.
LARGE = {".npy", ".keras", ".h5"}


class Dataset(NamedTuple):
    """The folder of labelled photographs, and whether they are of both eyes of each patient."""

    images: str
    pairs: bool


DATASETS = {
    "aptos-224": Dataset("images", False),
    "eyepacs-256": Dataset("images", True),
    # Large enough, and in natural colours, for what is done before they are resized.
    "eyepacs-1024": Dataset("resized train 15", True),
    # To see that everything works: drawn images show nothing else.
    "drawn": Dataset("images", True),
}

# One thing at a time is changed of this, whatever the defaults are.
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
RUNS: dict[str, dict[str, Any]] = {
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
    # Over some 20 steps; three epochs on these photographs have 40 to 100.
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
    # Without a head that is trained first, which would learn from statistics that do not stay.
    "batch_norm": {"train": {"batch_norm": "train", "head_epochs": 0}},
}
# These have the defaults in the place of PLAIN. None leaves a setting to them.
WHOLE: dict[str, dict[str, Any]] = {
    "defaults": {},
    "defaults_long": {"train": {"epochs": None}},
    # Its average is over half an epoch of Kaggle 2015; so is this one, of fewer photographs.
    "best": {"train": {"ema": 0.975}},
}
# Settings of `train` that say nothing of a head on a frozen network.
OF_THE_NETWORK = {"freeze_layers", "head_epochs", "schedule", "ema", "batch_norm"}


class Row(NamedTuple):
    """A line of the table: what it is, the run and the system it is read from, and the row it is compared with.

    ``plain``: the answer without thresholds, such as the most probable class.
    """

    title: str
    run: str
    against: str | None = "plain"
    system: str = BACKBONE
    plain: bool = False


ROWS = {
    "article": Row("the article's recipe", "article", None, plain=True),
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
    "argmax": Row("without thresholds: the most probable grade", "plain", plain=True),
    "eye_average": Row("mean of both eyes", "plain", system=f"{BACKBONE}+eye_average"),
    "eye_stacking": Row("features of both eyes", "plain", system=f"{BACKBONE}+eye_stacking"),
    **{run: Row("", run) for run in RUNS if run != "plain"},
    "batch_norm": Row("", "batch_norm", "all_at_once"),
    "rounded": Row("objective: regression, without thresholds: rounded", "regression", "regression", plain=True),
}


class Mode(NamedTuple):
    """How the rows of a call are cut."""

    folds: int
    epochs: int | None
    size: int = SIZE

    @property
    def name(self) -> str:
        """What its folder is called."""
        return f"{self.folds}x{self.epochs or 'head'}x{self.size}"

    @classmethod
    def named(cls, name: str) -> "Mode":
        """The mode whose folder is called so."""
        folds, epochs, size = name.split("x")
        return cls(int(folds), int(epochs) if epochs.isdecimal() else None, int(size))

    def cut(self) -> dict[str, int]:
        """What the table says of it."""
        return {"folds": self.folds, "size": self.size}

    def settings(self) -> dict[str, Any]:
        """The settings that cut."""
        head = {"freeze_layers": "all", "head_epochs": HEAD_EPOCHS, "epochs": 1}
        cut = {"epochs": self.epochs} if self.epochs else head
        return {"split": {"folds": self.folds}, "train": {"image_size": self.size, "cpu_threads": 1, **cut}}


def configuration(dataset: str, folds: int) -> dict[str, Any]:
    """What the workflow needs to know of a data set to split it into ``folds`` by patient."""
    source = common.drawn() if dataset == "drawn" else common.DATA / dataset
    train = {"images": str(source / DATASETS[dataset].images), "labels": str(source / "labels.csv")}
    return {"data": {"train": train}, "split": {"folds": folds}, "seed": SEED}


def initial_weights(backbone: str) -> str:
    """The file of initial weights, or ``random`` in a quick run."""
    return "random" if common.QUICK else str(common.DATA / "weights" / WEIGHTS[backbone])


def run_configuration(dataset: str, run: str, mode: Mode) -> dict[str, Any]:
    """The whole configuration of a run."""
    names = PROBED if run == "probe" else (BACKBONE,)
    backbones = {name: {"weights": initial_weights(name)} for name in names}
    config = merged(configuration(dataset, mode.folds), {"models": backbones})
    if run == "probe":
        return merged(config, {"train": {"image_size": mode.size, "cpu_threads": 2}})
    if run == "best":
        best = yaml.safe_load((common.ROOT / "config/best.yaml").read_text(encoding="utf-8"))
        config = merged({key: best[key] for key in best.keys() - {"data", "models", "results", "split"}}, config)
    elif run not in WHOLE:
        config = merged(config, PLAIN)
    return merged(merged(config, mode.settings()), {**RUNS, **WHOLE}[run])


def merged(settings: Mapping[str, Any], others: Mapping[str, Any]) -> dict[str, Any]:
    """``settings`` with ``others`` in their place, section by section; those that are None are left out."""
    result = dict(settings)
    for key, value in others.items():
        result[key] = merged(result.get(key) or {}, value) if isinstance(value, Mapping) else value
    return {key: value for key, value in result.items() if value is not None}


# Run ------------------------------------------------------------------------------------------------------------------


def workflow(folder: Path, config: Mapping[str, Any], *arguments: str) -> None:
    """Run ``snakemake`` in ``folder``, configured by ``config``; ends the benchmark if it fails."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(dict(config)), encoding="utf-8")
    # Arguments first: whatever follows the name of a configuration is taken for one, too.
    command = [str(Path(sys.executable).with_name("snakemake")), *arguments, "--snakefile", common.ROOT / "Snakefile"]
    profile = ["--workflow-profile", common.ROOT / "profiles/default", "--configfile", "config.yaml"]
    profile += ["--resources", f"gpu={os.cpu_count()}"]
    with open(folder / "snakemake.log", "ab") as log:
        done = subprocess.run([*command, *profile], cwd=folder, stdout=log, stderr=log)
    if done.returncode:
        sys.exit(f"{folder}: snakemake failed; see snakemake.log and results/logs there")


def start(folder: Path, other: Path) -> None:
    """Let ``folder`` start from what is in ``other``, with the records and times that Snakemake goes by.

    Without its scores: until the workflow has made its own, ``folder`` has none.
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


def make(dataset: str, names: Sequence[str], mode: Mode) -> None:
    """Make what the rows called ``names`` are read from."""
    for run in dict.fromkeys(ROWS[name].run for name in names):
        if run == "article":  # which article.py makes
            continue
        folder = TARGET / dataset / mode.name / run
        plain = folder.with_name("plain")
        if (plain / "results").is_dir() and not (folder / "results").is_dir():
            start(folder, plain)
        print(f"{dataset}, {mode.name}: {run}", flush=True)
        systems = {ROWS[name].system for name in names if ROWS[name].run == run}
        targets = [f"results/scores/{system}/out-of-fold/metrics.json" for system in sorted(systems)]
        workflow(folder, run_configuration(dataset, run, mode), *(["probe"] if run == "probe" else targets))


def split(dataset: str, folds: int) -> list[tuple[Sequence[dict[str, str]], Sequence[dict[str, str]]]]:
    """Rows of the (training, held out) photographs of each fold, as the workflow divides them."""
    folder = TARGET / dataset / "split"
    workflow(folder, configuration(dataset, folds) | {"models": {"VGG16": {}}}, "--until", "split")
    tables = [folder / f"results/split/fold-{i}" for i in range(1, folds + 1)]
    return [(table(fold / "train.csv"), table(fold / "validation.csv")) for fold in tables]


def table(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV table."""
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


# Read -----------------------------------------------------------------------------------------------------------------


class Graded(NamedTuple):
    """What a row says of each photograph, in the order of their names: levels int64 (n,), ``predicted`` its answer."""

    filenames: list[str]
    patients: list[str]
    actual: np.ndarray
    predicted: np.ndarray


def read_graded(folder: Path, plain: bool) -> Graded:
    """The predictions of a part, or with ``plain`` what they would be without thresholds."""
    column = "argmax_grade" if plain else "predicted_grade"
    rows = sorted(table(folder / "predictions.csv"), key=lambda row: row["filename"])
    actual, predicted = (np.array([int(row[name]) for row in rows]) for name in ("grade", column))
    return Graded([row["filename"] for row in rows], [row["patient"] for row in rows], actual, predicted)


def kappas(*those: Graded) -> np.ndarray:
    """Quadratic weighted kappa on resampled patients, which are the same for all: float64 (len(those), REPLICATES)."""
    answers = [its.predicted for its in those]
    return bootstrap_kappas(
        those[0].actual,
        answers,
        grade_count=len(common.CLASSES),
        patients=those[0].patients,
        samples=REPLICATES,
        seed=SEED,
    )


def judged(those: Graded) -> dict[str, Any]:
    """Kappa and accuracy, each with its interval: what the workflow has of them in `metrics.json`."""
    k = len(common.CLASSES)
    certain = np.eye(k)[those.predicted]
    grades = Grades(those.predicted.astype(float), certain, those.predicted, those.predicted, those.predicted > 0)
    drawn = bootstrap_metrics(
        those.actual, grades, referable_grade=1, patients=those.patients, samples=REPLICATES, seed=SEED
    )
    confusion = np.zeros((k, k))
    np.add.at(confusion, (those.actual, those.predicted), 1)
    return {
        "kappa": float(kappa(confusion)),
        "kappa_interval": interval(drawn["quadratic_weighted_kappa"]),
        "accuracy": float(np.mean(those.actual == those.predicted)),
        "accuracy_interval": interval(drawn["accuracy"]),
    }


def figures(dataset: str) -> Iterator[dict[str, Any]]:
    """What each row of a data set came to, of all that were made, however they are cut."""
    for name in sorted(folder.name for folder in (TARGET / dataset).glob("[0-9]*x*x*")):
        mode = Mode.named(name)
        found = {}
        for row in ROWS:
            yield from _probed(dataset, row, mode)
            if its := graded(dataset, row, mode):
                found[row] = its
                yield _line(dataset, row, mode, found)


def graded(dataset: str, name: str, mode: Mode) -> Graded | None:
    """What the row called ``name`` says, or None if that has not been made."""
    row = ROWS[name]
    folder = TARGET / dataset / mode.name / row.run / "results/scores" / row.system / "out-of-fold"
    return read_graded(folder, row.plain) if (folder / "predictions.csv").is_file() else None


def _line(dataset: str, name: str, mode: Mode, found: Mapping[str, Graded]) -> dict[str, Any]:
    row, its = ROWS[name], found[name]
    paths = (TARGET / dataset / mode.name / row.run / "results/models" / BACKBONE).glob("fold-*/training_run.json")
    records = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    trained = f"network, epochs: {_range([record['epochs_run'] for record in records])}" if mode.epochs else "head"
    line = {"row": name, "what": _what(row), "trained": trained, **mode.cut(), **judged(its)}
    line["minutes"] = sum(record["seconds"] * record.get("threads", 1) for record in records) / 60
    if row.against in found:
        own, others = kappas(its, found[row.against])
        line |= {"against": row.against, "difference": line["kappa"] - judged(found[row.against])["kappa"]}
        line["difference_interval"] = interval(own - others)
    return line


def _range(numbers: Sequence[int]) -> str:
    return f"{min(numbers)}" if len(set(numbers)) == 1 else f"{min(numbers)} to {max(numbers)}"


def _what(row: Row) -> str:
    change = RUNS.get(row.run, {})
    return row.title or "; ".join(_words(change[section]) for section in change)


def _words(settings: Mapping[str, Any]) -> str:
    return yaml.safe_dump(dict(settings), default_flow_style=True, width=1000, sort_keys=False).strip()[1:-1]


def _probed(dataset: str, name: str, mode: Mode) -> Iterator[dict[str, Any]]:
    probes = TARGET / dataset / mode.name / ROWS[name].run / "results/probe/probe.csv"
    for one in table(probes) if probes.is_file() else ():
        if name == f"probe_{one['network']}_{one['eyes']}":
            figures = {"kappa": float(one["quadratic_weighted_kappa"]), "accuracy": float(one["accuracy"])}
            ends = [float(one[end]) for end in ("low", "high")] if one["low"] else None
            line = {"row": name, "what": _what(ROWS[name]), "trained": "nothing", **mode.cut()}
            yield {**line, **figures, "kappa_interval": ends}


# Write ----------------------------------------------------------------------------------------------------------------


def publish(dataset: str) -> None:
    """Print the rows that are there, and write them as JSON and into docs/methods.md."""
    rows = list(figures(dataset))
    metrics = sorted((TARGET / dataset).glob("*/*/results/scores/*/out-of-fold/metrics.json"))
    about = _about(json.loads(metrics[0].read_text(encoding="utf-8"))) if metrics else ""
    write_json(common.TARGET / f"methods-{dataset}.json", {"about": about, "machine": common.machine(), "rows": rows})
    text = f"{about}\n\n{markdown(rows)}".strip() if rows else "Not measured yet."
    print(text)
    DOCUMENT.touch()
    begin, end = (f"<!-- {word} {dataset}, by benchmarks/methods.py -->" for word in ("begin", "end"))
    before, _, rest = DOCUMENT.read_text(encoding="utf-8").partition(begin)
    with whole_file(DOCUMENT) as part:
        part.write_text(f"{before}{begin}\n\n{text}\n\n{end}{rest.partition(end)[2]}", encoding="utf-8")


def _about(metrics: Mapping[str, Any]) -> str:
    levels = " / ".join(str(sum(row)) for row in metrics["confusion_matrix"])
    other = metrics["fellow_eye"]["quadratic_weighted_kappa"]
    return (
        f"{metrics['images']} images of {metrics['patients']} patients, of grades 0 to 4 {levels}. "
        f"Always 0: accuracy {metrics['baseline']['accuracy']:.3f}, kappa 0. "
        + ("One eye of each." if other is None else f"The true grade of the fellow eye: kappa {other:.3f}.")
    )


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows as a Markdown table."""
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
    """A figure of a row with its interval, if it has one."""
    ends = row.get(f"{name}_interval")
    return f"{row[name]:{form}}" + (f" [{ends[0]:{form}}, {ends[1]:{form}}]" if ends else "")


# Choose ---------------------------------------------------------------------------------------------------------------


def unfit(dataset: str, name: str, mode: Mode) -> str | None:
    """Why a row says nothing of a data set in a mode, if so."""
    row = ROWS[name]
    changed = RUNS.get(row.run, {}).get("train", {}).keys()
    if (row.system != BACKBONE or name.endswith("_both")) and not DATASETS[dataset].pairs:
        return "it takes both eyes"
    if not mode.epochs and (changed & OF_THE_NETWORK or row.run in WHOLE):
        return "it is about the network, which --head does not train"
    return None


def usual(dataset: str, mode: Mode) -> list[str]:
    """The rows of a data set where none are named: those about cropping and enhancement have one of their own."""
    large = dataset == "eyepacs-1024"
    if common.QUICK:
        return ["plain", "most_probable", "blend"]
    return [
        name
        for name, row in ROWS.items()
        if unfit(dataset, name, mode) is None and (name == "plain" or large == ("preprocess" in RUNS.get(row.run, {})))
    ]


def main() -> None:
    """Make rows and publish all that are there."""
    parser = argparse.ArgumentParser(description="What each method adds to quadratic weighted kappa.")
    parser.add_argument("dataset", choices=DATASETS)
    parser.add_argument(
        "--rows",
        nargs="*",
        choices=ROWS,
        metavar="row",
        help=f"some of: {', '.join(ROWS)}; default: what suits the data set",
    )
    parser.add_argument("--folds", type=int, default=FOLDS)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--size", type=int, default=SIZE, help="side of the network's input in pixels")
    parser.add_argument("--head", action="store_true", help="train heads on a frozen network")
    arguments = parser.parse_args()
    mode = Mode(arguments.folds, None if arguments.head else arguments.epochs, arguments.size)
    names = usual(arguments.dataset, mode) if arguments.rows is None else arguments.rows
    for name in names:
        if why := unfit(arguments.dataset, name, mode):
            parser.error(f"{name} says nothing of {arguments.dataset} so: {why}")
    # First what the others start from.
    make(arguments.dataset, sorted(names, key=lambda name: ROWS[name].run != "plain"), mode)
    publish(arguments.dataset)


if __name__ == "__main__":
    main()
