"""What the server refuses before Gradio sees it, and where it can be served."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from videokd.errors import ConfigError
from videokd.webpage.answers import PageLimits
from videokd.webpage.guard import Guard
from videokd.webpage.serving import Address, serve_page


def asked(
    uploads: Path,
    *,
    host: str = "127.0.0.1:7860",
    path: str = "/",
    method: str = "GET",
    hosts: Any = ("127.0.0.1",),
    length: bytes = b"100",
) -> tuple[int, dict[str, str], str]:
    """Status, headers and text of one request through the guard to an application that says hello."""
    sent: list[Any] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"hello"})

    async def receive() -> Any:
        raise AssertionError("nobody reads the request")

    async def send(message: Any) -> None:
        sent.append(message)

    guard = Guard(application, hosts=hosts, uploads=uploads, most_bytes=100)
    named = [(b"host", host.encode()), (b"content-length", length)]
    scope = {"type": "http", "method": method, "path": path, "headers": named}
    asyncio.run(guard(scope, receive, send))
    headers = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], headers, sent[1]["body"].decode()


def test_it_forbids_the_browser_other_servers(tmp_path: Path) -> None:
    status, headers, text = asked(tmp_path)
    assert (status, text) == (200, "hello")
    policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'self'"
    assert policy["frame-ancestors"] == "'none'"
    assert not any("http" in sources or "*" in sources for sources in policy.values())


@pytest.mark.parametrize(
    ("host", "status"), [("127.0.0.1", 200), ("127.0.0.1:80", 200), ("evil.example", 421), ("", 421), ("a:b:c", 421)]
)
def test_other_names_are_refused(host: str, status: int, tmp_path: Path) -> None:
    assert asked(tmp_path, host=host)[0] == status
    assert asked(tmp_path, host=host, hosts=None)[0] == 200


def test_uploads_are_refused_while_too_many_wait(tmp_path: Path) -> None:
    upload = {"path": "/gradio_api/upload", "method": "POST"}
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "clip.mp4").write_bytes(bytes(1000))
    assert asked(tmp_path, **upload)[0] == 200
    (tmp_path / "a" / "other.mp4").write_bytes(b"x")
    assert asked(tmp_path, **upload)[0] == 503
    assert asked(tmp_path)[0] == 200
    os.utime(tmp_path / "a" / "clip.mp4", (time.time() - 7200,) * 2)  # nobody has asked about it, and nobody will
    assert asked(tmp_path, **upload)[0] == 200
    assert [file.name for file in tmp_path.rglob("*.mp4")] == ["other.mp4"]


@pytest.mark.parametrize(
    ("length", "status"),
    [(b"100", 200), (b"50000", 200), (b"2000000", 413), (b"9" * 5000, 411), (b"", 411), (b"-1", 411), (b"\xb2", 411)],
)
def test_uploads_that_are_too_large_are_not_written(length: bytes, status: int, tmp_path: Path) -> None:
    upload = {"path": "/gradio_api/upload", "method": "POST"}
    assert asked(tmp_path, **upload, length=length)[0] == status
    assert asked(tmp_path, length=length)[0] == 200


def test_uploads_that_are_cut_off_are_removed(tmp_path: Path) -> None:
    """As Gradio does: a file beside the folders of what came whole, and an error when the browser goes away."""
    (tmp_path / "whole").mkdir()
    (tmp_path / "whole" / "clip.mp4").write_bytes(b"x")

    async def application(scope: Any, receive: Any, send: Any) -> None:
        (tmp_path / f"tmp{scope['number']}").write_bytes(b"half")
        await asyncio.sleep(0)
        if (await receive())["type"] == "http.disconnect":
            raise RuntimeError("the client has gone away")
        files.append(sorted(file.name for file in tmp_path.iterdir()))

    async def send(message: Any) -> None:
        raise AssertionError("nobody answers")

    async def upload(number: int, kind: str) -> None:
        async def receive() -> Any:
            return {"type": kind}

        headers = [(b"host", b"127.0.0.1"), (b"content-length", b"9")]
        scope = {"type": "http", "method": "POST", "path": "/gradio_api/upload", "headers": headers, "number": number}
        await guard(scope, receive, send)

    async def both() -> None:
        await asyncio.gather(upload(1, "http.disconnect"), upload(2, "http.request"))

    files: list[list[str]] = []
    guard = Guard(application, hosts=None, uploads=tmp_path, most_bytes=100)
    asyncio.run(both())
    assert files == [["tmp1", "tmp2", "whole"]]  # the other one was still coming
    assert [file.name for file in tmp_path.rglob("*")] == ["whole", "clip.mp4"]

    async def broken(scope: Any, receive: Any, send: Any) -> None:
        raise RuntimeError("another error")

    guard = Guard(broken, hosts=None, uploads=tmp_path, most_bytes=100)
    with pytest.raises(RuntimeError, match="another error"):
        asyncio.run(upload(3, "http.request"))


def test_files_that_are_removed_while_they_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    upload = {"path": "/gradio_api/upload", "method": "POST"}
    monkeypatch.setattr(os, "walk", lambda folder: [(str(tmp_path / "gone"), [], ["clip.mp4"])])
    assert asked(tmp_path, **upload)[0] == 200
    assert asked(tmp_path / "gone", **upload)[0] == 200


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        *((name, True) for name in ("127.0.0.1", "127.8.0.1", "localhost", "::1", "[::1]")),
        *((name, False) for name in ("0.0.0.0", "192.168.0.5", "::", "machine")),
    ],
)
def test_which_hosts_are_loopback(host: str, loopback: bool) -> None:
    assert Address(host, 7860).is_loopback is loopback


def test_addresses_that_cannot_be_used() -> None:
    with pytest.raises(ConfigError, match=r"port is 70000 \(accepted: 0 to 65535"):
        Address("127.0.0.1", 70000)
    limits = PageLimits(window=1, stride=1, most_megabytes=1, most_seconds=1)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = Address("127.0.0.1", taken.getsockname()[1])
        with pytest.raises(ConfigError, match=r"cannot be used \(.*in use.*Choose another `--port`"):
            serve_page({}, limits=limits, address=address, folder=None, ready=print)
