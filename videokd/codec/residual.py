"""What motion compensation leaves over: a frame minus its reference, gathered along a chain of motion vectors."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from videokd.codec.block_copies import compiled, move_8_pixels
from videokd.codec.motion import Chain, Rows

_SOURCE = np.uint32(0x7FFFFFFF)
_PIXEL = np.uint64(3)


def gather(reference: Rows, chain: Chain, warped: Rows) -> None:
    """warped(p) = reference(a(p)).

    Args:
        reference: uint8 [H, 3·W or more], RGB: the frame where the chain begins.
        chain: [H, W] (see motion.py).
        warped: uint8 [H, 3·W], written.
    """
    _gather(reference, chain, warped)


@compiled
def _gather(reference: Rows, chain: Chain, warped: Rows) -> None:  # pragma: no cover (compiled)
    """Chains are made by copying blocks: nearly every eight pixels come from eight side by side, and are copied as such."""
    height, width = chain.shape
    # Unsigned addresses of flat arrays spare the test for negative ones
    flat, stride = reference.reshape(-1), np.uint64(reference.shape[1])
    moved = warped.reshape(-1)
    for y in range(height):
        sources, start = chain[y], np.uint64(y * width)
        for x in range(0, width - 7, 8):
            left = np.uint64(x)
            first = sources[left] & _SOURCE
            apart = np.uint32(0)
            for i in range(8):
                apart |= (sources[left + np.uint64(i)] & _SOURCE) ^ (first + np.uint32(i))
            if apart == 0:
                move_8_pixels(moved, _PIXEL * (start + left), flat, _at(first, stride))
            else:
                _gather_pixels(flat, sources, moved, stride, start, x, x + 8)
        _gather_pixels(flat, sources, moved, stride, start, width & ~7, width)


@compiled
def _gather_pixels(
    flat: Rows, sources: Chain, moved: Rows, stride: np.uint64, start: np.uint64, left: int, right: int
) -> None:  # pragma: no cover (compiled)
    for x in range(left, right):
        to, at = _PIXEL * (start + np.uint64(x)), _at(sources[x], stride)
        moved[to] = flat[at]
        moved[to + np.uint64(1)] = flat[at + np.uint64(1)]
        moved[to + np.uint64(2)] = flat[at + np.uint64(2)]


@compiled
def _at(source: np.uint32, stride: np.uint64) -> np.uint64:  # pragma: no cover (compiled)
    row = np.uint64((source >> np.uint32(16)) & np.uint32(0x7FFF))
    return row * stride + _PIXEL * np.uint64(source & np.uint32(0xFFFF))


def difference(frame: Rows, warped: Rows) -> npt.NDArray[np.int16]:
    """residual(p) = frame(p) − warped(p).

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
