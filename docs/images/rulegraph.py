"""Draw the picture `docs/images/rulegraph.svg`: the rules of a run, with linear models and models of both eyes.

    python docs/images/rulegraph.py

It asks Snakemake for the graph of config/demo.yaml with a linear model and an eye stacking, and needs Graphviz.
"""

import re
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import yaml

ROOT = Path(__file__).resolve().parents[2]
PICTURE = Path(__file__).with_name("rulegraph.svg")
LEFT_OUT = {"all", "draw_train", "draw_test"}
# Rules that compute with networks: filled, so that they differ in greyscale, too.
NETWORKS = {"train", "score", "features", "run_features", "convert_network", "convert_backbone"}
PIXELS = {"inventory", "check_problems", "split", "organize", "preprocess"}
FILLED, BLUE = ' [style="rounded,filled", fillcolor="#f8c471", color="#d17a00"]', ' [color="#4e79a7"]'
HEAD = (
    "digraph retinaflow { rankdir=LR; nodesep=0.12; ranksep=0.3; node [shape=box, style=rounded, penwidth=2, "
    'fontsize=11, fontname="DejaVu Sans", color="#555555"]; edge [color="#888888", arrowsize=0.6];'
)


def dot(graph: str) -> str:
    """The graph of Snakemake with our shapes and colours, without the demo."""
    names = dict(re.findall(r'(\d+)\[label = "(\w+)"', graph))
    lines = [HEAD]
    for name in sorted({*names.values()} - LEFT_OUT):
        shape = FILLED if name in NETWORKS else BLUE if name in PIXELS else ""
        lines.append(name + shape + ";")
    for start, end in re.findall(r"(\d+) -> (\d+)", graph):
        if start != end and not LEFT_OUT & {names[start], names[end]}:
            lines.append(f"{names[start]} -> {names[end]};")
    return "\n".join([*lines, "}"])


def draw() -> None:
    """Ask Snakemake for the graph, leave out edges that others imply, and write the picture."""
    config = yaml.safe_load((ROOT / "config/demo.yaml").read_text(encoding="utf-8"))
    config["eyes"] = {"models": ["average", "stacking"]}
    config["models"]["ridge"] = {"kind": "linear", "features": ["InceptionV3"]}
    with TemporaryDirectory() as folder:
        path = Path(folder, "config.yaml")
        path.write_text(yaml.safe_dump(config), encoding="utf-8")
        snakemake = [sys.executable, "-m", "snakemake", "--rulegraph", "--configfile", str(path)]
        graph = subprocess.run(snakemake, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    reduced = subprocess.run(["tred"], input=dot(graph), capture_output=True, text=True, check=True).stdout
    svg = subprocess.run(["dot", "-Tsvg"], input=reduced, capture_output=True, text=True, check=True).stdout
    PICTURE.write_text(svg, encoding="utf-8")


if __name__ == "__main__":
    draw()
