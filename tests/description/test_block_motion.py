"""The numbers of hand-made vectors."""

from __future__ import annotations

import numpy as np
import pytest

from videokd.description.block_motion import MotionCounter
from videokd.kernels.motion import NO_VECTORS, Vectors

#: (left, top, side, right, down) of a block, in pixels; scale: units of a vector in a pixel
Block = tuple[int, int, int, float, float]


def vectors_of(*blocks: Block, scale: int = 4) -> Vectors:
    words = np.zeros((len(blocks), 20), np.int16)
    for row, (left, top, side, right, down) in zip(words, blocks, strict=True):
        row[0:2] = -1  # source, 32 bits
        row[2] = side | side << 8
        row[5], row[6] = left + side // 2, top + side // 2
        row[3], row[4] = row[5] - int(right), row[6] - int(down)
        row[12:14] = np.array([-right * scale], "<i4").view(np.int16)
        row[14:16] = np.array([-down * scale], "<i4").view(np.int16)
        row[16] = scale
    return words


def counter(width: int = 32, height: int = 32) -> MotionCounter:
    return MotionCounter(width, height, (0, 0))


ALL = [(left, top, 16) for left in (0, 16) for top in (0, 16)]


@pytest.mark.parametrize("scale", [1, 2, 4, 8])
def test_a_picture_that_moves_as_a_whole(scale: int) -> None:
    counted = counter()
    assert counted.add(vectors_of(*((*block, 3, -4) for block in ALL), scale=scale), 1) == 0
    motion = counted.motion()
    assert motion is not None
    assert (motion.mean, motion.percentile, motion.still, motion.intra) == (5, 5, 0, 0)
    assert (motion.camera, motion.camera_x, motion.camera_y, motion.shake) == (5, 3, -4, 0)


@pytest.mark.parametrize(("right", "frames"), [(1, 3), (7, 4), (300, 1), (0.25, 7)])
def test_all_percentiles_of_one_length_are_that_length(right: float, frames: int) -> None:
    counted = counter()
    counted.add(vectors_of(*((*block, right, 0) for block in ALL)), frames)
    motion = counted.motion()
    assert motion is not None
    assert motion.percentile == pytest.approx(right / frames)
    assert motion.mean == pytest.approx(right / frames)


def test_long_vectors_need_both_words() -> None:
    counted = counter()
    counted.add(vectors_of(*((*block, -200, 0) for block in ALL), scale=256), 1)
    motion = counted.motion()
    assert motion is not None
    assert (motion.mean, motion.percentile, motion.camera_x) == (200, 200, -200)


def test_shares_are_of_the_area() -> None:
    counted = counter()
    # three quarters have a vector: a quarter is still, half moves by 2; an 8×8 block counts a quarter of a 16×16 block
    small = [(16 + x, y, 8, 2, 0) for x in (0, 8) for y in (0, 8)]
    intra = counted.add(vectors_of((0, 0, 16, 0, 0), *small, (0, 16, 16, 2, 0)), 1)
    motion = counted.motion()
    assert motion is not None
    assert (intra, motion.intra, motion.still) == (0.25, 0.25, 0.25)
    assert motion.mean == pytest.approx(4 / 3)
    assert (motion.percentile, motion.camera_x) == (2, 2)


def test_the_median_is_of_the_larger_part() -> None:
    counted = counter()
    counted.add(vectors_of((0, 0, 16, 0, 0), (16, 0, 16, 0, 0), (0, 16, 16, 0, 0), (16, 16, 16, 9, 9)), 1)
    motion = counted.motion()
    assert motion is not None
    assert (motion.camera, motion.still, motion.percentile) == (0, 0.75, pytest.approx(9 * 2**0.5, abs=1 / 16))


def test_vectors_over_several_frames_count_a_frame_each() -> None:
    counted = counter()
    counted.add(vectors_of(*((*block, 6, 0) for block in ALL)), 3)
    motion = counted.motion()
    assert motion is not None
    assert (motion.mean, motion.percentile, motion.camera_x) == (2, 2, 2)


def test_shake_is_the_change_of_the_median() -> None:
    counted = counter()
    for right in (1, -1, 1, -1):
        counted.add(vectors_of(*((*block, right, 0) for block in ALL)), 1)
    motion = counted.motion()
    assert motion is not None
    assert (motion.shake, motion.camera, motion.camera_x) == (2, 1, 0)


def test_blocks_that_overhang_count_inside_only() -> None:
    counted = MotionCounter(24, 16, (0, 0))
    counted.add(vectors_of((0, 0, 16, 0, 0), (16, 0, 16, 4, 0)), 1)
    motion = counted.motion()
    assert motion is not None
    assert (motion.still, motion.intra) == (pytest.approx(2 / 3), 0)


def test_cropped_pictures() -> None:
    counted = MotionCounter(16, 16, (16, 16))
    counted.add(vectors_of((16, 16, 16, 0, 0), (0, 0, 16, 7, 7)), 1)
    motion = counted.motion()
    assert motion is not None
    assert (motion.still, motion.intra) == (1, 0)


def test_frames_without_vectors_have_no_camera() -> None:
    counted = counter()
    assert counted.add(NO_VECTORS, 1) == 1
    counted.add(vectors_of(*((*block, 2, 0) for block in ALL)), 1)
    motion = counted.motion()
    assert motion is not None
    assert (motion.intra, motion.mean, motion.camera, motion.shake) == (0.5, 2, 2, 0)


def test_no_p_frames() -> None:
    assert counter().motion() is None
