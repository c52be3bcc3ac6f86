"""Examination of images for the service: answers, heat maps and one verdict a patient. Runs in a worker process."""

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np

from retinaflow.serving.computed import compute
from retinaflow.serving.heat_maps import overlay
from retinaflow.serving.predict import Answer, answers_of, grade_files, patient_verdicts, read_images
from retinaflow.serving.reading import NewImage
from retinaflow.serving.runtime import LoadedModel, heat_maps
from retinaflow.serving.verdict import EYE_ORDER, image_result, problem_result, verdict_object, verdict_of


def examine_patient(files: Mapping[str, str], loaded: LoadedModel, threads: int) -> dict[str, Any]:
    """Grade the images of one patient and explain the grades.

    Args:
        files: Path by eye.
        loaded: The model that grades.
        threads: Threads that read and decode.

    Returns:
        ``patient``: the verdict. ``images``: for each graded image the ``predict.columns`` and, as PNG in `data:`
        addresses, the ``input`` of the network and the ``heat_map`` over it (None for linear models). ``problems``:
        the reason for each other image.
    """
    read = read_images(files, loaded, threads)
    wrong = {
        image.name: ("wrong_eye", f"the file says {image.header.eye} eye, and it was sent as the {image.name} eye")
        for image in read.images
        if image.header.eye and image.header.eye != image.name
    }
    if len({patient for patient, _ in read.tags.values() if patient}) > 1:
        wrong = dict.fromkeys(read.tags, ("other_patient", "the two files say different patients"))
    read = read.without(wrong)
    answers = _explained(read.images, read.decoded, loaded) if read.images else []
    problems = [{"eye": eye, "problem": kind, "found": text} for eye, (kind, text) in sorted(read.problems.items())]
    results = [image_result(answer) for answer in answers]
    results += [problem_result({**problem, "image": problem["eye"]}, "", problem["eye"]) for problem in problems]
    results.sort(key=lambda result: EYE_ORDER.index(result.eye))
    found = verdict_of([result._replace(image=f"{result.eye} eye") for result in results])
    patient = verdict_object(found, loaded.bundle.grade_names)
    return {"patient": patient, "images": answers, "problems": problems}


def _explained(images: Sequence[NewImage], decoded: Mapping[str, np.ndarray], loaded: LoadedModel) -> list[Answer]:
    computed = compute(loaded, decoded)
    answers = answers_of(images, [("patient", image.name) for image in images], computed, loaded)
    grades = np.array([answer["predicted_grade"] for answer in answers])
    # The weights of a linear model belong to means over the image, also of the fellow eye.
    maps = [None] * len(answers) if loaded.linear else heat_maps(loaded, decoded, grades)
    shown = decoded[loaded.variants[0]]
    return [
        {
            **answer,
            "patient": "",
            "input": _png(pixels),
            "heat_map": None if heat_map is None else _png(overlay(pixels, heat_map)),
        }
        for answer, pixels, heat_map in zip(answers, shown, maps, strict=True)
    ]


def examine_batch(files: Mapping[str, str], loaded: LoadedModel, threads: int) -> dict[str, Any]:
    """Grade many images. Patients have numbers instead of names, which DICOM files could carry.

    Args:
        files: Path by name.
        loaded: The model that grades.
        threads: Threads that read and decode.

    Returns:
        ``patients``: the verdict of each. ``images``: the ``predict.columns`` of each graded image. ``problems``: the
        reason for each other image.
    """
    graded = grade_files(files, loaded, threads)
    found = patient_verdicts(graded)
    number_of = {image: str(number) for number, verdict in enumerate(found, 1) for image in verdict.images}
    patients = [
        {**verdict_object(verdict, loaded.bundle.grade_names), "patient": str(number)}
        for number, verdict in enumerate(found, 1)
    ]
    images = [{**answer, "patient": number_of[answer["image"]]} for answer in graded.answers]
    return {"patients": patients, "images": images, "problems": graded.problems}


def _png(pixels: np.ndarray) -> str:
    _, encoded = cv2.imencode(".png", pixels[..., ::-1])
    return f"data:image/png;base64,{base64.b64encode(encoded.tobytes()).decode()}"
