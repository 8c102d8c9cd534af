"""Motion vectors of blocks to dense fields, and their accumulation down to the I-frame (CoViAR, Wu et al. 2018).

A *chain* says for every pixel where it came from: uint32 [H, W], the row in bits 16–30, the column in bits 0–15, and bit
31 set where the chain is not valid. With sources instead of displacements, following a block's vector is a copy of rows,
and the copy carries the mark of invalid pixels along. In the same way a block copy carries a warped picture one frame on:
I_0(a_t(p)) = I_0(a_{t−1}(p − d_t(p))), so that no pixel of it need ever be gathered by its own address.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from videokd.codec.block_copies import (
    compiled,
    move_8_flags,
    move_8_pixels,
    move_8_sources,
    move_16_flags,
    move_16_pixels,
    move_16_sources,
)

Chain = npt.NDArray[np.uint32]
#: AVMotionVector, 40 bytes, as 20 words of 16 bits: source 0–1, w and h 2, src_x 3, src_y 4, dst_x 5, dst_y 6, … padding.
Vectors = npt.NDArray[np.int16]
#: RGB pictures as rows of bytes: uint8 [H, 3·W].
Rows = npt.NDArray[np.uint8]

NO_VECTORS: Vectors = np.empty((0, 20), np.int16)
_INVALID = np.uint32(1 << 31)
_ROW = np.uint32(0x7FFF0000)
_LOW = np.uint32(0xFFFF)
_HIGH = np.uint32(0xFFFF0000)
_SIXTEEN = np.uint32(16)
_WORD = np.uint64(4)
_PIXEL = np.uint64(3)


def start_chain(height: int, width: int) -> Chain:
    """The chain at position 0: every pixel comes from itself, and is valid.

    >>> start_chain(2, 3).tolist()
    [[0, 1, 2], [65536, 65537, 65538]]
    """
    rows = np.arange(height, dtype=np.uint32) << _SIXTEEN
    return rows[:, None] | np.arange(width, dtype=np.uint32)[None, :]


class Follower:
    """Follows motion vectors from frame to frame, and carries a picture along where that is wanted.

    Args:
        height: of the pictures, in pixels.
        width: of the pictures, in pixels.
    """

    def __init__(self, height: int, width: int) -> None:
        self._identity = start_chain(height, width)
        self.chain, self._next_chain = self._identity.copy(), np.empty_like(self._identity)
        self.warped, self._next_warped = (np.empty((height, 3 * width), np.uint8) for _ in range(2))
        macroblocks = ((height + 15) // 16, (width + 15) // 16)
        # Which 4×4 cells of each macroblock have a vector; working memory of the kernel
        self._cells = np.empty(macroblocks, np.uint16)
        # Where the last frame left a macroblock as it was: both chains hold the same there, so that the next need not copy it
        self._still, self._still_before = np.zeros(macroblocks, np.bool_), np.zeros(macroblocks, np.bool_)
        self._carried_before = False
        self._nothing = np.empty((0, 0), np.uint8)

    def restart(self) -> None:
        """Sets the chain to that of an I-frame."""
        np.copyto(self.chain, self._identity)
        self._still[:] = False

    def follow(self, vectors: Vectors, *, carried: bool) -> None:
        """The chain one frame later: a_t(p) = a_{t−1}(p − d_t(p)); and the warped picture one frame later.

        A vector names its block by the centre; it covers [dst − size/2, dst + size/2). d_t(p) is that of the last
        non-zero vector that covers p with p and p − d_t(p) inside the picture, otherwise 0. Pixels that no vector covers
        (intra blocks), or whose vector leaves the picture, become invalid.

        Args:
            vectors: int16 [N, 20], of a P-frame; none for a frame that is all intra.
            carried: whether `warped`, uint8 [H, 3·W], which the chain warps, is to go along.
        """
        if carried and not self._carried_before:
            self._still[:] = False
        self._still, self._still_before = self._still_before, self._still
        warped = (self.warped, self._next_warped) if carried else (self._nothing, self._nothing)
        _follow(self.chain, self._next_chain, *warped, vectors, self._cells, self._still_before, self._still)
        if carried:
            self.warped, self._next_warped = self._next_warped, self.warped
        self.chain, self._next_chain = self._next_chain, self.chain
        self._carried_before = carried

    def start_warping(self, picture: Rows) -> None:
        """Sets the warped picture to one that has not moved: uint8 [H, 3·W or more], RGB."""
        np.copyto(self.warped, picture[:, : self.warped.shape[1]])
        self._carried_before = False

    def moved(self, vectors: Vectors) -> Rows:
        """uint8 [H, 3·W], good until the next call: `warped` moved by the vectors of one frame; nothing else changes."""
        self._still_before[:] = False
        warped = (self.warped, self._next_warped)
        _follow(self._identity, self._next_chain, *warped, vectors, self._cells, self._still_before, self._still)
        self._still[:] = False
        return self._next_warped


@compiled
def _mark_cells(
    vectors: Vectors, cells: npt.NDArray[np.uint16], still: npt.NDArray[np.bool_]
) -> bool:  # pragma: no cover (compiled)
    """Marks the 4×4 cells that vectors cover, 16 bits a macroblock, and the macroblocks that stay as they are.

    Returns:
        whether every block lies on this grid and none covers another, which makes their order irrelevant.
    """
    cells[:] = 0
    still[:] = True
    for n in range(len(vectors)):
        if vectors[n, 0] > 0:  # points to a later frame
            continue
        wide, high = np.int64(vectors[n, 2]) & 255, (np.int64(vectors[n, 2]) >> 8) & 255
        left, top = np.int64(vectors[n, 5]) - wide // 2, np.int64(vectors[n, 6]) - high // 2
        column, row = left & 15, top & 15
        inside = 0 <= left < 16 * cells.shape[1] and 0 <= top < 16 * cells.shape[0]
        if not inside or (left | top | wide | high) & 3 or column + wide > 16 or row + high > 16:
            return False
        mask = ((((1 << (wide >> 2)) - 1) * 0x1111) & ((1 << high) - 1)) << (row + (column >> 2))
        marked = np.int64(cells[top >> 4, left >> 4])
        if marked & mask:
            return False
        cells[top >> 4, left >> 4] = marked | mask
        if vectors[n, 3] != vectors[n, 5] or vectors[n, 4] != vectors[n, 6]:
            still[top >> 4, left >> 4] = False
    return True


@compiled
def _stay(
    before: npt.NDArray[np.uint32],
    after: npt.NDArray[np.uint32],
    warped: npt.NDArray[np.uint8],
    warped_after: npt.NDArray[np.uint8],
    width: int,
    left: int,
    top: int,
    right: int,
    bottom: int,
) -> None:  # pragma: no cover (compiled)
    """Keeps the pixels of a rectangle where they were, and marks them invalid; arrays are flat."""
    for y in range(top, bottom):
        row = np.uint64(y) * np.uint64(width)
        for x in range(left, right):
            at = row + np.uint64(x)
            after[at] = before[at] | _INVALID
        if len(warped):
            for x in range(3 * left, 3 * right):
                at = _PIXEL * row + np.uint64(x)
                warped_after[at] = warped[at]


@compiled
def _move(
    before: npt.NDArray[np.uint32],
    after: npt.NDArray[np.uint32],
    warped: npt.NDArray[np.uint8],
    warped_after: npt.NDArray[np.uint8],
    width: int,
    target: int,
    source: int,
    wide: int,
    high: int,
) -> None:  # pragma: no cover (compiled)
    """Copies a rectangle from one pixel number to another; arrays are flat.

    Nearly every block is 16 or 8 wide: with the width known, LLVM makes of a row one or two vector moves.
    """
    for row in range(high):
        to = np.uint64(target + row * width)
        at = np.uint64(source + row * width)
        if wide == 16:
            move_16_sources(after, _WORD * to, before, _WORD * at)
        elif wide == 8:
            move_8_sources(after, _WORD * to, before, _WORD * at)
        else:
            for x in range(wide):
                after[to + np.uint64(x)] = before[at + np.uint64(x)]
    if not len(warped):
        return
    for row in range(high):
        to = _PIXEL * np.uint64(target + row * width)
        at = _PIXEL * np.uint64(source + row * width)
        if wide == 16:
            move_16_pixels(warped_after, to, warped, at)
        elif wide == 8:
            move_8_pixels(warped_after, to, warped, at)
        else:
            for x in range(3 * wide):
                warped_after[to + np.uint64(x)] = warped[at + np.uint64(x)]


@compiled
def _follow(
    chain: Chain,
    chain_after: Chain,
    picture: Rows,
    picture_after: Rows,
    vectors: Vectors,
    cells: npt.NDArray[np.uint16],
    alike: npt.NDArray[np.bool_],
    still: npt.NDArray[np.bool_],
) -> None:  # pragma: no cover (compiled)
    """`alike`: macroblocks of which "before" and "after" hold the same when this begins; `still`: when it ends."""
    height, width = chain.shape
    before, after = chain.reshape(-1), chain_after.reshape(-1)
    warped, warped_after = picture.reshape(-1), picture_after.reshape(-1)
    disjoint = _mark_cells(vectors, cells, still)
    if disjoint:
        for y in range(cells.shape[0]):
            for x in range(cells.shape[1]):
                if cells[y, x] != 0xFFFF:
                    still[y, x] = False
                    right, bottom = min(16 * x + 16, width), min(16 * y + 16, height)
                    _stay(before, after, warped, warped_after, width, 16 * x, 16 * y, right, bottom)
    else:
        still[:] = False
        _stay(before, after, warped, warped_after, width, 0, 0, width, height)
    for turn in range(1 if disjoint else 2):
        for n in range(len(vectors)):
            right = np.int64(vectors[n, 5]) - np.int64(vectors[n, 3])
            down = np.int64(vectors[n, 6]) - np.int64(vectors[n, 4])
            if vectors[n, 0] > 0 or (not disjoint and (right != 0 or down != 0) != (turn == 1)):
                continue  # zero vectors have the first turn: they never override others
            wide, high = np.int64(vectors[n, 2]) & 255, (np.int64(vectors[n, 2]) >> 8) & 255
            left, top = np.int64(vectors[n, 5]) - wide // 2, np.int64(vectors[n, 6]) - high // 2
            if disjoint and still[top >> 4, left >> 4] and alike[top >> 4, left >> 4]:
                continue
            x_from, x_to = max(left, 0, right), min(left + wide, width, width + right)
            y_from, y_to = max(top, 0, down), min(top + high, height, height + down)
            if disjoint and (x_to - x_from < wide or y_to - y_from < high):
                x_end, y_end = min(left + wide, width), min(top + high, height)
                _stay(before, after, warped, warped_after, width, max(left, 0), max(top, 0), x_end, y_end)
            if x_from < x_to and y_from < y_to:
                target, source = y_from * width + x_from, (y_from - down) * width + x_from - right
                _move(before, after, warped, warped_after, width, target, source, x_to - x_from, y_to - y_from)


def field(vectors: Vectors, height: int, width: int) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.bool_]]:
    """The displacement d_t of one frame, and where a vector covers it; what `follow` and `displacement` give from `start_chain`.

    Args:
        vectors: int16 [N, 20], of a P-frame.
        height: of the picture, in pixels.
        width: of the picture, in pixels.

    Returns:
        int16 [H, W, 2], (x, y) in pixels; and bool [H, W].
    """
    packed, valid = np.empty((height, width), np.uint32), np.empty((height, width), np.uint8)
    _paint(vectors, packed, valid)
    return packed.view(np.int16).reshape(height, width, 2), valid.view(np.bool_)


@compiled
def _paint(
    vectors: Vectors, packed: npt.NDArray[np.uint32], valid: npt.NDArray[np.uint8]
) -> None:  # pragma: no cover (compiled)
    height, width = packed.shape
    motions, flags = packed.reshape(-1), valid.reshape(-1)
    motions[:] = 0
    flags[:] = 0
    row, ones = np.empty(16, np.uint32), np.ones(16, np.uint8)
    start_of_row = np.uint64(0)
    for turn in range(2):
        for n in range(len(vectors)):
            right = np.int64(vectors[n, 5]) - np.int64(vectors[n, 3])
            down = np.int64(vectors[n, 6]) - np.int64(vectors[n, 4])
            if vectors[n, 0] > 0 or (right != 0 or down != 0) != (turn == 1):
                continue  # zero vectors have the first turn: they never override others
            wide, high = np.int64(vectors[n, 2]) & 255, (np.int64(vectors[n, 2]) >> 8) & 255
            left, top = np.int64(vectors[n, 5]) - wide // 2, np.int64(vectors[n, 6]) - high // 2
            x_from, x_to = max(left, 0, right), min(left + wide, width, width + right)
            row[:] = np.uint32(right & 0xFFFF) | (np.uint32(down & 0xFFFF) << _SIXTEEN)
            for y in range(max(top, 0, down), min(top + high, height, height + down)):
                to = np.uint64(y * width + x_from)
                if x_to - x_from == 16:
                    move_16_sources(motions, _WORD * to, row, start_of_row)
                    move_16_flags(flags, to, ones, start_of_row)
                elif x_to - x_from == 8:
                    move_8_sources(motions, _WORD * to, row, start_of_row)
                    move_8_flags(flags, to, ones, start_of_row)
                else:
                    for x in range(x_to - x_from):
                        motions[to + np.uint64(x)] = row[0]
                        flags[to + np.uint64(x)] = 1


def displacement(chain: Chain) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.bool_]]:
    """motion = p − a_t(p), and where the chain is valid.

    Returns:
        int16 [H, W, 2], (x, y) in pixels, positive x: content moved right; and bool [H, W], False where the chain met an
        intra block or left the picture.
    """
    packed = np.empty(chain.shape, np.uint32)
    valid = np.empty(chain.shape, np.uint8)
    _subtract_sources(chain, packed, valid)
    return packed.view(np.int16).reshape(*chain.shape, 2), valid.view(np.bool_)


@compiled
def _subtract_sources(
    chain: Chain, packed: npt.NDArray[np.uint32], valid: npt.NDArray[np.uint8]
) -> None:  # pragma: no cover (compiled)
    """Both differences in one word of 32 bits, x in its lower half: that is int16 (x, y) in memory."""
    for y in range(chain.shape[0]):
        sources, motion, flags = chain[y], packed[y], valid[y]
        row = np.uint32(y) << _SIXTEEN
        for x in range(chain.shape[1]):
            source = sources[x]
            motion[x] = ((np.uint32(x) - source) & _LOW) | ((row - (source & _ROW)) & _HIGH)
            flags[x] = np.uint8((source >> np.uint32(31)) ^ np.uint32(1))
