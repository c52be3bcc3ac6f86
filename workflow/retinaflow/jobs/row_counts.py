"""Numbers of rows of results without records, against the metrics and the split indices that they belong to.

Programs that copy a results folder without hidden files leave results without records.
"""

import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from retinaflow.errors import RetinaflowError
from retinaflow.storage.documents import read_document
from retinaflow.storage.integrity import REBUILD, record_of
from retinaflow.storage.tables import stream_values

_COUNT = {"type": "integer", "minimum": 0}
# Part of a metrics file that counts images.
_COUNTS: dict[str, Any] = {
    "type": "object",
    "required": ["images"],
    "properties": {
        "images": _COUNT,
        "recalibration": {"type": "object", "required": ["images"], "properties": {"images": _COUNT}},
    },
}


class _Scored(NamedTuple):
    """Images of a metrics file: those of the metrics, and with those that refit the model."""

    metrics: Path
    images: int
    all_images: int


def row_faults(results: Path) -> Iterator[tuple[Path, str]]:
    """Yield each table or metrics file without a record that was compared, and its fault, or ``""``.

    Predictions have a row for each image of the metrics beside them. Raw outputs and the index of the split also have
    the images that refit the model. The index has to agree with one model, since scores of models that left the
    configuration may be of former images. An index that is newer than all metrics is left out: the run was stopped
    before the grading.
    """
    by_split: dict[str, list[_Scored]] = defaultdict(list)
    for metrics in sorted(results.glob("scores/**/metrics.json")):
        try:
            scored = _counted(metrics)
        except RetinaflowError as error:
            if not record_of(metrics).exists():
                yield metrics, str(error)
            continue
        by_split[metrics.parent.name].append(scored)
        for name, expected in (("predictions.csv", scored.images), ("raw_outputs.csv", scored.all_images)):
            table = metrics.with_name(name)
            if _has_no_record(table):
                yield table, _fault(table, expected, metrics)
    for split, all_scored in sorted(by_split.items()):
        index = results / "organized" / split / "index.csv"
        is_new = index.exists() and all(index.stat().st_mtime > one.metrics.stat().st_mtime for one in all_scored)
        if _has_no_record(index) and not is_new:
            by_count = {one.all_images: one.metrics for one in all_scored}
            faults = [_fault(index, images, metrics) for images, metrics in by_count.items()]
            yield index, "" if "" in faults else faults[0]


def _counted(metrics: Path) -> _Scored:
    read = read_document(metrics, _COUNTS, kind="a metrics file", again=REBUILD)
    images = read["images"]
    return _Scored(metrics, images, images + read.get("recalibration", {}).get("images", 0))


def _has_no_record(path: Path) -> bool:
    return path.exists() and not record_of(path).exists()


def _fault(table: Path, expected: int, metrics: Path) -> str:
    try:
        rows = sum(1 for _ in stream_values(table)) - 1
    except (RetinaflowError, StopIteration) as error:
        return str(error)
    if rows == expected:
        return ""
    return f"it has {rows} rows, expected {expected}, one for each image of {os.path.relpath(metrics, table.parent)}"
