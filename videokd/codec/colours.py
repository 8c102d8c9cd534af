"""Converts decoded pictures to RGB.

Nearly all video is YUV 4:2:0 in 8 bits, in BT.601's colours and limited range: Y for every pixel, U and V for every 2×2 pixels. For it,
the kernels here compute what FFmpeg's swscale computes on x86, in the same 16-bit integers, so the pixels are the same on every CPU.
(swscale itself has other code for other CPUs, with other results.) Everything else is left to swscale.

    R = clip(y + (13075 · (8·V − 1024) >> 16))                                  y = 9539 · (8·Y − 128) >> 16
    G = clip(y + (−3209 · (8·U − 1024) >> 16) + (−6660 · (8·V − 1024) >> 16))
    B = clip(y + (16525 · (8·U − 1024) >> 16))

The five constants are 2^13 times ITU-R BT.601's factors from limited range, 16 to 235, to 0 to 255: 255/219 for Y.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import av
import numpy as np
import numpy.typing as npt
from av.video.reformatter import VideoReformatter

from videokd.codec.block_copies import compiled
from videokd.codec.motion import Rows
from videokd.codec.opening import reason
from videokd.errors import DecodeError

Planes: TypeAlias = tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8], npt.NDArray[np.uint8]]
"""Y [H, W or more], U and V [H/2, W/2 or more], uint8: views of a frame, which they keep alive."""

# FFmpeg's numbers of colour spaces that swscale takes for BT.601 (RGB, unspecified, BT.470BG, SMPTE 170M), and of colour ranges
# (unspecified, limited)
_BT601, _LIMITED = (0, 2, 5, 6), (0, 1)
_Y, _V_TO_R, _U_TO_G, _V_TO_G, _U_TO_B = 9539, 13075, -3209, -6660, 16525
_ZERO, _MOST = np.int16(0), np.int16(255)
_TWO, _THREE, _ONE = np.uint64(2), np.uint64(3), np.uint64(1)


def planes_of(frame: Any) -> Planes | None:
    """The planes of a decoded frame, if the kernels here convert it as swscale does on x86; otherwise None.

    Args:
        frame: as PyAV gives it.
    """
    height, width = frame.height, frame.width
    # swscale has other code for odd heights, and converts the two fields of an interlaced frame apart
    if frame.format.name != "yuv420p" or height % 2 or frame.interlaced_frame:
        return None
    if int(frame.colorspace) not in _BT601 or int(frame.color_range) not in _LIMITED:
        return None
    y, u, v = (np.frombuffer(p, np.uint8, p.height * p.line_size).reshape(p.height, p.line_size) for p in frame.planes)
    half = (height // 2, (width + 1) // 2)
    complete = y.shape >= (height, width) and min(u.shape[0], v.shape[0]) >= half[0]
    return (y, u, v) if complete and y.shape[1] >= width and min(u.shape[1], v.shape[1]) >= half[1] else None


class Colours:
    """Converts decoded frames to RGB; swscale, where it is needed, in one reused converter and one thread, not FFmpeg's default of many."""

    def __init__(self) -> None:
        self._reformatter = VideoReformatter()

    def rows(self, frame: Any) -> Rows:
        """The pixels of a frame.

        Args:
            frame: decoded, of any pixel format.

        Returns:
            uint8 [H, 3·W or a little more], RGB: the rows, maybe with FFmpeg's padding.

        Raises:
            DecodeError: FFmpeg cannot convert the frame's pixel format.
        """
        planes = planes_of(frame)
        if planes is not None:
            rows = np.empty((frame.height, 3 * frame.width), np.uint8)
            _convert(*planes, rows)
            return rows
        try:
            plane: Any = self._reformatter.reformat(frame, format="rgb24", threads=1).planes[0]
        except (av.FFmpegError, ValueError) as error:
            raise DecodeError(f"{frame.format.name} cannot be converted to RGB: {reason(error)}") from error
        return np.frombuffer(plane, np.uint8, plane.height * plane.line_size).reshape(plane.height, plane.line_size)


def difference_of_planes(planes: Planes, warped: Rows) -> npt.NDArray[np.int16]:
    """The residual of a frame that is not converted yet: residual(p) = frame(p) − warped(p), in one pass over the picture.

    Args:
        planes: of the frame.
        warped: uint8 [H, 3·W], RGB.

    Returns:
        int16 [H, W, 3], in [-255, 255].
    """
    height, row_bytes = warped.shape
    residual = np.empty(warped.shape, np.int16)
    _convert_and_subtract(*planes, warped, residual)
    return residual.reshape(height, row_bytes // 3, 3)


@compiled
def _scaled_16(value: np.int16, factor: int) -> np.int16:  # pragma: no cover (compiled)
    """The upper half of the product of two 16-bit numbers: one vector instruction (pmulhw) for many."""
    return np.int16((np.int32(value) * np.int32(factor)) >> np.int32(16))


@compiled
def _clipped(value: np.int16) -> np.int16:  # pragma: no cover (compiled)
    """The value, limited to 0 to 255."""
    return min(max(value, _ZERO), _MOST)


@compiled
def _luma(value: np.uint8) -> np.int16:  # pragma: no cover (compiled)
    """What Y adds to each of R, G and B."""
    return _scaled_16(np.int16(np.int16(value) * np.int16(8) - np.int16(128)), _Y)


@compiled
def _chroma_of_row(
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
def _convert(y: Any, u: Any, v: Any, rows: Rows) -> None:  # pragma: no cover (compiled)
    """Writes RGB."""
    width = rows.shape[1] // 3
    chroma = np.empty((3, (width + 1) & ~1), np.int16)
    red, green, blue = chroma[0], chroma[1], chroma[2]
    for row in range(rows.shape[0]):
        if row & 1 == 0:
            _chroma_of_row(u[row >> 1], v[row >> 1], red, green, blue)
        values, result = y[row], rows[row]
        for x in range(np.uint64(width)):
            light, to = _luma(values[x]), _THREE * x
            result[to] = np.uint8(_clipped(np.int16(light + red[x])))
            result[to + _ONE] = np.uint8(_clipped(np.int16(light + green[x])))
            result[to + _TWO] = np.uint8(_clipped(np.int16(light + blue[x])))


@compiled
def _convert_and_subtract(
    y: Any, u: Any, v: Any, warped: Rows, residual: npt.NDArray[np.int16]
) -> None:  # pragma: no cover (compiled)
    """Writes RGB minus the warped picture."""
    width = warped.shape[1] // 3
    chroma = np.empty((3, (width + 1) & ~1), np.int16)
    red, green, blue = chroma[0], chroma[1], chroma[2]
    for row in range(warped.shape[0]):
        if row & 1 == 0:
            _chroma_of_row(u[row >> 1], v[row >> 1], red, green, blue)
        values, subtrahend, result = y[row], warped[row], residual[row]
        for x in range(np.uint64(width)):
            light, to = _luma(values[x]), _THREE * x
            result[to] = _clipped(np.int16(light + red[x])) - np.int16(subtrahend[to])
            result[to + _ONE] = _clipped(np.int16(light + green[x])) - np.int16(subtrahend[to + _ONE])
            result[to + _TWO] = _clipped(np.int16(light + blue[x])) - np.int16(subtrahend[to + _TWO])
