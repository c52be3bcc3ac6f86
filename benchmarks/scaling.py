"""How the stages grow with the number of photographs, up to a million, and what follows for a hundred million.

Of tables, links and Snakemake everything is measured, on label tables and folders of 10,000 to a million made-up names;
of photographs only what one takes, on a few real ones. The last table multiplies: docs/scaling.md says which is which.
Times are processor seconds, which other work on the machine hardly changes, of one run each. The files take up to 2 GB
and three million inodes in the folder for temporary files.

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
from typing import Any, NamedTuple

import numpy as np

import common
from retinaflow import files, tables

COUNTS = (10_000, 100_000, 1_000_000)
JOBS = (1_000, 10_000)
COLLECTIONS = {"EyePACS": 35_126, "1 million": 10**6, "100 million": 10**8}
SHARD_SIZES = (1024, 16_384, 131_072)
SHARD = SHARD_SIZES[0]
# Photographs a second of ResNet-50 at 224 px on one A100, as its maker publishes: a derived figure's only foreign part.
PUBLISHED = 2375
FILES_A_SHARD = 4  # pixels, rows, stamp and log; what is kept for the next time are second names
INODES_A_PHOTOGRAPH = 2  # the photograph and its link
DATA = {"image": "image", "level": "level"}


class Measured(NamedTuple):
    """What one step took with ``count`` photographs or jobs: processor seconds, and MB of memory at most."""

    step: str
    count: int
    seconds: float
    megabytes: float


# Steps, each in a process of its own: what is timed is only what is called last. -------------------------------------


def images(count: int) -> Iterator[str]:
    """Both eyes of ever new patients, as in EyePACS."""
    return (f"{number // 2}_{'right' if number % 2 else 'left'}" for number in range(count))


def label_table(folder: Path, count: int) -> Path:
    """A label table of ``count`` rows."""
    path = folder / "labels.csv"
    if not path.is_file():
        lines = (f"{image},{number // 2 % 5}" for number, image in enumerate(images(count)))
        path.write_text("\n".join(["image,level", *lines]) + "\n", encoding="ascii")
    return path


def read_labels(folder: Path, count: int) -> Callable[[], object]:
    """What every reading of the Snakefile does, of the workflow and of each of its jobs."""
    from retinaflow import labels

    return lambda: labels.read_labels(str(label_table(folder, count)), "image", "level")


def listing(folder: Path, count: int) -> Callable[[], object]:
    """What a dry run does with a folder; the files are empty, as nothing reads them."""
    from retinaflow import archives

    place = folder / "photographs"
    place.mkdir()
    for image in images(count):
        (place / f"{image}.jpeg").touch()
    return lambda: archives.listing(str(place))


def inventory(folder: Path, count: int) -> Callable[[], object]:
    """Everything that an inventory does but reading and decoding the photographs."""
    from retinaflow import headers

    def read(paths: list[str], *_: object) -> list[headers.Header]:
        return [headers.Header(1_000_000, 3888, 2592, files.digest(path.encode())) for path in paths]

    headers._read = read  # type: ignore[assignment]
    time.sleep(headers.SETTLED / 1e9)  # or it would not remember files that new
    return again(folder, count)


def again(folder: Path, count: int) -> Callable[[], object]:
    """The same, as every photograph is known from before."""
    from retinaflow import inventory, labels

    outputs = (folder / name for name in ("inventory.csv", "problems.csv", "kept.json"))
    table, classes = str(label_table(folder, count)), common.CLASSES
    pattern = "(?P<patient>.+)_(?P<eye>left|right)"
    return lambda: inventory.take_inventory(
        *("train", [folder / "photographs"], labels.read_labels(table, "image", "level"), classes, pattern, [], 200, None),
        *(*outputs, "benchmark", 2),
    )


def judge(folder: Path, count: int) -> Callable[[], object]:  # noqa: ARG001
    """The problems of a data set."""
    from retinaflow.verdict import verdict

    return lambda: verdict(folder / "inventory.csv", folder / "problems.csv", {}, 0.05)


def split(folder: Path, count: int) -> Callable[[], object]:  # noqa: ARG001
    """Training and validation."""
    from retinaflow.split import write_split

    outputs = [(folder / "split/train.csv", folder / "split/validation.csv")]
    return lambda: write_split(folder / "inventory.csv", common.CLASSES, 0.2, 0, "patient", 1, outputs)


def organize(folder: Path, count: int) -> Callable[[], object]:  # noqa: ARG001
    """A link for each photograph, and the index; of all of them, as in a test set."""
    from retinaflow.organize import organize

    tree = folder / "organized"
    return lambda: organize(folder / "inventory.csv", common.CLASSES, "symlink", tree, tree / "index.csv")


def find_members(folder: Path, count: int) -> Callable[[], object]:
    """What each job of preprocessing does first: it reads the index for the photographs of its shard."""
    from retinaflow.shards import shard_of

    index, shards = folder / "organized/index.csv", -(-count // SHARD)
    return lambda: sum(shard_of(row["image"], shards) == 0 for row in tables.stream_table(index))


def load(folder: Path, count: int) -> Callable[[], object]:
    """The index of all pixels, in a part of as many shards as there would be; pixels of 1 x 1."""
    from retinaflow.loader import Batches, Photographs
    from retinaflow.shards import ROW_COLUMNS, shard_of

    shards = -(-count // SHARD)
    members: list[list[str]] = [[] for _ in range(shards)]
    for image in images(count):
        members[shard_of(image, shards)].append(image)
    paths = [(folder / f"shards/{number}.npy", folder / f"shards/{number}.csv") for number in range(shards)]
    for names, (pixels, rows) in zip(members, paths, strict=True):
        tables.write_table(rows, ROW_COLUMNS, [{"image": name, "digest": ""} for name in names])
        np.save(pixels, np.zeros((len(names), 1, 1, 3), np.uint8))
    del members
    return lambda: Batches(Photographs([folder / "organized/index.csv"], paths, common.CLASSES), 32, seed=1)


def score(folder: Path, count: int) -> Callable[[], object]:
    """Table, metrics and figure of made-up predictions."""
    from retinaflow.predictions import write_scores

    rng = np.random.default_rng(1)
    actual, probabilities = rng.integers(0, 5, count), rng.dirichlet(np.ones(5), count).astype(np.float32)
    names = [f"{image}.jpeg" for image in images(count)]
    outputs = folder / "predictions.csv", folder / "metrics.json", folder / "confusion_matrix.png"
    return lambda: write_scores("A", "A", "test", names, actual, probabilities, common.CLASSES, 2, *outputs)


def read_scores(folder: Path, count: int) -> Callable[[], object]:  # noqa: ARG001
    """What pooling of folds reads."""
    from retinaflow.predictions import read_predictions

    return lambda: read_predictions(folder / "predictions.csv", common.CLASSES)


# In this order: each finds what those before it left.
STEPS: dict[str, tuple[str, Callable[[Path, int], Callable[[], object]]]] = {
    "labels": ("read the label table (once a Snakefile is read)", read_labels),
    "listing": ("list the folder (dry run)", listing),
    "inventory": ("inventory, all but reading photographs", inventory),
    "again": ("inventory again, nothing changed", again),
    "judge": ("judge the problems", judge),
    "split": ("split", split),
    "organize": ("organize, links", organize),
    "members": ("find the members of one shard (each preprocess job)", find_members),
    "load": ("open the shards (train, score)", load),
    "score": ("metrics, predictions table, figure", score),
    "read_scores": ("read predictions (pool)", read_scores),
}


def step(name: str, folder: Path, count: int) -> None:
    """One step in this process; prints seconds and megabytes as JSON."""
    work = STEPS[name][1](folder, count)
    start = time.process_time()
    result = work()
    seconds = time.process_time() - start
    del result
    import resource

    print(json.dumps([seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024]))


def steps(count: int) -> Iterator[Measured]:
    """All steps with ``count`` photographs."""
    with tempfile.TemporaryDirectory() as folder:
        for name, (title, _) in STEPS.items():
            done = subprocess.run(
                [sys.executable, __file__, "--step", name, folder, str(count)], stdout=subprocess.PIPE, text=True
            )
            if done.returncode:
                sys.exit(f"{name}: failed")
            yield show(Measured(title, count, *json.loads(done.stdout.splitlines()[-1])))


def show(measured: Measured) -> Measured:
    """Say what was measured, as the whole takes minutes."""
    print(f"{measured.step}, {measured.count:,}: {measured.seconds:.2f} s, {measured.megabytes:.0f} MB", flush=True)
    return measured


# Snakemake -----------------------------------------------------------------------------------------------------------

NO_WORK = """
from pathlib import Path

for file in snakemake.output:
    if not Path(file).is_dir():
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        Path(file).write_bytes(b"")
"""


def project(folder: Path, count: int, shard_size: int) -> None:
    """The workflow on ``count`` labels and one photograph: more is not needed to plan, and nothing is to be done."""
    data = {"train": {"images": "photographs", "labels": "labels.csv"}}
    train = {"weights": "random", "batch_norm": "train", "image_size": 32}
    settings = {"data": data, "train": train, "backbones": {"VGG16": {}}, "preprocess": {"shard_size": shard_size}}
    common.project(folder, settings)
    (folder / "photographs").mkdir()
    (folder / "photographs/0_left.jpeg").touch()
    label_table(folder, count)
    for script in (folder / "workflow/scripts").iterdir():
        script.write_text(NO_WORK, encoding="utf-8")


def dry_run(step: str, number: int, count: int, shard_size: int) -> Measured:
    """`snakemake -n` of a first run."""
    with tempfile.TemporaryDirectory() as name:
        project(Path(name), count, shard_size)
        return show(Measured(step, number, *called(Path(name), "-n", "--quiet", "rules")))


def jobs(count: int, shards: int = 40) -> Measured:
    """What a job takes that does nothing, where the label table has ``count`` rows."""
    with tempfile.TemporaryDirectory() as name:
        project(Path(name), count, -(-count // shards))
        before = called(Path(name), "--cores", "2", "--quiet", "all", "--until", "organize")
        after = called(Path(name), "--cores", "2", "--quiet", "all", "--until", "preprocess")
        first, _ = called(Path(name), "--cores", "2", "--quiet", "all", "-n")
        return show(Measured("a job that does nothing", count, (after[0] - first) / shards, max(before[1], after[1])))


def called(folder: Path, *arguments: str) -> tuple[float, float]:
    """Processor seconds, those of its jobs included, and peak MB of one call of snakemake."""
    command = [str(Path(sys.executable).with_name("snakemake")), *arguments]
    with open(folder / "output.txt", "wb") as output:
        process = subprocess.Popen(command, cwd=folder, stdout=output, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit((folder / "output.txt").read_text(encoding="utf-8"))
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


# One photograph ------------------------------------------------------------------------------------------------------


def photograph() -> dict[str, float]:
    """Processor seconds that a photograph takes to read and to preprocess, and its bytes: of originals, if at hand."""
    from retinaflow import headers, preprocess
    from retinaflow.recipe import Recipe

    few = common.originals() or common.collection()
    contents = [path.read_bytes() for path in few.paths]
    with tempfile.TemporaryDirectory() as name:
        paths = list(map(str, few.paths))
        found = headers.read_headers(paths, 200, Path(name) / "kept.json", "benchmark", 1)

        def read() -> int:
            headers.read_headers(paths, 200, Path(name) / "none" / str(time.monotonic_ns()), "benchmark", 1)
            return len(paths)

        def shrink(size: int) -> Callable[[], int]:
            recipe = Recipe(size, "trim", "keep", "none")

            def run() -> int:
                for content, header in zip(contents, found, strict=True):
                    preprocess.prepare(content, int(header.width), int(header.height), recipe)
                return len(contents)

            return run

        seconds = common.alternate({"inventory": read, "224": shrink(224), "512": shrink(512)})
    measured = {key: float(np.median(times)) for key, times in seconds.items()}
    return {**measured, "bytes": float(np.mean([len(content) for content in contents]))}


# What follows --------------------------------------------------------------------------------------------------------


def derived(measured: list[Measured], one: dict[str, float]) -> list[tuple[str, ...]]:
    """Rows of the table of collections: multiples of what was measured with most photographs or jobs."""
    largest = {row.step: row for row in sorted(measured, key=lambda row: row.count)}

    def seconds(name: str, count: float) -> float:
        row = largest[STEPS[name][0] if name in STEPS else name]
        return row.seconds / row.count * count

    def gigabytes(name: str, count: float) -> str:
        row = largest[STEPS[name][0]]
        return f"{row.megabytes / row.count * count / 1000:,.3g}"

    dag = [row for row in sorted(measured, key=lambda row: row.count) if row.step == "dry run, jobs"]
    a_job = (dag[-1].seconds - dag[0].seconds) / (dag[-1].count - dag[0].count)
    a_job_mb = (dag[-1].megabytes - dag[0].megabytes) / (dag[-1].count - dag[0].count)

    def hours(each: float) -> Callable[[int], str]:
        return lambda n: f"{n * each / 3600:,.3g} / {n * each / 360_000:,.3g}"

    rows: dict[str, Callable[[int], str]] = {
        "label table, MB": lambda n: f"{n * LABEL_BYTES / 1e6:,.3g}",
        "originals, TB": lambda n: f"{n * one['bytes'] / 1e12:,.3g}",
        "shards at 224 px, TB": lambda n: f"{n * 3 * 224**2 / 1e12:,.3g}",
        "shards at 512 px, TB": lambda n: f"{n * 3 * 512**2 / 1e12:,.3g}",
        "inventory reads and decodes all: hours on 1 / 100 cores": hours(one["inventory"]),
        "preprocess to 224 px: hours on 1 / 100 cores": hours(one["224"]),
        "preprocess to 512 px: hours on 1 / 100 cores": hours(one["512"]),
        "an epoch of ResNet50 at 224 px, A100: hours": lambda n: f"{n / PUBLISHED / 3600:,.3g}",
        "inventory, all else: minutes, GB": lambda n: (
            f"{seconds('inventory', n) / 60:,.3g}, {gigabytes('inventory', n)}"
        ),
        "split: minutes, GB": lambda n: f"{seconds('split', n) / 60:,.3g}, {gigabytes('split', n)}",
        "organize: minutes, GB": lambda n: f"{seconds('organize', n) / 60:,.3g}, {gigabytes('organize', n)}",
        "open the shards: minutes, GB": lambda n: f"{seconds('load', n) / 60:,.3g}, {gigabytes('load', n)}",
        "metrics and tables: minutes, GB": lambda n: f"{seconds('score', n) / 60:,.3g}, {gigabytes('score', n)}",
        "a dry run reads labels and folder: seconds": lambda n: f"{seconds('labels', n) + seconds('listing', n):,.3g}",
    }
    for size in SHARD_SIZES:
        count = f"shards of {size:,}"

        def shards(n: int, size: int = size) -> int:
            return -(-n // size)

        rows[f"{count}: jobs"] = lambda n, shards=shards: f"{shards(n):,}"
        rows[f"{count}: DAG, seconds, MB"] = lambda n, shards=shards: (
            f"{shards(n) * a_job:,.3g}, {shards(n) * a_job_mb:,.3g}"
        )
        rows[f"{count}: all jobs look for their photographs, core hours"] = lambda n, shards=shards: (
            f"{shards(n) * seconds('members', n) / 3600:,.3g}"
        )
        rows[f"{count}: all jobs read the label table, core hours"] = lambda n, shards=shards: (
            f"{shards(n) * seconds('labels', n) / 3600:,.3g}"
        )
        rows[f"{count}: inodes, million"] = lambda n, shards=shards: (
            f"{(n * INODES_A_PHOTOGRAPH + shards(n) * FILES_A_SHARD) / 1e6:,.4g}"
        )
    return [(title, *(cell(n) for n in COLLECTIONS.values())) for title, cell in rows.items()]


def markdown(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A Markdown table."""
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, ("---",) * len(header), *rows))


def main() -> None:
    """Measure, multiply and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--large", action="store_true", help="plan 97,656 jobs, too: five minutes more and 3 GB")
    parser.add_argument("--step", nargs=3, metavar=("STEP", "FOLDER", "COUNT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        step(options.step[0], Path(options.step[1]), int(options.step[2]))
        return
    measured = [row for count in COUNTS for row in steps(count)]
    wanted = [*JOBS, *([97_656] if options.large else [])]
    measured += [dry_run("dry run, jobs", number, number, 1) for number in wanted]
    measured += [dry_run("dry run, labels", count, count, SHARD) for count in COUNTS]
    measured += [jobs(count) for count in (COUNTS[0], COUNTS[-1])]


if __name__ == "__main__":
    main()
