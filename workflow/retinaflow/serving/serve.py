"""HTTP service that grades patients: a page for one patient, and an API that `/docs` describes.

Images are examined in processes of their own, in memory alone, within a time limit. The service listens on the loopback
interface unless a token is set.
"""

import contextlib
import ipaddress
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, JSONResponse
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.formparsers import MultiPartParser

from retinaflow.data.image_files import IMAGE_EXTENSIONS, has_image_extension, is_dicom
from retinaflow.errors import RetinaflowError
from retinaflow.serving.answers import ErrorAnswer, Health, ManyPatients, ModelAnswer, OnePatient
from retinaflow.serving.bundle import NOTICE, Bundle
from retinaflow.serving.connections import Connection
from retinaflow.serving.cores import available_cores
from retinaflow.serving.guard import Limits, RefusalError, RequestGuard
from retinaflow.serving.verdict import EYE_ORDER
from retinaflow.serving.workers import ExaminationError, Workers

LOOPBACK = "127.0.0.1"
# An uncompressed image of 20 megapixels has 60 MB.
MOST_BYTES = 64_000_000
MOST_IMAGES = 50  # of a batch
# Bytes of a request beside its images.
FORM_OVERHEAD = 50_000
REQUEST_BYTES = 4 * MOST_BYTES + FORM_OVERHEAD
SHUTDOWN_SECONDS = 1
PAGE = Path(__file__).parent / "page"
FILES = {"/": "index.html", "/page.js": "page.js", "/page.css": "page.css", "/docs": "docs.html", "/docs.js": "docs.js"}
# Addresses that need no token: they have no images and no answers.
PUBLIC = (*FILES, "/openapi.json", "/v1/health")
STATUS_OF = {"too_slow": 422, "ended": 422, "failed": 500}
# Uploads stay in memory; the guard limits their size.
MultiPartParser.spool_max_size = REQUEST_BYTES


@dataclass(frozen=True)
class ServiceSettings:
    """Settings of the service.

    Attributes:
        asked: Argument of the worker processes: the model.
        facts: Answer about the model.
        host: Address of the interface.
        port: Port; 0 for any free port.
        token: Token that requests need; None on the loopback interface only.
        workers: Number of worker processes.
        seconds: Time limit of the examination of one image.
        limits: Limits of requests.
    """

    asked: Mapping[str, Any]
    facts: Mapping[str, Any]
    host: str = LOOPBACK
    port: int = 8000
    token: str | None = None
    workers: int = 2
    seconds: float = 30.0
    limits: Limits = field(default_factory=lambda: Limits(REQUEST_BYTES))


def serve(settings: ServiceSettings) -> None:
    """Serve until interrupted.

    Raises:
        RetinaflowError: Another program uses the port, the address needs a token, or the model cannot be loaded.
    """
    if not _is_loopback(settings.host) and not settings.token:
        raise RetinaflowError(
            f"--host {settings.host}: other computers can reach this address, and no token is set. Write a long random "
            "text to a file and name it with --token-file."
        )
    with _listening(settings.host, settings.port) as listening:
        shown = f"[{settings.host}]" if ":" in settings.host else settings.host
        address = f"http://{shown}:{listening.getsockname()[1]}"
        failures: list[RetinaflowError] = []
        service = application(
            settings,
            announce=lambda: print(f"{address} - API: {address}/docs - Ctrl-C ends it. {NOTICE}", flush=True),
            failures=failures,
        )
        with contextlib.suppress(KeyboardInterrupt, SystemExit):  # uvicorn raises them again at its end.
            uvicorn.Server(configured(service)).run(sockets=[listening])
        if failures:
            raise failures[0]


def settings_of(bundle: Bundle, *, workers: int, queue: int, **settings: Any) -> ServiceSettings:
    """Return the settings of a service for a bundle, with ``settings`` of ``ServiceSettings``."""
    rule = bundle.answer.decision_rule
    card = {
        "kind": bundle.kind,
        "data_set": bundle.data_set,
        "risk_threshold": rule["referable_cut"],
        "referable_grades": bundle.grade_names[rule["referable_grade"] :],
        "operating_point": f"sensitivity {rule['referable_sensitivity']:g}",
        "fitted_on": {"images": rule["images"], "patients": rule["patients"]},
        "evaluation": bundle.evaluation,
        "warning": bundle.warning,
    }
    return ServiceSettings(
        # The processes share the cores.
        asked={
            "folder": str(bundle.folder.absolute()),
            "data_set": bundle.data_set,
            "threads": max(1, available_cores() // workers),
        },
        facts={"model": bundle.model, "grade_names": bundle.grade_names, "card": card},
        workers=workers,
        limits=Limits(REQUEST_BYTES, queue=queue),
        **settings,
    )


def configured(service: Any) -> uvicorn.Config:
    """Return the configuration of the server for a service."""
    return uvicorn.Config(
        service,
        log_level="critical",
        access_log=False,
        http=Connection,
        ws="none",
        lifespan="on",
        server_header=False,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
    )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _listening(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listening = socket.socket(family)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(128)  # An early request waits and is not refused.
    except OSError as error:
        raise RetinaflowError(
            f"port {port} of {host}: cannot listen on it ({error.strerror}). Name another: --port {port + 1}, or 0 for "
            "any."
        ) from error
    return listening


def application(
    settings: ServiceSettings, *, announce: Callable[[], None], failures: list[RetinaflowError]
) -> "RequestGuard":
    """Build the service.

    Args:
        settings: Its settings.
        announce: Function that is called when it can grade.
        failures: Takes the error of a model that cannot be loaded.
    """
    workers = Workers(settings.asked, count=settings.workers, seconds=settings.seconds)

    @contextlib.asynccontextmanager
    async def running(_: FastAPI) -> AsyncIterator[None]:
        try:
            await workers.start()
        except RetinaflowError as error:
            failures.append(error)
            raise
        announce()
        try:
            yield
        finally:
            await workers.close()

    app = FastAPI(
        title="retinaflow",
        description=f"Grades fundus images for diabetic retinopathy. {NOTICE}",
        docs_url=None,  # Its pages load scripts from other sites.
        redoc_url=None,
        lifespan=running,
        responses={status: {"model": ErrorAnswer} for status in (400, 401, 408, 413, 415, 422, 500, 503)},
    )
    hosts = (LOOPBACK, "localhost", "[::1]") if _is_loopback(settings.host) else ()
    guard = RequestGuard(app, settings.limits, hosts=hosts, token=settings.token, public=PUBLIC)
    for address, file in FILES.items():
        app.get(address, include_in_schema=False)(lambda file=file: FileResponse(PAGE / file))
    _add_errors(app)
    _add_facts(app, settings, workers, guard)
    _add_grading(app, workers)
    return guard


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(StarletteHTTPException)
    async def refused(_: Request, error: StarletteHTTPException) -> JSONResponse:
        code = {404: "not_found", 405: "wrong_method"}.get(error.status_code, "bad_request")
        return JSONResponse(RefusalError(error.status_code, code, str(error.detail)).content(), error.status_code)

    @app.exception_handler(Exception)  # The guard logs it.
    async def unexpected(_: Request, error: Exception) -> JSONResponse:
        return JSONResponse(RefusalError(500, "internal", f"unexpected {type(error).__name__}").content(), 500)

    @app.exception_handler(RefusalError)
    async def refusal(_: Request, error: RefusalError) -> JSONResponse:
        return JSONResponse(error.content(), error.status)

    @app.exception_handler(ExaminationError)
    async def unexamined(_: Request, error: ExaminationError) -> JSONResponse:
        status = STATUS_OF[error.code]
        return JSONResponse(RefusalError(status, error.code, str(error)).content(), status)


def _add_facts(app: FastAPI, settings: ServiceSettings, workers: Workers, guard: RequestGuard) -> None:
    @app.get("/v1/health", summary="State of the service")
    async def health() -> Health:
        return Health(
            status="ready" if workers.ready else "starting",
            workers=workers.ready,
            waiting=guard.waiting,
            queue=guard.limits.queue,
        )

    @app.get("/v1/model", summary="Model card and limits")
    async def model() -> ModelAnswer:
        limits: dict[str, Any] = {"most_bytes": MOST_BYTES, "most_images": MOST_IMAGES}
        return ModelAnswer(notice=NOTICE, types=list(IMAGE_EXTENSIONS), **limits, **settings.facts)


def _files_of(*fields: str, many: bool) -> dict[str, Any]:
    """Description of a form with files."""
    one = {"type": "string", "format": "binary"}
    properties = {name: {"type": "array", "items": one} if many else one for name in fields}
    content = {"multipart/form-data": {"schema": {"type": "object", "properties": properties}}}
    return {"requestBody": {"required": True, "content": content}}


def _add_grading(app: FastAPI, workers: Workers) -> None:
    @app.post(
        "/v1/patient",
        summary="Grade one patient",
        description="The files `right` and `left`, or one of them. Answers with the verdict, images and heat maps.",
        openapi_extra=_files_of(*EYE_ORDER, many=False),
        response_model=OnePatient,
    )
    async def patient(request: Request) -> Any:
        async with request.form(max_files=2 * len(EYE_ORDER), max_fields=0) as form:
            contents = await _eyes(form)
        return JSONResponse(await workers.examine("patient", contents))

    @app.post(
        "/v1/batch",
        summary="Grade many images",
        description=f"Up to {MOST_IMAGES} files `images`. Patients and eyes are read from DICOM tags or file names.",
        openapi_extra=_files_of("images", many=True),
        response_model=ManyPatients,
    )
    async def batch(request: Request) -> Any:
        async with request.form(max_files=MOST_IMAGES + 1, max_fields=0) as form:
            contents = await _images(form)
        return JSONResponse(await workers.examine("batch", contents))


async def _eyes(form: FormData) -> dict[str, bytes]:
    """Content of the file of each eye, in the order of the eyes."""
    if not form or not {*form} <= {*EYE_ORDER}:
        raise RefusalError(400, "no_image", "expected an image as the file 'right', as the file 'left', or both")
    contents = {}
    for eye in EYE_ORDER:
        sent = form.getlist(eye)
        if len(sent) > 1:
            raise RefusalError(400, "two_images", f"{eye} eye: {len(sent)} images, expected one", eye)
        for upload in sent:
            contents[eye] = await _content(upload, f"{eye} eye", eye)
    return contents


async def _images(form: FormData) -> dict[str, bytes]:
    """Content of each file of a batch by its name, without folders."""
    uploads = form.getlist("images")
    if not uploads or {*form} != {"images"}:
        raise RefusalError(400, "no_image", "expected one or several files 'images'")
    if len(uploads) > MOST_IMAGES:
        raise RefusalError(413, "too_many", f"more than {MOST_IMAGES} images", "images")
    contents: dict[str, bytes] = {}
    for upload in uploads:
        name = Path((getattr(upload, "filename", "") or "").replace("\\", "/")).name
        if not name or name in contents:
            problem = f"{name!r} twice" if name else "a file without a name"
            raise RefusalError(400, "bad_name", f"{problem}; expected a name for each image", "images")
        contents[name] = await _content(upload, repr(name), "images")
    return contents


async def _content(upload: Any, shown: str, part: str) -> bytes:
    """Content of an uploaded file, after a check of its type and size."""
    if not isinstance(upload, UploadFile):
        raise RefusalError(400, "no_image", f"{shown}: expected a file", part)
    size = upload.size or 0
    if size > MOST_BYTES:
        text = f"{shown}: {size / 1e6:.0f} MB, expected {MOST_BYTES / 1e6:.0f} MB at most"
        raise RefusalError(413, "too_large", text, part)
    content = await upload.read()
    if not has_image_extension(upload.filename or "") and not is_dicom(content):
        types = ", ".join(IMAGE_EXTENSIONS)
        raise RefusalError(415, "wrong_type", f"{shown}: expected a file that ends in {types}, or a DICOM file", part)
    return content
