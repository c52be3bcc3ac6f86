"""Messages about configurations, labels and images that cannot be used."""

import os
import re
import zipfile

import pytest

from retinaflow.storage.tables import read_table


def problems_of(project, table):
    """Return problem, action, and path or image of each row of a problems table."""
    return {(row["problem"], row["action"], row["path"] or row["image"]) for row in read_table(project.folder / table)}


def relabel(project, **grades):
    """Change grades of training images, such as ``image_1_left="7"``."""
    table = project.folder / "labels train.csv"
    lines = table.read_text().splitlines()
    for image, grade in grades.items():
        name = image.removeprefix("image_")
        lines = [f"{name},{grade}" if line.startswith(f"{name},") else line for line in lines]
    table.write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize(
    ("sections", "messages"),
    [
        (
            {"seed": "x", "organise": {"mode": "copy"}},
            ["seed: 'x' is not of type 'integer'", "organise: unknown key; did you mean 'organize'?"],
        ),
        (
            {"train": {"epoch": 3}, "models": {"VGG16": {"batch_size": 0}}},
            ["train.epoch: unknown key; did you mean 'epochs'?", "models.VGG16.batch_size: 0 is less than"],
        ),
        (
            {"models": {"VGG61": {}}, "split": {"folds": 1}},
            ["models.VGG61: unknown backbone; did you mean 'VGG16'?", "split.folds: 1 fold leaves nothing"],
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
            {"models": {"VGG16": {"weights": "mine.h5"}}},
            ["weights of VGG16: there is no file 'mine.h5'"],
        ),
        (
            {"results": "of {dataset}"},
            ["results: 'of {dataset}' has a brace, which Snakemake takes for the start of a wildcard"],
        ),
    ],
)
def test_configuration_errors_are_reported_before_anything_runs(fresh, sections, messages):
    project = fresh(**sections)
    shown = project.snakemake("-n", check=False)
    for message in messages:
        assert message in shown
    assert "Traceback" not in shown
    assert not (project.folder / "results").exists()


def test_unreadable_label_table_is_reported_before_anything_runs(fresh):
    project = fresh()
    (project.folder / "labels train.csv").write_bytes("image,level\n1_left,0 größer\n".encode("latin-1"))
    shown = project.snakemake("-n", check=False)
    assert "labels train.csv: byte" in shown
    assert "Traceback" not in shown


def test_preflight_reports_all_problems_of_both_data_sets_at_once(fresh):
    project = fresh()
    relabel(project, image_1_left="7", image_2_left="1.5")
    with open(project.folder / "labels train.csv", "a") as table:
        table.write("3_left,0\n3_left,4\n")
    for number in range(1001, 1004):
        (project.folder / f"test/{number}_left.jpeg").write_bytes(b"broken")
    shown = project.snakemake("preflight", check=False)

    logs = project.folder / "results/logs/inventory"
    for text in (shown, (logs / "preflight.log").read_text()):
        assert "train: 3 problems to be solved first" in text
        assert "'my photographs/1_left.jpeg': grade '7' in row 2, expected 0 to 4 or the name of a grade" in text
        assert "test: 3 of 32 images are excluded, more than the share of 0.05" in text
        assert "All problems are listed in results/logs/inventory/problems.csv, with a summary in" in text
    assert shown.count("error: ") == 1
    assert "Traceback" not in shown
    found = {
        ("bad_grade", "error", "my photographs/1_left.jpeg"),
        ("bad_grade", "error", "my photographs/2_left.jpeg"),
        ("duplicate_label", "error", "my photographs/3_left.jpeg"),
        *(("not_an_image", "excluded", f"test/{number}_left.jpeg") for number in (1001, 1002, 1003)),
    }
    assert problems_of(project, "results/logs/inventory/problems.csv") == found
    assert "| bad_grade | 2 | error |" in (logs / "problems.md").read_text()
    assert not (project.folder / "results/inventory/problems.csv").exists()

    # The solutions that the message names.
    project.config["data"]["on_problem"] = {"bad_grade": "exclude", "duplicate_label": "exclude"}
    project.config["data"]["exclude_limit"] = 0.1
    shown = project.snakemake("preflight")
    assert "| train | 48 | 45 | 24 | yes |" in shown
    excluded = {(problem, "excluded", path) for problem, _, path in found}
    assert problems_of(project, "results/inventory/problems.csv") == excluded
    assert "| train | 48 | 45 | 24 | yes |" in project.read("results/inventory/problems.md")


def test_data_set_with_errors_stops_every_later_stage(fresh):
    project = fresh()
    relabel(project, image_1_left="7")
    (project.folder / "test/1001_left.jpeg").unlink()
    (project.folder / "test/1_left.jpeg").write_bytes((project.folder / "my photographs/1_left.jpeg").read_bytes())
    with open(project.folder / "labels test.csv", "a") as table:
        table.write("1_left,0\n")
    shown = project.snakemake(check=False)
    message = "problem to be solved first. `snakemake preflight` lists them and says what to do."
    for name, data_set in (("split", "train"), ("organize/test", "test")):
        assert f"error: {data_set}: 1 {message}" in project.read(f"results/logs/{name}.log")
    assert "Traceback" not in shown
    assert not list((project.folder / "results").glob("split/*"))
    assert not list((project.folder / "results").rglob("index.csv"))
    # A single stage stops too, without a preflight before it.
    assert f"train: 1 {message}" in project.snakemake("results/split/train.csv", check=False)
    assert problems_of(project, "results/logs/inventory/problems.csv") == {
        ("bad_grade", "error", "my photographs/1_left.jpeg"),
        ("no_image", "excluded", "1001_left"),
        ("patient_in_both", "error", "test/1_left.jpeg"),
    }


def test_problems_of_both_data_sets_are_in_one_table(fresh):
    project = fresh()
    folder = project.folder / "my photographs"
    (folder / "4_left.jpeg").write_bytes(b"")
    (folder / "stranger_left.jpeg").write_bytes((folder / "5_left.jpeg").read_bytes())
    # Names of files are bytes. This one is not UTF-8, so no label table can have it.
    with open(os.fsencode(folder) + b"/caf\xe9.jpeg", "wb") as file:
        file.write((folder / "5_left.jpeg").read_bytes())
    (folder / "6_left.jpeg").unlink()
    # Tolerant decoders make the lower rows grey.
    half = (folder / "7_left.jpeg").read_bytes()
    (folder / "7_left.jpeg").write_bytes(half[: len(half) - 400] + b"\xff\xd9")
    (project.folder / "test/notes.txt").write_text("not an image")
    (project.folder / "test/1002_left.jpeg").write_bytes((folder / "8_left.jpeg").read_bytes())
    table = project.folder / "labels test.csv"
    grade = re.search("^8_left,(.)", (project.folder / "labels train.csv").read_text(), flags=re.MULTILINE)[1]
    table.write_text(re.sub("^1002_left,.", f"1002_left,{grade}", table.read_text(), flags=re.MULTILINE))
    project.config["data"]["test"]["exclude"] = ["1001_left"]
    project.config["data"]["exclude_limit"] = 0.2
    project.snakemake("--until", "organize", "check_problems")
    assert problems_of(project, "results/inventory/problems.csv") == {
        ("empty", "excluded", "my photographs/4_left.jpeg"),
        ("truncated", "excluded", "my photographs/7_left.jpeg"),
        ("no_label", "excluded", "my photographs/stranger_left.jpeg"),
        ("no_label", "excluded", "my photographs/caf\udce9.jpeg"),
        ("no_image", "excluded", "6_left"),
        ("excluded", "excluded", "test/1001_left.jpeg"),
        ("identical", "excluded", "test/1002_left.jpeg"),
        ("other_file", "ignored", "test/notes.txt"),
    }
    used = {
        row["image"]
        for split in ("train", "validation", "test")
        for row in read_table(project.folder / f"results/organized/{split}/index.csv")
    }
    assert len(used) == 48 + 32 - 5
    assert not used & {"4_left", "6_left", "7_left", "stranger_left", "caf\udce9", "1001_left", "1002_left"}


def test_job_names_an_image_that_broke_after_the_inventory(fresh):
    project = fresh(data={"train": {"images": "my photographs", "labels": "labels train.csv"}})
    project.snakemake("--until", "organize")
    image = project.folder / "my photographs/1_left.jpeg"
    image.write_bytes(image.read_bytes()[:-600])
    # The inventory does not run again.
    shown = project.snakemake("--until", "preprocess", "--rerun-triggers", "mtime", check=False)
    assert re.search(r"results/organized/\w+/\w+/1_left.jpeg: ", shown)
    assert "1 of its images cannot be used" in shown
    assert "Traceback" not in shown
    logs = (project.folder / "results/logs/preprocess").glob("*/*/*.log")
    (log,) = [log for log in logs if "1_left.jpeg" in log.read_text() and "attempt" not in log.name]
    split, shard = log.parent.name, log.stem
    shards = {path.relative_to(path.parents[1]).as_posix() for path in project.folder.glob("results/shards/*/*/[!.]*")}
    # All other shards exist, and the broken shard has no partial file.
    assert shards == {
        f"{name}/{number}.{suffix}"
        for name, count in (("train", 3), ("validation", 1))
        for number in range(count)
        for suffix in ("npy", "csv")
        if (name, str(number)) != (split, shard)
    }

    project.config["data"]["train"]["exclude"] = ["1_left"]
    project.snakemake("--until", "preprocess")
    assert (project.folder / f"results/shards/32-trim-keep-none/{split}/{shard}.npy").is_file()


def test_failure_is_repeated_after_an_earlier_success(fresh):
    project = fresh()
    images = sorted((project.folder / "my photographs").iterdir())
    archive = project.folder / "train.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for image in images:
            file.write(image, image.name)
    project.config["data"]["train"]["images"] = "train.zip"
    project.snakemake("preflight")

    whole = archive.read_bytes()
    images[0].write_bytes(images[1].read_bytes())
    with zipfile.ZipFile(archive, "w") as file:
        for image in images:
            file.write(image, image.name)
    content = bytearray(archive.read_bytes())
    content[len(content) // 2] ^= 255
    archive.write_bytes(content)
    for _ in range(2):
        assert "cannot be read" in project.snakemake("preflight", check=False)
    archive.write_bytes(whole)
    project.config["data"]["train"]["exclude"] = ["nobody"]
    for _ in range(2):
        assert "data.train.exclude names 'nobody'" in project.snakemake("preflight", check=False)
    project.config["data"]["train"]["exclude"] = []
    project.snakemake("preflight")


def test_missing_container_image_is_named_with_its_build_command(fresh, tmp_path, monkeypatch):
    apptainer = tmp_path / "bin/apptainer"
    apptainer.parent.mkdir()
    apptainer.write_text("#!/bin/sh\necho apptainer version 1.4.0\n")
    apptainer.chmod(0o755)
    monkeypatch.setenv("PATH", f"{apptainer.parent}:{os.environ['PATH']}")
    shown = fresh().snakemake("preflight", "--software-deployment-method", "apptainer", check=False)
    assert "apptainer build retinaflow.sif envs/retinaflow.def" in shown
    assert "Traceback" not in shown


def test_results_of_an_older_layout_are_refused_and_kept(fresh):
    project = fresh()
    record = project.folder / "results/models/VGG16/run.json"
    record.parent.mkdir(parents=True)
    record.write_text("{}")
    for arguments in (["-n"], []):
        shown = project.snakemake(*arguments, check=False)
        assert re.search(r"layout of retinaflow 0\.1 \(found results/models/VGG16/run\.json\)", shown)
        assert "mv 'results' 'results-0.1'" in shown
        assert [path.name for path in record.parent.iterdir()] == ["run.json"]
