"""What motion compensation leaves over: a frame minus its reference, gathered along a chain of motion vectors."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from videokd.codec.motion import Chain, Rows
from videokd.codec.moves import compiled


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
    height, width = chain.shape
    # Unsigned addresses of a flat array spare the test for negative ones
    flat, stride = reference.reshape(-1), np.uint64(reference.shape[1])
    for y in range(height):
        sources, target = chain[y], warped[y]
        for x in range(width):
            row = np.uint64((sources[x] >> np.uint32(16)) & np.uint32(0x7FFF))
            at = row * stride + np.uint64(3) * np.uint64(sources[x] & np.uint32(0xFFFF))
            to = np.uint64(3) * np.uint64(x)
            target[to] = flat[at]
            target[to + np.uint64(1)] = flat[at + np.uint64(1)]
            target[to + np.uint64(2)] = flat[at + np.uint64(2)]


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
