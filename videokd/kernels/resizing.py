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
_SHIFT, _HALF = np.int32(_BITS), np.int32(1 << (_BITS - 1))


def resize(planes: npt.NDArray[Any], target: npt.NDArray[Any]) -> None:
    """Resizes planes.

    Args:
        planes: uint8 or int16 [C, H, W].
        target: of the same type, [C, h, w]; written.
    """
    (_, height, width), (_, new_height, new_width) = planes.shape, target.shape
    _resize(planes, *_weights(height, new_height), *_weights(width, new_width), target)


@lru_cache(maxsize=64)
def _weights(length: int, new_length: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]:
    """For each new pixel of a row: the first old one that counts, [new length], and the weights from there on, [most, new length]."""
    ratio = length / new_length
    reach = max(ratio, 1.0)
    centres = (np.arange(new_length) + 0.5) * ratio
    most = min(int(np.ceil(2 * reach)) + 1, length)
    starts = np.clip(np.floor(centres - reach + 0.5).astype(np.int64), 0, length - most)
    places = starts + np.arange(most)[:, None] + 0.5  # [most, new length]
    triangles = np.maximum(1 - np.abs(places - centres) / reach, 0)
    weights = np.round(triangles / triangles.sum(axis=0) * (1 << _BITS)).astype(np.int32)
    weights[weights.argmax(axis=0), np.arange(new_length)] += (1 << _BITS) - weights.sum(axis=0, dtype=np.int32)
    return starts, weights


@compiled
def _resize(
    planes: npt.NDArray[Any],
    tops: npt.NDArray[np.int64],
    by_row: npt.NDArray[np.int32],
    lefts: npt.NDArray[np.int64],
    by_column: npt.NDArray[np.int32],
    target: npt.NDArray[Any],
) -> None:  # pragma: no cover (compiled)
    """Rows first: of the columns, which no vector instruction reads side by side, fewer are left then."""
    _, new_height, new_width = target.shape
    line, sums = np.empty(planes.shape[2], np.int32), np.empty(new_width, np.int32)
    for channel in range(len(planes)):
        for row in range(new_height):
            line[:] = _HALF
            for tap in range(len(by_row)):
                _add_row(planes[channel, tops[row] + tap], by_row[tap, row], line)
            for x in range(np.uint64(len(line))):
                line[x] >>= _SHIFT
            sums[:] = _HALF
            for tap in range(len(by_column)):
                _add_columns(line[tap:], lefts, by_column[tap], sums)
            result = target[channel, row]
            for x in range(np.uint64(new_width)):
                result[x] = sums[x] >> _SHIFT


@compiled
def _add_row(
    values: npt.NDArray[Any], weight: np.int32, line: npt.NDArray[np.int32]
) -> None:  # pragma: no cover (compiled)
    for x in range(np.uint64(len(line))):
        line[x] += np.int32(values[x]) * weight


@compiled
def _add_columns(
    line: npt.NDArray[np.int32],
    lefts: npt.NDArray[np.int64],
    weights: npt.NDArray[np.int32],
    sums: npt.NDArray[np.int32],
) -> None:  # pragma: no cover (compiled)
    for x in range(np.uint64(len(sums))):
        sums[x] += line[np.uint64(lefts[x])] * weights[x]
