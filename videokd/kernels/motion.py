"""Turns the motion vectors of blocks into a motion for each pixel, and accumulates it back to the I-frame (Wu et al. 2018).

A *chain* holds for every pixel the pixel of the I-frame that it came from: uint32 [H, W], the row in bits 16–30, the column in
bits 0–15, and bit 31 set where the chain is not valid. Since it holds sources and not displacements, following a block's vector
is a copy of rows, which copies the mark of invalid pixels too. The warped I-frame is kept up to date in the same way:
I_0(a_t(p)) = I_0(a_{t−1}(p − d_t(p))), so it is copied block by block, and not gathered pixel by pixel.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from videokd.kernels.block_copies import (
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


@lru_cache(maxsize=8)
def start_chain(height: int, width: int) -> Chain:
    """The chain at position 0: every pixel comes from itself, and is valid. All who ask share it: never write to it.

    >>> start_chain(2, 3).tolist()
    [[0, 1, 2], [65536, 65537, 65538]]
    """
    rows = np.arange(height, dtype=np.uint32) << _SIXTEEN
    return rows[:, None] | np.arange(width, dtype=np.uint32)[None, :]


class Follower:
    """Follows motion vectors from frame to frame, and warps a picture along with them where that is wanted.

    `chain` is the current chain, uint32 [H, W]; `warped` is the picture that it warps, uint8 [H, 3·W], RGB.

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
        # Where no pixel of a macroblock moved in the last frame: both chains are equal there, so the next frame need not copy it
        self._still, self._still_before = np.zeros(macroblocks, np.bool_), np.zeros(macroblocks, np.bool_)
        self._warped_before = False
        self._no_picture = np.empty((0, 0), np.uint8)

    def restart(self) -> None:
        """Sets the chain to that of an I-frame."""
        np.copyto(self.chain, self._identity)
        self._still[:] = False

    def follow(self, vectors: Vectors, *, warping: bool) -> None:
        """Moves the chain one frame forward, a_t(p) = a_{t−1}(p − d_t(p)), and the warped picture where that is wanted.

        A vector names its block by the centre; it covers [dst − size/2, dst + size/2). d_t(p) is that of the last
        non-zero vector that covers p with p and p − d_t(p) inside the picture, otherwise 0. Pixels that no vector covers
        (intra blocks), or whose vector leaves the picture, become invalid.

        Args:
            vectors: int16 [N, 20], of a P-frame; none for a frame that is all intra.
            warping: whether to move `warped` too; it must show the picture that the chain before this call warps.
        """
        if warping and not self._warped_before:
            self._still[:] = False
        self._still, self._still_before = self._still_before, self._still
        warped = (self.warped, self._next_warped) if warping else (self._no_picture, self._no_picture)
        _follow(self.chain, self._next_chain, *warped, vectors, self._cells, self._still_before, self._still)
        if warping:
            self.warped, self._next_warped = self._next_warped, self.warped
        self.chain, self._next_chain = self._next_chain, self.chain
        self._warped_before = warping

    def start_warping(self, picture: Rows) -> None:
        """Sets the warped picture to a picture that has not moved yet: uint8 [H, 3·W or more], RGB."""
        np.copyto(self.warped, picture[:, : self.warped.shape[1]])
        self._warped_before = False

    def moved(self, vectors: Vectors) -> Rows:
        """uint8 [H, 3·W], valid until the next call: `warped`, moved by the vectors of one frame; the chain does not change."""
        self._still_before[:] = False
        warped = (self.warped, self._next_warped)
        _follow(self._identity, self._next_chain, *warped, vectors, self._cells, self._still_before, self._still)
        self._still[:] = False
        return self._next_warped


# How one frame's vectors are followed
#
# A P-frame has a vector for each block: it points to where the pixels of the block come from in the frame before. A pixel that
# no vector covers (in an intra block) keeps its source and becomes invalid. So each pixel of the next chain is either copied
# from this chain along with its block, or kept in place. The warped picture, if it is wanted, is treated in the same way.
#
# In the usual case each block lies inside one macroblock of 16×16 pixels, its sides and corners are multiples of 4, and no
# block covers another. Then no pixel is copied twice, and the order of the vectors does not matter:
#   1. _mark_cells tests whether this is the usual case, and marks which 4×4 cells of each macroblock have a vector;
#   2. _keep_uncovered keeps all pixels of a macroblock in place unless all of its cells have one;
#   3. _copy_rectangle copies each block over that.
# If all vectors of a macroblock are zero and both chains are already equal there (it did not move in the frame before either),
# the macroblock is not copied at all: that holds for most macroblocks of most videos.
#
# Otherwise blocks overlap or lie off this grid, and the definition decides: the last non-zero vector that covers a pixel
# counts, and a zero vector never overrides another. So all pixels are kept in place first, and the blocks are copied in two
# passes: zero vectors, then non-zero vectors over them, each in the order of the file.


@compiled
def _block(vectors: Vectors, n: int) -> Any:  # pragma: no cover (compiled)
    """(left, top, width, height, right, down): the block of a vector in pixels, and how far its content moved.

    A vector names its block by the centre. Width and height are the two bytes of one word, width in the lower one.
    """
    wide, high = np.int64(vectors[n, 2]) & 255, (np.int64(vectors[n, 2]) >> 8) & 255
    left, top = np.int64(vectors[n, 5]) - wide // 2, np.int64(vectors[n, 6]) - high // 2
    right = np.int64(vectors[n, 5]) - np.int64(vectors[n, 3])
    down = np.int64(vectors[n, 6]) - np.int64(vectors[n, 4])
    return left, top, wide, high, right, down


# A macroblock has 4×4 cells of 4×4 pixels, which are the 16 bits of one number: bit 4·row + column is the cell in that row and
# column. So four bits are a row of cells, and 0xFFFF is the whole macroblock.
# The bits of a block of w×h pixels at (x, y) inside its macroblock, all multiples of 4:
#   (1 << w/4) − 1             one row of cells: w/4 ones                  16 wide: 0b1111, 8 wide: 0b0011
#   × 0x1111                   the same in each of the four rows           8 wide: 0x3333
#   & (1 << h) − 1             only the first h/4 rows, of 4 bits each     8×8: 0x0033
#   << y + x/4                 down by y/4 rows of 4 bits, right by x/4    8×8 at (8, 8): 0xCC00
# Two blocks overlap if they have a bit in common.
@compiled
def _mark_cells(
    vectors: Vectors, cells: npt.NDArray[np.uint16], still: npt.NDArray[np.bool_]
) -> bool:  # pragma: no cover (compiled)
    """Marks the cells that vectors cover in each macroblock, and the macroblocks that have no other vectors than zero.

    Returns:
        whether every block lies on the grid of cells, inside one macroblock, and none covers another.
    """
    cells[:] = 0
    still[:] = True
    for n in range(len(vectors)):
        if vectors[n, 0] > 0:  # points to a later frame
            continue
        left, top, wide, high, right, down = _block(vectors, n)
        column, row = left & 15, top & 15
        inside = 0 <= left < 16 * cells.shape[1] and 0 <= top < 16 * cells.shape[0]
        if not inside or (left | top | wide | high) & 3 or column + wide > 16 or row + high > 16:
            return False
        mask = ((((1 << (wide >> 2)) - 1) * 0x1111) & ((1 << high) - 1)) << (row + (column >> 2))
        marked = np.int64(cells[top >> 4, left >> 4])
        if marked & mask:
            return False
        cells[top >> 4, left >> 4] = marked | mask
        if right != 0 or down != 0:
            still[top >> 4, left >> 4] = False
    return True


@compiled
def _keep_in_place(
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
def _keep_uncovered(
    before: npt.NDArray[np.uint32],
    after: npt.NDArray[np.uint32],
    warped: npt.NDArray[np.uint8],
    warped_after: npt.NDArray[np.uint8],
    height: int,
    width: int,
    cells: npt.NDArray[np.uint16],
    still: npt.NDArray[np.bool_],
) -> None:  # pragma: no cover (compiled)
    """Keeps in place the macroblocks that are not covered whole, and marks them as changed; arrays are flat."""
    for y in range(cells.shape[0]):
        for x in range(cells.shape[1]):
            if cells[y, x] != 0xFFFF:
                still[y, x] = False
                right, bottom = min(16 * x + 16, width), min(16 * y + 16, height)
                _keep_in_place(before, after, warped, warped_after, width, 16 * x, 16 * y, right, bottom)


@compiled
def _copy_rectangle(
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

    Nearly every block is 16 or 8 wide: copies of a known width compile to one or two vector moves a row.
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
    """Writes the chain, and the warped picture if it is not empty, one frame later (see above).

    `alike` marks the macroblocks where both chains hold the same at the start, and `still` is set to those at the end.
    """
    height, width = chain.shape
    before, after = chain.reshape(-1), chain_after.reshape(-1)
    warped, warped_after = picture.reshape(-1), picture_after.reshape(-1)
    disjoint = _mark_cells(vectors, cells, still)
    if disjoint:
        _keep_uncovered(before, after, warped, warped_after, height, width, cells, still)
    else:
        still[:] = False
        _keep_in_place(before, after, warped, warped_after, width, 0, 0, width, height)
    for turn in range(1 if disjoint else 2):
        for n in range(len(vectors)):
            left, top, wide, high, right, down = _block(vectors, n)
            if vectors[n, 0] > 0 or (not disjoint and (right != 0 or down != 0) != (turn == 1)):
                continue
            if disjoint and still[top >> 4, left >> 4] and alike[top >> 4, left >> 4]:
                continue
            # The part of the block that is inside the picture, and whose source is
            x_from, x_to = max(left, 0, right), min(left + wide, width, width + right)
            y_from, y_to = max(top, 0, down), min(top + high, height, height + down)
            if disjoint and (x_to - x_from < wide or y_to - y_from < high):
                x_end, y_end = min(left + wide, width), min(top + high, height)
                _keep_in_place(before, after, warped, warped_after, width, max(left, 0), max(top, 0), x_end, y_end)
            if x_from < x_to and y_from < y_to:
                target, source = y_from * width + x_from, (y_from - down) * width + x_from - right
                _copy_rectangle(
                    before, after, warped, warped_after, width, target, source, x_to - x_from, y_to - y_from
                )


def motion_of_frame(vectors: Vectors, height: int, width: int) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.bool_]]:
    """The motion d_t of one frame, and where it is valid.

    Equal to what `motion_of_chain` gives for a chain that has followed this frame only.

    Args:
        vectors: int16 [N, 20], of a P-frame.
        height: of the picture, in pixels.
        width: of the picture, in pixels.

    Returns:
        int16 [H, W, 2], (x, y) in pixels, positive x: content moved right; and bool [H, W], False where no vector covers the
        pixel, or its source is outside the picture.
    """
    packed, valid = np.empty((height, width), np.uint32), np.empty((height, width), np.uint8)
    _paint(vectors, packed, valid)
    return packed.view(np.int16).reshape(height, width, 2), valid.view(np.bool_)


# The motion of one frame is painted, not copied from a chain: every pixel of a block gets the block's displacement, (x, y) as
# two int16 in one word of 32 bits, x in the lower half, and is marked valid; 0 and not valid is what no block covers.
# There are always two passes, zero vectors first: on a pixel that several blocks cover, the last non-zero vector counts, and a
# zero vector must never override one. (Blocks rarely overlap, but the second pass is cheap: it only skips the zero vectors.)
# Only the part of a block is painted that is inside the picture and whose source is: x_from is the largest of the block's own
# edge, the picture's edge (0), and `right`, where the source's column x − right is 0. The other three sides follow the same way.
# Nearly all parts are 16 or 8 wide: a row of these is one vector move from `row` and `ones`, which hold 16 equal values.
@compiled
def _paint(
    vectors: Vectors, packed: npt.NDArray[np.uint32], valid: npt.NDArray[np.uint8]
) -> None:  # pragma: no cover (compiled)
    """Writes the displacement and the validity of every pixel (see above)."""
    height, width = packed.shape
    motions, flags = packed.reshape(-1), valid.reshape(-1)
    motions[:] = 0
    flags[:] = 0
    row, ones = np.empty(16, np.uint32), np.ones(16, np.uint8)
    start_of_row = np.uint64(0)
    for turn in range(2):
        for n in range(len(vectors)):
            left, top, wide, high, right, down = _block(vectors, n)
            if vectors[n, 0] > 0 or (right != 0 or down != 0) != (turn == 1):
                continue
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


def motion_of_chain(chain: Chain) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.bool_]]:
    """The accumulated motion p − a_t(p), and where it is valid.

    Args:
        chain: uint32 [H, W], see the top of this file.

    Returns:
        int16 [H, W, 2], (x, y) in pixels, positive x: content moved right; and bool [H, W], False where the chain meets an
        intra block or leaves the picture.
    """
    packed = np.empty(chain.shape, np.uint32)
    valid = np.empty(chain.shape, np.uint8)
    _subtract_sources(chain, packed, valid)
    return packed.view(np.int16).reshape(*chain.shape, 2), valid.view(np.bool_)


@compiled
def _subtract_sources(
    chain: Chain, packed: npt.NDArray[np.uint32], valid: npt.NDArray[np.uint8]
) -> None:  # pragma: no cover (compiled)
    """Writes both differences as one word of 32 bits, x in its lower half: in memory that is int16 (x, y)."""
    for y in range(chain.shape[0]):
        sources, motion, flags = chain[y], packed[y], valid[y]
        row = np.uint32(y) << _SIXTEEN
        for x in range(chain.shape[1]):
            source = sources[x]
            motion[x] = ((np.uint32(x) - source) & _LOW) | ((row - (source & _ROW)) & _HIGH)
            flags[x] = np.uint8((source >> np.uint32(31)) ^ np.uint32(1))
