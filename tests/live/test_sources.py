"""What may be watched."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from videokd.errors import ConfigError
from videokd.live.sources import opening_options, sources_of


def test_no_name_shows_a_password_or_a_query() -> None:
    address = "rtsp://admin:s3cret@[::1]:554/stream?token=t0ken#f"
    (source,) = sources_of([address])
    assert source.name == "rtsp://[::1]:554/stream"
    assert source.target == address
    assert "s3cret" not in repr(source)
    assert "t0ken" not in repr(source)


def test_names_are_told_apart() -> None:
    sources = sources_of(["http://camera/a?channel=1", "http://camera/a?channel=2", "udp://:5000"])
    assert [source.name for source in sources] == ["http://camera/a #1", "http://camera/a #2", "udp://:5000"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["ftp://host/a.ts"], r"^ftp:// is not a protocol that is watched \(accepted: a file, .*rtsp://.*\)"),
        (["file:///etc/passwd"], r"^file:// is not a protocol"),
        (["concat:a.ts|b.ts"], r"^concat:a.ts\|b.ts is not there"),
        (["crypto://x"], r"^crypto:// is not"),
        (["udp://camera"], r"^udp://camera names no port \(accepted: udp://host:port\)"),
        (["tcp://host:99999"], r"^an address of tcp:// cannot be read"),
        (["rtsp:///stream"], r"^rtsp:///stream names no host"),
        (["missing.ts"], r"^missing.ts is not there"),
        (["-", "-"], r"^- is named twice"),
        ([], r"^nothing to watch"),
    ],
)
def test_what_may_not_be_watched(given: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        sources_of(given)


def test_a_folder_and_a_device_without_video_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is a directory or a socket"):
        sources_of([str(tmp_path)])
    from av.format import formats_available

    if "v4l2" not in formats_available:
        with pytest.raises(ConfigError, match=r"^/dev/null is a device, which this build of FFmpeg does not read"):
            sources_of(["/dev/null"])


@pytest.mark.parametrize(
    ("address", "protocols"),
    [
        ("http://camera/live.m3u8", "http,https,tcp,tls,crypto"),
        ("tcp://127.0.0.1:5000", "tcp"),
        ("udp://:5000", "udp"),
        ("srt://camera:9000", "srt"),
        ("RTSP://camera/1", "rtsp,rtp,tcp,udp"),
    ],
)
def test_ffmpeg_may_use_no_other_protocol(address: str, protocols: str) -> None:
    (source,) = sources_of([address])
    assert opening_options(source, 0)["options"]["protocol_whitelist"] == protocols


def test_a_file_and_a_pipe_may_open_nothing_else(tmp_path: Path) -> None:
    pipe, file = tmp_path / "pipe", tmp_path / "a.ts"
    os.mkfifo(pipe)
    file.write_bytes(b"x")
    for source in sources_of([str(pipe), str(file), "-"]):
        assert source.options["protocol_whitelist"] == "none"
        assert "hls" not in source.options["format_whitelist"].split(",")
        assert source.waits
    assert [source.kind for source in sources_of([str(pipe), str(file)])] == ["stdin", "file"]


def test_transports_of_rtsp_take_turns() -> None:
    (source,) = sources_of(["rtsp://camera/1"])
    assert [opening_options(source, attempt)["options"].get("rtsp_flags") for attempt in range(3)] == [
        "prefer_tcp",
        None,
        "prefer_tcp",
    ]


def test_protocols_in_capitals_are_opened_as_in_small_letters() -> None:
    source = sources_of(["RTSP://user:Secret@Camera/Path"])[0]
    assert source.target == "rtsp://user:Secret@Camera/Path"
    assert source.scheme == "rtsp"
