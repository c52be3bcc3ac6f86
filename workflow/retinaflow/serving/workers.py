"""Pool of worker processes. An examination that takes too long ends its process, and another one starts."""

import asyncio
import contextlib
import json
import logging
import os
import sys
from collections.abc import Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from retinaflow.errors import RetinaflowError
from retinaflow.serving.worker import LENGTH, encode_message

log = logging.getLogger(__name__)

WORKER_MODULE = "retinaflow.serving.worker"
RESTART_SECONDS = 1.0
START_SECONDS = 120.0


class ExaminationError(Exception):
    """An examination without an answer: ``code`` is ``too_slow``, ``ended`` or ``failed``."""

    def __init__(self, code: str, message: str) -> None:
        """Keep the code beside the message."""
        super().__init__(message)
        self.code = code


class Worker:
    """One worker process."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        """Keep the process, which has pipes for both directions."""
        self._process = process
        self._requests = cast(asyncio.StreamWriter, process.stdin)
        self._answers = cast(asyncio.StreamReader, process.stdout)

    @classmethod
    async def start(cls, command: Sequence[str]) -> "Worker":
        """Start a process and wait until its model is loaded.

        Raises:
            RetinaflowError: The process ends or cannot load its model.
        """
        library = str(Path(__file__).parents[2])
        path = os.pathsep.join([library, *filter(None, [os.environ.get("PYTHONPATH")])])
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": path},
        )
        worker = cls(process)
        try:
            async with asyncio.timeout(START_SECONDS):
                first = await worker._read()
        except BaseException as error:
            worker.kill()
            await worker.ended()
            if isinstance(error, asyncio.IncompleteReadError | TimeoutError):
                raise RetinaflowError("the process that examines images ends before it is ready.") from None
            raise
        if not first["ready"]:
            worker.kill()
            await worker.ended()
            raise RetinaflowError(first["error"])
        return worker

    async def _read(self) -> dict[str, Any]:
        length = int.from_bytes(await self._answers.readexactly(LENGTH), "big")
        content: dict[str, Any] = json.loads(await self._answers.readexactly(length))
        return content

    async def ask(self, task: str, contents: Mapping[str, bytes]) -> dict[str, Any]:
        """Send files by name; return the answer of the process."""
        files = [{"name": name, "size": len(content)} for name, content in contents.items()]
        self._requests.write(encode_message({"task": task, "files": files}))
        for content in contents.values():
            self._requests.write(content)
        await self._requests.drain()
        return await self._read()

    def kill(self) -> None:
        """End the process now."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    async def ended(self) -> None:
        """Wait for the end of the process."""
        await self._process.wait()


class Workers:
    """Pool of worker processes for one model."""

    def __init__(self, asked: Mapping[str, Any], *, count: int, seconds: float) -> None:
        """Set up ``count`` processes, each with the argument ``asked`` and a time limit of ``seconds`` a request."""
        self._command = [sys.executable, "-m", WORKER_MODULE, json.dumps(asked)]
        self.count, self._seconds = count, seconds
        self._idle: asyncio.Queue[Worker] = asyncio.Queue()
        self._all: set[Worker] = set()
        self._starting: set[asyncio.Task[None]] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    @property
    def ready(self) -> int:
        """Number of processes that have loaded the model."""
        return len(self._all)

    async def start(self) -> None:
        """Start all processes and wait for the first.

        Raises:
            RetinaflowError: The model cannot be loaded.
        """
        self._add(await Worker.start(self._command))
        for _ in range(self.count - 1):
            self._replace()

    def _add(self, worker: Worker) -> None:
        self._all.add(worker)
        self._idle.put_nowait(worker)

    def _replace(self) -> None:
        if self._closed:  # Its processes were killed, which also ends their examinations.
            return

        async def start() -> None:
            while True:
                try:
                    return self._add(await Worker.start(self._command))
                except (RetinaflowError, OSError) as error:
                    log.error("%s", error)
                    await asyncio.sleep(RESTART_SECONDS)

        self._starting.add(task := self._keep(start()))
        task.add_done_callback(self._starting.discard)

    def _keep(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run ``work`` in the background. The event loop itself holds only weak references to its tasks."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def examine(self, task: str, contents: Mapping[str, bytes]) -> dict[str, Any]:
        """Examine files by name in the next free process.

        Raises:
            ExaminationError: The time limit is over, the process ended, or an unexpected error.
        """
        worker = await self._idle.get()
        whole = False
        limit = self._seconds * len(contents)
        try:
            async with asyncio.timeout(limit):
                found = await worker.ask(task, contents)
            whole = True
        except TimeoutError:
            raise ExaminationError("too_slow", f"the examination was ended after {limit:g} s") from None
        except (asyncio.IncompleteReadError, ConnectionError):
            raise ExaminationError("ended", "the process that examined the image ended") from None
        finally:
            if whole:
                self._idle.put_nowait(worker)
            else:
                worker.kill()
                self._keep(worker.ended())
                self._all.discard(worker)
                self._replace()
        if "error" in found:
            raise ExaminationError("failed", f"the image could not be examined: {found['error']}")
        answer: dict[str, Any] = found["answer"]
        return answer

    async def close(self) -> None:
        """End all processes. They are killed, so nothing here takes long."""
        self._closed = True
        for task in list(self._starting):
            task.cancel()
        for worker in self._all:
            worker.kill()
        await asyncio.gather(*self._tasks, *(worker.ended() for worker in self._all), return_exceptions=True)
