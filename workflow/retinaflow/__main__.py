"""Grade photographs by a finished run, without Snakemake.

`python -m retinaflow predict IMAGE...` in a terminal, `python -m retinaflow serve` on a page.
"""

import argparse
import gc
import json
import os
import sys
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retinaflow.errors import RetinaflowError
from retinaflow.networks.backend import choose
from retinaflow.serving.bundle import NOTICE, Graders, read_graders

if TYPE_CHECKING:
    from retinaflow.serving.predict import Loaded

THREADS = 4  # that read and decode


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit status is 1 where a photograph, or all, cannot be graded."""
    parser = argparse.ArgumentParser(prog="python -m retinaflow", description=NOTICE)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    command = commands.add_parser("predict", help="grade photographs by a finished run", description=NOTICE)
    command.add_argument("images", nargs="+", metavar="IMAGE", help="a photograph; both eyes of a patient tell more")
    command.add_argument("--json", action="store_true", help="print all figures as JSON")
    page = commands.add_parser("serve", help="grade photographs on a page of this computer", description=NOTICE)
    page.add_argument(
        "--port", type=int, default=8000, choices=range(65536), metavar="PORT", help="%(default)s, 0: any"
    )
    for each in (command, page):
        each.add_argument("--results", type=Path, default=Path("results"), help="folder of the run (%(default)s)")
        each.add_argument("--system", help="a backbone, or `average` (the best on held-out photographs)")
    asked = parser.parse_args(arguments)
    try:
        graders = read_graders(asked.results / "models/graders.json")
        system = asked.system or graders.best
        if "images" in asked:
            return _predict(asked.images, graders, system, asked.json)
        return _serve(graders, system, asked.port)
    except RetinaflowError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _serve(graders: Graders, system: str, port: int) -> int:
    if not all(map(find_spec, ("fastapi", "uvicorn", "python_multipart"))):
        raise RetinaflowError(
            "the page takes FastAPI, uvicorn and python-multipart: `make serve` installs them into .venv, and so does "
            "pip install --require-hashes -r envs/requirements-serve.txt"
        )
    # What an answer rests on is computed with it; all models answer the same with all backends, to 1e-4.
    loaded = _load(graders, system, "tensorflow")
    from retinaflow.serving.serve import serve

    serve(graders, system, loaded, port, THREADS)
    return 0


def _load(graders: Graders, system: str, backend: str) -> "Loaded":
    """Read what grades, ready to answer at once."""
    choose(backend)
    # Nobody who grades one photograph wants to know what TensorFlow was built with.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    gc.disable()  # what is imported and loaded is no garbage, and looking for some takes a second
    try:
        # Here, as this takes seconds, and what is wrong above is told at once.
        from retinaflow.serving.predict import load_grader

        loaded = load_grader(graders, system)
    finally:
        gc.enable()
    for model in (model for _, models in loaded.networks for model in models):
        model.run_eagerly = True  # compiling it takes longer than to run it a few times
    return loaded


def _predict(images: Sequence[str], graders: Graders, system: str, as_json: bool) -> int:
    loaded = _load(graders, system, graders.named(system).backbones[0].backend)
    from retinaflow.serving.predict import grade_files

    answers, problems = grade_files({image: image for image in images}, graders, loaded, THREADS)
    if as_json:
        told = {"system": system, "notice": NOTICE, "photographs": answers, "problems": problems}
        print(json.dumps(told, indent=2, ensure_ascii=False))
    else:
        print("\n".join([*(line for answer in answers for line in _lines(answer, graders)), f"{system}. {NOTICE}"]))
    for problem in problems:
        print(f"error: {problem['image']}: {problem['problem']}, {problem['found']}", file=sys.stderr)
    return int(bool(problems))


def _lines(answer: dict[str, Any], graders: Graders) -> Iterator[str]:
    yield f"{answer['image']}: {_grade(answer, '', graders)}, uncertainty {answer['uncertainty']:.2f}"
    yield "  " + ", ".join(f"{name} {answer[f'probability_{name}']:.3f}" for name in graders.classes)
    if answer["low_quality"]:
        yield (
            f"  poor quality: {answer['quality']:.2f}, where {1 - graders.quality_share:.0%} of the photographs it was "
            f"trained on have {graders.quality_cut:.2f} or more"
        )
    if answer["both_class"] is not None:
        yield f"  by both eyes of {answer['patient']}: {_grade(answer, 'both_', graders)}"


def _grade(answer: dict[str, Any], prefix: str, graders: Graders) -> str:
    """``prefix``: empty, or that of the columns of both eyes."""
    severity = f"severity {answer[f'{prefix}severity']:.2f} of {len(graders.classes) - 1}"
    referral = "to be referred" if answer[f"{prefix}referable"] else "not to be referred"
    return f"{answer[f'{prefix}class']}, {severity}, {referral}"


if __name__ == "__main__":
    sys.exit(main())
