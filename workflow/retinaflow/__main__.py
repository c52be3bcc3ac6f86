"""Grade photographs by a finished run, without Snakemake: `python -m retinaflow predict IMAGE...`."""

import argparse
import gc
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from retinaflow.backend import choose
from retinaflow.errors import RetinaflowError
from retinaflow.graders import Graders, read_graders

NOTICE = "This is research software, not a medical device."
THREADS = 4  # that read and decode


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit status is 1 where a photograph, or all, cannot be graded."""
    parser = argparse.ArgumentParser(prog="python -m retinaflow", description=NOTICE)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    command = commands.add_parser("predict", help="grade photographs by a finished run", description=NOTICE)
    command.add_argument("images", nargs="+", metavar="IMAGE", help="a photograph; both eyes of a patient tell more")
    command.add_argument("--results", type=Path, default=Path("results"), help="folder of the run (%(default)s)")
    command.add_argument("--system", help="a backbone, or `average` (the best on held-out photographs)")
    command.add_argument("--json", action="store_true", help="print all figures as JSON")
    asked = parser.parse_args(arguments)
    try:
        return _predict(asked.images, asked.results, asked.system, asked.json)
    except RetinaflowError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _predict(images: Sequence[str], results: Path, system: str | None, as_json: bool) -> int:
    graders = read_graders(results / "models/graders.json")
    system = system or graders.best
    choose(graders.named(system).backbones[0].backend)
    # Nobody who grades one photograph wants to know what TensorFlow was built with.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    gc.disable()  # what is imported and loaded is no garbage, and looking for some takes a second
    try:
        # Here, as this takes seconds, and what is wrong above is told at once.
        from retinaflow.predict import grade_files, load_grader

        loaded = load_grader(graders, system)
    finally:
        gc.enable()
    for model in (model for _, models in loaded.networks for model in models):
        model.run_eagerly = True  # compiling it takes longer than to run it a few times
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
