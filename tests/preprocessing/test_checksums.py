import pytest

from retinaflow.preprocessing.checksums import has_checksums
from retinaflow.storage.tables import write_table

NAMES = ["17_left", 'names, with "quotes"_left', "*glob?[a]_left"]


@pytest.mark.parametrize("image", NAMES)
@pytest.mark.parametrize("checksums", [True, False])
def test_checksums_are_found_beside_any_name(tmp_path, image, checksums):
    row = {"image": image, "digest": "a", **({"checksum": "0000000a"} if checksums else {})}
    write_table(tmp_path / "0.csv", tuple(row), [row])
    assert has_checksums(tmp_path / "0.csv") == checksums


def test_empty_table_has_no_checksums(tmp_path):
    (tmp_path / "0.csv").touch()
    assert not has_checksums(tmp_path / "0.csv")
