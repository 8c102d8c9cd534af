"""Resampling to a constant rate, against FFmpeg's own filter `fps`."""

from __future__ import annotations

import shutil
import subprocess
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from videokd.errors import ConfigError
from videokd.transcoding.mp4_writer import Encoding
from videokd.transcoding.transcode import PictureTimes, resampled, transcode

needs_ffmpeg = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="needs the ffmpeg program")


def write_numbered(path: Path, times: list[Fraction], *, rate: Fraction, options: dict[str, str]) -> Path:
    """A video whose picture n is grey of brightness 20 + 2 n, shown at the times given."""
    with av.open(str(path), "w") as container:
        codec, quality = ("mpeg4", {"qmin": "1", "qmax": "1"}) if path.suffix == ".avi" else ("libx264", {"qp": "1"})
        stream = container.add_stream(codec, rate=rate, options=options | quality)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        base = 1 / rate if path.suffix == ".avi" else Fraction(1, 12000)
        stream.codec_context.time_base = base
        for number, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(np.full((72, 64), 128, np.uint8), format="yuv420p")
            plane = np.frombuffer(frame.planes[0], np.uint8).reshape(48, -1)
            plane[:] = 20 + 2 * number
            following = times[number + 1] if number + 1 < len(times) else time + 1 / rate
            frame.pts, frame.duration, frame.time_base = round(time / base), round((following - time) / base), base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def shown_in(path: Path) -> list[int]:
    """The number of each picture of a prepared file, by its brightness."""
    with av.open(str(path)) as container:
        return [
            round((np.frombuffer(frame.planes[0], np.uint8).reshape(48, -1)[:, :64].mean() - 20) / 2)
            for frame in container.decode(video=0)
        ]


def shown_by_ffmpeg(path: Path, rate: str) -> list[int]:
    """The number of each picture that FFmpeg's filter gives."""
    command = ["ffmpeg", "-v", "error", "-i", str(path), "-vf", f"fps={rate}", "-vsync", "passthrough"]
    done = subprocess.run(
        [*command, "-f", "rawvideo", "-pix_fmt", "yuv420p", "-"], capture_output=True, check=True, timeout=60
    )
    pictures = np.frombuffer(done.stdout, np.uint8).reshape(-1, 72 * 64)[:, : 48 * 64]
    return [round((picture.mean() - 20) / 2) for picture in pictures]


def constant(rate: Fraction, *, seconds: float = 0.8, start: Fraction = Fraction(0)) -> list[Fraction]:
    return [start + n / rate for n in range(int(seconds * rate))]


REORDERED = {"bf": "3", "b_strategy": "0", "g": "30"}
SOURCES = {
    "12.5": (constant(Fraction(25, 2), seconds=3), ".mp4", {}),
    "29.97": (constant(Fraction(30000, 1001), seconds=3), ".mp4", REORDERED),
    "50": (constant(Fraction(50), seconds=2), ".mkv", REORDERED),
    "59.94": (constant(Fraction(60000, 1001), seconds=1.6), ".mp4", REORDERED),
    "120": (constant(Fraction(120)), ".mp4", {}),
    "late start": (constant(Fraction(30), seconds=3, start=Fraction(7, 3)), ".mkv", REORDERED),
    "variable": ([Fraction(n * n, 500) + Fraction(n, 100) for n in range(40)], ".mkv", REORDERED),
    "bursts": ([Fraction(n // 5, 4) + Fraction(n % 5, 60) for n in range(60)], ".mp4", {}),
    "program stream": (constant(Fraction(30), seconds=2), ".ts", REORDERED),
    "avi": (constant(Fraction(15), seconds=4), ".avi", {"bf": "2"}),
}


@needs_ffmpeg
@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize("rate", [25.0, 12.5])
def test_pictures_are_those_of_ffmpegs_filter(name: str, rate: float, tmp_path: Path) -> None:
    times, suffix, options = SOURCES[name]
    nominal = Fraction(15) if suffix == ".avi" else Fraction(30)
    source = write_numbered(tmp_path / f"in{suffix}", times, rate=nominal, options=options)
    encoding = Encoding(resample=rate, short_side=48, quality=1)
    written = transcode(source, tmp_path / "out.mp4", encoding)
    expected = shown_by_ffmpeg(source, str(rate))
    shown = shown_in(tmp_path / "out.mp4")
    # How long the last picture is shown, no file here says; FFmpeg's versions differ
    assert shown[: len(expected)] == expected
    assert set(shown[len(expected) :]) <= {len(times) - 1}
    assert len(shown) - len(expected) <= 2
    assert (written.num_frames, written.num_written) == (len(times), len(shown))
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert container.streams.video[0].average_rate == Fraction(rate)


def test_speed_is_kept_where_a_nominal_rate_changes_it(tmp_path: Path) -> None:
    source = write_numbered(tmp_path / "in.mp4", constant(Fraction(50), seconds=1), rate=Fraction(50), options={})
    for setting, pictures, seconds in (({"resample": 25.0}, 25, 1), ({"frame_rate": 25.0}, 50, 2)):
        transcode(source, tmp_path / "out.mp4", Encoding(short_side=48, **setting))
        with av.open(str(tmp_path / "out.mp4")) as container:
            stream = container.streams.video[0]
            assert (stream.frames, float(stream.duration * stream.time_base)) == (pictures, seconds)


def stamped(*stamps: tuple[int | None, int | None]) -> list[av.VideoFrame]:
    frames = []
    for pts, dts in stamps:
        frame = av.VideoFrame(16, 16, "gray")
        frame.pts, frame.dts, frame.time_base = pts, dts, Fraction(1, 25)
        frames.append(frame)
    return frames


@pytest.mark.parametrize(
    ("stamps", "expected"),
    [
        ([(0, None), (0, None), (0, None)], [0, 1, 2]),  # some AVI files
        ([(None, None)] * 3, [0, 1, 2]),  # bare bitstreams
        ([(None, 4), (None, 5), (None, 7)], [4, 5, 7]),
        ([(1, 2), (4, 3), (3, 4), (5, 5), (2, 6)], [2, 3, 4, 5, 6]),  # H.264 with B-frames in AVI
        ([(0, 0), (1, 1), (9_000_000, 9_000_000), (9_000_001, 9_000_001)], [0, 1, 2, 3]),  # a clock that jumps
        ([(0, 0), (1, 1), (-9_000_000, -9_000_000), (-8_999_999, -8_999_999)], [0, 1, 2, 3]),
    ],
)
def test_timestamps_that_cannot_be_trusted(stamps: list, expected: list[int]) -> None:
    times = PictureTimes(Fraction(0), Fraction(1, 25))
    frames = stamped(*stamps)
    times.compare(frames)
    assert [times.of(frame) * 25 for frame in frames] == expected


def test_a_clock_that_jumps_is_not_filled_with_copies() -> None:
    frames = stamped((0, 0), (1, 1), (2**33, 2**33), (2**33 + 1, 2**33 + 1))
    shown = resampled(frames, Fraction(25), start=Fraction(0), step=Fraction(1, 25))
    assert [frames.index(frame) for frame in shown] == [0, 1, 2, 3]


def test_a_nominal_rate_and_resampling_exclude_each_other() -> None:
    with pytest.raises(ConfigError, match=r"frame_rate 25 and resample 25 exclude each other"):
        Encoding(frame_rate=25, resample=25)
    with pytest.raises(ConfigError, match=r"resample 0.0 \(accepted: 0.1 to 1000 a second"):
        Encoding(resample=0.0)
