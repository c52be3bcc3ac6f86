"""Connections of the HTTP service. A connection without a whole request in time is closed."""

import asyncio
from collections.abc import Mapping
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

# Seconds from the start of a connection, or of a later request, to the end of its headers.
HEADER_SECONDS = 10.0
# Seconds in which a client has to read an answer, apart from what fits into the buffers of the connection.
ANSWER_SECONDS = 60.0
HEADERS: Mapping[str, str] = {
    # Load only files of this service, and show none of them in a frame of another site.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
        "form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Connection(H11Protocol):
    """HTTP connection with time limits, and security headers on the answer to a malformed request."""

    _deadline: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Start the time limit of the first request."""
        super().connection_made(transport)
        self._set_deadline()

    def data_received(self, data: bytes) -> None:
        """Start the time limit of a later request with its first byte."""
        if self._deadline is None and self._waits():
            self._set_deadline()
        super().data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the time limits."""
        for limit in (self._deadline, self._unread):
            if limit:
                limit.cancel()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Start the time limit of a client that does not read its answer as fast as it is written."""
        super().pause_writing()
        self._unread = asyncio.get_running_loop().call_later(ANSWER_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """End that time limit: the client has read nearly all."""
        if self._unread:
            self._unread.cancel()
        super().resume_writing()

    def _waits(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _set_deadline(self) -> None:
        self._deadline = asyncio.get_running_loop().call_later(HEADER_SECONDS, self._check)

    def _check(self) -> None:
        self._deadline = None
        if self._waits():
            self.transport.close()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002
        """Refuse a malformed request."""
        names = "".join(f"{name}: {value}\r\n" for name, value in HEADERS.items())
        body = '{"error":{"code":"bad_request","message":"this is no HTTP request"}}'
        head = f"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
        self.transport.write(f"{head}{names}connection: close\r\n\r\n{body}".encode())
        self.transport.close()
