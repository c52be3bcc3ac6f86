"""What somebody sees whose configuration, labels or photographs cannot be used."""

import os
import re

import pytest

from retinaflow.tables import read_table


def problems_of(project, table):
    """Problem, action and path or image of each row of a problems table."""
    return {(row["problem"], row["action"], row["path"] or row["image"]) for row in read_table(project.folder / table)}


def relabel(project, **levels):
    """Give images of the training set other levels, as ``image_1_left="7"``."""
    table = project.folder / "labels train.csv"
    lines = table.read_text().splitlines()
    for image, level in levels.items():
        name = image.removeprefix("image_")
        lines = [f"{name},{level}" if line.startswith(f"{name},") else line for line in lines]
    table.write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize(
    ("sections", "messages"),
    [
        (
            {"seed": "x", "organise": {"mode": "copy"}},
            ["seed: 'x' is not of type 'integer'", "organise: unknown key; did you mean 'organize'?"],
        ),
        (
            {"train": {"epoch": 3}, "backbones": {"VGG16": {"batch_size": 0}}},
            ["train.epoch: unknown key; did you mean 'epochs'?", "backbones.VGG16.batch_size: 0 is less than"],
        ),
        (
            {"backbones": {"VGG61": {}}, "split": {"folds": 1}},
            ["backbones.VGG61: unknown backbone; did you mean 'VGG16'?", "split.folds: 1 fold leaves nothing"],
        ),
        (
            {
                "data": {
                    "train": {"images": "no such folder", "labels": "labels train.csv"},
                    "test": {"images": "nowhere.zip/test", "labels": "absent.csv"},
                }
            },
            [
                "data.train.images: 'no such folder' is not a folder",
                "data.test.images: there is no archive 'nowhere.zip'",
                "data.test.labels: there is no file 'absent.csv'",
            ],
        ),
        (
            {"backbones": {"VGG16": {"weights": "mine.h5"}}},
            ["weights of VGG16: there is no file 'mine.h5'"],
        ),
        (
            {"results": "of {dataset}"},
            ["results: 'of {dataset}' has a brace, which Snakemake takes for the start of a wildcard"],
        ),
    ],
)
def test_what_is_wrong_with_the_configuration_is_said_before_anything_runs(fresh, sections, messages):
    project = fresh(**sections)
    shown = project.snakemake("-n", check=False)
    for message in messages:
        assert message in shown
    assert "Traceback" not in shown
    assert not (project.folder / "results").exists()


def test_an_unreadable_label_table_is_said_before_anything_runs(fresh):
    project = fresh()
    (project.folder / "labels train.csv").write_bytes("image,level\n1_left,0 größer\n".encode("latin-1"))
    shown = project.snakemake("-n", check=False)
    assert "labels train.csv: byte" in shown
    assert "Traceback" not in shown


def test_bad_label_rows_fail_the_inventory_which_lists_them(fresh):
    project = fresh()
    relabel(project, image_1_left="7", image_2_left="1.5")
    with open(project.folder / "labels train.csv", "a") as table:
        table.write("3_left,0\n3_left,4\n")
    first = "results/inventory/train.csv"
    shown = project.snakemake("--until", "inventory", "--cores", "1", "--prioritize", first, check=False)

    inventory, logs = project.folder / "results/inventory", project.folder / "results/logs/inventory"
    log = (logs / "train.log").read_text()
    for text in (shown, log):
        assert "train: 3 problems to be solved first" in text
        assert "level '7' in row 2, expected 0 to 4 or the name of a class" in text
        assert "All problems are listed in results/logs/inventory/train-problems.csv." in text
    assert "Traceback" not in shown
    assert not (inventory / "train.csv").exists()
    found = {
        ("bad_level", "error", "my photographs/1_left.jpeg"),
        ("bad_level", "error", "my photographs/2_left.jpeg"),
        ("duplicate_label", "error", "my photographs/3_left.jpeg"),
    }
    assert problems_of(project, "results/logs/inventory/train-problems.csv") == found
    # The default profile goes on with what does not depend on it.
    assert (inventory / "test.csv").is_file()

    # The way out that the message names.
    project.config["data"]["on_problem"] = {"bad_level": "exclude", "duplicate_label": "exclude"}
    project.config["data"]["exclude_limit"] = 0.1
    project.snakemake("--until", "problems")
    excluded = {(problem, "excluded", path) for problem, _, path in found}
    assert problems_of(project, "results/inventory/problems.csv") == excluded


def test_problems_of_both_data_sets_are_in_one_table(fresh):
    project = fresh()
    folder = project.folder / "my photographs"
    (folder / "4_left.jpeg").write_bytes(b"")
    (folder / "stranger_left.jpeg").write_bytes((folder / "5_left.jpeg").read_bytes())
    # Names are bytes: this one is no UTF-8 and can be in no label table.
    with open(os.fsencode(folder) + b"/caf\xe9.jpeg", "wb") as file:
        file.write((folder / "5_left.jpeg").read_bytes())
    (folder / "6_left.jpeg").unlink()
    (project.folder / "test/notes.txt").write_text("not a photograph")
    project.config["data"]["test"]["exclude"] = ["1001_left"]
    project.config["data"]["exclude_limit"] = 0.2
    project.snakemake("--until", "organize", "problems")
    assert problems_of(project, "results/inventory/problems.csv") == {
        ("unreadable", "excluded", "my photographs/4_left.jpeg"),
        ("no_label", "excluded", "my photographs/stranger_left.jpeg"),
        ("no_label", "excluded", "my photographs/caf\udce9.jpeg"),
        ("no_image", "excluded", "6_left"),
        ("excluded", "excluded", "test/1001_left.jpeg"),
        ("other_file", "ignored", "test/notes.txt"),
    }
    used = {
        row["image"]
        for part in ("train", "validation", "test")
        for row in read_table(project.folder / f"results/organized/{part}/index.csv")
    }
    assert len(used) == 48 + 32 - 3
    assert not used & {"4_left", "6_left", "stranger_left", "caf\udce9", "1001_left"}


def test_more_exclusions_than_allowed_are_an_error(fresh):
    project = fresh()
    for number in (1, 2, 3):
        (project.folder / f"my photographs/{number}_left.jpeg").write_bytes(b"broken")
    shown = project.snakemake("--until", "inventory", check=False)
    assert "train: 3 of 48 photographs are excluded, more than the share of 0.05" in shown
    assert len(problems_of(project, "results/logs/inventory/train-problems.csv")) == 3


def test_a_photograph_that_breaks_off_is_named_by_the_job_that_decodes_it(fresh):
    project = fresh(data={"train": {"images": "my photographs", "labels": "labels train.csv"}})
    photograph = project.folder / "my photographs/1_left.jpeg"
    photograph.write_bytes(photograph.read_bytes()[:-600])
    shown = project.snakemake("--until", "preprocess", check=False)
    assert re.search(r"results/organized/\w+/class\d/1_left.jpeg: ", shown)
    assert "1 of its photographs cannot be used" in shown
    assert "Traceback" not in shown
    logs = (project.folder / "results/logs/preprocess").glob("*/*/*.log")
    (log,) = [log for log in logs if "1_left.jpeg" in log.read_text()]
    part, shard = log.parent.name, log.stem
    shards = {path.relative_to(path.parents[1]).as_posix() for path in project.folder.glob("results/shards/*/*/[!.]*")}
    # All others were made; of this one there is not half a file.
    assert shards == {
        f"{name}/{number}.{suffix}"
        for name, count in (("train", 3), ("validation", 1))
        for number in range(count)
        for suffix in ("npy", "csv")
        if (name, str(number)) != (part, shard)
    }

    project.config["data"]["train"]["exclude"] = ["1_left"]
    project.snakemake("--until", "preprocess")
    assert (project.folder / f"results/shards/32-trim-keep-none/{part}/{shard}.npy").is_file()
