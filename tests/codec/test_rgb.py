"""Fully decoded frames: decord and PyAV give the same pictures for the same numbers."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest

import videokd
from videokd.codec import rgb
from videokd.codec.encoding import Encoding
from videokd.codec.transcode import transcode
from videokd.errors import DecodeError

NUMBERS = (0, 11, 12, 29, 3, 3)


@pytest.fixture(params=["mpeg4", "h264"])
def training_form(request: pytest.FixtureRequest, make_clip, tmp_path: Path) -> Path:
    target = tmp_path / "clip.mp4"
    transcode(make_clip("libx264", gop=250, b_frames=2), target, Encoding(codec=request.param, short_side=96))
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


def check_that_both_agree(path: Path, num_frames: int) -> None:
    if rgb.decord is None:
        pytest.skip("decord has no wheel here")
    numbers = [*range(num_frames), *np.random.default_rng(0).integers(0, num_frames, 10).tolist()]
    np.random.default_rng(1).shuffle(numbers)
    one, other = (read(path, numbers).astype(int) for read in (rgb.read_by_decord, rgb.read_by_pyav))
    assert one.shape == other.shape
    assert np.abs(one - other).max() <= 2  # their colour conversions round differently
    with videokd.open(path) as video:
        shown = {
            number: video.read(gop=gop.index, position=position, streams=("frame",)).frame
            for gop in video.gops
            for position, number in enumerate(gop.frame_numbers)
        }
    assert sorted(shown) == list(range(num_frames))
    for number, frame in zip(numbers, other, strict=True):
        assert np.array_equal(frame, shown[number])


def test_decord_and_pyav_give_equal_frames_at_equal_numbers(training_form: Path) -> None:
    check_that_both_agree(training_form, 30)


@pytest.mark.parametrize("codec", ["mpeg4", "h264"])
def test_both_agree_on_a_real_clip_in_the_training_form(shared: Path, tmp_path: Path, codec: str) -> None:
    target = tmp_path / "clip.mp4"
    transcode(
        shared / "clips" / "v_BalanceBeam_g08_c03.avi", target, Encoding(codec=codec, short_side=120)
    )  # has B-frames
    check_that_both_agree(target, 125)


def test_packed_avi_is_read_right(shared: Path) -> None:
    """The trap: decord's last frame is wrong in "packed" AVI with B-frames."""
    path = shared / "clips" / "TrumanShow_wave_f_nm_np1_fr_med_26.avi"
    truth = every_frame(path)
    frames = rgb.read_rgb(path, range(len(truth)))
    assert np.array_equal(frames, truth)


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
    with pytest.raises(DecodeError, match=r"text\.mp4 is a text file"):
        rgb.read_rgb(text, [0])
