"""Load of the service: many clients at once, wrong and lost answers, times, and memory.

python benchmarks/load.py BUNDLE IMAGE [IMAGE ...] --clients 50 --seconds 120
"""

import argparse
import http.client
import json
import re
import signal
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import common


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


def resident(process: int) -> float:
    """Resident size of a process and those it started, in MB."""
    children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    pages = [int(Path(f"/proc/{one}/statm").read_text().split()[1]) for one in (process, *children)]
    return sum(pages) * 4096 / 1e6


def main() -> None:
    """Start a service, ask it, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle")
    parser.add_argument("images", nargs="+", type=Path)
    parser.add_argument("--clients", type=int, default=common.sized(50, 4))
    parser.add_argument("--seconds", type=float, default=common.sized(120.0, 3.0))
    asked = parser.parse_args()
    bodies = [body_of(path) for path in asked.images]
    command = [sys.executable, "-m", "retinaflow", "serve", "--port", "0", "--model", asked.bundle]
    start = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as service:
        found = re.match(r"http://127\.0\.0\.1:(\d+) ", service.stdout.readline() if service.stdout else "")
        if not found:
            sys.exit("the service did not start")
        port = int(found[1])
        expected = [ask(port, body)[1]["patient"] for body in bodies]
        print(f"first answers {time.monotonic() - start:.1f} s after the start")
        times: list[float] = []
        wrong: list[Any] = []
        sizes = [resident(service.pid)]
        until = time.monotonic() + asked.seconds

        def client(number: int) -> None:
            while time.monotonic() < until:
                number += 1
                place = number % len(bodies)
                before = time.monotonic()
                try:
                    status, content = ask(port, bodies[place])
                except (OSError, ValueError) as error:
                    wrong.append(error)
                    continue
                times.append(time.monotonic() - before)
                if status != 200 or content["patient"] != expected[place]:
                    wrong.append((status, content))

        threads = [threading.Thread(target=client, args=(number,)) for number in range(asked.clients)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            sizes.append(resident(service.pid))
            time.sleep(1)
        service.send_signal(signal.SIGINT)
    p50, p99 = statistics.median(times), statistics.quantiles(times, n=100)[98]
    print(f"{asked.clients} clients, {len(times)} answers, {len(wrong)} wrong or lost")
    print(f"p50 {p50:.2f} s, p99 {p99:.2f} s")
    if wrong:
        print(f"the first: {wrong[0]}")
    middle = sizes[len(sizes) // 3]
    print(f"resident {sizes[0]:.0f} MB at the start, {middle:.0f} MB after a third, {sizes[-1]:.0f} MB at the end")


if __name__ == "__main__":
    main()
