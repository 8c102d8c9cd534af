"""The picture of some samples: what stands in it, and that it is written whole."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from tests.codec.made_up_streams import HEIGHT, WIDTH, made_up_streams
from videokd.drawing.panels import INVALID
from videokd.drawing.picture import save_picture, streams_picture
from videokd.types import Streams


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


def test_the_valid_mask_has_its_own_panel() -> None:
    full = made_up_streams()
    dark = replace(full, iframe=np.zeros_like(full.iframe), frame=None, residual=None)
    tint = (0.7 * np.array(INVALID)).astype(np.uint8)
    with_mask = streams_picture([dark], title="")
    without = streams_picture([replace(dark, valid=None)], title="")
    assert with_mask.shape[1] > without.shape[1]
    share = (with_mask == tint).all(axis=2).sum() / (3.0 * 110) ** 2 * WIDTH / HEIGHT
    assert share == pytest.approx((~full.valid).mean(), rel=0.1)
    assert not (without == tint).all(axis=2).any()


@pytest.mark.parametrize("shape", [(2, 2), (16, 16), (640, 120), (16, 4000), (1600, 900)])
def test_any_size_can_be_drawn(shape: tuple[int, int]) -> None:
    grey = np.full((*shape, 3), 90, np.uint8)
    motion, valid = np.zeros((*shape, 2), np.int16), np.ones(shape, np.bool_)
    motion[shape[0] // 2 :, :, 1] = 1
    picture = streams_picture([Streams(0, 1, grey, grey, motion, motion[..., [0, 0, 0]], valid)], title="x" * 500)
    assert 100 < picture.shape[0] < 1000
    assert 1000 < picture.shape[1] < 2500
    assert (picture == 90).all(axis=2).sum() > 100


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
    code = "import sys, videokd.drawing.picture; sys.exit('torch' in sys.modules or 'matplotlib' in sys.modules)"
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=root).returncode == 0
