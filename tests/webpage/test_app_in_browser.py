"""`videokd app` as a user meets it: a real server, a real browser."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import MakeClip
from videokd.models.network_spec import NetworkSpec
from videokd.models.students import PredictionSpec, build_students
from videokd.models.students_file import save_students

# Generous, because the machine may be busy
SECONDS = 240.0
MILLISECONDS = 1000 * SECONDS
HOSTILE = "<b>${7*7}{{7}}<img src=x onerror='document.title=1'>.mp4"
#: Runs videokd, and notes every address outside of this machine that Python connects to or asks for.
AUDITED = """
import sys
def note(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto"):
        host = arguments[0] if event == "socket.getaddrinfo" else arguments[1][0] if isinstance(arguments[1], tuple) else None
        if host is not None and host not in ("127.0.0.1", "localhost", "::1"):
            print("OUTSIDE", event, host, file=sys.stderr, flush=True)
sys.addaudithook(note)
from videokd.__main__ import main
sys.exit(main(sys.argv[1:]))
"""


@dataclass
class Served:
    """A page that is being served."""

    process: subprocess.Popen[str]
    url: str
    temporary: Path
    lines: list[str] = field(default_factory=list)

    def files(self) -> list[Path]:
        return [path for path in self.temporary.rglob("*") if path.is_file()]

    def stop(self, number: int) -> int:
        self.process.send_signal(number)
        return self.process.wait(SECONDS)


def serve(temporary: Path, *arguments: str) -> Served:
    temporary.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-c", AUDITED, "app", "--port=0", "--device=cpu", *arguments],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"TMPDIR": str(temporary)},
        cwd=temporary,
    )
    assert process.stderr is not None
    served = Served(process, "", temporary)
    ready = threading.Event()

    def listen() -> None:
        for line in process.stderr or ():
            served.lines.append(line)
            if found := re.search(r"open (http://\S+) in a browser", line):
                served.url = found[1]
                ready.set()
        ready.set()

    threading.Thread(target=listen, daemon=True).start()
    ready.wait(SECONDS)
    if not served.url:
        process.kill()
        pytest.fail(f"the page did not start: {''.join(served.lines)}")
    return served


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two sets of students."""
    pytest.importorskip("gradio")
    folder = tmp_path_factory.mktemp("exports")
    for seed, name in enumerate(("first", "second")):
        specs = {stream: NetworkSpec((stream,), "test_resnet", 3, 32) for stream in ("iframe", "motion")}
        save_students(build_students(specs, PredictionSpec(("wave", "clap", "throw"), 2), seed=seed), folder / name)
    return [str(folder / name) for name in ("first", "second")]


@pytest.fixture(scope="module")
def served(exports: list[str], make_clip: MakeClip, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("app")
    (folder / "clips").mkdir()
    shutil.copy(make_clip("libx264", num_frames=50, b_frames=2), folder / "clips" / HOSTILE)
    shutil.copy(make_clip("mpeg4", num_frames=50), folder / "clips" / "plain.mp4")
    limits = ("--window=1", "--stride=0.5", "--most_megabytes=1", "--most_seconds=5")
    page = serve(
        folder / "temporary", "--students", exports[0], exports[1], f"--folder={folder / 'clips'}", "--host=127.0.0.1",
        *limits,
    )  # fmt: skip
    yield page
    page.process.kill()
    page.process.wait()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api")
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("no Chromium on this machine")
    with api.sync_playwright() as playwright:
        # without a sandbox, as root needs it in containers
        started = playwright.chromium.launch(
            executable_path=found, args=["--no-sandbox", "--disable-gpu"], timeout=MILLISECONDS
        )
        yield started
        started.close()


@dataclass
class Tab:
    """A page that is open, and what its browser did."""

    page: Any
    requested: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def drop(self, path: Path) -> None:
        self.page.set_input_files("#upload input[type=file]", str(path))

    def answer(self, name: str) -> str:
        """The text of the answer about a clip."""
        self.page.wait_for_function(
            "name => document.querySelector('#answer .answer h2')?.textContent === name", arg=name
        )
        return str(self.page.inner_text("#answer"))


@pytest.fixture
def tabs(browser: Any, served: Served) -> Iterator[Any]:
    contexts = []

    def open_tab() -> Tab:
        context = browser.new_context()
        contexts.append(context)
        context.set_default_timeout(MILLISECONDS)
        tab = Tab(context.new_page())
        tab.page.on("request", lambda request: tab.requested.append(request.url))
        tab.page.on("pageerror", lambda error: tab.errors.append(str(error)))
        tab.page.goto(served.url)
        tab.page.wait_for_selector("#upload input[type=file]", state="attached")
        return tab

    yield open_tab
    for context in contexts:
        context.close()


def test_a_clip_is_dropped_and_answered(tabs: Any, served: Served, make_clip: MakeClip) -> None:
    tab, clip = tabs(), make_clip("libx264", num_frames=75, b_frames=2)
    tab.drop(clip)
    text = tab.answer(clip.name)
    for expected in ("first", "second", "The whole clip", "Over time", "exact motion", "3.00 s, 75 frames"):
        assert expected in text
    assert text.count("5 windows of 1 s, one every 0.5 s") == 2
    assert tab.page.locator("#answer section").count() == 2
    assert tab.page.locator("#answer svg rect").count() == 2 * 3 * 5 + 75  # sets, labels, windows; frames
    tab.page.wait_for_function("document.querySelector('#answer video').readyState >= 2")
    film = tab.page.evaluate(
        "(v => [v.videoWidth, v.videoHeight, v.duration, v.error])(document.querySelector('#answer video'))"
    )
    assert film[:2] == [3 * 320 + 2 * 8, 240]
    assert film[2] == pytest.approx(3, abs=0.3)
    assert film[3] is None
    # nothing of the upload is left, nothing came from elsewhere, and the next clip can be dropped
    assert served.files() == []
    hosts = {urllib.parse.urlsplit(url).netloc for url in tab.requested if not url.startswith(("data:", "blob:"))}
    assert hosts == {urllib.parse.urlsplit(served.url).netloc}
    assert tab.errors == []
    other = make_clip("mpeg4", num_frames=50)
    tab.drop(other)
    assert "2.00 s, 50 frames" in tab.answer(other.name)
    assert len(served.lines) == 1, served.lines


def test_files_that_are_refused(tabs: Any, served: Served, make_clip: MakeClip, tmp_path: Path) -> None:
    tab = tabs()
    (tmp_path / "notes.mp4").write_text("not a video")
    tab.drop(tmp_path / "notes.mp4")
    tab.page.wait_for_selector("#answer .problem:has-text('notes.mp4')")
    assert "Traceback" not in tab.page.inner_text("body")
    long = make_clip("mpeg4", num_frames=150)
    tab.drop(long)
    tab.page.wait_for_selector("#answer .problem:has-text('lasts 6.0 s (accepted: at most 5 s)')")
    (tmp_path / "large.mp4").write_bytes(bytes(1_500_000))
    tab.drop(tmp_path / "large.mp4")
    tab.page.wait_for_selector("text=/exceed the maximum allowed size/i")
    assert served.files() == []


def test_two_clips_at_once(tabs: Any, served: Served, make_clip: MakeClip) -> None:
    clips = [make_clip("mpeg4", num_frames=50, seed=seed) for seed in (1, 2)]
    first, second = tabs(), tabs()
    first.drop(clips[0])
    second.drop(clips[1])
    assert "2.00 s, 50 frames" in second.answer(clips[1].name)
    assert "2.00 s, 50 frames" in first.answer(clips[0].name)
    assert served.files() == []


def test_a_clip_of_the_folder(tabs: Any, served: Served) -> None:
    tab = tabs()
    for name in ("plain.mp4", HOSTILE):
        tab.page.click("#chooser input")
        choices = tab.page.locator("#chooser [role=option], [role=listbox] [role=option]")
        choices.first.wait_for()
        assert {text.strip().lstrip("✓").strip() for text in choices.all_inner_texts()} == {"plain.mp4", HOSTILE}
        choices.filter(has_text=name).click()
        tab.answer(name)  # the name is text, whatever it looks like
    assert tab.page.locator("#answer img").count() == 0
    assert tab.page.title() == "videokd"
    assert served.files() == []


def ask(served: Served, path: str, body: Any = None, **headers: str) -> tuple[int, str]:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(
        served.url + path, data, {"Content-Type": "application/json"} | {k.capitalize(): v for k, v in headers.items()}
    )
    try:
        with urllib.request.urlopen(request, timeout=SECONDS) as reply:
            lines = b""
            for line in reply:  # a stream of events stays open: its last one says that it is complete
                lines += line
                if b"process_completed" in line:
                    break
            return reply.status, lines.decode("utf-8", "replace")
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode("utf-8", "replace")


def test_no_other_file_can_be_had(served: Served, tmp_path: Path) -> None:
    secret = tmp_path / "secret.mp4"
    secret.write_text("the secret")
    config = json.loads(ask(served, "/config")[1])
    for number, dependency in enumerate(config["dependencies"]):
        for value in ({"path": str(secret), "meta": {"_type": "gradio.FileData"}}, str(secret)):
            session = f"s{number}{type(value).__name__}"
            join = {"data": [value], "fn_index": dependency["id"], "session_hash": session}
            status, _ = ask(served, "/gradio_api/queue/join", join)
            if status == 200:
                events = ask(served, f"/gradio_api/queue/data?session_hash={session}")[1]
                assert "the secret" not in events
                assert '"success": false' in events or '"success":false' in events or "no such video" in events
    assert served.files() == []  # nor was it copied to where Gradio serves files from
    for name in (str(secret), "/etc/passwd", f"{served.temporary}/../clips/plain.mp4"):
        status, text = ask(served, f"/gradio_api/file={name}")
        assert status in (403, 404)
        assert "the secret" not in text
    assert ask(served, "/", host="evil.example")[0] == 421


def test_uploads_whose_browser_goes_away(tabs: Any, served: Served, make_clip: MakeClip) -> None:
    """More than may wait: none of them may keep the next one out, or print a traceback."""
    place, lines = urllib.parse.urlsplit(served.url), len(served.lines)
    head = (
        f"POST /gradio_api/upload HTTP/1.1\r\nHost: {place.netloc}\r\nContent-Length: 1000000\r\n"
        "Content-Type: multipart/form-data; boundary=x\r\n\r\n"
        '--x\r\nContent-Disposition: form-data; name="files"; filename="a.mp4"\r\n\r\n'
    )
    for _ in range(12):
        with socket.create_connection((str(place.hostname), place.port or 0), SECONDS) as connection:
            connection.sendall(head.encode() + bytes(990_000))
            deadline = time.monotonic() + SECONDS
            while not served.files() and time.monotonic() < deadline:
                time.sleep(0.02)
            assert served.files()
        while served.files() and time.monotonic() < deadline:
            time.sleep(0.02)
        assert served.files() == []
    tab, clip = tabs(), make_clip("mpeg4", num_frames=50)
    tab.drop(clip)
    tab.answer(clip.name)
    assert served.lines[lines:] == []


def test_it_told_nobody(served: Served) -> None:
    """After the tests above, Python has connected to nothing outside of this machine."""
    assert any(line.startswith("videokd: open http://127.0.0.1:") for line in served.lines)
    assert [line for line in served.lines if "OUTSIDE" in line] == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_stops_in_the_middle_of_an_answer(
    number: int, exports: list[str], browser: Any, make_clip: MakeClip, tmp_path: Path
) -> None:
    served = serve(tmp_path / "temporary", f"--students={exports[0]}", "--stride=0.05")
    try:
        context = browser.new_context()
        context.set_default_timeout(MILLISECONDS)
        page = context.new_page()
        page.goto(served.url)
        page.wait_for_selector("#upload input[type=file]", state="attached")
        page.set_input_files("#upload input[type=file]", str(make_clip("mpeg4", num_frames=150)))
        deadline = time.monotonic() + SECONDS
        while not served.files() and time.monotonic() < deadline:
            time.sleep(0.02)
        assert served.files()
        assert served.stop(number) == 130
        assert list(served.temporary.iterdir()) == []
        context.close()
    finally:
        served.process.kill()
    assert served.lines[-1] == "videokd: app stopped.\n", served.lines
    assert not any("Traceback" in line for line in served.lines), "".join(served.lines)


def test_it_stops_while_it_starts(exports: list[str], tmp_path: Path) -> None:
    """SIGTERM after the folder for uploads is there, before the page is: it is left to nobody."""
    process = subprocess.Popen(
        [sys.executable, "-m", "videokd", "app", "--port=0", "--device=cpu", f"--students={exports[0]}"],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"TMPDIR": str(tmp_path)},
    )
    try:
        deadline = time.monotonic() + SECONDS
        while not list(tmp_path.iterdir()) and time.monotonic() < deadline:
            time.sleep(0.001)
        assert list(tmp_path.iterdir())
        process.send_signal(signal.SIGTERM)
        _, messages = process.communicate(timeout=SECONDS)
    finally:
        process.kill()
    assert process.returncode == 130
    assert messages.splitlines()[-1] == "videokd: app stopped."
    assert "Traceback" not in messages
    assert list(tmp_path.iterdir()) == []


def test_settings_that_are_refused(exports: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    from videokd.__main__ import main

    for arguments, message in (
        ([exports[0]], "is given twice (accepted: two different sets)"),
        (["--port=-1"], "port is -1 (accepted: 0 to 65535"),
        (["--most_seconds=0"], "most_seconds is 0.0 (accepted: a number above 0)"),
        ([f"--folder={tmp_path}", "--port=0"], "has no videos"),
        (["--host=nowhere.invalid"], "nowhere.invalid:7860 cannot be used"),
    ):
        assert main(["app", f"--students={exports[0]}", *arguments]) == 2
        assert message in capsys.readouterr().err


def test_another_host_is_warned_about(exports: list[str], tmp_path: Path) -> None:
    served = serve(tmp_path / "temporary", f"--students={exports[0]}", "--host=0.0.0.0")
    try:
        assert any("anybody who reaches this machine can use the page" in line for line in served.lines)
        port = urllib.parse.urlsplit(served.url).port
        served.url = f"http://127.0.0.1:{port}"
        assert ask(served, "/", host="any.name")[0] == 200
        assert served.stop(signal.SIGHUP) == 130
    finally:
        served.process.kill()
