"""Images and patients that a model was trained on, as salted digests."""

import json
import time

import pytest

from retinaflow.data.trained_on import find_seen, require_unseen, write_trained_on
from retinaflow.errors import RetinaflowError
from retinaflow.storage.tables import write_table


def index(path, *rows):
    """Write an index table of (image, patient, digest)."""
    columns = ("image", "patient", "digest")
    write_table(path, columns, [dict(zip(columns, row, strict=True)) for row in rows])
    return path


@pytest.fixture
def record(tmp_path):
    """A model that was trained on three images of two patients of the data set eyepacs."""
    table = index(tmp_path / "a.csv", *((f"eyepacs/{n}_left", f"eyepacs/{n}", f"bytes{n}") for n in (1, 2)))
    other = index(tmp_path / "b.csv", ("eyepacs/2_right", "eyepacs/2", "bytes3"))
    write_trained_on(tmp_path / "trained_on.json", [table, other], seed=1)
    return tmp_path / "trained_on.json"


def test_record_has_neither_names_nor_digests_of_files(record):
    text = record.read_text()
    assert "eyepacs" not in text
    assert "bytes" not in text
    (only,) = json.loads(text)["records"]
    assert (len(only["images"]), len(only["patients"])) == (3, 2)


def test_same_training_writes_the_same_record(tmp_path, record):
    again, other = tmp_path / "again.json", tmp_path / "other.json"
    write_trained_on(again, [tmp_path / "b.csv", tmp_path / "a.csv"], seed=1)
    write_trained_on(other, [tmp_path / "b.csv", tmp_path / "a.csv"], seed=2)
    assert again.read_bytes() == record.read_bytes()
    salts = [json.loads(path.read_text())["records"][0]["salt"] for path in (again, other)]
    assert salts[0] != salts[1]


@pytest.mark.parametrize(
    ("row", "images", "patients"),
    [
        (("messidor/x", "messidor/9", "bytes3"), ["messidor/x"], []),
        (("eyepacs/2_other", "eyepacs/2", "new"), [], ["eyepacs/2"]),
        (("messidor/2_left", "messidor/2", "new"), [], []),
        (("2_left", "2", "new"), [], []),
    ],
)
def test_images_and_patients_are_found(tmp_path, record, row, images, patients):
    seen = find_seen(record, [index(tmp_path / "test.csv", row)])
    assert (seen.images, seen.patients) == (images, patients)


def test_patients_of_one_group_are_found_under_each_name(tmp_path, record):
    groups = [["eyepacs_1024", "eyepacs"]]
    table = index(tmp_path / "test.csv", ("eyepacs/2_left", "eyepacs_1024/2", "new"))
    assert not find_seen(record, [table]).patients
    assert find_seen(record, [table], groups).patients == ["eyepacs_1024/2"]
    write_trained_on(tmp_path / "grouped.json", [table], seed=1, shared_patients=groups)
    alone = index(tmp_path / "alone.csv", ("eyepacs/2_right", "eyepacs/2", "new2"))
    assert find_seen(tmp_path / "grouped.json", [alone]).patients == ["eyepacs/2"]


def test_patients_without_data_set_are_found_without_one(tmp_path):
    write_trained_on(tmp_path / "r.json", [index(tmp_path / "a.csv", ("1_left", "1", "one"))], seed=1)
    assert find_seen(tmp_path / "r.json", [index(tmp_path / "b.csv", ("1_right", "1", "two"))]).patients == ["1"]


def test_record_keeps_images_of_all_models_before(tmp_path, record):
    second, third = tmp_path / "second.json", tmp_path / "third.json"
    write_trained_on(second, [index(tmp_path / "c.csv", ("aptos/1", "aptos/1", "c"))], seed=1, earlier=record)
    write_trained_on(third, [index(tmp_path / "d.csv", ("idrid/1", "idrid/1", "d"))], seed=1, earlier=second)
    table = index(tmp_path / "test.csv", ("x/1", "x/1", "bytes1"), ("x/2", "aptos/1", "e"), ("x/3", "x/3", "d"))
    assert find_seen(third, [table]) == (["x/1", "x/3"], ["aptos/1"])


def test_error_names_record_images_and_remedy(tmp_path, record):
    table = index(tmp_path / "test.csv", *((f"eyepacs/{n}_x", "eyepacs/2", f"bytes{n}") for n in (1, 2, 3, 4)))
    with pytest.raises(RetinaflowError) as caught:
        require_unseen("VGG16", record, {"test": [table], "other": [index(tmp_path / "o.csv", ("o", "o", "o"))]})
    assert str(caught.value) == (
        "test: VGG16 starts from a model that was trained on 3 images ('eyepacs/1_x', 'eyepacs/2_x', 'eyepacs/3_x') "
        f"and 1 patient ('eyepacs/2') of it, by {record}; name these images in `exclude`, or start from another model. "
        "If the patients are others, give each data set a name."
    )


def test_images_with_a_problem_do_not_count(tmp_path, record):
    columns = ("image", "patient", "digest", "problem")
    write_table(tmp_path / "t.csv", columns, [dict(zip(columns, ("a", "a", "bytes1", "blank"), strict=True))])
    assert not any(find_seen(record, [tmp_path / "t.csv"]))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("{", "not valid JSON"),
        ('{"records": []}', "records"),
        ('{"records": [{"salt": "a", "images": [1], "patients": []}]}', "images has a value that is no text"),
        ('{"records": [{"salt": "a", "images": {}, "patients": []}]}', "is not of type 'array'"),
    ],
)
def test_damaged_record_is_an_error(tmp_path, text, found):
    (tmp_path / "trained_on.json").write_text(text)
    with pytest.raises(RetinaflowError, match=rf"trained_on\.json: .*{found}.*Copy it again"):
        find_seen(tmp_path / "trained_on.json", [index(tmp_path / "t.csv", ("a", "a", "a"))])


def test_ninety_thousand_images_take_seconds(tmp_path):
    table = index(tmp_path / "t.csv", *((f"{n}_left", f"{n // 2}", f"{n:032x}") for n in range(90_000)))
    start = time.process_time()
    write_trained_on(tmp_path / "r.json", [table], seed=1)
    assert len(find_seen(tmp_path / "r.json", [table]).images) == 90_000
    assert time.process_time() - start < 10
    assert (tmp_path / "r.json").stat().st_size < 8e6
