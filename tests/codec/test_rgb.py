"""Fully decoded frames by their numbers, whatever the container and the order."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest

import videokd
from tests.codec.test_traps import texture, write
from videokd.codec.indexing import index_video
from videokd.codec.rgb import read_rgb
from videokd.errors import DecodeError
from videokd.transcoding.mp4_writer import Encoding
from videokd.transcoding.transcode import transcode

NUMBERS = (0, 11, 12, 29, 3, 3)


@pytest.fixture(params=["mpeg4", "h264"])
def training_form(request: pytest.FixtureRequest, make_clip, tmp_path: Path) -> Path:
    target = tmp_path / "clip.mp4"
    transcode(make_clip("libx264", gop=250, b_frames=2), target, Encoding(codec=request.param, short_side=96))
    return target


def every_frame(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def test_frames_are_those_of_their_numbers(training_form: Path) -> None:
    truth = every_frame(training_form)
    frames = read_rgb(training_form, NUMBERS)
    assert frames.dtype == np.uint8
    assert np.array_equal(frames, truth[list(NUMBERS)])
    with videokd.open(training_form) as video:
        assert np.array_equal(read_rgb(training_form, NUMBERS, index=video.index), frames)
        assert np.array_equal(video.read(gop=1, position=0, streams=("frame",)).frame, frames[2])


@pytest.mark.parametrize(
    ("codec", "suffix"),
    [
        *(("libx264", suffix) for suffix in ("mp4", "mkv", "ts", "avi", "mpg")),
        *(("mpeg2video", suffix) for suffix in ("mp4", "mkv", "ts", "mpg")),
        *(("mpeg4", suffix) for suffix in ("mp4", "mkv", "avi")),
    ],
)
def test_b_frames_and_open_gops(codec: str, suffix: str, tmp_path: Path) -> None:
    """Frames 10 and 11 are shown before the second I-frame and come after it in the file."""
    options = {"x264-params": "open-gop=1:bframes=2:b-adapt=0:keyint=12:scenecut=0"} if codec == "libx264" else {}
    path = write(
        tmp_path / f"clip.{suffix}", texture(40, 96, 128), codec=codec, options=options, context={"max_b_frames": 2}
    )
    truth, index = every_frame(path), index_video(path)
    for numbers in ([11], [10, 11, 12], [38, 1], [23, 22, 36, 0], range(40)):
        assert np.array_equal(read_rgb(path, numbers, index=index), truth[list(numbers)])


def test_a_packed_avi_is_read_right(shared: Path) -> None:
    path = shared / "clips" / "TrumanShow_wave_f_nm_np1_fr_med_26.avi"
    truth = every_frame(path)
    assert np.array_equal(read_rgb(path, range(len(truth))), truth)


def test_wrong_numbers_and_files(training_form: Path, make_clip, tmp_path: Path) -> None:
    for path in (training_form, make_clip("mpeg4", container="avi", b_frames=2)):
        with pytest.raises(DecodeError, match=r"has no frame 30 \(accepted: 0 to 29\)"):
            read_rgb(path, [30])
    with pytest.raises(DecodeError, match=r"frames \[-1\] \(accepted: one or more numbers from 0 on\)"):
        read_rgb(training_form, [-1])
    with pytest.raises(DecodeError, match="is not there"):
        read_rgb(tmp_path / "missing.mp4", [0])
    text = tmp_path / "text.mp4"
    text.write_text("no video\n" * 100)
    with pytest.raises(DecodeError, match=r"text\.mp4 is a text file"):
        read_rgb(text, [0])


def test_a_frame_that_does_not_come_out(make_clip, tmp_path: Path) -> None:
    long, short = make_clip("mpeg4"), make_clip("mpeg4", num_frames=15)
    with pytest.raises(DecodeError, match=r"(frame 20|packet \d+).* cannot be decoded"):
        read_rgb(short, [20], index=replace(index_video(long), sums=""))
