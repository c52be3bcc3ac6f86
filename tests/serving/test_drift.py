"""Drift of new images: planted drift is found, images without drift rarely are, and no name is kept."""

import functools
import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from bundles import save_decision_rule, write_toy_bundle
from retinaflow.cli import main
from retinaflow.data.demo import draw_image
from retinaflow.errors import RetinaflowError
from retinaflow.scoring.raw_outputs import RawOutputs, write_raw_outputs
from retinaflow.serving.drift import (
    DRIFT_COLUMNS,
    REFERENCE_FILE,
    DriftReference,
    ReferenceSample,
    SeenImage,
    compare_folders,
    drift_rows,
    drift_text,
    image_figures,
    one_of_each,
    parse_reference,
    patient_values,
    write_drift_values,
)
from retinaflow.serving.drift_reference import ReferenceSources, fit_reference
from retinaflow.serving.gates import CELLS, fit_fundus_gate, thumbnail_features, unseen_distances
from retinaflow.serving.reading import read_new_images
from retinaflow.storage.tables import read_table, write_table

VARIANT = "64-none-squash-none"


def drawn(patients, rng):
    """Figures of both eyes of patients. The eyes are alike, and so are the figures."""
    person = np.repeat(rng.normal(0, 1, (patients, 4)) @ rng.normal(0, 1, (4, 8)), 2, axis=0)
    values = person + rng.normal(0, 0.3, person.shape)
    names = ("focus", "exposure", "field", "short_side", "red", "blue", "unlikeness", "risk")
    return [
        SeenImage(f"{rng.random()}", f"p{place // 2}", dict(zip(names, row, strict=True)))
        for place, row in enumerate(values.tolist())
    ]


def reference_of(images):
    samples = {name: ReferenceSample(values, len(values)) for name, values in patient_values(images).items()}
    return DriftReference("0" * 32, samples)


def test_false_alarms_are_as_rare_as_the_level():
    rng = np.random.default_rng(0)
    single, lowest = [], []
    for _ in range(150):
        images = drawn(230, rng)
        rows = drift_rows(patient_values(images[300:]), reference_of(images[:300]))
        single += [row["p_value"] for row in rows]
        lowest.append(min(row["corrected_p_value"] for row in rows))
    assert np.mean(np.array(single) < 0.05) == pytest.approx(0.05, abs=0.02)
    assert 0 < np.mean(np.array(lowest) < 0.05) < 0.08
    assert np.mean(np.array(lowest) < 0.01) < 0.03


def test_one_shifted_figure_is_found_alone():
    rng = np.random.default_rng(1)
    images = drawn(400, rng)
    moved = [image._replace(figures={**image.figures, "risk": image.figures["risk"] + 2}) for image in images[600:]]
    rows = {row["figure"]: row for row in drift_rows(patient_values(moved), reference_of(images[:600]))}
    assert [name for name, row in rows.items() if row["drift"]] == ["risk"]
    assert rows["risk"]["distance"] > rows["risk"]["detectable_distance"] > rows["focus"]["distance"]
    assert drift_text(list(rows.values())).startswith(
        "drift: 100 patients differ from those of the training set in risk"
    )


def test_few_patients_have_no_p_value():
    images = drawn(119, np.random.default_rng(2))
    rows = drift_rows(patient_values(images[200:]), reference_of(images[:200]))
    assert {(row["patients"], row["p_value"], row["drift"]) for row in rows} == {(19, None, None)}
    assert drift_text(rows) == ""
    assert drift_rows({}, reference_of(images)) == []


def test_one_image_of_each_patient_is_used_and_no_eye_is_preferred():
    names = [f"{number}_{eye}" for number in range(400) for eye in ("left", "right")]
    patients = [name.split("_")[0] for name in names]
    chosen = one_of_each(patients, names)
    assert [patients[place] for place in chosen] == list(dict.fromkeys(patients))
    assert 0.4 < np.mean([names[place].endswith("left") for place in chosen]) < 0.6
    again = one_of_each(patients[::-1], names[::-1])
    assert {names[::-1][place] for place in again} == {names[place] for place in chosen}


def test_distances_of_unseen_images_are_those_of_new_ones():
    rng = np.random.default_rng(3)
    mixing = rng.normal(size=(10, 7 * CELLS**2))
    real = rng.normal(size=(1200, 10)) @ mixing + rng.normal(size=(1200, 7 * CELLS**2))
    known = unseen_distances(real[:300], np.arange(300) % 10)
    new = fit_fundus_gate(real[:300]).distance(real[300:])
    assert np.median(known) == pytest.approx(np.median(new), rel=0.03)


def test_equal_values_of_both_sides_have_no_distance():
    images = [SeenImage(str(number), str(number), {"risk": 1 / 3}) for number in range(30)]
    reference = DriftReference("0" * 32, {"risk": ReferenceSample(np.full(30, 0.333333), 30)})
    (row,) = drift_rows(patient_values(images), reference)
    assert row["distance"] == 0


# From files of images to the table.


@functools.cache
def fundus_image(number, eye):
    return draw_image(number % 5, eye, size=160, rng=np.random.default_rng(number))


def captured(folder, numbers, change=lambda pixels: pixels):
    """Draw both eyes of patients, change the pixels as another camera would, and read the files."""
    folder.mkdir()
    files = []
    for number in numbers:
        for eye in ("left", "right"):
            path = folder / f"{number}_{eye}.png"
            cv2.imwrite(str(path), change(fundus_image(number, eye))[..., ::-1])
            files.append((path.stem, str(path)))
    images = read_new_images(files, [VARIANT], 1, 2)
    assert not [image.header.problem for image in images if image.header.problem]
    return images


@pytest.fixture(scope="module")
def training(tmp_path_factory):
    """Training images, and the files that their figures are read from."""
    folder = tmp_path_factory.mktemp("training")
    images = captured(folder / "images", range(80))
    names = [image.name for image in images]
    rows = [
        {
            **{name: getattr(image.header, name) for name in ("focus", "exposure", "field", "width", "height")},
            **{"image": image.name, "patient": image.name.split("_")[0], "problem": ""},
        }
        for image in images
    ]
    write_table(folder / "train.csv", list(rows[0]), rows)
    np.save(folder / "0.npy", np.stack([image.pixels[VARIANT] for image in images]))
    write_table(folder / "0.csv", ["image"], [{"image": name} for name in names])
    rng = np.random.default_rng(4)
    outputs = rng.dirichlet(np.ones(3), len(images))
    raw = RawOutputs(
        names, names, [row["patient"] for row in rows], [""] * len(rows), np.zeros(len(rows), int), outputs
    )
    write_raw_outputs(folder / "raw.csv", raw)
    save_decision_rule(folder / "decision_rule.json", "softmax", 1)
    sources = ReferenceSources(
        inventory=folder / "train.csv",
        shards=[folder / "0.npy"],
        rows=[folder / "0.csv"],
        raw_outputs=folder / "raw.csv",
        output_kind="output",
        decision_rule=folder / "decision_rule.json",
    )
    return images, sources


@pytest.fixture(scope="module")
def reference(training):
    return parse_reference(json.dumps(fit_reference(training[1])).encode(), "bundle/drift_reference.json")


def found_in(images, training, reference):
    """Figures that have drifted."""
    fundus = fit_fundus_gate(thumbnail_features([image.pixels[VARIANT] for image in training[0]]))
    features = [thumbnail_features([image.pixels[VARIANT]]) for image in images]
    seen = [
        SeenImage(
            image.name, image.name.split("_")[0], image_figures(image.header, own, float(fundus.distance(own)[0]))
        )
        for image, own in zip(images, features, strict=True)
    ]
    return {row["figure"] for row in drift_rows(patient_values(seen), reference) if row["drift"]}


def blurred(pixels):
    return cv2.GaussianBlur(pixels, (0, 0), 3)


def darker(pixels):
    return (pixels * 0.5).astype(np.uint8)


def other_camera(pixels):
    """More green, less blue, and a larger sensor."""
    changed = np.clip(pixels * [0.85, 1.1, 0.6], 0, 255).astype(np.uint8)
    return cv2.resize(changed, None, fx=1.5, fy=1.5, interpolation=cv2.INTER_CUBIC)


@pytest.mark.parametrize(
    ("change", "expected"),
    [(blurred, {"focus"}), (darker, {"exposure"}), (other_camera, {"blue", "unlikeness", "short_side"})],
)
def test_planted_drift_of_images_is_found(change, expected, training, reference, tmp_path):
    assert expected <= found_in(captured(tmp_path / "new", range(200, 230), change), training, reference)


def test_images_without_drift_are_not_found(training, reference, tmp_path):
    assert found_in(captured(tmp_path / "new", range(200, 240)), training, reference) == set()


def test_reference_is_small_and_has_one_value_a_patient(training):
    content = fit_reference(training[1])
    assert {sample["patients"] for sample in content.values()} == {80}
    assert set(content) == {"focus", "exposure", "field", "short_side", "red", "blue", "unlikeness", "risk"}
    text = json.dumps(content)
    assert len(text) < 20_000
    assert "left" not in text
    assert "risk" not in fit_reference(replace(training[1], raw_outputs=None))


def test_images_of_one_patient_are_no_reference(training, tmp_path):
    rows = [{**row, "patient": "1"} for row in read_table(training[1].inventory)]
    write_table(tmp_path / "train.csv", list(rows[0]), rows)
    assert fit_reference(replace(training[1], inventory=tmp_path / "train.csv", raw_outputs=None)) == {}


def test_damaged_reference_is_one_error():
    for content in (b"[]", b'{"focus": {"values": [], "patients": 3}}', b'{"smell": {"values": [1], "patients": 3}}'):
        with pytest.raises(RetinaflowError, match=r"bundle/drift_reference.json.*Copy the whole bundle again"):
            parse_reference(content, "bundle/drift_reference.json")


# The command.


@pytest.fixture
def answers(tmp_path, training, monkeypatch):
    """A bundle with the figures of the training images, and two folders of images; the second is darker."""
    monkeypatch.chdir(tmp_path)
    inventory = read_table(training[1].inventory)
    rows = [{**row, "quality": "0.5"} for row in inventory]
    folder = write_toy_bundle(tmp_path / "results", "A", [("A", "softmax", ["A"])], inventory=rows)
    captured(tmp_path / "may", range(200, 225))
    captured(tmp_path / "june", range(215, 240), darker)
    return folder


@pytest.mark.usefixtures("answers")
def test_command_compares_folders_over_time(tmp_path, capsys):
    found = {"may": "no drift was found in 4 figures of 25 patients", "june": "drift: 25 patients differ"}
    for month, text in found.items():
        main(["predict", month, "--output", f"{month}-answers"])
        assert text in capsys.readouterr().out
        rows = read_table(tmp_path / f"{month}-answers/drift.csv", DRIFT_COLUMNS)
        assert {row["figure"]: row["drift"] for row in rows}["exposure"] == str(int(month == "june"))
        kept = (tmp_path / f"{month}-answers/drift_values.json").read_text()
        assert not [name for name in ("left", "right", "20", "23") if f"{name}_" in kept or f'"{name}' in kept]
        assert all(values == sorted(values) for values in json.loads(kept)["figures"].values())
    assert main(["drift", "may-answers", "june-answers", "--table", "drift.csv"]) == 0
    printed = capsys.readouterr().out
    assert printed.index("may-answers") < printed.index("june-answers") < printed.index("all\n")
    table = {(row["answers"], row["figure"]): row for row in read_table(tmp_path / "drift.csv")}
    assert [table[source, "exposure"]["drift"] for source in ("may-answers", "june-answers", "all")] == ["0", "1", "1"]
    assert table["all", "exposure"]["patients"] == "50"


@pytest.mark.usefixtures("answers")
def test_risk_by_the_rule_of_one_training_set_is_no_value(tmp_path):
    write_toy_bundle(tmp_path / "joined", "A", [("A", "softmax", ["A"])], data_sets=["a", "b"])
    figures = {}
    for name, options in (("all", []), ("own", ["--data-set", "a"])):
        main(["predict", "may", "--results", "joined", "--output", name, *options])
        figures[name] = set(json.loads((tmp_path / name / "drift_values.json").read_text())["figures"])
    assert figures["all"] - figures["own"] == {"risk"}


def test_folder_of_any_name_is_compared(answers, tmp_path):
    reference = parse_reference((answers / REFERENCE_FILE).read_bytes(), "x")
    for name, value in (("all", 0.1), ("june", 0.2)):
        (tmp_path / name).mkdir(exist_ok=True)
        values = {"focus": np.full(30, value)}
        write_drift_values(tmp_path / name / "drift_values.json", values, model="A", reference=reference)
    found = compare_folders([Path("all"), Path("june")], reference, "A")
    assert [(folder, rows[0]["patients"]) for folder, rows in found] == [("all", 30), ("june", 30), ("all", 60)]


def test_answers_of_another_training_are_one_error(answers, tmp_path, capsys):
    reference = parse_reference((answers / REFERENCE_FILE).read_bytes(), "x")
    write_drift_values(tmp_path / "drift_values.json", {}, model="A", reference=reference._replace(digest="1" * 32))
    with pytest.raises(RetinaflowError, match="answers are of another training of A; expected those of this bundle"):
        compare_folders([tmp_path], reference, "A")
    assert main(["drift", "nowhere"]) == 1
    expected = "nowhere/drift_values.json: No such file or directory; expected the values that `retinaflow predict"
    assert expected in capsys.readouterr().err


def test_bundle_without_figures_still_grades(answers, tmp_path, capsys):
    content = json.loads((answers / "bundle.json").read_text())
    del content["files"][REFERENCE_FILE]
    (answers / "bundle.json").write_text(json.dumps(content))
    main(["predict", "may", "--output", "out"])
    assert read_table(tmp_path / "out/drift.csv", DRIFT_COLUMNS) == []
    capsys.readouterr()
    assert main(["drift", "out"]) == 1
    assert (
        "this bundle of A is of an earlier version, without figures of the training images" in capsys.readouterr().err
    )
