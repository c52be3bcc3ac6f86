"""The command ``retinaflow``: grade new images with a finished run, and show GPUs, plans and the reference."""

import argparse
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from retinaflow.errors import RetinaflowError
from retinaflow.serving.verdict import SENTENCES
from retinaflow.storage.disk_errors import disk_refusal
from retinaflow.storage.texts import printable

if TYPE_CHECKING:
    from retinaflow.serving.bundle import Bundle

READ_THREADS = 4  # for reading and decoding
SHORTEST_TOKEN = 16  # characters
UNPACKED_GB = 200  # largest size of an unpacked archive
# Modules that each command imports beyond the base installation, and the extra of pyproject.toml that installs them.
NEEDED = {
    "predict": (("numpy", "cv2", "onnxruntime", "simplejpeg", "PIL"), "predict"),
    "drift": (("numpy", "cv2"), "predict"),
    "serve": (("fastapi", "uvicorn", "python_multipart"), "serve"),
    "plan": (("snakemake",), "workflow"),
    "reference": (("yaml", "pydantic"), "workflow"),
    "clean": (("yaml", "pydantic"), "workflow"),
    "verify": (("numpy",), "workflow"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit status is 1 if it fails, or if one of the images cannot be graded."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # A name that the terminal cannot show must not end the command.
            stream.reconfigure(errors="backslashreplace")
    parser = _parser()
    asked, further = parser.parse_known_args(arguments)
    if further and asked.command != "plan":
        parser.error(f"unknown arguments: {' '.join(further)}")
    try:
        _check_packages(asked.command)
        return _run(asked, further)
    except RetinaflowError as error:
        print(f"error: {error}", file=sys.stderr)
    except OSError as error:
        refusal = disk_refusal(error)
        if not refusal:
            raise
        print(f"error: {printable(refusal)}", file=sys.stderr)
    return 1


def _run(asked: argparse.Namespace, further: Sequence[str]) -> int:
    if asked.command == "plan":
        return _plan(further)
    return _COMMANDS.get(asked.command, _grade_images)(asked)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="retinaflow", description=__doc__.split(": ", 1)[1])
    parser.add_argument("--version", action="version", version=f"%(prog)s {version('retinaflow')}")
    commands = parser.add_subparsers(required=True, dest="command", metavar="COMMAND")
    predict = commands.add_parser("predict", help="grade images with a finished run")
    predict.add_argument(
        "images",
        nargs="+",
        metavar="IMAGE",
        help="an image, a folder, an archive, or a list; both eyes of a patient are graded together",
    )
    predict.add_argument("--output", type=Path, metavar="FOLDER", help="write the answers as tables to a folder")
    predict.add_argument("--json", action="store_true", help="print all values as JSON")
    serve = commands.add_parser("serve", help="grade images on a web page of this computer")
    serve.add_argument(
        "--port", type=int, default=8000, choices=range(65536), metavar="PORT", help="%(default)s, 0: any"
    )
    serve.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s); others need a token")
    serve.add_argument("--token-file", type=Path, metavar="FILE", help="file with the token that requests need")
    serve.add_argument("--workers", type=_count, default=2, metavar="N", help="images examined at once (%(default)s)")
    serve.add_argument("--queue", type=_count, default=64, metavar="N", help="requests that may wait (%(default)s)")
    serve.add_argument(
        "--seconds", type=_count, default=30, metavar="S", help="time limit of an image in seconds (%(default)s)"
    )
    drift = commands.add_parser("drift", help="compare graded images with the training images")
    drift.add_argument(
        "answers", type=Path, nargs="+", metavar="FOLDER", help="a folder that `retinaflow predict --output` wrote"
    )
    drift.add_argument("--table", type=Path, metavar="FILE", help="write the comparison as a table")
    for command in (predict, serve, drift):
        command.add_argument("--results", type=Path, default=Path("results"), help="folder of the run (%(default)s)")
        command.add_argument(
            "--model", help="a model of the run, or the folder of a bundle (default: the best on held-out images)"
        )
    for command in (predict, serve):
        command.add_argument(
            "--data-set",
            default="",
            metavar="NAME",
            help="training set whose decision rule grades (default: the rule of all training sets together)",
        )
    commands.add_parser("gpus", help="list the GPUs of this machine and the jobs that use them")
    commands.add_parser("plan", help="estimate images, disk, GPU memory and hours; takes snakemake's own options")
    clean = commands.add_parser("clean", help="list or remove shards, features and checkpoints that no model uses")
    clean.add_argument(
        "--configfile", type=Path, default=Path("config/config.yaml"), help="configuration of the run (%(default)s)"
    )
    clean.add_argument("--remove", action="store_true", help="remove them; without it, they are listed")
    verify = commands.add_parser("verify", help="check all results for damage, and say what would be made again")
    verify.add_argument(
        "results", type=Path, nargs="?", default=Path("results"), help="folder of the run (%(default)s)"
    )
    verify.add_argument("--remove", action="store_true", help="remove damaged files; without it, they are listed")
    commands.add_parser("reference", help="write config/README.md of a checkout, the reference of every key")
    return parser


def _count(text: str) -> int:
    """A whole number from 1 to 1000."""
    if not (text.isascii() and text.isdecimal() and 1 <= int(text[:5]) <= 1000):
        raise argparse.ArgumentTypeError(f"{text!r}, expected a whole number from 1 to 1000")
    return int(text)


def _check_packages(command: str) -> None:
    modules, extra = NEEDED.get(command, ((), ""))
    missing = [module for module in modules if find_spec(module) is None]
    if missing:
        raise RetinaflowError(
            f"`retinaflow {command}` needs {', '.join(missing)}, not installed for {sys.executable}. Run "
            f"`make {extra if extra != 'workflow' else 'setup'}` in a checkout of retinaflow, or "
            f"`pip install 'retinaflow[{extra}]'`."
        )


def _gpus(asked: argparse.Namespace) -> int:  # noqa: ARG001
    from retinaflow.jobs.gpus import gpu_table

    print(gpu_table())
    return 0


def _plan(options: Sequence[str]) -> int:
    """Run the rule ``plan`` of the workflow in this folder, or else of the checkout with this package."""
    own = next((path for path in map(Path, ("Snakefile", "workflow/Snakefile")) if path.is_file()), None)
    snakefile = own or Path(__file__).parents[2] / "Snakefile"
    if not snakefile.is_file():
        raise RetinaflowError("no Snakefile here. Run `retinaflow plan` in the folder of a workflow.")
    command = [sys.executable, "-m", "snakemake", "plan", "--snakefile", str(snakefile), *options]
    return subprocess.run(command, check=False).returncode  # noqa: S603


def _reference(asked: argparse.Namespace) -> int:  # noqa: ARG001
    from retinaflow.config.reference import write_reference

    root = Path(__file__).parents[2]
    if not (root / "pyproject.toml").is_file():
        raise RetinaflowError("`retinaflow reference` writes into a checkout, and this package is not in one.")
    write_reference(root)
    return 0


def _clean(asked: argparse.Namespace) -> int:
    from retinaflow.config.loading import read
    from retinaflow.config.remote import fetched
    from retinaflow.jobs.clean import find_unused, remove_unused

    config, _ = fetched(read(asked.configfile))
    unused = remove_unused(config) if asked.remove else find_unused(config)
    for path, size in unused:
        print(f"{size / 1e6:12,.1f} MB  {path}")
    total = sum(size for _, size in unused) / 1e6
    if asked.remove:
        print(f"Removed {len(unused)} files and folders, {total:,.1f} MB.")
    else:
        print(f"{len(unused)} files and folders, {total:,.1f} MB. Nothing was removed; --remove removes them.")
    return 0


def _verify(asked: argparse.Namespace) -> int:
    from retinaflow.jobs.verification import remove_damaged, verify_results
    from retinaflow.storage.lock import lock

    found = verify_results(asked.results)
    for damage in found.damaged:
        print(f"{printable(str(damage.path))}: {printable(damage.fault)}\n  the next run makes again: {damage.remade}")
    print(f"{found.verified} files verified, {len(found.damaged)} damaged.")
    if found.damaged and asked.remove:
        with lock(asked.results):
            remove_damaged(found.damaged)
        print("The damaged files were removed. Run again to rebuild them.")
        return 0
    if found.damaged:
        print("Nothing was removed; --remove removes them, and the next run makes them again.")
    return int(bool(found.damaged))


def _asked_bundle(asked: argparse.Namespace) -> "Bundle":
    from retinaflow.serving.bundle import best_bundle, named_bundle, read_bundle

    return read_bundle(named_bundle(asked.results, asked.model) if asked.model else best_bundle(asked.results))


def _grade_images(asked: argparse.Namespace) -> int:
    bundle = _asked_bundle(asked).of_data_set(asked.data_set)
    if bundle.warning:
        print(f"warning: {printable(bundle.warning)}", file=sys.stderr)
    if asked.command == "serve":
        return _serve(asked, bundle)
    return _predict(asked.images, bundle, asked.output, as_json=asked.json)


def _drift(asked: argparse.Namespace) -> int:
    from retinaflow.serving.drift import (
        DRIFT_COLUMNS,
        bundled_reference,
        compare_folders,
        drift_lines,
        write_drift_rows,
    )

    bundle = _asked_bundle(asked)
    found = compare_folders(asked.answers, bundled_reference(bundle), bundle.model)
    for folder, rows in found:
        print("\n".join([printable(folder), *drift_lines(rows)]))
    if asked.table:
        listed = [{"answers": folder, **row} for folder, rows in found for row in rows]
        write_drift_rows(asked.table, listed, ("answers", *DRIFT_COLUMNS))
    return 0


def _serve(asked: argparse.Namespace, bundle: "Bundle") -> int:
    from retinaflow.serving.serve import serve, settings_of

    serve(
        settings_of(
            bundle,
            host=asked.host,
            port=asked.port,
            token=_token(asked.token_file),
            workers=asked.workers,
            seconds=asked.seconds,
            queue=asked.queue,
        )
    )
    return 0


def _token(path: Path | None) -> str | None:
    """The token of the service: the content of a file, else the variable ``RETINAFLOW_TOKEN``."""
    try:
        token = path.read_text(encoding="utf-8").strip() if path else os.environ.get("RETINAFLOW_TOKEN", "")
    except (OSError, UnicodeDecodeError) as error:
        raise RetinaflowError(f"--token-file {path}: cannot be read ({error}); expected a file of text.") from None
    if not token and not path:
        return None
    if len(token) < SHORTEST_TOKEN or not token.isascii() or not token.isprintable() or " " in token:
        raise RetinaflowError(
            f"{path or 'RETINAFLOW_TOKEN'}: the token has {len(token)} characters; expected at least {SHORTEST_TOKEN} "
            "letters, digits and marks in ASCII. `openssl rand -hex 32` makes one."
        )
    return token


def _predict(images: Sequence[str], bundle: "Bundle", output: Path | None, *, as_json: bool) -> int:
    # Imported here: it takes a second, and the errors before need none of it.
    from retinaflow.serving.bundle import NOTICE
    from retinaflow.serving.drift import drift_text
    from retinaflow.serving.predict import (
        answer_tables,
        grade_files,
        none_graded,
        patient_verdicts,
        trained_on_warning,
        write_answers,
    )
    from retinaflow.serving.runtime import load_bundled_model
    from retinaflow.serving.verdict import verdict_object

    with _all_files(images) as (files, listed):
        if not files:
            raise RetinaflowError(f"images: {', '.join(images)}: {none_graded([])}")
        loaded = load_bundled_model(bundle, images=len(files))
        graded = grade_files(files, loaded, READ_THREADS, listed=listed)
    answers, problems = graded.answers, graded.problems
    if warning := trained_on_warning(answers, bundle.model):
        print(f"warning: {printable(warning)}", file=sys.stderr)
    if output:
        write_answers(answer_tables(output), graded, loaded)
    patients = [verdict_object(verdict, bundle.grade_names) for verdict in patient_verdicts(graded)]
    if as_json:
        content: dict[str, Any] = {"model": bundle.model, "notice": NOTICE, "warning": bundle.warning}
        content |= {"data_set": bundle.data_set} if bundle.data_sets else {}
        content |= {"patients": patients, "images": answers, "problems": problems, "drift": graded.drift}
        print(json.dumps(content, indent=2))  # In ASCII, since names of files may have any bytes.
    elif output:
        print(f"{len(answers)} images graded by {printable(bundle.named)}; see {printable(str(output))}. {NOTICE}")
    else:
        verdict_text = [line for patient in patients for line in _patient_lines(patient)]
        image_text = [line for answer in answers for line in _lines(answer, bundle)]
        print("\n".join([*verdict_text, *image_text, f"{printable(bundle.named)}. {NOTICE}"]))
    if not as_json and (text := drift_text(graded.drift)):
        print(text)
    for problem in problems:
        print(
            f"error: {printable(problem['image'])}: {problem['problem']}, {printable(problem['found'])}",
            file=sys.stderr,
        )
    return int(bool(problems))


@contextmanager
def _all_files(images: Sequence[str]) -> Iterator[tuple[dict[str, str], dict[str, tuple[str, str]]]]:
    """Yield the path of each image by its name, and the patients and eyes that lists name.

    The images are single files, and those of folders, archives and lists.
    """
    from retinaflow.data.listed_eyes import listed_eyes
    from retinaflow.data.sources import files_of, is_source

    with ExitStack() as stack:
        files: dict[str, str] = {}
        listed: dict[str, tuple[str, str]] = {}
        for image in images:
            if not is_source(image):
                files[image] = image
                continue
            scratch = Path(stack.enter_context(TemporaryDirectory(prefix="retinaflow-")), "unpacked")
            found = stack.enter_context(files_of(image, scratch, UNPACKED_GB * 2**30))
            # The names of several sources may be the same.
            prefix = "" if len(images) == 1 else f"{image}/"
            files.update({prefix + name: path for name, path in found.items()})
            listed.update({prefix + name: eyes for name, eyes in listed_eyes(image).items()})
        yield files, listed


def _patient_lines(patient: dict[str, Any]) -> Iterator[str]:
    """Text of the verdict of a patient: a dictionary of ``verdict_object``."""
    first, *others = map(printable, patient["lines"])
    name = patient["patient"] or ", ".join(patient["images"])
    yield f"patient {printable(name)}: {first}"
    yield from (f"  {line}" for line in others)


def _lines(answer: dict[str, Any], bundle: "Bundle") -> Iterator[str]:
    """Text of one graded image: the decision with the risk and its threshold, then the grade."""
    decision = SENTENCES[answer["decision"]].lower()
    risk, threshold = f"{answer['risk']:.3f}", f"{answer['risk_threshold']:.3f}"
    yield f"{printable(answer['image'])}: {decision}, risk {risk}, referred from {threshold}"
    grade, severity = answer["predicted_grade_name"], f"{answer['severity']:.2f} of {len(bundle.grade_names) - 1}"
    yield f"  predicted grade {grade}, severity {severity}, uncertainty {answer['uncertainty']:.2f}"
    yield "  " + ", ".join(f"{name} {answer[f'probability_{name}']:.3f}" for name in bundle.grade_names)
    if answer["answered_by"] != bundle.model:
        yield f"  the fellow eye is missing: answered by {printable(answer['answered_by'])}"
    if answer["low_quality"]:
        yield (
            f"  low quality: {answer['quality']:.2f}; {1 - bundle.quality_share:.0%} of the training images have "
            f"{bundle.quality_threshold:.2f} or more"
        )
    if answer["eye_average_grade_name"] is not None:
        severity = f"{answer['eye_average_severity']:.2f} of {len(bundle.grade_names) - 1}"
        yield f"  with the fellow eye: grade {answer['eye_average_grade_name']}, severity {severity}"


_COMMANDS = {"gpus": _gpus, "reference": _reference, "clean": _clean, "verify": _verify, "drift": _drift}
