"""A page on this computer that grades the photographs of one patient at a time. Computes with TensorFlow.

It listens on the loopback interface alone, keeps nothing of a photograph once it is answered, and takes no more than it
says. What the page shows is what `predict` says, beside what the answer rests on (`explain`).
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
from retinaflow.serving.bundle import NOTICE, Graders
from retinaflow.serving.explain import overlay, relevance, scaled
from retinaflow.serving.predict import Decoded, Loaded, answers, outputs_of, read

LOOPBACK = "127.0.0.1"
EYES = ("right", "left")
# A photograph of 20 megapixels that is not compressed has 60 MB.
MOST_BYTES = 64_000_000
# What surrounds the photographs in a request.
AROUND = 10_000
PAGE = Path(__file__).parent / "page"
FILES = {"/": "index.html", "/page.js": "page.js", "/page.css": "page.css"}
HEADERS = {
    # Nothing but what is served here, and nothing of it in another site's frame.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
        "form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


def serve(graders: Graders, system: str, loaded: Loaded, port: int, threads: int) -> None:
    """Serve the page until it is interrupted, on ``port`` of the loopback interface, 0 for any that is free.

    Raises ``RetinaflowError`` if another program has the port.
    """
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((LOOPBACK, port))
        except OSError as error:
            raise RetinaflowError(
                f"port {port}: cannot be listened on ({error.strerror}). Name another: --port {port + 1}, or 0 for any."
            ) from error
        listening.listen()  # who asks at once is kept waiting, not refused
        print(f"http://{LOOPBACK}:{listening.getsockname()[1]} - Ctrl-C ends it. {NOTICE}", flush=True)
        config = uvicorn.Config(application(graders, system, loaded, threads), log_level="warning")
        with contextlib.suppress(KeyboardInterrupt):  # which uvicorn raises again once it has ended
            uvicorn.Server(config).run(sockets=[listening])


def application(graders: Graders, system: str, loaded: Loaded, threads: int) -> FastAPI:
    """The page and what it asks: `GET /about`, and `POST /grade` with the files `right` and `left`, or one of them."""
    # Without the pages that describe its interface, which fetch scripts from elsewhere.
    app = FastAPI(title="retinaflow", docs_url=None, redoc_url=None, openapi_url=None)
    # A page elsewhere whose name is made to lead here would have another one.
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=[LOOPBACK, "localhost"])
    one_at_a_time = asyncio.Lock()

    @app.middleware("http")
    async def guard(request: Request, proceed: Any) -> Any:
        fault = _fault_of_request(request)
        response = fault if fault else await proceed(request)
        response.headers.update(HEADERS)
        return response

    @app.exception_handler(StarletteHTTPException)
    async def told(_: Request, error: StarletteHTTPException) -> JSONResponse:
        return JSONResponse({"error": error.detail}, error.status_code)

    @app.exception_handler(Exception)
    async def failed(_: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"error": f"it could not be graded: {error}"}, 500)

    for address, name in FILES.items():
        app.get(address, include_in_schema=False)(lambda name=name: FileResponse(PAGE / name))

    @app.get("/about")
    def about() -> dict[str, Any]:
        return {
            "model": system,
            "grade_names": graders.classes,
            "types": list(IMAGE_EXTENSIONS),
            "most_bytes": MOST_BYTES,
        }

    @app.post("/grade")
    async def grade(request: Request) -> dict[str, Any]:
        async with request.form(max_files=len(EYES), max_fields=0) as form:
            sent = {eye: each for eye in EYES if isinstance(each := form.get(eye), UploadFile)}
            if not sent or len(sent) != len(form):
                raise HTTPException(400, "expected a photograph as the file 'right', as the file 'left', or both")
            with tempfile.TemporaryDirectory(prefix="retinaflow-") as folder:
                files = {}
                for eye, upload in sent.items():
                    path = Path(folder, f"{eye}{_suffix(eye, upload)}")
                    path.write_bytes(await upload.read())
                    files[eye] = str(path)
                async with one_at_a_time:
                    return await run_in_threadpool(examine, files, graders, loaded, threads)

    return app


def _fault_of_request(request: Request) -> JSONResponse | None:
    """Why it is not read at all."""
    if request.method != "POST":
        return None
    # Other sites may send here, but not read what comes back; they need not keep the machine busy either.
    origin = request.headers.get("origin")
    if origin is not None and origin != f"http://{request.headers.get('host')}":
        return JSONResponse({"error": f"asked from {origin}, expected from the page itself"}, 403)
    length = request.headers.get("content-length", "")
    # What comes in chunks has no length, whatever it says.
    if not length.isdecimal() or "transfer-encoding" in request.headers:
        return JSONResponse({"error": "expected a Content-Length"}, 411)
    if int(length) > len(EYES) * MOST_BYTES + AROUND:
        text = f"{int(length) / 1e6:.0f} MB, expected {MOST_BYTES / 1e6:.0f} MB a photograph at most"
        return JSONResponse({"error": text}, 413)
    return None


def _suffix(eye: str, upload: UploadFile) -> str:
    """The ending of the file's name, of which nothing else is used."""
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


def examine(files: Mapping[str, str], graders: Graders, loaded: Loaded, threads: int) -> dict[str, Any]:
    """What the page shows of the photographs of one patient, paths by eye: those graded, and why others are not.

    Of each, the ``predict.columns``, and as PNG images in `data:` addresses the ``photograph`` as the network sees it
    and the ``relevance`` over it.
    """
    photographs, decoded, faults = read(files, graders, loaded, threads)
    graded: list[dict[str, Any]] = []
    if photographs:
        outputs = outputs_of(loaded, decoded, len(graders.classes), graders.views, threads)
        found = answers(photographs, [("", one.image) for one in photographs], outputs, graders, loaded)
        shares = _relevance(loaded, decoded, np.array([answer["predicted_grade"] for answer in found]))
        shown = decoded[loaded.networks[0][0].recipe]
        graded = [
            {
                **answer,
                "eye": one.image,
                "photograph": _png(shown[number]),
                "relevance": _png(overlay(shown[number], share)),
            }
            for number, (one, answer, share) in enumerate(zip(photographs, found, shares, strict=True))
        ]
    problems = [{"eye": eye, "problem": kind, "found": text} for eye, (kind, text) in faults.items()]
    return {"photographs": graded, "problems": problems}


def _relevance(loaded: Loaded, decoded: Mapping[str, Decoded], levels: np.ndarray) -> np.ndarray:
    """Mean over all networks of ``explain.relevance``, of the size of what the first of them sees."""
    size = decoded[loaded.networks[0][0].recipe].size
    each = [
        np.stack([cv2.resize(share, (size, size)) for share in relevance(model, pixels, network.objective, levels)])
        for network, models in loaded.networks
        for pixels in [decoded[network.recipe].pixels]
        for model in models
    ]
    return scaled(np.mean(each, axis=0))


def _png(pixels: np.ndarray) -> str:
    _, encoded = cv2.imencode(".png", pixels[..., ::-1])
    return f"data:image/png;base64,{base64.b64encode(encoded.tobytes()).decode()}"
