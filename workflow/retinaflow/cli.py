"""The command ``retinaflow``: grade new images by a finished run, and show GPUs, plans and the reference."""

import argparse
import gc
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retinaflow.errors import RetinaflowError

if TYPE_CHECKING:
    from retinaflow.serving.bundle import Graders
    from retinaflow.serving.predict import Loaded

THREADS = 4  # that read and decode
# What each command imports beyond the base installation, and the extra of pyproject.toml that installs it.
NEEDED = {
    "predict": (("numpy", "cv2", "keras", "simplejpeg"), "workflow"),
    "serve": (("fastapi", "uvicorn", "python_multipart"), "serve"),
    "plan": (("snakemake",), "workflow"),
    "reference": (("yaml", "pydantic"), "workflow"),
    "clean": (("yaml", "pydantic"), "workflow"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit status is 1 if it fails, or if one of the images cannot be graded."""
    parser = _parser()
    asked, further = parser.parse_known_args(arguments)
    if further and asked.command != "plan":
        parser.error(f"unrecognized arguments: {' '.join(further)}")
    try:
        _check_packages(asked.command)
        if asked.command == "gpus":
            return _gpus()
        if asked.command == "plan":
            return _plan(further)
        if asked.command == "reference":
            return _reference()
        if asked.command == "clean":
            return _clean(asked.configfile, asked.remove)
        return _grade_images(asked)
    except RetinaflowError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="retinaflow", description=__doc__.split(": ", 1)[1])
    parser.add_argument("--version", action="version", version=f"%(prog)s {version('retinaflow')}")
    commands = parser.add_subparsers(required=True, dest="command", metavar="COMMAND")
    predict = commands.add_parser("predict", help="grade images by a finished run")
    predict.add_argument("images", nargs="+", metavar="IMAGE", help="an image; both eyes of a patient tell more")
    predict.add_argument("--json", action="store_true", help="print all figures as JSON")
    serve = commands.add_parser("serve", help="grade images on a page of this computer")
    serve.add_argument(
        "--port", type=int, default=8000, choices=range(65536), metavar="PORT", help="%(default)s, 0: any"
    )
    for command in (predict, serve):
        command.add_argument("--results", type=Path, default=Path("results"), help="folder of the run (%(default)s)")
        command.add_argument("--system", help="a backbone, or `average` (the best on held-out photographs)")
    commands.add_parser("gpus", help="list the GPUs of this machine and the jobs that use them")
    commands.add_parser("plan", help="estimate images, disk, GPU memory and hours; takes snakemake's own options")
    clean = commands.add_parser("clean", help="list or remove shards, features and checkpoints that no model uses")
    clean.add_argument(
        "--configfile", type=Path, default=Path("config/config.yaml"), help="configuration of the run (%(default)s)"
    )
    clean.add_argument("--remove", action="store_true", help="remove them; without it, they are listed")
    commands.add_parser("reference", help="write config/README.md of a checkout, the reference of every key")
    return parser


def _check_packages(command: str) -> None:
    modules, extra = NEEDED.get(command, ((), ""))
    missing = [module for module in modules if find_spec(module) is None]
    if missing:
        raise RetinaflowError(
            f"`retinaflow {command}` needs {', '.join(missing)}, not installed for {sys.executable}. Run "
            f"`make {extra if extra != 'workflow' else 'setup'}` in a checkout of retinaflow, or "
            f"`pip install 'retinaflow[{extra}]'`."
        )


def _gpus() -> int:
    from retinaflow.jobs.gpus import table

    print(table())
    return 0


def _plan(options: Sequence[str]) -> int:
    """Run the rule ``plan`` of the workflow in this folder, or else of the checkout that this package lies in."""
    own = next((path for path in map(Path, ("Snakefile", "workflow/Snakefile")) if path.is_file()), None)
    snakefile = own or Path(__file__).parents[2] / "Snakefile"
    if not snakefile.is_file():
        raise RetinaflowError("no Snakefile here. Run `retinaflow plan` in the folder of a workflow.")
    command = [sys.executable, "-m", "snakemake", "plan", "--snakefile", str(snakefile), *options]
    return subprocess.run(command, check=False).returncode  # noqa: S603


def _reference() -> int:
    from retinaflow.config.reference import write_reference

    root = Path(__file__).parents[2]
    if not (root / "pyproject.toml").is_file():
        raise RetinaflowError("`retinaflow reference` writes into a checkout, and this package is not in one.")
    write_reference(root)
    return 0


def _clean(configfile: Path, remove: bool) -> int:
    from retinaflow.config.loading import read
    from retinaflow.config.remote import fetched
    from retinaflow.jobs.clean import find_unused, remove_unused

    config, _ = fetched(read(configfile))
    unused = remove_unused(config) if remove else find_unused(config)
    for path, size in unused:
        print(f"{size / 1e6:12,.1f} MB  {path}")
    total = sum(size for _, size in unused) / 1e6
    if remove:
        print(f"Removed {len(unused)} files and folders, {total:,.1f} MB.")
    else:
        print(f"{len(unused)} files and folders, {total:,.1f} MB. Nothing was removed; --remove removes them.")
    return 0


def _grade_images(asked: argparse.Namespace) -> int:
    from retinaflow.serving.bundle import read_graders

    graders = read_graders(asked.results / "models/bundle.json")
    system = asked.system or graders.best
    if asked.command == "predict":
        return _predict(asked.images, graders, system, asked.json)
    return _serve(graders, system, asked.port)


def _serve(graders: "Graders", system: str, port: int) -> int:
    # What an answer rests on is computed with it; all models answer the same with all backends, to 1e-4.
    loaded = _load(graders, system, "tensorflow")
    from retinaflow.serving.serve import serve

    serve(graders, system, loaded, port, THREADS)
    return 0


def _load(graders: "Graders", system: str, backend: str) -> "Loaded":
    """Read what grades, ready to answer at once."""
    from retinaflow.networks.backend import choose

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


def _predict(images: Sequence[str], graders: "Graders", system: str, as_json: bool) -> int:
    loaded = _load(graders, system, graders.named(system).backbones[0].backend)
    from retinaflow.serving.bundle import NOTICE
    from retinaflow.serving.predict import grade_files

    answers, problems = grade_files({image: image for image in images}, graders, loaded, THREADS)
    if as_json:
        told = {"model": system, "notice": NOTICE, "photographs": answers, "problems": problems}
        print(json.dumps(told, indent=2, ensure_ascii=False))
    else:
        print("\n".join([*(line for answer in answers for line in _lines(answer, graders)), f"{system}. {NOTICE}"]))
    for problem in problems:
        print(f"error: {problem['image']}: {problem['problem']}, {problem['found']}", file=sys.stderr)
    return int(bool(problems))


def _lines(answer: dict[str, Any], graders: "Graders") -> Iterator[str]:
    yield f"{answer['image']}: {_grade(answer, '', graders)}, uncertainty {answer['uncertainty']:.2f}"
    yield "  " + ", ".join(f"{name} {answer[f'probability_{name}']:.3f}" for name in graders.classes)
    if answer["low_quality"]:
        yield (
            f"  poor quality: {answer['quality']:.2f}, where {1 - graders.quality_share:.0%} of the photographs it was "
            f"trained on have {graders.quality_cut:.2f} or more"
        )
    if answer["patient_grade_name"] is not None:
        yield f"  by both eyes of {answer['patient']}: {_grade(answer, 'patient_', graders)}"


def _grade(answer: dict[str, Any], prefix: str, graders: "Graders") -> str:
    """``prefix``: empty, or that of the columns of both eyes."""
    severity = f"severity {answer[f'{prefix}severity']:.2f} of {len(graders.classes) - 1}"
    referral = "to be referred" if answer[f"{prefix}referable"] else "not to be referred"
    name = answer[f"{prefix or 'predicted_'}grade_name"]
    return f"{name}, {severity}, {referral}"
