"""Scores and features by the job that trained a network: those of the later stages, of images that are there."""

import shutil
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from common import ROOT
from configurations import configured
from retinaflow.config.models import Models
from retinaflow.jobs import early_scores
from retinaflow.jobs.code import code_digests
from retinaflow.jobs.early_scores import EarlyScores
from retinaflow.jobs.score_cache import CACHE, FEATURE_ROWS, FEATURE_VALUES, RAW_OUTPUTS, ScoreCache, ScoredFiles
from retinaflow.preprocessing.batches import Images
from retinaflow.scoring.features import FeatureViews, fine_tuned, write_features
from retinaflow.scoring.score import load_model, score_images
from retinaflow.settings.augment import AugmentSettings
from retinaflow.storage.tables import read_table, write_table
from retinaflow.training.job import train_job
from small import THREE, planted, small_job, typed

SCRIPTS = ROOT / "workflow/scripts"


def place(part, results: Path, split: str) -> ScoredFiles:
    """Copy a split to its place in the results folder, with the checksum of each image."""
    (index,), shards = part
    write_table(results / f"organized/{split}/index.csv", list(read_table(index)[0]), read_table(index))
    folder = results / "shards/small" / split
    folder.mkdir(parents=True)
    for number, (pixels, rows) in enumerate(shards):
        array = np.load(pixels)
        np.save(folder / f"{number}.npy", array)
        table = [
            {**row, "checksum": f"{zlib.crc32(image.tobytes()):08x}"}
            for row, image in zip(read_table(rows), array, strict=True)
        ]
        write_table(folder / f"{number}.csv", list(table[0]), table)
    places = [folder / str(number) for number in range(len(shards))]
    return ScoredFiles(
        [results / f"organized/{split}/index.csv"],
        [place.with_suffix(".npy") for place in places],
        [place.with_suffix(".csv") for place in places],
    )


@pytest.fixture
def trained(tmp_path, few_parts, monkeypatch):
    """A trained network with validation images, and the configuration of its later stages."""
    results = tmp_path / "results"
    settings = typed(epochs=1)
    train_job(small_job(results / "models/Tiny", few_parts, settings))
    models = Models({"Tiny": "softmax"}, folds=0, tests=["test"], tta=True, eye_kinds=("eye_stacking",))
    monkeypatch.setattr(early_scores.Models, "of", lambda _: models)
    monkeypatch.setattr(early_scores, "shard_counts", lambda _: {"validation": 2, "test": 2})
    monkeypatch.setattr(early_scores, "variant", lambda *_: SimpleNamespace(name="small"))
    config = configured(results=str(results), data__grade_names=THREE, score__tta_views=2).model_copy(
        update={"models": {"Tiny": settings}}
    )
    scripts = tmp_path / "scripts"
    scripts.mkdir()
    for name in ("score.py", "run_features.py"):
        shutil.copy(SCRIPTS / name, scripts)
    early = EarlyScores(training_run="Tiny", config=config, scripts=scripts, threads=1)
    for script in scripts.iterdir():
        script.write_text("")  # A change during the training does not count.
    return early, place(few_parts[1], results, "validation")


def caches(early: EarlyScores) -> tuple[ScoreCache, ScoreCache]:
    """Caches of raw outputs and of features with the parameters of the two rules."""
    common = {"grade_names": THREE, "objective": "softmax", "seed": early.config.seed}
    common |= {"backend": "tensorflow", "cpu_threads": 1}
    results = Path(early.config.results)
    outputs, features = (code_digests(SCRIPTS / f"{name}.py") for name in ("score", "run_features"))
    return tuple(
        ScoreCache(results / CACHE, results / "models/Tiny/model.keras", {**common, **own})
        for own in ({"code": outputs, "tta_views": 2}, {"code": features, "augment": None, "views": 1})
    )


def test_results_are_those_of_the_later_stages(trained, make_part, tmp_path):
    early, validation = trained
    early.compute()
    outputs, features = caches(early)
    taken, computed = tmp_path / "taken", tmp_path / "computed"
    assert outputs.take(validation, {RAW_OUTPUTS: taken / RAW_OUTPUTS})
    assert features.take(validation, {name: taken / name for name in (FEATURE_VALUES, FEATURE_ROWS)}, move=True)
    model = load_model(Path(early.config.results, "models/Tiny/model.keras"), THREE, seed=1, threads=1)
    images = Images(validation.indices, validation.shards, THREE)
    score_images(model, images, computed / RAW_OUTPUTS, objective="softmax", tta_views=2, threads=2)
    write_features(
        fine_tuned(model),
        images,
        indices=validation.indices,
        views=FeatureViews(1, AugmentSettings(), 1),
        threads=2,
        features=computed / FEATURE_VALUES,
        rows=computed / FEATURE_ROWS,
    )
    for name in (RAW_OUTPUTS, FEATURE_VALUES, FEATURE_ROWS):
        assert (taken / name).read_bytes() == (computed / name).read_bytes()
    # Images of a test set that are there later are scored, and nothing else is computed again.
    test = place(make_part("test", *planted(5, seed=2), classes=THREE), Path(early.config.results), "test")
    assert not outputs.has(test)
    early.compute()
    assert outputs.has(test)
    assert features.has(test)


def test_errors_and_time_limits_leave_scoring_to_the_later_stages(trained, caplog, monkeypatch):
    early, validation = trained
    outputs, _ = caches(early)
    EarlyScores(training_run="Tiny", config=early.config, scripts=SCRIPTS, threads=1, end=0).compute()
    running = Path(early.config.results, CACHE, "Tiny.running")
    running.touch()
    early.compute()
    assert "an earlier job ended while it was scoring" in caplog.text
    assert not running.exists()
    monkeypatch.setattr(early_scores, "load_model", lambda *_, **__: 1 / 0)
    early.compute()
    assert "not scored by the job that trained it: division by zero" in caplog.text
    assert not running.exists()
    assert not outputs.has(validation)
