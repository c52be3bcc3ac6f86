"""New images: the pixels that networks get, the answers made of their raw outputs, and images that cannot be graded."""

import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import keras
import numpy as np
import pytest
from PIL import Image

from common import DATA
from dicom_files import dicom_file
from retinaflow.cli import main
from retinaflow.errors import RetinaflowError
from retinaflow.networks import devices
from retinaflow.networks.objectives import width
from retinaflow.preprocessing.batches import Images
from retinaflow.preprocessing.preprocess import IMAGE_COLUMNS, ShardJob, build_shard
from retinaflow.preprocessing.variant import Variant
from retinaflow.scoring.decision_rules import (
    LabelledOutputs,
    apply_decision_rule,
    fit_decision_rule,
    write_decision_rule,
)
from retinaflow.scoring.eyes import average_eyes
from retinaflow.scoring.raw_outputs import RawOutputs, average, read_raw_outputs, write_raw_outputs
from retinaflow.scoring.score import load_model, predict_tta
from retinaflow.serving import predict
from retinaflow.serving.bundle import NOTICE, Bundle, BundledModel, BundledNetwork, read_bundle
from retinaflow.serving.verdict import VERDICT_COLUMNS
from retinaflow.storage.files import digest, write_json
from retinaflow.storage.tables import read_table, write_table

# TensorFlow accepts a number of threads only before its first tensor, which other test files make, too.
devices.prepare_process(seed=0, threads=1)

THREE = ["none", "mild", "severe"]
SIZE = 16
VARIANT = f"{SIZE}-trim-keep-none"
LIMIT = 2**24


def save_model(path: Path, objective: str, seed: int) -> None:
    keras.utils.set_random_seed(seed)
    pixels = keras.Input((SIZE, SIZE, 3), dtype="uint8")
    x = keras.layers.Flatten()(keras.layers.AveragePooling2D(4)(keras.layers.Rescaling(1 / 64, offset=-1)(pixels)))
    activation = {"softmax": "softmax", "ordinal": "sigmoid"}.get(objective)
    path.parent.mkdir(parents=True)
    keras.Model(pixels, keras.layers.Dense(width(objective, 3), activation=activation)(x)).save(path)


def save_decision_rule(path: Path, objective: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    outputs = rng.dirichlet(np.ones(3), 60) if objective == "softmax" else rng.uniform(0, 2, (60, 1))
    patients = [str(number // 2) for number in range(60)]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_decision_rule(
        path,
        fit_decision_rule(
            LabelledOutputs(objective, THREE, outputs, rng.integers(0, 3, 60), patients),
            1,
            referable_sensitivity=0.9,
            seed=seed,
        ),
    )


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of models: one of two folds, one of regression, and the ensemble of both."""
    folder = tmp_path_factory.mktemp("run") / "results"
    networks = []
    for seed, (name, objective, runs) in enumerate(
        [("A", "softmax", ["A/fold-1", "A/fold-2"]), ("B", "regression", ["B"])]
    ):
        for number, run in enumerate(runs):
            save_model(folder / "models" / run / "model.keras", objective, 10 * seed + number)
        save_decision_rule(folder / "models" / name / "decision_rule.json", objective, seed)
        files = [f"{run}/model.keras" for run in runs]
        networks.append(
            {
                **{"name": name, "objective": objective, "variant": VARIANT, "files": files},
                **{"cpu_threads": 1, "backend": keras.backend.backend()},
            }
        )
    save_decision_rule(folder / "models/A+eye_average/decision_rule.json", "softmax", 2)
    save_decision_rule(folder / "models/ensemble/decision_rule.json", "regression", 3)

    def model(name: str, objective: str, *networks: dict[str, Any], eye_average: str | None = None) -> dict[str, Any]:
        rules = {"decision_rule": f"{name}/decision_rule.json", "eye_average": eye_average}
        return {"objective": objective, **rules, "networks": list(networks)}

    write_json(
        folder / "models/bundle.json",
        {
            **{"grade_names": THREE, "patient_pattern": "(?P<patient>.+)_(?P<eye>left|right)", "pixel_limit": 1},
            **{"seed": 1, "tta_views": 2, "fellow_eye_weight": 0.25, "quality_share": 0.05, "quality_threshold": 0.5},
            "best": "A",
            "models": {
                "A": model("A", "softmax", networks[0], eye_average="A+eye_average/decision_rule.json"),
                "B": model("B", "regression", networks[1]),
                "ensemble": model("ensemble", "regression", *networks),
            },
        },
    )
    return folder


@pytest.fixture(scope="module")
def bundle(results: Path) -> Bundle:
    return read_bundle(results / "models/bundle.json")


def encoded(suffix: str, seed: int, height: int = 60, width: int = 80) -> bytes:
    """A bright disc of many colours on black."""
    rng = np.random.default_rng(seed)
    pixels = cv2.resize(rng.integers(60, 256, (6, 8, 3), dtype=np.uint8), (width, height))
    disc = cv2.circle(np.zeros((height, width), np.uint8), (width // 2, height // 2), height // 2 - 4, 255, -1)
    return bytes(cv2.imencode(suffix, cv2.bitwise_and(pixels, pixels, mask=disc))[1])


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder with both eyes of two patients and one eye of a third."""
    folder = tmp_path / "new photos"
    for seed, name in enumerate(["1_left.jpeg", "1_right.png", "2_left.tif", "more/2_right.JPG", "3_left.bmp"]):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(encoded(f".{name.rsplit('.')[1].lower()}", seed, 60 + 8 * seed, 80 + 8 * seed))
    return folder


NAMES = ["1_left.jpeg", "1_right.png", "2_left.tif", "3_left.bmp", "more/2_right.JPG"]


def run(source: Path, bundle: Bundle, model: str, folder: Path) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    tables = folder / "predictions.csv", folder / "patients.csv", folder / "problems.csv"
    predict.predict(predict.PredictJob(str(source), bundle, model, LIMIT, 2, *tables))
    return read_table(tables[0]), read_table(tables[2])


def stored(folder: Path, names: Sequence[str], variant: str, target: Path) -> Images:
    """The images as shards of the workflow."""
    rows = []
    for name in names:
        content = (folder / name).read_bytes()
        (target / "none").mkdir(parents=True, exist_ok=True)
        (target / "none" / Path(name).name).write_bytes(content)
        with Image.open(folder / name) as image:
            size = image.size
        patient, eye = Path(name).stem.split("_")
        values = (Path(name).stem, Path(name).name, "none", *size, digest(content), patient, eye, 0)
        rows.append(dict(zip((*IMAGE_COLUMNS, "patient", "eye", "grade"), values, strict=True)))
    write_table(target / "index.csv", (*IMAGE_COLUMNS, "patient", "eye", "grade"), rows)
    shard = target / "0.npy", target / "0.csv"
    build_shard(ShardJob(target / "index.csv", 0, 1, Variant.parse(variant), *shard, "code"))
    return Images([target / "index.csv"], [shard], THREE)


class Recorder:
    """Stands for a model and keeps the pixels it gets."""

    name = "recorder"

    def __init__(self, size: int) -> None:
        self.input_shape = (None, size, size, 3)
        self.seen: list[np.ndarray] = []

    def predict(self, batches: Any, verbose: int, callbacks: Any) -> np.ndarray:  # noqa: ARG002
        shown = [batches[number][0] for number in range(batches.num_batches)]
        self.seen.append(np.concatenate(shown))
        return np.full((len(self.seen[-1]), 3), 1 / 3)


def shown(folder: Path, names: Sequence[str], variant: str, bundle: Bundle) -> list[np.ndarray]:
    """Pixels of each image that enter a model, in the first view."""
    recorder = Recorder(Variant.parse(variant).size)
    network = BundledNetwork("A", "softmax", variant, [Path()], 1, "tensorflow")
    rule = predict.read_decision_rule(bundle.model("A").decision_rule)
    model = BundledModel("softmax", Path(), None, [network])
    loaded = predict.LoadedModel(bundle._replace(pixel_limit=100), model, [(network, [recorder])], rule, rule)
    answers, problems = predict.grade_files({name: str(folder / name) for name in names}, loaded, 2)
    assert not problems
    assert [answer["image"] for answer in answers] == sorted(names)
    return list(recorder.seen[0])


def same_as_stored(folder: Path, names: Sequence[str], variant: str, bundle: Bundle, target: Path) -> None:
    shards = stored(folder, names, variant, target)
    for name, pixels in zip(sorted(names), shown(folder, names, variant, bundle), strict=True):
        assert pixels.tobytes() == shards[shards.names.index(Path(name).stem)].tobytes()


@pytest.mark.parametrize("variant", [VARIANT, "24-circle-squash-ben_graham", "33-none-keep-clahe"])
def test_pixels_are_equal_to_those_of_the_shards(images, bundle, tmp_path, variant):
    same_as_stored(images, NAMES, variant, bundle, tmp_path / "shard")


@pytest.mark.real
@pytest.mark.skipif(not DATA.is_dir(), reason="no real images")
def test_pixels_of_real_images_are_equal_to_shards(bundle, tmp_path):
    for kind in ("eyepacs-1024/resized train 15", "eyepacs-original/images"):
        names = sorted(path.name for path in (DATA / kind).iterdir())[:12]
        same_as_stored(DATA / kind, names, "224-trim-keep-none", bundle, tmp_path / kind)


def scored(bundle: Bundle, shards: Images, folder: Path) -> dict[str, RawOutputs]:
    """Raw outputs of images in shards, as the tables of the workflow have them."""
    tables = []
    for network in bundle.model("ensemble").networks:
        own = []
        for file in network.files:
            loaded = load_model(file, THREE, objective=network.objective, seed=bundle.seed, threads=1)
            outputs, no_tta = predict_tta(
                loaded, shards, objective=network.objective, tta_views=bundle.tta_views, threads=1
            )
            own.append((folder / f"{len(own)}.csv", network.objective))
            names = shards.names, shards.filenames, shards.patients, shards.eyes, shards.grades
            write_raw_outputs(own[-1][0], RawOutputs(*names, outputs), no_tta)
        tables.append((folder / f"{network.name}.csv", network.objective))
        average(own, tables[-1][0], objective=network.objective, grade_count=3)
    average(tables, folder / "ensemble.csv", objective="regression", grade_count=3)
    tables.append((folder / "ensemble.csv", "regression"))
    return {path.stem: read_raw_outputs(path, objective, grade_count=3) for path, objective in tables}


@pytest.mark.parametrize("model", ["A", "B", "ensemble"])
def test_answers_are_equal_to_those_of_scoring(images, bundle, tmp_path, model, monkeypatch):
    # Chunks of two: both eyes of a patient are not always in memory together.
    monkeypatch.setattr(predict, "PREDICTED", 2)
    rows, problems = run(images, bundle, model, tmp_path / "out")
    assert problems == []
    assert list(rows[0]) == predict.columns(THREE)
    assert [row["image"] for row in rows] == NAMES
    outputs = scored(bundle, stored(images, NAMES, VARIANT, tmp_path / "shard"), tmp_path)[model]
    bundled = bundle.model(model)
    own = apply_decision_rule(predict.read_decision_rule(bundled.decision_rule), outputs.outputs)
    both = apply_decision_rule(
        predict.read_decision_rule(bundled.eye_average or bundled.decision_rule),
        average_eyes(outputs.outputs, outputs.patients, eyes=outputs.eyes, fellow_eye_weight=bundle.fellow_eye_weight),
    )
    for row in rows:
        place = outputs.images.index(Path(row["image"]).stem)
        assert (row["patient"], row["eye"]) == (outputs.patients[place], outputs.eyes[place])
        for of_grade, of_rest, grades in (("predicted_", "", own), ("eye_average_", "eye_average_", both)):
            if of_rest and row["patient"] == "3":
                assert [row[name] for name in predict.EYE_AVERAGE_COLUMNS] == [""] * 3
                continue
            assert float(row[f"{of_rest}severity"]) == pytest.approx(grades.severity[place], abs=1e-6)
            assert int(row[f"{of_grade}grade"]) == grades.predicted[place]
            assert row[f"{of_grade}grade_name"] == THREE[grades.predicted[place]]
        assert row["decision"] == ("refer" if own.referable[place] else "do_not_refer")
        assert int(row["referable"]) == own.referable[place]
        assert (float(row["risk"]) >= float(row["risk_threshold"])) == bool(own.referable[place])
        probabilities = [float(row[f"probability_{name}"]) for name in THREE]
        assert probabilities == pytest.approx(own.probabilities[place].tolist(), abs=1e-6)
        assert float(row["uncertainty"]) == pytest.approx(1 - max(probabilities), abs=1e-6)
        assert int(row["low_quality"]) == (float(row["quality"]) < bundle.quality_threshold)


def test_problems_are_listed_and_other_images_graded(images, bundle, tmp_path, caplog):
    (images / "4_left.jpeg").write_bytes(encoded(".jpeg", 0)[:-100])
    (images / "5_left.jpeg").write_bytes(b"no image")
    (images / "6_left.jpeg").write_bytes(b"")
    (images / "7_left.png").write_bytes(encoded(".png", 0, 1001, 1000))
    (images / "notes.txt").write_text("hello")
    (images / "more/3_LEFT.png").write_bytes(encoded(".png", 0))
    (images / "8_left.jpeg").symlink_to("nowhere")
    with caplog.at_level("INFO"):
        rows, problems = run(images, bundle, "A", tmp_path / "out")
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
    patients = {row["patient"]: row for row in read_table(tmp_path / "out/patients.csv", VERDICT_COLUMNS)}
    verdicts = {name: row["verdict"] for name, row in patients.items() if name in set("45678")}
    assert verdicts == dict.fromkeys("45678", "ungradable_refer")
    assert patients["4"]["ungradable_images"].startswith("4_left.jpeg: truncated, ")
    assert patients["4"]["missing_eyes"] == "right"
    assert all(row["complete"] == ("1" if row["eyes_graded"] == "2" else "0") for row in patients.values())
    counts = "A graded 4 of 12 files"
    assert any(counts in line and "2 duplicate_image, 1 empty, 1 not_an_image" in line for line in caplog.messages)


def test_patient_and_eye_of_dicom_files_are_of_their_tags(bundle, tmp_path):
    folder = tmp_path / "new"
    for name, eye in {"1.2.840.7": "L", "scan.dcm": "R"}.items():
        folder.mkdir(exist_ok=True)
        pixels = cv2.imdecode(np.frombuffer(encoded(".png", ord(eye)), np.uint8), cv2.IMREAD_COLOR)
        (folder / name).write_bytes(dicom_file(pixels, ImageLaterality=eye))
    (folder / "@eaDir").mkdir()
    (folder / "@eaDir/scan.jpg").write_bytes(encoded(".jpeg", 1))
    rows, problems = run(folder, bundle, "A", tmp_path / "out")
    assert [(row["image"], row["patient"], row["eye"]) for row in rows] == [
        ("1.2.840.7", "P17", "left"),
        ("scan.dcm", "P17", "right"),
    ]
    assert all(row["eye_average_grade"] for row in rows)
    (patient,) = read_table(tmp_path / "out/patients.csv", VERDICT_COLUMNS)
    assert (patient["patient"], patient["complete"], patient["images"]) == ("P17", "1", "2")
    assert [(row["image"], row["problem"]) for row in problems] == [("@eaDir/scan.jpg", "other_file")]
    assert "Sommerfeld" not in (tmp_path / "out/predictions.csv").read_text()


def test_image_that_changes_during_the_read_is_listed(images, bundle, tmp_path, monkeypatch):
    read = predict.examine_files

    def change(paths, *options):
        headers = read(paths, *options)
        (images / "1_left.jpeg").write_bytes(encoded(".jpeg", 99))
        return headers

    monkeypatch.setattr(predict, "examine_files", change)
    rows, problems = run(images, bundle, "A", tmp_path / "out")
    assert [row["image"] for row in rows] == NAMES[1:]
    assert [(row["image"], row["problem"]) for row in problems] == [("1_left.jpeg", "unreadable")]
    assert problems[0]["found"].startswith("changed since")


def test_nothing_is_written_if_no_image_can_be_graded(tmp_path, bundle):
    (tmp_path / "new").mkdir()
    with pytest.raises(RetinaflowError, match=r"new: none of 0 files can be graded\. Expected a folder of "):
        run(tmp_path / "new", bundle, "A", tmp_path / "out")
    (tmp_path / "new/1_left.jpeg").write_bytes(b"")
    with pytest.raises(RetinaflowError, match=r"none of 1 files can be graded, first 1_left.jpeg: empty, 0 bytes"):
        run(tmp_path / "new", bundle, "A", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_missing_images_of_a_list_are_problems(images, bundle, tmp_path):
    (tmp_path / "list.csv").write_text(f"image\n{images.name}/1_left.jpeg\n{images.name}/absent.jpeg\n")
    rows, problems = run(tmp_path / "list.csv", bundle, "B", tmp_path / "out")
    assert [(row["image"], row["patient"]) for row in rows] == [("new photos/1_left.jpeg", "1")]
    assert [(row["image"], row["problem"]) for row in problems] == [("new photos/absent.jpeg", "no_image")]


def test_decision_rule_of_other_grades_is_refused(bundle):
    others = bundle._replace(grade_names=["a", "b", "c"])
    with pytest.raises(RetinaflowError, match=r"decision_rule\.json: .* for softmax of none, mild, severe; expected"):
        predict.load_bundled_model(others, "A")


# Without Snakemake --------------------------------------------------------------------------------------------------


@pytest.fixture
def command(results, images, monkeypatch, capsys):
    """Run the command on some of the images; return exit status, output and errors."""
    monkeypatch.chdir(images)
    monkeypatch.setenv("KERAS_BACKEND", keras.backend.backend())

    def call(*arguments):
        status = main(["predict", "--results", str(results), *arguments])
        return status, *capsys.readouterr()

    return call


def test_one_image_is_graded(command):
    status, printed, errors = command("1_left.jpeg")
    assert (status, errors) == (0, "")
    lines = printed.splitlines()
    assert lines[0].startswith("patient 1: ")
    assert "(incomplete: one eye graded)" in lines[0]
    assert "  The right eye has no image." in lines
    (image,) = (line for line in lines if line.startswith("1_left.jpeg: "))
    # The decision of the image is that of the patient.
    assert ("do not refer, risk" in image) == ("Do not refer" in lines[0])
    assert "with the fellow eye" not in printed
    assert printed.endswith(f"A. {NOTICE}\n")


def test_json_has_the_values_of_the_table(command, images, bundle, tmp_path):
    status, printed, errors = command("1_left.jpeg", "1_right.png", "--model", "ensemble", "--json")
    assert (status, errors) == (0, "")
    content = json.loads(printed)
    assert (content["model"], content["problems"]) == ("ensemble", [])
    rows, _ = run(images, bundle, "ensemble", tmp_path / "out")
    for answer, row in zip(content["images"], rows[:2], strict=True):
        assert set(answer) == set(row)
        for name, value in answer.items():
            assert str(value) == row[name] if isinstance(value, str | int) else value == pytest.approx(float(row[name]))


def test_bad_file_is_one_line_and_others_are_graded(command):
    (Path.cwd() / "bad.jpeg").write_bytes(b"")
    status, printed, errors = command("1_left.jpeg", "bad.jpeg", "1_right.png")
    assert status == 1
    assert errors == "error: bad.jpeg: empty, 0 bytes\n"
    assert printed.count("with the fellow eye: grade ") == 2


def test_names_of_any_bytes_are_escaped(command):
    name, bad = "\x1b[31m\u202e\udcff_left.jpeg", "\x1b]0;title\x07.jpeg"
    Path(name).write_bytes(Path("1_left.jpeg").read_bytes())
    Path(bad).write_bytes(b"")
    status, printed, errors = command(name, bad)
    assert status == 1
    assert printed.startswith(r"patient \x1b[31m\u202e\udcff: ")
    assert r"\x1b[31m\u202e\udcff_left.jpeg: " in printed
    assert "\x1b" not in printed
    assert errors.startswith(r"error: \x1b]0;title\x07.jpeg: empty")
    _, printed, _ = command(name, "--json")
    assert printed.isascii()
    assert json.loads(printed)["images"][0]["image"] == name


def test_terminal_of_another_encoding_loses_no_answer(command, monkeypatch):
    name = "é_left.jpeg"
    Path(name).write_bytes(Path("1_left.jpeg").read_bytes())
    screen = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(screen, encoding="ascii", errors="strict"))
    assert command(name)[0] == 0
    sys.stdout.flush()
    assert rb"\xe9_left.jpeg: " in screen.getvalue()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["absent.jpeg"], "error: absent.jpeg: no_image, there is no such file\n"),
        (
            ["1_left.jpeg", "--model", "C"],
            "error: model: 'C' grades no new images; expected one of A, B, ensemble",
        ),
        (["1_left.jpeg", "--results", "nowhere"], "error: nowhere/models/bundle.json: No such file or directory"),
    ],
)
def test_error_is_one_line(command, arguments, message):
    status, _, errors = command(*arguments)
    assert status == 1
    assert errors.startswith(message)
    assert errors.count("\n") == 1
