"""The motion of a video's blocks, as numbers: how far they move, how many stand still or are intra, and how the camera moves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from videokd.kernels.block_copies import compiled
from videokd.kernels.motion import Vectors

# Lengths are counted in bins of 1/16 pixel a frame; all that are longer are in the last
_BINS_PER_PIXEL = 16
_BINS = 256 * _BINS_PER_PIXEL
# Vectors are counted in quarters of a pixel, for the median; up to 512 pixels either way
_QUARTERS, _MIDDLE = 4096, 2048
_PERCENTILE = 0.95
#: A median of fewer blocks than this share of the picture is not the camera's
_LEAST_COVERED = 0.25


@dataclass(frozen=True)
class BlockMotion:
    """The motion in a video's P-frames. Lengths in pixels a frame; shares of the picture's area, averaged over P-frames.

    Args:
        mean: length of the vectors, averaged over area; blocks without a vector do not count.
        percentile: the 95th percentile of the same.
        still: share of blocks whose vector is zero.
        intra: share of blocks without a vector.
        camera: length of each P-frame's median vector, averaged.
        camera_x: the median vector, averaged; positive: the picture's content moves right.
        camera_y: the same; positive: it moves down.
        shake: how much the median vector changes from one P-frame to the next, averaged.
    """

    mean: float
    percentile: float
    still: float
    intra: float
    camera: float
    camera_x: float
    camera_y: float
    shake: float


class MotionCounter:
    """Adds up the motion of a video, P-frame by P-frame.

    Args:
        width: of the picture, in pixels.
        height: of the picture, in pixels.
        crop: (left, top) pixels that are coded but not shown.
    """

    def __init__(self, width: int, height: int, crop: tuple[int, int]) -> None:
        self._shape = (width, height, *crop)
        self._lengths = np.zeros((2, _BINS))
        self._across = np.zeros((2, _QUARTERS), np.int32)
        self._frames: list[tuple[float, float, float, float, float]] = []

    def add(self, vectors: Vectors, frames: int) -> float:
        """Takes the vectors of the next P-frame.

        Args:
            vectors: int16 [N, 20] (kernels/motion.py).
            frames: from the frame that they point to, to this one.

        Returns:
            The share of its blocks that are intra.
        """
        found = _count(vectors, *self._shape, 1.0 / frames, self._lengths, self._across)
        self._frames.append(found)
        return 1.0 - found[0]

    def motion(self) -> BlockMotion | None:
        """What was counted; None if there was no P-frame."""
        if not self._frames:
            return None
        covered, still, lengths, x, y = np.array(self._frames).T
        camera = np.stack([x, y], 1)
        steps = np.diff(camera, axis=0)
        return BlockMotion(
            mean=float(lengths.sum() / max(covered.sum(), 1e-9)),
            percentile=_percentile_of(self._lengths),
            still=float(still.mean()),
            intra=float(1 - covered.mean()),
            camera=_mean(np.hypot(x, y)),
            camera_x=_mean(x),
            camera_y=_mean(y),
            shake=_mean(np.hypot(*steps.T)),
        )


def _mean(values: npt.NDArray[np.float64]) -> float:
    """Of the values that are known; 0 if none is."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else 0.0


def _percentile_of(lengths: npt.NDArray[np.float64]) -> float:
    """The mean length in the bin that the percentile is in: exact where all lengths are the same."""
    areas, sums = lengths
    total = areas.sum()
    if not total:
        return 0.0
    place = np.searchsorted(areas.cumsum(), _PERCENTILE * total)
    return float(sums[place] / areas[place])


@compiled
def _count(
    vectors: Any,
    width: Any,
    height: Any,
    left: int,
    top: int,
    per_frame: float,
    lengths: Any,
    across: Any,
) -> tuple[float, float, float, float, float]:  # pragma: no cover (compiled)
    """Counts one P-frame's vectors: area and area times length by length into `lengths`, area by x and y into `across`, which is left empty.

    motion_x and motion_y are 32-bit numbers in words 12 to 15, in units of 1/motion_scale pixel (word 16), from the block to where it
    comes from. FFmpeg exports none for intra blocks, and a zero vector for skipped blocks.

    Returns:
        (share of the picture with a vector, share with a zero vector, Σ length · share, median x, median y); medians are not a number
        where too little has a vector.
    """
    covered, still, total = 0, 0, 0.0
    unit = 1.0 / max(vectors[0, 16], 1) if len(vectors) else 0.0  # one for all vectors of a frame
    lowest: Any = _MIDDLE
    highest: Any = _MIDDLE
    for n in range(len(vectors)):
        if vectors[n, 0] > 0:
            continue
        area = _area_inside(vectors, n, width, height, left, top)
        covered += area
        right, down = _long(vectors, n, 12), _long(vectors, n, 14)
        if right == 0 and down == 0:
            still += area
            continue
        x, y = right * unit, down * unit
        length = np.sqrt(x * x + y * y) * per_frame
        total += length * area
        _add(lengths, length, area)
        column, row = _quarters(x), _quarters(y)
        across[0, column] += area
        across[1, row] += area
        lowest, highest = min(lowest, column, row), max(highest, column, row)
    lengths[0, 0] += still
    across[:, _MIDDLE] += still
    x_median = _taken_median(across[0, lowest : highest + 1], covered) + lowest - _MIDDLE
    y_median = _taken_median(across[1, lowest : highest + 1], covered) + lowest - _MIDDLE
    picture = float(width * height)
    share = min(covered / picture, 1.0)
    quarter = 0.25 * per_frame if share >= _LEAST_COVERED else np.nan
    return share, min(still / picture, share), total / picture, x_median * quarter, y_median * quarter


@compiled
def _add(lengths: Any, length: float, area: Any) -> None:  # pragma: no cover (compiled)
    place = min(np.int64(length * _BINS_PER_PIXEL), _BINS - 1)
    lengths[0, place] += area
    lengths[1, place] += length * area


@compiled
def _area_inside(
    vectors: Any, n: int, width: Any, height: Any, left: int, top: int
) -> Any:  # pragma: no cover (compiled)
    """Pixels of a vector's block that are inside the picture; the vector names the block by its centre (kernels/motion.py)."""
    wide, high = np.int64(vectors[n, 2]) & 255, (np.int64(vectors[n, 2]) >> 8) & 255
    x, y = np.int64(vectors[n, 5]) - wide // 2 - left, np.int64(vectors[n, 6]) - high // 2 - top
    return max(min(x + wide, width) - max(x, 0), 0) * max(min(y + high, height) - max(y, 0), 0)


@compiled
def _long(vectors: Any, n: int, word: int) -> Any:  # pragma: no cover (compiled)
    """A number of 32 bits in two words."""
    return (np.int64(vectors[n, word + 1]) << 16) | (np.int64(vectors[n, word]) & 0xFFFF)


@compiled
def _quarters(pixels: float) -> Any:  # pragma: no cover (compiled)
    """The place of a displacement among counts; a vector points back, so its sign changes."""
    return min(max(np.int64(_MIDDLE + 0.5 - 4.0 * pixels), 0), _QUARTERS - 1)


@compiled
def _taken_median(counts: Any, total: int) -> Any:  # pragma: no cover (compiled)
    """The place of the median among counts, which are then set to 0."""
    reached, median = 0, 0
    for place in range(len(counts)):
        if 2 * reached < total:
            median = place
        reached += counts[place]
        counts[place] = 0
    return median
