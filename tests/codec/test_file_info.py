"""What a file says of itself, against what it was made with, and against ffprobe where that is installed."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from av.codec.context import CodecContext

import videokd
from tests.codec.test_traps import X264, texture, write
from videokd.codec.file_info import read_file_info

# PyAV 17, the last for Python 3.10, does not tell the level
KNOWS_LEVELS = hasattr(CodecContext, "level")


@pytest.mark.parametrize(
    ("codec", "options", "profile", "level", "references"),
    [
        ("libx264", {"x264-params": f"{X264}:level=31", "profile": "main"}, "Main", "3.1", 1),
        ("libx264", {"x264-params": "ref=5:keyint=12", "preset": "medium", "profile": "high"}, "High", None, 5),
        ("mpeg4", {}, "Simple Profile", "1", 1),
        ("mpeg4", {"flags": "+qpel"}, "Advanced Simple Profile", "1", 1),
        ("mpeg2video", {}, "Main", "Main", 1),
        ("mpeg1video", {}, None, None, 1),
        ("mjpeg", {}, "Baseline", None, None),
        ("libvpx-vp9", {}, "Profile 0", None, None),
    ],
)
def test_profile_level_and_references(
    tmp_path: Path, codec: str, options: dict[str, str], profile: str | None, level: str | None, references: int | None
) -> None:
    pixel_format = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    path = write(tmp_path / "clip.mkv", texture(13, 96, 128), codec=codec, options=options, pixel_format=pixel_format)
    info = read_file_info(path)
    assert info.profile == profile
    assert info.references == references
    if level is not None and KNOWS_LEVELS:
        assert info.level == level
    assert info.container == "Matroska / WebM"
    assert info.num_bytes == path.stat().st_size
    assert (info.pixel_format, info.bits, info.rotation, info.other_tracks) == (pixel_format, 8, 0, ())


@pytest.mark.parametrize(
    ("pixel_format", "params", "bits", "matrix", "value_range"),
    [
        ("yuv420p", "colormatrix=bt709:fullrange=off", 8, "BT.709", "limited"),
        ("yuv444p10le", "colormatrix=bt2020nc:fullrange=on", 10, "BT.2020", "full"),
        ("yuvj420p", "colormatrix=smpte170m", 8, "BT.601", "full"),
    ],
)
def test_colours(
    tmp_path: Path, pixel_format: str, params: str, bits: int, matrix: str | None, value_range: str | None
) -> None:
    options = {"x264-params": f"{X264}:{params}"}
    path = write(tmp_path / "clip.mp4", texture(3, 96, 128), options=options, pixel_format=pixel_format)
    info = read_file_info(path)
    assert (info.pixel_format, info.bits, info.matrix, info.value_range) == (
        pixel_format,
        bits,
        matrix,
        value_range,
    )


def test_what_a_file_does_not_state_is_none(tmp_path: Path) -> None:
    info = read_file_info(write(tmp_path / "clip.avi", texture(3, 96, 128), codec="mpeg4"))
    assert info.matrix is None
    assert info.value_range in (None, "limited")
    assert info.pixel_aspect == (1, 1)


def test_what_is_no_video(tmp_path: Path) -> None:
    with pytest.raises(videokd.DecodeError, match="is not there"):
        read_file_info(tmp_path / "missing.mp4")


def traced_references(path: Path) -> int:
    """max_num_ref_frames, as FFmpeg's own reader of H.264 headers prints it."""
    command = [
        "ffmpeg",
        "-i",
        path,
        "-map",
        "0:v:0",
        "-c",
        "copy",
        "-bsf:v",
        "trace_headers",
        "-frames:v",
        "1",
        "-f",
        "null",
        "-",
    ]
    log = subprocess.run(command, check=True, capture_output=True, text=True).stderr
    return max(int(line.split("=")[1]) for line in log.splitlines() if "max_num_ref_frames" in line)


def test_real_clips_against_ffprobe(shared: Path) -> None:
    if shutil.which("ffprobe") is None or shutil.which("ffmpeg") is None:
        pytest.skip("no ffprobe and ffmpeg installed")
    fields = "profile,level,pix_fmt,sample_aspect_ratio,index"
    for path in sorted(file for file in (shared / "clips").iterdir() if file.suffix != ".csv"):
        command = [
            "ffprobe",
            "-v",
            "error",
            "-show_entries",
            f"stream={fields},codec_type,codec_name",
            "-of",
            "json",
            path,
        ]
        streams = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)["streams"]
        (probed,) = (stream for stream in streams if stream["codec_type"] == "video")
        info = read_file_info(path)
        assert info.profile == (None if probed.get("profile") == "unknown" else probed.get("profile")), path.name
        assert info.pixel_format == probed["pix_fmt"], path.name
        aspect = probed.get("sample_aspect_ratio", "1:1").replace("0:1", "1:1")
        assert info.pixel_aspect == tuple(map(int, aspect.split(":"))), path.name
        if probed["codec_name"] == "h264":
            assert info.references == traced_references(path), path.name
            assert info.level == (f"{probed['level'] / 10:g}" if KNOWS_LEVELS else None), path.name
        others = [stream for stream in streams if stream["codec_type"] != "video"]
        assert [track.split(" (")[0] for track in info.other_tracks] == [
            f"{other['codec_type']} {other['codec_name']}" for other in others
        ]
