"""Serves the page until it is told to stop."""

from __future__ import annotations

import ipaddress
import logging
import socket
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from videokd.errors import ConfigError
from videokd.files import temporary_folder
from videokd.prediction.predictor import Predictor
from videokd.stopping import StopSignal
from videokd.webpage import markup
from videokd.webpage.answers import PageLimits
from videokd.webpage.desk import ClipDesk
from videokd.webpage.guard import Guard
from videokd.webpage.page import build_page, gradio_module, theme_of

_LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")
#: How long answers that are on their way may take when the page stops.
_GRACE_SECONDS = 2


@dataclass(frozen=True)
class Address:
    """Where the page is served.

    Args:
        host: a name or an address of this machine.
        port: 1 to 65535; 0: any free one.

    Raises:
        ConfigError: the port is out of range.
    """

    host: str
    port: int

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise ConfigError(f"port is {self.port} (accepted: 0 to 65535; 0: any free one). Choose another one.")

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        try:
            return ipaddress.ip_address(self.host.strip("[]")).is_loopback
        except ValueError:
            return self.host == "localhost"


def serve_page(
    sets: Mapping[str, Predictor],
    *,
    limits: PageLimits,
    address: Address,
    folder: Path | None,
    ready: Callable[[str], None],
) -> None:
    """Serves the page until Ctrl-C, SIGTERM or SIGHUP; its temporary files are removed then.

    Args:
        sets: {name: students}.
        limits: what is accepted.
        address: where to serve.
        folder: whose videos can be chosen.
        ready: is told the page's address once it can be opened.

    Raises:
        ConfigError: Gradio is not installed, or the address cannot be used.
        DataError: the folder has no videos.
        KeyboardInterrupt: it was told to stop.
    """
    with (
        StopSignal() as stop,  # before there is a folder, or SIGTERM would leave it
        temporary_folder("app-") as uploads,
        _listening(address) as listener,
    ):
        gradio = gradio_module(uploads)
        desk = ClipDesk(sets, limits=limits, uploads=uploads, folder=folder)
        port = listener.getsockname()[1]
        app = _application(gradio, desk, address)
        if not stop.requested:
            _run(app, listener, stop, lambda: ready(f"http://{address.host}:{port}"))
            desk.stopping.set()
    raise KeyboardInterrupt


def _listening(address: Address) -> socket.socket:
    host = address.host.strip("[]")
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, address.port), family=family)
    except OSError as error:
        raise ConfigError(
            f"{address.host}:{address.port} cannot be used ({error.strerror or error}). Choose another `--port` (0: any free one) or `--host`."
        ) from error


def _application(gradio: Any, desk: ClipDesk, address: Address) -> Any:
    """The page behind its guard."""
    import fastapi
    from starlette.middleware import Middleware

    most_bytes = int(desk.limits.most_megabytes * 1_000_000)
    hosts = _LOOPBACK_NAMES if address.is_loopback else None
    guard: Any = Middleware(Guard, hosts=hosts, uploads=desk.uploads, most_bytes=most_bytes)
    app = fastapi.FastAPI(docs_url=None, redoc_url=None, openapi_url=None, middleware=[guard])
    page = build_page(gradio, desk)
    page.has_launched = True  # or Gradio would take the path of any file for an upload's, and serve the file
    return gradio.mount_gradio_app(
        app,
        page,
        path="/",
        max_file_size=most_bytes,
        theme=theme_of(gradio),
        css=markup.style(),
        footer_links=[],
        show_error=False,
        run_history=False,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        enable_monitoring=False,
    )


def _run(app: Any, listener: socket.socket, stop: StopSignal, ready: Callable[[], None]) -> None:
    import uvicorn

    config = uvicorn.Config(
        app, log_level="warning", access_log=False, timeout_graceful_shutdown=_GRACE_SECONDS, lifespan="on"
    )
    server: Any = uvicorn.Server(config)
    usual_tick = server.on_tick

    async def on_tick(counter: int) -> bool:
        """Ten times a second."""
        if counter == 0:
            ready()
        if stop.requested:  # answers that do not end in time are cancelled, which is no error that anybody must see
            logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
        return stop.requested or await usual_tick(counter)

    server.on_tick = on_tick
    server.capture_signals = nullcontext  # signals are caught already
    server.run(sockets=[listener])
