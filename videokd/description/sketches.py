"""Small grey pictures of decoded frames, how alike two of them are, and their perceptual hash."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from videokd.codec.cursor import Decoded
from videokd.kernels.block_copies import compiled

Sketch = npt.NDArray[np.float32]
"""float32 [32, 32]: luma of a frame, averaged over cells of equal size."""

_SIDE = 32
_FREQUENCIES = 8
#: Standard deviation of luma, of 256, below which a picture shows nothing
_LEAST_CONTRAST = 2.0


def sketch_of(decoded: Decoded) -> Sketch:
    """The sketch of a frame, which may be decoded at a smaller size.

    Args:
        decoded: the frame.

    Raises:
        DecodeError: FFmpeg cannot convert the frame's pixel format.
    """
    frame = decoded.frame
    sketch = np.empty((_SIDE, _SIDE), np.float32)
    _average(_luma(frame) if _has_luma_first(frame) else decoded.image().mean(2), sketch)
    return sketch


def _has_luma_first(frame: Any) -> bool:
    name = frame.format.name
    return name.startswith(("yuv4", "yuvj4", "nv12", "gray")) and frame.format.components[0].bits == 8


def _luma(frame: Any) -> npt.NDArray[np.uint8]:
    plane = frame.planes[0]
    rows = np.frombuffer(plane, np.uint8, plane.height * plane.line_size).reshape(plane.height, plane.line_size)
    return rows[:, : frame.width]


@compiled
def _average(picture: Any, sketch: Sketch) -> None:  # pragma: no cover (compiled)
    """Averages up to 4×4 pixels of each cell, evenly spaced."""
    height, width = picture.shape
    down, right = max(height // (4 * _SIDE), 1), max(width // (4 * _SIDE), 1)
    for row in range(_SIDE):
        top = row * height // _SIDE
        bottom = max((row + 1) * height // _SIDE, top + 1)
        for column in range(_SIDE):
            left = column * width // _SIDE
            end = max((column + 1) * width // _SIDE, left + 1)
            total, count = 0.0, 0
            for y in range(top, bottom, down):
                for x in range(left, end, right):
                    total += picture[y, x]
                    count += 1
            sketch[row, column] = total / count


@compiled
def likeness(sketch: Sketch, other: Sketch) -> float:  # pragma: no cover (compiled)
    """Correlation of two sketches, from -1 to 1: light that changes in the whole picture, such as a flash, does not lower it."""
    mean, other_mean = sketch.mean(), other.mean()
    both, own, others = 0.0, 0.0, 0.0
    for row in range(_SIDE):
        for column in range(_SIDE):
            a, b = sketch[row, column] - mean, other[row, column] - other_mean
            both, own, others = both + a * b, own + a * a, others + b * b
    return both / max(np.sqrt(own * others), 1e-6)


@compiled
def brightness_change(sketch: Sketch, other: Sketch) -> float:  # pragma: no cover (compiled)
    """Mean absolute difference of two sketches, of 256."""
    total = 0.0
    for row in range(_SIDE):
        for column in range(_SIDE):
            total += abs(sketch[row, column] - other[row, column])
    return total / _SIDE**2


def _cosines() -> Sketch:
    """[8, 32]: the lowest frequencies of the discrete cosine transform."""
    at = (np.arange(_SIDE) + 0.5) * np.pi / _SIDE
    return np.cos(np.arange(_FREQUENCIES)[:, None] * at).astype(np.float32)


_COSINES = _cosines()


def hash_of(sketch: Sketch) -> str | None:
    """The perceptual hash of a picture, 64 bits as 16 hexadecimal digits: which of its 64 lowest frequencies are above their median.

    None for a picture of one colour, whose hash would be that of its noise.

    Args:
        sketch: of the picture.
    """
    if sketch.std() < _LEAST_CONTRAST:
        return None
    frequencies = (_COSINES @ sketch @ _COSINES.T).ravel()
    frequencies[0] = 0  # the brightness
    bits = frequencies > np.partition(frequencies, len(frequencies) // 2)[len(frequencies) // 2 - 1]
    return np.packbits(bits).tobytes().hex()
