"""HTTP service and page that grade the images of one patient at a time.

The service listens on the loopback interface only. It keeps no image after its answer and limits the size of a request.
The page shows the answers of `predict` beside the heat map of `explain`.
"""

import asyncio
import base64
import contextlib
import socket
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import uvicorn
from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import FileResponse, JSONResponse
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware

from retinaflow.data.labels import IMAGE_EXTENSIONS
from retinaflow.errors import RetinaflowError
from retinaflow.serving.bundle import NOTICE
from retinaflow.serving.heat_maps import overlay
from retinaflow.serving.predict import answers_of, read_images
from retinaflow.serving.runtime import LoadedModel, heat_maps, raw_outputs
from retinaflow.serving.verdict import EYE_ORDER

LOOPBACK = "127.0.0.1"
# An uncompressed image of 20 megapixels has 60 MB.
MOST_BYTES = 64_000_000
# Bytes of a request beside its images.
FORM_OVERHEAD = 10_000
PAGE = Path(__file__).parent / "page"
FILES = {"/": "index.html", "/page.js": "page.js", "/page.css": "page.css"}
HEADERS = {
    # Load only files of this service, and show none of them in a frame of another site.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
        "form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


def serve(loaded: LoadedModel, name: str, *, port: int, threads: int) -> None:
    """Serve the page until it is interrupted.

    Args:
        loaded: The model that grades.
        name: Its name.
        port: Port of the loopback interface; 0 for any free port.
        threads: Threads that read and decode.

    Raises:
        RetinaflowError: Another program uses the port.
    """
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((LOOPBACK, port))
        except OSError as error:
            raise RetinaflowError(
                f"port {port}: cannot listen on it ({error.strerror}). Name another: --port {port + 1}, or 0 for any."
            ) from error
        listening.listen()  # An early request waits and is not refused.
        print(f"http://{LOOPBACK}:{listening.getsockname()[1]} - Ctrl-C ends it. {NOTICE}", flush=True)
        config = uvicorn.Config(application(loaded, name, threads), log_level="warning")
        with contextlib.suppress(KeyboardInterrupt):  # uvicorn raises it again at its end.
            uvicorn.Server(config).run(sockets=[listening])


def application(loaded: LoadedModel, name: str, threads: int) -> FastAPI:
    """Build the service: the page, `GET /about`, and `POST /grade` with the files `right` and `left`, or one of them.

    Args:
        loaded: The model that grades.
        name: Its name.
        threads: Threads that read and decode.
    """
    # No pages that describe the interface: they fetch scripts from other sites.
    app = FastAPI(title="retinaflow", docs_url=None, redoc_url=None, openapi_url=None)
    # Refuses pages of other sites whose host name points to this computer.
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=[LOOPBACK, "localhost"])
    _add_guard(app)
    for address, file in FILES.items():
        app.get(address, include_in_schema=False)(lambda file=file: FileResponse(PAGE / file))
    one_at_a_time = asyncio.Lock()

    @app.get("/about")
    def about() -> dict[str, Any]:
        return {
            "model": name,
            "grade_names": loaded.bundle.grade_names,
            "types": list(IMAGE_EXTENSIONS),
            "most_bytes": MOST_BYTES,
        }

    @app.post("/grade")
    async def grade(request: Request) -> dict[str, Any]:
        async with request.form(max_files=len(EYE_ORDER), max_fields=0) as form:
            sent = {eye: each for eye in EYE_ORDER if isinstance(each := form.get(eye), UploadFile)}
            if not sent or len(sent) != len(form):
                raise HTTPException(400, "expected an image as the file 'right', as the file 'left', or both")
            with tempfile.TemporaryDirectory(prefix="retinaflow-") as folder:
                files = {}
                for eye, upload in sent.items():
                    path = Path(folder, f"{eye}{_suffix(eye, upload)}")
                    path.write_bytes(await upload.read())
                    files[eye] = str(path)
                async with one_at_a_time:
                    return await run_in_threadpool(examine, files, loaded, threads)

    return app


def _add_guard(app: FastAPI) -> None:
    """Refuse requests that are not from the page, add the headers, and answer every error as JSON."""

    @app.middleware("http")
    async def guard(request: Request, proceed: Any) -> Any:
        refusal = _refusal(request)
        response = refusal if refusal else await proceed(request)
        response.headers.update(HEADERS)
        return response

    @app.exception_handler(StarletteHTTPException)
    async def refused(_: Request, error: StarletteHTTPException) -> JSONResponse:
        return JSONResponse({"error": error.detail}, error.status_code)

    @app.exception_handler(Exception)
    async def failed(_: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"error": f"it could not be graded: {error}"}, 500)


def _refusal(request: Request) -> JSONResponse | None:
    """Answer to a request that is not read at all; None for others."""
    if request.method != "POST":
        return None
    # Pages of other sites can send requests here; the browser only hides the answer from them.
    origin = request.headers.get("origin")
    if origin is not None and origin != f"http://{request.headers.get('host')}":
        return JSONResponse({"error": f"asked from {origin}, expected from the page itself"}, 403)
    length = request.headers.get("content-length", "")
    # A chunked request has no length, even if a header names one.
    if not length.isdecimal() or "transfer-encoding" in request.headers:
        return JSONResponse({"error": "expected a Content-Length"}, 411)
    if int(length) > len(EYE_ORDER) * MOST_BYTES + FORM_OVERHEAD:
        text = f"{int(length) / 1e6:.0f} MB, expected {MOST_BYTES / 1e6:.0f} MB an image at most"
        return JSONResponse({"error": text}, 413)
    return None


def _suffix(eye: str, upload: UploadFile) -> str:
    """Extension of an uploaded file. The rest of its name is not used."""
    name = (upload.filename or "").lower()
    for suffix in IMAGE_EXTENSIONS:
        if name.endswith(suffix):
            break
    else:
        raise HTTPException(415, f"{eye} eye: expected a file that ends in {', '.join(IMAGE_EXTENSIONS)}")
    if (upload.size or 0) > MOST_BYTES:
        raise HTTPException(
            413, f"{eye} eye: {(upload.size or 0) / 1e6:.0f} MB, expected {MOST_BYTES / 1e6:.0f} MB at most"
        )
    return suffix


def examine(files: Mapping[str, str], loaded: LoadedModel, threads: int) -> dict[str, Any]:
    """Grade the images of one patient and explain the grades.

    Args:
        files: Path by eye.
        loaded: The model that grades.
        threads: Threads that read and decode.

    Returns:
        ``images``: for each graded image the ``predict.columns`` and, as PNG in `data:` addresses, the ``input`` of the
        network and the ``heat_map`` over it. ``problems``: the reason for each other image.
    """
    images, decoded, unread = read_images(files, loaded, threads)
    graded: list[dict[str, Any]] = []
    if images:
        outputs = raw_outputs(loaded, decoded)
        answers = answers_of(images, [("", image.name) for image in images], outputs, loaded)
        shares = heat_maps(loaded, decoded, np.array([answer["predicted_grade"] for answer in answers]))
        shown = decoded[loaded.networks[0][0].variant]
        graded = [
            {
                **answer,
                "eye": image.name,
                "input": _png(shown[number]),
                "heat_map": _png(overlay(shown[number], heat_map)),
            }
            for number, (image, answer, heat_map) in enumerate(zip(images, answers, shares, strict=True))
        ]
    problems = [{"eye": eye, "problem": kind, "found": text} for eye, (kind, text) in unread.items()]
    return {"images": graded, "problems": problems}


def _png(pixels: np.ndarray) -> str:
    _, encoded = cv2.imencode(".png", pixels[..., ::-1])
    return f"data:image/png;base64,{base64.b64encode(encoded.tobytes()).decode()}"
