"""What the server refuses, and what it forbids the browser."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from pathlib import Path
from typing import Any

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

        await self._app(scope, receive, send_with_headers)

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        headers = dict(scope["headers"])
        host = headers.get(b"host", b"").decode("latin-1")
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() else host
        if self._hosts is not None and name not in self._hosts:
            return 421, f"This page is not called {name[:80]}: open it by the address in the terminal."
        if scope.get("method") == "POST" and scope["path"].rstrip("/").endswith("/upload"):
            waiting = sum(file.stat().st_size for file in self._uploads.rglob("*") if file.is_file())
            if waiting > _MOST_WAITING * self._most_bytes:
                return 503, "Too many clips are waiting. Try again later."
        return None


async def _refuse(scope: Scope, send: Send, status: int, text: str) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008})
        return
    body = text.encode("utf-8", "replace")
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode()), *_HEADERS]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
