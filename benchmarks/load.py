"""Load of the service: many clients at once, wrong and lost answers, times, and memory.

    python benchmarks/load.py BUNDLE IMAGE [IMAGE ...] --clients 50 --seconds 120
    python benchmarks/load.py BUNDLE IMAGE [IMAGE ...] --clients 4 --requests 2000

The second command shows the memory by hundred answers. `--slow` adds a client with an image of 54 megapixels.
"""

import argparse
import http.client
import json
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

import common

SLOW_SIZE = common.sized((6000, 9000), (600, 900))


def body_of(path: Path) -> bytes:
    """A form with one image as the left eye."""
    head = f'--border\r\nContent-Disposition: form-data; name="left"; filename="{path.name}"\r\n\r\n'
    return head.encode() + path.read_bytes() + b"\r\n--border--\r\n"


def ask(port: int, body: bytes) -> tuple[int, Any]:
    """Status and content of an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
    connection.request("POST", "/v1/patient", body, {"Content-Type": "multipart/form-data; boundary=border"})
    response = connection.getresponse()
    content = json.loads(response.read())
    connection.close()
    return response.status, content


def resident(process: int) -> list[float]:
    """Resident size of a process and of those it started, in MB."""
    children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    sizes = []
    for one in (str(process), *children):
        sizes.append(int(Path(f"/proc/{one}/statm").read_text().split()[1]) * 4096 / 1e6)
    return sizes


def shown(sizes: Sequence[float]) -> str:
    """Sizes of the server and its workers as text."""
    return f"server {sizes[0]:.0f} MB, workers {', '.join(f'{size:.0f}' for size in sizes[1:])} MB"


def slow_image(folder: str) -> Path:
    """Draw a large fundus image."""
    height, width = SLOW_SIZE
    image = np.zeros((height, width, 3), np.uint8)
    cv2.circle(image, (width // 2, height // 2), height // 2 - 10, (40, 80, 160), -1)
    path = Path(folder, "slow.png")
    cv2.imwrite(str(path), image)
    return path


class Load:
    """Clients that ask at once, and what they get."""

    def __init__(self, port: int, bodies: Sequence[bytes]) -> None:
        """Ask once for each form; all later answers must be the same."""
        self.port, self.bodies = port, bodies
        self.expected = [ask(port, body)[1]["patient"] for body in bodies]
        self.times: list[float] = []
        self.slow: list[float] = []
        self.wrong: list[Any] = []
        self.until, self.most = 0.0, 0

    @property
    def goes_on(self) -> bool:
        """Whether more requests are to be sent."""
        return len(self.times) + len(self.wrong) < self.most if self.most else time.monotonic() < self.until

    def client(self, number: int) -> None:
        """Ask again and again."""
        while self.goes_on:
            number += 1
            place = number % len(self.bodies)
            before = time.monotonic()
            try:
                status, content = ask(self.port, self.bodies[place])
            except (OSError, ValueError) as error:
                self.wrong.append(error)
                continue
            self.times.append(time.monotonic() - before)
            if status != 200 or content["patient"] != self.expected[place]:
                self.wrong.append((status, content))

    def slow_client(self, body: bytes) -> None:
        """Ask again and again for an image that takes long."""
        while self.goes_on:
            before = time.monotonic()
            status, content = ask(self.port, body)
            self.slow.append(time.monotonic() - before)
            if status != 200:
                self.wrong.append((status, content))


def watch(load: Load, threads: Sequence[threading.Thread], process: int) -> None:
    """Print the memory at the start, each hundred answers (of ``--requests``) or third of the time, and at the end."""
    print(f"memory at the start: {shown(resident(process))}")
    start, printed = time.monotonic(), 0
    while any(thread.is_alive() for thread in threads):
        if load.most:
            step = len(load.times) // 100
        else:
            step = int(3 * (time.monotonic() - start) / max(load.until - start, 0.1))
        if step > printed:
            printed = step
            print(f"after {len(load.times)} answers: {shown(resident(process))}", flush=True)
        time.sleep(0.2)
    print(f"at the end: {shown(resident(process))}")


def report(load: Load, clients: int) -> None:
    """Print the numbers of answers and their times."""
    p50, p99 = statistics.median(load.times), statistics.quantiles(load.times, n=100)[98]
    print(f"{clients} clients, {len(load.times)} answers, {len(load.wrong)} wrong or lost")
    print(f"p50 {p50:.2f} s, p99 {p99:.2f} s, longest {max(load.times):.2f} s")
    if load.slow:
        print(f"slow image: {len(load.slow)} answers, p50 {statistics.median(load.slow):.2f} s")
    if load.wrong:
        print(f"the first: {load.wrong[0]}")


def main() -> None:
    """Start a service, ask it, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle")
    parser.add_argument("images", nargs="+", type=Path)
    parser.add_argument("--clients", type=int, default=common.sized(50, 4))
    parser.add_argument("--seconds", type=float, default=common.sized(120.0, 3.0))
    parser.add_argument("--requests", type=int, default=0, help="number of requests, in place of the seconds")
    parser.add_argument("--slow", action="store_true", help="one more client sends an image that takes long")
    asked = parser.parse_args()
    command = [sys.executable, "-m", "retinaflow", "serve", "--port", "0", "--model", asked.bundle]
    start = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as service, tempfile.TemporaryDirectory() as name:
        found = re.match(r"http://127\.0\.0\.1:(\d+) ", service.stdout.readline() if service.stdout else "")
        if not found:
            sys.exit("the service did not start")
        load = Load(int(found[1]), [body_of(path) for path in asked.images])
        print(f"first answers {time.monotonic() - start:.1f} s after the start")
        threads = [threading.Thread(target=load.client, args=(number,)) for number in range(asked.clients)]
        if asked.slow:
            threads.append(threading.Thread(target=load.slow_client, args=(body_of(slow_image(name)),)))
        load.until, load.most = time.monotonic() + asked.seconds, asked.requests
        for thread in threads:
            thread.start()
        watch(load, threads, service.pid)
        service.send_signal(signal.SIGINT)
    report(load, asked.clients)
    if load.wrong:
        sys.exit("some answers were wrong or lost")


if __name__ == "__main__":
    main()
