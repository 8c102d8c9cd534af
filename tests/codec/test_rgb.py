"""Fully decoded frames: decord and PyAV give the same pictures for the same numbers."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest

from videokd.codec import rgb
from videokd.codec.transcode import Encoding, transcode
from videokd.errors import DecodeError

NUMBERS = (0, 11, 12, 29, 3, 3)


@pytest.fixture
def training_form(make_clip, tmp_path: Path) -> Path:
    target = tmp_path / "clip.mp4"
    transcode(make_clip("libx264", gop=250, b_frames=2), target, Encoding(short_side=96))
    return target


def every_frame(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24").astype(int) for frame in container.decode(video=0)]


@pytest.mark.parametrize("way", ["read_by_decord", "read_by_pyav"])
def test_frames_are_those_of_their_numbers(way: str, training_form: Path) -> None:
    if way == "read_by_decord" and rgb.decord is None:
        pytest.skip("decord has no wheel here")
    truth = every_frame(training_form)
    frames = getattr(rgb, way)(training_form, NUMBERS)
    assert frames.dtype == np.uint8
    for frame, number in zip(frames, NUMBERS, strict=True):
        distances = [np.abs(frame - other).mean() for other in truth]
        assert int(np.argmin(distances)) == number
        assert distances[number] < 1  # their colour conversions round differently


def test_avi_is_read_by_pyav(make_clip, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_clip("mpeg4", container="avi", b_frames=2)
    monkeypatch.setattr(rgb, "decord", None)
    without = rgb.read_rgb(path, NUMBERS)
    monkeypatch.undo()
    assert np.array_equal(rgb.read_rgb(path, NUMBERS), without)


def test_wrong_numbers_and_files(training_form: Path, make_clip, tmp_path: Path) -> None:
    for path in (training_form, make_clip("mpeg4", container="avi", b_frames=2)):
        with pytest.raises(DecodeError, match=r"has no frame 30 \(accepted: 0 to 29\)"):
            rgb.read_rgb(path, [30])
    with pytest.raises(DecodeError, match=r"frames \[-1\] \(accepted: one or more numbers from 0 on\)"):
        rgb.read_rgb(training_form, [-1])
    with pytest.raises(DecodeError, match="is not there"):
        rgb.read_rgb(tmp_path / "missing.mp4", [0])
    text = tmp_path / "text.mp4"
    text.write_text("no video\n" * 100)
    with pytest.raises(DecodeError, match=r"text\.mp4 cannot be decoded by decord|cannot be read as a video"):
        rgb.read_rgb(text, [0])
