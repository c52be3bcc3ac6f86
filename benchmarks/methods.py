"""What each method adds to quadratic weighted kappa, one thing at a time, on photographs that every row has.

Each row is a configuration that the workflow itself trains and scores, in a folder of its own below
`results/benchmarks/methods/{dataset}/`; all have the same folds by patient, and a photograph is graded by the network
that was not trained on it. A folder starts as a copy of the one of `plain`, pixels and models as hard links: Snakemake
makes again what the settings of the row change, and nothing else, also after it was interrupted.

    python benchmarks/article.py eyepacs-256                          # the row that the others are to beat
    python benchmarks/methods.py eyepacs-256 --epochs 3               # all rows, or the ones after --rows
    python benchmarks/methods.py eyepacs-256 --folds 2 --head         # heads on a frozen network: minutes

Prints the rows that are there, however they were cut, writes them to `results/benchmarks/methods-{dataset}.json` and
into docs/methods.md. What is cut is in the table: `--folds` (each network trains on all photographs but one fold),
`--epochs`, and with `--head` the network, which keeps the weights of ImageNet.

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
from sklearn.metrics import cohen_kappa_score

import common
from retinaflow.files import whole_file, write_json
from retinaflow.labels import image_name

TARGET = common.TARGET / "methods"
DOCUMENT = common.ROOT / "docs/methods.md"
SEED = 2015
FOLDS = 5
SIZE = 224
BACKBONE = "InceptionV3"
PROBED = ("InceptionV3", "VGG16")
WEIGHTS = {
    "InceptionV3": "inception_v3_notop_imagenet_fp16.weights.h5",
    "VGG16": "vgg16_notop_imagenet_fp16.weights.h5",
}
REPLICATES = 1000
HEAD_EPOCHS = 30
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
}

# One thing at a time is changed of this, whatever the defaults are.
PLAIN: dict[str, Any] = {
    "train": {
        "objective": "softmax",
        "class_weights": "none",
        "normalisation": "imagenet",
        "batch_norm": "inference",
        "freeze_layers": 0,
        "head_epochs": 0,
        "schedule": "plateau",
        "optimizer": "adam",
        "ema": 0,
        "augment": common.AUGMENT,
    },
    "preprocess": {"crop": "trim", "enhance": "none"},
    "score": {"views": 1},
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
    "head_first": {"train": {"head_epochs": HEAD_EPOCHS}},
    "cosine": {"train": {"schedule": "cosine", "warmup_epochs": 1}},
    "average": {"train": {"ema": 0.99}},
    "not_augmented": {"train": {"augment": STILL}},
    "rotation": {"train": {"augment": {"rotation": 180}}},
    "colour": {"train": {"augment": {"rotation": 180, **COLOUR}}},
    "mixup": {"train": {"augment": {"mixup": 0.2}}},
    "views": {"score": {"views": 8}},
    "not_cropped": {"preprocess": {"crop": "none"}},
    "circle": {"preprocess": {"crop": "circle"}},
    "ben_graham": {"preprocess": {"enhance": "ben_graham"}},
    "clahe": {"preprocess": {"enhance": "clahe"}},
    "dataset_means": {"train": {"normalisation": "dataset"}},
    "per_image_means": {"train": {"normalisation": "per_image"}},
    "batch_norm": {"train": {"batch_norm": "train"}},
}
# These have the defaults in the place of PLAIN. None leaves a setting to them.
WHOLE: dict[str, dict[str, Any]] = {
    "defaults": {},
    "defaults_long": {"train": {"epochs": None}},
    "best": {},
}
# Settings of `train` that say nothing of a head on a frozen network.
OF_THE_NETWORK = {"head_epochs", "schedule", "ema", "batch_norm"}


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
    "article": Row("the article's recipe", "article", None),
    **{
        f"probe_{backbone}_{eyes}": Row(f"linear probe, {backbone}, {eyes} eye{'s' * (eyes == 'both')}", "probe", None)
        for backbone in PROBED
        for eyes in ("one", "both")
    },
    "defaults": Row("fine-tuned, all settings as they are by default", "defaults", "article"),
    "defaults_long": Row("the same, as many epochs as by default", "defaults_long", "article"),
    "best": Row("config/best.yaml", "best", "article"),
    "best_fusion": Row("config/best.yaml, both eyes", "best", "article", f"{BACKBONE}+fusion"),
    "plain": Row("plain: what the rows below change", "plain", "article"),
    "most_probable": Row("without thresholds: the most probable class", "plain", plain=True),
    "blend": Row("blended with the other eye", "plain", system=f"{BACKBONE}+blend"),
    "fusion": Row("features of both eyes", "plain", system=f"{BACKBONE}+fusion"),
    **{run: Row("", run) for run in RUNS if run != "plain"},
    "rounded": Row("objective: regression, without thresholds: rounded", "regression", "regression", plain=True),
}


class Mode(NamedTuple):
    """How the rows of a call are cut."""

    folds: int
    epochs: int | None

    @property
    def name(self) -> str:
        """What its folder is called."""
        return f"{self.folds}x{self.epochs or 'head'}"

    @classmethod
    def named(cls, name: str) -> "Mode":
        """The mode whose folder is called so."""
        folds, epochs = name.split("x")
        return cls(int(folds), int(epochs) if epochs.isdecimal() else None)

    def settings(self) -> dict[str, Any]:
        """The settings that cut."""
        head = {"freeze_layers": "all", "head_epochs": HEAD_EPOCHS, "epochs": 1}
        return {"split": {"folds": self.folds}, "train": {"epochs": self.epochs} if self.epochs else head}


def configuration(dataset: str, folds: int) -> dict[str, Any]:
    """What the workflow needs to know of a data set to split it into ``folds`` by patient."""
    source = common.DATA / dataset
    train = {"images": str(source / DATASETS[dataset].images), "labels": str(source / "labels.csv")}
    return {"data": {"train": train}, "split": {"folds": folds}, "seed": SEED}


def run_configuration(dataset: str, run: str, mode: Mode) -> dict[str, Any]:
    """The whole configuration of a run."""
    names = PROBED if run == "probe" else (BACKBONE,)
    backbones = {name: {"weights": str(common.DATA / "weights" / WEIGHTS[name])} for name in names}
    config = merged(configuration(dataset, mode.folds), {"train": {"image_size": SIZE}, "backbones": backbones})
    if run == "probe":
        return config
    if run == "best":
        best = yaml.safe_load((common.ROOT / "config/best.yaml").read_text(encoding="utf-8"))
        config = merged({key: best[key] for key in best.keys() - {"data", "backbones", "results", "split"}}, config)
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
    command = [str(Path(sys.executable).with_name("snakemake")), "--snakefile", str(common.ROOT / "Snakefile")]
    profile = ["--workflow-profile", str(common.ROOT / "profiles/default"), "--configfile", "config.yaml"]
    with open(folder / "snakemake.log", "ab") as log:
        done = subprocess.run([*command, *profile, *arguments], cwd=folder, stdout=log, stderr=log)
    if done.returncode:
        sys.exit(f"{folder}: snakemake failed; see snakemake.log and results/logs there")


def start(folder: Path, other: Path) -> None:
    """Let ``folder`` start from what is in ``other``, with the records and times that Snakemake goes by."""
    part = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    shutil.copytree(other, part, symlinks=True, copy_function=_copy)
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
        if plain.is_dir() and not folder.is_dir():
            start(folder, plain)
        print(f"{dataset}, {mode.name}: {run}", flush=True)
        systems = {ROWS[name].system for name in names if ROWS[name].run == run}
        targets = [f"results/scores/{system}/out-of-fold/metrics.json" for system in sorted(systems)]
        workflow(folder, run_configuration(dataset, run, mode), *(["probe"] if run == "probe" else targets))


def split(dataset: str, folds: int) -> list[tuple[Sequence[dict[str, str]], Sequence[dict[str, str]]]]:
    """Rows of the (training, held out) photographs of each fold, as the workflow divides them."""
    folder = TARGET / dataset / "split"
    workflow(folder, configuration(dataset, folds) | {"backbones": {"VGG16": {}}}, "--until", "split")
    tables = [folder / f"results/split/fold-{i}" for i in range(1, folds + 1)]
    return [(table(fold / "train.csv"), table(fold / "validation.csv")) for fold in tables]


def table(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV table."""
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


# Read -----------------------------------------------------------------------------------------------------------------


class Graded(NamedTuple):
    """What a row says of each photograph, in the order of their names: levels int64 (n,), ``predicted`` its answer.

    ``epochs`` and ``seconds`` are those of each fold's training.
    """

    images: list[str]
    patients: list[str]
    actual: np.ndarray
    predicted: np.ndarray
    epochs: list[int]
    seconds: list[float]


def graded(dataset: str, name: str, mode: Mode) -> Graded | None:
    """What the row called ``name`` says, or None if that has not been made."""
    row = ROWS[name]
    if name == "article":
        return _article(dataset, mode)
    results = TARGET / dataset / mode.name / row.run / "results"
    predictions = results / "scores" / row.system / "out-of-fold/predictions.csv"
    if not predictions.is_file():
        return None
    records = [json.loads(path.read_text(encoding="utf-8")) for path in results.glob(f"models/{BACKBONE}/*/run.json")]
    column = "plain_class_index" if row.plain else "pred_class_index"
    rows = [
        (image_name(one["filename"]), one["patient"], one["actual_class_index"], one[column])
        for one in table(predictions)
    ]
    return _graded(rows, [one["epochs_run"] for one in records], [one["seconds"] for one in records])


def _article(dataset: str, mode: Mode) -> Graded | None:
    folder = TARGET / dataset / f"article-{SIZE}-{mode.epochs}"
    files = sorted(folder.glob("fold-*.json"))
    return article(files) if len(files) == mode.folds == FOLDS else None


def article(files: Sequence[Path]) -> Graded:
    """What the article's recipe says of the photographs that folds held out, of which article.py wrote ``files``."""
    folds = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    rows = [
        (row["image"], row["patient"], row["level"], int(np.argmax(probabilities)))
        for fold in folds
        for row, probabilities in zip(fold["rows"], fold["probabilities"], strict=True)
    ]
    return _graded(rows, [len(fold["history"]["loss"]) for fold in folds], [fold["seconds"] for fold in folds])


def _graded(rows: list[tuple[str, str, Any, Any]], epochs: list[int], seconds: list[float]) -> Graded:
    images, patients, actual, predicted = zip(*sorted(rows), strict=True)
    levels = np.array(actual, np.int64), np.array(predicted, np.int64)
    return Graded(list(images), list(patients), *levels, epochs, seconds)


def resampled(those: Graded) -> np.ndarray:
    """Confusion matrices of bootstrap samples of patients, float64 (REPLICATES, k, k), rows actual.

    A patient's photographs are drawn together, as eyes of a patient are alike. The same patients make the same draws.
    """
    k = len(common.CLASSES)
    names, of = np.unique(those.patients, return_inverse=True)
    counts = np.zeros((len(names), k * k))
    np.add.at(counts, (of, those.actual * k + those.predicted), 1)
    drawn = np.random.default_rng(SEED).multinomial(len(names), np.full(len(names), 1 / len(names)), REPLICATES)
    return (drawn @ counts).reshape(-1, k, k)


def kappas(matrices: np.ndarray) -> np.ndarray:
    """Quadratic weighted kappa (Cohen 1968) of confusion matrices (n, k, k): float64 (n,), 0 where undefined."""
    levels = np.arange(matrices.shape[1])
    weights = np.subtract.outer(levels, levels) ** 2
    chance = matrices.sum(axis=2)[:, :, None] * matrices.sum(axis=1)[:, None, :]
    observed = (matrices * weights).sum(axis=(1, 2)) * matrices.sum(axis=(1, 2))
    expected = (chance * weights).sum(axis=(1, 2))
    return np.where(expected > 0, 1 - observed / np.maximum(expected, 1e-12), 0.0)


def judged(those: Graded) -> dict[str, Any]:
    """Kappa, accuracy and the accuracy of always answering 0, each with its interval."""
    k = len(common.CLASSES)
    counts = np.zeros((1, k, k))
    np.add.at(counts[0], (those.actual, those.predicted), 1)
    result: dict[str, Any] = {}
    for name, figure in (("kappa", kappas), ("accuracy", _accuracies), ("always_0", _shares_of_0)):
        result[name] = float(figure(counts)[0])
        result[f"{name}_interval"] = interval(figure(resampled(those)))
    return result


def _accuracies(matrices: np.ndarray) -> np.ndarray:
    return np.trace(matrices, axis1=1, axis2=2) / matrices.sum(axis=(1, 2))


def _shares_of_0(matrices: np.ndarray) -> np.ndarray:
    return matrices[:, 0].sum(axis=1) / matrices.sum(axis=(1, 2))


def interval(values: np.ndarray) -> list[float]:
    """The ends of the middle 95 %."""
    return [float(end) for end in np.percentile(values, (2.5, 97.5))]


def figures(dataset: str) -> Iterator[dict[str, Any]]:
    """What each row of a data set came to, of all that were made, in whatever mode."""
    # The article's row has a folder elsewhere.
    for name in sorted({Mode(FOLDS, 3).name, *(folder.name for folder in (TARGET / dataset).glob("[0-9]*x*"))}):
        yield from _figures(dataset, Mode.named(name))


def _figures(dataset: str, mode: Mode) -> Iterator[dict[str, Any]]:
    found = {name: its for name in ROWS if (its := graded(dataset, name, mode))}
    replicates = {name: kappas(resampled(its)) for name, its in found.items()}
    for name, row in ROWS.items():
        line: dict[str, Any] = {"row": name, "what": _what(row), "folds": mode.folds}
        if row.run == "probe":
            yield from ({**line, "trained": "nothing", **one} for one in _probed(dataset, name, mode))
        if name not in found:
            continue
        its = found[name]
        line["trained"] = f"network, {_range(its.epochs)} epochs" if mode.epochs else "head"
        line |= judged(its)
        if row.against in found:
            line |= {"against": row.against, "difference": line["kappa"] - judged(found[row.against])["kappa"]}
            line["difference_interval"] = interval(replicates[name] - replicates[row.against])
        yield {**line, "minutes": sum(its.seconds) / 60}


def _range(numbers: Sequence[int]) -> str:
    return f"{min(numbers)}" if len(set(numbers)) == 1 else f"{min(numbers)} to {max(numbers)}"


def _what(row: Row) -> str:
    change = RUNS.get(row.run, {})
    return row.title or "; ".join(_words(change[section]) for section in change)


def _words(settings: Mapping[str, Any]) -> str:
    return yaml.safe_dump(dict(settings), default_flow_style=True, width=1000, sort_keys=False).strip()[1:-1]


def _probed(dataset: str, name: str, mode: Mode) -> Iterator[dict[str, Any]]:
    _, backbone, eyes = name.split("_")
    probes = TARGET / dataset / mode.name / "probe/results/probe/probe.csv"
    for row in table(probes) if probes.is_file() else ():
        if (row["backbone"], row["eyes"]) == (backbone, eyes):
            yield {
                "kappa": float(row["quadratic_weighted_kappa"]),
                "kappa_interval": [float(row["low"]), float(row["high"])],
                "accuracy": float(row["accuracy"]),
            }


# Write ----------------------------------------------------------------------------------------------------------------


def publish(dataset: str) -> None:
    """Print the rows that are there, and write them as JSON and into docs/methods.md."""
    rows = list(figures(dataset))
    about = photographs(dataset)
    write_json(common.TARGET / f"methods-{dataset}.json", {"about": about, "machine": common.machine(), "rows": rows})
    text = f"{_about(about)}\n\n{markdown(rows)}"
    print(text)
    begin, end = (f"<!-- {word} {dataset}, by benchmarks/methods.py -->" for word in ("begin", "end"))
    before, _, rest = DOCUMENT.read_text(encoding="utf-8").partition(begin)
    with whole_file(DOCUMENT) as part:
        part.write_text(f"{before}{begin}\n\n{text}\n\n{end}{rest.partition(end)[2]}", encoding="utf-8")


def photographs(dataset: str) -> dict[str, Any]:
    """What a data set holds and what answers without a look at the photograph come to."""
    rows = [row for _, held_out in split(dataset, FOLDS) for row in held_out]
    levels = np.array([int(row["level"]) for row in rows])
    eyes = {(row["patient"], row["eye"]): row["level"] for row in rows if row["eye"]}
    other = {"left": "right", "right": "left"}
    pairs = [
        (int(level), int(eyes[patient, other[eye]]))
        for (patient, eye), level in eyes.items()
        if (patient, other[eye]) in eyes
    ]
    return {
        "photographs": len(rows),
        "patients": len({row["patient"] for row in rows}),
        "levels": np.bincount(levels, minlength=len(common.CLASSES)).tolist(),
        "always_0_accuracy": float(np.mean(levels == 0)),
        "other_eye_kappa": float(cohen_kappa_score(*zip(*pairs, strict=True), weights="quadratic")) if pairs else None,
    }


def _about(about: Mapping[str, Any]) -> str:
    levels = " / ".join(map(str, about["levels"]))
    other = about["other_eye_kappa"]
    return (
        f"{about['photographs']} photographs of {about['patients']} patients, of levels 0 to 4 {levels}. "
        f"Always 0: accuracy {about['always_0_accuracy']:.3f}, kappa 0."
        + (f" The other eye's true label: kappa {other:.3f}." if other is not None else " One eye of each.")
    )


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows as a Markdown table."""
    lines = [
        "| row | what | trained | folds | kappa | accuracy | difference | to | minutes |",
        "|---|---|---|---|---|---|---|---|---|",
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
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--head", action="store_true", help="train heads on a frozen network")
    arguments = parser.parse_args()
    mode = Mode(arguments.folds, None if arguments.head else arguments.epochs)
    names = usual(arguments.dataset, mode) if arguments.rows is None else arguments.rows
    for name in names:
        if why := unfit(arguments.dataset, name, mode):
            parser.error(f"{name} says nothing of {arguments.dataset} so: {why}")
    # First what the others start from.
    make(arguments.dataset, sorted(names, key=lambda name: ROWS[name].run != "plain"), mode)
    publish(arguments.dataset)


if __name__ == "__main__":
    main()
