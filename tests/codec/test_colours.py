"""RGB from YUV 4:2:0: the kernels against the formula in NumPy, and against swscale, which they replace."""

from __future__ import annotations

import platform

import av
import numpy as np
import pytest

import videokd
from videokd.codec.colours import Colours, difference_of_planes, planes_of
from videokd.kernels.residual import difference

SIZES = ((2, 2), (16, 16), (17, 18), (33, 2), (147, 98), (150, 96), (340, 256))
#: swscale's results depend on the CPU (see colours.py)
on_x86 = pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64"), reason="swscale gives other pixels on this CPU"
)


def noise(
    width: int, height: int, pixel_format: str = "yuv420p", *, space: int = 2, full: bool = False
) -> av.VideoFrame:
    rng = np.random.default_rng((width, height))
    frame = av.VideoFrame(width, height, pixel_format)
    for plane in frame.planes:
        plane.update(rng.integers(0, 256, plane.buffer_size, dtype=np.uint8).tobytes())
    frame.colorspace, frame.color_range = space, 2 if full else 1
    return frame


def by_formula(frame: av.VideoFrame) -> np.ndarray:
    """int64 [H, W, 3], with whole numbers of any size."""
    y, u, v = (np.frombuffer(p, np.uint8).reshape(p.height, p.line_size).astype(np.int64) for p in frame.planes)
    y = y[:, : frame.width]
    u, v = (np.repeat(np.repeat(each, 2, 0), 2, 1)[: frame.height, : frame.width] * 8 - 1024 for each in (u, v))
    light = 9539 * (8 * y - 128) >> 16
    red, blue = light + (13075 * v >> 16), light + (16525 * u >> 16)
    green = light + (-3209 * u >> 16) + (-6660 * v >> 16)
    return np.clip(np.stack([red, green, blue], axis=2), 0, 255)


def rgb(frame: av.VideoFrame) -> np.ndarray:
    return Colours().rows(frame)[:, : 3 * frame.width].reshape(frame.height, frame.width, 3)


@pytest.mark.parametrize("size", SIZES)
def test_the_kernels_follow_the_formula_on_every_cpu(size: tuple[int, int]) -> None:
    frame = noise(*size)
    expected = by_formula(frame)
    assert np.array_equal(rgb(frame), expected)
    warped = np.random.default_rng(1).integers(0, 256, (size[1], 3 * size[0]), dtype=np.uint8)
    planes = planes_of(frame)
    assert planes is not None
    residual = difference_of_planes(planes, warped)
    assert np.array_equal(residual, expected - warped.reshape(expected.shape))
    assert np.array_equal(residual, difference(Colours().rows(frame), warped))


def test_every_value_of_y_u_and_v() -> None:
    """All 2^24 triples, in pictures where U and V hardly change along a row."""
    u, v = np.mgrid[:256, :256].astype(np.uint8)
    frame = av.VideoFrame(512, 512, "yuv420p")
    for plane, values in zip(frame.planes[1:], (u, v), strict=True):
        plane.update(np.ascontiguousarray(values).tobytes())
    for start in range(0, 256, 4):
        y = np.tile(np.arange(start, start + 4, dtype=np.uint8).reshape(2, 2), (256, 256))
        frame.planes[0].update(y.tobytes())
        assert np.array_equal(rgb(frame), by_formula(frame))


@on_x86
@pytest.mark.parametrize("size", [*SIZES, (150, 97), (17, 33)])
@pytest.mark.parametrize("space", [1, 2, 5, 6, 7, 9])
@pytest.mark.parametrize("full", [False, True])
def test_pixels_are_those_of_swscale(size: tuple[int, int], space: int, full: bool) -> None:
    frame = noise(*size, space=space, full=full)
    assert np.array_equal(rgb(frame), frame.to_ndarray(format="rgb24"))
    assert (planes_of(frame) is None) == (full or size[1] % 2 == 1 or space in (1, 7, 9))


@on_x86
@pytest.mark.parametrize("pixel_format", ["yuvj420p", "yuv422p", "yuv444p", "yuv420p10le", "gray", "nv12", "rgb24"])
def test_other_pixel_formats_are_left_to_swscale(pixel_format: str) -> None:
    frame = noise(150, 98, pixel_format)
    assert planes_of(frame) is None
    assert np.array_equal(rgb(frame), frame.to_ndarray(format="rgb24"))


@on_x86
@pytest.mark.parametrize(
    ("codec", "pixel_format"),
    [("mpeg4", "yuv420p"), ("libx264", "yuv420p"), ("libx264", "yuvj420p"), ("libx264", "yuv444p")],
)
@pytest.mark.parametrize("size", [(128, 96), (150, 98)])
def test_frames_of_files_are_those_of_pyav(codec: str, size: tuple[int, int], pixel_format: str, make_clip) -> None:
    path = make_clip(codec, size=size, pixel_format=pixel_format)
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    with videokd.open(path) as video:
        for streams in video.iterate(streams=("frame", "iframe", "motion", "residual")):
            assert np.array_equal(streams.frame, frames[video.gops[streams.gop].frame_numbers[streams.position]])
            rows, columns = np.mgrid[: video.height, : video.width]
            warped = streams.iframe[rows - streams.motion[..., 1], columns - streams.motion[..., 0]]
            only = warped.astype(int) + streams.residual
            assert np.array_equal(only, streams.frame)


def test_the_residual_is_the_same_with_and_without_the_frame(make_clip) -> None:
    path = make_clip("mpeg4", size=(150, 98))
    with videokd.open(path) as one, videokd.open(path) as other:
        for both, only in zip(
            one.iterate(streams=("frame", "residual")), other.iterate(streams=("residual",)), strict=True
        ):
            assert np.array_equal(both.residual, only.residual)
