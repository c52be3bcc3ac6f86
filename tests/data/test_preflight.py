"""One table, one summary and one error over all data sets."""

from pathlib import Path

import pytest

from examples import Tables, tables
from retinaflow.data.inventory import PROBLEM_COLUMNS
from retinaflow.data.preflight import CURES, preflight
from retinaflow.data.problem_policy import NOTES, ON_PROBLEM
from retinaflow.errors import RetinaflowError
from retinaflow.storage.tables import read_table


def run(folder: Path, datasets: dict[str, Tables], exclude_limit: float = 1.0, **on_problem: str) -> str:
    """The summary."""
    preflight(datasets, on_problem, exclude_limit, folder / "problems.csv", folder / "problems.md")
    return (folder / "problems.md").read_text(encoding="utf-8")


def test_every_kind_has_a_cure() -> None:
    assert CURES.keys() == ON_PROBLEM.keys() | NOTES.keys()


def test_all_problems_of_all_data_sets_are_in_one_table_and_one_summary(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    train = tables(tmp_path, ("truncated", "a b.jpeg"), ("no_image", ""), ("truncated", "two\nlines.jpeg"), good=2)
    test = tables(tmp_path, ("other_file", "|x"), good=1, dataset="test")
    summary = run(tmp_path, {"train": train, "test": test})
    table = read_table(tmp_path / "problems.csv", (*PROBLEM_COLUMNS, "action"))
    assert [(row["data_set"], row["problem"], row["action"]) for row in table] == [
        ("train", "truncated", "excluded"),
        ("train", "no_image", "excluded"),
        ("train", "truncated", "excluded"),
        ("test", "other_file", "ignored"),
    ]
    assert summary == (
        "# Photographs and labels\n\n"
        "| data set | photographs | usable | patients | may be used |\n|---|---|---|---|---|\n"
        "| train | 4 | 2 | 1 | yes |\n"
        "| test | 1 | 1 | 1 | yes |\n\n"
        "## train\n\n"
        "| problem | count | action | what to do |\n|---|---|---|---|\n"
        f"| truncated | 2 | excluded | {CURES['truncated']} |\n"
        f"| no_image | 1 | excluded | {CURES['no_image']} |\n\n"
        "truncated:\n\n- 'a b.jpeg': found 0\n- 'two\\nlines.jpeg': found 2\n\n"
        "no_image:\n\n- 'image1': found 1\n\n"
        "## test\n\n"
        "| problem | count | action | what to do |\n|---|---|---|---|\n"
        f"| other_file | 1 | ignored | {CURES['other_file']} |\n\n"
        "other_file:\n\n- '|x': found 0\n"
    )
    assert summary in caplog.text


def test_one_error_says_everything_about_all_data_sets(tmp_path: Path) -> None:
    train = tables(tmp_path, *(("bad_grade", f"{number}.jpeg") for number in range(7)), ("empty", "e"), good=9)
    test = tables(tmp_path, ("no_label", "t.jpeg"), good=3, dataset="test")
    with pytest.raises(RetinaflowError) as caught:
        run(tmp_path, {"train": train, "test": test}, exclude_limit=0.2)
    assert str(caught.value).splitlines() == [
        "the photographs and labels may not be used as they are",
        "train: 7 problems to be solved first",
        f"  bad_grade: 7 ({CURES['bad_grade']}, or set data.on_problem.bad_grade: exclude)",
        *(f"    '{number}.jpeg': found {number}" for number in range(5)),
        "    and 2 more",
        "test: 1 of 4 photographs are excluded, more than the share of 0.2 that data.exclude_limit allows",
        f"  no_label: 1 ({CURES['no_label']})",
        "    't.jpeg': found 0",
        f"All problems are listed in {tmp_path / 'problems.csv'}, with a summary in {tmp_path / 'problems.md'}.",
    ]
    assert len(read_table(tmp_path / "problems.csv")) == 9
    assert "| train | 17 | 9 | 1 | no: 7 problems to be solved first |" in (tmp_path / "problems.md").read_text()


def test_the_way_out_that_the_error_names_is_one(tmp_path: Path) -> None:
    train = tables(tmp_path, ("bad_grade", "a.jpeg"), good=1)
    assert "| train | 2 | 1 | 1 | yes |" in run(tmp_path, {"train": train}, bad_grade="exclude")


def test_names_that_are_not_utf8_are_shown(tmp_path: Path) -> None:
    assert r"- 'caf\udce9.jpeg': found 0" in run(
        tmp_path, {"train": tables(tmp_path, ("empty", "caf\udce9.jpeg"), good=1)}
    )
