"""Process that examines images for the service. It keeps them in memory alone, and ends with the service.

Messages are frames: four bytes of length, then JSON. A request names its files and their sizes, and their bytes follow.
"""

import contextlib
import json
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from retinaflow.errors import RetinaflowError

LENGTH = 4  # bytes of the length of a frame
PARENT_SECONDS = 0.5


def encode_message(content: Mapping[str, Any]) -> bytes:
    """Return a frame: its length, then ``content`` as JSON."""
    text = json.dumps(content).encode()
    return len(text).to_bytes(LENGTH, "big") + text


def read_message(stream: BinaryIO) -> dict[str, Any] | None:
    """Read a frame; None at the end of the stream."""
    length = stream.read(LENGTH)
    if len(length) < LENGTH:
        return None
    content: dict[str, Any] = json.loads(stream.read(int.from_bytes(length, "big")))
    return content


@contextlib.contextmanager
def in_memory(contents: Mapping[str, bytes]) -> Iterator[dict[str, str]]:
    """Yield a path for each of ``contents``. No disk has them where the system has files in memory (Linux)."""
    with contextlib.ExitStack() as stack:
        paths = {}
        for number, (name, content) in enumerate(contents.items()):
            if hasattr(os, "memfd_create"):
                descriptor = os.memfd_create("image")
                stack.callback(os.close, descriptor)
                with open(descriptor, "wb", closefd=False) as file:
                    file.write(content)
                paths[name] = f"/proc/{os.getpid()}/fd/{descriptor}"
            else:
                folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="retinaflow-"))
                paths[name] = str(Path(folder, str(number)))
                Path(paths[name]).write_bytes(content)
        yield paths


def end_with_parent() -> None:
    """End this process soon after the one that started it, whatever that one dies of."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(PARENT_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def run() -> None:
    """Load the model that the first argument describes, then answer requests until the stream ends."""
    # Ctrl-C reaches all processes of a terminal. The service ends this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Libraries must not write between frames.
    asked = json.loads(sys.argv[1])
    try:
        examine = examiner(**asked)
        content: dict[str, Any] = {"ready": True}
    except RetinaflowError as error:
        content = {"ready": False, "error": str(error)}
    answers.write(encode_message(content))
    answers.flush()
    while content.get("ready") and (request := read_message(requests)):
        contents = {file["name"]: requests.read(file["size"]) for file in request["files"]}
        answers.write(encode_message(_answered(examine, request["task"], contents)))
        answers.flush()


def _answered(examine: Any, task: str, contents: Mapping[str, bytes]) -> dict[str, Any]:
    try:
        with in_memory(contents) as paths:
            return {"answer": examine(task, paths)}
    except Exception as error:
        # The text of an error may have a name; its type and place have none.
        trace, place = error.__traceback__, ""
        while trace:
            place = f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}"
            trace = trace.tb_next
        return {"error": f"{type(error).__name__} in {place}"}


def examiner(folder: str, threads: int, data_set: str = "") -> Any:
    """Load the bundle in a folder, with the rules of a data set. Return a function of task and paths of files."""
    # Imported here: the service itself does not need them.
    from retinaflow.serving.bundle import read_bundle
    from retinaflow.serving.examination import examine_batch, examine_patient
    from retinaflow.serving.runtime import load_bundled_model

    # The service reports no drift: its answers are of single patients, and it keeps no values.
    loaded = load_bundled_model(read_bundle(folder).of_data_set(data_set), threads)._replace(drift=None)
    tasks = {"patient": examine_patient, "batch": examine_batch}
    return lambda task, paths: tasks[task](paths, loaded, threads)


if __name__ == "__main__":
    run()
