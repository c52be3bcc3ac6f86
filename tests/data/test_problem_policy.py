"""Problem policy: problems that are errors, and limits on excluded images."""

from pathlib import Path

import pytest

from examples import Tables, tables
from retinaflow.data.inventory import INVENTORY_COLUMNS, PROBLEM_COLUMNS, InventoryReport
from retinaflow.data.policies import own_policies
from retinaflow.data.problem_policy import Check, check_data_set, require_usable
from retinaflow.errors import RetinaflowError
from retinaflow.settings.data import DataSettings, ProblemSettings
from retinaflow.storage.tables import write_table

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


def test_ungradable_images_are_listed_and_not_counted(tmp_path: Path) -> None:
    pair = tables(tmp_path, *[("ungradable", f"{number}.jpeg") for number in range(8)], good=2)
    assert reasons(pair, exclude_limit=0.0) == []
    assert set(check(pair).problems["action"]) == {"excluded"}


def joined(folder: Path, **kinds: list[str]) -> Tables:
    """A joined inventory. Each data set has an image of each of its kinds of problems, or a usable one for ``""``."""
    images, listed = [], []
    for name, problems in kinds.items():
        for number, kind in enumerate(problems):
            image, path = f"{name}/{number}", f"{name}/{number}.png"
            images.append({"image": image, "path": path, "problem": kind})
            if kind:
                listed.append({"data_set": f"train-{name}", "image": str(number), "path": path, "problem": kind})
    blank = dict.fromkeys(INVENTORY_COLUMNS, "")
    write_table(folder / "i.csv", INVENTORY_COLUMNS, [blank | row for row in images])
    write_table(folder / "p.csv", PROBLEM_COLUMNS, [dict.fromkeys(PROBLEM_COLUMNS, "") | row for row in listed])
    return folder / "i.csv", folder / "p.csv"


def settings_of(**sets: dict) -> DataSettings:
    place = {"images": "x", "labels": "y"}
    train = {name: {**place, **own} for name, own in sets.items()}
    return DataSettings.model_validate({"train": train, "on_problem": {"truncated": "error"}})


def test_data_set_may_have_a_policy_of_its_own(tmp_path: Path) -> None:
    data = settings_of(a={}, b={"on_problem": {"bad_grade": "exclude"}, "exclude_limit": 0.5}, c={"exclude_limit": 1})
    own = own_policies(data)
    assert list(own) == ["train-b", "train-c"]
    assert own["train-b"].on_problem == ProblemSettings(truncated="error", bad_grade="exclude")
    assert own["train-c"] == (data.on_problem, 1)
    pair = joined(tmp_path, a=[""], b=["", "bad_grade"], c=["blank", "blank"])
    options = {"on_problem": data.on_problem, "exclude_limit": 0.05, "data_set": "train"}
    assert [reason.text for reason in check_data_set(*pair, **options, own=own).reasons] == []
    assert [reason.text for reason in check_data_set(*pair, **options).reasons] == [
        "1 problem to be solved first",
        "2 of 5 images are excluded, more than the share of 0.05 that data.exclude_limit allows",
    ]


def test_limit_of_a_data_set_counts_its_own_images(tmp_path: Path) -> None:
    own = own_policies(settings_of(a={}, b={"exclude_limit": 0.25}))
    pair = joined(tmp_path, a=[""] * 20, b=["", "blank"])
    check = check_data_set(*pair, on_problem=ProblemSettings(), exclude_limit=0.05, data_set="train", own=own)
    assert [reason.text for reason in check.reasons] == [
        "1 of 2 images are excluded, more than the share of 0.25 that data.train.b.exclude_limit allows"
    ]
