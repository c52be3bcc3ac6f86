"""Grade new images, which have no labels, by the bundle of a model. Needs no TensorFlow and no pandas."""

import logging
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from retinaflow.data.image_files import IMAGE_EXTENSIONS, is_image_file, is_thumbnail, other_file
from retinaflow.data.labels import image_name, name_parser
from retinaflow.data.listed_eyes import Eyes, listed_eyes
from retinaflow.data.sources import EXPECTED_SOURCE, PREDICTED, files_of
from retinaflow.errors import RetinaflowError
from retinaflow.serving.bundle import Bundle
from retinaflow.serving.computed import Computed, compute, eye_answers, joined
from retinaflow.serving.drift import (
    VALUES_FILE,
    DriftRow,
    SeenImage,
    drift_rows,
    drift_text,
    image_figures,
    patient_values,
    write_drift_rows,
    write_drift_values,
)
from retinaflow.serving.gates import FIGURES, GATE_PROBLEMS, thumbnail_features
from retinaflow.serving.reading import NewImage, read_new_images
from retinaflow.serving.runtime import Answers, LoadedModel
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
OTHER_FILE = "other_file"  # problem of a file that is no image, and so of no patient

PREDICT_PROBLEM_COLUMNS = ("image", "problem", "found")
EYE_AVERAGE_COLUMNS = ("eye_average_grade_name", "eye_average_grade", "eye_average_severity")

Answer = dict[str, Any]  # a value for each of ``columns``
ProblemRow = dict[str, str]  # a value for each of ``PREDICT_PROBLEM_COLUMNS``
Found = tuple[str, str]  # a kind of problem, and a text


def columns(grade_names: Sequence[str]) -> list[str]:
    """Columns of the table of graded images.

    - ``image``: its name in the folder, archive or list. ``patient``, ``eye``: of the list, or else of that name.
    - ``decision``: the screening decision, ``refer`` or ``do_not_refer``. ``referable``: the same as 1 or 0.
    - ``risk``: calibrated probability of the endpoint. The image is referred if it is at least ``risk_threshold``.
    - ``predicted_grade``: number of thresholds below the ``severity``, which is 0 to k - 1.
    - ``probability_NAME``: calibrated. ``uncertainty``: 1 minus the highest probability.
    - ``quality``: 0 to 1. ``low_quality``: 1 if it is below the ``quality_threshold`` of the bundle.
    - ``eye_average_...``: the grade of the eye average; empty if the fellow eye is missing, or the model needs both.
    - ``answered_by``: model that the answer is of. A model of both eyes has another one for a missing fellow eye.
    - ``trained_on``: 1 if the model was trained or validated on an image with the same bytes; empty if unknown.
    """
    return [
        *("image", "patient", "eye", "decision", "risk", "risk_threshold"),
        *("predicted_grade_name", "predicted_grade", "severity"),
        *(f"probability_{name}" for name in grade_names),
        *("referable", "uncertainty", "quality", "low_quality"),
        *EYE_AVERAGE_COLUMNS,
        "answered_by",
        "trained_on",
    ]


class AnswerTables(NamedTuple):
    """Files of answers.

    Attributes:
        predictions: The graded images.
        patients: The verdict of each patient.
        problems: The images that cannot be graded.
        drift: Comparison of the images with the training images.
        drift_values: Values for later comparisons.
    """

    predictions: Path
    patients: Path
    problems: Path
    drift: Path
    drift_values: Path


def answer_tables(folder: Path) -> AnswerTables:
    """Return the files of a folder."""
    return AnswerTables(
        predictions=folder / "predictions.csv",
        patients=folder / "patients.csv",
        problems=folder / "problems.csv",
        drift=folder / "drift.csv",
        drift_values=folder / VALUES_FILE,
    )


class ReadImages(NamedTuple):
    """New images that were read.

    Attributes:
        images: The n images that can be graded.
        decoded: Their pixels by preprocessing variant, uint8 RGB (n, size, size, 3).
        problems: The problems of the others by name.
        tags: Patient and eye of all by name, as the tags of DICOM files say; empty if they do not.
        figures: Figures for the drift by name, also of images that were decoded and are not graded.
    """

    images: list[NewImage]
    decoded: dict[str, np.ndarray]
    problems: dict[str, Found]
    tags: dict[str, tuple[str, str]]
    figures: dict[str, dict[str, float]]

    def without(self, problems: Mapping[str, Found]) -> "ReadImages":
        """Return them with more problems by name."""
        if not problems:
            return self
        left = [number for number, image in enumerate(self.images) if image.name not in problems]
        return self._replace(
            images=[self.images[number] for number in left],
            decoded={variant: pixels[left] for variant, pixels in self.decoded.items()},
            problems={**self.problems, **problems},
        )


class GradedImages(NamedTuple):
    """Result of the grading of files.

    Attributes:
        answers: Answers (``columns``), in the order of the names.
        problems: Problems of the other files, likewise.
        eyes: Patient and eye of each image by name, also of those with a problem.
        values: Values of each figure of the drift, one a patient.
        drift: Comparison of the values with the training images; none if the bundle lacks their figures.
    """

    answers: list[Answer]
    problems: list[ProblemRow]
    eyes: dict[str, tuple[str, str]]
    values: dict[str, np.ndarray]
    drift: list[DriftRow]


@dataclass(frozen=True)
class PredictJob:
    """Input, output and resources of a prediction.

    Attributes:
        source: Folder, archive or list of images, as ``sources.files_of`` reads it.
        loaded: The model.
        max_bytes: Largest size of an unpacked archive.
        threads: Threads that read and decode.
        tables: Tables to write.
    """

    source: str
    loaded: LoadedModel
    max_bytes: int
    threads: int
    tables: AnswerTables


def predict(job: PredictJob) -> None:
    """Grade the images of a source and list those that cannot be graded.

    Raises:
        RetinaflowError: No image can be graded, or a file of the model cannot be used.
    """
    model = job.loaded.bundle.model
    if job.loaded.bundle.warning:
        log.warning("%s", job.loaded.bundle.warning)
    with files_of(job.source, job.tables.predictions.parent / ".unpacked", job.max_bytes) as files:
        graded = grade_files(files, job.loaded, job.threads, listed=listed_eyes(job.source))
        answers, problems = graded.answers, graded.problems
        if not answers and not any(problem["problem"] in GATE_PROBLEMS for problem in problems):
            raise RetinaflowError(f"images: {job.source}: {none_graded(problems)} Expected {EXPECTED_SOURCE}.")
    write_answers(job.tables, graded, job.loaded)
    if warning := trained_on_warning(answers, model):
        log.warning("%s", warning)
    kinds = Counter(problem["problem"] for problem in problems)
    counts = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items())) or "none"
    log.info("%s graded %d of %d files of %s; problems: %s", model, len(answers), len(files), job.source, counts)
    if drift := drift_text(graded.drift):
        log.info("%s", drift)
    result = f"{len(answers)} images graded by {model}, problems: {counts}; see {job.tables.predictions}"
    result += f"; {drift}" if drift else ""
    progress.debug("%s", result, extra={"progress": {"result": result}})


def write_answers(tables: AnswerTables, graded: GradedImages, loaded: LoadedModel) -> None:
    """Write answers, problems, the verdict of each patient and the drift."""
    bundle = loaded.bundle
    write_drift_rows(tables.drift, graded.drift)
    write_drift_values(tables.drift_values, graded.values, model=bundle.model, reference=loaded.drift)
    write_table(tables.problems, PREDICT_PROBLEM_COLUMNS, graded.problems)
    names = columns(bundle.grade_names)
    write_table(tables.predictions, names, ({name: _cell(answer[name]) for name in names} for answer in graded.answers))
    rows = (verdict_row(verdict, bundle.grade_names) for verdict in patient_verdicts(graded))
    cells = ({name: _cell(row[name]) for name in VERDICT_COLUMNS} for row in rows)
    write_table(tables.patients, VERDICT_COLUMNS, cells)


def patient_verdicts(graded: GradedImages) -> list[Verdict]:
    """Return the verdict of each patient. Image files with problems are ungradable images of their patients."""
    results = [image_result(answer) for answer in graded.answers]
    for problem in graded.problems:
        if problem["problem"] != OTHER_FILE:
            results.append(problem_result(problem, *graded.eyes[problem["image"]]))
    return verdicts(results)


def trained_on_warning(answers: Sequence[Answer], model: str) -> str:
    """Return a warning for images that the model was trained on; empty without such images."""
    names = [answer["image"] for answer in answers if answer["trained_on"]]
    if not names:
        return ""
    some = printable(", ".join(names[:EXAMPLES])) + (", ..." if len(names) > EXAMPLES else "")
    return (
        f"{model} was trained or validated on {len(names)} of {len(answers)} images ({some}). Its answers to them do "
        "not show how well it grades new images."
    )


def none_graded(problems: Sequence[ProblemRow]) -> str:
    """Message for a source of which no image can be graded."""
    some = printable("; ".join(f"{one['image']}: {one['problem']}, {one['found']}" for one in problems[:EXAMPLES]))
    return f"none of {len(problems)} files can be graded{f', first {some}' if some else ''}."


def grade_files(
    files: Mapping[str, str], loaded: LoadedModel, threads: int, listed: Eyes | None = None
) -> GradedImages:
    """Grade files.

    Args:
        files: Path of each file by its name.
        loaded: The model.
        threads: Threads that read and decode.
        listed: Patient and eye of the files that a list names.
    """
    listed = listed or {}
    found = {name: problem for name in files if (problem := _name_problem(name, files))}
    found |= _duplicates([name for name in files if name not in found], listed)
    left = sorted(name for name in files if name not in found)
    images: list[NewImage] = []
    parts: list[Computed] = []
    tags: dict[str, tuple[str, str]] = {}
    figures: dict[str, dict[str, float]] = {}
    for first in range(0, len(left), PREDICTED):
        names = left[first : first + PREDICTED]
        read = read_images({name: files[name] for name in names}, loaded, threads)
        read = read.without(_wrong_eyes(read.images, listed))
        found |= read.problems
        tags |= read.tags
        figures |= read.figures
        if read.images:
            parts.append(compute(loaded, read.decoded, [image_name(Path(image.name).name) for image in read.images]))
            images += [image._replace(pixels={}) for image in read.images]
            log.info("%d of %d images", first + len(names), len(left))
    images_of_patients = [name for name in files if name not in found or found[name][0] != OTHER_FILE]
    eyes = patients_and_eyes(images_of_patients, loaded.bundle.patient_pattern, tags=tags, listed=listed)
    answers = answers_of(images, [eyes[image.name] for image in images], joined(parts), loaded) if images else []
    problems = [dict(zip(PREDICT_PROBLEM_COLUMNS, (name, *found[name]), strict=True)) for name in sorted(found)]
    values = _drift_values(figures, eyes, answers, loaded.bundle)
    return GradedImages(answers, problems, eyes, values, drift_rows(values, loaded.drift) if loaded.drift else [])


def patients_and_eyes(names: Iterable[str], pattern: str, *, tags: Eyes, listed: Eyes) -> dict[str, tuple[str, str]]:
    """Return patient and eye of each file by its name.

    They are those of a list, else those of the tags of a DICOM file, else those of the name.
    """
    parse_name, unknown = name_parser(pattern), ("", "")
    found = {}
    for name in names:
        of_name = parse_name(image_name(Path(name).name))
        known = zip(listed.get(name, unknown), tags.get(name, unknown), of_name, strict=True)
        patient, eye = (next(filter(None, values), "") for values in known)
        found[name] = patient, eye
    return found


def _drift_values(
    figures: Mapping[str, dict[str, float]], eyes: Eyes, answers: Sequence[Answer], bundle: Bundle
) -> dict[str, np.ndarray]:
    """Values of each figure of the drift. A risk of another model or decision rule than the reference's is none."""
    # The reference has the risk by the rule of all training sets together.
    comparable = [] if bundle.data_set else [one for one in answers if one["answered_by"] == bundle.model]
    risks = {answer["image"]: {"risk": answer["risk"]} for answer in comparable}
    return patient_values(
        [SeenImage(name, eyes[name][0], {**own, **risks.get(name, {})}) for name, own in figures.items()]
    )


def _wrong_eyes(images: Sequence[NewImage], listed: Eyes) -> dict[str, Found]:
    """Images whose DICOM tags name another eye than the list."""
    pairs = ((image, listed.get(image.name, ("", ""))[1]) for image in images)
    return {
        image.name: ("wrong_eye", f"the file says {image.header.eye} eye, and the list says {eye} eye")
        for image, eye in pairs
        if eye and image.header.eye and eye != image.header.eye
    }


def read_images(files: Mapping[str, str], loaded: LoadedModel, threads: int) -> ReadImages:
    """Read and decode files, paths by name."""
    variants = sorted(set(loaded.variants))
    read = read_new_images(list(files.items()), variants, loaded.bundle.pixel_limit, threads)
    tags = {image.name: (image.header.patient, image.header.eye) for image in read}
    images = [image for image in read if not image.header.problem]
    problems = {image.name: (image.header.problem, image.header.found) for image in read if image.header.problem}
    gates, first = loaded.gates, loaded.variants[0]
    measured: dict[str, dict[str, float]] = {}
    for image in images if gates or loaded.drift else ():
        features = thumbnail_features([image.pixels[first]])
        distance = gates.distance(features) if gates else None
        if loaded.drift:
            measured[image.name] = image_figures(image.header, features, distance)
        figures = {name: float(getattr(image.header, name)) for name in FIGURES}
        if gates and (refusal := gates.refusal(figures, distance)):
            problems[image.name] = refusal
    if gates:
        images = [image for image in images if image.name not in problems]
    decoded = {variant: np.stack([image.pixels[variant] for image in images]) for variant in variants if images}
    return ReadImages(images, decoded, problems, tags, measured)


def _name_problem(name: str, files: Mapping[str, str]) -> Found | None:
    if not os.path.lexists(files[name]):
        return "no_image", "there is no such file"
    if is_thumbnail(name):
        return OTHER_FILE, other_file(name)
    if not is_image_file(name, files[name]):
        return OTHER_FILE, f"expected a name that ends in {', '.join(IMAGE_EXTENSIONS)}, or a DICOM file"
    return None


def _duplicates(names: Sequence[str], listed: Eyes) -> dict[str, Found]:
    """Files that share their image name, and so their patient and eye, with another file.

    Files of a list with another patient, or with another eye of one patient, are no duplicates.
    """
    same: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    for name in names:
        patient, eye = listed.get(name, ("", ""))
        same[patient, eye if patient else "", image_name(Path(name).name).casefold()].append(name)
    return {
        name: ("duplicate_image", f"the same name as {', '.join(repr(other) for other in shared if other != name)}")
        for shared in same.values()
        if len(shared) > 1
        for name in shared
    }


def answers_of(
    images: Sequence[NewImage], eyes_of: Sequence[tuple[str, str]], computed: Computed, loaded: LoadedModel
) -> list[Answer]:
    """Grade images by the values that the graphs computed.

    Args:
        images: n images.
        eyes_of: Patient and eye of each, empty if unknown.
        computed: Values of the images.
        loaded: The model.

    Returns:
        An answer (``columns``) for each image.
    """
    names = loaded.bundle.grade_names
    patients, eyes = [patient for patient, _ in eyes_of], [eye for _, eye in eyes_of]
    found = eye_answers(computed, patients, eyes, loaded=loaded)
    own, both = found.own, found.both
    return [
        {
            "image": image.name,
            "patient": patients[number],
            "eye": eyes[number],
            "decision": REFER if own.referable[number] else DO_NOT_REFER,
            "referable": int(own.referable[number]),
            "risk": float(own.risk[number]),
            "risk_threshold": float(found.thresholds[number]),
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
                if both and found.paired[number]
                else dict.fromkeys(EYE_AVERAGE_COLUMNS)
            ),
            "answered_by": found.models[number],
            "trained_on": None if loaded.known is None else int(image.header.digest in loaded.known),
        }
        for number, image in enumerate(images)
    ]


def _graded(answers: Answers, number: int, grade_names: Sequence[str], of_grade: str, of_rest: str) -> Answer:
    """Grade and severity of one image; ``of_grade`` and ``of_rest`` are prefixes of the columns."""
    predicted = int(answers.grade[number])
    return {
        f"{of_grade}grade_name": grade_names[predicted],
        f"{of_grade}grade": predicted,
        f"{of_rest}severity": float(answers.severity[number]),
    }


def _cell(value: object) -> object:
    """A value as the table has it."""
    return f"{value:.9g}" if isinstance(value, float) else "" if value is None else value
