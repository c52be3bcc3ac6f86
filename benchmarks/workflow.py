"""How long Snakemake takes before any work, and how much work one more photograph makes.

A dry run of everything, and a run that finds everything done, for each label of the Kaggle 2015 sets (stub photographs;
all stages after preprocess are replaced by scripts that write empty files), against the same commands on an empty
workflow. Then 10,000 photographs from inventory to preprocess, against the same after one was added.

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
    Path(file).write_bytes(b"")
"""
# The stages up to the shards do their work. Each later one writes empty files.
AT_WORK = ("inventory", "preflight", "split", "organize", "preprocess")
EMPTY = "rule all:\n    input:\n        [],\n"
LABELS = common.sized((35_126, 53_576), (40, 60))  # of training and test set
WHOLE = common.sized(10_000, 60)
UNTRAINED = {"weights": "random", "batch_norm": "train"}


def names(dataset: str, count: int) -> Iterator[str]:
    """The images of a Kaggle 2015 data set, or names like theirs where its labels are not at hand."""
    labels = common.DATA / f"{dataset}Labels15.csv"
    if labels.is_file() and not common.QUICK:
        with open(labels, newline="", encoding="utf-8") as file:
            yield from (row["image"] for row in csv.DictReader(file))
    else:
        first = 10**6 if dataset == "test" else 0  # no patient is in both data sets
        yield from (f"{first + number // 2}_{'right' if number % 2 else 'left'}" for number in range(count))


def stubs(folder: Path, dataset: str, count: int) -> int:
    """A tiny photograph for each image of a data set, and its label table."""
    content = cv2.imencode(".jpg", np.zeros((8, 8, 3), np.uint8))[1].tobytes()
    images = list(names(dataset, count))
    (folder / dataset).mkdir()
    for image in images:
        common.copy_as(content, folder / dataset / f"{image}.jpeg")
    lines = [f"{image},{number % 5}" for number, image in enumerate(images)]
    (folder / f"{dataset}.csv").write_text("\n".join(["image,level", *lines]) + "\n", encoding="utf-8")
    return len(images)


def kaggle(folder: Path) -> list[common.Row]:
    """Dry run and no-op run of everything."""
    data = {name: {"images": name, "labels": f"{name}.csv"} for name in ("train", "test")}
    common.project(folder, {"data": data, "train": {**UNTRAINED, "image_size": 32}, "models": {"VGG16": {}}})
    count = stubs(folder, "train", LABELS[0]) + stubs(folder, "test", LABELS[1])
    for script in (folder / "workflow/scripts").glob("*.py"):
        if script.stem not in AT_WORK:
            script.write_text(NO_WORK, encoding="utf-8")
    empty = folder / "empty"
    empty.mkdir()
    (empty / "Snakefile").write_text(EMPTY, encoding="utf-8")
    dry = against_empty(f"snakemake -n, {count:,} photographs", folder, empty, "-n")
    output = common.snakemake(folder, "-n")[1] + common.snakemake(folder, "--cores", "2")[1]
    print("jobs:", re.findall(r"^(\d+) jobs", output, re.MULTILINE))
    return [dry, against_empty(f"snakemake, nothing to do, {count:,} photographs", folder, empty, "--cores", "2")]


def against_empty(measured: str, folder: Path, empty: Path, *arguments: str) -> common.Row:
    """The same command on both workflows; the figure is how much longer ours takes."""
    command = partial(common.snakemake, folder, *arguments), partial(common.snakemake, empty, *arguments)
    seconds = common.alternate({"ours": lambda: command[0]() and None, "empty": lambda: command[1]() and None})
    more = statistics.median(ours - other for ours, other in zip(seconds["ours"], seconds["empty"], strict=True))
    ours, other = (statistics.median(seconds[side]) for side in seconds)
    return common.Row(measured, "an empty workflow", ours, other, "s", f"{more:+.2f} s", "at most +1.5 s", more <= 1.5)


def one_more(photographs: common.Collection, folder: Path) -> common.Row:
    """From inventory to preprocess: everything, and after one photograph was added."""
    data = {"train": {"images": "photographs", "labels": "labels.csv"}}
    common.project(
        folder, {"data": data, "train": {**UNTRAINED, "image_size": common.sized(224, 32)}, "models": {"VGG16": {}}}
    )
    # Of every class some, also where there are few photographs.
    graded = photographs._replace(levels=[str(number // 2 % 5) for number in range(len(photographs.paths))])
    common.stand_in(graded, WHOLE, folder / "photographs", folder / "labels.csv")
    whole, added = [], []
    for number in range(common.ROUNDS):
        for left in ("results", ".snakemake"):
            shutil.rmtree(folder / left, ignore_errors=True)
        whole.append(common.snakemake(folder, "--cores", "2", "--until", "preprocess")[0])
        name = f"{WHOLE + number}_left"
        common.copy_as(photographs.paths[0].read_bytes(), folder / "photographs" / f"{name}.jpeg")
        with open(folder / "labels.csv", "a", encoding="utf-8") as file:
            file.write(f"{name},0\n")
        added.append(common.snakemake(folder, "--cores", "2", "--until", "preprocess")[0])
    ours, other = statistics.median(added), statistics.median(whole)
    share = statistics.median(one / everything for one, everything in zip(added, whole, strict=True))
    what = f"one photograph more than {WHOLE:,}, {photographs.name}, inventory to preprocess"
    return common.Row(what, "all of them", ours, other, "s", f"{share:.1%}", "at most 5 %", share <= 0.05)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--originals", action="store_true", help="add one to 10,000 full-resolution photographs too")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = kaggle(Path(folder))
    for photographs in (common.collection(), common.originals() if options.originals else None):
        if photographs:
            with tempfile.TemporaryDirectory() as folder:
                rows.append(one_more(photographs, Path(folder)))
    common.publish("workflow", rows, {})


if __name__ == "__main__":
    main()
