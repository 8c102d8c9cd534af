"""Streams as small pictures: laws of warping and of colours, and sizes that drawing can bear."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tests.codec.made_up_streams import HEIGHT, WIDTH, made_up_streams
from videokd.drawing.panels import INVALID, MOST_PIXELS, flow_colours, full_colour_pixels, panels, shrunk, warp
from videokd.types import Streams


def test_warp_equals_a_loop_and_the_residual_completes_it() -> None:
    streams = made_up_streams()
    warped = warp(streams.iframe, streams.motion)
    for y in range(HEIGHT):
        for x in range(WIDTH):
            dx, dy = (int(value) for value in streams.motion[y, x])
            assert (warped[y, x] == streams.iframe[y - dy, x - dx]).all()
    np.testing.assert_array_equal(warped + streams.residual, streams.frame)


def test_warp_without_motion_is_the_iframe() -> None:
    iframe = made_up_streams().iframe
    np.testing.assert_array_equal(warp(iframe, np.zeros((HEIGHT, WIDTH, 2), np.int16)), iframe)


def test_warp_refuses_what_does_not_fit() -> None:
    iframe = np.zeros((4, 6, 3), np.uint8)
    with pytest.raises(ValueError, match=r"motion is \[4, 5, 2\] \(accepted: \[4, 6, 2\]"):
        warp(iframe, np.zeros((4, 5, 2), np.int16))
    for value in (1, -1):
        with pytest.raises(ValueError, match="motion points outside the picture"):
            warp(iframe, np.full((4, 6, 2), value, np.int16))


def test_opposite_directions_have_opposite_colours() -> None:
    turns = np.linspace(0, 2 * math.pi, 12, endpoint=False)
    motion = np.stack([8 * np.cos(turns), 8 * np.sin(turns)], axis=-1)[None]
    there, back = (flow_colours(sign * motion, max_pixels=8).astype(int) for sign in (1, -1))
    np.testing.assert_allclose(there + back, 255, atol=1)


def test_brightness_grows_with_length_and_stops_at_the_limit() -> None:
    motion = np.array([[[0, 0], [1, 0], [4, 0], [16, 0], [30, 0]]], np.int16)
    red = [round(255 * math.sqrt(min(length, 16) / 16)) for length in (0, 1, 4, 16, 30)]
    assert flow_colours(motion, max_pixels=16)[0, :, 0].tolist() == pytest.approx(red, abs=1)


@pytest.mark.parametrize("max_pixels", [0, -1, math.nan])
def test_a_limit_is_positive(max_pixels: float) -> None:
    with pytest.raises(ValueError, match=r"max_pixels is .* a positive length"):
        flow_colours(np.zeros((1, 1, 2)), max_pixels=max_pixels)


def test_full_colour_is_a_round_length_near_the_longest() -> None:
    def of(*lengths: float) -> float:
        return full_colour_pixels([np.array([[[length, 0] for length in lengths]], np.int16)])

    assert of(0, 0) == 2
    assert of(1, 3) == 4
    assert of(0, 15) == 16
    assert of(500, 500) == 32  # a tenth of the picture, but 32 pixels at least
    assert full_colour_pixels([np.full((100, 1280, 2), 700, np.int16)]) == 128
    assert full_colour_pixels([]) == 2


def test_every_panel_of_a_sample() -> None:
    full = made_up_streams()
    shown = panels(full, max_pixels=8)
    assert list(shown) == ["iframe", "motion", "valid", "warped", "residual", "frame"]
    assert {picture.shape for picture in shown.values()} == {(HEIGHT, WIDTH, 3)}
    np.testing.assert_array_equal(shown["iframe"], full.iframe)
    np.testing.assert_array_equal(shown["warped"], warp(full.iframe, full.motion))
    np.testing.assert_array_equal(shown["residual"], np.clip(full.residual + 128, 0, 255))
    assert list(panels(full, max_pixels=8, names=("frame", "motion"))) == ["frame", "motion"]
    assert list(panels(Streams(0, 0, frame=full.frame), max_pixels=8)) == ["frame"]


def test_invalid_pixels_are_tinted_and_striped() -> None:
    full = made_up_streams()
    dark = Streams(0, 1, np.zeros_like(full.iframe), None, np.zeros_like(full.motion), None, full.valid)
    shown = panels(dark, max_pixels=8)
    tint = (0.7 * np.array(INVALID)).astype(np.uint8)
    np.testing.assert_array_equal((shown["valid"] == tint).all(axis=2), ~full.valid)
    striped = (shown["motion"] == 153).all(axis=2)  # 0.6 of white over black
    assert not striped[full.valid].any()
    assert striped[~full.valid].mean() == pytest.approx(0.2, abs=0.02)


@pytest.mark.parametrize("shape", [(2160, 3840), (1, 5000), (8000, 2), (700, 641), (640, 640), (3, 3)])
def test_large_pictures_shrink_alike(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    iframe = rng.integers(0, 256, (*shape, 3), dtype=np.uint8)
    motion, valid = np.zeros((*shape, 2), np.int16), np.ones(shape, np.bool_)
    shown = panels(Streams(0, 1, iframe, iframe, motion, motion[..., [0, 0, 0]], valid), max_pixels=8)
    (size,) = {picture.shape for picture in shown.values()}
    assert max(size) <= MOST_PIXELS
    assert size == shrunk(iframe).shape
    if max(shape) <= MOST_PIXELS:
        assert size == iframe.shape
    assert shown["iframe"].mean() == pytest.approx(iframe.mean(), abs=1)


def test_shrinking_is_the_mean_of_blocks() -> None:
    picture = np.zeros((1000, 1000, 3), np.uint8)
    picture[::2, ::2] = 200
    assert shrunk(picture).shape == (500, 500, 3)
    assert (shrunk(picture) == 50).all()
