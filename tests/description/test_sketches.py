from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import videokd
from tests.description.test_clip import scene, write
from videokd.description.sketches import brightness_change, hash_of, likeness

PICTURE = np.random.default_rng(0).uniform(20, 200, (32, 32)).astype(np.float32)


def test_likeness_does_not_see_light() -> None:
    assert likeness(PICTURE, PICTURE * 0.5 + 30) == pytest.approx(1, abs=1e-5)
    assert likeness(PICTURE, -PICTURE) == pytest.approx(-1, abs=1e-5)
    expected = np.corrcoef(PICTURE.ravel(), PICTURE.T.ravel())[0, 1]
    assert likeness(PICTURE, np.ascontiguousarray(PICTURE.T)) == pytest.approx(expected, abs=1e-5)
    assert brightness_change(PICTURE, PICTURE + 7) == pytest.approx(7, abs=1e-4)


def test_a_picture_of_one_colour_has_no_hash() -> None:
    assert hash_of(np.full((32, 32), 80, np.float32)) is None
    assert hash_of(PICTURE) == hash_of(PICTURE * 0.7 + 11)
    assert hash_of(PICTURE) != hash_of(np.ascontiguousarray(PICTURE[::-1]))


def bits(one: str, other: str) -> int:
    return (int(one, 16) ^ int(other, 16)).bit_count()


def test_hashes_of_other_codecs_and_sizes_are_near(tmp_path: Path) -> None:
    pictures = scene(3, step=(0, 0))
    large = [picture.repeat(2, axis=0).repeat(2, axis=1) for picture in pictures]
    hashes = []
    for codec, given in (("mpeg4", pictures), ("libx264", large), ("libvpx-vp9", pictures), ("mpeg2video", pictures)):
        write(tmp_path / f"{codec}.mkv", given, codec)
        hashes.append(videokd.describe(tmp_path / f"{codec}.mkv").hashes[0])
    assert max(bits(hashes[0], other) for other in hashes) <= 8
    write(tmp_path / "other.mkv", scene(3, step=(0, 0), seed=5))
    assert bits(hashes[0], videokd.describe(tmp_path / "other.mkv").hashes[0]) > 16
