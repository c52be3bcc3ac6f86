"""Shared by all benchmarks: images to measure with, alternating rounds, and one format of result tables."""

import contextlib
import csv
import io
import multiprocessing
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from importlib import metadata
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import yaml
from PIL import Image

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "workflow"))

from retinaflow.data.demo import draw_collection  # noqa: E402
from retinaflow.preprocessing.preprocess import IMAGE_COLUMNS, ShardJob, build_shard  # noqa: E402
from retinaflow.preprocessing.shards import ROW_COLUMNS  # noqa: E402
from retinaflow.preprocessing.variant import Variant  # noqa: E402
from retinaflow.settings.augment import AugmentSettings  # noqa: E402
from retinaflow.storage.files import digest, whole_file, write_json  # noqa: E402
from retinaflow.storage.tables import write_table  # noqa: E402

DATA = Path(os.environ.get("RETINAFLOW_DATA", ROOT.parent / "shared" / "data"))
# QUICK=1 runs each benchmark in seconds on a few small drawn images, to check that the script works.
QUICK = os.environ.get("QUICK") == "1"
TARGET = Path(os.environ.get("BENCHMARKS") or ROOT / "results" / ("benchmarks-quick" if QUICK else "benchmarks"))
ROUNDS = int(os.environ.get("ROUNDS", "1" if QUICK else "5"))
PACKAGES = ("snakemake", "keras", "tensorflow", "jax", "torch", "numpy", "opencv-python-headless", "pillow")

Number = TypeVar("Number")


def sized(full: Number, quick: Number) -> Number:
    """Return ``full``, or ``quick`` if the environment sets QUICK=1."""
    return quick if QUICK else full


GRADE_NAMES = [f"class{grade}" for grade in range(5)]
# Files of ImageNet weights below DATA.
WEIGHTS = {
    "InceptionV3": "inception_v3_notop_imagenet_fp16.weights.h5",
    "ResNet50": "resnet50_v1.5_notop_imagenet_fp16.weights.h5",
    "VGG16": "vgg16_notop_imagenet_fp16.weights.h5",
}
DRAWN_SIZE = sized(1024, 128)
# The augmentation of the article, for Keras's ImageDataGenerator.
ARTICLE_AUGMENTATION = {
    "horizontal_flip": True,
    "vertical_flip": True,
    "width_shift_range": 0.1,
    "height_shift_range": 0.1,
    "zoom_range": 0.2,
    "rotation_range": 20,
}
# The same augmentation, for the workflow.
AUGMENT = AugmentSettings()


class Row(NamedTuple):
    """One line of a result table. ``ours`` and ``other`` are medians over the rounds.

    Attributes:
        measured: The work that both sides do.
        against: Name of the other side.
        ours: Value of this project in ``unit``.
        other: Value of the other side in ``unit``.
        unit: Such as ``images/s``.
        figure: The value that the target limits, as text; usually a ratio.
        target: The target in words, or an empty text.
        reached: Whether the target is reached, or None without a target.
    """

    measured: str
    against: str
    ours: float
    other: float
    unit: str
    figure: str
    target: str
    reached: bool | None


HEADER = ("measured", "against", "ours", "other", "unit", "figure", "target", "reached")


def alternate(
    sides: Mapping[str, Callable[[], int | None]], rounds: int = ROUNDS, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Time all sides in turns, so that a slow moment of the machine affects all of them.

    Args:
        sides: Functions by name. Each returns the number of items it processed, or None for one item.
        rounds: Number of rounds. Every second round has the reverse order.
        clock: Clock to measure by, in seconds.

    Returns:
        Seconds per item of each side, one value a round.
    """
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds):
        order = list(sides) if number % 2 == 0 else list(reversed(sides))
        for name in order:
            start = clock()
            count = sides[name]()
            seconds[name].append((clock() - start) / (count or 1))
    return seconds


Sides = Mapping[str, Callable[[], int]]


class OtherProcess:
    """Sides that run in a separate process, where this project has not configured OpenCV or malloc."""

    def __init__(self, make: Callable[..., Sides], *arguments: object) -> None:
        """Start the process. There, ``make(*arguments)`` returns the sides by name; all of it is picklable."""
        context = multiprocessing.get_context("spawn")
        self._pipe, other_end = context.Pipe()
        context.Process(target=_serve, args=(other_end, make, arguments), daemon=True).start()
        self.names: list[str] = self._pipe.recv()

    def sides(self) -> dict[str, Callable[[], int]]:
        """Return the functions that ``alternate`` calls."""
        return {name: partial(self._run, name) for name in self.names}

    def _run(self, name: str) -> int:
        self._pipe.send(name)
        count: int = self._pipe.recv()
        return count


def _serve(pipe: Connection, make: Callable[..., Sides], arguments: tuple[object, ...]) -> None:
    sides = make(*arguments)
    pipe.send(list(sides))
    with contextlib.suppress(EOFError):  # the benchmark has ended
        while True:
            pipe.send(sides[pipe.recv()]())


def rates(
    measured: str, seconds: Mapping[str, list[float]], targets: Mapping[str, float | None], unit: str
) -> list[Row]:
    """Compare the rate of the side ``ours`` with the rate of each side of ``targets``.

    The figure is the median over the rounds of the ratio within each round. Other work on the machine disturbs it less
    than a ratio of medians.

    Args:
        measured: The work that all sides do.
        seconds: Seconds per item by side, as ``alternate`` returns them.
        targets: Lowest ratio by name of the other side; None for no target, 1 for "faster".
        unit: Such as ``images/s``.
    """
    rows = []
    for side, least in targets.items():
        pairs = zip(seconds["ours"], seconds[side], strict=True)
        ratio = statistics.median(other / ours for ours, other in pairs)
        ours, other = (1 / statistics.median(seconds[name]) for name in ("ours", side))
        rows.append(Row(measured, side, ours, other, unit, f"{ratio:.3g} x", *compare_with_target(ratio, least)))
    return rows


def compare_with_target(ratio: float, least: float | None) -> tuple[str, bool | None]:
    """Return the target in words, and whether ``ratio`` reaches it. A ``least`` of 1 means faster."""
    if least is None:
        return "", None
    return ("ahead", ratio > 1) if least == 1 else (f"at least {least:g}", ratio >= least)


def publish(name: str, rows: list[Row], notes: Mapping[str, Any], rounds: int = ROUNDS) -> None:
    """Print the rows as a Markdown table. Write them with the machine and ``notes`` to ``{name}.json``."""
    print(f"\n## {name}\n\n{markdown(rows)}\n", flush=True)
    for key, value in notes.items():
        print(f"- {key}: {value}")
    now = time.strftime("%Y-%m-%d %H:%M")
    content = {"date": now, "rounds": rounds, "notes": dict(notes), "machine": machine()}
    content["rows"] = [row._asdict() for row in rows]
    write_json(TARGET / f"{name}.json", content)


def markdown(rows: list[Row]) -> str:
    """Return the rows as a Markdown table."""
    words = {None: "", True: "yes", False: "no"}
    lines = [HEADER, ["---"] * len(HEADER)]
    lines += [(*row[:2], f"{row.ours:.4g}", f"{row.other:.4g}", *row[4:7], words[row.reached]) for row in rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def machine() -> dict[str, Any]:
    """Describe processor, cores, memory and versions of packages."""
    processor = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        models = [line.split(":")[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        processor = models[0] if models else processor
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {
        "processor": processor,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "packages": versions,
    }


class Collection(NamedTuple):
    """Image files with their grades (texts, 0 to 4), and the name of their source."""

    name: str
    paths: list[Path]
    grades: list[str]


def collection() -> Collection:
    """Return 960 EyePACS images of 1024 px if they are available, otherwise 960 drawn images."""
    folder = DATA / "eyepacs-1024"
    if folder.is_dir() and not QUICK:
        return _read("EyePACS, 1024 px", folder / "resized train 15", folder / "labels.csv")
    folder = drawn()
    return _read(f"drawn, {DRAWN_SIZE} px", folder / "images", folder / "labels.csv")


def drawn() -> Path:
    """Return the folder of the drawn images (``images``) and their grades (``labels.csv``); make it once."""
    folder = TARGET / "drawn"
    if not (folder / "labels.csv").is_file():
        images, labels = folder / "images", folder / "labels.csv"
        draw_collection(images, labels, patients=sized(480, 15), first_patient=1, size=DRAWN_SIZE, seed=1)
    return folder


def originals() -> Collection | None:
    """Return ten EyePACS images in their original resolution, or None if they are not available."""
    folder = DATA / "eyepacs-original"
    if QUICK or not folder.is_dir():
        return None
    return _read("EyePACS, original", folder / "images", folder / "labels.csv")


def _read(name: str, images: Path, labels: Path) -> Collection:
    with open(labels, newline="", encoding="utf-8") as file:
        grades = {row["image"]: row["level"] for row in csv.DictReader(file)}
    paths = sorted(path for path in images.iterdir() if path.stem in grades)
    return Collection(name, paths, [grades[path.stem] for path in paths])


def index(source: Collection, folder: Path) -> Path:
    """Link all images below ``folder`` and write the index table, as the rule `organize` does."""
    rows: list[dict[str, object]] = []
    columns = (*IMAGE_COLUMNS, "patient", "eye", "grade")
    for path, grade in zip(source.paths, source.grades, strict=True):
        content = path.read_bytes()
        width, height = Image.open(io.BytesIO(content)).size
        name = GRADE_NAMES[int(grade)]
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / path.name).symlink_to(path.resolve())
        values = (path.stem, path.name, name, width, height, digest(content), path.stem, "", grade)
        rows.append(dict(zip(columns, values, strict=True)))
    write_table(folder / "index.csv", columns, rows)
    return folder / "index.csv"


def shards(source: Collection, size: int, shard_size: int, folder: Path) -> tuple[list[Path], list[tuple[Path, Path]]]:
    """Make shards of all images at ``size`` px, as the workflow does.

    Returns:
        The index tables, and the files (pixels, rows) of each shard.
    """
    table = index(source, folder / "organized")
    count = -(-len(source.paths) // shard_size)
    files = [(folder / f"{number}.npy", folder / f"{number}.csv") for number in range(count)]
    for number, (pixels, rows) in enumerate(files):
        build_shard(
            ShardJob(table, number, count, Variant(size, "trim", "keep", "none"), pixels, rows, "benchmark", threads=2)
        )
    return [table], files


def repeated(pixels: np.ndarray, count: int, folder: Path) -> tuple[list[Path], list[tuple[Path, Path]]]:
    """Make shards of ``count`` images by repeating ``pixels``.

    Args:
        pixels: uint8 (n, size, size, 3).
        count: Number of images.
        folder: Gets all files.

    Returns:
        The index tables, and the files (pixels, rows) of each shard.
    """
    names = [f"{number}_left" for number in range(count)]
    rows = [
        {"image": name, "filename": f"{name}.jpeg", "grade": n % 5, "patient": f"{n}", "eye": "left"}
        for n, name in enumerate(names)
    ]
    write_table(folder / "index.csv", ("image", "filename", "grade", "patient", "eye"), rows)
    files = []
    for start in range(0, count, 1000):
        shard_names = names[start : start + 1000]
        np.save(folder / f"{start}.npy", np.resize(pixels, (len(shard_names), *pixels.shape[1:])))
        write_table(folder / f"{start}.csv", ROW_COLUMNS, [{"image": name, "digest": ""} for name in shard_names])
        files.append((folder / f"{start}.npy", folder / f"{start}.csv"))
    return [folder / "index.csv"], files


def repeat_collection(source: Collection, count: int, images: Path, labels: Path) -> None:
    """Make a collection of ``count`` images by repeating those of ``source``, as both eyes of invented patients.

    All files have different bytes, because the inventory excludes exact copies.
    """
    images.mkdir(parents=True)
    with whole_file(labels) as part:
        lines = ["image,level"]
        for number in range(count):
            place = number % len(source.paths)
            name = f"{number // 2}_{'right' if number % 2 else 'left'}"
            lines.append(f"{name},{source.grades[place]}")
            if number == place:
                _link(source.paths[place], images / f"{name}.jpeg")
            else:
                copy_as(source.paths[place].read_bytes(), images / f"{name}.jpeg")
        part.write_text("\n".join(lines) + "\n", encoding="utf-8")


def copy_as(content: bytes, target: Path) -> None:
    """Write the JPEG file ``content`` to ``target``. A comment with the file name changes the digest, but no pixel."""
    comment = target.name.encode()
    segment = b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment
    target.write_bytes(content[:2] + segment + content[2:])


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copyfile(source, target)


def project(folder: Path, config: Mapping[str, Any]) -> Path:
    """Copy the workflow to ``folder`` and write its configuration."""
    shutil.copy(ROOT / "Snakefile", folder)
    for name in ("workflow", "profiles", "envs"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "config").mkdir()
    (folder / "config/config.yaml").write_text(yaml.safe_dump(dict(config)), encoding="utf-8")
    return folder


def snakemake(folder: Path, *arguments: str) -> tuple[float, str]:
    """Run snakemake in ``folder``. Return seconds and output; end the benchmark if it fails."""
    # The command, because `python -m snakemake` would search the folder, with all its images, for packages.
    command = [str(Path(sys.executable).with_name("snakemake")), *arguments]
    start = time.perf_counter()
    done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        sys.exit(done.stdout)
    return time.perf_counter() - start, done.stdout


def publish_between_markers(document: Path, name: str, text: str, *, script: str) -> None:
    """Write a table between its markers in a document, or at its end if it has none."""
    begin, end = (f"<!-- {word} {name}, by {script} -->" for word in ("begin", "end"))
    before, _, rest = document.read_text(encoding="utf-8").partition(begin)
    with whole_file(document) as part:
        part.write_text(f"{before}{begin}\n\n{text}\n\n{end}{rest.partition(end)[2]}", encoding="utf-8")
