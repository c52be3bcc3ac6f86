"""Outermost layer of the HTTP service: who may ask, how much and how long, and the headers of every answer."""

import asyncio
import contextlib
import hmac
import json
import logging
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from retinaflow.serving.connections import HEADERS

log = logging.getLogger(__name__)

DISCARD_SECONDS = 10.0


class Limits(NamedTuple):
    """Limits of the service.

    Attributes:
        request_bytes: Largest request.
        all_bytes: Largest sum of the requests that are in memory.
        upload_seconds: Time in which a request must arrive.
        queue: Largest number of requests that are examined or wait.
    """

    request_bytes: int
    all_bytes: int = 1_000_000_000
    upload_seconds: float = 60.0
    queue: int = 64


class RefusalError(Exception):
    """A request that is not answered: its status, code, message and the field of the form."""

    def __init__(self, status: int, code: str, message: str, field: str | None = None) -> None:
        """Keep status, code and field beside the message."""
        super().__init__(message)
        self.status, self.code, self.field = status, code, field

    def content(self) -> dict[str, Any]:
        """Return the content of the answer."""
        return {"error": {"code": self.code, "message": str(self), "field": self.field}}


class RequestGuard:
    """ASGI layer around the service. It reads the whole request within a time limit before the service sees it."""

    def __init__(
        self, app: ASGIApp, limits: Limits, *, hosts: tuple[str, ...], token: str | None, public: tuple[str, ...]
    ) -> None:
        """RequestGuard ``app``.

        Args:
            app: The service.
            limits: Its limits.
            hosts: Host names that may be asked for; none for all.
            token: Token that each request needs, unless its address is public.
            public: Addresses that need no token.
        """
        self._app, self.limits, self._hosts, self._token, self._public = app, limits, hosts, token, public
        self.waiting, self._bytes = 0, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        started = False

        async def guarded(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                own = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
                message = {**message, "headers": [*message.get("headers", []), *own]}
            await send(message)

        try:
            headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
            self._check_sender(scope, headers)
            if scope["method"] == "POST":
                await self._post(scope, (receive, guarded), _length(headers, self.limits.request_bytes))
            else:
                await self._app(scope, receive, guarded)
        except RefusalError as refusal:
            if scope["method"] == "POST":
                await _discard(receive, self.limits)
            if not started:
                await _answer(guarded, refusal)
        except Exception as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            # The text of an error may have a name; its type and place have none.
            log.error("%s in %s:%s", type(error).__name__, Path(last.filename).name, last.lineno)
            if not started:
                await _answer(guarded, RefusalError(500, "internal", f"unexpected {type(error).__name__}"))

    def _check_sender(self, scope: Scope, headers: Mapping[str, str]) -> None:
        host = headers.get("host", "")
        # Refuses pages of other sites whose host name points to this computer.
        if self._hosts and host.rsplit(":", 1)[0] not in self._hosts:
            raise RefusalError(400, "wrong_host", f"asked for another host, expected {' or '.join(self._hosts)}")
        # Pages of other sites can send requests here; the browser only hides the answer from them.
        origin = headers.get("origin")
        if scope["method"] == "POST" and origin is not None and origin.split("://", 1)[-1] != host:
            raise RefusalError(403, "wrong_origin", "asked from another site, expected from the page itself")
        if self._token and scope["path"] not in self._public:
            given = headers.get("authorization", "").removeprefix("Bearer ")
            if not hmac.compare_digest(given.encode(), self._token.encode()):
                raise RefusalError(401, "no_token", "expected the header `Authorization: Bearer TOKEN`")

    async def _post(self, scope: Scope, channels: tuple[Receive, Send], length: int) -> None:
        receive, send = channels
        if self.waiting >= self.limits.queue or self._bytes + length > self.limits.all_bytes:
            raise RefusalError(
                503, "busy", f"{self.waiting} requests wait, expected {self.limits.queue} at most; ask again later"
            )
        self.waiting, self._bytes = self.waiting + 1, self._bytes + length
        try:
            body = await _body(receive, length, self.limits.upload_seconds)
            await self._app(scope, _replayed(body, receive), send)
        finally:
            self.waiting, self._bytes = self.waiting - 1, self._bytes - length


def _length(headers: Mapping[str, str], most: int) -> int:
    length = headers.get("content-length", "")
    # A chunked request has no length, even if a header names one.
    if not (length.isascii() and length.isdecimal() and len(length) < 20) or "transfer-encoding" in headers:
        raise RefusalError(411, "no_length", "expected a Content-Length")
    if int(length) > most:
        text = f"{int(length) / 1e6:.0f} MB, expected {most / 1e6:.0f} MB in a request at most"
        raise RefusalError(413, "too_large", text)
    return int(length)


async def _body(receive: Receive, length: int, seconds: float) -> bytes:
    body = bytearray()
    try:
        async with asyncio.timeout(seconds):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise RefusalError(400, "incomplete", "the connection ended before the request did")
                body += message.get("body", b"")
                if len(body) > length:
                    raise RefusalError(413, "too_large", "more bytes than the Content-Length says")
                if not message.get("more_body"):
                    return bytes(body)
    except TimeoutError:
        raise RefusalError(408, "too_slow", f"the request did not arrive within {seconds:g} s") from None


async def _discard(receive: Receive, limits: Limits) -> None:
    """Read the rest of a request that is refused: a client that is still sending would not read the answer."""
    count = 0
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(min(DISCARD_SECONDS, limits.upload_seconds)):
            while count <= limits.request_bytes:
                message = await receive()
                count += len(message.get("body", b""))
                if message["type"] == "http.disconnect" or not message.get("more_body"):
                    return


def _replayed(body: bytes, receive: Receive) -> Receive:
    sent = False

    async def replay() -> Message:
        nonlocal sent
        if sent:
            return await receive()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


async def _answer(send: Send, refusal: RefusalError) -> None:
    body = json.dumps(refusal.content()).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if refusal.status == 503:
        headers.append((b"retry-after", b"5"))
    if refusal.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if refusal.status in (408, 411, 413, 503):
        headers.append((b"connection", b"close"))  # The rest of the request is not read.
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
