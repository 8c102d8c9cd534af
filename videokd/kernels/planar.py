"""Streams as planes, one for each channel: [C, H, W], as deep learning frameworks take them.

Values are as they are, or quantised as the input of a network: clip(trunc(value · gain) + offset, low, high) (see `StreamSpec`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from videokd.kernels.block_copies import compiled
from videokd.kernels.conversion import chroma_of_row, clipped, luma
from videokd.kernels.motion import Chain, Rows

_ONE, _TWO, _THREE = np.uint64(1), np.uint64(2), np.uint64(3)
_COLUMN, _ROW, _SIXTEEN = np.uint32(0xFFFF), np.uint32(0x7FFF), np.uint32(16)


@compiled
def scaled(
    value: np.int32, gain: np.float32, offset: np.int32, low: np.int32, high: np.int32
) -> np.int32:  # pragma: no cover (compiled)
    """A value of a stream, quantised: clip(trunc(value · gain) + offset, low, high).

    Exact in float32: the values have 16 bits, and motion's gain, 51/8, has 6; the product fits in 24.

    Args:
        value: in the stream's own unit.
        gain: factor.
        offset: added after truncating.
        low: the smallest result.
        high: the largest result.
    """
    return min(max(np.int32(np.float32(value) * gain) + offset, low), high)


@compiled
def write_motion(
    chain: Chain, gain: np.float32, limits: tuple[np.int32, np.int32, np.int32], target: npt.NDArray[Any]
) -> None:  # pragma: no cover (compiled)
    """Writes the accumulated motion p − a_t(p), quantised.

    Args:
        chain: uint32 [H, W] (see motion.py).
        gain: as for `scaled`.
        limits: offset, low and high, as for `scaled`.
        target: uint8 or int16 [2, H, W], x and y; written.
    """
    offset, low, high = limits
    for y in range(chain.shape[0]):
        sources, to_right, down = chain[y], target[0, y], target[1, y]
        row = np.int32(y)
        for x in range(np.uint64(chain.shape[1])):
            source = sources[x]
            right = np.int32(np.int32(x) - np.int32(source & _COLUMN))
            to_right[x] = scaled(right, gain, offset, low, high)
            below = np.int32(row - np.int32((source >> _SIXTEEN) & _ROW))
            down[x] = scaled(below, gain, offset, low, high)


# One channel of one row at a time: each loop reads and writes few arrays, which LLVM can tell apart at run time and so vectorise.
@compiled
def write_colours(y: Any, u: Any, v: Any, target: npt.NDArray[np.uint8]) -> None:  # pragma: no cover (compiled)
    """Writes RGB.

    Args:
        y, u, v: as for `convert`.
        target: uint8 [3, H, W]; written.
    """
    width = target.shape[2]
    chroma, light = np.empty((3, (width + 1) & ~1), np.int16), np.empty(width, np.int16)
    for row in range(target.shape[1]):
        if row & 1 == 0:
            chroma_of_row(u[row >> 1], v[row >> 1], chroma[0], chroma[1], chroma[2])
        _luma_of_row(y[row], light)
        for channel in range(3):
            _add(light, chroma[channel], target[channel, row])


@compiled
def write_residual(
    y: Any,
    u: Any,
    v: Any,
    warped: Rows,
    limits: tuple[np.int16, np.int16, np.int16],
    target: npt.NDArray[Any],
) -> None:  # pragma: no cover (compiled)
    """Writes clip(RGB − warped picture + offset, low, high).

    Args:
        y, u, v: as for `convert`.
        warped: uint8 [H, 3·W], RGB.
        limits: offset, low and high.
        target: uint8 or int16 [3, H, W]; written.
    """
    width = target.shape[2]
    chroma, light = np.empty((3, (width + 1) & ~1), np.int16), np.empty(width, np.int16)
    colours, moved = np.empty(width, np.int16), np.empty((3, width), np.int16)
    for row in range(target.shape[1]):
        if row & 1 == 0:
            chroma_of_row(u[row >> 1], v[row >> 1], chroma[0], chroma[1], chroma[2])
        _luma_of_row(y[row], light)
        _split(warped[row], moved[0], moved[1], moved[2])
        for channel in range(3):
            _add(light, chroma[channel], colours)
            _subtract(colours, moved[channel], limits, target[channel, row])


@compiled
def write_pixels(rows: Rows, target: npt.NDArray[np.uint8]) -> None:  # pragma: no cover (compiled)
    """Writes RGB that is converted already.

    Args:
        rows: uint8 [H, 3·W or more], RGB.
        target: uint8 [3, H, W]; written.
    """
    for row in range(target.shape[1]):
        _split(rows[row], target[0, row], target[1, row], target[2, row])


@compiled
def write_difference(
    rows: Rows, warped: Rows, limits: tuple[np.int16, np.int16, np.int16], target: npt.NDArray[Any]
) -> None:  # pragma: no cover (compiled)
    """Writes a residual, as `write_residual` does, of a frame that is converted already.

    Args:
        rows: uint8 [H, 3·W or more], RGB.
        warped: as for `write_residual`.
        limits: as for `write_residual`.
        target: as for `write_residual`; written.
    """
    colours, moved = np.empty((3, target.shape[2]), np.int16), np.empty((3, target.shape[2]), np.int16)
    for row in range(target.shape[1]):
        _split(rows[row], colours[0], colours[1], colours[2])
        _split(warped[row], moved[0], moved[1], moved[2])
        for channel in range(3):
            _subtract(colours[channel], moved[channel], limits, target[channel, row])


@compiled
def _luma_of_row(values: npt.NDArray[np.uint8], light: npt.NDArray[np.int16]) -> None:  # pragma: no cover (compiled)
    for x in range(np.uint64(len(light))):
        light[x] = luma(values[x])


@compiled
def _add(
    light: npt.NDArray[np.int16], chroma: npt.NDArray[np.int16], colours: npt.NDArray[Any]
) -> None:  # pragma: no cover (compiled)
    for x in range(np.uint64(len(light))):
        colours[x] = clipped(np.int16(light[x] + chroma[x]))


@compiled
def _split(
    pixels: Rows, red: npt.NDArray[Any], green: npt.NDArray[Any], blue: npt.NDArray[Any]
) -> None:  # pragma: no cover (compiled)
    for x in range(np.uint64(len(red))):
        first = _THREE * x
        red[x], green[x], blue[x] = pixels[first], pixels[first + _ONE], pixels[first + _TWO]


@compiled
def _subtract(
    colours: npt.NDArray[np.int16],
    moved: npt.NDArray[np.int16],
    limits: tuple[np.int16, np.int16, np.int16],
    target: npt.NDArray[Any],
) -> None:  # pragma: no cover (compiled)
    offset, low, high = limits
    for x in range(np.uint64(len(colours))):
        target[x] = min(max(np.int16(colours[x] - moved[x] + offset), low), high)
