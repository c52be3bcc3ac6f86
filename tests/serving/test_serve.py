"""The HTTP service and page that grade one patient: answers, refusals, and no image left behind."""

import base64
import http.client
import json
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import cv2
import keras
import numpy as np
import pytest

import small
from common import DATA, watched
from retinaflow.errors import RetinaflowError
from retinaflow.networks import devices
from retinaflow.networks.building import build
from retinaflow.scoring.decision_rules import LabelledOutputs, fit_decision_rule, write_decision_rule
from retinaflow.serving.bundle import NOTICE, Bundle, read_bundle
from retinaflow.serving.explain import overlay, relevance
from retinaflow.serving.predict import LoadedModel, grade_files, load_bundled_model
from retinaflow.storage.files import write_json

if keras.backend.backend() != "tensorflow":
    pytest.skip("explains with TensorFlow", allow_module_level=True)
uvicorn = pytest.importorskip("uvicorn", reason="make serve installs it")
serve = pytest.importorskip("retinaflow.serving.serve")

# TensorFlow accepts a number of threads only before its first tensor, which other test files make, too.
devices.prepare(seed=0, threads=1)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two networks, for images of 32 and of 48 pixels."""
    folder = tmp_path_factory.mktemp("run") / "results"
    networks = []
    with pytest.MonkeyPatch.context() as patch:
        small.register(patch)
        for seed, (name, size) in enumerate((("A", 32), ("B", 48))):
            keras.utils.set_random_seed(seed)
            model = build(small.typed(image_size=size), 3)
            for number, weight in enumerate(model.trainable_weights):
                weight.assign(np.random.default_rng(number).normal(0, 0.3, weight.shape))
            (folder / "models" / name).mkdir(parents=True)
            model.save(folder / "models" / name / "model.keras")
            networks.append(
                {
                    **{"name": name, "objective": "softmax", "variant": f"{size}-trim-keep-none"},
                    **{"files": [f"{name}/model.keras"], "cpu_threads": 1, "backend": "tensorflow"},
                }
            )
    rng = np.random.default_rng(0)
    labelled = LabelledOutputs(
        "softmax", small.THREE, rng.dirichlet(np.ones(3), 60), rng.integers(0, 3, 60), list("abcdef") * 10
    )
    write_decision_rule(
        folder / "models/decision_rule.json", fit_decision_rule(labelled, 1, referable_sensitivity=0.9, seed=0)
    )

    def model(*of: dict[str, Any]) -> dict[str, Any]:
        rules = {"decision_rule": "decision_rule.json", "eye_average": None}
        return {"objective": "softmax", **rules, "networks": list(of)}

    write_json(
        folder / "models/bundle.json",
        {
            **{"grade_names": small.THREE, "patient_pattern": "(?P<patient>.+)_(?P<eye>left|right)"},
            **{"pixel_limit": 10, "seed": 1, "tta_views": 1, "fellow_eye_weight": 0.25, "best": "A"},
            **{"quality_share": 0.05, "quality_threshold": 0.999},
            "models": {"A": model(networks[0]), "ensemble": model(*networks)},
        },
    )
    return folder


@pytest.fixture(scope="module")
def bundle(results: Path) -> Bundle:
    return read_bundle(results / "models/bundle.json")


@pytest.fixture(scope="module")
def loaded(bundle: Bundle) -> LoadedModel:
    return load_bundled_model(bundle, "ensemble")


@pytest.fixture(scope="module")
def port(loaded: LoadedModel) -> Iterator[int]:
    """A server in a thread."""
    server = uvicorn.Server(uvicorn.Config(serve.application(loaded, "ensemble", 2), log_level="warning"))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        yield listening.getsockname()[1]
        server.should_exit = True
        thread.join(60)
        assert not thread.is_alive()


def image_file(seed: int) -> bytes:
    rng = np.random.default_rng(seed)
    pixels = cv2.resize(rng.integers(60, 256, (6, 8, 3), dtype=np.uint8), (160, 120))
    disc = cv2.circle(np.zeros((120, 160), np.uint8), (80, 60), 56, 255, -1)
    return bytes(cv2.imencode(".jpeg", cv2.bitwise_and(pixels, pixels, mask=disc))[1])


def ask(port: int, files: Mapping[str, tuple[str, bytes]], headers: Mapping[str, str] | None = None) -> tuple[int, Any]:
    """Status and content of the answer to a form with ``files``: name and content by field."""
    parts = b"".join(
        f'--border\r\nContent-Disposition: form-data; name="{field}"; filename="{name}"\r\n\r\n'.encode()
        + content
        + b"\r\n"
        for field, (name, content) in files.items()
    )
    body = parts + b"--border--\r\n"
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    sent = {"Content-Type": "multipart/form-data; boundary=border", **(headers or {})}
    connection.request("POST", "/grade", body, sent)
    response = connection.getresponse()
    text = response.read()
    return response.status, json.loads(text) if response.headers[
        "content-type"
    ] == "application/json" else text.decode()


def pixels_of(address: str) -> np.ndarray:
    kind, _, content = address.partition(",")
    assert kind == "data:image/png;base64"
    return cv2.imdecode(np.frombuffer(base64.b64decode(content), np.uint8), cv2.IMREAD_COLOR)[..., ::-1]


def test_answers_are_those_of_predict(
    port: int, loaded: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    files = {}
    for seed, name in enumerate(("7_right.jpeg", "7_left.jpeg")):
        (tmp_path / name).write_bytes(image_file(seed))
        files[name] = str(tmp_path / name)
    expected = {answer["eye"]: answer for answer in grade_files(files, loaded, 1)[0]}
    sent = {Path(name).stem[2:]: (f"../../{name}", Path(path).read_bytes()) for name, path in files.items()}
    status, found = ask(port, sent)
    assert (status, found["problems"]) == (200, [])
    assert [answer["eye"] for answer in found["images"]] == ["right", "left"]
    for answer in found["images"]:
        like = expected[answer["eye"]]
        assert answer["patient_grade_name"] is not None
        assert answer["low_quality"] == 1
        for name in like.keys() - {"image", "patient"}:
            assert answer[name] == (
                pytest.approx(like[name], abs=1e-6) if isinstance(like[name], float) else like[name]
            )
        assert pixels_of(answer["input"]).shape == (32, 32, 3)
        assert pixels_of(answer["heat_map"]).shape == (32, 32, 3)
    # One eye alone has the same answer, and none by both.
    status, alone = ask(port, {"left": sent["left"]})
    assert status == 200
    (answer,) = alone["images"]
    assert answer["patient_grade_name"] is None
    assert answer["severity"] == pytest.approx(found["images"][1]["severity"], abs=1e-6)
    # Neither is written anywhere.
    assert not list((tmp_path / "temporary").iterdir())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["7_left.jpeg", "7_right.jpeg", "temporary"]


def test_heat_map_is_that_of_explain(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "one.jpeg").write_bytes(image_file(3))
    alone = load_bundled_model(bundle, "A")
    (answer,) = serve.examine({"right": str(tmp_path / "one.jpeg")}, alone, 1)["images"]
    shown = pixels_of(answer["input"])
    (model,) = alone.networks[0][1]
    (share,) = relevance(model, shown[np.newaxis], "softmax", np.array([answer["predicted_grade"]]))
    assert (pixels_of(answer["heat_map"]) == overlay(shown, share)).all()


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("left.jpeg", b"", "empty"),
        ("left.png", b"GIF89a and more", "not_an_image"),
        ("left.jpeg", image_file(1)[:-400], "truncated"),
    ],
)
def test_broken_image_is_reported_and_the_other_graded(port: int, name: str, content: bytes, kind: str) -> None:
    status, found = ask(port, {"left": (name, content), "right": ("b.jpeg", image_file(2))})
    assert status == 200
    assert [answer["eye"] for answer in found["images"]] == ["right"]
    assert [(problem["eye"], problem["problem"]) for problem in found["problems"]] == [("left", kind)]
    assert found["problems"][0]["found"]


@pytest.mark.parametrize(
    ("files", "headers", "status", "message"),
    [
        ({}, {}, 400, "expected an image as the file 'right', as the file 'left', or both"),
        ({"middle": ("a.jpeg", b"x")}, {}, 400, "expected an image as the file 'right'"),
        ({"left": ("a.exe", b"x")}, {}, 415, "left eye: expected a file that ends in .jpeg, .jpg, .png"),
        ({"left": ("a.jpeg", bytes(2001))}, {}, 413, "left eye: 0 MB, expected 0 MB at most"),
        ({"left": ("a.jpeg", bytes(20_000))}, {}, 413, "expected 0 MB an image at most"),
        ({"left": ("a.jpeg", b"x")}, {"Origin": "http://example.org"}, 403, "asked from http://example.org"),
        ({"left": ("a.jpeg", b"x")}, {"Host": "example.org"}, 400, "Invalid host header"),
        ({"left": ("a.jpeg", b"x")}, {"Content-Type": "text/plain"}, 400, "expected an image as the file"),
    ],
)
def test_request_that_is_not_from_the_page_is_refused(
    port: int, files: Any, headers: Any, status: int, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve, "MOST_BYTES", 2000)
    found, content = ask(port, files, headers)
    assert found == status
    assert message in (content if isinstance(content, str) else content["error"])


@pytest.mark.parametrize("length", [{}, {"Content-Length": "5"}])
def test_a_request_in_chunks_is_refused(port: int, length: dict[str, str]) -> None:
    """Also if it names a length."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    sent = {"Content-Type": "multipart/form-data; boundary=x", "Transfer-Encoding": "chunked", **length}
    connection.request("POST", "/grade", iter([b"12345", b"more"]), sent, encode_chunked=True)
    assert connection.getresponse().status == 411


def test_unexpected_error_is_reported(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(serve, "examine", full)
    status, content = ask(port, {"left": ("a.jpeg", image_file(0))})
    assert (status, content) == (500, {"error": "it could not be graded: No space left on device"})


def test_many_images_leave_nothing_behind(loaded: LoadedModel, tmp_path: Path) -> None:
    """Neither layers nor nodes: a service runs for days."""
    (tmp_path / "one.jpeg").write_bytes(image_file(3))
    layers = [layer for _, models in loaded.networks for model in models for layer in model.layers]
    counts = []
    for _ in range(3):
        serve.examine({"left": str(tmp_path / "one.jpeg")}, loaded, 1)
        counts.append(sum(len(layer._inbound_nodes) for layer in layers))
    assert counts[0] == counts[1] == counts[2]


def test_nothing_is_fetched_from_elsewhere(port: int) -> None:
    for address in ("/", "/page.js", "/page.css", "/about"):
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{address}") as response:
            assert "default-src 'none'" in response.headers["content-security-policy"]
            assert not re.search(rb"https?://", response.read())
    for address in ("/docs", "/openapi.json", "/..%2fretinaflow/serve.py"):
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(f"http://127.0.0.1:{port}{address}")


def command(results: Path, *arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "retinaflow", "serve", "--results", str(results), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_the_command(results: Path, tmp_path: Path) -> None:
    """It prints its address, listens on the loopback interface only, and ends on Ctrl-C."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        refused = command(results, "--port", str(taken.getsockname()[1]))
        process = command(results, "--port", "0", "--model", "ensemble")
        line = process.stdout.readline()
        assert "This is research software, not a medical device." in line
        port = int(re.match(r"http://127\.0\.0\.1:(\d+) ", line)[1])
        assert ask(port, {"left": ("a.jpeg", image_file(0))})[0] == 200
        with pytest.raises(OSError, match="refused"):
            socket.create_connection(("127.0.0.2", port), timeout=10)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) in (0, -signal.SIGINT)
        assert "Traceback" not in process.stderr.read()
        assert refused.wait(60) == 1
        assert f"error: port {taken.getsockname()[1]}: cannot listen on it" in refused.stderr.read()
    absent = command(tmp_path)
    assert absent.wait(60) == 1
    assert "bundle.json: No such file or directory; expected the bundle of a finished run" in absent.stderr.read()


def test_a_port_that_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(RetinaflowError, match="--port"):
        serve.serve(None, "", port=taken.getsockname()[1], threads=1)


@pytest.mark.browser
def test_the_page(browser: Any, port: int, tmp_path: Path) -> None:
    """Both eyes are chosen, graded and cleared, with no error and no request to elsewhere; look at the pictures."""
    real = sorted((DATA / "eyepacs-256/images").glob("*_left.*"))[:1]
    for eye in serve.EYES:
        path = tmp_path / f"1_{eye}.jpeg"
        path.write_bytes(Path(str(real[0]).replace("left", eye)).read_bytes() if real else image_file(len(eye)))
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "broken.jpeg").write_bytes(image_file(1)[:-400])
    address = f"http://127.0.0.1:{port}/"
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    wrong = watched(page, (address, "data:", "blob:"))
    page.goto(address)
    page.get_by_text(NOTICE).wait_for()
    page.get_by_text("up to 64 MB each").wait_for()
    button = page.get_by_role("button", name="Grade")
    assert button.is_disabled()
    page.screenshot(path=tmp_path / "first.png")

    page.locator("#left").set_input_files(tmp_path / "notes.txt")
    page.get_by_text("left eye: notes.txt: expected a file that ends in .jpeg").wait_for()
    assert button.is_disabled()

    for eye in serve.EYES:
        page.locator(f"#{eye}").set_input_files(tmp_path / f"1_{eye}.jpeg")
    button.click()
    page.locator("article").nth(1).wait_for()
    page.screenshot(path=tmp_path / "both.png", full_page=True)
    assert page.locator("article h2").all_inner_texts() == ["Right eye", "Left eye"]
    for article in page.locator("article").all():
        assert article.locator(".grade").inner_text().split(",")[0] in small.THREE
        assert article.locator(".both").inner_text().startswith("Mean of both eyes: ")
        assert article.locator(".quality").inner_text().startswith("Low quality")
        assert article.locator("tbody tr").count() == len(small.THREE)
        shares = [float(cell) for cell in article.locator("td:last-child").all_inner_texts()]
        assert sum(shares) == pytest.approx(1, abs=0.01)
        for picture in article.locator("img").all():
            assert picture.evaluate("element => element.decode().then(() => element.naturalWidth)") == 32

    # By the keyboard, of which one is broken.
    page.get_by_role("status").get_by_text("Graded.").wait_for()
    page.locator("#right").set_input_files(tmp_path / "broken.jpeg")
    page.locator("#right").focus()
    for expected in ("left", "grade"):
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.id") == expected
    page.keyboard.press("Enter")
    page.get_by_text("right eye: truncated").wait_for()
    assert page.locator("article h2").all_inner_texts() == ["Left eye"]
    page.screenshot(path=tmp_path / "broken.png", full_page=True)

    page.get_by_role("button", name="Clear").click()
    assert page.locator("article").count() == 0
    assert button.is_disabled()

    # A late answer is not shown for other images.
    page.locator("#left").set_input_files(tmp_path / "1_left.jpeg")
    held: list[Any] = []
    page.route("**/grade", lambda route: held.append(route))
    button.click()
    page.get_by_text("Grading ...").wait_for()
    page.get_by_role("button", name="Clear").click()
    page.locator("#right").set_input_files(tmp_path / "1_right.jpeg")
    with page.expect_response("**/grade"):
        held[0].continue_()
    page.wait_for_timeout(300)
    assert page.locator("article").count() == 0
    assert button.is_enabled()
    page.unroute("**/grade")
    page.get_by_role("button", name="Clear").click()

    # Dropped, as from a folder.
    transfer = page.evaluate_handle(
        "() => { const data = new DataTransfer(); data.items.add(new File(['x'], 'x.png')); return data; }"
    )
    page.dispatch_event("#drop-left", "drop", {"dataTransfer": transfer})
    button.click()
    page.get_by_text("left eye: not_an_image").wait_for()
    page.get_by_text("Nothing was graded.").wait_for()
    narrow = browser.new_page(viewport={"width": 380, "height": 800}, color_scheme="dark")
    narrow.goto(address)
    narrow.locator("#left").set_input_files(tmp_path / "1_left.jpeg")
    narrow.get_by_role("button", name="Grade").click()
    narrow.locator("article").wait_for()
    assert narrow.evaluate("document.documentElement.scrollWidth") <= 380
    narrow.screenshot(path=tmp_path / "narrow.png", full_page=True)
    assert not wrong
