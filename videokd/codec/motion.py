"""Motion vectors of blocks to dense fields, and their accumulation down to the I-frame (DESIGN: CoViAR, Wu et al. 2018).

A *chain* says for every pixel where it came from: uint32 [H, W], the row in bits 16–30, the column in bits 0–15, and bit
31 set where the chain is not valid. With sources instead of displacements, following a block's vector is a copy of rows,
and the copy carries the mark of invalid pixels along.
"""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt

Chain = npt.NDArray[np.uint32]

_INVALID = np.uint32(1 << 31)

#: AVMotionVector, as PyAV and FFmpeg lay it out.
VECTOR = np.dtype(
    [
        ("source", "int32"),
        ("w", "uint8"),
        ("h", "uint8"),
        ("src_x", "int16"),
        ("src_y", "int16"),
        ("dst_x", "int16"),
        ("dst_y", "int16"),
        ("flags", "uint64"),
        ("motion_x", "int32"),
        ("motion_y", "int32"),
        ("motion_scale", "uint16"),
    ],
    align=True,
)


def start_chain(height: int, width: int) -> Chain:
    """The chain at position 0: every pixel comes from itself, and is valid.

    >>> start_chain(2, 3).tolist()
    [[0, 1, 2], [65536, 65537, 65538]]
    """
    rows = np.arange(height, dtype=np.uint32) << np.uint32(16)
    return rows[:, None] | np.arange(width, dtype=np.uint32)[None, :]


def follow(chain: Chain, vectors: npt.NDArray[np.void] | None) -> Chain:
    """The chain one frame later: a_t(p) = a_{t−1}(p − d_t(p)).

    A vector names its block by the centre; it covers [dst − size/2, dst + size/2). d_t(p) is that of the last non-zero
    vector that covers p with p and p − d_t(p) inside the picture, otherwise 0. Pixels that no vector covers (intra
    blocks), or whose vector leaves the picture, become invalid.

    Args:
        chain: [H, W], of the frame before; left unchanged.
        vectors: `VECTOR` [N], of a P-frame; None or empty for a frame without any.

    Returns:
        a new chain [H, W].
    """
    after = chain | _INVALID
    if vectors is not None and len(vectors):
        _copy_blocks(chain, vectors, after)
    return after


@numba.njit(cache=True, nogil=True)
def _copy_blocks(before: Chain, vectors: npt.NDArray[np.void], after: Chain) -> None:  # pragma: no cover (compiled)
    height, width = before.shape
    for moving in (False, True):  # zero vectors first: they never override others
        for index in range(len(vectors)):
            vector = vectors[index]
            right = np.int64(vector["dst_x"]) - np.int64(vector["src_x"])
            down = np.int64(vector["dst_y"]) - np.int64(vector["src_y"])
            if (right != 0 or down != 0) != moving or vector["source"] > 0:
                continue
            left = np.int64(vector["dst_x"]) - np.int64(vector["w"]) // 2
            top = np.int64(vector["dst_y"]) - np.int64(vector["h"]) // 2
            x_from, x_to = max(left, 0, right), min(left + vector["w"], width, width + right)
            y_from, y_to = max(top, 0, down), min(top + vector["h"], height, height + down)
            for y in range(y_from, y_to):
                for x in range(x_from, x_to):
                    after[y, x] = before[y - down, x - right]


def displacement(chain: Chain) -> npt.NDArray[np.int16]:
    """motion = p − a_t(p).

    Returns:
        int16 [H, W, 2], (x, y) in pixels; positive x: content moved right.
    """
    motion = np.empty((*chain.shape, 2), dtype=np.int16)
    _subtract_sources(chain, motion)
    return motion


@numba.njit(cache=True, nogil=True)
def _subtract_sources(chain: Chain, motion: npt.NDArray[np.int16]) -> None:  # pragma: no cover (compiled)
    height, width = chain.shape
    for y in range(height):
        for x in range(width):
            source = chain[y, x]
            motion[y, x, 0] = np.int16(x) - np.int16(source & np.uint32(0xFFFF))
            motion[y, x, 1] = np.int16(y) - np.int16((source >> np.uint32(16)) & np.uint32(0x7FFF))


def is_valid(chain: Chain) -> npt.NDArray[np.bool_]:
    """bool [H, W]: False where the chain met an intra block or left the picture."""
    valid: npt.NDArray[np.bool_] = chain < _INVALID
    return valid
