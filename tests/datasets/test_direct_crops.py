"""Crops made straight from planes and chain are those cut out of whole pictures."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import videokd
from videokd.codec.indexing import index_video
from videokd.datasets.view import Crop, View, apply_crops, central_crop, random_crop, read_inputs, read_pictures
from videokd.errors import DecodeError

CLIPS = {
    "mpeg4": {"codec": "mpeg4", "step": (5, -3)},
    "h264": {"codec": "libx264", "step": (-4, 3), "options": (("x264-params", "bframes=0:ref=1:keyint=12"),)},
    "odd-width": {"codec": "libx264", "size": (151, 98), "pixel_format": "yuv444p"},
    "not-of-16": {"codec": "mpeg4", "size": (150, 98)},
    "odd-width-420": {"codec": "mpeg4", "size": (151, 98)},
    "odd-height": {"codec": "mpeg4", "size": (150, 97)},
    "b-frames": {"codec": "libx264", "b_frames": 3, "gop": 250},
    "full-range": {"codec": "libx264", "pixel_format": "yuvj420p"},
}
STREAM_SETS = (("iframe", "motion", "residual", "rgb"), ("iframe",), ("motion",), ("residual",), ("rgb", "motion"))


def crops_of(width: int, height: int) -> list[Crop]:
    rng = np.random.default_rng(0)
    drawn = [random_crop(width, height, flip=True, rng=rng) for _ in range(4)]
    whole = Crop(0, 0, width, height)
    corner = Crop(width - 33, height - 31, 33, 31)
    return [*drawn, whole, replace(whole, flip=True), corner, replace(corner, flip=True), central_crop(width, height)]


@pytest.mark.parametrize("with_index", [True, False])
@pytest.mark.parametrize("kind", CLIPS)
def test_both_ways_give_the_same(kind: str, with_index: bool, make_clip) -> None:
    path = make_clip(**CLIPS[kind])
    index = index_video(path) if with_index else None
    with videokd.open(path, index=index) as video:
        size = (video.width, video.height)
        places = [(gop.index, position) for gop in video.gops for position in range(gop.num_positions)]
    rng = np.random.default_rng(1)
    for crop in crops_of(*size):
        for streams in STREAM_SETS:
            inputs = {name: (name, 48) for name in streams} | {f"{streams[-1]}-31": (streams[-1], 31)}
            segments = tuple(places[i] for i in rng.choice(len(places), 3))
            view = View(segments, (crop,), size)
            with videokd.open(path, index=index) as video:
                direct = read_inputs(video, view, inputs)
            with videokd.open(path, index=index) as video:
                pictures = read_pictures(video, streams, segments)
            expected = apply_crops(pictures, (crop,), of=size, inputs=inputs)
            assert direct.keys() == expected.keys()
            for name, values in expected.items():
                assert np.array_equal(direct[name], values), (crop, name)
                assert direct[name].strides == values.strides


def test_several_crops_are_cut_out_of_whole_pictures(make_clip) -> None:
    path = make_clip("mpeg4")
    crops = (Crop(0, 0, 64, 64), Crop(9, 8, 64, 64, flip=True))
    inputs = {"motion": ("motion", 32)}
    with videokd.open(path) as video:
        both = read_inputs(video, View(((0, 3), (1, 4), (2, 5)), crops, (128, 96)), inputs)["motion"]
        for number, crop in enumerate(crops):
            one = read_inputs(video, View(((0, 3), (1, 4), (2, 5)), (crop,), (128, 96)), inputs)["motion"]
            assert np.array_equal(both[3 * number : 3 * number + 3], one)


def test_damage_is_an_error(make_clip, tmp_path) -> None:
    index, path = index_video(make_clip("mpeg4")), tmp_path / "cut.mp4"
    path.write_bytes(make_clip("mpeg4").read_bytes()[:20000])
    view = View(((0, 1), (2, 5)), (Crop(0, 0, 64, 64),), (128, 96))
    with videokd.open(path, index=index) as video, pytest.raises(DecodeError, match=r"cut\.mp4"):
        read_inputs(video, view, {"residual": ("residual", 32)})
