"""Folders, files and addresses of a configuration: one message for each that cannot be used."""

import os
import time
import zipfile

import pytest

from configurations import configured, labelled
from retinaflow.config import places
from retinaflow.config.lookups import data_sets
from retinaflow.config.places import check_files, check_new_sites, sharing_sets
from retinaflow.errors import RetinaflowError

HTML = b"<!DOCTYPE html><html><body>Not found</body></html>"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"data__test": {"images": "nowhere", "labels": "none.csv"}}, "data.test.images: 'nowhere' is not a folder"),
        ({"data__test": {"images": "nowhere", "labels": "none.csv"}}, "data.test.labels: there is no file 'none.csv'"),
        (
            {"data__test": {"images": "$DR/x", "labels": "$DR/x.csv"}},
            "data.test.images: '$DR/x' is not a folder; expected a folder of images or a .zip archive; of variables",
        ),
        (
            {"data__test": {"images": "x", "labels": "$DR/x.csv"}},
            "there is no file '$DR/x.csv'; of variables, only $HOME",
        ),
        ({"data__test": {"images": "x", "labels": "/"}}, "'/' is a folder; name a table in it, or write class_f"),
        (
            {"data__test": {"images": "x", "labels": "class folders"}},
            "there is no file 'class folders'; write class_fold",
        ),
        ({"data__test": {"images": ["nowhere", "no"], "labels": "x"}}, "data.test.images[1]: 'no' is not a folder"),
        ({"data__test": {"images": "no.zip/inner", "labels": "x"}}, "data.test.images: there is no archive 'no.zip'"),
        (
            {"train__weights": "Imagenet"},
            "weights of VGG16: there is no file 'Imagenet'; expected 'imagenet', 'random'",
        ),
    ],
)
def test_a_missing_file_is_named(tmp_path, changes, expected):
    with pytest.raises(RetinaflowError) as caught:
        check_files(labelled(tmp_path, **changes))
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "found an empty file"),
        (HTML, "found an HTML page"),
        (b"PK\x03\x04 a model", "found a zip archive, such as a .keras model"),
        (b"\x80\x04\x95\x0b", r"found the bytes b'\\x80\\x04\\x95\\x0b'"),
        (b"\x89HDF\r\n\x1a\n", "is cut off after 8 of"),
        (b"\x89HDF\r\n\x1a\n\0" + bytes(31) + (10**6).to_bytes(8, "little"), "is cut off after 48 of 1000000 bytes"),
        (b"\x89HDF\r\n\x1a\n\2" + bytes(19) + (10**6).to_bytes(8, "little"), "is cut off after 36 of 1000000 bytes"),
    ],
)
def test_file_without_weights_is_refused_before_any_job(tmp_path, content, found):
    path = tmp_path / "w.h5"
    path.write_bytes(content)
    message = rf"weights of VGG16: '{path}': {found}.*; expected a \.h5 .*'imagenet' or 'random'"
    with pytest.raises(RetinaflowError, match=message):
        check_files(labelled(tmp_path, models={"VGG16": {"weights": str(path)}}))


def test_weights_of_another_format_are_refused(tmp_path):
    (tmp_path / "w.pt").write_bytes(b"\x89HDF\r\n\x1a\n")
    with pytest.raises(RetinaflowError, match=r"w\.pt': has another extension than \.h5"):
        check_files(labelled(tmp_path, models={"VGG16": {"weights": str(tmp_path / "w.pt")}}))


@pytest.mark.parametrize("name", ["nowhere", "x" * 5000, "/".join("x" * 500), "nowhere.zip", "y" * 300 + ".zip"])
def test_paths_that_no_disk_takes_are_not_there(tmp_path, name):
    with pytest.raises(
        RetinaflowError, match=r"(?s)data.test.images: .*data.test.labels: there is no file.*weights of VGG16"
    ):
        check_files(
            labelled(tmp_path, data__test={"images": name, "labels": name}, models={"VGG16": {"weights": name}})
        )


@pytest.mark.parametrize("key", ["results", "data__train__labels", "train__weights"])
@pytest.mark.parametrize(("name", "found"), [("a\0b", "NUL"), ("{part}", "brace")])
def test_path_with_a_nul_or_brace_is_refused(tmp_path, key, name, found):
    with pytest.raises(RetinaflowError, match=found):
        check_files(labelled(tmp_path, **{key: name}))


@pytest.mark.parametrize("name", ["file", "file/below", "loop"])
def test_results_that_cannot_be_a_folder_are_refused(tmp_path, name):
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(RetinaflowError, match=rf"results: '{tmp_path}/\w+' is not a folder"):
        check_files(labelled(tmp_path, results=str(tmp_path / name)))


def test_results_that_may_not_be_written_are_refused(tmp_path):
    full = labelled(tmp_path, results=str(tmp_path / "closed" / "results"))
    (tmp_path / "closed").mkdir(mode=0o500)
    if os.access(tmp_path / "closed", os.W_OK):
        pytest.skip("this user may write anywhere")
    with pytest.raises(RetinaflowError, match="closed' may not be written to"):
        check_files(full)


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("a", "a"),
        ("a", "a/b"),
        ("a/b", "a"),
        ("a", "link"),
        ("link", "a/../a/b"),
        (["c", "a"], ["a/b"]),
        (["a", "a/b"], "c"),
        ("x.zip", "x.zip"),
        ("x.zip/t", "x.zip"),
        ("x.zip/t", "x.zip/t/u"),
    ],
)
def test_images_that_would_count_twice_are_refused(tmp_path, train, test):
    labels = str(tmp_path / "labels.csv")
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "c").mkdir()
    (tmp_path / "link").symlink_to("a")
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("t/u/1.jpeg", b"x")

    def source(names):
        names = [str(tmp_path / name) for name in ([names] if isinstance(names, str) else names)]
        return {"images": names, "labels": labels}

    with pytest.raises(RetinaflowError, match="are one folder, or one lies inside the other"):
        check_files(labelled(tmp_path, data__train=source(train), data__test=source(test)))


def test_images_that_are_apart_are_accepted(tmp_path):
    labels = str(tmp_path / "labels.csv")
    for name in ("a", "ab"):
        (tmp_path / name).mkdir()
    for name in ("a/x.zip", "y.zip"):
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            archive.writestr("t/1.jpeg", b"x")
    train = [str(tmp_path / name) for name in ("a", "a/x.zip/t")]
    test = [str(tmp_path / name) for name in ("ab", "a/x.zip/tt", "y.zip/t")]
    sources = ({"images": images, "labels": labels} for images in (train, test))
    check_files(labelled(tmp_path, **dict(zip(("data__train", "data__test"), sources, strict=True))))


def test_an_archive_that_is_none_is_named(tmp_path):
    (tmp_path / "x.zip").write_bytes(HTML)
    with pytest.raises(RetinaflowError, match=r"x\.zip' is no \.zip archive, or not all of one"):
        check_files(
            labelled(tmp_path, data__test={"images": str(tmp_path / "x.zip"), "labels": str(tmp_path / "labels.csv")})
        )


def test_results_inside_the_images_are_refused(tmp_path):
    with pytest.raises(RetinaflowError, match="holds the results folder"):
        check_files(labelled(tmp_path, results=str(tmp_path / "images" / "results")))


def test_files_that_are_there_are_accepted(tmp_path):
    check_files(labelled(tmp_path))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"data__train": {"images": "https://x.org/a", "labels": "x"}},
            "data.train.images: 'https://x.org/a': only s3://",
        ),
        (
            {"data__train": {"images": "s3://b/a/../b", "labels": "x"}},
            "data.train.images: 's3://b/a/../b': expected s3://",
        ),
        ({"data__train": {"images": "s3://b//a", "labels": "x"}}, "without empty steps"),
        ({"data__train": {"images": "s3://b/a", "labels": "s3://"}}, "data.train.labels: 's3://': expected s3://"),
        ({"train__weights": "s3://b/w.pt"}, "weights of VGG16: 's3://b/w.pt': has another extension than .h5"),
        (
            {"data__train": {"images": ["s3://b/a", "s3://b/a/c"], "labels": "s3://b/l.csv"}},
            "data.train.images[1]: 's3://b/a/c' and 's3://b/a' of data.train.images[0] are one folder, or one",
        ),
    ],
)
def test_malformed_address_is_an_error_before_any_request(changes, expected):
    with pytest.raises(RetinaflowError) as caught:
        check_files(configured(**changes))
    assert expected in str(caught.value)


def test_folders_of_grades_must_be_on_this_machine(tmp_path):
    full = labelled(tmp_path, data__train={"images": "s3://b/images", "labels": "class_folders"})
    with pytest.raises(RetinaflowError, match=r"data.train.images: class_folders need images on this machine"):
        check_files(full)


@pytest.mark.parametrize(
    ("train", "test", "found"),
    [
        (["a", "b"], ["c"], None),
        (["a", "b"], ["b.jpg"], "since both label tables have 'b'"),
        (["e\u0301"], ["\u00e9"], "since both label tables have"),
        (["P0/OD.jpg"], ["P1/OD.jpg"], None),
        (["P0/OD.jpg"], ["P0/OD.png"], "since both label tables have 'P0/OD'"),
        (["P0/OD.jpg"], ["OD.jpg"], "since both label tables have 'OD'"),
        (["a"], None, "unless the label tables can be read"),
    ],
)
@pytest.mark.parametrize("folder", ["images", "images/inner"])
def test_tables_of_different_images_may_share_a_folder(tmp_path, folder, train, test, found):
    (tmp_path / "images/inner").mkdir(parents=True)
    sources = {}
    for name, images, rows in (("train", "images", train), ("test", folder, test)):
        table = tmp_path / f"{name}.csv"
        table.write_text("image,level\n" + "".join(f"{image},0\n" for image in rows or ["/"]))
        sources[f"data__{name}"] = {"images": str(tmp_path / images), "labels": str(table)}
    full = configured(**sources)
    if found is None:
        check_files(full)
        assert sharing_sets(data_sets(full), "train") == ["test"]
        return
    with pytest.raises(RetinaflowError, match=found):
        check_files(full)


def test_folders_of_grades_are_not_shared(tmp_path):
    full = labelled(tmp_path, data__test={"images": str(tmp_path / "images"), "labels": "class_folders"})
    with pytest.raises(RetinaflowError, match="would count twice, since the grades are the names of folders"):
        check_files(full)


def test_one_data_set_has_each_folder_once(tmp_path):
    images = str(tmp_path / "images")
    full = labelled(tmp_path, data__train={"images": [images, f"{images}/."], "labels": str(tmp_path / "labels.csv")})
    with pytest.raises(RetinaflowError, match=r"data.train.images\[1\]: .* would count twice; name"):
        check_files(full)


def test_data_sets_that_are_apart_share_nothing(tmp_path):
    (tmp_path / "b").mkdir()
    full = labelled(tmp_path, data__test={"images": str(tmp_path / "b"), "labels": str(tmp_path / "labels.csv")})
    check_files(full)
    assert sharing_sets(data_sets(full), "train") == []


INPUTS = {
    "archive": ("images.zip", "data.test.images"),
    "weights": ("w.h5", "weights of VGG16"),
    "model": ("earlier/model.keras", "weights of VGG16"),
    "record": ("earlier/training_run.json", "weights of VGG16"),
    "images": ("earlier/trained_on.json", "weights of VGG16"),
    "extractor": ("flair.onnx", "backbone of flair"),
    "extractor_keras": ("own.keras", "backbone of own"),
    "labels": ("labels.csv", ""),
    "old": ("w.h5", ""),
}


@pytest.mark.parametrize("kind", INPUTS)
def test_input_dated_ahead_is_an_early_error(tmp_path, kind, monkeypatch):
    """Snakemake would fail each job that reads it, and remove the outputs."""
    name, key = INPUTS[kind]
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"")
    monkeypatch.setattr(places, "needed_extractor_files", lambda file: [file])
    changes = {
        "archive": {"data__test": {"images": f"{path}/inner", "labels": "x"}},
        "extractor": {"models": {"flair": {"backbone": str(path)}, "r": {"kind": "linear", "features": ["flair"]}}},
        "extractor_keras": {"models": {"own": {"backbone": str(path), "freeze_layers": "all"}}},
        "labels": {"data__test": {"images": str(tmp_path), "labels": str(path)}},
    }.get(kind, {"models": {"VGG16": {"weights": str(path.parent if path.parent != tmp_path else path)}}})
    seconds = 1 if kind == "old" else 300
    os.utime(path, (time.time() + seconds,) * 2)
    with pytest.raises(RetinaflowError) as caught:
        check_files(labelled(tmp_path, **changes))
    found = [line for line in str(caught.value).splitlines() if "ahead of the clock" in line]
    assert len(found) == bool(key)
    if key:
        assert f"{key}: {str(path)!r} is dated" in found[0]
        assert found[0].endswith(f"`touch -d yesterday {path}`")


def test_weights_beside_an_extractor_are_inputs(tmp_path, monkeypatch):
    weights = tmp_path / "flair.data"
    weights.write_bytes(b"")
    os.utime(weights, (time.time() + 300,) * 2)
    monkeypatch.setattr(places, "needed_extractor_files", lambda file: [file, weights])
    monkeypatch.setattr(places, "extractor_faults", lambda _: [])
    models = {"VGG16": {"weights": "random"}, "flair": {"backbone": str(tmp_path / "flair.onnx")}}
    models["ridge"] = {"kind": "linear", "features": ["flair"]}
    with pytest.raises(RetinaflowError, match=r"backbone of flair: '.*flair\.data' is dated 300 s ahead"):
        check_files(labelled(tmp_path, models=models))


def test_labels_with_too_few_patients_for_a_new_site_are_named_at_the_start(tmp_path):
    """Before any image was looked at, also by a dry run and `snakemake plan`."""
    table = tmp_path / "site.csv"
    table.write_text("image,level\n" + "".join(f"{n}_{eye},0\n" for n in range(9) for eye in ("left", "right")))
    source = {"images": str(tmp_path), "labels": str(table)}

    def check(count):
        check_new_sites(labelled(tmp_path, data__test={"site": source}, evidence__recalibration={"site": count}))

    check(4)
    with pytest.raises(
        RetinaflowError, match=r"data.test.site: has 9 patients; expected at least 10, twice those that"
    ):
        check(5)
