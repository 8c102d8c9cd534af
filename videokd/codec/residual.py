"""What motion compensation leaves over: a frame minus its reference, gathered along a chain of motion vectors."""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt

from videokd.codec.motion import Chain

Picture = npt.NDArray[np.uint8]


def compensated_difference(frame: Picture, reference: Picture, chain: Chain) -> npt.NDArray[np.int16]:
    """residual(p) = frame(p) − reference(a(p)).

    Args:
        frame: uint8 [H, W, 3], RGB.
        reference: uint8 [H, W, 3], RGB: the frame where the chain begins.
        chain: [H, W] (see motion.py).

    Returns:
        int16 [H, W, 3], in [-255, 255].
    """
    difference = np.empty(frame.shape, dtype=np.int16)
    _subtract_gathered(frame, reference, chain, difference)
    return difference


@numba.njit(cache=True, nogil=True)
def _subtract_gathered(
    frame: Picture, reference: Picture, chain: Chain, difference: npt.NDArray[np.int16]
) -> None:  # pragma: no cover (compiled)
    height, width = chain.shape
    flat = reference.reshape(-1)
    for y in range(height):
        for x in range(width):
            source = chain[y, x]
            row = np.uint64((source >> np.uint32(16)) & np.uint32(0x7FFF))
            column = np.uint64(source & np.uint32(0xFFFF))
            at = np.uint64(3) * (row * np.uint64(width) + column)
            for channel in range(3):
                value = np.int16(flat[at + np.uint64(channel)])
                difference[y, x, channel] = np.int16(frame[y, x, channel]) - value
