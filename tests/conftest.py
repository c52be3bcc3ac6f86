"""Fixtures of several test files: the folder of real images, and small splits in the form of earlier stages."""

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings

from common import CLASSES, DATA, ROOT, Part
from retinaflow.storage.files import digest
from retinaflow.storage.tables import write_table

# Hide the start-up messages of TensorFlow.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# JAX compiles each operation that creates a weight. With a cache, the next process does not compile it again.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".pytest_cache/jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

# Select the profile with more cases by HYPOTHESIS_PROFILE=thorough or --hypothesis-profile=thorough.
# Without deadlines, since other work on the machine slows a test.
settings.register_profile("usual", deadline=None)
settings.register_profile("thorough", max_examples=2000, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "usual"))


# Files whose tests train, load or convert networks, draw or damage many images, or check all files. `make test-unit`
# skips them.
TRAINS = {
    "benchmarks/test_methods.py",
    "data/test_demo.py",
    "data/test_dicom.py",
    "jobs/test_resources.py",
    "networks/test_backends.py",
    "networks/test_building.py",
    "networks/test_devices.py",
    "networks/test_extractors.py",
    "networks/test_optimizers.py",
    "networks/test_parallel.py",
    "networks/test_weights.py",
    "reporting/test_illustrations.py",
    "scoring/test_score.py",
    "serving/test_convert.py",
    "serving/test_export.py",
    "training/test_article_defects.py",
    "training/test_earlier_model.py",
    "training/test_early_scores.py",
    "training/test_shared.py",
    "training/test_soft_labels.py",
    "training/test_tracking.py",
    "training/test_train.py",
    "training/test_trained.py",
    "test_lint.py",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of the files in ``TRAINS``."""
    for item in items:
        if item.path.relative_to(ROOT / "tests").as_posix() in TRAINS:
            item.add_marker("trains")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option for the number of rounds of kills."""
    parser.addoption("--rounds", type=int, default=1, help="number of rounds of eleven kills each")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real images, labels and weights."""
    if not DATA.is_dir():
        pytest.skip(f"no real images at {DATA}; set RETINAFLOW_DATA to their folder")
    return DATA


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Yield Chromium. The tests are skipped with the reason if it is missing."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: make test-browser")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("Chromium is not installed: apt-get install chromium")
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def make_part(tmp_path: Path) -> Callable[..., Part]:
    """Write the index table and shards of a split with given pixels, and return their paths."""

    def make(
        name: str, pixels: np.ndarray, levels: Sequence[int], shards: int = 2, classes: Sequence[str] = CLASSES
    ) -> Part:
        folder = tmp_path / name
        images = [f"{name}{number}_left" for number in range(len(levels))]
        write_table(
            folder / "index.csv",
            ("image", "filename", "grade_name", "grade", "patient", "eye", "digest"),
            [
                {
                    "image": image,
                    "filename": f"{image}.jpeg",
                    "grade_name": classes[level],
                    "grade": level,
                    "patient": image.removesuffix("_left"),
                    "eye": "left",
                    "digest": digest(pixels[number].tobytes()),
                }
                for number, (image, level) in enumerate(zip(images, levels, strict=True))
            ],
        )
        files = []
        for shard in range(shards):
            rows = list(range(shard, len(levels), shards))
            np.save(folder / f"{shard}.npy", pixels[rows])
            write_table(
                folder / f"{shard}.csv",
                ("image", "digest"),
                [{"image": images[row], "digest": digest(pixels[row].tobytes())} for row in rows],
            )
            files.append((folder / f"{shard}.npy", folder / f"{shard}.csv"))
        return [folder / "index.csv"], files

    return make
