"""One table, one summary and one error over all data sets."""

from pathlib import Path

import pytest

from examples import Tables, tables
from retinaflow.data.inventory import INVENTORY_COLUMNS, PROBLEM_COLUMNS
from retinaflow.data.preflight import SOLUTIONS, EarlierModels, GradesNeeded, patient_notices, preflight
from retinaflow.data.problem_policy import NOTES
from retinaflow.data.trained_on import write_trained_on
from retinaflow.errors import RetinaflowError
from retinaflow.settings.data import ProblemSettings
from retinaflow.storage.tables import read_table, write_table


def run(folder: Path, data_sets: dict[str, Tables], exclude_limit: float = 1.0, **on_problem: str) -> str:
    """Run the preflight and return its summary."""
    table, summary = folder / "problems.csv", folder / "problems.md"
    policy = ProblemSettings(**on_problem)
    preflight(data_sets, policy, exclude_limit=exclude_limit, table=table, summary=summary)
    return summary.read_text(encoding="utf-8")


def test_every_kind_has_a_solution() -> None:
    assert SOLUTIONS.keys() == ProblemSettings.model_fields.keys() | NOTES.keys()


def test_table_and_summary_have_the_problems_of_all_data_sets(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    train = tables(tmp_path, ("truncated", "a b.jpeg"), ("no_image", ""), ("truncated", "two\nlines.jpeg"), good=2)
    test = tables(tmp_path, ("other_file", "|x"), good=1, data_set="test")
    summary = run(tmp_path, {"train": train, "test": test})
    table = read_table(tmp_path / "problems.csv", (*PROBLEM_COLUMNS, "action"))
    assert [(row["data_set"], row["problem"], row["action"]) for row in table] == [
        ("train", "truncated", "excluded"),
        ("train", "no_image", "excluded"),
        ("train", "truncated", "excluded"),
        ("test", "other_file", "ignored"),
    ]
    assert summary == (
        "# Images and labels\n\n"
        "| data set | images | usable | patients | may be used |\n|---|---|---|---|---|\n"
        "| train | 4 | 2 | 1 | yes |\n"
        "| test | 1 | 1 | 1 | yes |\n\n"
        "## train\n\n"
        "| problem | count | action | solution |\n|---|---|---|---|\n"
        f"| truncated | 2 | excluded | {SOLUTIONS['truncated']} |\n"
        f"| no_image | 1 | excluded | {SOLUTIONS['no_image']} |\n\n"
        "truncated:\n\n- 'a b.jpeg': found 0\n- 'two\\nlines.jpeg': found 2\n\n"
        "no_image:\n\n- 'image1': found 1\n\n"
        "## test\n\n"
        "| problem | count | action | solution |\n|---|---|---|---|\n"
        f"| other_file | 1 | ignored | {SOLUTIONS['other_file']} |\n\n"
        "other_file:\n\n- '|x': found 0\n"
    )
    assert summary in caplog.text


def test_one_error_lists_the_reasons_of_all_data_sets(tmp_path: Path) -> None:
    train = tables(tmp_path, *(("bad_grade", f"{number}.jpeg") for number in range(7)), ("empty", "e"), good=9)
    test = tables(tmp_path, ("no_label", "t.jpeg"), good=3, data_set="test")
    with pytest.raises(RetinaflowError) as caught:
        run(tmp_path, {"train": train, "test": test}, exclude_limit=0.2)
    assert str(caught.value).splitlines() == [
        "the images and labels cannot be used as they are",
        "train: 7 problems to be solved first",
        f"  bad_grade: 7 ({SOLUTIONS['bad_grade']}, or set data.on_problem.bad_grade: exclude)",
        *(f"    '{number}.jpeg': found {number}" for number in range(5)),
        "    and 2 more",
        "test: 1 of 4 images are excluded, more than the share of 0.2 that data.exclude_limit allows",
        f"  no_label: 1 ({SOLUTIONS['no_label']})",
        "    't.jpeg': found 0",
        f"All problems are listed in {tmp_path / 'problems.csv'}, with a summary in {tmp_path / 'problems.md'}.",
    ]
    assert len(read_table(tmp_path / "problems.csv")) == 9
    assert "| train | 17 | 9 | 1 | no: 7 problems to be solved first |" in (tmp_path / "problems.md").read_text()


def test_suggested_setting_resolves_the_error(tmp_path: Path) -> None:
    train = tables(tmp_path, ("bad_grade", "a.jpeg"), good=1)
    assert "| train | 2 | 1 | 1 | yes |" in run(tmp_path, {"train": train}, bad_grade="exclude")


def test_names_that_are_not_utf8_are_shown(tmp_path: Path) -> None:
    assert r"- 'caf\udce9.jpeg': found 0" in run(
        tmp_path, {"train": tables(tmp_path, ("empty", "caf\udce9.jpeg"), good=1)}
    )


def images(folder: Path, data_set: str, *rows: tuple[str, str]) -> Tables:
    """Inventory of images that are given as (image, patient)."""
    found = tables(folder, data_set=data_set)
    filled = [{**dict.fromkeys(INVENTORY_COLUMNS, ""), "image": image, "patient": patient} for image, patient in rows]
    write_table(found[0], INVENTORY_COLUMNS, filled)
    return found


DEFAULT = "(?P<patient>.+)_(?P<eye>left|right)"


@pytest.mark.parametrize(
    ("rows", "pattern", "noticed"),
    [
        ([("img1", "img1"), ("img2", "img2")], DEFAULT, True),
        ([("img1", "img1"), ("2_left", "2")], DEFAULT, False),
        ([("img1", "img1")], "(?P<patient>.+)", False),
        ([("img1", "7"), ("img2", "7")], DEFAULT, False),
        ([], DEFAULT, False),
    ],
)
def test_pattern_that_matches_no_name_is_noticed(
    tmp_path: Path, rows: list[tuple[str, str]], pattern: str, noticed: bool
) -> None:
    notices = patient_notices("test", images(tmp_path, "test", *rows)[0], {"test": pattern, "train": DEFAULT})
    assert len(notices) == noticed
    if noticed:
        assert "test: NO PATIENTS. The pattern" in notices[0]
        assert "matches none of the 2 image names, such as 'img1'" in notices[0]


def test_notice_names_the_data_set_of_a_joined_one(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    found = images(tmp_path, "train", ("a/1_left", "a/1"), ("b/img1", "b/img1"))
    run_options = {"patient_patterns": {"train-a": DEFAULT, "train-b": DEFAULT}, "exclude_limit": 1.0}
    table, summary = tmp_path / "problems.csv", tmp_path / "problems.md"
    preflight({"train": found}, ProblemSettings(), table=table, summary=summary, **run_options)
    assert "**train-b: NO PATIENTS." in summary.read_text()
    assert "train-a" not in summary.read_text()
    assert [record.getMessage()[:7] for record in caplog.records if record.levelname == "WARNING"] == ["train-b"]


@pytest.mark.parametrize(
    ("grades", "sides", "expected"),
    [
        ("000111", 2, []),
        ("000000", 2, ["no usable image has the grade 'b', expected some of each grade"]),
        ("111111", 2, ["no usable image has the grade 'a', expected some of each grade"]),
        ("000001", 2, ["1 patient has usable images of grade 'b', expected at least 2"]),
        ("000011", 3, ["2 patients have usable images of grade 'b', expected at least 3"]),
        ("000111", 3, []),
    ],
)
def test_grade_that_no_split_can_have_is_a_reason(tmp_path: Path, grades: str, sides: int, expected: list[str]) -> None:
    found = {}
    for name in ("train", "test"):
        found[name] = tables(tmp_path, data_set=name)
        rows = [
            {**dict.fromkeys(INVENTORY_COLUMNS, ""), "image": str(n), "patient": f"p{n}", "grade": grade}
            for n, grade in enumerate(grades)
        ]
        write_table(found[name][0], INVENTORY_COLUMNS, rows)
    options = {
        "exclude_limit": 1.0,
        "table": tmp_path / "problems.csv",
        "summary": tmp_path / "problems.md",
        "needed": GradesNeeded(["a", "b"], "patient", sides),
    }
    if not expected:
        preflight(found, ProblemSettings(), **options)
        return
    with pytest.raises(RetinaflowError) as caught:
        preflight(found, ProblemSettings(), **options)
    lines = [line for line in str(caught.value).splitlines() if line.startswith(("train", "test"))]
    assert [line.split(":")[0] for line in lines] == ["train"] * len(expected)
    for line, text in zip(lines, expected, strict=True):
        assert text in line
        assert text in (tmp_path / "problems.md").read_text()


def test_two_images_of_one_patient_are_one_unit(tmp_path: Path) -> None:
    found = tables(tmp_path)
    rows = [
        {**dict.fromkeys(INVENTORY_COLUMNS, ""), "image": str(n), "patient": "p", "grade": str(n % 2)} for n in range(4)
    ]
    write_table(found[0], INVENTORY_COLUMNS, rows)
    options = {"exclude_limit": 1.0, "table": tmp_path / "problems.csv", "summary": tmp_path / "problems.md"}
    preflight({"train": found}, ProblemSettings(), **options, needed=GradesNeeded(["a", "b"], "image", 2))
    with pytest.raises(RetinaflowError, match="1 patient has usable images of grade 'a'"):
        preflight({"train": found}, ProblemSettings(), **options, needed=GradesNeeded(["a", "b"], "patient", 2))


def test_test_set_with_too_few_patients_to_refit_is_named(tmp_path: Path) -> None:
    found = {"train": tables(tmp_path, good=2), "test-b": tables(tmp_path, good=3, data_set="test-b")}
    rows = [
        {**dict.fromkeys(INVENTORY_COLUMNS, ""), "image": str(n), "patient": str(n), "grade": "0"} for n in range(5)
    ]
    write_table(found["test-b"][0], INVENTORY_COLUMNS, [*rows, {**rows[0], "patient": "5", "problem": "blank"}])
    options = {"exclude_limit": 1.0, "table": tmp_path / "problems.csv", "summary": tmp_path / "problems.md"}
    preflight(found, ProblemSettings(), **options, recalibration={"test-b": 2})
    with pytest.raises(
        RetinaflowError, match=r"test-b: among usable images, it has 5 patients; expected at least 6, t"
    ):
        preflight(found, ProblemSettings(), **options, recalibration={"test-b": 3})


def test_images_that_an_earlier_model_was_trained_on_are_an_error(tmp_path: Path) -> None:
    train, test = tables(tmp_path, good=2), tables(tmp_path, good=1, data_set="test")
    write_trained_on(tmp_path / "trained_on.json", [test[0]], seed=1)
    records = {"VGG16": tmp_path / "trained_on.json", "swept": tmp_path / "trained_on.json"}
    table, summary = tmp_path / "problems.csv", tmp_path / "problems.md"
    with pytest.raises(RetinaflowError) as caught:
        preflight(
            {"train": train, "test": test},
            ProblemSettings(),
            exclude_limit=1.0,
            table=table,
            summary=summary,
            earlier=EarlierModels(records, ["test"]),
        )
    (line,) = [line for line in str(caught.value).splitlines() if "starts from" in line]
    assert line.startswith("test: VGG16 starts from a model that was trained on 1 image (")
    assert "VGG16 starts from a model" in summary.read_text(encoding="utf-8")
