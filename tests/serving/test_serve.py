"""The HTTP service and page: answers, refusals, limits, slow images, and nothing left behind."""

import asyncio
import base64
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from bundles import THREE, write_toy_bundle, write_toy_results
from common import DATA, watched
from dicom_files import dicom_file
from retinaflow import cli
from retinaflow.errors import RetinaflowError
from retinaflow.serving import worker
from retinaflow.serving.bundle import NOTICE, read_bundle
from retinaflow.serving.examination import examine_patient
from retinaflow.serving.predict import grade_files
from retinaflow.serving.runtime import LoadedModel, load_bundled_model
from retinaflow.serving.verdict import EYE_ORDER

uvicorn = pytest.importorskip("uvicorn", reason="make serve installs it")
serve = pytest.importorskip("retinaflow.serving.serve")
guard = pytest.importorskip("retinaflow.serving.guard")
connections = pytest.importorskip("retinaflow.serving.connections")
workers = pytest.importorskip("retinaflow.serving.workers")
SIZE = 16
TOKEN = "a long random text"  # noqa: S105


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy_results(tmp_path_factory.mktemp("run") / "results")


@pytest.fixture(scope="module")
def folder(results: Path) -> Path:
    """Return the folder of a bundle."""
    return results / "models/ensemble/bundle"


@pytest.fixture(scope="module")
def loaded(folder: Path) -> LoadedModel:
    return load_bundled_model(read_bundle(folder), 1)


class Running:
    """A service in a thread."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        queue, workers = settings.pop("queue", 64), settings.pop("workers", 1)
        ready = threading.Event()
        self.settings = serve.settings_of(read_bundle(folder), workers=workers, queue=queue, **settings)
        self.service = serve.application(self.settings, announce=ready.set, failures=[])
        self.server = uvicorn.Server(serve.configured(self.service))
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.port = self.listening.getsockname()[1]
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.listening]})
        self.thread.start()
        assert ready.wait(60)

    def close(self) -> None:
        self.server.should_exit = True
        self.thread.join(60)
        self.listening.close()
        assert not self.thread.is_alive()


@pytest.fixture
def run(folder: Path) -> Iterator[Any]:
    """Yield a function that runs a service with other settings."""
    services: list[Running] = []

    def start(**settings: Any) -> Running:
        services.append(Running(folder, **settings))
        return services[-1]

    yield start
    for service in services:
        service.close()


@pytest.fixture(scope="module")
def port(folder: Path) -> Iterator[int]:
    """Yield the port of a service."""
    service = Running(folder)
    yield service.port
    service.close()


def image_file(seed: int, kind: str = ".jpeg") -> bytes:
    rng = np.random.default_rng(seed)
    pixels = cv2.resize(rng.integers(60, 256, (6, 8, 3), dtype=np.uint8), (160, 120))
    disc = cv2.circle(np.zeros((120, 160), np.uint8), (80, 60), 56, 255, -1)
    return bytes(cv2.imencode(kind, cv2.bitwise_and(pixels, pixels, mask=disc))[1])


Files = Mapping[str, tuple[str, bytes]] | list[tuple[str, tuple[str, bytes]]]


def body_of(files: Files) -> bytes:
    parts = b"".join(
        f'--border\r\nContent-Disposition: form-data; name="{field}"; filename="{name}"\r\n\r\n'.encode()
        + content
        + b"\r\n"
        for field, (name, content) in (files.items() if isinstance(files, Mapping) else files)
    )
    return parts + b"--border--\r\n"


def ask(
    port: int, files: Files, headers: Mapping[str, str] | None = None, address: str = "/v1/patient"
) -> tuple[int, Any]:
    """Send a form with ``files`` (name and content by field). Return status and content of the answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    sent = {"Content-Type": "multipart/form-data; boundary=border", **(headers or {})}
    connection.request("POST", address, body_of(files), sent)
    response = connection.getresponse()
    check_headers(response.headers)
    return response.status, json.loads(response.read())


def check_headers(headers: Any) -> None:
    assert "default-src 'none'" in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "no-store"


def pixels_of(address: str) -> np.ndarray:
    kind, _, content = address.partition(",")
    assert kind == "data:image/png;base64"
    return cv2.imdecode(np.frombuffer(base64.b64decode(content), np.uint8), cv2.IMREAD_COLOR)[..., ::-1]


def test_answers_are_equal_to_those_of_predict(port: int, loaded: LoadedModel, tmp_path: Path) -> None:
    files = {}
    for seed, name in enumerate(("7_right.jpeg", "7_left.jpeg")):
        (tmp_path / name).write_bytes(image_file(seed))
        files[name] = str(tmp_path / name)
    expected = {answer["eye"]: answer for answer in grade_files(files, loaded, 1).answers}
    sent = {Path(name).stem[2:]: (f"../../{name}", Path(path).read_bytes()) for name, path in files.items()}
    status, found = ask(port, sent)
    assert (status, found["problems"]) == (200, [])
    assert [answer["eye"] for answer in found["images"]] == ["right", "left"]
    for answer in found["images"]:
        same = expected[answer["eye"]]
        for name in same.keys() - {"image", "patient"}:
            assert answer[name] == (
                pytest.approx(same[name], abs=1e-5) if isinstance(same[name], float) else same[name]
            )
        assert pixels_of(answer["input"]).shape == (SIZE, SIZE, 3)
        assert pixels_of(answer["heat_map"]).shape == (SIZE, SIZE, 3)
    patient = found["patient"]
    assert (patient["complete"], patient["eyes_graded"], patient["missing_eyes"]) == (True, 2, [])
    assert (patient["verdict"] == "refer") == any(answer["decision"] == "refer" for answer in found["images"])
    # One eye alone has the same answer, and an incomplete verdict.
    status, alone = ask(port, {"left": sent["left"]})
    (answer,) = alone["images"]
    assert (status, alone["patient"]["complete"], alone["patient"]["missing_eyes"]) == (200, False, ["right"])
    assert answer["severity"] == pytest.approx(found["images"][1]["severity"], abs=1e-5)
    # A batch has the same answers; patients have numbers.
    status, many = ask(port, [("images", (name, content)) for name, content in sent.values()], address="/v1/batch")
    assert (status, [one["patient"] for one in many["patients"]]) == (200, ["1"])
    for one in many["images"]:
        assert one["risk"] == pytest.approx(expected[one["eye"]]["risk"], abs=1e-5)
        assert one["image"] in files


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
    assert found["patient"]["ungradable_images"][0]["reason"].startswith(kind)
    assert found["patient"]["complete"] is False
    status, none = ask(port, {"left": (name, content)})
    assert (status, none["patient"]["verdict"], none["images"]) == (200, "ungradable_refer", [])


def test_eye_of_a_dicom_file_must_be_that_of_its_slot(port: int) -> None:
    pixels = cv2.imdecode(np.frombuffer(image_file(3, ".png"), np.uint8), cv2.IMREAD_COLOR)
    content = dicom_file(pixels, ImageLaterality="L")
    status, found = ask(port, {"left": ("1.2.840.113", content)})
    assert (status, found["problems"], len(found["images"])) == (200, [], 1)
    status, wrong = ask(port, {"right": ("scan.dcm", content)})
    assert (status, wrong["images"], wrong["patient"]["verdict"]) == (200, [], "ungradable_refer")
    problem = "the file says left eye, and it was sent as the right eye"
    assert wrong["problems"] == [{"eye": "right", "problem": "wrong_eye", "found": problem}]
    _, many = ask(port, [("images", ("scan.dcm", content))], address="/v1/batch")
    assert (many["images"][0]["eye"], many["images"][0]["patient"]) == ("left", "1")
    other = dicom_file(pixels[:, ::-1], ImageLaterality="R", PatientID="P18")
    blank = dicom_file(np.zeros_like(pixels), ImageLaterality="R", PatientID="P18")
    for right in (blank, other):
        _, mixed = ask(port, {"left": ("a.dcm", content), "right": ("b.dcm", right)})
        assert (mixed["images"], mixed["patient"]["verdict"]) == ([], "ungradable_refer")
        assert [problem["problem"] for problem in mixed["problems"]] == ["other_patient"] * 2
    _, half = ask(port, {"left": ("a.dcm", content[: len(content) // 2])})
    assert len(half["problems"]) == 1
    for answer in (found, wrong, many, mixed, half):  # The tags have these patients. Pictures have any letters.
        assert not re.search("P17|P18|Sommerfeld", re.sub('"data:[^"]*"', "", json.dumps(answer)))


@pytest.mark.parametrize(
    ("files", "headers", "status", "code", "message"),
    [
        ({}, {}, 400, "no_image", "expected an image as the file 'right', as the file 'left', or both"),
        ({"middle": ("a.jpeg", b"x")}, {}, 400, "no_image", "expected an image as the file 'right'"),
        ([("left", ("a.jpeg", b"x"))] * 2, {}, 400, "two_images", "left eye: 2 images, expected one"),
        ({"left": ("a.exe", b"x")}, {}, 415, "wrong_type", "left eye: expected a file that ends in .jpeg, .jpg, .png"),
        ({"left": ("a.jpeg", bytes(2001))}, {}, 413, "too_large", "left eye: 0 MB, expected 0 MB at most"),
        ({"left": ("a.jpeg", b"x")}, {"Origin": "http://example.org"}, 403, "wrong_origin", "asked from another site"),
        ({"left": ("a.jpeg", b"x")}, {"Host": "example.org"}, 400, "wrong_host", "asked for another host"),
        ({"left": ("a.jpeg", b"x")}, {"Content-Type": "text/plain"}, 400, "no_image", "expected an image as the file"),
    ],
)
def test_request_that_cannot_be_graded_is_refused(
    port: int, files: Any, headers: Any, status: int, code: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve, "MOST_BYTES", 2000)
    found, content = ask(port, files, headers)
    assert (found, content["error"]["code"]) == (status, code)
    assert content["error"]["message"].startswith(message)


@pytest.mark.parametrize("length", [{}, {"Content-Length": "5"}, {"Content-Length": "999999999999"}])
def test_request_without_a_usable_length_is_refused(port: int, length: dict[str, str]) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    sent = {"Content-Type": "multipart/form-data; boundary=x", **length}
    if length.get("Content-Length", "5") == "5":
        connection.request(
            "POST",
            "/v1/patient",
            iter([b"12345", b"more"]),
            {**sent, "Transfer-Encoding": "chunked"},
            encode_chunked=True,
        )
        expected = 411
    else:
        connection.request("POST", "/v1/patient", None, sent)
        expected = 413
    response = connection.getresponse()
    check_headers(response.headers)
    assert response.status == expected


def test_unexpected_error_has_headers_and_no_text(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: Any) -> None:
        raise OSError("patient Sommerfeld")

    monkeypatch.setattr(serve, "_eyes", broken)
    status, content = ask(port, {"left": ("a.jpeg", image_file(0))})
    assert (status, content["error"]["code"], content["error"]["message"]) == (500, "internal", "unexpected OSError")


def test_error_of_an_examination_has_no_text_of_the_patient() -> None:
    def broken(*_: Any) -> None:
        raise OSError("patient Sommerfeld")

    found = worker._answered(broken, "patient", {"left": b"x"})
    assert re.fullmatch(r"OSError in test_serve.py:\d+", found["error"])


def test_every_answer_has_security_headers_and_loads_nothing_else(port: int) -> None:
    for address in ("/", "/page.js", "/page.css", "/docs", "/docs.js", "/v1/model", "/v1/health"):
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{address}") as response:
            check_headers(response.headers)
            assert not re.search(rb"https?://", response.read())
    for address in ("/redoc", "/..%2fretinaflow/serve.py"):
        with pytest.raises(urllib.error.HTTPError, match="404") as refused:
            urllib.request.urlopen(f"http://127.0.0.1:{port}{address}")
        check_headers(refused.value.headers)
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(b"nonsense\r\n\r\n")
        answer = connection.recv(10_000).decode()
    assert answer.startswith("HTTP/1.1 400 Bad Request\r\n")
    assert "content-security-policy" in answer.lower()


def test_interface_is_described(port: int) -> None:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/openapi.json") as response:
        described = json.loads(response.read())
    assert set(described["paths"]) == {"/v1/health", "/v1/model", "/v1/patient", "/v1/batch"}
    for path, form in (("/v1/patient", {"right", "left"}), ("/v1/batch", {"images"})):
        operation = described["paths"][path]["post"]
        assert set(operation["requestBody"]["content"]["multipart/form-data"]["schema"]["properties"]) == form
        assert {"200", "503", "413"} <= set(operation["responses"])
    assert described["components"]["schemas"]["PatientAnswer"]["properties"]["verdict"]["enum"] == [
        *("refer", "do_not_refer", "ungradable_refer"),
    ]


def test_service_names_the_training_set_whose_rule_it_has(tmp_path: Path) -> None:
    bundle = read_bundle(write_toy_bundle(tmp_path, "A", [("A", "softmax", ["A"])], data_sets=["aptos"]))
    for name in ("", "aptos"):
        settings = serve.settings_of(bundle.of_data_set(name), workers=1, queue=1)
        assert settings.asked["data_set"] == settings.facts["card"]["data_set"] == name


def test_other_addresses_than_loopback_need_the_token(run: Any) -> None:
    with pytest.raises(RetinaflowError, match="no token is set"):
        serve.serve(serve.ServiceSettings({}, {}, host="192.0.2.1"))
    service = run(token=TOKEN)
    files = {"left": ("a.jpeg", image_file(0))}
    status, refused = ask(service.port, files)
    assert (status, refused["error"]["code"]) == (401, "no_token")
    assert ask(service.port, files, {"Authorization": "Bearer a long random texT"})[0] == 401
    assert ask(service.port, files, {"Authorization": f"Bearer {TOKEN}"})[0] == 200
    urllib.request.urlopen(f"http://127.0.0.1:{service.port}/v1/health").close()


# Slow images, many requests, slow connections.

SLOW = "retinaflow_slow"


@pytest.fixture
def slow_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """Make workers sleep for an hour on this image. Return the image."""
    marker = image_file(77)
    (tmp_path / f"{SLOW}.py").write_text(
        "import sys, time\n"
        "from retinaflow.serving import worker\n"
        "first = worker.examiner\n"
        "def examiner(**asked):\n"
        "    examine = first(**asked)\n"
        "    def slow(task, paths):\n"
        "        contents = [open(path, 'rb').read() for path in paths.values()]\n"
        f"        if any(len(content) == {len(marker)} for content in contents):\n"
        "            time.sleep(3600)\n"
        "        return examine(task, paths)\n"
        "    return slow\n"
        "worker.examiner = examiner\n"
        "worker.run()\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setattr(workers, "WORKER_MODULE", SLOW)
    return marker


def test_slow_image_holds_nobody_up_and_is_ended(run: Any, slow_images: bytes) -> None:
    service = run(workers=2, seconds=10.0)
    good = {"left": ("a.jpeg", image_file(0))}
    workers = 0
    while workers < 2:
        with urllib.request.urlopen(f"http://127.0.0.1:{service.port}/v1/health") as response:
            workers = json.loads(response.read())["workers"]
        time.sleep(0.1)
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(ask, service.port, {"left": ("slow.jpeg", slow_images)})
        time.sleep(0.3)
        for _ in range(3):
            assert ask(service.port, good)[0] == 200
        assert not slow.done(), "others waited for the slow image"
        status, content = slow.result()
    assert (status, content["error"]["code"]) == (422, "too_slow")
    assert ask(service.port, good)[0] == 200


def test_full_queue_is_a_clear_error(run: Any, slow_images: bytes) -> None:
    service = run(workers=1, seconds=3.0, queue=2)
    with ThreadPoolExecutor(3) as pool:
        waiting = [pool.submit(ask, service.port, {"left": ("slow.jpeg", slow_images)}) for _ in range(2)]
        while service.service.waiting < 2:
            time.sleep(0.02)
        status, content = ask(service.port, {"left": ("a.jpeg", image_file(0))})
        assert (status, content["error"]["code"]) == (503, "busy")
        assert "2 requests wait, expected 2 at most" in content["error"]["message"]
        assert {each.result()[0] for each in waiting} == {422}


def test_idle_and_slow_connections_end(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEADER_SECONDS", 0.5)
    service = run()
    service.service.limits = service.service.limits._replace(upload_seconds=0.5)
    idle = [socket.create_connection(("127.0.0.1", service.port), timeout=20) for _ in range(50)]
    partial = socket.create_connection(("127.0.0.1", service.port), timeout=20)
    partial.sendall(b"GET / HTTP/1.1\r\nHost: ")
    body = socket.create_connection(("127.0.0.1", service.port), timeout=20)
    body.sendall(b"POST /v1/patient HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nhalf")
    assert all(connection.recv(100) == b"" for connection in [*idle, partial])
    assert body.recv(10_000).startswith(b"HTTP/1.1 408 ")
    for connection in (*idle, partial, body):
        connection.close()
    assert ask(service.port, {"left": ("a.jpeg", image_file(0))})[0] == 200


def test_client_that_reads_no_answer_is_disconnected(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "ANSWER_SECONDS", 0.5)
    service = run()
    service.listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", service.port))
        client.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n" * 50)
        until = time.monotonic() + 20
        held = service.server.server_state.connections
        while not held and time.monotonic() < until:
            time.sleep(0.02)
        while held and time.monotonic() < until:
            time.sleep(0.1)
        assert not held
    assert ask(service.port, {"left": ("a.jpeg", image_file(0))})[0] == 200


def command(results: Path, *arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "retinaflow", "serve", "--results", str(results), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def children(process: int) -> list[int]:
    """Processes that a process started."""
    return [int(pid) for pid in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def all_end(processes: list[int]) -> bool:
    """Whether all processes end soon."""
    until = time.monotonic() + 20
    while any(Path(f"/proc/{pid}").exists() for pid in processes) and time.monotonic() < until:
        time.sleep(0.1)
    return not any(Path(f"/proc/{pid}").exists() for pid in processes)


def test_command_serves_this_computer_only_and_ends_on_interrupt(results: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        refused = command(results, "--port", str(taken.getsockname()[1]))
        process = command(results, "--port", "0", "--model", "ensemble")
        line = process.stdout.readline()
        assert NOTICE in line
        port = int(re.match(r"http://127\.0\.0\.1:(\d+) ", line)[1])
        for name, content in (("a.jpeg", image_file(0)), ("b.dcm", dicom_file(np.zeros((40, 40, 3), np.uint8)))):
            assert ask(port, {"left": (name, content)})[0] == 200
        with pytest.raises(OSError, match="refused"):
            socket.create_connection(("127.0.0.2", port), timeout=10)
        # An open connection does not keep it alive.
        with socket.create_connection(("127.0.0.1", port), timeout=10):
            workers = children(process.pid)
            assert workers
            start = time.monotonic()
            process.send_signal(signal.SIGINT)
            assert process.wait(60) in (0, -signal.SIGINT)
        assert time.monotonic() - start < 10  # 2 s on an idle computer
        assert not any(Path(f"/proc/{pid}").exists() for pid in workers)
        assert (process.stdout.read(), process.stderr.read()) == ("", "")
        assert refused.wait(60) == 1
        assert f"error: port {taken.getsockname()[1]} of 127.0.0.1: cannot listen on it" in refused.stderr.read()
    absent = command(tmp_path)
    assert absent.wait(60) == 1
    assert "no bundle of a model" in absent.stderr.read()


# Runs the service with the workers of ``slow_images``.
WITH_SLOW_WORKERS = (
    "import sys; from retinaflow.serving import workers; from retinaflow import cli; "
    f"workers.WORKER_MODULE = {SLOW!r}; sys.exit(cli.main(sys.argv[1:]))"
)


def test_interrupt_ends_a_slow_examination(results: Path, slow_images: bytes) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", WITH_SLOW_WORKERS, "serve", "--results", str(results), "--port", "0"],
        stdout=subprocess.PIPE,
        text=True,
    )
    port = int(re.match(r"http://127\.0\.0\.1:(\d+) ", process.stdout.readline())[1])
    body = body_of({"left": ("slow.jpeg", slow_images)})
    head = f"POST /v1/patient HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(f"{head}Content-Type: multipart/form-data; boundary=border\r\n\r\n".encode() + body)
        waiting = 0
        while not waiting:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/health") as response:
                waiting = json.loads(response.read())["waiting"]
        workers = children(process.pid)
        start = time.monotonic()
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGINT)
        process.wait(60)
    assert time.monotonic() - start < 10  # 2 s on an idle computer, see the next test
    assert workers
    assert all_end(workers)


def test_interrupt_waits_for_nothing_that_takes_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests have a second, and worker processes are killed, also one that ignores all signals and answers nobody."""
    (tmp_path / "deaf_worker.py").write_text(
        "import signal, sys, time\n"
        "for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):\n"
        "    signal.signal(number, signal.SIG_IGN)\n"
        "content = b'{\"ready\": true}'\n"
        "sys.stdout.buffer.write(len(content).to_bytes(4, 'big') + content)\n"
        "sys.stdout.buffer.flush()\n"
        "time.sleep(3600)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(workers, "WORKER_MODULE", "deaf_worker")

    async def closed() -> None:
        pool = workers.Workers({}, count=1, seconds=3600)
        await pool.start()
        [worker] = pool._all
        asked = asyncio.create_task(pool.examine("patient", {"left": b"image"}))
        await asyncio.sleep(0)
        await pool.close()
        [failed] = await asyncio.gather(asked, return_exceptions=True)
        assert worker._process.returncode is not None
        assert isinstance(failed, workers.ExaminationError)
        assert not pool._starting, "a process replaces one that was ended"

    asyncio.run(closed())
    assert serve.configured(None).timeout_graceful_shutdown <= 1


def test_nothing_is_left_after_kill(results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    process = command(results, "--port", "0")
    port = int(re.match(r"http://127\.0\.0\.1:(\d+) ", process.stdout.readline())[1])
    assert ask(port, {"left": ("a.jpeg", image_file(0) + bytes(3_000_000))})[0] == 200
    workers = children(process.pid)
    process.kill()
    process.wait(60)
    assert all_end(workers)
    # ONNX Runtime has a file of its own of a few bytes.
    assert sum(path.stat().st_size for path in tmp_path.rglob("*")) < 1000


def test_model_that_cannot_be_loaded_is_one_clear_error(results: Path, tmp_path: Path) -> None:
    copy = tmp_path / "bundle"
    copy.mkdir()
    for file in (results / "models/B/bundle").iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    (copy / "network-B.onnx").write_bytes(b"no graph")
    process = command(results, "--port", "0", "--model", str(copy))
    assert process.wait(60) == 1
    errors = process.stderr.read()
    assert "network-B.onnx: its digest is not the one in bundle.json" in errors
    assert "Traceback" not in errors


@pytest.mark.parametrize(("token", "message"), [("short", "5 characters"), ("", "0 characters"), ("ü" * 20, "ASCII")])
def test_weak_token_is_refused(tmp_path: Path, token: str, message: str) -> None:
    (tmp_path / "token").write_text(token)
    with pytest.raises(RetinaflowError, match=message):
        cli._token(tmp_path / "token")


def test_many_images_do_not_fill_the_memory(loaded: LoadedModel, tmp_path: Path) -> None:
    (tmp_path / "one.jpeg").write_bytes(image_file(3))
    before = set(os.listdir("/proc/self/fd"))
    for _ in range(5):
        examine_patient({"left": str(tmp_path / "one.jpeg")}, loaded, 1)
    assert set(os.listdir("/proc/self/fd")) == before


# The page in a browser.


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with an image of each eye, a text file and a truncated image."""
    folder = tmp_path_factory.mktemp("samples")
    real = sorted((DATA / "eyepacs-256/images").glob("*_left.*"))[:1]
    for eye in EYE_ORDER:
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
    for eye in EYE_ORDER:
        choose(page, eye, samples / f"1_{eye}.jpeg")
    button(page).click()
    page.locator("article").nth(1).wait_for()
    page.screenshot(path=tmp_path / "both.png", full_page=True)
    page.get_by_role("status").get_by_text("Graded.").wait_for()
    assert page.locator("#decision").inner_text() in ("Refer", "Do not refer")
    assert page.evaluate("document.activeElement.id") == "verdict"
    assert page.locator("article h3").all_inner_texts() == ["Right eye", "Left eye"]
    decisions = []
    for article in page.locator("article").all():
        decisions.append(article.locator(".decision").inner_text().split(":")[0])
        assert article.locator(".detail").inner_text().startswith("Predicted grade: ")
        assert article.locator("tbody tr").count() == len(THREE)
        shares = [float(cell) for cell in article.locator("td:last-child").all_inner_texts()]
        assert sum(shares) == pytest.approx(1, abs=0.01)
        for picture in article.locator("img").all():
            assert picture.evaluate("element => element.decode().then(() => element.naturalWidth)") == SIZE
    # One eye that is referred refers the patient.
    assert page.locator("#decision").inner_text() == ("Refer" if "Refer" in decisions else "Do not refer")
    page.emulate_media(media="print")
    page.screenshot(path=tmp_path / "printed.png", full_page=True)
    assert re.match(
        r"right eye 1_right.jpeg, left eye 1_left.jpeg; graded 20", page.locator("#when").inner_text(), re.I
    )
    assert not page.locator("#form").is_visible()
    assert page.locator("#verdict").is_visible()
    page.emulate_media(media="screen")
    button(page, "Clear").click()
    assert page.locator("article").count() == 0
    assert not page.locator("#verdict").is_visible()
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
    page.get_by_text("Right eye cannot be graded: truncated").wait_for()
    assert page.locator("article h3").all_inner_texts() == ["Left eye"]
    assert "(incomplete: one eye graded)" in page.locator("#decision").inner_text()
    page.screenshot(path=tmp_path / "broken.png", full_page=True)


@pytest.mark.browser
def test_late_answer_is_not_shown_for_other_images(page: Any, samples: Path) -> None:
    choose(page, "left", samples / "1_left.jpeg")
    held: list[Any] = []
    page.route("**/v1/patient", lambda route: held.append(route))
    button(page).click()
    page.get_by_text("Grading ...").wait_for()
    button(page, "Clear").click()
    choose(page, "right", samples / "1_right.jpeg")
    with page.expect_response("**/v1/patient"):
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
    page.get_by_text("Left eye cannot be graded: not an image").wait_for()
    page.get_by_text("Nothing was graded.").wait_for()
    assert page.locator("#decision").inner_text() == "Ungradable: refer"


@pytest.mark.browser
def test_page_fits_a_narrow_dark_screen(browser: Any, port: int, samples: Path, tmp_path: Path) -> None:
    narrow = browser.new_page(viewport={"width": 380, "height": 800}, color_scheme="dark")
    narrow.goto(f"http://127.0.0.1:{port}/")
    choose(narrow, "left", samples / "1_left.jpeg")
    button(narrow).click()
    narrow.locator("article").wait_for()
    assert narrow.evaluate("document.documentElement.scrollWidth") <= 380
    narrow.screenshot(path=tmp_path / "narrow.png", full_page=True)


@pytest.mark.browser
def test_page_asks_for_the_token(browser: Any, run: Any, samples: Path, tmp_path: Path) -> None:
    service = run(token=TOKEN)
    opened = browser.new_page()
    opened.goto(f"http://127.0.0.1:{service.port}/")
    opened.locator("#token").fill(TOKEN)
    opened.keyboard.press("Enter")
    opened.get_by_text("Graded by ensemble").wait_for()
    choose(opened, "left", samples / "1_left.jpeg")
    button(opened).click()
    opened.locator("article").wait_for()
    opened.goto(f"http://127.0.0.1:{service.port}/docs")
    opened.get_by_text("POST /v1/patient").wait_for()
    opened.screenshot(path=tmp_path / "docs.png", full_page=True)
    opened.close()
