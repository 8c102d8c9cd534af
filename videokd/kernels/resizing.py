"""Resizes planes of whole numbers, bilinear with antialiasing as Pillow and torchvision do it, up to one in the last digit.

Each new pixel is a mean of old ones, weighted by a triangle that reaches to the next new pixel on either side, or at least to the next old
one. Weights are whole numbers whose sum is 2^14, so that a constant picture stays what it is, and every CPU gives the same.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from videokd.kernels.block_copies import compiled

_BITS = 14
_LANES = 8  # of a vector instruction that multiplies and adds
_SHIFT, _HALF = np.int32(_BITS), np.int32(1 << (_BITS - 1))


def resize(planes: npt.NDArray[Any], target: npt.NDArray[Any]) -> None:
    """Resizes planes.

    Args:
        planes: uint8 or int16 [C, H, W].
        target: of the same type, [C, h, w]; written.
    """
    (_, height, width), (_, new_height, new_width) = planes.shape, target.shape
    _resize(planes, *_weights(height, new_height, 1), *_weights(width, new_width, _LANES), target)


@lru_cache(maxsize=64)
def _weights(length: int, new_length: int, multiple: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int16]]:
    """For each new pixel of a row or column: the first old one that counts, [new length], and the weights from there on.

    The weights are [new length, number], the number a multiple of `multiple` where there are so many old pixels.
    """
    ratio = length / new_length
    reach = max(ratio, 1.0)
    centres = (np.arange(new_length) + 0.5) * ratio
    most = min(-(-(int(np.ceil(2 * reach)) + 1) // multiple) * multiple, length)
    starts = np.clip(np.floor(centres - reach + 0.5).astype(np.int64), 0, length - most)
    places = starts[:, None] + np.arange(most) + 0.5  # [new length, most]
    triangles = np.maximum(1 - np.abs(places - centres[:, None]) / reach, 0)
    weights = np.round(triangles / triangles.sum(axis=1, keepdims=True) * (1 << _BITS)).astype(np.int16)
    weights[np.arange(new_length), weights.argmax(axis=1)] += (1 << _BITS) - weights.sum(axis=1, dtype=np.int16)
    return starts, weights


@compiled
def _resize(
    planes: npt.NDArray[Any],
    tops: npt.NDArray[np.int64],
    by_row: npt.NDArray[np.int16],
    lefts: npt.NDArray[np.int64],
    by_column: npt.NDArray[np.int16],
    target: npt.NDArray[Any],
) -> None:  # pragma: no cover (compiled)
    """Rows first: of the columns, which vector instructions take one new pixel at a time, fewer are left then."""
    sums, line = np.empty(planes.shape[2], np.int32), np.empty(planes.shape[2], np.int16)
    for channel in range(len(planes)):
        for row in range(target.shape[1]):
            sums[:] = _HALF
            for number in range(by_row.shape[1]):
                _add_row(planes[channel, tops[row] + number], by_row[row, number], sums)
            for x in range(np.uint64(len(line))):
                line[x] = sums[x] >> _SHIFT
            _mix_columns(line, lefts, by_column, target[channel, row])


@compiled
def _add_row(
    values: npt.NDArray[Any], weight: np.int16, sums: npt.NDArray[np.int32]
) -> None:  # pragma: no cover (compiled)
    for x in range(np.uint64(len(sums))):
        sums[x] += np.int32(values[x]) * np.int32(weight)


@compiled
def _mix_columns(
    line: npt.NDArray[np.int16],
    lefts: npt.NDArray[np.int64],
    weights: npt.NDArray[np.int16],
    result: npt.NDArray[Any],
) -> None:  # pragma: no cover (compiled)
    for x in range(np.uint64(len(result))):
        total, left = _HALF, np.uint64(lefts[x])
        for number in range(np.uint64(weights.shape[1])):
            total += np.int32(line[left + number]) * np.int32(weights[x, number])
        result[x] = total >> _SHIFT
