"""New images: the pixels that networks get, the answers made of their raw outputs, and images that cannot be graded."""

import io
import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from bundles import THREE, VARIANT, weights, write_toy_bundle, write_toy_results
from common import DATA
from dicom_files import dicom_file
from retinaflow.cli import main
from retinaflow.data.headers import Header
from retinaflow.errors import RetinaflowError
from retinaflow.networks.objectives import mean_outputs
from retinaflow.preprocessing.augmentation import write_view
from retinaflow.preprocessing.batches import Images
from retinaflow.preprocessing.preprocess import IMAGE_COLUMNS, ShardJob, build_shard
from retinaflow.preprocessing.variant import Variant
from retinaflow.scoring.decision_rules import apply_decision_rule, read_decision_rule
from retinaflow.scoring.eyes import average_eyes
from retinaflow.serving import predict
from retinaflow.serving.bundle import NOTICE, BundledNetwork, read_bundle
from retinaflow.serving.reading import NewImage
from retinaflow.serving.runtime import LoadedModel, load_bundled_model
from retinaflow.serving.verdict import VERDICT_COLUMNS
from retinaflow.storage.files import digest
from retinaflow.storage.tables import read_table, write_table

LIMIT = 2**24


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with three models: one of two folds, one of regression, and the ensemble of both."""
    return write_toy_results(tmp_path_factory.mktemp("run") / "results")


@pytest.fixture(scope="module")
def models(results: Path) -> dict[str, LoadedModel]:
    return {
        name: load_bundled_model(read_bundle(results / "models" / name / "bundle"), 1)
        for name in ["A", "B", "ensemble"]
    }


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


def run(source: Path, loaded: LoadedModel, folder: Path) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    tables = predict.answer_tables(folder)
    predict.predict(predict.PredictJob(str(source), loaded, LIMIT, 2, tables))
    return read_table(tables.predictions), read_table(tables.problems)


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
    """Stands for the graph of a network and keeps the pixels it gets."""

    def __init__(self) -> None:
        self.seen: list[np.ndarray] = []

    def outputs(self, pixels: np.ndarray, width: int) -> np.ndarray:
        self.seen.append(pixels)
        return np.full((len(pixels), width), 1 / width)


def shown(folder: Path, names: Sequence[str], variant: str, loaded: LoadedModel) -> list[np.ndarray]:
    """Pixels of the images that enter a network, in each view."""
    recorder = Recorder()
    network = BundledNetwork("A", "softmax", variant, ["a.onnx"])
    bundle = loaded.bundle._replace(pixel_limit=100)
    recording = loaded._replace(bundle=bundle, networks=[(network, [recorder])])
    graded = predict.grade_files({name: str(folder / name) for name in names}, recording, 2)
    assert not graded.problems
    assert [answer["image"] for answer in graded.answers] == sorted(names)
    return recorder.seen


def same_as_stored(folder: Path, names: Sequence[str], variant: str, loaded: LoadedModel, target: Path) -> None:
    shards = stored(folder, names, variant, target)
    first, second = shown(folder, names, variant, loaded)
    for name, pixels, mirrored in zip(sorted(names), first, second, strict=True):
        expected = shards[shards.names.index(Path(name).stem)]
        assert pixels.tobytes() == expected.tobytes()
        view = np.empty_like(expected)
        write_view(expected, 1, view)
        assert mirrored.tobytes() == view.tobytes()


@pytest.mark.parametrize("variant", [VARIANT, "24-circle-squash-ben_graham", "33-none-keep-clahe"])
def test_pixels_are_equal_to_those_of_the_shards(images, models, tmp_path, variant):
    same_as_stored(images, NAMES, variant, models["A"], tmp_path / "shard")


@pytest.mark.real
@pytest.mark.skipif(not DATA.is_dir(), reason="no real images")
def test_pixels_of_real_images_are_equal_to_shards(models, tmp_path):
    for kind in ("eyepacs-1024/resized train 15", "eyepacs-original/images"):
        names = sorted(path.name for path in (DATA / kind).iterdir())[:12]
        same_as_stored(DATA / kind, names, "224-trim-keep-none", models["A"], tmp_path / kind)


def expected_outputs(model: str, shards: Images) -> np.ndarray:
    """Raw outputs of images in shards by the weights of the graphs."""
    cells = np.stack([shards[number] for number in range(len(shards))]) / 255
    colours = cells.mean(axis=(1, 2))
    logits = [colours @ weights("softmax", seed) for seed in (0, 1)]
    folds = [np.exp(each) / np.exp(each).sum(axis=1, keepdims=True) for each in logits]
    found = {"A": ("softmax", np.mean(folds, axis=0)), "B": ("regression", colours @ weights("regression", 0))}
    return mean_outputs(list(found.values()), "regression", 3) if model == "ensemble" else found[model][1]


@pytest.mark.parametrize("model", ["A", "B", "ensemble"])
def test_answers_are_those_of_the_decision_rules(images, results, models, tmp_path, model, monkeypatch):
    # Chunks of two: both eyes of a patient are not always in memory together.
    monkeypatch.setattr(predict, "PREDICTED", 2)
    rows, problems = run(images, models[model], tmp_path / "out")
    assert problems == []
    assert list(rows[0]) == predict.columns(THREE)
    assert [row["image"] for row in rows] == NAMES
    shards = stored(images, NAMES, VARIANT, tmp_path / "shard")
    outputs, bundle = expected_outputs(model, shards), models[model].bundle
    names = {"own": model, "both": f"{model}+eye_average" if model == "A" else model}
    rules = {kind: read_decision_rule(results / "models" / name / "decision_rule.json") for kind, name in names.items()}
    own = apply_decision_rule(rules["own"], outputs)
    eyes = average_eyes(outputs, shards.patients, eyes=shards.eyes, fellow_eye_weight=bundle.fellow_eye_weight)
    both = apply_decision_rule(rules["both"], eyes)
    for row in rows:
        place = shards.names.index(Path(row["image"]).stem)
        assert (row["patient"], row["eye"]) == (shards.patients[place], shards.eyes[place])
        for of_grade, of_rest, grades in (("predicted_", "", own), ("eye_average_", "eye_average_", both)):
            if of_rest and row["patient"] == "3":
                assert [row[name] for name in predict.EYE_AVERAGE_COLUMNS] == [""] * 3
                continue
            assert float(row[f"{of_rest}severity"]) == pytest.approx(grades.severity[place], abs=1e-5)
            assert int(row[f"{of_grade}grade"]) == grades.predicted[place]
            assert row[f"{of_grade}grade_name"] == THREE[grades.predicted[place]]
        assert row["decision"] == ("refer" if own.referable[place] else "do_not_refer")
        assert int(row["referable"]) == own.referable[place]
        assert (float(row["risk"]) >= float(row["risk_threshold"])) == bool(own.referable[place])
        probabilities = [float(row[f"probability_{name}"]) for name in THREE]
        assert probabilities == pytest.approx(own.probabilities[place].tolist(), abs=1e-5)
        assert float(row["uncertainty"]) == pytest.approx(1 - max(probabilities), abs=1e-6)
        assert int(row["low_quality"]) == (float(row["quality"]) < bundle.quality_threshold)


def test_eye_average_grades_each_image_with_its_fellow_eye(images, models, tmp_path):
    write_toy_bundle(tmp_path, "A", [("A", "softmax", ["A/fold-1", "A/fold-2"])], eye_average=True)
    rule = tmp_path / "models/A+eye_average/decision_rule.json"
    (tmp_path / "models/A/decision_rule.json").write_text(rule.read_text())
    folder = write_toy_bundle(
        tmp_path, "A+eye_average", [("A", "softmax", ["A/fold-1", "A/fold-2"])], kind="eye_average"
    )
    rows, _ = run(images, load_bundled_model(read_bundle(folder)), tmp_path / "out")
    for row in rows[:4]:
        if row["patient"] != "3":
            assert row["severity"] == row["eye_average_severity"]
    single, _ = run(images, models["A"], tmp_path / "single")
    assert rows[3]["severity"] == single[3]["severity"]  # without fellow eye
    assert rows[0]["severity"] != single[0]["severity"]


def test_useless_model_warns(tmp_path, images, caplog):
    folder = write_toy_bundle(tmp_path, "B", [("B", "regression", ["B"])])
    content = json.loads((folder / "bundle.json").read_text())
    content["evaluation"][0] |= {"quadratic_weighted_kappa": 0.2, "quadratic_weighted_kappa_low": -0.1}
    (folder / "bundle.json").write_text(json.dumps(content))
    run(images, load_bundled_model(read_bundle(folder)), tmp_path / "out")
    assert (
        "B is no better than the answer none for every image: its kappa on 10 images of validation is 0.200 (95 % from"
        in caplog.text
    )


def test_problems_are_listed_and_other_images_graded(images, models, tmp_path, caplog):
    (images / "4_left.jpeg").write_bytes(encoded(".jpeg", 0)[:-100])
    (images / "5_left.jpeg").write_bytes(b"no image")
    (images / "6_left.jpeg").write_bytes(b"")
    (images / "7_left.png").write_bytes(encoded(".png", 0, 1001, 1000))
    (images / "notes.txt").write_text("hello")
    (images / "more/3_LEFT.png").write_bytes(encoded(".png", 0))
    (images / "8_left.jpeg").symlink_to("nowhere")
    with caplog.at_level("INFO"):
        rows, problems = run(images, models["A"], tmp_path / "out")
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


def test_patient_and_eye_of_dicom_files_are_of_their_tags(models, tmp_path):
    folder = tmp_path / "new"
    for name, eye in {"1.2.840.7": "L", "scan.dcm": "R"}.items():
        folder.mkdir(exist_ok=True)
        pixels = cv2.imdecode(np.frombuffer(encoded(".png", ord(eye)), np.uint8), cv2.IMREAD_COLOR)
        (folder / name).write_bytes(dicom_file(pixels, ImageLaterality=eye))
    (folder / "@eaDir").mkdir()
    (folder / "@eaDir/scan.jpg").write_bytes(encoded(".jpeg", 1))
    rows, problems = run(folder, models["A"], tmp_path / "out")
    assert [(row["image"], row["patient"], row["eye"]) for row in rows] == [
        ("1.2.840.7", "P17", "left"),
        ("scan.dcm", "P17", "right"),
    ]
    assert all(row["eye_average_grade"] for row in rows)
    (patient,) = read_table(tmp_path / "out/patients.csv", VERDICT_COLUMNS)
    assert (patient["patient"], patient["complete"], patient["images"]) == ("P17", "1", "2")
    assert [(row["image"], row["problem"]) for row in problems] == [("@eaDir/scan.jpg", "other_file")]
    assert "Sommerfeld" not in (tmp_path / "out/predictions.csv").read_text()


def test_refused_dicom_file_is_an_image_of_its_patient(models, tmp_path):
    pixels = cv2.imdecode(np.frombuffer(encoded(".png", 1), np.uint8), cv2.IMREAD_COLOR)
    (tmp_path / "new").mkdir()
    (tmp_path / "new/a.dcm").write_bytes(dicom_file(pixels, ImageLaterality="L"))
    (tmp_path / "new/b.dcm").write_bytes(dicom_file(np.zeros_like(pixels), ImageLaterality="R"))
    run(tmp_path / "new", models["A"], tmp_path / "out")
    (patient,) = read_table(tmp_path / "out/patients.csv", VERDICT_COLUMNS)
    assert (patient["patient"], patient["images"], patient["missing_eyes"]) == ("P17", "2", "")
    assert patient["ungradable_images"].startswith("b.dcm: blank, ")


def test_nothing_is_written_if_no_image_can_be_graded(tmp_path, models):
    (tmp_path / "new").mkdir()
    with pytest.raises(RetinaflowError, match=r"new: none of 0 files can be graded\. Expected a folder of "):
        run(tmp_path / "new", models["A"], tmp_path / "out")
    (tmp_path / "new/1_left.jpeg").write_bytes(b"")
    with pytest.raises(RetinaflowError, match=r"none of 1 files can be graded, first 1_left.jpeg: empty, 0 bytes"):
        run(tmp_path / "new", models["A"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_missing_images_of_a_list_are_problems(images, models, tmp_path):
    (tmp_path / "list.csv").write_text(f"image\n{images.name}/1_left.jpeg\n{images.name}/absent.jpeg\n")
    rows, problems = run(tmp_path / "list.csv", models["B"], tmp_path / "out")
    assert [(row["image"], row["patient"]) for row in rows] == [("new photos/1_left.jpeg", "1")]
    assert [(row["image"], row["problem"]) for row in problems] == [("new photos/absent.jpeg", "no_image")]


# Without Snakemake --------------------------------------------------------------------------------------------------


@pytest.fixture
def command(results, images, monkeypatch, capsys):
    """Run the command on some of the images; return exit status, output and errors."""
    monkeypatch.chdir(images)

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


def test_json_has_the_values_of_the_table(command, images, models, tmp_path):
    status, printed, errors = command("1_left.jpeg", "1_right.png", "--model", "ensemble", "--json")
    assert (status, errors) == (0, "")
    content = json.loads(printed)
    assert (content["model"], content["problems"]) == ("ensemble", [])
    rows, _ = run(images, models["ensemble"], tmp_path / "out")
    for answer, row in zip(content["images"], rows[:2], strict=True):
        assert set(answer) == set(row)
        for name, value in answer.items():
            if isinstance(value, float):
                assert value == pytest.approx(float(row[name]))
            else:
                assert row[name] == ("" if value is None else str(value))


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
            "error: model: 'C' is no folder with a bundle.json, and no model with a bundle in ",
        ),
        (["1_left.jpeg", "--results", "nowhere"], "error: nowhere: no bundle of a model below nowhere/models."),
    ],
)
def test_error_is_one_line(command, arguments, message):
    status, _, errors = command(*arguments)
    assert status == 1
    assert errors.startswith(message)
    assert errors.count("\n") == 1


def test_folders_archives_and_lists_are_graded_to_tables(command, tmp_path):
    with zipfile.ZipFile(tmp_path / "new.zip", "w") as archive:
        archive.write("1_left.jpeg")
    (tmp_path / "list.txt").write_text(f"{Path.cwd() / '2_left.tif'}\n")
    for source, count in ((".", 5), (str(tmp_path / "new.zip"), 1), (str(tmp_path / "list.txt"), 1)):
        status, printed, errors = command(source, "--output", str(tmp_path / "out"))
        assert (status, errors) == (0, "")
        assert printed.startswith(f"{count} images graded by A; see ")
        tables = predict.answer_tables(tmp_path / "out")
        assert len(read_table(tables.predictions)) == count
        assert len(read_table(tables.patients, VERDICT_COLUMNS)) == (3 if count == 5 else 1)
    status, printed, _ = command("more", "3_left.bmp", "--json")
    assert [answer["image"] for answer in json.loads(printed)["images"]] == ["3_left.bmp", "more/2_right.JPG"]


def test_copied_bundle_grades_alone(command, results, tmp_path):
    shutil.copytree(results / "models/B/bundle", tmp_path / "copy")
    status, printed, errors = command("1_left.jpeg", "--model", str(tmp_path / "copy"))
    assert (status, errors) == (0, "")
    assert printed.endswith(f"B. {NOTICE}\n")


# A program that refuses all packages that the extra ``predict`` and the base installation do not bring.
ALONE = """
import importlib.abc, sys
class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.split(".")[0] in REFUSED:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
REFUSED = set(sys.argv.pop(1).split(","))
sys.meta_path.insert(0, Refuse())
from retinaflow.cli import main
sys.exit(main(sys.argv[1:]))
"""
OTHERS = [
    "tensorflow",
    "keras",
    "tf2onnx",
    "onnx",
    "pandas",
    "scipy",
    "sklearn",
    "pydantic",
    "snakemake",
    "matplotlib",
    "yaml",
    "jinja2",
    "openpyxl",
    "xlrd",
    "fastapi",
]


def test_prediction_needs_no_other_package(images, results, tmp_path):
    command = [sys.executable, "-c", ALONE, ",".join(OTHERS), "predict", "--results", str(results)]
    done = subprocess.run(
        [*command, str(images), "--output", str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert len(read_table(predict.answer_tables(tmp_path).predictions)) == 5


def test_list_names_patients_and_eyes(images, models, tmp_path):
    table = tmp_path / "new photos/list.csv"
    names = ["1_left.jpeg", "more/2_right.JPG", "P1/OD.png", "P2/OD.png", "gone.png"]
    for number, name in enumerate(names[2:4]):
        (images / name).parent.mkdir()
        (images / name).write_bytes(encoded(".png", 20 + number))
    eyes = [("Z 7", "OS"), ("", ""), ("P1", "R"), ("P2", "1"), ("P2", "left")]
    rows = [{"Image": name, "patient": patient, "eye": eye} for name, (patient, eye) in zip(names, eyes, strict=True)]
    write_table(table, list(rows[0]), rows)
    answers, problems = run(table, models["A"], tmp_path / "out")
    assert {row["image"]: (row["patient"], row["eye"]) for row in answers} == {
        "1_left.jpeg": ("Z 7", "left"),
        "more/2_right.JPG": ("2", "right"),
        "P1/OD.png": ("P1", "right"),
        "P2/OD.png": ("P2", "right"),
    }
    assert [row["problem"] for row in problems] == ["no_image"]
    patients = {row["patient"]: row for row in read_table(tmp_path / "out/patients.csv")}
    assert patients["P2"]["ungradable_images"].startswith("gone.png")
    assert (
        main(["predict", "--model", str(models["A"].bundle.folder), str(table), "--output", str(tmp_path / "c")]) == 1
    )
    assert read_table(tmp_path / "c/predictions.csv") == answers

    for row in rows:
        row["eye"] = "middle"
    write_table(table, list(rows[0]), rows)
    with pytest.raises(RetinaflowError, match=r"row 2 has 'middle' as the eye\. Expected left or right"):
        run(table, models["A"], tmp_path / "out")


@pytest.mark.parametrize(
    ("eyes", "duplicates"),
    [([("P1", "left"), ("P1", "right")], 0), ([("P1", "left")] * 2, 2), ([("", "left"), ("", "right")], 2)],
)
def test_files_of_a_list_with_one_name(eyes, duplicates, models, tmp_path):
    names = ["1/image.png", "2/image.png"]
    for seed, name in enumerate(names):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(encoded(".png", seed))
    files = {name: str(tmp_path / name) for name in names}
    graded = predict.grade_files(files, models["A"], 1, listed=dict(zip(names, eyes, strict=True)))
    assert [problem["problem"] for problem in graded.problems] == ["duplicate_image"] * duplicates
    assert len(graded.answers) == 2 - duplicates


def test_trained_images_are_marked(images, tmp_path, capsys):
    content = (images / "1_left.jpeg").read_bytes()
    write_table(tmp_path / "index.csv", ("digest",), [{"digest": digest(content)}])
    folder = write_toy_bundle(tmp_path, "A", [("A", "softmax", ["A"])], indices=[tmp_path / "index.csv"])
    assert main(["predict", "--model", str(folder), str(images), "--output", str(tmp_path / "out")]) == 0
    rows = {row["image"]: row["trained_on"] for row in read_table(tmp_path / "out/predictions.csv")}
    assert rows.pop("1_left.jpeg") == "1"
    assert set(rows.values()) == {"0"}
    assert "A was trained or validated on 1 of 5 images (1_left.jpeg)" in capsys.readouterr().err


def test_eye_of_a_list_must_be_that_of_the_file():
    images = [NewImage(name, "", Header(eye=eye), {}) for name, eye in (("a", "left"), ("b", "right"), ("c", ""))]
    listed = dict.fromkeys("abc", ("1", "right"))
    found = predict._wrong_eyes(images, listed)
    assert found == {"a": ("wrong_eye", "the file says left eye, and the list says right eye")}
