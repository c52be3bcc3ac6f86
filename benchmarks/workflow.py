"""Time of Snakemake itself, and work after one more image.

First come a dry run and a run with nothing to do, with all labels of the Kaggle 2015 sets, against the same commands on
an empty workflow. The images are stubs, and scripts that write empty files replace the stages after preprocess. Then
10,000 images go from inventory to preprocess, against the same after one image was added.

    python benchmarks/workflow.py [--originals]
"""

import argparse
import csv
import re
import shutil
import statistics
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import cv2
import numpy as np

import common

NO_WORK = """
from pathlib import Path

for file in snakemake.output:
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    if Path(file).suffix:
        Path(file).write_bytes(b"")
    else:  # the folder of a bundle
        Path(file).mkdir()
"""
# The stages up to the shards do their work. The later ones write empty files.
AT_WORK = ("inventory", "preflight", "split", "organize", "preprocess")
EMPTY = "rule all:\n    input:\n        [],\n"
LABELS = common.sized((35_126, 53_576), (40, 60))  # of training and test set
WHOLE = common.sized(10_000, 60)
UNTRAINED = {"weights": "random", "batch_norm": "train"}


def names(data_set: str, count: int) -> Iterator[str]:
    """Yield the image names of a Kaggle 2015 data set, or similar names if its labels are not available."""
    labels = common.DATA / f"{data_set}Labels15.csv"
    if labels.is_file() and not common.QUICK:
        with open(labels, newline="", encoding="utf-8") as file:
            yield from (row["image"] for row in csv.DictReader(file))
    else:
        first = 10**6 if data_set == "test" else 0  # no patient is in both data sets
        yield from (f"{first + number // 2}_{'right' if number % 2 else 'left'}" for number in range(count))


def stubs(folder: Path, data_set: str, count: int) -> int:
    """Write a tiny image for each name of a data set, and the label table. Return their number."""
    content = cv2.imencode(".jpg", np.full((8, 8, 3), 90, np.uint8))[1].tobytes()  # not blank
    images = list(names(data_set, count))
    (folder / data_set).mkdir()
    for image in images:
        common.copy_as(content, folder / data_set / f"{image}.jpeg")
    lines = [f"{image},{number % 5}" for number, image in enumerate(images)]
    (folder / f"{data_set}.csv").write_text("\n".join(["image,level", *lines]) + "\n", encoding="utf-8")
    return len(images)


def kaggle(folder: Path) -> list[common.Row]:
    """Measure a dry run and a run with nothing to do."""
    data = {name: {"images": name, "labels": f"{name}.csv"} for name in ("train", "test")}
    common.project(folder, {"data": data, "train": {**UNTRAINED, "image_size": 32}, "models": {"VGG16": {}}})
    count = stubs(folder, "train", LABELS[0]) + stubs(folder, "test", LABELS[1])
    for script in (folder / "workflow/scripts").glob("*.py"):
        if script.stem not in AT_WORK:
            script.write_text(NO_WORK, encoding="utf-8")
    empty = folder / "empty"
    empty.mkdir()
    (empty / "Snakefile").write_text(EMPTY, encoding="utf-8")
    dry = against_empty(f"snakemake -n, {count:,} images", folder, empty, "-n")
    output = common.snakemake(folder, "-n")[1] + common.snakemake(folder, "--cores", "2")[1]
    print("jobs:", re.findall(r"^(\d+) jobs", output, re.MULTILINE))
    return [dry, against_empty(f"snakemake, nothing to do, {count:,} images", folder, empty, "--cores", "2")]


def against_empty(measured: str, folder: Path, empty: Path, *arguments: str) -> common.Row:
    """Time the same command on both workflows. The figure is the additional time of ours."""
    command = partial(common.snakemake, folder, *arguments), partial(common.snakemake, empty, *arguments)
    seconds = common.alternate({"ours": lambda: command[0]() and None, "empty": lambda: command[1]() and None})
    more = statistics.median(ours - other for ours, other in zip(seconds["ours"], seconds["empty"], strict=True))
    ours, other = (statistics.median(seconds[side]) for side in seconds)
    return common.Row(measured, "an empty workflow", ours, other, "s", f"{more:+.2f} s", "at most +1.5 s", more <= 1.5)


def one_more(source: common.Collection, folder: Path) -> common.Row:
    """Time everything from inventory to preprocess, and again after one image was added."""
    data = {"train": {"images": "images", "labels": "labels.csv"}}
    common.project(
        folder, {"data": data, "train": {**UNTRAINED, "image_size": common.sized(224, 32)}, "models": {"VGG16": {}}}
    )
    # Every grade occurs, also among few images.
    graded = source._replace(grades=[str(number // 2 % 5) for number in range(len(source.paths))])
    common.repeat_collection(graded, WHOLE, folder / "images", folder / "labels.csv")
    whole, added = [], []
    for number in range(common.ROUNDS):
        for old in ("results", ".snakemake"):
            shutil.rmtree(folder / old, ignore_errors=True)
        whole.append(common.snakemake(folder, "--cores", "2", "--until", "preprocess")[0])
        name = f"{WHOLE + number}_left"
        common.copy_as(source.paths[0].read_bytes(), folder / "images" / f"{name}.jpeg")
        with open(folder / "labels.csv", "a", encoding="utf-8") as file:
            file.write(f"{name},0\n")
        added.append(common.snakemake(folder, "--cores", "2", "--until", "preprocess")[0])
    ours, other = statistics.median(added), statistics.median(whole)
    share = statistics.median(part / everything for part, everything in zip(added, whole, strict=True))
    title = f"one image more than {WHOLE:,}, {source.name}, inventory to preprocess"
    return common.Row(title, "all of them", ours, other, "s", f"{share:.1%}", "at most 5 %", share <= 0.05)


def main() -> None:
    """Measure, print and write the rows."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--originals", action="store_true", help="also add one to 10,000 full-resolution images")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = kaggle(Path(folder))
    for source in (common.collection(), common.originals() if options.originals else None):
        if source:
            with tempfile.TemporaryDirectory() as folder:
                rows.append(one_more(source, Path(folder)))
    common.publish("workflow", rows, {})


if __name__ == "__main__":
    main()
