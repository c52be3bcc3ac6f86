"""Speed of grading new images: a bundle in ONNX Runtime, against the Keras model in TensorFlow (`former.py`).

Each side starts a new process each time. The network has random weights, which have the same speed.

    python benchmarks/serving.py
"""

import http.client
import json
import multiprocessing
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import common
from load import ask, body_of
from retinaflow.scoring.decision_rules import LabelledOutputs, fit_decision_rule, write_decision_rule
from retinaflow.serving.bundling import BundleJob, write_bundle
from retinaflow.storage.files import write_json
from retinaflow.storage.tables import write_table

BACKBONE, SIZE = common.sized(("InceptionV3", 224), ("MobileNetV3Small", 32))
IMAGES = common.sized(500, 8)
ROUNDS = min(common.ROUNDS, 3)
COLD_SECONDS, FOLDER_RATIO, PAGE_SECONDS = 2.0, 1.8, 3.0
OTHER = "Keras model in TensorFlow"
PIPES: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}


def make(folder: Path) -> None:
    """Write a network in both forms: `network.keras` and the folder `bundle`."""
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    # Imported here: the other functions need no TensorFlow.
    import keras

    from retinaflow.config.loading import load
    from retinaflow.networks.building import build
    from retinaflow.serving.convert import convert_network

    data = {"train": {"images": "images", "labels": "labels.csv"}}
    train = {"image_size": SIZE, "weights": "random", "batch_norm": "train"}
    settings = load({"data": data, "train": train, "models": {BACKBONE: {}}}).models[BACKBONE]
    keras.utils.set_random_seed(1)
    model = build(settings, len(common.GRADE_NAMES))
    model.save(folder / "network.keras")
    convert_network(model, settings.objective, len(common.GRADE_NAMES), folder / "network.onnx")
    _write_bundle(folder, settings.objective)


def _write_bundle(folder: Path, objective: str) -> None:
    """Write a bundle with a decision rule that was fitted on drawn outputs."""
    rng = np.random.default_rng(1)
    count, grades = 200, len(common.GRADE_NAMES)
    outputs = rng.dirichlet(np.ones(grades), count)
    patients = [str(number // 2) for number in range(count)]
    labelled = LabelledOutputs(objective, common.GRADE_NAMES, outputs, rng.integers(0, grades, count), patients)
    rule = fit_decision_rule(labelled, 2, referable_sensitivity=0.9, seed=1)
    write_decision_rule(folder / "decision_rule.json", rule)
    figures = {"split": "validation", "images": count, "quadratic_weighted_kappa": 0.5, "intervals": None}
    write_json(folder / "metrics.json", {**figures, "baseline": {"grade_name": common.GRADE_NAMES[0]}})
    record = {"training_run": BACKBONE, "seed": 1, "digests": {}, "environment": {"packages": {}}}
    write_json(folder / "training_run.json", record)
    (folder / "card.md").write_text("# Random weights\n", encoding="utf-8")
    quality = dict.fromkeys(("focus", "exposure", "field", "quality"), "0.5")
    image = {"image": "1_left", "patient": "1", "width": "100", "height": "100", **quality, "problem": ""}
    write_table(folder / "train.csv", list(image), [image])
    network = {"name": BACKBONE, "objective": objective, "variant": f"{SIZE}-trim-keep-none"}
    content = {
        **{"model": BACKBONE, "kind": "network", "grade_names": common.GRADE_NAMES, "objective": objective},
        **{"patient_pattern": "(?P<patient>.+)_(?P<eye>left|right)", "pixel_limit": 100, "tta_views": 1},
        **{"fellow_eye_weight": 0.5, "networks": [{**network, "training_runs": [BACKBONE]}]},
    }
    write_bundle(
        BundleJob(
            content=content,
            graphs={BACKBONE: folder / "network.onnx"},
            decision_rule=folder / "decision_rule.json",
            eye_average=None,
            metrics=[folder / "metrics.json"],
            records=[folder / "training_run.json"],
            inventory=folder / "train.csv",
            shards=[],
            card=folder / "card.md",
            folder=folder / "bundle",
        )
    )


class Finished(NamedTuple):
    """A process that ended: its output, its seconds, and its seconds of CPU."""

    output: str
    seconds: float
    cpu: float


def run(*command: object) -> Finished:
    """Run a Python program to its end; end the benchmark if it fails."""
    before, start = os.times(), time.perf_counter()
    environment = {**os.environ, "PYTHONPATH": str(common.ROOT / "workflow")}
    done = subprocess.run([sys.executable, *map(str, command)], **PIPES, env=environment)
    seconds, after = time.perf_counter() - start, os.times()
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}: exit status {done.returncode}\n{done.stderr}")
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return Finished(done.stdout, seconds, cpu)


def first_answers(bundle: Path, image: Path) -> tuple[float, float]:
    """Seconds from the start of the service to the page, and to the first graded image."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "retinaflow", "serve", "--port", "0", "--model", str(bundle)]
    environment = {**os.environ, "PYTHONPATH": str(common.ROOT / "workflow")}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as service:
        found = re.match(r"http://127\.0\.0\.1:(\d+) ", service.stdout.readline() if service.stdout else "")
        if not found:
            sys.exit("the service did not start")
        port = int(found[1])
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
        connection.request("GET", "/")
        connection.getresponse().read()
        page = time.perf_counter() - start
        status, answer = ask(port, body_of(image))
        graded = time.perf_counter() - start
        service.send_signal(signal.SIGINT)
    if status != 200 or not answer["images"]:
        sys.exit(f"the image was not graded: {answer}")
    return page, graded


def commands(folder: Path, images: Path, *, heat_maps: bool = False) -> dict[str, list[object]]:
    """Return the program of each side that grades ``images``."""
    former = [Path(__file__).with_name("former.py"), folder / "network.keras", folder / "decision_rule.json", images]
    ours = ["-m", "retinaflow", "predict", "--model", folder / "bundle", images, "--json"]
    return {"ours": ours, OTHER: [*former, *(["--heat-maps"] if heat_maps else [])]}


def agreement(found: dict[str, list[Finished]]) -> str:
    """Compare the answers of both sides."""
    ours = {Path(answer["image"]).name: answer for answer in json.loads(found["ours"][0].output)["images"]}
    rows = [line.split(",") for line in found[OTHER][0].output.splitlines() if line.count(",") == 2]
    same = sum(ours[name]["predicted_grade"] == int(grade) for name, grade, _ in rows)
    apart = max(abs(ours[name]["risk"] - float(risk)) for name, _, risk in rows)
    return f"{same} of {len(rows)} grades are equal; risks differ by {apart:.1e} at most"


def compared(measured: str, found: dict[str, list[float]], most: float) -> common.Row:
    """Row of seconds with a limit."""
    ours, other = (statistics.median(found[side]) for side in ("ours", OTHER))
    return common.Row(measured, OTHER, ours, other, "s", f"{ours:.2f} s", f"at most {most:g} s", ours <= most)


def measure(folder: Path, images: Path) -> tuple[list[common.Row], dict[str, Any]]:
    """Measure all rows; return them and notes."""
    image = sorted(images.iterdir())[0]
    one: dict[str, list[Finished]] = {"ours": [], OTHER: []}
    all_images: dict[str, list[Finished]] = {"ours": [], OTHER: []}
    pages, answers, former_answers = [], [], []
    first_answers(folder / "bundle", image)  # Files of both sides are read from memory afterwards.
    run(*commands(folder, image)[OTHER])
    for number in range(ROUNDS):
        sides = ["ours", OTHER] if number % 2 == 0 else [OTHER, "ours"]
        for side in sides:
            one[side].append(run(*commands(folder, image)[side]))
            all_images[side].append(run(*commands(folder, images)[side]))
        page, answer = first_answers(folder / "bundle", image)
        pages.append(page)
        answers.append(answer)
        former_answers.append(run(*commands(folder, image, heat_maps=True)[OTHER]).seconds)
    seconds = {side: [each.seconds / IMAGES for each in found] for side, found in all_images.items()}
    rows = [
        compared("one image, cold start", {side: [each.seconds for each in one[side]] for side in one}, COLD_SECONDS),
        *common.rates(f"{IMAGES} images, start included", seconds, {OTHER: FOLDER_RATIO}, "images/s"),
        compared("service: page, from its start", {"ours": pages, OTHER: former_answers}, PAGE_SECONDS),
        compared("service: first grade and heat map", {"ours": answers, OTHER: former_answers}, PAGE_SECONDS),
    ]

    def cpu(found: dict[str, list[Finished]]) -> str:
        return ", ".join(f"{side} {statistics.median(each.cpu for each in runs):.1f}" for side, runs in found.items())

    notes = {
        "network": f"{BACKBONE}, {SIZE} px, random weights",
        "images": images.name,
        "agreement": agreement(all_images),
        "CPU seconds of one image": cpu(one),
        f"CPU seconds of {IMAGES} images": cpu(all_images),
    }
    return rows, notes


def main() -> None:
    """Make the model and the images; measure, print and write the rows."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(os.environ.get("MODEL_FOLDER", name))
        if not (folder / "bundle/bundle.json").is_file():
            process = multiprocessing.get_context("spawn").Process(target=make, args=(folder,))
            process.start()
            process.join()
            if process.exitcode:
                sys.exit("the network could not be made")
        source = common.originals() or common.collection()
        images = Path(name) / source.name.replace(", ", "-").replace(" ", "-")
        common.repeat_collection(source, IMAGES, images, Path(name) / "labels.csv")
        rows, notes = measure(folder, images)
    common.publish("serving", rows, notes, rounds=ROUNDS)


if __name__ == "__main__":
    main()
