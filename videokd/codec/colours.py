"""Decoded pictures as RGB: by the kernels (kernels/conversion.py) where they compute what FFmpeg's swscale does, by swscale elsewhere."""

from __future__ import annotations

from typing import Any, TypeAlias

import av
import numpy as np
import numpy.typing as npt
from av.video.reformatter import VideoReformatter

from videokd.codec.opening import reason
from videokd.errors import DecodeError
from videokd.kernels.conversion import convert, convert_and_subtract
from videokd.kernels.motion import Rows

Planes: TypeAlias = tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8], npt.NDArray[np.uint8]]
"""Y [H, W or more], U and V [H/2, W/2 or more], uint8: views of a frame, which they keep alive."""

# FFmpeg's numbers of colour spaces that swscale takes for BT.601 (RGB, unspecified, BT.470BG, SMPTE 170M), and of colour ranges
# (unspecified, limited)
_BT601, _LIMITED = (0, 2, 5, 6), (0, 1)


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
    y, u, v = frame.planes
    half = (width + 1) // 2
    # FFmpeg gives each plane whole rows; only a row that is stored backwards would be shorter, with a negative length
    if y.line_size < width or u.line_size < half or v.line_size < half:
        return None
    return (
        np.ndarray((height, y.line_size), np.uint8, y),
        np.ndarray((height // 2, u.line_size), np.uint8, u),
        np.ndarray((height // 2, v.line_size), np.uint8, v),
    )


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
            convert(*planes, rows)
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
    convert_and_subtract(*planes, warped, residual)
    return residual.reshape(height, row_bytes // 3, 3)
