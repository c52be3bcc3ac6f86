"""Which problems are errors, how many left-out photographs are too many, and who is told."""

from pathlib import Path

import pytest

from examples import Tables, tables
from retinaflow.data.inventory import InventoryReport
from retinaflow.data.problem_policy import ON_PROBLEM, require_fit, verdict
from retinaflow.errors import RetinaflowError
from retinaflow.settings.data import ProblemSettings


def reasons(pair: Tables, exclude_limit: float = 1.0, **on_problem: str) -> list[str]:
    return [reason for reason, _ in verdict(*pair, on_problem, exclude_limit).reasons]


def test_a_data_set_without_problems_may_be_used(tmp_path: Path) -> None:
    judged = verdict(*tables(tmp_path, good=2), {}, 0.0)
    assert judged == (InventoryReport(2, 2, 1, {}), [], [])


@pytest.mark.parametrize("kind", ON_PROBLEM)
def test_what_is_said_of_a_kind_counts_and_nothing_else(tmp_path: Path, kind: str) -> None:
    pair = tables(tmp_path, (kind, "a.jpeg"), (kind, "b.jpeg"), ("excluded", "c.jpeg"), good=1)
    assert reasons(pair, **{kind: "error"}) == ["2 problems to be solved first"]
    assert reasons(pair, **{kind: "exclude"}) == []
    assert reasons(pair) == (["2 problems to be solved first"] if ON_PROBLEM[kind] == "error" else [])
    actions = [row["action"] for row in verdict(*pair, {kind: "error"}, 1.0).problems]
    assert actions == ["error", "error", "excluded"]


def test_an_error_is_about_the_rows_that_are_errors(tmp_path: Path) -> None:
    pair = tables(tmp_path, ("truncated", "a.jpeg"), ("bad_grade", "b.jpeg"), ("other_file", "x.txt"), good=1)
    ((reason, rows),) = verdict(*pair, {}, 1.0).reasons
    assert reason == "1 problem to be solved first"
    assert [row["path"] for row in rows] == ["b.jpeg"]


def test_more_left_out_than_allowed_is_a_reason(tmp_path: Path) -> None:
    pair = tables(tmp_path, ("truncated", "a.jpeg"), ("no_label", "b.jpeg"), good=38)
    assert reasons(pair, exclude_limit=0.05) == []
    assert reasons(pair, exclude_limit=0.049) == [
        "2 of 40 photographs are excluded, more than the share of 0.049 that data.exclude_limit allows"
    ]


def test_more_labels_without_a_photograph_than_allowed_are_a_reason(tmp_path: Path) -> None:
    pair = tables(tmp_path, ("no_image", ""), ("no_image", ""), good=38)
    assert reasons(pair, exclude_limit=0.05) == []
    allowed = "more than the share of 0.049 that data.exclude_limit allows"
    assert reasons(pair, exclude_limit=0.049) == [f"2 labels have no photograph, {allowed}"]


def test_the_default_policies_are_those_of_the_configuration() -> None:
    assert ProblemSettings().model_dump() == ON_PROBLEM


@pytest.mark.parametrize("problem", [("excluded", "a.jpeg"), ("repeated_label", ""), ("other_file", "x")])
def test_what_is_no_photograph_or_left_out_on_purpose_does_not_count(tmp_path: Path, problem: tuple[str, str]) -> None:
    assert reasons(tables(tmp_path, problem, good=1), exclude_limit=0.0) == []


def test_none_usable_is_a_reason(tmp_path: Path) -> None:
    assert reasons(tables(tmp_path, ("excluded", "a.jpeg"))) == ["none of the 1 photographs is usable"]


def test_whoever_needs_the_data_set_is_told_in_a_line(tmp_path: Path) -> None:
    require_fit("test", *tables(tmp_path, ("bad_grade", "a.jpeg"), good=1), {"bad_grade": "exclude"}, 1.0)
    pair = tables(tmp_path, ("bad_grade", "a"), ("empty", "b"), ("empty", "c"), good=1)
    message = r"^test: 1 problem to be solved first; 2 of 4 photographs .* allows\. `snakemake preflight` lists them"
    with pytest.raises(RetinaflowError, match=message):
        require_fit("test", *pair, {}, 0.4)
