"""A bundle names the images that its model was trained on, and no patients."""

from pathlib import Path

from bundles import write_toy_bundle
from retinaflow.data.trained_on import write_trained_on
from retinaflow.serving.bundle import read_bundle
from retinaflow.serving.known_images import known_records, parse_known_images
from retinaflow.serving.runtime import load_bundled_model
from retinaflow.storage.tables import write_table

ROWS = [{"image": name, "patient": f"secret {name}", "digest": content} for name, content in (("a", "1f"), ("b", "2e"))]


def test_digests_are_those_of_the_trainings(tmp_path: Path) -> None:
    index, other = tmp_path / "index.csv", tmp_path / "other.csv"
    write_table(index, list(ROWS[0]), ROWS)
    write_table(other, list(ROWS[0]), [{**ROWS[0], "digest": "3d"}])
    for fold in ("1", "2"):
        write_trained_on(tmp_path / fold / "trained_on.json", [index], seed=7)
    content = known_records([tmp_path / fold / "trained_on.json" for fold in "12"], [other])
    # Both folds have the same images.
    assert [len(record["images"]) for record in content["records"]] == [2, 1]
    folder = write_toy_bundle(
        tmp_path, "A", [("A", "softmax", ["A"])], trained_on=[tmp_path / "1/trained_on.json"], indices=[other]
    )
    known = load_bundled_model(read_bundle(folder), 1).known
    assert known is not None
    assert all(name in known for name in ("1f", "2e", "3d"))
    assert "4c" not in known
    assert set(known_records([tmp_path / "1/trained_on.json"], [])["records"][0]) == {"salt", "images"}


def test_values_that_are_no_digests_match_nothing() -> None:
    known = parse_known_images(b'{"records": [{"salt": "x", "images": [1, null, ["2"]]}]}', "trained_on.json")
    assert known.records == [("x", frozenset())]
