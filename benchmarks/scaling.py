"""Growth of the stages with the number of images, up to a million, and estimates for a hundred million.

Tables, links and Snakemake are measured completely, on label tables and folders of 10,000 to a million invented names.
The cost of an image is measured on a few real ones. The last table multiplies; docs/scaling.md names what is measured
and what is derived. Times are processor seconds, which hardly depend on other work of the machine: of one run for a
step, and medians of the rounds for an image. The folder for temporary files needs up to 2 GB and two million inodes. A
reported peak of snakemake is never below the memory of this script.

    python benchmarks/scaling.py [--large]
"""

import os

os.environ["CUDA_VISIBLE_DEVICES"] = ""
import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

import common
from retinaflow.storage import files, tables

COUNTS = common.sized((10_000, 100_000, 1_000_000), (100, 200))
JOBS = common.sized((1_000, 10_000), (5, 10))
COLLECTIONS = {"EyePACS": 35_126, "1 million": 10**6, "100 million": 10**8}
SHARD_SIZES = (1024, 16_384, 131_072)
SHARD = SHARD_SIZES[0]
PLAN = "dry run of so many preprocess jobs"
# Images a second of ResNet-50 at 224 px on one A100, published by its maker. All other numbers are measured here.
PUBLISHED = 2375
FILES_PER_SHARD = 4  # pixels, rows, stamp and log; the cache has hard links to them
INODES_PER_IMAGE = 2  # the image and its link


class Measured(NamedTuple):
    """Processor seconds and peak memory in MB of one step with ``count`` images or jobs."""

    step: str
    count: int
    seconds: float
    megabytes: float


# Steps, each in its own process. A function prepares a step and returns the call to time. -----------------------------


def image_names(count: int) -> Iterator[str]:
    """Yield names of both eyes of ``count`` / 2 patients, as in EyePACS."""
    return (f"{number // 2}_{'right' if number % 2 else 'left'}" for number in range(count))


def label_table(folder: Path, count: int) -> Path:
    """Return a label table of ``count`` rows; write it once."""
    path = folder / "labels.csv"
    if not path.is_file():
        lines = (f"{image},{number // 2 % 5}" for number, image in enumerate(image_names(count)))
        path.write_text("\n".join(["image,level", *lines]) + "\n", encoding="ascii")
    return path


def read_labels(folder: Path, count: int) -> Callable[[], object]:
    """Read the label table, as each start of the workflow and of its jobs does."""
    from retinaflow.data import labels

    return lambda: labels.read_labels(str(label_table(folder, count)), "image", "level")


def listing(folder: Path, count: int) -> Callable[[], object]:
    """List a folder, as a dry run does. The files are empty, because nothing reads them."""
    from retinaflow.storage import archives

    place = folder / "images"
    place.mkdir()
    for image in image_names(count):
        (place / f"{image}.jpeg").touch()
    return lambda: archives.listing(str(place))


def inventory(folder: Path, count: int) -> Callable[[], object]:
    """Make the inventory without reading and decoding the images."""
    from retinaflow.data import headers

    def read(paths: list[str], *_: object) -> list[headers.Header]:
        return [headers.Header(1_000_000, 3888, 2592, files.digest(path.encode())) for path in paths]

    headers.examine_files = read  # type: ignore[assignment]
    time.sleep(headers.SETTLED / 1e9)  # The cache skips files that changed so recently.
    return again(folder, count)


def again(folder: Path, count: int) -> Callable[[], object]:
    """Make the inventory again, with every image in its cache."""
    from retinaflow.data import inventory, labels

    table = str(label_table(folder, count))
    return lambda: inventory.take_inventory(
        inventory.InventoryJob(
            data_set="train",
            folders=[folder / "images"],
            labels=labels.read_labels(table, "image", "level"),
            grade_names=common.GRADE_NAMES,
            patient_pattern="(?P<patient>.+)_(?P<eye>left|right)",
            exclude=[],
            megapixels=200,
            train=None,
            inventory=folder / "inventory.csv",
            problems=folder / "problems.csv",
            cache=folder / "headers.json",
            code="benchmark",
            threads=2,
        )
    )


def check_problems(folder: Path, count: int) -> Callable[[], object]:  # noqa: ARG001
    """Check the problems of a data set."""
    from retinaflow.data.problem_policy import check_data_set
    from retinaflow.settings.data import ProblemSettings

    tables = folder / "inventory.csv", folder / "problems.csv"
    return lambda: check_data_set(*tables, on_problem=ProblemSettings(), exclude_limit=0.05)


def split(folder: Path, count: int) -> Callable[[], object]:  # noqa: ARG001
    """Split into training and validation."""
    from retinaflow.data.split import SplitJob, write_split

    outputs = [(folder / "split/train.csv", folder / "split/validation.csv")]
    job = SplitJob(folder / "inventory.csv", common.GRADE_NAMES, 0.2, folds=0, unit="patient", seed=1, outputs=outputs)
    return lambda: write_split(job)


def organize(folder: Path, count: int) -> Callable[[], object]:  # noqa: ARG001
    """Link all images and write the index, as for a test set."""
    from retinaflow.data.organize import organize

    tree = folder / "organized"
    table, index = folder / "inventory.csv", tree / "index.csv"
    return lambda: organize(table, common.GRADE_NAMES, mode="symlink", tree=tree, index=index)


def find_members(folder: Path, count: int) -> Callable[[], object]:
    """Search the index for the images of a shard, as each preprocess job does first."""
    from retinaflow.preprocessing.shards import shard_of

    index, shards = folder / "organized/index.csv", -(-count // SHARD)
    return lambda: sum(shard_of(row["image"], shards) == 0 for row in tables.stream_table(index))


def load(folder: Path, count: int) -> Callable[[], object]:
    """Open all shards of ``count`` images of one pixel each, as a training does."""
    from retinaflow.preprocessing.batches import Batches, Images
    from retinaflow.preprocessing.shards import ROW_COLUMNS, shard_of

    shards = -(-count // SHARD)
    members: list[list[str]] = [[] for _ in range(shards)]
    for image in image_names(count):
        members[shard_of(image, shards)].append(image)
    paths = [(folder / f"shards/{number}.npy", folder / f"shards/{number}.csv") for number in range(shards)]
    for names, (pixels, rows) in zip(members, paths, strict=True):
        tables.write_table(rows, ROW_COLUMNS, [{"image": name, "digest": ""} for name in names])
        np.save(pixels, np.zeros((len(names), 1, 1, 3), np.uint8))
    del members
    return lambda: Batches(Images([folder / "organized/index.csv"], paths, common.GRADE_NAMES), 32, seed=1)


def score(folder: Path, count: int) -> Callable[[], object]:
    """Grade invented outputs of a model on two splits: decision rule, predictions and metrics."""
    from retinaflow.scoring.predictions import GradingJob, grade_model
    from retinaflow.scoring.raw_outputs import RawOutputs, write_raw_outputs

    rng = np.random.default_rng(1)
    names = list(image_names(count))
    patients = [name.split("_")[0] for name in names]
    outputs = RawOutputs(
        names, names, patients, [""] * count, rng.integers(0, 5, count), rng.dirichlet(np.ones(5), count)
    )
    table = folder / "raw_outputs.csv"
    write_raw_outputs(table, outputs)
    splits = ("validation", "test")
    job = GradingJob(
        model="A",
        objective="softmax",
        raw_outputs=dict.fromkeys(splits, table),
        inventories=[],
        grade_names=common.GRADE_NAMES,
        referable_grade=2,
        referable_sensitivity=0.9,
        bootstrap_samples=1000,
        seed=1,
        decision_rule=folder / "decision_rule.json",
        predictions={split: folder / f"{split}.csv" for split in splits},
        metrics={split: folder / f"{split}.json" for split in splits},
    )
    return lambda: grade_model(job)


def read_scores(folder: Path, count: int) -> Callable[[], object]:  # noqa: ARG001
    """Read raw outputs, as grading and pooling of folds do."""
    from retinaflow.scoring.raw_outputs import read_raw_outputs

    return lambda: read_raw_outputs(folder / "raw_outputs.csv", "softmax", grade_count=len(common.GRADE_NAMES))


# The order matters: steps use the files of earlier steps.
STEPS: dict[str, tuple[str, Callable[[Path, int], Callable[[], object]]]] = {
    "labels": ("read the label table (once a Snakefile is read)", read_labels),
    "listing": ("list the folder (dry run)", listing),
    "inventory": ("inventory, without reading images", inventory),
    "again": ("inventory again, nothing changed", again),
    "check_problems": ("check the problems", check_problems),
    "split": ("split", split),
    "organize": ("organize, links", organize),
    "members": ("find the members of one shard (each preprocess job)", find_members),
    "load": ("open the shards (train, score)", load),
    "score": ("decision rule, metrics and predictions of two splits", score),
    "read_scores": ("read raw outputs (pool)", read_scores),
}


def step(name: str, folder: Path, count: int) -> None:
    """Run one step in this process, and print seconds and megabytes as JSON."""
    work = STEPS[name][1](folder, count)
    start = time.process_time()
    result = work()
    seconds = time.process_time() - start
    del result
    import resource

    print(json.dumps([seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024]))


def steps(count: int) -> Iterator[Measured]:
    """Run all steps with ``count`` images."""
    with tempfile.TemporaryDirectory() as folder:
        for name, (title, _) in STEPS.items():
            done = subprocess.run(
                [sys.executable, __file__, "--step", name, folder, str(count)], stdout=subprocess.PIPE, text=True
            )
            if done.returncode:
                sys.exit(f"{name}: failed")
            yield show(Measured(title, count, *json.loads(done.stdout.splitlines()[-1])))


def show(measured: Measured) -> Measured:
    """Print a measurement, because the whole script needs minutes."""
    print(f"{measured.step}, {measured.count:,}: {measured.seconds:.2f} s, {measured.megabytes:.0f} MB", flush=True)
    return measured


# Snakemake -----------------------------------------------------------------------------------------------------------

NO_WORK = """
from pathlib import Path

for file in map(Path, snakemake.output):
    (file.parent if file.suffix else file).mkdir(parents=True, exist_ok=True)
    if file.suffix:
        file.write_bytes(b"")
"""


def project(folder: Path, count: int, shard_size: int) -> None:
    """Configure the workflow for ``count`` labels and one image. To plan needs no more, and the jobs do nothing."""
    data = {"train": {"images": "images", "labels": "labels.csv"}}
    train = {"weights": "random", "batch_norm": "train", "image_size": 32}
    settings = {"data": data, "train": train, "models": {"VGG16": {}}, "preprocess": {"shard_size": shard_size}}
    common.project(folder, settings)
    (folder / "images").mkdir()
    (folder / "images/0_left.jpeg").touch()
    label_table(folder, count)
    for script in (folder / "workflow/scripts").iterdir():
        script.write_text(NO_WORK, encoding="utf-8")


def dry_run(step: str, number: int, count: int, shard_size: int) -> Measured:
    """Measure `snakemake -n` before the first run."""
    with tempfile.TemporaryDirectory() as name:
        project(Path(name), count, shard_size)
        return show(Measured(step, number, *called(Path(name), "-n", "--quiet", "rules")))


def jobs(count: int, shards: int = common.sized(40, 2)) -> Measured:
    """Measure a job that does nothing, with a label table of ``count`` rows."""
    with tempfile.TemporaryDirectory() as name:
        project(Path(name), count, -(-count // shards))
        before = called(Path(name), "--cores", "2", "--quiet", "rules", "--until", "organize")
        after = called(Path(name), "--cores", "2", "--quiet", "rules", "--until", "preprocess")
        first, _ = called(Path(name), "--cores", "2", "--quiet", "rules", "-n")
        return show(Measured("a job that does nothing", count, (after[0] - first) / shards, max(before[1], after[1])))


def called(folder: Path, *arguments: str) -> tuple[float, float]:
    """Call snakemake. Return processor seconds, including those of its jobs, and peak memory in MB."""
    command = [str(Path(sys.executable).with_name("snakemake")), *arguments]
    with open(folder / "output.txt", "wb") as output:
        process = subprocess.Popen(command, cwd=folder, stdout=output, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit((folder / "output.txt").read_text(encoding="utf-8"))
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


# One image ------------------------------------------------------------------------------------------------------


def measure_image() -> dict[str, float]:
    """Measure processor seconds to read and to preprocess an image, and its bytes; of originals, if available."""
    from retinaflow.data import headers
    from retinaflow.preprocessing import preprocess
    from retinaflow.preprocessing.variant import Variant

    few = common.originals() or common.collection()
    contents = [path.read_bytes() for path in few.paths]
    with tempfile.TemporaryDirectory() as name:
        paths = list(map(str, few.paths))
        found = headers.read_headers(paths, 200, cache=Path(name) / "headers.json", code="benchmark", threads=1)

        def read() -> int:
            cache = Path(name) / "none" / str(time.monotonic_ns())
            headers.read_headers(paths, 200, cache=cache, code="benchmark", threads=1)
            return len(paths)

        def shrink(size: int) -> Callable[[], int]:
            variant = Variant(size, "trim", "keep", "none")

            def run() -> int:
                for content, header in zip(contents, found, strict=True):
                    preprocess.prepare(content, int(header.width), int(header.height), variant)
                return len(contents)

            return run

        cv2.setNumThreads(1)  # as in preprocessing
        measured = {}
        for key, work in {"inventory": read, "224": shrink(224), "512": shrink(512)}.items():
            times = []
            for _ in range(common.ROUNDS):
                start = time.process_time()
                count = work()
                times.append((time.process_time() - start) / count)
            measured[key] = float(np.median(times))
    return {**measured, "bytes": float(np.mean([len(content) for content in contents]))}


# Estimates ----------------------------------------------------------------------------------------------------------


def at(measured: list[Measured], step: str, count: float) -> tuple[float, float]:
    """Estimate seconds and MB of a step, on the line through the two nearest measurements or the last two."""
    rows = sorted((row for row in measured if row.step == step), key=lambda row: row.count)
    place = min(int(np.searchsorted([row.count for row in rows[1:-1]], count)), len(rows) - 2)
    low, high = rows[place : place + 2]
    share = (count - low.count) / (high.count - low.count)
    seconds, megabytes = (a + share * (b - a) for a, b in zip(low[2:], high[2:], strict=True))
    return max(seconds, 0.0), megabytes


def shown(number: float) -> str:
    """Format a number with three digits."""
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def derived(measured: list[Measured], per_image: dict[str, float]) -> list[tuple[str, ...]]:
    """Return the rows of the table of collections: extrapolated lines, and multiples of the cost of an image."""

    def step(name: str) -> Callable[[int], str]:
        def cell(n: int) -> str:
            seconds, megabytes = at(measured, STEPS[name][0], n)
            return f"{shown(seconds / 60)} min, {shown(megabytes / 1000)} GB"

        return cell

    def hours(each: float) -> Callable[[int], str]:
        return lambda n: f"{shown(n * each / 3600)} h"

    def terabytes(each: float) -> Callable[[int], str]:
        return lambda n: f"{shown(n * each / 1e12)} TB"

    rows: dict[str, Callable[[int], str]] = {
        "label table": lambda n: f"{shown(n * per_image['label_bytes'] / 1e6)} MB",
        "originals": terabytes(per_image["bytes"]),
        "shards at 224 px": terabytes(3 * 224**2),
        "shards at 512 px": terabytes(3 * 512**2),
        "inodes, shards of 1,024": lambda n: (
            f"{shown((n * INODES_PER_IMAGE + n / SHARD * FILES_PER_SHARD) / 1e6)} million"
        ),
        "inventory reads and decodes all, one core": hours(per_image["inventory"]),
        "inventory reads and decodes all, 100 cores": hours(per_image["inventory"] / 100),
        "preprocess to 224 px, one core": hours(per_image["224"]),
        "preprocess to 512 px, one core": hours(per_image["512"]),
        "preprocess to 512 px, 100 cores": hours(per_image["512"] / 100),
        "an epoch of ResNet50 at 224 px, one A100": hours(1 / PUBLISHED),
        "an epoch of ResNet50 at 512 px, one A100": hours((512 / 224) ** 2 / PUBLISHED),
        "inventory, all else": step("inventory"),
        "split": step("split"),
        "organize": step("organize"),
        "open the shards, in each training": step("load"),
        "metrics, table, figure": step("score"),
        "a dry run reads the label table": step("labels"),
        "a dry run lists the folder": step("listing"),
    }
    table = [(title, *(cell(n) for n in COLLECTIONS.values())) for title, cell in rows.items()]
    for size in SHARD_SIZES:
        for title, cell in by_shards(measured, size).items():
            table.append((f"shards of {size:,}: {title}", *(cell(n) for n in COLLECTIONS.values())))
    return table


def by_shards(measured: list[Measured], size: int) -> dict[str, Callable[[int], str]]:
    """Return the rows that depend on the number of shards of ``size`` images."""

    def jobs(n: int) -> int:
        return -(-n // size)

    def planning(n: int) -> str:
        seconds, megabytes = at(measured, PLAN, jobs(n))
        return f"{shown(seconds)} s, {shown(megabytes)} MB"

    def all_jobs(name: str, times: int) -> Callable[[int], str]:
        return lambda n: f"{shown(times * jobs(n) * at(measured, STEPS[name][0], n)[0] / 3600)} h"

    return {
        "jobs": lambda n: f"{jobs(n):,}",
        "they are planned": planning,
        "each finds its images": all_jobs("members", 1),
        "on a cluster each reads the label table twice": all_jobs("labels", 2),
    }


def report(measured: list[Measured], per_image: dict[str, float]) -> str:
    """Return measurements, a row a step, and estimates as Markdown."""
    lines = []
    for step in dict.fromkeys(row.step for row in measured):
        rows = [row for row in measured if row.step == step]
        cells = [f"{row.count:,}: {shown(row.seconds)} s, {row.megabytes:,.0f} MB" for row in rows]
        lines.append((step, *cells, *[""] * (3 - len(cells))))
    rates = ", ".join(f"{key} {value:.4g}" for key, value in per_image.items())
    return "\n\n".join(
        [
            markdown(("step", "few", "more", "most"), lines),
            f"Seconds an image, and bytes: {rates}.",
            markdown(("", *COLLECTIONS), derived(measured, per_image)) + "\n",
        ]
    )


def markdown(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """Return a Markdown table."""
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, ("---",) * len(header), *rows))


def main() -> None:
    """Measure, estimate, print and write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--large", action="store_true", help="also plan 97,656 jobs: five minutes more and 3 GB")
    parser.add_argument("--step", nargs=3, metavar=("STEP", "FOLDER", "COUNT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        step(options.step[0], Path(options.step[1]), int(options.step[2]))
        return
    measured = [row for count in COUNTS for row in steps(count)]
    wanted = [*JOBS, *([97_656] if options.large else [])]
    measured += [dry_run(PLAN, number, number, 1) for number in wanted]
    measured += [dry_run("dry run, shards of 1024", count, count, SHARD) for count in COUNTS]
    measured += [jobs(count) for count in (COUNTS[0], COUNTS[-1])]
    per_image = measure_image()
    per_image["label_bytes"] = sum(len(f"{image},0\n") for image in image_names(COUNTS[-1])) / COUNTS[-1]
    text = report(measured, per_image)
    print(text)
    content = {"date": time.strftime("%Y-%m-%d %H:%M"), "machine": common.machine(), "image": per_image}
    files.write_json(common.TARGET / "scaling.json", {**content, "measured": [row._asdict() for row in measured]})
    with files.whole_file(common.TARGET / "scaling.md") as part:
        part.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
