"""The residual: a frame minus its reference frame, warped along a chain of motion vectors."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from videokd.kernels.block_copies import compiled, move_8_pixels
from videokd.kernels.motion import Chain, Rows

_SOURCE = np.uint32(0x7FFFFFFF)
_PIXEL = np.uint64(3)


def gather(reference: Rows, chain: Chain, warped: Rows) -> None:
    """Warps a frame along a chain: warped(p) = reference(a(p)).

    Args:
        reference: uint8 [H, 3·W or more], RGB: the frame where the chain begins.
        chain: uint32 [H, W] (see motion.py).
        warped: uint8 [H, 3·W], RGB; written.
    """
    _gather(reference, chain, warped)


# A chain is built by copying blocks, so pixels side by side mostly come from pixels side by side. Eight pixels are looked at
# together. A source is a number, row · 65536 + column (bit 31, the mark of invalid pixels, is masked out), so eight neighbours
# in one row have the sources first, first + 1, … first + 7. `apart` collects with | and ^ every bit in which a source differs
# from that: if it stays 0, the eight pixels are one copy of 24 bytes; otherwise each pixel is fetched by its own address. There
# is no branch inside the loop over the eight, so that LLVM compiles it to a few vector instructions. (first + i never carries
# from the column into the row: a column is at most 32766, far below 65536.)
# Rows of the reference may be longer than 3·W bytes (FFmpeg pads them): `stride` is their length. The last W mod 8 pixels of a
# row are fetched one by one.
@compiled
def _gather(reference: Rows, chain: Chain, warped: Rows) -> None:  # pragma: no cover (compiled)
    """Gathers eight pixels at a time where they come from eight side by side (see above)."""
    flat, stride = reference.reshape(-1), np.uint64(reference.shape[1])
    for y in range(chain.shape[0]):
        gather_row(flat, stride, chain[y], warped[y])


@compiled
def gather_row(flat: Rows, stride: np.uint64, sources: Chain, moved: Rows) -> None:  # pragma: no cover (compiled)
    """Gathers a row, or a part of one.

    Args:
        flat: uint8, RGB: the reference, its rows one after the other.
        stride: bytes of a row of the reference.
        sources: uint32 [W], a part of a chain (see motion.py).
        moved: uint8 [3·W], RGB; written.
    """
    width = len(sources)
    for x in range(0, width - 7, 8):
        # Numba checks a signed index for negative values, but not an unsigned one
        left = np.uint64(x)
        first = sources[left] & _SOURCE
        apart = np.uint32(0)
        for i in range(8):
            apart |= (sources[left + np.uint64(i)] & _SOURCE) ^ (first + np.uint32(i))
        if apart == 0:
            move_8_pixels(moved, _PIXEL * left, flat, _byte_of(first, stride))
        else:
            _gather_pixels(flat, sources, moved, stride, x, x + 8)
    _gather_pixels(flat, sources, moved, stride, width & ~7, width)


@compiled
def _gather_pixels(
    flat: Rows, sources: Chain, moved: Rows, stride: np.uint64, left: int, right: int
) -> None:  # pragma: no cover (compiled)
    """Gathers the pixels of one row from `left` to `right`, one by one."""
    for x in range(left, right):
        to, at = _PIXEL * np.uint64(x), _byte_of(sources[x], stride)
        moved[to] = flat[at]
        moved[to + np.uint64(1)] = flat[at + np.uint64(1)]
        moved[to + np.uint64(2)] = flat[at + np.uint64(2)]


@compiled
def _byte_of(source: np.uint32, stride: np.uint64) -> np.uint64:  # pragma: no cover (compiled)
    """Where a source's three bytes start in a picture whose rows have `stride` bytes."""
    row = np.uint64((source >> np.uint32(16)) & np.uint32(0x7FFF))
    return row * stride + _PIXEL * np.uint64(source & np.uint32(0xFFFF))


def difference(frame: Rows, warped: Rows) -> npt.NDArray[np.int16]:
    """The residual of a frame: residual(p) = frame(p) − warped(p).

    Args:
        frame: uint8 [H, 3·W or more], RGB.
        warped: uint8 [H, 3·W], RGB.

    Returns:
        int16 [H, W, 3], in [-255, 255].

    >>> difference(np.array([[9, 8, 7]], np.uint8), np.array([[10, 8, 6]], np.uint8)).tolist()
    [[[-1, 0, 1]]]
    """
    height, row_bytes = warped.shape
    residual = np.empty(warped.shape, np.int16)
    _subtract(frame, warped, residual)
    return residual.reshape(height, row_bytes // 3, 3)


@compiled
def _subtract(frame: Rows, warped: Rows, residual: npt.NDArray[np.int16]) -> None:  # pragma: no cover (compiled)
    for y in range(warped.shape[0]):
        minuend, subtrahend, result = frame[y], warped[y], residual[y]
        for i in range(warped.shape[1]):
            result[i] = np.int16(minuend[i]) - np.int16(subtrahend[i])
