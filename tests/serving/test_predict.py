"""New photographs: the pixels that networks see, what is made of their outputs, and what cannot be graded."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import keras
import numpy as np
import pytest
from PIL import Image

from common import DATA
from retinaflow.cli import main
from retinaflow.errors import RetinaflowError
from retinaflow.networks import devices
from retinaflow.networks.objectives import width
from retinaflow.preprocessing.batches import Images
from retinaflow.preprocessing.preprocess import IMAGE_COLUMNS, ShardJob, build_shard
from retinaflow.preprocessing.variant import Variant
from retinaflow.scoring.decision_rules import Labelled, fit, grade, write_decision
from retinaflow.scoring.eyes import blend
from retinaflow.scoring.raw_outputs import Outputs, average, read_outputs, write_outputs
from retinaflow.scoring.score import load_model, predict_views
from retinaflow.serving import predict
from retinaflow.serving.bundle import NOTICE, Grader, Graders, Network, read_graders
from retinaflow.storage.files import digest, write_json
from retinaflow.storage.tables import read_table, write_table

# TensorFlow takes a number of threads only until it has made its first tensor, which other test files do, too.
devices.prepare(seed=0, threads=1)

THREE = ["none", "mild", "severe"]
SIZE = 16
RECIPE = f"{SIZE}-trim-keep-none"
LIMIT = 2**24


def save_model(path: Path, objective: str, seed: int) -> None:
    keras.utils.set_random_seed(seed)
    pixels = keras.Input((SIZE, SIZE, 3), dtype="uint8")
    x = keras.layers.Flatten()(keras.layers.AveragePooling2D(4)(keras.layers.Rescaling(1 / 64, offset=-1)(pixels)))
    activation = {"softmax": "softmax", "ordinal": "sigmoid"}.get(objective)
    path.parent.mkdir(parents=True)
    keras.Model(pixels, keras.layers.Dense(width(objective, 3), activation=activation)(x)).save(path)


def save_decision(path: Path, objective: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    outputs = rng.dirichlet(np.ones(3), 60) if objective == "softmax" else rng.uniform(0, 2, (60, 1))
    patients = [str(number // 2) for number in range(60)]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_decision(path, fit(Labelled(objective, THREE, outputs, rng.integers(0, 3, 60), patients), 1, 0.9, seed))


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of models: one of two folds, one that puts out a level, and the average of both."""
    folder = tmp_path_factory.mktemp("run") / "results"
    networks = []
    for seed, (name, objective, runs) in enumerate(
        [("A", "softmax", ["A/fold-1", "A/fold-2"]), ("B", "regression", ["B"])]
    ):
        for number, run in enumerate(runs):
            save_model(folder / "models" / run / "model.keras", objective, 10 * seed + number)
        save_decision(folder / "models" / name / "decision_rule.json", objective, seed)
        models = [f"{run}/model.keras" for run in runs]
        networks.append(
            {
                **{"name": name, "objective": objective, "recipe": RECIPE, "models": models},
                **{"cpu_threads": 1, "backend": keras.backend.backend()},
            }
        )
    save_decision(folder / "models/A+eye_average/decision_rule.json", "softmax", 2)
    save_decision(folder / "models/ensemble/decision_rule.json", "regression", 3)

    def grader(name: str, objective: str, *its: dict[str, Any], blended: str | None = None) -> dict[str, Any]:
        decision = f"{name}/decision_rule.json"
        return {"objective": objective, "decision": decision, "blended": blended, "backbones": list(its)}

    write_json(
        folder / "models/bundle.json",
        {
            **{"classes": THREE, "patient": "(?P<patient>.+)_(?P<eye>left|right)", "pixel_limit": 1, "seed": 1},
            **{"views": 2, "blend_weight": 0.25, "quality_share": 0.05, "quality_cut": 0.5, "best": "A"},
            "graders": {
                "A": grader("A", "softmax", networks[0], blended="A+eye_average/decision_rule.json"),
                "B": grader("B", "regression", networks[1]),
                "ensemble": grader("ensemble", "regression", *networks),
            },
        },
    )
    return folder


@pytest.fixture(scope="module")
def graders(results: Path) -> Graders:
    return read_graders(results / "models/bundle.json")


def encoded(suffix: str, seed: int, height: int = 60, width: int = 80) -> bytes:
    """A bright disc of many colours on black."""
    rng = np.random.default_rng(seed)
    pixels = cv2.resize(rng.integers(60, 256, (6, 8, 3), dtype=np.uint8), (width, height))
    disc = cv2.circle(np.zeros((height, width), np.uint8), (width // 2, height // 2), height // 2 - 4, 255, -1)
    return bytes(cv2.imencode(suffix, cv2.bitwise_and(pixels, pixels, mask=disc))[1])


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """Two patients' both eyes, and one eye of a third."""
    folder = tmp_path / "new photos"
    for seed, name in enumerate(["1_left.jpeg", "1_right.png", "2_left.tif", "more/2_right.JPG", "3_left.bmp"]):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(encoded(f".{name.rsplit('.')[1].lower()}", seed, 60 + 8 * seed, 80 + 8 * seed))
    return folder


NAMES = ["1_left.jpeg", "1_right.png", "2_left.tif", "3_left.bmp", "more/2_right.JPG"]


def run(source: Path, graders: Graders, system: str, folder: Path) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    tables = folder / "predictions.csv", folder / "problems.csv"
    predict.predict(str(source), graders, system, LIMIT, 2, *tables)
    return read_table(tables[0]), read_table(tables[1])


def stored(folder: Path, names: Sequence[str], recipe: str, target: Path) -> Images:
    """The photographs as the workflow makes shards of them."""
    rows = []
    for name in names:
        content = (folder / name).read_bytes()
        (target / "none").mkdir(parents=True, exist_ok=True)
        (target / "none" / Path(name).name).write_bytes(content)
        with Image.open(folder / name) as image:
            size = image.size
        patient, eye = Path(name).stem.split("_")
        values = (Path(name).stem, Path(name).name, "none", *size, digest(content), patient, eye)
        rows.append(dict(zip((*IMAGE_COLUMNS, "patient", "eye"), values, strict=True)))
    write_table(target / "index.csv", (*IMAGE_COLUMNS, "patient", "eye"), rows)
    shard = target / "0.npy", target / "0.csv"
    build_shard(ShardJob(target / "index.csv", 0, 1, Variant.parse(recipe), *shard, "code"))
    return Images([target / "index.csv"], [shard], THREE)


class Recorder:
    """In place of a model: keeps what it is shown."""

    name = "recorder"

    def __init__(self, size: int) -> None:
        self.input_shape = (None, size, size, 3)
        self.seen: list[np.ndarray] = []

    def predict(self, batches: Any, verbose: int) -> np.ndarray:  # noqa: ARG002
        shown = [batches[number][0] for number in range(batches.num_batches)]
        self.seen.append(np.concatenate(shown))
        return np.full((len(self.seen[-1]), 3), 1 / 3)


def shown(folder: Path, names: Sequence[str], recipe: str, graders: Graders) -> list[np.ndarray]:
    """Pixels of each photograph that enter a model, in the first view."""
    recorder = Recorder(Variant.parse(recipe).size)
    network = Network("A", "softmax", recipe, [Path()], 1, "tensorflow")
    decision = predict.read_decision(graders.named("A").decision)
    grader = Grader("softmax", Path(), None, [network])
    loaded = predict.Loaded(grader, [(network, [recorder])], decision, decision)
    graders = graders._replace(pixel_limit=100)
    answers, problems = predict.grade_files({name: str(folder / name) for name in names}, graders, loaded, 2)
    assert not problems
    assert [answer["image"] for answer in answers] == sorted(names)
    return list(recorder.seen[0])


def same_as_stored(folder: Path, names: Sequence[str], recipe: str, graders: Graders, target: Path) -> None:
    shards = stored(folder, names, recipe, target)
    for name, pixels in zip(sorted(names), shown(folder, names, recipe, graders), strict=True):
        assert pixels.tobytes() == shards[shards.names.index(Path(name).stem)].tobytes()


@pytest.mark.parametrize("recipe", [RECIPE, "24-circle-squash-ben_graham", "33-none-keep-clahe"])
def test_pixels_are_those_of_the_shards(photographs, graders, tmp_path, recipe):
    same_as_stored(photographs, NAMES, recipe, graders, tmp_path / "shard")


@pytest.mark.real
@pytest.mark.skipif(not DATA.is_dir(), reason="no real photographs")
def test_pixels_of_real_photographs_are_those_of_the_shards(graders, tmp_path):
    for kind in ("eyepacs-1024/resized train 15", "eyepacs-original/images"):
        names = sorted(path.name for path in (DATA / kind).iterdir())[:12]
        same_as_stored(DATA / kind, names, "224-trim-keep-none", graders, tmp_path / kind)


def scored(graders: Graders, shards: Images, folder: Path) -> dict[str, Outputs]:
    """What the workflow's tables say of photographs that are in shards."""
    tables = []
    for network in graders.named("ensemble").backbones:
        own = []
        for model in network.models:
            loaded = load_model(model, THREE, graders.seed, 1, network.objective)
            said, single = predict_views(loaded, shards, 1, network.objective, graders.views)
            own.append((folder / f"{len(own)}.csv", network.objective))
            names = shards.names, shards.filenames, shards.patients, shards.eyes, shards.grades
            write_outputs(own[-1][0], Outputs(*names, said), single)
        tables.append((folder / f"{network.name}.csv", network.objective))
        average(own, network.objective, 3, tables[-1][0])
    average(tables, "regression", 3, folder / "average.csv")
    tables.append((folder / "average.csv", "regression"))
    return {path.stem: read_outputs(path, objective, 3) for path, objective in tables}


@pytest.mark.parametrize("system", ["A", "B", "ensemble"])
def test_answers_are_those_of_scoring_and_grading(photographs, graders, tmp_path, system, monkeypatch):
    # Also where both eyes are not in memory together.
    monkeypatch.setattr(predict, "PREDICTED", 2)
    rows, problems = run(photographs, graders, system, tmp_path / "out")
    assert problems == []
    assert list(rows[0]) == predict.columns(THREE)
    assert [row["image"] for row in rows] == NAMES
    said = scored(graders, stored(photographs, NAMES, RECIPE, tmp_path / "shard"), tmp_path)[system]
    grader = graders.named(system)
    own = grade(predict.read_decision(grader.decision), said.outputs)
    both = grade(
        predict.read_decision(grader.blended or grader.decision),
        blend(said.outputs, said.patients, said.eyes, graders.blend_weight),
    )
    for row in rows:
        place = said.images.index(Path(row["image"]).stem)
        assert (row["patient"], row["eye"]) == (said.patients[place], said.eyes[place])
        for prefix, grades in (("", own), ("both_", both)):
            if prefix and row["patient"] == "3":
                assert [row[name] for name in predict.BOTH_COLUMNS] == [""] * 4
                continue
            assert float(row[f"{prefix}severity"]) == pytest.approx(grades.severity[place], abs=1e-6)
            assert int(row[f"{prefix}level"]) == grades.level[place]
            assert row[f"{prefix}class"] == THREE[grades.level[place]]
            assert int(row[f"{prefix}referable"]) == grades.referable[place]
        probabilities = [float(row[f"probability_{name}"]) for name in THREE]
        assert probabilities == pytest.approx(own.probabilities[place].tolist(), abs=1e-6)
        assert float(row["uncertainty"]) == pytest.approx(1 - max(probabilities), abs=1e-6)
        assert int(row["low_quality"]) == (float(row["quality"]) < graders.quality_cut)


def test_what_cannot_be_graded_is_listed_and_the_rest_graded(photographs, graders, tmp_path, caplog):
    (photographs / "4_left.jpeg").write_bytes(encoded(".jpeg", 0)[:-100])
    (photographs / "5_left.jpeg").write_bytes(b"no photograph")
    (photographs / "6_left.jpeg").write_bytes(b"")
    (photographs / "7_left.png").write_bytes(encoded(".png", 0, 1001, 1000))
    (photographs / "notes.txt").write_text("hello")
    (photographs / "more/3_LEFT.png").write_bytes(encoded(".png", 0))
    (photographs / "8_left.jpeg").symlink_to("nowhere")
    with caplog.at_level("INFO"):
        rows, problems = run(photographs, graders, "A", tmp_path / "out")
    assert [row["image"] for row in rows] == [name for name in NAMES if name != "3_left.bmp"]
    assert [(row["image"], row["problem"]) for row in problems] == [
        ("3_left.bmp", "duplicate_image"),
        ("4_left.jpeg", "truncated"),
        ("5_left.jpeg", "not_an_image"),
        ("6_left.jpeg", "empty"),
        ("7_left.png", "oversized"),
        ("8_left.jpeg", "unreadable"),
        ("more/3_LEFT.png", "duplicate_image"),
        ("notes.txt", "other_file"),
    ]
    assert all(row["found"] for row in problems)
    told = "A graded 4 of 12 files"
    assert any(told in line and "2 duplicate_image, 1 empty, 1 not_an_image" in line for line in caplog.messages)


def test_a_photograph_that_changes_while_it_is_read_is_listed(photographs, graders, tmp_path, monkeypatch):
    read = predict.read_anew

    def change(paths, *options):
        headers = read(paths, *options)
        (photographs / "1_left.jpeg").write_bytes(encoded(".jpeg", 99))
        return headers

    monkeypatch.setattr(predict, "read_anew", change)
    rows, problems = run(photographs, graders, "A", tmp_path / "out")
    assert [row["image"] for row in rows] == NAMES[1:]
    assert [(row["image"], row["problem"]) for row in problems] == [("1_left.jpeg", "unreadable")]
    assert problems[0]["found"].startswith("changed since")


def test_where_nothing_can_be_graded_nothing_is_written(tmp_path, graders):
    (tmp_path / "new").mkdir()
    with pytest.raises(RetinaflowError, match=r"new: none of 0 files can be graded\. Expected a folder of photographs"):
        run(tmp_path / "new", graders, "A", tmp_path / "out")
    (tmp_path / "new/1_left.jpeg").write_bytes(b"")
    with pytest.raises(RetinaflowError, match=r"none of 1 files can be graded, first 1_left.jpeg: empty, 0 bytes"):
        run(tmp_path / "new", graders, "A", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_list_names_what_is_missing(photographs, graders, tmp_path):
    (tmp_path / "list.csv").write_text(f"image\n{photographs.name}/1_left.jpeg\n{photographs.name}/absent.jpeg\n")
    rows, problems = run(tmp_path / "list.csv", graders, "B", tmp_path / "out")
    assert [(row["image"], row["patient"]) for row in rows] == [("new photos/1_left.jpeg", "1")]
    assert [(row["image"], row["problem"]) for row in problems] == [("new photos/absent.jpeg", "no_image")]


def test_a_decision_of_other_classes_is_refused(graders):
    others = graders._replace(classes=["a", "b", "c"])
    with pytest.raises(RetinaflowError, match=r"decision\.json: decides on softmax of none, mild, severe; expected"):
        predict.load_grader(others, "A")


# Without Snakemake --------------------------------------------------------------------------------------------------


@pytest.fixture
def command(results, photographs, monkeypatch, capsys):
    """Run it on some of the photographs: exit status, what it prints, and what it complains of."""
    monkeypatch.chdir(photographs)
    monkeypatch.setenv("KERAS_BACKEND", keras.backend.backend())

    def call(*arguments):
        status = main(["predict", "--results", str(results), *arguments])
        return status, *capsys.readouterr()

    return call


def test_one_photograph_is_graded(command):
    status, printed, complaints = command("1_left.jpeg")
    assert (status, complaints) == (0, "")
    assert printed.startswith("1_left.jpeg: ")
    assert "by both eyes" not in printed
    assert printed.endswith(f"A. {NOTICE}\n")


def test_figures_are_those_of_the_table(command, photographs, graders, tmp_path):
    status, printed, complaints = command("1_left.jpeg", "1_right.png", "--system", "ensemble", "--json")
    assert (status, complaints) == (0, "")
    told = json.loads(printed)
    assert (told["model"], told["problems"]) == ("ensemble", [])
    rows, _ = run(photographs, graders, "ensemble", tmp_path / "out")
    for answer, row in zip(told["photographs"], rows[:2], strict=True):
        assert set(answer) == set(row)
        for name, value in answer.items():
            assert str(value) == row[name] if isinstance(value, str | int) else value == pytest.approx(float(row[name]))


def test_a_bad_file_is_one_line_and_the_others_are_graded(command):
    (Path.cwd() / "bad.jpeg").write_bytes(b"")
    status, printed, complaints = command("1_left.jpeg", "bad.jpeg", "1_right.png")
    assert status == 1
    assert complaints == "error: bad.jpeg: empty, 0 bytes\n"
    assert printed.count("by both eyes of 1: ") == 2


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["absent.jpeg"], "error: absent.jpeg: no_image, there is no such file\n"),
        (
            ["1_left.jpeg", "--system", "C"],
            "error: system: 'C' grades no new photographs, expected one of A, B, ensemble",
        ),
        (["1_left.jpeg", "--results", "nowhere"], "error: nowhere/models/bundle.json: No such file or directory"),
    ],
)
def test_what_cannot_be_done_is_one_line(command, arguments, told):
    status, _, complaints = command(*arguments)
    assert status == 1
    assert complaints.startswith(told)
    assert complaints.count("\n") == 1
