"""Joined training sets: names, patients, and images that two data sets share."""

import pytest

from retinaflow.data.inventory import INVENTORY_COLUMNS, PROBLEM_COLUMNS, read_usable
from retinaflow.data.joining import JoinJob, join_inventories
from retinaflow.storage.tables import read_table, write_table


@pytest.fixture
def join(tmp_path):
    """Join data sets that are given as rows of (image, grade, digest, problem)."""

    def joined(**data_sets):
        tables = {}
        for name, images in data_sets.items():
            rows = [
                {
                    **dict.fromkeys(INVENTORY_COLUMNS, ""),
                    **{"image": image, "path": f"{name}/{image}.png", "grade": grade, "digest": digest},
                    **{"patient": f"{name}/{image}", "problem": problem},
                }
                for image, grade, digest, problem in images
            ]
            listed = [
                {"data_set": f"train-{name}", "image": row["image"], "path": row["path"], "problem": row["problem"]}
                for row in rows
                if row["problem"]
            ]
            tables[name] = (tmp_path / f"{name}.csv", tmp_path / f"{name}-problems.csv")
            write_table(tables[name][0], INVENTORY_COLUMNS, rows)
            write_table(tables[name][1], PROBLEM_COLUMNS, listed)
        join_inventories(JoinJob(tables, tmp_path / "train.csv", tmp_path / "problems.csv"))
        return read_table(tmp_path / "train.csv"), read_table(tmp_path / "problems.csv")

    return joined


def test_images_of_one_name_stay_apart(join, tmp_path):
    images, problems = join(a=[("1_left", "0", "x", "")], b=[("1_left", "2", "y", "")])
    assert [row["image"] for row in images] == ["a/1_left", "b/1_left"]
    assert [row["patient"] for row in images] == ["a/1_left", "b/1_left"]
    assert not problems
    assert read_usable(tmp_path / "train.csv")["grade"].tolist() == [0, 2]


def test_same_bytes_in_two_sets_are_a_problem(join):
    images, problems = join(a=[("1", "0", "x", ""), ("2", "1", "y", "")], b=[("3", "0", "x", ""), ("4", "2", "y", "")])
    assert [row["problem"] for row in images] == ["", "identical_conflict", "identical", "identical_conflict"]
    assert [(row["data_set"], row["image"], row["problem"]) for row in problems] == [
        ("train-a", "2", "identical_conflict"),
        ("train-b", "3", "identical"),
        ("train-b", "4", "identical_conflict"),
    ]
    assert "'a/1.png'" in problems[1]["found"]


def test_problems_of_each_set_stay(join):
    images, problems = join(a=[("1", "0", "x", "truncated")], b=[("2", "0", "x", "")])
    assert [row["problem"] for row in images] == ["truncated", ""]
    assert [(row["data_set"], row["image"], row["problem"]) for row in problems] == [("train-a", "1", "truncated")]


def test_names_that_are_not_utf8_pass(join):
    name = b"ret\xedna".decode("utf-8", "surrogateescape")
    images, _ = join(a=[(name, "0", "x", "")], b=[("2", "0", "y", "")])
    assert images[0]["image"] == f"a/{name}"


def test_subgroups_of_one_set_are_empty_in_the_others(tmp_path):
    tables = {}
    for name, columns in (("a", ["subgroup_camera"]), ("b", [])):
        tables[name] = (tmp_path / f"{name}.csv", tmp_path / f"{name}-problems.csv")
        row = {**dict.fromkeys([*INVENTORY_COLUMNS, *columns], ""), "image": "1", "path": name, "digest": name}
        write_table(tables[name][0], [*INVENTORY_COLUMNS, *columns], [{**row, **dict.fromkeys(columns, "Canon")}])
        write_table(tables[name][1], PROBLEM_COLUMNS, [])
    join_inventories(JoinJob(tables, tmp_path / "train.csv", tmp_path / "problems.csv"))
    assert [row["subgroup_camera"] for row in read_table(tmp_path / "train.csv")] == ["Canon", ""]
