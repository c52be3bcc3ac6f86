"""Run every benchmark that this machine can, each in a process of its own, and join their rows to one table.

Writes `results/benchmarks/benchmarks.md` and `benchmarks.json`. With names as arguments only these are run, and what is
there of the others is joined with them.

    python benchmarks/run.py [preprocess feed ...]
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import common
from retinaflow.storage.files import whole_file, write_json

# The GPU's is not among them: it has a machine of its own.
NAMES = ("preprocess", "feed", "training", "scoring", "memory", "workflow", "chain")
# Made by scripts that take long or need a GPU, and joined if they are there.
OTHERS = ("chain-heavy", "gpu")


def section(name: str, result: dict[str, Any]) -> str:
    """The table of one benchmark, when and where it was made."""
    lines = [f"## {name}", "", common.markdown([common.Row(**row) for row in result["rows"]]), ""]
    lines.append(f"{result['date']}, median of {result['rounds']} rounds. " + described(result["machine"]))
    lines += [f"{key}: {value}." for key, value in result["notes"].items()]
    return "\n".join(lines) + "\n"


def described(machine: dict[str, Any]) -> str:
    """The machine in one line."""
    versions = ", ".join(f"{package} {number}" for package, number in machine["packages"].items())
    return (
        f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gb']} GB, {machine['system']}, "
        f"Python {machine['python']}, {versions}."
    )


def main() -> None:
    """Run, join, write."""
    chosen = sys.argv[1:] or list(NAMES)
    if unknown := set(chosen) - set(NAMES):
        sys.exit(f"{', '.join(sorted(unknown))}: no such benchmark; expected some of {', '.join(NAMES)}.")
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
