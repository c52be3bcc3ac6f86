"""Writing of deployment bundles: one folder a model, with the graphs of its training runs. Needs the package onnx."""

import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from retinaflow.scoring.decision_rules import read_decision_rule
from retinaflow.scoring.linear_model import read_linear_model
from retinaflow.serving.bundle import BUNDLE_FILE, CARD, FORMAT, LINEAR, NOTICE, read_bundle
from retinaflow.serving.drift import REFERENCE_FILE
from retinaflow.serving.drift_reference import ReferenceSources, fit_reference
from retinaflow.serving.gates import GATES_FILE, fit_gates
from retinaflow.serving.graphs import answer_graph
from retinaflow.serving.known_images import TRAINED_ON_FILE, known_records
from retinaflow.storage.documents import read_own
from retinaflow.storage.files import digest_file, write_json
from retinaflow.storage.tables import stream_table

# Share of the training images below whose quality an image is reported as of low quality.
LOW_QUALITY_SHARE = 0.05
ANSWER_FILE, EYE_AVERAGE_FILE, ONE_EYE_FILE = "answer.onnx", "eye_average.onnx", "one_eye.onnx"


class OneEyeFiles(NamedTuple):
    """Files of the model that answers for an image without fellow eye.

    Attributes:
        model: Its name.
        linear: Its linear models; empty if it is the network itself.
        decision_rule: Its decision rule.
    """

    model: str
    linear: Sequence[Path]
    decision_rule: Path


@dataclass(frozen=True, kw_only=True)
class BundleJob(ReferenceSources):
    """Inputs and output of a bundle, among them the sources of its drift reference.

    Attributes:
        content: ``model``, ``kind``, ``objective``, ``grade_names`` and the other settings of ``Bundle``; ``networks``
            with the ``training_runs`` of each.
        graphs: ONNX file of each training run, or of each frozen backbone of a linear model.
        eye_average: Decision rule for the mean of both eyes, if there is one.
        linear: Linear models, for ``linear`` and ``eye_stacking``.
        one_eye: Model for images without fellow eye, if the linear models need both eyes.
        metrics: Metrics of the model on each split; the first split ranks it.
        records: ``training_run.json`` of each training run, and ``linear.npz`` of a linear model.
        card: Card of the model.
        folder: Folder to write.
        trained_on: Images that the training runs, and the models that they started from, were trained on.
        indices: Index tables of the images that a linear model was fitted to.
    """

    content: Mapping[str, Any]
    graphs: Mapping[str, Path]
    eye_average: Path | None
    metrics: Sequence[Path]
    records: Sequence[Path]
    card: Path
    folder: Path
    linear: Sequence[Path] = ()
    one_eye: OneEyeFiles | None = None
    trained_on: Sequence[Path] = ()
    indices: Sequence[Path] = ()


def write_bundle(job: BundleJob) -> None:
    """Write a bundle. Its description comes last, so a folder with one is whole."""
    job.folder.mkdir(parents=True, exist_ok=True)
    (job.folder / BUNDLE_FILE).unlink(missing_ok=True)
    prefix = "backbone" if job.content["kind"] == LINEAR else "network"
    graphs = {run: graph_file(run, prefix) for run in job.graphs}
    for run, graph in job.graphs.items():
        _link(graph, job.folder / graphs[run])
    _link(job.card, job.folder / CARD, copy=True)
    write_json(job.folder / GATES_FILE, fit_gates(job.inventory, job.shards))
    known = [TRAINED_ON_FILE] if job.trained_on or job.indices else []
    if known:
        write_json(job.folder / TRAINED_ON_FILE, known_records(job.trained_on, job.indices))
    write_json(job.folder / REFERENCE_FILE, fit_reference(job))
    answers = {"answer": _answer(job, job.decision_rule, ANSWER_FILE), "eye_average": None}
    if job.eye_average:
        answers["eye_average"] = _answer(job, job.eye_average, EYE_AVERAGE_FILE)
    networks = [
        {
            **{name: network[name] for name in ("name", "objective", "variant", "augment") if name in network},
            "graphs": [graphs[run] for run in network["training_runs"]],
        }
        for network in job.content["networks"]
    ]
    linear = _linear_files(job.linear, "linear", job.folder)
    one_eye = _one_eye(job)
    data_sets = _data_sets(job)
    of_answers = [answer["graph"] for rules in (answers, *data_sets.values()) for answer in rules.values() if answer]
    of_one_eye = [one_eye["answer"]["graph"], *one_eye["linear"]] if one_eye else []
    names = [CARD, GATES_FILE, REFERENCE_FILE, *known, *of_answers, *linear, *of_one_eye, *graphs.values()]
    description = {
        "format": FORMAT,
        "retinaflow": version("retinaflow"),
        **job.content,
        "networks": networks,
        **answers,
        "linear": linear,
        "one_eye": one_eye,
        **({"data_sets": data_sets} if data_sets else {}),
        "quality_share": LOW_QUALITY_SHARE,
        "quality_threshold": quality_threshold(job.inventory),
        "evaluation": [_evaluation(path) for path in job.metrics],
        "provenance": [_provenance(path) for path in job.records],
        "files": {name: digest_file(job.folder / name) for name in names},
        "notice": NOTICE,
    }
    write_json(job.folder / BUNDLE_FILE, description)
    read_bundle(job.folder)


def _linear_files(models: Sequence[Path], name: str, folder: Path) -> list[str]:
    """Copy linear models into the folder of a bundle; return their names there."""
    names = [f"{name}-{number}.npz" for number in range(1, len(models) + 1)]
    for model, own in zip(models, names, strict=True):
        _link(model, folder / own, copy=True)
    return names


def _one_eye(job: BundleJob) -> dict[str, Any] | None:
    """The model for images without fellow eye, and its files."""
    if not job.one_eye:
        return None
    return {
        "model": job.one_eye.model,
        "linear": _linear_files(job.one_eye.linear, "one_eye", job.folder),
        "answer": _answer(job, job.one_eye.decision_rule, ONE_EYE_FILE),
    }


def _data_sets(job: BundleJob) -> dict[str, dict[str, Any]]:
    """Answers by the decision rules of each joined training set, and their files."""
    rules = {"answer": job.decision_rule, "eye_average": job.eye_average}
    rules["one_eye"] = job.one_eye.decision_rule if job.one_eye else None
    names = sorted(read_decision_rule(job.decision_rule).data_sets)
    return {
        name: {
            kind: _answer(job, path, f"{kind}-data_set-{number}.onnx", name) if path else None
            for kind, path in rules.items()
        }
        for number, name in enumerate(names, start=1)
    }


def graph_file(training_run: str, prefix: str = "network") -> str:
    """Return the name of a training run's graph in a bundle."""
    name = re.sub(r"[^A-Za-z0-9._+-]", "-", training_run)
    return f"{prefix}-{name}.onnx"


def _link(source: Path, target: Path, copy: bool = False) -> None:
    """Link a file, or copy it to another file system. Bundles of one run share their large files by links."""
    target.unlink(missing_ok=True)
    try:
        if copy:
            raise OSError
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _answer(job: BundleJob, path: Path, graph: str, data_set: str = "") -> dict[str, Any]:
    rule = read_decision_rule(path).of_data_set(data_set)
    (job.folder / graph).write_bytes(answer_graph(rule).SerializeToString())
    return {"decision_rule": rule.document(), "graph": graph}


def quality_threshold(inventory: Path) -> float:
    """Return the quality that all but ``LOW_QUALITY_SHARE`` of the training images reach."""
    images = stream_table(inventory, ("quality", "problem"))
    qualities = sorted(float(image["quality"]) for image in images if not image["problem"])
    return qualities[int(LOW_QUALITY_SHARE * len(qualities))]


def _evaluation(path: Path) -> dict[str, Any]:
    metrics = read_own(path)
    return {
        **{name: metrics[name] for name in ("split", "images", "quadratic_weighted_kappa")},
        "quadratic_weighted_kappa_low": ((metrics["intervals"] or {}).get("quadratic_weighted_kappa") or [None])[0],
        "baseline_grade_name": metrics["baseline"]["grade_name"],
    }


def _provenance(path: Path) -> dict[str, Any]:
    if path.suffix == ".npz":
        fit = read_linear_model(path).record
        return {"training_run": fit["model"], **{name: fit[name] for name in ("seed", "digests", "packages")}}
    record = read_own(path)
    # The settings have paths of the computer that trained.
    return {
        **{name: record[name] for name in ("training_run", "seed", "digests")},
        "packages": record["environment"]["packages"],
    }
