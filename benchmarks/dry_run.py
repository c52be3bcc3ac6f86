"""How long `snakemake -n` takes, and how much memory, on every label of the Kaggle 2015 sets.

Stub photographs, one for each row of `trainLabels15.csv` and `testLabels15.csv` in the folder RETINAFLOW_DATA (default
`../shared/data`), are inventoried first; then the dry run of the whole workflow is repeated. Prints a table and writes
`results/benchmarks/dry_run.json`.

    python benchmarks/dry_run.py [rounds]
"""

import csv
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import yaml

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("RETINAFLOW_DATA", ROOT.parent / "shared" / "data"))


def stub_photographs(folder: Path, labels: Path, content: bytes) -> int:
    """One tiny photograph for each row of a label table."""
    folder.mkdir()
    with open(labels, newline="", encoding="utf-8") as file:
        names = [row["image"] for row in csv.DictReader(file)]
    for name in names:
        (folder / f"{name}.jpeg").write_bytes(content)
    return len(names)


def snakemake(project: Path, *arguments: str) -> tuple[float, float, str]:
    """Seconds, peak resident MB and output of one call in ``project``."""
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "snakemake", *arguments], cwd=project, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    output = process.stdout.read().decode()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(output)
    return time.perf_counter() - start, usage.ru_maxrss / 1024, output


def main() -> None:
    """Set up, measure, print."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    stub = cv2.imencode(".jpg", np.zeros((8, 8, 3), np.uint8))[1].tobytes()
    with tempfile.TemporaryDirectory() as folder:
        project = Path(folder)
        shutil.copy(ROOT / "Snakefile", project)
        for name in ("workflow", "profiles", "envs"):
            shutil.copytree(ROOT / name, project / name)
        data = {}
        rows = 0
        for dataset in ("train", "test"):
            labels = DATA / f"{dataset}Labels15.csv"
            rows += stub_photographs(project / dataset, labels, stub)
            data[dataset] = {"images": dataset, "labels": str(labels)}
        (project / "config").mkdir()
        (project / "config/config.yaml").write_text(
            yaml.safe_dump({"data": data, "train": {"weights": "random", "batch_norm": "train"}})
        )
        inventory, _, _ = snakemake(project, "--until", "inventory")
        runs = [snakemake(project, "-n") for _ in range(rounds)]
    result = {
        "photographs": rows,
        "jobs": int(re.search(r"^total +(\d+)", runs[0][2], re.MULTILINE)[1]),
        "rounds": rounds,
        "inventory_seconds": round(inventory, 1),
        "dry_run_seconds": round(statistics.median(seconds for seconds, _, _ in runs), 2),
        "dry_run_peak_mb": round(statistics.median(peak for _, peak, _ in runs)),
    }
    print(
        "| "
        + " | ".join(result)
        + " |\n"
        + "|---" * len(result)
        + "|\n| "
        + " | ".join(map(str, result.values()))
        + " |"
    )
    target = ROOT / "results/benchmarks/dry_run.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
