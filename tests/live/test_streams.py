"""Streams over the protocols that cameras speak, on this machine, with the ffmpeg program as the sender."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path

import av
import pytest

from tests.conftest import MakeClip
from tests.live.loopback import (
    FAST,
    PATIENCE,
    Result,
    StandIn,
    at_least,
    free_port,
    in_real_time,
    lossy_relay,
    needs_ffmpeg,
    sending,
    watched,
    windows_of,
)
from videokd.errors import ConfigError, DataError, DecodeError
from videokd.live import feed, positions
from videokd.live.events import EventSettings
from videokd.live.feed import WatchSettings
from videokd.live.watching import SourceChange

pytestmark = needs_ffmpeg
ONE_REFERENCE = (("preset", "veryfast"), ("x264-params", "ref=1:scenecut=0"))


@pytest.fixture
def clip(make_clip: MakeClip) -> Path:
    return make_clip("libx264", container="ts", gop=12, num_frames=100, options=ONE_REFERENCE)


def check(results: list[object], *, count: int) -> None:
    windows = windows_of(results)  # type: ignore[arg-type]
    assert len(windows) >= count
    starts = [window.start_seconds for window in windows]
    assert starts == sorted(starts)
    for window in windows:
        assert window.end_seconds - window.start_seconds == pytest.approx(FAST.window)
        assert sum(label.probability for label in window.labels) == pytest.approx(1)
        assert window.latency_seconds >= 0


def test_tcp_from_a_sender_that_listens(clip: Path) -> None:
    port = free_port()
    with sending(*in_real_time(clip, "-f", "mpegts", f"tcp://127.0.0.1:{port}?listen=1"), again=True):
        results = watched(f"tcp://127.0.0.1:{port}", enough=at_least(5))
    check(results, count=5)
    assert not windows_of(results)[-1].damaged_seconds


def test_tcp_that_listens_for_a_sender(clip: Path) -> None:
    port = free_port()
    with sending(*in_real_time(clip, "-f", "mpegts", f"tcp://127.0.0.1:{port}"), again=True):
        check(watched(f"tcp://127.0.0.1:{port}?listen=1", enough=at_least(5)), count=5)


def test_udp_that_loses_packets(clip: Path) -> None:
    port = free_port()
    with (
        lossy_relay(port, every=40) as relay,
        sending(*in_real_time(clip, "-f", "mpegts", f"udp://127.0.0.1:{relay}?pkt_size=188")),
    ):
        results = watched(f"udp://127.0.0.1:{port}", enough=at_least(12))
    check(results, count=12)
    assert windows_of(results)[-1].damaged_seconds > 0


def test_standard_input(clip: Path) -> None:
    code = (
        "import tests.live.loopback as l\n"
        "for window in l.windows_of(l.watched('-')): print(window.source, round(window.start_seconds, 3))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], stdin=clip.open("rb"), capture_output=True, text=True, check=True, timeout=300
    )
    expected = [f"- {round(0.4 * number, 3)}" for number in range(9)]
    assert done.stdout.splitlines() == expected
    assert [window.start_seconds for window in windows_of(watched(str(clip)))] == pytest.approx(
        [0.4 * number for number in range(9)]
    )


@pytest.fixture
def web(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder, and the address under which a web server on this machine shows it."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *given: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield tmp_path, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_hls(clip: Path, web: tuple[Path, str]) -> None:
    folder, address = web
    options = ("-f", "hls", "-hls_time", "1", "-hls_list_size", "5", "-hls_flags", "delete_segments")
    with sending(*in_real_time(clip, *options, str(folder / "live.m3u8"))):
        check(watched(f"{address}/live.m3u8", enough=at_least(10)), count=10)


def test_a_recording_on_a_web_server_ends(clip: Path, web: tuple[Path, str]) -> None:
    folder, address = web
    subprocess.run(
        ["ffmpeg", "-v", "error", "-i", clip, "-c", "copy", "-hls_time", "1", "-hls_list_size", "0", folder / "a.m3u8"],
        check=True,
    )
    check(watched(f"{address}/a.m3u8"), count=9)


def test_a_playlist_opens_no_file_of_this_machine(clip: Path, web: tuple[Path, str]) -> None:
    folder, address = web
    for name in (f"file://{clip}", str(clip), f"concat:{clip}", f"subfile,,start,0,end,0,,:{clip}"):
        playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXTINF:4,\n{name}\n#EXT-X-ENDLIST\n"
        (folder / "evil.m3u8").write_text(playlist)
        quick = WatchSettings(window=0.8, stride=0.4, num_segments=4, timeout=2.0, reconnect=0.0)
        with pytest.raises(DecodeError, match=r"http://127.0.0.1:\d+/evil.m3u8"):
            watched(f"{address}/evil.m3u8", settings=quick)
        (folder / "evil.ts").write_text(playlist)
        with pytest.raises(DecodeError, match="evil.ts"):
            watched(str(folder / "evil.ts"))


@pytest.mark.skipif(shutil.which("rtsp-server-perl") is None, reason="needs Debian's package rtsp-server-perl")
def test_rtsp(clip: Path) -> None:
    watch_port, send_port = free_port(), free_port()
    local = ("--client_listen_address", "127.0.0.1", "--source_listen_address", "127.0.0.1")
    server = subprocess.Popen(
        ["rtsp-server-perl", "-c", str(watch_port), "-s", str(send_port), *local], stderr=subprocess.DEVNULL
    )
    messages: list[str] = []
    try:
        with sending(*in_real_time(clip, "-f", "rtsp", f"rtsp://127.0.0.1:{send_port}/cam"), again=True):
            address = f"rtsp://user:s3cret@127.0.0.1:{watch_port}/cam"
            results = watched(address, enough=at_least(5), messages=messages)
    finally:
        server.kill()
        server.wait()
    check(results, count=5)
    assert {window.source for window in windows_of(results)} == {f"rtsp://127.0.0.1:{watch_port}/cam"}
    assert "s3cret" not in "".join(messages)


def has_srt() -> bool:
    try:
        av.open("srt://127.0.0.1:1", timeout=0.1)
    except av.error.ProtocolNotFoundError:
        return False
    except (av.FFmpegError, OSError):
        pass
    return True


def test_srt(clip: Path) -> None:
    port = free_port()
    if not has_srt():
        with pytest.raises(ConfigError, match=r"this build of FFmpeg has no srt .* \| videokd watch -`"):
            watched(f"srt://127.0.0.1:{port}")
        pytest.skip("PyAV's build of FFmpeg has no SRT, and the error says what to do")
    with sending(*in_real_time(clip, "-f", "mpegts", f"srt://127.0.0.1:{port}?mode=listener"), again=True):
        check(watched(f"srt://127.0.0.1:{port}", enough=at_least(5)), count=5)


def test_a_sender_that_starts_again(clip: Path) -> None:
    port, messages = free_port(), []  # type: ignore[var-annotated]
    once = ("-re", "-i", str(clip), "-c", "copy", "-f", "mpegts", f"tcp://127.0.0.1:{port}?listen=1")
    with sending(*once, again=True):
        results = watched(f"tcp://127.0.0.1:{port}", enough=at_least(15), messages=messages)
    check(results, count=15)
    assert any("Trying again in 0.5 s" in message for message in messages)
    assert windows_of(results)[-1].end_seconds > 4.4  # a clip has 4 seconds


def test_a_camera_that_goes_silent_is_tried_again_and_given_up() -> None:
    port, messages = free_port(), []  # type: ignore[var-annotated]
    settings = WatchSettings(window=0.8, stride=0.4, num_segments=4, timeout=0.5, reconnect=4.0)
    with pytest.raises(DecodeError, match=r"^udp://:\d+ cannot be read: nothing came in 0.5 s.* Given up after \d+ s"):
        watched(f"udp://:{port}", settings=settings, messages=messages)
    assert "Trying again in 0.5 s" in messages[0]
    assert "Trying again in 1 s" in messages[1]


def test_sources_that_are_ready_together_share_a_batch(clip: Path, tmp_path: Path) -> None:
    students = StandIn(slow_seconds=0.05)
    names = []
    for number in range(4):
        names.append(str(tmp_path / f"{number}.ts"))
        shutil.copy(clip, names[-1])
    results = watched(*names, students=students)
    assert max(students.batches) > 1
    for name in names:
        windows = windows_of(results, name)
        assert [window.start_seconds for window in windows] == pytest.approx([0.4 * number for number in range(9)])
        assert windows[-1].dropped_seconds == 0


def test_slow_students_cost_windows_not_time(clip: Path) -> None:
    port = free_port()
    students = StandIn(slow_seconds=1.5)
    began = time.monotonic()
    with sending(*in_real_time(clip, "-f", "mpegts", f"tcp://127.0.0.1:{port}?listen=1"), again=True):
        results = windows_of(watched(f"tcp://127.0.0.1:{port}", students=students, enough=at_least(5)))
    assert time.monotonic() - began < PATIENCE
    assert results[-1].dropped_seconds > 0
    starts = [window.start_seconds for window in results]
    assert all(later - before > FAST.stride * 1.5 for before, later in pairwise(starts[2:]))
    assert results[-1].latency_seconds < 2 * 1.5 + 2  # the newest window is labelled, not the oldest


def test_a_source_that_fails_does_not_end_the_others(clip: Path, tmp_path: Path) -> None:
    bad, messages = tmp_path / "bad.ts", []  # type: ignore[var-annotated]
    bad.write_bytes(b"not a video" * 100)
    assert len(windows_of(watched(str(bad), str(clip), messages=messages))) == 9
    assert any(str(bad) in message for message in messages)
    with pytest.raises(DataError, match="none of 2 sources could be watched"):
        watched(str(bad), str(bad))


def test_events_of_a_stream(clip: Path) -> None:
    results = watched(str(clip), events=EventSettings(on=0.01, smooth=2))
    changes = [result.change for result in results if isinstance(result, SourceChange)]
    assert sorted(change.label for change in changes if change.kind == "start") == ["bright", "dark"]
    assert sorted(change.label for change in changes if change.kind == "end") == ["bright", "dark"]
    assert {change.end_seconds for change in changes if change.kind == "end"} == {windows_of(results)[-1].end_seconds}


def test_students_that_need_vectors_refuse_streams_without(make_clip: MakeClip) -> None:
    path = make_clip("mjpeg", container="avi", pixel_format="yuvj420p")
    with pytest.raises(DecodeError, match=r"is mjpeg, which exports no motion vectors \(accepted: mpeg4, h264"):
        watched(str(path))
    only_pictures = StandIn({"rgb": ("rgb", 32)})
    assert len(windows_of(watched(str(path), students=only_pictures))) == 2


def test_a_recording_without_a_p_frame_is_refused_in_a_line(make_clip: MakeClip) -> None:
    path = make_clip("mpeg4", container="avi", gop=1)
    with pytest.raises(DecodeError, match=r"has no position that the students can see: no P-frame, or damage"):
        watched(str(path))


def test_pictures_that_cannot_be_read_are_named_with_their_source(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(positions, "_MOST_BYTES", 1 << 10)
    with pytest.raises(DecodeError, match=rf"^{clip}: its pictures of 128×96 take \d+ MiB"):
        watched(str(clip))


def test_a_recording_that_ends_before_the_first_place_says_so(clip: Path) -> None:
    long = WatchSettings(window=60.0, stride=60.0, num_segments=4)
    with pytest.raises(
        DecodeError, match=r"ends at 3\.96 s \(accepted: more than 7\.5 s, .* Pass a shorter `--window`"
    ):
        watched(str(clip), settings=long)


@pytest.mark.parametrize("then", ["another codec", "sound only"])
def test_a_stream_that_becomes_another_one_is_opened_again(
    clip: Path, make_clip: MakeClip, tmp_path: Path, then: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over UDP the connection outlives its sender, so nothing ends where that one starts again with something else."""
    monkeypatch.setattr(feed, "_LONGEST_BLIND", 2.0)
    first, sound = tmp_path / "first.ts", tmp_path / "sound.ts"
    sine = ("-f", "lavfi", "-i", "sine=duration=4")
    for inputs, output in ((("-i", clip, *sine), first), (sine, sound)):
        pid = ("-mpegts_start_pid", "0x100" if output == first else "0x101")
        subprocess.run(["ffmpeg", "-v", "error", *inputs, "-c:v", "copy", "-c:a", "mp2", *pid, output], check=True)
    second = make_clip("mpeg4", container="ts", gop=12, num_frames=100) if then == "another codec" else sound
    told = "no picture could be decoded in" if then == "another codec" else "only other tracks than video came in"
    port, messages = free_port(), []  # type: ignore[var-annotated]
    settings = WatchSettings(window=0.8, stride=0.4, num_segments=4, timeout=2.0, reconnect=PATIENCE)
    heard, stopped = threading.Event(), threading.Event()

    def send() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            while not stopped.is_set():
                data = (second if heard.is_set() else first).read_bytes()
                for start in range(0, len(data), 188):
                    sender.sendto(data[start : start + 188], ("127.0.0.1", port))
                    stopped.wait(0.002)

    def enough(results: list[Result]) -> bool:
        if results:
            heard.set()
        return any(told in message for message in messages)

    thread = threading.Thread(target=send)
    thread.start()
    try:
        results = watched(f"udp://127.0.0.1:{port}", settings=settings, messages=messages, enough=enough)
    finally:
        stopped.set()
        thread.join()
    assert windows_of(results)
    assert any(told in message for message in messages), messages
