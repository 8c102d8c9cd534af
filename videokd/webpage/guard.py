"""What the server refuses, and what it forbids the browser."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from pathlib import Path
from typing import Any

from videokd.webpage.uploads import remove_cut_off, remove_left, waiting_bytes

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

# Gradio draws the page with scripts that it makes while it runs; nothing may come from, or go to, another server
_POLICY = "; ".join(
    (
        "default-src 'self'",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval'",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "media-src 'self' data: blob:",
        "font-src 'self' data:",
        "worker-src 'self' blob:",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'self'",
        "frame-ancestors 'none'",
    )
)
_HEADERS = (
    (b"content-security-policy", _POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
)
#: How many uploads of the largest size may wait.
_MOST_WAITING = 10
#: What a form adds to its file.
_FORM_BYTES = 100_000
_LENGTH = re.compile(rb"[0-9]{1,18}")


class Guard:
    """Stands before the page's application (ASGI): checks each request, and adds headers to each answer.

    Args:
        app: the application.
        hosts: names by which the page may be addressed, so that no other site's name can lead a browser to it; None: any.
        uploads: the folder for uploads.
        most_bytes: of one upload.
    """

    def __init__(self, app: Any, *, hosts: Iterable[str] | None, uploads: Path, most_bytes: int) -> None:
        self._app = app
        self._hosts = None if hosts is None else frozenset(hosts)
        self._uploads = uploads
        self._most_bytes = most_bytes
        self._uploading = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        refusal = self._refusal(scope)
        if refusal is not None:
            await _refuse(scope, send, *refusal)
            return

        async def send_with_headers(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *_HEADERS]
            await send(message)

        if _is_upload(scope):
            await self._upload(scope, receive, send_with_headers)
        else:
            await self._app(scope, receive, send_with_headers)

    async def _upload(self, scope: Scope, receive: Receive, send: Send) -> None:
        """An upload. Where the browser goes away in the middle, Gradio raises an error, and leaves what has come."""
        gone = False

        async def receive_and_note() -> MutableMapping[str, Any]:
            nonlocal gone
            message = await receive()
            gone = gone or message["type"] == "http.disconnect"
            return message

        self._uploading += 1
        try:
            await self._app(scope, receive_and_note, send)
        except Exception:
            if not gone:
                raise
        finally:
            self._uploading -= 1
            if not self._uploading:
                remove_cut_off(self._uploads)

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        headers = dict(scope["headers"])
        host = headers.get(b"host", b"").decode("latin-1")
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() else host
        if self._hosts is not None and name not in self._hosts:
            return 421, f"This page is not called {name[:80]}: open it by the address in the terminal."
        if _is_upload(scope):
            length = headers.get(b"content-length", b"")
            if not _LENGTH.fullmatch(length):
                return 411, "The length of the upload is missing. Send it as browsers do."
            if int(length) > self._most_bytes + _FORM_BYTES:
                return 413, f"File size exceeded maximum allowed size of {self._most_bytes} bytes."  # as Gradio says
            remove_left(self._uploads)
            if waiting_bytes(self._uploads) > _MOST_WAITING * self._most_bytes:
                return 503, "Too many clips are waiting. Try again later."
        return None


def _is_upload(scope: Scope) -> bool:
    return scope.get("method") == "POST" and scope["path"].rstrip("/").endswith("/upload")


async def _refuse(scope: Scope, send: Send, status: int, text: str) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008})
        return
    body = text.encode("utf-8", "replace")
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode()), *_HEADERS]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
