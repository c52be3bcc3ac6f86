"""What the benchmarks share: photographs to measure with, rounds that alternate, one kind of table."""

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
# QUICK=1 runs each benchmark in seconds, on few and small drawn images: it shows that the script works.
QUICK = os.environ.get("QUICK") == "1"
TARGET = Path(os.environ.get("BENCHMARKS") or ROOT / "results" / ("benchmarks-quick" if QUICK else "benchmarks"))
ROUNDS = int(os.environ.get("ROUNDS", "1" if QUICK else "5"))
PACKAGES = ("snakemake", "keras", "tensorflow", "jax", "torch", "numpy", "opencv-python-headless", "pillow")

Number = TypeVar("Number")


def sized(full: Number, quick: Number) -> Number:
    """``full``, or ``quick`` where each benchmark runs in seconds."""
    return quick if QUICK else full


CLASSES = [f"class{level}" for level in range(5)]
DRAWN_SIZE = sized(1024, 128)
# The article's augmentation, for Keras's ImageDataGenerator.
ARTICLE = {
    "horizontal_flip": True,
    "vertical_flip": True,
    "width_shift_range": 0.1,
    "height_shift_range": 0.1,
    "zoom_range": 0.2,
    "rotation_range": 20,
}
# The same for the workflow.
AUGMENT = AugmentSettings()


class Row(NamedTuple):
    """One line of the table: ours and the other side in ``unit``, medians of the rounds.

    ``figure`` is what the target is about, as a text: usually a ratio. ``reached`` is None where there is no target.
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


def alternate(sides: Mapping[str, Callable[[], int | None]], rounds: int = ROUNDS) -> dict[str, list[float]]:
    """Seconds of each side in each round, divided by what the side returns: how many of a thing it got through.

    Sides take turns, so that a slow moment of the machine meets all of them.
    """
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds):
        order = list(sides) if number % 2 == 0 else list(reversed(sides))
        for name in order:
            start = time.perf_counter()
            count = sides[name]()
            seconds[name].append((time.perf_counter() - start) / (count or 1))
    return seconds


Sides = Mapping[str, Callable[[], int]]


class Elsewhere:
    """Sides of a comparison in a process of their own, as nobody there has told OpenCV or malloc what suits us."""

    def __init__(self, make: Callable[..., Sides], *arguments: object) -> None:
        """``make`` with ``arguments``, all picklable, gives the sides by name."""
        context = multiprocessing.get_context("spawn")
        self._pipe, there = context.Pipe()
        context.Process(target=_serve, args=(there, make, arguments), daemon=True).start()
        self.names: list[str] = self._pipe.recv()

    def sides(self) -> dict[str, Callable[[], int]]:
        """What runs each of them, for ``alternate``."""
        return {name: partial(self._run, name) for name in self.names}

    def _run(self, name: str) -> int:
        self._pipe.send(name)
        count: int = self._pipe.recv()
        return count


def _serve(pipe: Connection, make: Callable[..., Sides], arguments: tuple[object, ...]) -> None:
    sides = make(*arguments)
    pipe.send(list(sides))
    with contextlib.suppress(EOFError):  # whoever asked has ended
        while True:
            pipe.send(sides[pipe.recv()]())


def rates(
    measured: str, seconds: Mapping[str, list[float]], targets: Mapping[str, float | None], unit: str
) -> list[Row]:
    """Rows that compare the side ``ours`` of ``seconds`` with each side of ``targets``: how many times its rate.

    The figure is the median of the ratios within the rounds, which whatever else the machine does disturbs less than a
    ratio of medians.
    """
    rows = []
    for side, least in targets.items():
        pairs = zip(seconds["ours"], seconds[side], strict=True)
        ratio = statistics.median(other / ours for ours, other in pairs)
        ours, other = (1 / statistics.median(seconds[name]) for name in ("ours", side))
        rows.append(Row(measured, side, ours, other, unit, f"{ratio:.3g} x", *judged(ratio, least)))
    return rows


def judged(ratio: float, least: float | None) -> tuple[str, bool | None]:
    """The target in words, and whether it is reached; a ``least`` of 1 means ahead of the other side."""
    if least is None:
        return "", None
    return ("ahead", ratio > 1) if least == 1 else (f"at least {least:g}", ratio >= least)


def publish(name: str, rows: list[Row], notes: Mapping[str, Any], rounds: int = ROUNDS) -> None:
    """Print the rows as a Markdown table and write them with the machine and ``notes`` to ``{name}.json``."""
    print(f"\n## {name}\n\n{markdown(rows)}\n", flush=True)
    for key, value in notes.items():
        print(f"- {key}: {value}")
    now = time.strftime("%Y-%m-%d %H:%M")
    content = {"date": now, "rounds": rounds, "notes": dict(notes), "machine": machine()}
    content["rows"] = [row._asdict() for row in rows]
    write_json(TARGET / f"{name}.json", content)


def markdown(rows: list[Row]) -> str:
    """The rows as a Markdown table."""
    words = {None: "", True: "yes", False: "no"}
    lines = [HEADER, ["---"] * len(HEADER)]
    lines += [(*row[:2], f"{row.ours:.4g}", f"{row.other:.4g}", *row[4:7], words[row.reached]) for row in rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def machine() -> dict[str, Any]:
    """Processor, cores, memory and versions."""
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
    """Images with their levels, and where they are from."""

    name: str
    paths: list[Path]
    levels: list[str]


def collection() -> Collection:
    """960 EyePACS photographs of 1024 px where there are any, or else as many drawn ones."""
    folder = DATA / "eyepacs-1024"
    if folder.is_dir() and not QUICK:
        return _read("EyePACS, 1024 px", folder / "resized train 15", folder / "labels.csv")
    folder = drawn()
    return _read(f"drawn, {DRAWN_SIZE} px", folder / "images", folder / "labels.csv")


def drawn() -> Path:
    """The folder of drawn images, ``images``, and their grades, ``labels.csv``."""
    folder = TARGET / "drawn"
    if not (folder / "labels.csv").is_file():
        images, labels = folder / "images", folder / "labels.csv"
        draw_collection(images, labels, patients=sized(480, 15), first_patient=1, size=DRAWN_SIZE, seed=1)
    return folder


def originals() -> Collection | None:
    """Ten EyePACS photographs as the cameras left them, where there are any."""
    folder = DATA / "eyepacs-original"
    if QUICK or not folder.is_dir():
        return None
    return _read("EyePACS, original", folder / "images", folder / "labels.csv")


def _read(name: str, images: Path, labels: Path) -> Collection:
    with open(labels, newline="", encoding="utf-8") as file:
        levels = {row["image"]: row["level"] for row in csv.DictReader(file)}
    paths = sorted(path for path in images.iterdir() if path.stem in levels)
    return Collection(name, paths, [levels[path.stem] for path in paths])


def index(photographs: Collection, folder: Path) -> Path:
    """The index table of all photographs, which are linked below ``folder``, as `organize` leaves it."""
    rows: list[dict[str, object]] = []
    columns = (*IMAGE_COLUMNS, "patient", "eye")
    for path, level in zip(photographs.paths, photographs.levels, strict=True):
        content = path.read_bytes()
        width, height = Image.open(io.BytesIO(content)).size
        name = f"class{level}"
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / path.name).symlink_to(path.resolve())
        values = (path.stem, path.name, name, width, height, digest(content), path.stem, "")
        rows.append(dict(zip(columns, values, strict=True)))
    write_table(folder / "index.csv", columns, rows)
    return folder / "index.csv"


def shards(
    photographs: Collection, size: int, shard_size: int, folder: Path
) -> tuple[list[Path], list[tuple[Path, Path]]]:
    """Index tables, and shards as (pixels, rows), of all photographs at ``size`` px, as the workflow makes them."""
    table = index(photographs, folder / "organized")
    count = -(-len(photographs.paths) // shard_size)
    files = [(folder / f"{number}.npy", folder / f"{number}.csv") for number in range(count)]
    for number, (pixels, rows) in enumerate(files):
        build_shard(
            ShardJob(table, number, count, Variant(size, "trim", "keep", "none"), pixels, rows, "benchmark", threads=2)
        )
    return [table], files


def repeated(pixels: np.ndarray, count: int, folder: Path) -> tuple[list[Path], list[tuple[Path, Path]]]:
    """Index table and shards of ``count`` photographs: ``pixels``, uint8 (n, size, size, 3), again and again."""
    names = [f"{number}_left" for number in range(count)]
    rows = [
        {"image": name, "filename": f"{name}.jpeg", "grade_name": f"class{n % 5}", "patient": f"{n}", "eye": "left"}
        for n, name in enumerate(names)
    ]
    write_table(folder / "index.csv", ("image", "filename", "grade_name", "patient", "eye"), rows)
    files = []
    for start in range(0, count, 1000):
        some = names[start : start + 1000]
        np.save(folder / f"{start}.npy", np.resize(pixels, (len(some), *pixels.shape[1:])))
        write_table(folder / f"{start}.csv", ROW_COLUMNS, [{"image": name, "digest": ""} for name in some])
        files.append((folder / f"{start}.npy", folder / f"{start}.csv"))
    return [folder / "index.csv"], files


def stand_in(photographs: Collection, count: int, images: Path, labels: Path) -> None:
    """A collection of any size: the same photographs again and again, as both eyes of ever new patients.

    No two files have the same bytes, as the inventory excludes such.
    """
    images.mkdir(parents=True)
    with whole_file(labels) as part:
        lines = ["image,level"]
        for number in range(count):
            place = number % len(photographs.paths)
            name = f"{number // 2}_{'right' if number % 2 else 'left'}"
            lines.append(f"{name},{photographs.levels[place]}")
            if number == place:
                _link(photographs.paths[place], images / f"{name}.jpeg")
            else:
                copy_as(photographs.paths[place].read_bytes(), images / f"{name}.jpeg")
        part.write_text("\n".join(lines) + "\n", encoding="utf-8")


def copy_as(content: bytes, target: Path) -> None:
    """Write the JPEG file ``content`` to ``target``, with its name as a comment, which changes the digest alone."""
    comment = target.name.encode()
    segment = b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment
    target.write_bytes(content[:2] + segment + content[2:])


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # on another file system
        shutil.copyfile(source, target)


def project(folder: Path, config: Mapping[str, Any]) -> Path:
    """A copy of the workflow in ``folder``, configured by ``config``."""
    shutil.copy(ROOT / "Snakefile", folder)
    for name in ("workflow", "profiles", "envs"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "config").mkdir()
    (folder / "config/config.yaml").write_text(yaml.safe_dump(dict(config)), encoding="utf-8")
    return folder


def snakemake(folder: Path, *arguments: str) -> tuple[float, str]:
    """Seconds and output of one call in ``folder``; ends the benchmark if it fails."""
    # The command and not the module: that would search the folder, with all its photographs, for packages.
    command = [str(Path(sys.executable).with_name("snakemake")), *arguments]
    start = time.perf_counter()
    done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        sys.exit(done.stdout)
    return time.perf_counter() - start, done.stdout
