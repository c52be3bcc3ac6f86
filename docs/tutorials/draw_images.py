"""Draw synthetic fundus images, for trying the tutorials without any of one's own.

python docs/tutorials/draw_images.py "my images"                 # a folder for each grade
python docs/tutorials/draw_images.py "my images" --table         # one folder, and the table my images.csv
"""

import argparse
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

from retinaflow.data.demo import draw_collection

GRADE_NAMES = ("no_dr", "mild", "moderate", "severe", "proliferative")


def draw(folder: Path, *, patients: int, size: int, table: bool) -> None:
    """Draw both eyes of ``patients`` patients into ``folder``, in a folder for each grade or beside a table."""
    labels = folder.with_name(f"{folder.name}.csv")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder.parent) as name:
        drawn = Path(name, "drawn")
        draw_collection(drawn, labels, patients=patients, first_patient=1, size=size, seed=1)
        if table:
            shutil.move(drawn, folder)
            return
        for row in labels.read_text(encoding="utf-8").splitlines()[1:]:
            image, grade = row.split(",")
            (folder / GRADE_NAMES[int(grade)]).mkdir(parents=True, exist_ok=True)
            shutil.move(drawn / f"{image}.jpeg", folder / GRADE_NAMES[int(grade)])
    labels.unlink()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path, help="a folder that does not exist yet")
    parser.add_argument("--patients", type=int, default=40, help="patients with both eyes (%(default)s)")
    parser.add_argument("--size", type=int, default=256, help="width in pixels (%(default)s)")
    parser.add_argument("--table", action="store_true", help="write a table of grades instead of folders")
    asked = parser.parse_args()
    if asked.folder.exists():
        parser.error(f"{asked.folder} exists. Name a new folder.")
    draw(asked.folder, patients=asked.patients, size=asked.size, table=asked.table)
