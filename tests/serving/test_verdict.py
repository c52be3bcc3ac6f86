"""One verdict a patient: all combinations of eyes, decisions and missing images."""

import itertools

import pytest

from retinaflow.serving.verdict import (
    DO_NOT_REFER,
    EYE_ORDER,
    REFER,
    UNGRADABLE,
    UNGRADABLE_REFER,
    VERDICT_COLUMNS,
    ImageResult,
    image_result,
    problem_result,
    verdict_lines,
    verdict_object,
    verdict_of,
    verdict_row,
    verdicts,
)

THRESHOLD = 0.3
GRADE_NAMES = ["no", "mild", "severe"]
RISKS = {REFER: 0.4, DO_NOT_REFER: 0.1, UNGRADABLE: 0.0}


def result(decision: str, eye: str, number: int = 0, patient: str = "7") -> ImageResult:
    grade = {REFER: 2, DO_NOT_REFER: 0, UNGRADABLE: -1}[decision]
    reason = "poor" if decision == UNGRADABLE else ""
    return ImageResult(
        f"{number}{eye}", patient, eye, decision, RISKS[decision] + number / 100, THRESHOLD, grade, reason=reason
    )


STATES = [(decision, eye) for decision in RISKS for eye in (*EYE_ORDER, "")]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_verdict_of_every_combination_of_images(count):
    for states in itertools.product(STATES, repeat=count):
        results = [result(decision, eye, number) for number, (decision, eye) in enumerate(states)]
        found = verdict_of(results)
        graded = [one for one in results if one.decision != UNGRADABLE]
        if not graded:
            assert found.verdict == UNGRADABLE_REFER
            assert (found.eyes_graded, found.risk, found.grade) == (0, None, None)
        else:
            assert found.verdict == (REFER if any(one.decision == REFER for one in graded) else DO_NOT_REFER)
            assert found.risk == max(one.risk for one in graded)
            assert found.grade == max(one.grade for one in graded)
            assert found.worse_eye == max(graded, key=lambda one: one.risk).eye
            # The decision and the numbers beside it never contradict each other.
            assert (found.risk >= found.risk_threshold) == (found.verdict == REFER)
        assert found.complete == ({one.eye for one in graded} >= set(EYE_ORDER))
        assert found.images == [one.image for one in results]
        assert [image for image, _ in found.ungradable] == [one.image for one in results if one not in graded]
        there = {one.eye for one in results}
        assert found.missing_eyes == ([] if "" in there else [eye for eye in EYE_ORDER if eye not in there])
        lines = verdict_lines(found, GRADE_NAMES)
        assert ("incomplete" in lines[0]) == (found.eyes_graded == 1)
        assert all(any(image in line for line in lines) for image, _ in found.ungradable)
        assert set(verdict_row(found, GRADE_NAMES)) == set(VERDICT_COLUMNS)


def test_patients_stay_apart_and_images_without_patient_are_alone():
    images = [
        result(DO_NOT_REFER, "right"),
        result(REFER, "left", 1, patient="8"),
        result(DO_NOT_REFER, "left", 2),
        result(REFER, "", 3, patient=""),
        result(DO_NOT_REFER, "", 4, patient=""),
    ]
    found = [(one.patient, one.verdict, one.images) for one in verdicts(images)]
    assert found == [
        ("7", DO_NOT_REFER, ["0right", "2left"]),
        ("8", REFER, ["1left"]),
        ("", REFER, ["3"]),
        ("", DO_NOT_REFER, ["4"]),
    ]


def test_verdict_says_what_is_missing_and_what_to_do():
    lines = verdict_lines(verdict_of([result(DO_NOT_REFER, "right")._replace(low_quality=True)]), GRADE_NAMES)
    assert lines == [
        "Do not refer (incomplete: one eye graded).",
        "Risk 0.100 in the right eye; referred from 0.300. Predicted grade: no.",
        "The left eye has no image.",
        "0right is of low quality.",
        "Take another image of the eye that was not graded. If that is not possible, refer.",
    ]
    none = verdict_of([problem_result({"image": "a.png", "problem": "truncated", "found": "half"}, "7", "left")])
    assert verdict_lines(none, GRADE_NAMES) == [
        "Ungradable: refer.",
        "The right eye has no image.",
        "a.png cannot be graded: truncated, half.",
    ]


def test_answers_and_problems_become_results():
    answer = {
        **{"image": "a", "patient": "7", "eye": "left", "decision": REFER, "risk": 0.5, "risk_threshold": 0.3},
        **{"predicted_grade": 1, "low_quality": 1},
    }
    assert image_result(answer) == ImageResult("a", "7", "left", REFER, 0.5, 0.3, 1, low_quality=True)
    refused = problem_result({"image": "b", "problem": "poor_quality", "found": "blurred"}, "7", "left")
    assert verdict_of([refused]).verdict == UNGRADABLE_REFER
    content = verdict_object(verdict_of([image_result(answer), refused]), GRADE_NAMES)
    assert content["ungradable_images"] == [{"image": "b", "reason": "poor_quality, blurred"}]
    assert (content["complete"], content["images"], content["missing_eyes"]) == (False, ["a", "b"], ["right"])
