"""Problem policy: problems that are errors, and limits on excluded images."""

from pathlib import Path

import pytest

from examples import Tables, tables
from retinaflow.data.inventory import InventoryReport
from retinaflow.data.problem_policy import Check, check_data_set, require_usable
from retinaflow.errors import RetinaflowError
from retinaflow.settings.data import ProblemSettings

# Kinds that could be a wrong label are errors by default.
ERRORS = {"bad_grade", "duplicate_image", "duplicate_label", "identical_conflict", "patient_in_both"}


def check(pair: Tables, exclude_limit: float = 1.0, **on_problem: str) -> Check:
    return check_data_set(*pair, on_problem=ProblemSettings(**on_problem), exclude_limit=exclude_limit)


def reasons(pair: Tables, exclude_limit: float = 1.0, **on_problem: str) -> list[str]:
    return [reason.text for reason in check(pair, exclude_limit, **on_problem).reasons]


def test_data_set_without_problems_may_be_used(tmp_path: Path) -> None:
    checked = check(tables(tmp_path, good=2), exclude_limit=0.0)
    assert checked.report == InventoryReport(2, 2, 1, {})
    assert checked.problems.empty
    assert checked.reasons == []


@pytest.mark.parametrize("kind", ProblemSettings.model_fields)
def test_setting_of_a_kind_decides_about_that_kind_alone(tmp_path: Path, kind: str) -> None:
    pair = tables(tmp_path, (kind, "a.jpeg"), (kind, "b.jpeg"), ("excluded", "c.jpeg"), good=1)
    assert reasons(pair, **{kind: "error"}) == ["2 problems to be solved first"]
    assert reasons(pair, **{kind: "exclude"}) == []
    assert reasons(pair) == (["2 problems to be solved first"] if kind in ERRORS else [])
    assert list(check(pair, **{kind: "error"}).problems["action"]) == ["error", "error", "excluded"]


def test_reason_has_the_rows_that_are_errors(tmp_path: Path) -> None:
    pair = tables(tmp_path, ("truncated", "a.jpeg"), ("bad_grade", "b.jpeg"), ("other_file", "x.txt"), good=1)
    ((reason, rows),) = check(pair).reasons
    assert reason == "1 problem to be solved first"
    assert list(rows["path"]) == ["b.jpeg"]


def test_too_many_excluded_images_are_a_reason(tmp_path: Path) -> None:
    pair = tables(tmp_path, ("truncated", "a.jpeg"), ("no_label", "b.jpeg"), good=38)
    assert reasons(pair, exclude_limit=0.05) == []
    assert reasons(pair, exclude_limit=0.049) == [
        "2 of 40 images are excluded, more than the share of 0.049 that data.exclude_limit allows"
    ]


def test_too_many_labels_without_image_are_a_reason(tmp_path: Path) -> None:
    pair = tables(tmp_path, ("no_image", ""), ("no_image", ""), good=38)
    assert reasons(pair, exclude_limit=0.05) == []
    allowed = "more than the share of 0.049 that data.exclude_limit allows"
    assert reasons(pair, exclude_limit=0.049) == [f"2 labels have no image, {allowed}"]


def test_kinds_that_could_be_a_wrong_label_are_errors() -> None:
    assert {kind for kind, policy in ProblemSettings() if policy == "error"} == ERRORS


@pytest.mark.parametrize("problem", [("excluded", "a.jpeg"), ("repeated_label", ""), ("other_file", "x")])
def test_named_images_and_other_files_do_not_count(tmp_path: Path, problem: tuple[str, str]) -> None:
    assert reasons(tables(tmp_path, problem, good=1), exclude_limit=0.0) == []


def test_no_usable_image_is_a_reason(tmp_path: Path) -> None:
    assert reasons(tables(tmp_path, ("excluded", "a.jpeg"))) == ["none of the 1 images is usable"]


def test_unusable_data_set_is_an_error_with_all_reasons(tmp_path: Path) -> None:
    inventory, problems = tables(tmp_path, ("bad_grade", "a.jpeg"), good=1)
    policy = ProblemSettings(bad_grade="exclude")
    require_usable("test", inventory, problems=problems, on_problem=policy, exclude_limit=1.0)
    inventory, problems = tables(tmp_path, ("bad_grade", "a"), ("empty", "b"), ("empty", "c"), good=1)
    message = r"^test: 1 problem to be solved first; 2 of 4 images .* allows\. `snakemake preflight` lists them"
    with pytest.raises(RetinaflowError, match=message):
        require_usable("test", inventory, problems=problems, on_problem=ProblemSettings(), exclude_limit=0.4)
