"""RGB from YUV 4:2:0.

Nearly all video is YUV 4:2:0 in 8 bits, in BT.601's colours and limited range: Y for every pixel, U and V for every 2×2 pixels. For it,
the kernels here compute what FFmpeg's swscale computes on x86, in the same 16-bit integers, so the pixels are the same on every CPU.
(swscale itself has other code for other CPUs, with other results.)

    R = clip(y + (13075 · (8·V − 1024) >> 16))                                  y = 9539 · (8·Y − 128) >> 16
    G = clip(y + (−3209 · (8·U − 1024) >> 16) + (−6660 · (8·V − 1024) >> 16))
    B = clip(y + (16525 · (8·U − 1024) >> 16))

The five constants are 2^13 times ITU-R BT.601's factors from limited range, 16 to 235, to 0 to 255: 255/219 for Y.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from videokd.kernels.block_copies import compiled
from videokd.kernels.motion import Rows

_Y, _V_TO_R, _U_TO_G, _V_TO_G, _U_TO_B = 9539, 13075, -3209, -6660, 16525
_ZERO, _MOST = np.int16(0), np.int16(255)
_TWO, _THREE, _ONE = np.uint64(2), np.uint64(3), np.uint64(1)


@compiled
def _scaled_16(value: np.int16, factor: int) -> np.int16:  # pragma: no cover (compiled)
    """The upper half of the product of two 16-bit numbers: one vector instruction (pmulhw) for many."""
    return np.int16((np.int32(value) * np.int32(factor)) >> np.int32(16))


@compiled
def clipped(value: np.int16) -> np.int16:  # pragma: no cover (compiled)
    """The value, limited to 0 to 255."""
    return min(max(value, _ZERO), _MOST)


@compiled
def luma(value: np.uint8) -> np.int16:  # pragma: no cover (compiled)
    """What Y adds to each of R, G and B."""
    return _scaled_16(np.int16(np.int16(value) * np.int16(8) - np.int16(128)), _Y)


@compiled
def chroma_of_row(
    u: npt.NDArray[np.uint8],
    v: npt.NDArray[np.uint8],
    red: npt.NDArray[np.int16],
    green: npt.NDArray[np.int16],
    blue: npt.NDArray[np.int16],
) -> None:  # pragma: no cover (compiled)
    """What U and V add to R, G and B of two rows of pixels: each value of a row of U and V counts for two pixels side by side."""
    for i in range(np.uint64(len(red) // 2)):
        from_u = np.int16(np.int16(u[i]) * np.int16(8) - np.int16(1024))
        from_v = np.int16(np.int16(v[i]) * np.int16(8) - np.int16(1024))
        to_red, to_blue = _scaled_16(from_v, _V_TO_R), _scaled_16(from_u, _U_TO_B)
        to_green = np.int16(_scaled_16(from_u, _U_TO_G) + _scaled_16(from_v, _V_TO_G))
        left, right = _TWO * i, _TWO * i + _ONE
        red[left], red[right] = to_red, to_red
        green[left], green[right] = to_green, to_green
        blue[left], blue[right] = to_blue, to_blue


@compiled
def convert(y: Any, u: Any, v: Any, rows: Rows) -> None:  # pragma: no cover (compiled)
    """Writes RGB.

    Args:
        y: uint8 [H, W or more].
        u: uint8 [H/2, W/2 or more].
        v: as u.
        rows: uint8 [H, 3·W]; written.
    """
    width = rows.shape[1] // 3
    chroma = np.empty((3, (width + 1) & ~1), np.int16)
    red, green, blue = chroma[0], chroma[1], chroma[2]
    for row in range(rows.shape[0]):
        if row & 1 == 0:
            chroma_of_row(u[row >> 1], v[row >> 1], red, green, blue)
        values, result = y[row], rows[row]
        for x in range(np.uint64(width)):
            light, to = luma(values[x]), _THREE * x
            result[to] = np.uint8(clipped(np.int16(light + red[x])))
            result[to + _ONE] = np.uint8(clipped(np.int16(light + green[x])))
            result[to + _TWO] = np.uint8(clipped(np.int16(light + blue[x])))


@compiled
def convert_and_subtract(
    y: Any, u: Any, v: Any, warped: Rows, residual: npt.NDArray[np.int16]
) -> None:  # pragma: no cover (compiled)
    """Writes RGB minus a picture.

    Args:
        y, u, v: as for `convert`.
        warped: uint8 [H, 3·W], RGB.
        residual: int16 [H, 3·W]; written.
    """
    width = warped.shape[1] // 3
    chroma = np.empty((3, (width + 1) & ~1), np.int16)
    red, green, blue = chroma[0], chroma[1], chroma[2]
    for row in range(warped.shape[0]):
        if row & 1 == 0:
            chroma_of_row(u[row >> 1], v[row >> 1], red, green, blue)
        values, subtrahend, result = y[row], warped[row], residual[row]
        for x in range(np.uint64(width)):
            light, to = luma(values[x]), _THREE * x
            result[to] = clipped(np.int16(light + red[x])) - np.int16(subtrahend[to])
            result[to + _ONE] = clipped(np.int16(light + green[x])) - np.int16(subtrahend[to + _ONE])
            result[to + _TWO] = clipped(np.int16(light + blue[x])) - np.int16(subtrahend[to + _TWO])
