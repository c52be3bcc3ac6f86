"""One verdict a patient, from the answers for the images. Pure functions that import nothing heavy.

- A patient is referred if at least one image is.
- Without an image that can be graded, the verdict is ``ungradable_refer``.
- A verdict is complete if at least one image of each eye was graded. An incomplete verdict names the eye.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

EYE_ORDER = ("right", "left")
REFER, DO_NOT_REFER, UNGRADABLE = "refer", "do_not_refer", "ungradable"
UNGRADABLE_REFER = "ungradable_refer"
SENTENCES = {
    REFER: "Refer",
    DO_NOT_REFER: "Do not refer",
    UNGRADABLE: "Ungradable",
    UNGRADABLE_REFER: "Ungradable: refer",
}

VERDICT_COLUMNS = (
    *("patient", "verdict", "complete", "eyes_graded", "worse_eye", "risk", "risk_threshold"),
    *("predicted_grade_name", "predicted_grade", "images", "missing_eyes", "ungradable_images", "low_quality_images"),
)


class ImageResult(NamedTuple):
    """The part of an answer that the verdict depends on.

    Attributes:
        image: Name of the image.
        patient: Name of the patient; empty if unknown. Such an image is a patient of its own.
        eye: ``right``, ``left``, or empty if unknown.
        decision: ``refer``, ``do_not_refer`` or ``ungradable``.
        risk: Probability of the endpoint that is screened for; 0 if ungradable.
        risk_threshold: The image is referred if its risk is at least this.
        grade: Predicted grade; -1 if ungradable.
        low_quality: Whether the quality is low, although the image was graded.
        reason: Reason why an image is ungradable; else empty.
    """

    image: str
    patient: str
    eye: str
    decision: str
    risk: float = 0.0
    risk_threshold: float = 0.0
    grade: int = -1
    low_quality: bool = False
    reason: str = ""


class Verdict(NamedTuple):
    """The verdict of a patient.

    Attributes:
        patient: Name of the patient; empty if unknown.
        verdict: ``refer``, ``do_not_refer`` or ``ungradable_refer``.
        complete: Whether at least one image of each eye was graded.
        eyes_graded: Number of graded eyes. Images of an unknown eye count as one eye.
        worse_eye: Eye of the image with the highest risk; empty if unknown or none was graded.
        risk: Risk of that image; None if none was graded.
        risk_threshold: Threshold of that image; None if none was graded.
        grade: Highest predicted grade of all images; None if none was graded.
        images: Names of all images.
        missing_eyes: Eyes without an image.
        ungradable: Name and reason of each ungradable image.
        low_quality: Names of graded images of low quality.
    """

    patient: str
    verdict: str
    complete: bool
    eyes_graded: int
    worse_eye: str
    risk: float | None
    risk_threshold: float | None
    grade: int | None
    images: list[str]
    missing_eyes: list[str]
    ungradable: list[tuple[str, str]]
    low_quality: list[str]


def verdict_of(results: Sequence[ImageResult]) -> Verdict:
    """Return the verdict of one patient with at least one image."""
    graded = [result for result in results if result.decision != UNGRADABLE]
    refer = any(result.decision == REFER for result in graded)
    eyes = {result.eye for result in graded}
    worst = max(graded, key=_order) if graded else None
    return Verdict(
        patient=results[0].patient,
        verdict=(REFER if refer else DO_NOT_REFER) if graded else UNGRADABLE_REFER,
        complete=eyes >= set(EYE_ORDER),
        eyes_graded=min(2, len(eyes)),
        worse_eye=worst.eye if worst else "",
        risk=worst.risk if worst else None,
        risk_threshold=worst.risk_threshold if worst else None,
        grade=max(result.grade for result in graded) if graded else None,
        images=[result.image for result in results],
        missing_eyes=[] if any(not result.eye for result in results) else _missing(results),
        ungradable=[(result.image, result.reason) for result in results if result.decision == UNGRADABLE],
        low_quality=[result.image for result in graded if result.low_quality],
    )


def _order(result: ImageResult) -> tuple[bool, float, int]:
    """Order of images from the best to the worst."""
    return result.decision == REFER, result.risk - result.risk_threshold, result.grade


def _missing(results: Iterable[ImageResult]) -> list[str]:
    there = {result.eye for result in results}
    return [eye for eye in EYE_ORDER if eye not in there]


def verdicts(results: Iterable[ImageResult]) -> list[Verdict]:
    """Return the verdict of each patient, in the order of their first images."""
    patients: dict[tuple[str, str], list[ImageResult]] = defaultdict(list)
    for result in results:
        patients[result.patient, "" if result.patient else result.image].append(result)
    return [verdict_of(images) for images in patients.values()]


def verdict_row(verdict: Verdict, grade_names: Sequence[str]) -> dict[str, Any]:
    """Return a row of ``patients.csv``: a value for each of ``VERDICT_COLUMNS``. Lists are joined by `` | ``."""
    return {
        "patient": verdict.patient,
        "verdict": verdict.verdict,
        "complete": int(verdict.complete),
        "eyes_graded": verdict.eyes_graded,
        "worse_eye": verdict.worse_eye,
        "risk": verdict.risk,
        "risk_threshold": verdict.risk_threshold,
        "predicted_grade_name": None if verdict.grade is None else grade_names[verdict.grade],
        "predicted_grade": verdict.grade,
        "images": len(verdict.images),
        "missing_eyes": " | ".join(verdict.missing_eyes),
        "ungradable_images": " | ".join(f"{image}: {reason}" for image, reason in verdict.ungradable),
        "low_quality_images": " | ".join(verdict.low_quality),
    }


def verdict_object(verdict: Verdict, grade_names: Sequence[str]) -> dict[str, Any]:
    """Return the verdict as JSON, with lists of names and the sentences of ``verdict_lines``."""
    return {
        **verdict_row(verdict, grade_names),
        "complete": verdict.complete,
        "images": verdict.images,
        "missing_eyes": verdict.missing_eyes,
        "ungradable_images": [{"image": image, "reason": reason} for image, reason in verdict.ungradable],
        "low_quality_images": verdict.low_quality,
        "lines": verdict_lines(verdict, grade_names),
    }


def verdict_lines(verdict: Verdict, grade_names: Sequence[str]) -> list[str]:
    """Return the verdict as sentences: the decision first, then all that is missing or poor."""
    lines = [SENTENCES[verdict.verdict] + ("" if verdict.complete else _incomplete(verdict)) + "."]
    if verdict.grade is not None:
        lines.append(
            f"Risk {verdict.risk:.3f} {'in the ' + verdict.worse_eye + ' eye' if verdict.worse_eye else ''}".rstrip()
            + f"; referred from {verdict.risk_threshold:.3f}. Predicted grade: {grade_names[verdict.grade]}."
        )
    lines += [f"The {eye} eye has no image." for eye in verdict.missing_eyes]
    lines += [f"{image} cannot be graded: {_readable(reason)}." for image, reason in verdict.ungradable]
    lines += [f"{image} is of low quality." for image in verdict.low_quality]
    if not verdict.complete and verdict.verdict == DO_NOT_REFER:
        lines.append("Take another image of the eye that was not graded. If that is not possible, refer.")
    return lines


def _readable(reason: str) -> str:
    """The reason with the kind of problem in words, such as ``poor quality``."""
    kind, comma, found = reason.partition(",")
    return kind.replace("_", " ") + comma + found


def _incomplete(verdict: Verdict) -> str:
    """The part of the first sentence that says how many eyes were graded."""
    return " (incomplete: one eye graded)" if verdict.eyes_graded == 1 else ""


def image_result(answer: Mapping[str, Any]) -> ImageResult:
    """Return the part of an answer of ``predict`` that the verdict depends on."""
    return ImageResult(
        image=answer["image"],
        patient=answer["patient"],
        eye=answer["eye"],
        decision=answer["decision"],
        risk=answer["risk"],
        risk_threshold=answer["risk_threshold"],
        grade=answer["predicted_grade"],
        low_quality=bool(answer["low_quality"]),
    )


def problem_result(problem: Mapping[str, Any], patient: str, eye: str) -> ImageResult:
    """Return the result of an image file with a problem, as ``predict`` lists it."""
    reason = f"{problem['problem']}, {problem['found']}" if problem["found"] else str(problem["problem"])
    return ImageResult(problem["image"], patient, eye, UNGRADABLE, reason=reason)
