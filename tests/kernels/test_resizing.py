"""Resizing against the same filter in floating point."""

from __future__ import annotations

import numpy as np
import pytest

from videokd.kernels.resizing import resize

SIZES = [
    ((5, 7), (5, 7)),
    ((96, 128), (40, 31)),
    ((7, 9), (20, 3)),
    ((3, 2), (11, 17)),
    ((1, 1), (4, 4)),
    ((64, 1), (1, 3)),
    ((50, 400), (1, 1)),
    ((256, 340), (112, 112)),
]


def matrix(length: int, new_length: int) -> np.ndarray:
    """[new, old], the weights of each old pixel in each new one, from the definition."""
    reach = max(length / new_length, 1)
    rows = []
    for new in range(new_length):
        centre = (new + 0.5) * length / new_length
        row = [max(1 - abs(old + 0.5 - centre) / reach, 0) for old in range(length)]
        rows.append(np.array(row) / sum(row))
    return np.array(rows)


@pytest.mark.parametrize("kind", [np.uint8, np.int16])
@pytest.mark.parametrize(("old", "new"), SIZES)
def test_it_is_a_mean_weighted_by_a_triangle(old: tuple[int, int], new: tuple[int, int], kind: type) -> None:
    limits = np.iinfo(kind)
    planes = np.random.default_rng(old).integers(limits.min, limits.max, (3, *old), kind, endpoint=True)
    target = np.empty((3, *new), kind)
    resize(planes, target)
    expected = matrix(old[0], new[0]) @ planes.astype(float) @ matrix(old[1], new[1]).T
    # half a step in each pass, and weights of 14 bits
    assert np.abs(target - expected).max() <= 1.01 + 6 * (limits.max - limits.min) / 2**14
    if old == new:
        assert np.array_equal(target, planes)


@pytest.mark.parametrize("value", [-32768, -1, 0, 1, 128, 255, 32767])
@pytest.mark.parametrize(("old", "new"), SIZES)
def test_a_constant_picture_stays_what_it_is(old: tuple[int, int], new: tuple[int, int], value: int) -> None:
    target = np.empty((2, *new), np.int16)
    resize(np.full((2, *old), value, np.int16), target)
    assert (target == value).all()


def test_a_mirrored_picture_gives_the_mirrored_result() -> None:
    planes = np.random.default_rng(0).integers(0, 256, (1, 37, 52), np.uint8)
    there, back = np.empty((1, 20, 24), np.uint8), np.empty((1, 20, 24), np.uint8)
    resize(planes, there)
    resize(np.ascontiguousarray(planes[:, ::-1, ::-1]), back)
    assert np.abs(there.astype(int) - back[:, ::-1, ::-1]).max() <= 1
