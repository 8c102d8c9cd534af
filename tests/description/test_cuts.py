"""Cuts at known times."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import videokd
from tests.description.test_clip import scene, write

LENGTHS = (20, 31, 9, 24)


def film(*, flash: bool = False) -> tuple[list[np.ndarray], list[float]]:
    """Four scenes, and when the last three begin, in seconds."""
    pictures: list[np.ndarray] = []
    for seed, length in enumerate(LENGTHS):
        pictures += scene(length, seed=seed + 1, step=(seed, 1))
    if flash:
        pictures[10] = np.clip(pictures[10].astype(int) + 90, 0, 255).astype(np.uint8)
    return pictures, [round(frames / 25, 3) for frames in np.cumsum(LENGTHS)[:-1]]


@pytest.mark.parametrize("codec", ["mpeg4", "libx264", "mpeg2video"])
@pytest.mark.parametrize("flash", [False, True])
def test_cuts_are_found_and_nothing_else(tmp_path: Path, codec: str, flash: bool) -> None:
    pictures, expected = film(flash=flash)
    write(tmp_path / "film.mkv", pictures, codec)
    found = videokd.describe(tmp_path / "film.mkv")
    assert found.cut_seconds == pytest.approx(expected, abs=0.002)
    assert found.cuts == 3


def test_a_periodic_i_frame_is_no_cut(tmp_path: Path) -> None:
    write(tmp_path / "one.mp4", scene(60, step=(2, 1)))
    found = videokd.describe(tmp_path / "one.mp4")
    assert found.gops >= 5
    assert found.cuts == 0


def test_a_cut_in_the_last_frames(tmp_path: Path) -> None:
    pictures = [*scene(20), *scene(1, seed=2)]
    write(tmp_path / "end.mp4", pictures)
    assert videokd.describe(tmp_path / "end.mp4").cut_seconds == pytest.approx([0.8])


def test_cuts_of_a_real_clip(shared: Path) -> None:
    assert videokd.describe(shared / "clips" / "SOX5yA1l24A.mp4").cut_seconds == pytest.approx(
        (4.605, 7.307, 9.743), abs=0.01
    )
    assert videokd.describe(shared / "clips" / "v_BasketballDunk_g01_c01.avi").cuts == 0  # flashes
