"""Run all benchmarks that need no GPU, each in its own process, and join their rows to one page.

Writes `results/benchmarks/benchmarks.md` and `benchmarks.json`. Names as arguments select benchmarks. The page then has
the new results, and the earlier results of the others.

    python benchmarks/run.py [preprocess feed ...]
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import common
from retinaflow.storage.files import whole_file, write_json

# Without gpu.py, which needs another machine.
NAMES = ("preprocess", "feed", "training", "scoring", "serving", "integrity", "memory", "workflow", "chain")
# Results of scripts that need long or a GPU. They are joined if they exist.
OTHERS = ("chain-heavy", "gpu")


def section(name: str, result: dict[str, Any]) -> str:
    """Return the table of one benchmark with its date and machine."""
    lines = [f"## {name}", "", common.markdown([common.Row(**row) for row in result["rows"]]), ""]
    lines.append(f"{result['date']}, median of {result['rounds']} rounds. " + described(result["machine"]))
    lines += [f"{key}: {value}." for key, value in result["notes"].items()]
    return "\n".join(lines) + "\n"


def described(machine: dict[str, Any]) -> str:
    """Return the machine as one line."""
    versions = ", ".join(f"{package} {number}" for package, number in machine["packages"].items())
    return (
        f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gb']} GB, {machine['system']}, "
        f"Python {machine['python']}, {versions}."
    )


def main() -> None:
    """Run the benchmarks, and write the page and its data."""
    chosen = sys.argv[1:] or list(NAMES)
    if unknown := set(chosen) - set(NAMES):
        sys.exit(f"{', '.join(sorted(unknown))}: not a benchmark; expected names of {', '.join(NAMES)}.")
    failed = [
        name for name in chosen if subprocess.run([sys.executable, Path(__file__).with_name(f"{name}.py")]).returncode
    ]
    results = {}
    for name in (*NAMES, *OTHERS):
        file = common.TARGET / f"{name}.json"
        if file.is_file() and name not in failed:
            results[name] = json.loads(file.read_text(encoding="utf-8"))
    write_json(common.TARGET / "benchmarks.json", results)
    with whole_file(common.TARGET / "benchmarks.md") as part:
        part.write_text("\n".join(section(name, result) for name, result in results.items()), encoding="utf-8")
    print((common.TARGET / "benchmarks.md").read_text(encoding="utf-8"))
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
