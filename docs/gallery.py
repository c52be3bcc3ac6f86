"""Show the figures and tables of a complete run in docs/gallery.md.

    python docs/gallery.py results --about "Four models of InceptionV3, trained on 1,400 images of EyePACS."

It copies figures to docs/gallery/ and writes the page. Only figures in the list below are copied. None of them has an
image of a patient.
"""

import argparse
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from retinaflow.storage.tables import read_table

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs/gallery.md"
WIDTH, COLOURS = 1100, 160
INTRODUCTION = """# Gallery

This page shows the results of a complete run: its ranking, its figures and its files. Figures show numbers only. No
image of a patient is on this page. [Reading the results](results.md) and [evidence](evidence.md) explain them."""
BEGIN, END = ("<!-- begin gallery, by docs/gallery.py -->", "<!-- end gallery, by docs/gallery.py -->")
# Heading, files below the results folder, and the alternative text. `{best}` is the best model on held-out images.
FIGURES = [
    ("All models", "comparison/comparison.png", "Kappa of each model on each split, with its 95 % interval"),
    ("ROC curves", "comparison/roc-*.png", "ROC curves of all models, with the area under each"),
    ("Learning curves", "scores/{best}/learning_curves.png", "Loss and kappa of each epoch of the best model"),
    ("Confusion", "scores/{best}/*/confusion_matrix.png", "True and predicted grades of the best model"),
    ("Operating points", "evidence/*/roc.png", "ROC curves by image, eye and patient, with the operating points"),
    (
        "Calibration and net benefit",
        "evidence/*/calibration.png",
        "Risk against the share of referable units, and net benefit",
    ),
    ("Subgroups", "evidence/*/subgroups.png", "Sensitivity and specificity of each subgroup, with intervals"),
    (
        "Flow of images and patients",
        "evidence/*/flow.png",
        "Images that were found, left out with the reason, and scored",
    ),
]


def best_model(results: Path) -> str:
    """The model of rank 1 on held-out images."""
    return next(row["model"] for row in read_table(results / "comparison/comparison.csv") if row["rank"] == "1")


def ranking(results: Path) -> str:
    """The first section of the comparison, with its headings one level lower."""
    content = (results / "comparison/comparison.md").read_text(encoding="utf-8")
    first = re.split(r"^(?=## )", content, flags=re.MULTILINE)[:2]
    return re.sub(r"^## ", "### ", "".join(first), flags=re.MULTILINE).strip()


def folders(results: Path) -> Iterator[str]:
    """Rows of a table: each folder below the results, with the number and the size of its files."""
    yield "| folder | files | size |\n|---|---|---|"
    for folder in sorted(path for path in results.iterdir() if path.is_dir()):
        sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
        yield f"| `{folder.name}` | {len(sizes):,} | {sum(sizes) / 1e6:,.1f} MB |"


def shrink(figure: Path, target: Path) -> None:
    """Copy a figure in the size of a page and with few colours, which suits lines and text."""
    with Image.open(figure) as image:
        image.thumbnail((WIDTH, 10 * WIDTH), Image.Resampling.LANCZOS)
        image.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE).save(target, optimize=True)


def figures(results: Path, target: Path) -> Iterator[str]:
    """Copy the figures of ``results`` to the folder ``target``. Yield a heading and a link for each kind."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    best = best_model(results)
    for heading, pattern, statement in FIGURES:
        found = sorted(results.glob(pattern.format(best=best)))
        if found:
            yield f"## {heading}"
        for path in found:
            name = "-".join(path.relative_to(results).parts)
            shrink(path, target / name)
            part = path.stem if path.parent.name == "comparison" else f"{path.parent.name}, {path.stem}"
            yield f"![{statement}: {part}]({target.name}/{name})"


def write_gallery(results: Path, page: Path, about: str) -> None:
    """Write ``page``, and its figures to a folder of the same name."""
    parts = [INTRODUCTION, BEGIN, about, "## Ranking", ranking(results), *figures(results, page.with_suffix(""))]
    parts += ["## Files", "\n".join(folders(results))]
    page.write_text("\n\n".join([*parts, END]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("results", type=Path, help="results folder of a finished run, with `snakemake evidence`")
    parser.add_argument("--about", required=True, help="one or two sentences about the run")
    asked = parser.parse_args()
    write_gallery(asked.results, PAGE, asked.about)
