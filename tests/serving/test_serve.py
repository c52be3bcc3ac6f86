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
import numpy as np
import pytest

from bundles import SIZE, THREE, VARIANT, write_toy_bundle
from common import DATA, watched
from retinaflow.errors import RetinaflowError
from retinaflow.serving.bundle import NOTICE, Bundle, read_bundle
from retinaflow.serving.heat_maps import overlay
from retinaflow.serving.predict import grade_files
from retinaflow.serving.runtime import LoadedModel, heat_maps, load_bundled_model

uvicorn = pytest.importorskip("uvicorn", reason="make serve installs it")
serve = pytest.importorskip("retinaflow.serving.serve")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a results folder with an ensemble of two networks."""
    folder = tmp_path_factory.mktemp("run") / "results"
    networks = [("A", "softmax", ["A"]), ("B", "softmax", ["B"])]
    write_toy_bundle(folder, "ensemble", networks, tta_views=1, pixel_limit=10)
    return folder


@pytest.fixture(scope="module")
def bundle(results: Path) -> Bundle:
    return read_bundle(results / "models/ensemble/bundle")._replace(quality_threshold=0.999)


@pytest.fixture(scope="module")
def loaded(bundle: Bundle) -> LoadedModel:
    return load_bundled_model(bundle, 1)


@pytest.fixture(scope="module")
def port(loaded: LoadedModel) -> Iterator[int]:
    """Yield the port of a server in a thread."""
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
    """Send a form with ``files`` (name and content by field). Return status and content of the answer."""
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


def test_answers_are_equal_to_those_of_predict(
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
        same = expected[answer["eye"]]
        assert answer["eye_average_grade_name"] is not None
        assert answer["low_quality"] == 1
        for name in same.keys() - {"image", "patient"}:
            assert answer[name] == (
                pytest.approx(same[name], abs=1e-6) if isinstance(same[name], float) else same[name]
            )
        assert pixels_of(answer["input"]).shape == (SIZE, SIZE, 3)
        assert pixels_of(answer["heat_map"]).shape == (SIZE, SIZE, 3)
    # One eye alone has the same answer, without a grade of both eyes.
    status, alone = ask(port, {"left": sent["left"]})
    assert status == 200
    (answer,) = alone["images"]
    assert answer["eye_average_grade_name"] is None
    assert answer["severity"] == pytest.approx(found["images"][1]["severity"], abs=1e-6)
    # No image is written to disk.
    assert not list((tmp_path / "temporary").iterdir())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["7_left.jpeg", "7_right.jpeg", "temporary"]


def test_heat_map_is_that_of_the_answer(loaded: LoadedModel, tmp_path: Path) -> None:
    (tmp_path / "one.jpeg").write_bytes(image_file(3))
    (answer,) = serve.examine({"right": str(tmp_path / "one.jpeg")}, loaded, 1)["images"]
    shown = pixels_of(answer["input"])
    grades = np.array([answer["predicted_grade"]])
    (share,) = heat_maps(loaded, {VARIANT: shown[np.newaxis]}, grades)
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
def test_request_in_chunks_is_refused(port: int, length: dict[str, str]) -> None:
    """This also holds for a request that names a length."""
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


def test_page_fetches_nothing_from_other_addresses(port: int) -> None:
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


def test_command_serves_this_computer_only_and_ends_on_interrupt(results: Path, tmp_path: Path) -> None:
    """The command prints its address, listens on the loopback interface only, and ends on Ctrl-C."""
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
    assert "no bundle of a model below" in absent.stderr.read()


def test_taken_port_is_one_clear_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(RetinaflowError, match="--port"):
        serve.serve(None, "", port=taken.getsockname()[1], threads=1)


# The page in a browser.


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with an image of each eye, a text file and a truncated image."""
    folder = tmp_path_factory.mktemp("samples")
    real = sorted((DATA / "eyepacs-256/images").glob("*_left.*"))[:1]
    for eye in serve.EYE_ORDER:
        content = Path(str(real[0]).replace("left", eye)).read_bytes() if real else image_file(len(eye))
        (folder / f"1_{eye}.jpeg").write_bytes(content)
    (folder / "notes.txt").write_text("hello")
    (folder / "broken.jpeg").write_bytes(image_file(1)[:-400])
    return folder


@pytest.fixture
def page(browser: Any, port: int) -> Iterator[Any]:
    """Yield the open page. At the end, it must have no error and no request to another address."""
    address = f"http://127.0.0.1:{port}/"
    opened = browser.new_page(viewport={"width": 1200, "height": 900})
    wrong = watched(opened, (address, "data:", "blob:"))
    opened.goto(address)
    opened.get_by_text(NOTICE).wait_for()
    yield opened
    opened.close()
    assert not wrong


def choose(page: Any, eye: str, path: Path) -> None:
    page.locator(f"#{eye}").set_input_files(path)


def button(page: Any, name: str = "Grade") -> Any:
    return page.get_by_role("button", name=name)


@pytest.mark.browser
def test_page_accepts_image_files_only(page: Any, samples: Path, tmp_path: Path) -> None:
    page.get_by_text("up to 64 MB each").wait_for()
    assert button(page).is_disabled()
    page.screenshot(path=tmp_path / "first.png")
    choose(page, "left", samples / "notes.txt")
    page.get_by_text("left eye: notes.txt: expected a file that ends in .jpeg").wait_for()
    assert button(page).is_disabled()


@pytest.mark.browser
def test_page_shows_and_clears_the_grades_of_both_eyes(page: Any, samples: Path, tmp_path: Path) -> None:
    for eye in serve.EYE_ORDER:
        choose(page, eye, samples / f"1_{eye}.jpeg")
    button(page).click()
    page.locator("article").nth(1).wait_for()
    page.screenshot(path=tmp_path / "both.png", full_page=True)
    page.get_by_role("status").get_by_text("Graded.").wait_for()
    assert page.locator("article h2").all_inner_texts() == ["Right eye", "Left eye"]
    for article in page.locator("article").all():
        assert article.locator(".grade").inner_text().split(",")[0] in ("Refer", "Do not refer")
        assert article.locator(".both").inner_text().startswith("With the fellow eye: grade ")
        assert article.locator(".quality").inner_text().startswith("Low quality")
        assert article.locator("tbody tr").count() == len(THREE)
        shares = [float(cell) for cell in article.locator("td:last-child").all_inner_texts()]
        assert sum(shares) == pytest.approx(1, abs=0.01)
        for picture in article.locator("img").all():
            assert picture.evaluate("element => element.decode().then(() => element.naturalWidth)") == 32
    button(page, "Clear").click()
    assert page.locator("article").count() == 0
    assert button(page).is_disabled()


@pytest.mark.browser
def test_keyboard_grades_the_eye_that_is_not_broken(page: Any, samples: Path, tmp_path: Path) -> None:
    choose(page, "left", samples / "1_left.jpeg")
    choose(page, "right", samples / "broken.jpeg")
    page.locator("#right").focus()
    for expected in ("left", "grade"):
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.id") == expected
    page.keyboard.press("Enter")
    page.get_by_text("right eye: truncated").wait_for()
    assert page.locator("article h2").all_inner_texts() == ["Left eye"]
    page.screenshot(path=tmp_path / "broken.png", full_page=True)


@pytest.mark.browser
def test_late_answer_is_not_shown_for_other_images(page: Any, samples: Path) -> None:
    choose(page, "left", samples / "1_left.jpeg")
    held: list[Any] = []
    page.route("**/grade", lambda route: held.append(route))
    button(page).click()
    page.get_by_text("Grading ...").wait_for()
    button(page, "Clear").click()
    choose(page, "right", samples / "1_right.jpeg")
    with page.expect_response("**/grade"):
        held[0].continue_()
    page.wait_for_timeout(300)
    assert page.locator("article").count() == 0
    assert button(page).is_enabled()


@pytest.mark.browser
def test_dropped_file_is_checked_like_a_chosen_one(page: Any) -> None:
    transfer = page.evaluate_handle(
        "() => { const data = new DataTransfer(); data.items.add(new File(['x'], 'x.png')); return data; }"
    )
    page.dispatch_event("#drop-left", "drop", {"dataTransfer": transfer})
    button(page).click()
    page.get_by_text("left eye: not_an_image").wait_for()
    page.get_by_text("Nothing was graded.").wait_for()


@pytest.mark.browser
def test_page_fits_a_narrow_dark_screen(browser: Any, port: int, samples: Path, tmp_path: Path) -> None:
    narrow = browser.new_page(viewport={"width": 380, "height": 800}, color_scheme="dark")
    narrow.goto(f"http://127.0.0.1:{port}/")
    choose(narrow, "left", samples / "1_left.jpeg")
    button(narrow).click()
    narrow.locator("article").wait_for()
    assert narrow.evaluate("document.documentElement.scrollWidth") <= 380
    narrow.screenshot(path=tmp_path / "narrow.png", full_page=True)
