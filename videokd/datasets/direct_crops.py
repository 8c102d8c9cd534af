"""Crops of a video's streams without whole streams: of a position, only the crop is warped, subtracted, accumulated and quantised.

Equal to reading whole streams and cutting the crops out of them (view.py). A crop is uint8 [h, w, D]: the channels of a pixel side by side,
those of several pictures in one array where that makes resizing faster.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np
import numpy.typing as npt

from videokd.codec.reader import VideoReader
from videokd.kernels.block_copies import compiled
from videokd.kernels.motion import Chain, Rows
from videokd.kernels.planar import scaled
from videokd.kernels.residual import gather_row
from videokd.types import STREAMS

#: Streams that are cropped directly.
DIRECT = frozenset(("iframe", "motion", "residual", "rgb"))
_ONE, _TWO, _THREE = np.uint64(1), np.uint64(2), np.uint64(3)
_COLUMN, _ROW, _SIXTEEN = np.uint32(0xFFFF), np.uint32(0x7FFF), np.uint32(16)
_MOTION, _RESIDUAL = STREAMS["motion"], STREAMS["residual"]


class Picture(Protocol):
    """A decoded picture."""

    def rows(self) -> Rows:
        """uint8 [H, 3·W or a little more], RGB; read-only."""


def crop_directly(
    video: VideoReader,
    targets: Mapping[str, tuple[Rows, int]],
    place: tuple[int, int],
    corner: tuple[int, int],
    flip: bool,
) -> None:
    """Reads a position of a video, and writes the crops of its streams, quantised.

    Args:
        video: an open video.
        targets: {stream of `DIRECT`: uint8 [h, w, D], and the first channel of this picture in it}; written.
        place: (gop, position).
        corner: of the crop, (left, top) in pixels.
        flip: whether it is mirrored left to right; this negates motion's x.

    Raises:
        DecodeError: the position cannot be decoded.
    """
    fields = tuple("frame" if STREAMS[name].from_pictures else name for name in targets)
    first, current, chain = video.decoded_at(*place, fields)
    write_crops(targets, (first, current), chain, corner, flip)


def write_crops(
    targets: Mapping[str, tuple[Rows, int]],
    pictures: tuple[Picture, Picture],
    chain: Chain | None,
    corner: tuple[int, int],
    flip: bool,
) -> None:
    """Writes the crops of one position's streams, quantised.

    Args:
        targets: as for `crop_directly`.
        pictures: the GOP's first, and the one at the position.
        chain: of vectors between them, uint32 [H, W] (see motion.py); None where neither motion nor residual is wanted.
        corner: as for `crop_directly`.
        flip: as for `crop_directly`.

    Raises:
        DecodeError: FFmpeg cannot convert a picture's pixel format.
    """
    first, current = pictures
    for name, (target, start) in targets.items():
        if name == "motion":
            gains = np.array(_MOTION.flip_signs if flip else (1, 1), np.float32) * np.float32(_MOTION.gain)
            pairs = target.view(np.uint16)[..., start // 2]
            _crop_motion(chain, corner, flip, (gains[0], gains[1], np.int32(_MOTION.offset)), pairs)
        elif name == "residual":
            _crop_residual(current.rows(), first.rows(), chain, corner, flip, np.int16(_RESIDUAL.offset), target)
        else:
            _crop_picture((first if name == "iframe" else current).rows(), corner, flip, target)


@compiled
def _crop_picture(
    picture: Rows, corner: tuple[int, int], flip: bool, target: Rows
) -> None:  # pragma: no cover (compiled)
    height, width, _ = target.shape
    left, top = corner
    for y in range(height):
        _write_row(picture[top + y, 3 * left : 3 * (left + width)], flip, target[y].reshape(-1))


@compiled
def _crop_residual(
    frame: Rows,
    iframe: Rows,
    chain: Chain,
    corner: tuple[int, int],
    flip: bool,
    offset: np.int16,
    target: Rows,
) -> None:  # pragma: no cover (compiled)
    height, width, _ = target.shape
    left, top = corner
    flat, stride = iframe.reshape(-1), np.uint64(iframe.shape[1])
    warped = np.empty(3 * width, np.uint8)
    for y in range(height):
        gather_row(flat, stride, chain[top + y, left : left + width], warped)
        values = frame[top + y, 3 * left : 3 * (left + width)]
        for i in range(np.uint64(3 * width)):
            difference = np.int16(np.int16(values[i]) - np.int16(warped[i]) + offset)
            warped[i] = np.uint8(min(max(difference, np.int16(0)), np.int16(255)))
        _write_row(warped, flip, target[y].reshape(-1))


# x and y of a pixel, quantised, are written as one number of 16 bits, x in its lower half: in memory that is x, then y.
@compiled
def _crop_motion(
    chain: Chain,
    corner: tuple[int, int],
    flip: bool,
    scale: tuple[np.float32, np.float32, np.int32],
    pairs: npt.NDArray[np.uint16],
) -> None:  # pragma: no cover (compiled)
    height, width = pairs.shape
    left, top = corner
    gain_x, gain_y, offset = scale
    line = np.empty(width, np.uint16)
    zero, most = np.int32(0), np.int32(255)
    for y in range(height):
        sources, result = chain[top + y, left : left + width], pairs[y]
        row = np.int32(top + y)
        for x in range(np.uint64(width)):
            source = sources[x]
            right = np.int32(np.int32(left) + np.int32(x) - np.int32(source & _COLUMN))
            down = np.int32(row - np.int32((source >> _SIXTEEN) & _ROW))
            right = scaled(right, gain_x, offset, zero, most)
            down = scaled(down, gain_y, offset, zero, most)
            line[x] = np.uint16(right | (down << np.int32(8)))
        for x in range(np.uint64(width)):
            result[x] = line[np.uint64(width) - _ONE - x if flip else x]


@compiled
def _write_row(values: Rows, flip: bool, target: Rows) -> None:  # pragma: no cover (compiled)
    """Writes a row of pixels of three bytes, maybe mirrored."""
    if not flip:
        for i in range(
            np.uint64(len(values))
        ):  # Numba compiles target[:] = values to a copy that is four times as slow
            target[i] = values[i]
        return
    width = np.uint64(len(values) // 3)
    for x in range(width):
        to, at = _THREE * x, _THREE * (width - _ONE - x)
        target[to] = values[at]
        target[to + _ONE] = values[at + _ONE]
        target[to + _TWO] = values[at + _TWO]
