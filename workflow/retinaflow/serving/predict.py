"""Grade new images, which have no labels, by trained models. Imports Keras: choose its backend before."""

import logging
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import keras
import numpy as np

from retinaflow.data.headers import Header, examine_files
from retinaflow.data.image_files import IMAGE_EXTENSIONS, is_image_file, is_thumbnail, other_file
from retinaflow.data.labels import image_name, name_parser
from retinaflow.data.sources import EXPECTED_SOURCE, files_of
from retinaflow.errors import RetinaflowError
from retinaflow.evaluation.grades import Grades
from retinaflow.jobs.resources import PREDICTED
from retinaflow.networks.objectives import mean_outputs
from retinaflow.preprocessing.allocator import keep_freed_memory
from retinaflow.preprocessing.preprocess import load_image
from retinaflow.preprocessing.variant import Variant
from retinaflow.scoring.decision_rules import DecisionRule, apply_decision_rule, read_decision_rule
from retinaflow.scoring.eyes import average_eyes, fellow_eye_weights, have_fellow_eye
from retinaflow.scoring.score import load_model, predict_tta
from retinaflow.serving.bundle import Bundle, BundledModel, BundledNetwork
from retinaflow.serving.verdict import (
    DO_NOT_REFER,
    REFER,
    VERDICT_COLUMNS,
    Verdict,
    image_result,
    problem_result,
    verdict_row,
    verdicts,
)
from retinaflow.storage.tables import write_table
from retinaflow.storage.texts import printable

log = logging.getLogger(__name__)
# The screen has a handler for the progress of jobs.
progress = logging.getLogger("retinaflow.progress")

EXAMPLES = 5  # problems that a message names

PREDICT_PROBLEM_COLUMNS = ("image", "problem", "found")
EYE_AVERAGE_COLUMNS = ("eye_average_grade_name", "eye_average_grade", "eye_average_severity")

Answer = dict[str, Any]  # a value for each of ``columns``
ProblemRow = dict[str, str]  # a value for each of ``PREDICT_PROBLEM_COLUMNS``
Found = tuple[str, str]  # a kind of problem, and a text


def columns(grade_names: Sequence[str]) -> list[str]:
    """Columns of the table of graded images.

    - ``image``: its name in the folder, archive or list. ``patient``, ``eye``: read from that name.
    - ``decision``: the screening decision, ``refer`` or ``do_not_refer``. ``referable``: the same as 1 or 0.
    - ``risk``: calibrated probability of the endpoint. The image is referred if it is at least ``risk_threshold``.
    - ``predicted_grade``: number of thresholds below the ``severity``, which is 0 to k - 1.
    - ``probability_NAME``: calibrated. ``uncertainty``: 1 minus the highest probability.
    - ``quality``: 0 to 1. ``low_quality``: 1 if it is below the ``quality_threshold`` of the bundle.
    - ``eye_average_...``: the grade of the eye average; empty if the fellow eye is missing.
    """
    return [
        *("image", "patient", "eye", "decision", "risk", "risk_threshold"),
        *("predicted_grade_name", "predicted_grade", "severity"),
        *(f"probability_{name}" for name in grade_names),
        *("referable", "uncertainty", "quality", "low_quality"),
        *EYE_AVERAGE_COLUMNS,
    ]


class Decoded:
    """Images in memory, as ``score.predict_outputs`` needs them. Their grades are not known, and 0."""

    def __init__(self, images: Sequence[str], pixels: np.ndarray) -> None:
        """Keep the names of n ``images`` and their ``pixels``, uint8 RGB (n, size, size, 3)."""
        self.names, self.pixels = images, pixels
        self.size = int(pixels.shape[1])
        self.grades = np.zeros(len(images), np.int64)

    def __len__(self) -> int:
        """Number of images."""
        return len(self.names)

    def __getitem__(self, number: int) -> np.ndarray:
        """Pixels of one image."""
        return self.pixels[number]

    def read_into(self, out: np.ndarray, number: int) -> None:
        """Copy the pixels of one image to ``out``."""
        out[...] = self.pixels[number]

    def prefetch(self, numbers: np.ndarray) -> None:
        """Do nothing: the pixels are in memory."""


class LoadedModel(NamedTuple):
    """A model of a bundle with its files read.

    Attributes:
        bundle: The bundle it is from.
        model: The model.
        networks: Each of its networks with the Keras models of its files.
        decision_rule: Decision rule for one eye.
        eye_average: Decision rule for the mean of both eyes.
    """

    bundle: Bundle
    model: BundledModel
    networks: list[tuple[BundledNetwork, list[keras.Model]]]
    decision_rule: DecisionRule
    eye_average: DecisionRule


class NewImage(NamedTuple):
    """An image that can be graded: its name, its path, and the header of its file."""

    name: str
    path: str
    header: Header


@dataclass(frozen=True)
class PredictJob:
    """Input, output and resources of a prediction.

    Attributes:
        source: Folder, archive or list of images, as ``sources.files_of`` reads it.
        bundle: Bundle of models.
        model: Name of the model in it.
        max_bytes: Largest size of an unpacked archive.
        threads: Threads that read and decode.
        predictions: Table of the graded images.
        patients: Table of the verdict of each patient.
        problems: Table of the images that cannot be graded.
    """

    source: str
    bundle: Bundle
    model: str
    max_bytes: int
    threads: int
    predictions: Path
    patients: Path
    problems: Path


def predict(job: PredictJob) -> None:
    """Grade the images of a source and list those that cannot be graded.

    Raises:
        RetinaflowError: No image can be graded, or a file of the model cannot be used.
    """
    loaded = load_bundled_model(job.bundle, job.model)
    with files_of(job.source, job.predictions.parent / ".unpacked", job.max_bytes) as files:
        answers, problems = grade_files(files, loaded, job.threads)
        if not answers:
            raise RetinaflowError(f"images: {job.source}: {none_graded(problems)} Expected {EXPECTED_SOURCE}.")
    write_table(job.problems, PREDICT_PROBLEM_COLUMNS, problems)
    names = columns(job.bundle.grade_names)
    write_table(job.predictions, names, ({name: _cell(answer[name]) for name in names} for answer in answers))
    found = patient_verdicts(answers, problems, job.bundle.patient_pattern)
    rows = [verdict_row(verdict, job.bundle.grade_names) for verdict in found]
    write_table(job.patients, VERDICT_COLUMNS, ({name: _cell(row[name]) for name in VERDICT_COLUMNS} for row in rows))
    kinds = Counter(problem["problem"] for problem in problems)
    counts = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items())) or "none"
    log.info("%s graded %d of %d files of %s; problems: %s", job.model, len(answers), len(files), job.source, counts)
    result = f"{len(answers)} images graded by {job.model}, problems: {counts}; see {job.predictions}"
    progress.debug("%s", result, extra={"progress": {"result": result}})


def patient_verdicts(answers: Sequence[Answer], problems: Sequence[ProblemRow], patient_pattern: str) -> list[Verdict]:
    """Return the verdict of each patient. Image files with problems are ungradable images of their patients.

    Args:
        answers: Answers of ``grade_files``.
        problems: Its problems.
        patient_pattern: Regular expression for patient and eye in the name of a file with a problem.
    """
    parse_name = name_parser(patient_pattern)
    results = [image_result(answer) for answer in answers]
    for problem in problems:
        if problem["problem"] != "other_file":
            results.append(problem_result(problem, *parse_name(image_name(Path(problem["image"]).name))))
    return verdicts(results)


def none_graded(problems: Sequence[ProblemRow]) -> str:
    """Message for a source of which no image can be graded."""
    some = printable("; ".join(f"{one['image']}: {one['problem']}, {one['found']}" for one in problems[:EXAMPLES]))
    return f"none of {len(problems)} files can be graded{f', first {some}' if some else ''}."


def load_bundled_model(bundle: Bundle, name: str) -> LoadedModel:
    """Read the networks and decision rules of a model. All compute in the threads that scored the first network.

    Raises:
        RetinaflowError: A file cannot be read, or has other grades or another objective.
    """
    model, grade_names = bundle.model(name), bundle.grade_names
    threads = model.networks[0].cpu_threads
    networks = [
        (
            network,
            [
                load_model(file, grade_names, objective=network.objective, seed=bundle.seed, threads=threads)
                for file in network.files
            ],
        )
        for network in model.networks
    ]
    paths = (model.decision_rule, model.eye_average or model.decision_rule)
    rules = [read_decision_rule(path) for path in paths]
    for path, rule in zip(paths, rules, strict=True):
        if (rule.grade_names, rule.objective) != (grade_names, model.objective):
            raise RetinaflowError(
                f"{path}: this decision rule is for {rule.objective} of {', '.join(rule.grade_names)}; expected "
                f"{model.objective} of {', '.join(grade_names)}. Delete it and run the workflow again."
            )
    return LoadedModel(bundle, model, networks, *rules)


def grade_files(files: Mapping[str, str], loaded: LoadedModel, threads: int) -> tuple[list[Answer], list[ProblemRow]]:
    """Grade files.

    Args:
        files: Path of each file by its name.
        loaded: The model.
        threads: Threads that read and decode.

    Returns:
        The answers (``columns``) and the problems of the other files, both in the order of the names.
    """
    found = {name: problem for name in files if (problem := _name_problem(name, files))}
    found |= _duplicates([name for name in files if name not in found])
    left = sorted(name for name in files if name not in found)
    graded: list[NewImage] = []
    outputs: list[np.ndarray] = []
    for first in range(0, len(left), PREDICTED):
        names = left[first : first + PREDICTED]
        chunk, decoded, unread = read_images({name: files[name] for name in names}, loaded, threads)
        found |= unread
        if chunk:
            outputs.append(raw_outputs(loaded, decoded, threads))
            graded += chunk
            log.info("%d of %d images", first + len(names), len(left))
    parse_name = name_parser(loaded.bundle.patient_pattern)
    eyes = [_patient_and_eye(image, parse_name) for image in graded]
    answers = answers_of(graded, eyes, np.concatenate(outputs), loaded) if graded else []
    return answers, [dict(zip(PREDICT_PROBLEM_COLUMNS, (name, *found[name]), strict=True)) for name in sorted(found)]


def _patient_and_eye(image: NewImage, parse_name: Callable[[str], tuple[str, str]]) -> tuple[str, str]:
    """Patient and eye by the tags of a DICOM file, else by the name of the file."""
    patient, eye = parse_name(image_name(Path(image.name).name))
    return image.header.patient or patient, image.header.eye or eye


def read_images(
    files: Mapping[str, str], loaded: LoadedModel, threads: int
) -> tuple[list[NewImage], dict[str, Decoded], dict[str, Found]]:
    """Read and decode files, paths by name.

    Returns:
        The images that can be graded, their pixels by preprocessing variant, and the problems of the others by name.
    """
    headers = examine_files(list(files.values()), loaded.bundle.pixel_limit, threads)
    images = [NewImage(name, path, header) for (name, path), header in zip(files.items(), headers, strict=True)]
    problems = {image.name: (image.header.problem, image.header.found) for image in images if image.header.problem}
    images = [image for image in images if not image.header.problem]
    decoded, undecoded = decode(images, {network.variant for network, _ in loaded.networks}, threads)
    problems |= {name: ("unreadable", found) for name, found in undecoded.items()}
    return [image for image in images if image.name not in undecoded], decoded, problems


def _name_problem(name: str, files: Mapping[str, str]) -> Found | None:
    if not os.path.lexists(files[name]):
        return "no_image", "there is no such file"
    if is_thumbnail(name):
        return "other_file", other_file(name)
    if not is_image_file(name, files[name]):
        return "other_file", f"expected a name that ends in {', '.join(IMAGE_EXTENSIONS)}, or a DICOM file"
    return None


def _duplicates(names: Sequence[str]) -> dict[str, Found]:
    """Files that share their image name, and so their patient and eye, with another file."""
    same: dict[str, list[str]] = defaultdict(list)
    for name in names:
        same[image_name(Path(name).name).casefold()].append(name)
    return {
        name: ("duplicate_image", f"the same name as {', '.join(repr(other) for other in shared if other != name)}")
        for shared in same.values()
        if len(shared) > 1
        for name in shared
    }


def decode(images: Sequence[NewImage], variants: set[str], threads: int) -> tuple[dict[str, Decoded], dict[str, str]]:
    """Decode images as the shards are made.

    Returns:
        Their pixels by preprocessing variant, and the reason for each image without pixels by its name.
    """
    parsed = {name: Variant.parse(name) for name in sorted(variants)}

    def read(image: NewImage) -> list[np.ndarray] | str:
        header = image.header
        row = {"digest": header.digest, "width": str(header.width), "height": str(header.height)}
        try:
            return [load_image(Path(image.path), row, variant) for variant in parsed.values()]
        except RetinaflowError as error:
            return str(error).removeprefix(f"{image.path}: ")

    cv2.setNumThreads(1)  # Each thread below has an image of its own.
    keep_freed_memory()
    with ThreadPoolExecutor(threads) as pool:
        found = dict(zip((image.name for image in images), pool.map(read, images), strict=True))
    undecoded = {name: pixels for name, pixels in found.items() if isinstance(pixels, str)}
    names = [name for name in found if name not in undecoded]
    decoded = {
        variant: Decoded(names, np.stack([found[name][number] for name in names]))
        for number, variant in enumerate(parsed)
        if names
    }
    return decoded, undecoded


def raw_outputs(loaded: LoadedModel, decoded: Mapping[str, Decoded], threads: int) -> np.ndarray:
    """Compute the raw outputs of a model, as scoring does.

    Args:
        loaded: The model.
        decoded: n images by preprocessing variant.
        threads: Threads that prepare batches.

    Returns:
        float64 (n, width).
    """
    grades, views = len(loaded.bundle.grade_names), loaded.bundle.tta_views
    means = []
    for network, models in loaded.networks:
        pixels, objective = decoded[network.variant], network.objective
        of_files = [
            (objective, predict_tta(model, pixels, objective=objective, tta_views=views, threads=threads)[0])
            for model in models
        ]
        means.append((objective, mean_outputs(of_files, objective, grades)))
    return mean_outputs(means, loaded.model.objective, grades)


def answers_of(
    images: Sequence[NewImage], eyes_of: Sequence[tuple[str, str]], outputs: np.ndarray, loaded: LoadedModel
) -> list[Answer]:
    """Grade images by their raw outputs.

    Args:
        images: n images.
        eyes_of: Patient and eye of each, empty if unknown.
        outputs: Raw outputs, float64 (n, width).
        loaded: The model.

    Returns:
        An answer (``columns``) for each image.
    """
    names = loaded.bundle.grade_names
    patients, eyes = [patient for patient, _ in eyes_of], [eye for _, eye in eyes_of]
    rule = loaded.decision_rule
    own = apply_decision_rule(rule, outputs)
    risks = own.probabilities[:, rule.referable_grade :].sum(axis=1)
    both = apply_decision_rule(
        loaded.eye_average,
        average_eyes(outputs, patients, eyes=eyes, fellow_eye_weight=loaded.bundle.fellow_eye_weight),
    )
    has_both = have_fellow_eye(fellow_eye_weights(patients, eyes))
    return [
        {
            "image": image.name,
            "patient": patients[number],
            "eye": eyes[number],
            "decision": REFER if own.referable[number] else DO_NOT_REFER,
            "referable": int(own.referable[number]),
            "risk": float(risks[number]),
            "risk_threshold": float(rule.referable_cut),
            **_graded(own, number, names, "predicted_", ""),
            **{
                f"probability_{name}": float(value)
                for name, value in zip(names, own.probabilities[number], strict=True)
            },
            "uncertainty": float(1 - own.probabilities[number].max()),
            "quality": float(image.header.quality),
            "low_quality": int(float(image.header.quality) < loaded.bundle.quality_threshold),
            **(
                _graded(both, number, names, "eye_average_", "eye_average_")
                if has_both[number]
                else dict.fromkeys(EYE_AVERAGE_COLUMNS)
            ),
        }
        for number, image in enumerate(images)
    ]


def _graded(grades: Grades, number: int, grade_names: Sequence[str], of_grade: str, of_rest: str) -> Answer:
    """Grade and severity of one image; ``of_grade`` and ``of_rest`` are prefixes of the columns."""
    predicted = int(grades.predicted[number])
    return {
        f"{of_grade}grade_name": grade_names[predicted],
        f"{of_grade}grade": predicted,
        f"{of_rest}severity": float(grades.severity[number]),
    }


def _cell(value: object) -> object:
    """A value as the table has it."""
    return f"{value:.9g}" if isinstance(value, float) else "" if value is None else value
