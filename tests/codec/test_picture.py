from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from videokd.codec.picture import flow_colours, save_picture, streams_picture, warp
from videokd.types import Streams

HEIGHT, WIDTH = 48, 64


def made_up_streams(*, position: int = 5, seed: int = 0) -> Streams:
    rng = np.random.default_rng(seed)
    iframe = rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    motion = np.zeros((HEIGHT, WIDTH, 2), np.int16)
    motion[16:, 16:] = (7, -5)
    motion[HEIGHT - 5 :] = 0
    valid = np.ones((HEIGHT, WIDTH), np.bool_)
    valid[:16, :16] = False
    frame = rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    residual = frame.astype(np.int16) - warp(iframe, motion)
    return Streams(2, position, iframe, frame, motion, residual, valid)


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


def test_columns_and_rows_follow_what_is_there() -> None:
    full = made_up_streams()
    one = streams_picture([full], title="$clip_$.mp4")
    assert one.dtype == np.uint8
    assert one.ndim == 3
    assert one.shape[2] == 3
    two = streams_picture([full, replace(full, position=9)], title="clip.mp4")
    assert two.shape[1] == one.shape[1]
    assert two.shape[0] > one.shape[0]
    bare = replace(full, motion=None, valid=None, residual=None)
    assert streams_picture([bare], title="clip.mp4").shape[1] < one.shape[1] / 2
    mixed = streams_picture([bare, full], title="clip.mp4")  # what the first lacks is said to be missing
    assert mixed.shape == two.shape
    assert streams_picture([replace(full, iframe=None)], title="clip.mp4").shape[1] < one.shape[1]


def test_panels_show_the_streams_themselves() -> None:
    iframe = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    iframe[:] = (10, 200, 30)
    streams = Streams(0, 1, iframe=iframe, residual=np.full((HEIGHT, WIDTH, 3), 60, np.int16))
    colours = {tuple(colour) for colour in streams_picture([streams], title="").reshape(-1, 3).tolist()}
    assert (10, 200, 30) in colours
    assert (188, 188, 188) in colours


def test_unknown_motion_is_striped() -> None:
    full = made_up_streams()
    still = replace(full, motion=np.zeros_like(full.motion), valid=np.ones_like(full.valid))
    broken = replace(still, valid=np.zeros_like(full.valid))
    dark = replace(still, iframe=np.zeros_like(still.iframe), frame=None, residual=None)
    plain, striped = (
        (streams_picture([streams], title="") == 165).all(axis=2).sum()  # 0.65 of white over black
        for streams in (dark, replace(broken, iframe=dark.iframe, frame=None, residual=None))
    )
    assert plain < 100 < striped


def test_nothing_to_show_is_an_error() -> None:
    with pytest.raises(ValueError, match="0 samples without any stream"):
        streams_picture([], title="clip.mp4")
    with pytest.raises(ValueError, match="1 samples without any stream"):
        streams_picture([Streams(0, 0)], title="clip.mp4")


def test_a_saved_picture_comes_back(tmp_path: Path) -> None:
    picture = made_up_streams().iframe
    path = save_picture(picture, tmp_path / "pictures" / "streams-Archery.png")
    assert [file.name for file in path.parent.iterdir()] == ["streams-Archery.png"]
    np.testing.assert_array_equal(np.round(255 * imread(path)[..., :3]), picture)


def test_importing_loads_neither_torch_nor_matplotlib() -> None:
    code = "import sys, videokd.codec.picture; sys.exit('torch' in sys.modules or 'matplotlib' in sys.modules)"
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=root).returncode == 0
