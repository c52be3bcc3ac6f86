"""Grade new photographs, which have no labels, by models that are trained. Imports Keras: choose its backend before."""

import logging
import os
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import keras
import numpy as np

from retinaflow.data.headers import Header, read_anew
from retinaflow.data.inventory import identifier
from retinaflow.data.labels import IMAGE_EXTENSIONS, image_name
from retinaflow.data.sources import EXPECTED, files_of
from retinaflow.errors import RetinaflowError
from retinaflow.evaluation.grades import Grades
from retinaflow.jobs.resources import PREDICTED
from retinaflow.preprocessing.allocator import keep_freed_memory
from retinaflow.preprocessing.preprocess import load_image
from retinaflow.preprocessing.variant import Variant
from retinaflow.scoring.decision_rules import Decision, grade, read_decision
from retinaflow.scoring.eyes import blend, fellows, paired
from retinaflow.scoring.raw_outputs import mean_outputs
from retinaflow.scoring.score import load_model, predict_views
from retinaflow.serving.bundle import Grader, Graders, Network
from retinaflow.storage.tables import write_table

log = logging.getLogger(__name__)

EXAMPLES = 5

PROBLEM_COLUMNS = ("image", "problem", "found")
PATIENT_COLUMNS = ("patient_grade_name", "patient_grade", "patient_severity", "patient_referable")

Answer = dict[str, Any]  # a value for each of ``columns``
Problem = dict[str, str]  # a value for each of ``PROBLEM_COLUMNS``


def columns(classes: Sequence[str]) -> list[str]:
    """Of the table of graded photographs.

    ``image``: its name in the folder, archive or list. ``patient``, ``eye``: by that name. ``predicted_grade`` by
    thresholds on the ``severity``, 0 to k - 1. ``probability_CLASS``: calibrated. ``referable``: 0 or 1, by the
    operating point. ``uncertainty``: what the highest probability lacks to 1, the measure by which ``metrics`` judges
    what is gained if people grade the rest. ``quality``: 0 to 1; ``low_quality``: 1 if that is below the
    ``quality_cut`` of the graders. ``patient_...``: the same, of the mean with the patient's other eye; empty without.
    """
    probabilities = [f"probability_{name}" for name in classes]
    names = (
        "image",
        "patient",
        "eye",
        "predicted_grade_name",
        "predicted_grade",
        "severity",
        *probabilities,
        "referable",
        "uncertainty",
    )
    return [*names, "quality", "low_quality", *PATIENT_COLUMNS]


class Decoded:
    """Images as ``score.predict`` takes them, in memory. Levels are not known, and 0."""

    def __init__(self, images: Sequence[str], pixels: np.ndarray) -> None:
        """``pixels``: uint8 RGB (n, size, size, 3) of n ``images``."""
        self.names, self.pixels = images, pixels
        self.size = int(pixels.shape[1])
        self.grades = np.zeros(len(images), np.int64)

    def __len__(self) -> int:
        """Number of photographs."""
        return len(self.names)

    def __getitem__(self, number: int) -> np.ndarray:
        """Pixels of one photograph."""
        return self.pixels[number]

    def read_into(self, out: np.ndarray, number: int) -> None:
        """Copy the pixels of one photograph to ``out``."""
        out[...] = self.pixels[number]

    def prefetch(self, numbers: np.ndarray) -> None:
        """Nothing: they are in memory."""


class Loaded(NamedTuple):
    """A grader whose files are read: each backbone with its models, and the decisions."""

    grader: Grader
    networks: list[tuple[Network, list[keras.Model]]]
    decision: Decision
    blended: Decision


class Photograph(NamedTuple):
    """One that can be graded: what it is called, where it is, and what its file says."""

    image: str
    path: str
    header: Header


def predict(
    source: str, graders: Graders, system: str, max_bytes: int, threads: int, predictions: Path, problems: Path
) -> None:
    """Grade the photographs of ``source`` (``sources.files_of``) by ``system`` and list those that cannot be.

    Raises ``RetinaflowError`` if none can be, or a file of the grader is not what it should be.
    """
    loaded = load_grader(graders, system)
    with files_of(source, predictions.parent / ".unpacked", max_bytes) as files:
        answers, faults = grade_files(files, graders, loaded, threads)
        if not answers:
            raise RetinaflowError(f"images: {source}: {none_graded(faults)} Expected {EXPECTED}.")
    write_table(problems, PROBLEM_COLUMNS, faults)
    names = columns(graders.classes)
    write_table(predictions, names, ({name: _written(answer[name]) for name in names} for answer in answers))
    kinds = Counter(fault["problem"] for fault in faults)
    told = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items())) or "none"
    log.info("%s graded %d of %d files of %s; problems: %s", system, len(answers), len(files), source, told)


def none_graded(faults: Sequence[Problem]) -> str:
    """What to tell where no photograph can be graded."""
    some = "; ".join(f"{fault['image']}: {fault['problem']}, {fault['found']}" for fault in faults[:EXAMPLES])
    return f"none of {len(faults)} files can be graded{f', first {some}' if some else ''}."


def load_grader(graders: Graders, system: str) -> Loaded:
    """Read models and decisions of ``system``; models compute in as many threads as the first of them was scored in.

    Raises ``RetinaflowError`` if one cannot be read, or is of other classes or of another objective.
    """
    grader, classes = graders.named(system), graders.classes
    threads = grader.backbones[0].cpu_threads
    networks = [
        (its, [load_model(model, classes, graders.seed, threads, its.objective) for model in its.models])
        for its in grader.backbones
    ]
    paths = (grader.decision, grader.blended or grader.decision)
    decisions = [read_decision(path) for path in paths]
    for path, decision in zip(paths, decisions, strict=True):
        if (decision.grade_names, decision.objective) != (classes, grader.objective):
            raise RetinaflowError(
                f"{path}: decides on {decision.objective} of {', '.join(decision.grade_names)}; expected "
                f"{grader.objective} of {', '.join(classes)}. Delete it and run the workflow again."
            )
    return Loaded(grader, networks, *decisions)


def grade_files(
    files: Mapping[str, str], graders: Graders, loaded: Loaded, threads: int
) -> tuple[list[Answer], list[Problem]]:
    """Answers (``columns``) to the photographs among ``files``, paths by name; and the files that have none, with why.

    Both are in the order of the names. ``threads`` read and decode.
    """
    faults = {name: fault for name in files if (fault := _fault_of_name(name, files))}
    faults |= _twins([name for name in files if name not in faults])
    left = sorted(name for name in files if name not in faults)
    graded: list[Photograph] = []
    said: list[np.ndarray] = []
    for first in range(0, len(left), PREDICTED):
        names = left[first : first + PREDICTED]
        chunk, decoded, unread = read({name: files[name] for name in names}, graders, loaded, threads)
        faults |= unread
        if chunk:
            said.append(outputs_of(loaded, decoded, len(graders.classes), graders.views, threads))
            graded += chunk
            log.info("%d of %d photographs", first + len(names), len(left))
    known = identifier(graders.patient)
    eyes = [known(image_name(Path(one.image).name)) for one in graded]
    found = answers(graded, eyes, np.concatenate(said), graders, loaded) if graded else []
    return found, [dict(zip(PROBLEM_COLUMNS, (name, *faults[name]), strict=True)) for name in sorted(faults)]


def read(
    files: Mapping[str, str], graders: Graders, loaded: Loaded, threads: int
) -> tuple[list[Photograph], dict[str, Decoded], dict[str, tuple[str, str]]]:
    """The photographs among ``files``, paths by name, their pixels by recipe, and why the others are none."""
    headers = read_anew(list(files.values()), graders.pixel_limit, threads)
    chunk = [Photograph(name, path, header) for (name, path), header in zip(files.items(), headers, strict=True)]
    faults = {one.image: (one.header.problem, one.header.found) for one in chunk if one.header.problem}
    chunk = [one for one in chunk if not one.header.problem]
    decoded, undecoded = decode(chunk, {network.recipe for network, _ in loaded.networks}, threads)
    faults |= {image: ("unreadable", found) for image, found in undecoded.items()}
    return [one for one in chunk if one.image not in undecoded], decoded, faults


def _fault_of_name(name: str, files: Mapping[str, str]) -> tuple[str, str] | None:
    if not os.path.lexists(files[name]):
        return "no_image", "there is no such file"
    if not name.lower().endswith(IMAGE_EXTENSIONS):
        return "other_file", f"expected a name that ends in {', '.join(IMAGE_EXTENSIONS)}"
    return None


def _twins(names: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Those whose image name, which tells patient and eye, is that of another."""
    same: dict[str, list[str]] = defaultdict(list)
    for name in names:
        same[image_name(Path(name).name).casefold()].append(name)
    return {
        name: ("duplicate_image", f"the same name as {', '.join(repr(twin) for twin in twins if twin != name)}")
        for twins in same.values()
        if len(twins) > 1
        for name in twins
    }


def decode(
    photographs: Sequence[Photograph], recipes: set[str], threads: int
) -> tuple[dict[str, Decoded], dict[str, str]]:
    """Pixels of ``photographs`` by recipe, as those of the shards are made; and of those that have none, why not."""
    parsed = {name: Variant.parse(name) for name in sorted(recipes)}

    def read(one: Photograph) -> list[np.ndarray] | str:
        row = {"digest": one.header.digest, "width": str(one.header.width), "height": str(one.header.height)}
        try:
            return [load_image(Path(one.path), row, recipe) for recipe in parsed.values()]
        except RetinaflowError as error:
            return str(error).removeprefix(f"{one.path}: ")

    cv2.setNumThreads(1)  # the threads below each have a photograph of their own
    keep_freed_memory()
    with ThreadPoolExecutor(threads) as pool:
        found = dict(zip((one.image for one in photographs), pool.map(read, photographs), strict=True))
    undecoded = {image: pixels for image, pixels in found.items() if isinstance(pixels, str)}
    images = [image for image in found if image not in undecoded]
    decoded = {
        name: Decoded(images, np.stack([found[image][number] for image in images]))
        for number, name in enumerate(parsed)
        if images
    }
    return decoded, undecoded


def outputs_of(loaded: Loaded, decoded: Mapping[str, Decoded], classes: int, views: int, threads: int) -> np.ndarray:
    """What the grader puts out for photographs ``decoded`` by each recipe: float64 (n, width), as if it were scored."""
    means = []
    for network, models in loaded.networks:
        pixels, objective = decoded[network.recipe], network.objective
        said = [(objective, predict_views(model, pixels, threads, objective, views)[0]) for model in models]
        means.append((objective, mean_outputs(said, objective, classes)))
    return mean_outputs(means, loaded.grader.objective, classes)


def answers(
    photographs: Sequence[Photograph],
    known: Sequence[tuple[str, str]],
    outputs: np.ndarray,
    graders: Graders,
    loaded: Loaded,
) -> list[Answer]:
    """What ``outputs`` (``outputs_of``) of ``photographs`` say, of which patient and eye are ``known``."""
    patients, eyes = [patient for patient, _ in known], [eye for _, eye in known]
    own = grade(loaded.decision, outputs)
    both = grade(loaded.blended, blend(outputs, patients, eyes, graders.blend_weight))
    has_both = paired(fellows(patients, eyes))
    return [
        {
            "image": one.image,
            "patient": patients[number],
            "eye": eyes[number],
            **_answer(own, number, graders.classes, "predicted_", ""),
            **{
                f"probability_{name}": float(value)
                for name, value in zip(graders.classes, own.probabilities[number], strict=True)
            },
            "uncertainty": float(1 - own.probabilities[number].max()),
            "quality": float(one.header.quality),
            "low_quality": int(float(one.header.quality) < graders.quality_cut),
            **(
                _answer(both, number, graders.classes, "patient_", "patient_")
                if has_both[number]
                else dict.fromkeys(PATIENT_COLUMNS)
            ),
        }
        for number, one in enumerate(photographs)
    ]


def _answer(grades: Grades, number: int, classes: Sequence[str], of_grade: str, of_rest: str) -> Answer:
    level = int(grades.level[number])
    return {
        f"{of_grade}grade_name": classes[level],
        f"{of_grade}grade": level,
        f"{of_rest}severity": float(grades.severity[number]),
        f"{of_rest}referable": int(grades.referable[number]),
    }


def _written(value: object) -> object:
    """As a table has it."""
    return f"{value:.9g}" if isinstance(value, float) else "" if value is None else value
