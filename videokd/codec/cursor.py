"""A cursor: a decoder that goes forward through a video, with the chain of motion vectors to its current position."""

from __future__ import annotations

from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt

from videokd.bitstream.source import Source
from videokd.codec.colours import Colours, Planes, difference_of_planes, planes_of
from videokd.codec.container import vectors_of
from videokd.codec.index import VideoIndex
from videokd.codec.indexed_decoder import Decoder
from videokd.errors import DecodeError, NeedsTranscoding
from videokd.kernels.motion import Chain, Follower, Rows, Vectors
from videokd.kernels.residual import difference, gather

#: Frames that may wait for a frame that the decoder gives later; no codec here reorders more than 16.
MOST_PENDING = 64
#: Packets before the next GOP that are faster to decode than to skip: seeking takes about as long as decoding one packet.
_CHEAPER_THAN_SEEKING = 2


class Decoded:
    """A decoded frame, converted to RGB when it is first needed.

    Args:
        frame: what PyAV gave.
        colours: the converter.
        size: width and height that it must have, in pixels.
        source: of the video, for messages.
        number: of the frame in display order, for messages.

    Raises:
        NeedsTranscoding: the frame does not have the size in the index.
    """

    __slots__ = ("_colours", "_rows", "_shared", "_where", "frame")

    def __init__(self, frame: Any, colours: Colours, size: tuple[int, int], source: Source, number: int) -> None:
        if (frame.width, frame.height) != size:
            raise NeedsTranscoding(
                f"{source}: frame {number} is {frame.width}×{frame.height} (accepted: {size[0]}×{size[1]}, as its "
                "index says). If the file was replaced, index it again; if it changes its size, run `videokd prepare folder`."
            )
        self.frame = frame
        self._colours = colours
        self._where = (source, number)
        self._rows: Rows | None = None
        self._shared: npt.NDArray[np.uint8] | None = None

    def rows(self) -> Rows:
        """uint8 [H, 3·W or a little more], RGB; read-only: others share it.

        Raises:
            DecodeError: FFmpeg cannot convert the frame's pixel format.
        """
        if self._rows is None:
            try:
                self._rows = self._colours.rows(self.frame)
            except DecodeError as error:
                raise DecodeError(f"{self._where[0]}: frame {self._where[1]}: {error}") from error
        return self._rows

    def planes(self) -> Planes | None:
        """The frame's planes where RGB is to be converted from them; None where it is converted already, or swscale must do it."""
        return planes_of(self.frame) if self._rows is None else None

    def minus(self, warped: Rows) -> npt.NDArray[np.int16]:
        """int16 [H, W, 3]: this frame minus a picture, uint8 [H, 3·W]; the frame's own RGB is not kept where nothing else needs it.

        Raises:
            DecodeError: as for `rows`.
        """
        planes = self.planes()
        return difference(self.rows(), warped) if planes is None else difference_of_planes(planes, warped)

    def image(self) -> npt.NDArray[np.uint8]:
        """uint8 [H, W, 3], RGB; a copy that belongs to the caller."""
        width = self.frame.width
        return self.rows()[:, : 3 * width].copy().reshape(-1, width, 3)

    def shared_image(self) -> npt.NDArray[np.uint8]:
        """uint8 [H, W, 3], RGB; one read-only array for all who ask."""
        if self._shared is None:
            width = self.frame.width
            self._shared = np.ascontiguousarray(self.rows()[:, : 3 * width]).reshape(-1, width, 3)
            self._shared.flags.writeable = False
        return self._shared


class Cursor:
    """A decoder that goes forward: the GOP and position where it stands, and the chain of vectors to that position.

    Args:
        decoder: of this file; the cursor moves it.
        index: of this file.
        gop: number of the GOP where to start.
        colours: the converter to RGB.
        follower: accumulates the motion vectors back to the I-frame; None: they are not accumulated.
    """

    def __init__(
        self, decoder: Decoder, index: VideoIndex, gop: int, colours: Colours, follower: Follower | None
    ) -> None:
        self._index = index
        self._source = decoder.source
        self._size = decoder.frame_size(index)
        self._colours = colours
        self._follower = follower
        self._pending: dict[int, Any] = {}
        self._key = index.start_of(index.anchors[gop][0])
        self._decoder = decoder
        self._decoded = decoder.decode_from(index, self._key)
        # A GOP whose I-frame is not a keyframe is decoded from an earlier GOP; that one may begin before the keyframe
        first = index.keyframes[self._key][0]
        self.gop = next(g for g in range(gop + 1) if index.anchors[g][0] >= first)
        self.position = -1
        self.first: Decoded
        self.previous: Decoded
        self.current: Decoded
        self._warped_at = -1

    def leads_to(self, gop: int, position: int, *, chained: bool) -> bool:
        """Whether decoding on from here reaches a position, and at least as fast as a new cursor would; `chained`: with a chain."""
        if chained and self._follower is None:
            return False
        if gop <= self.gop:
            return gop == self.gop and position >= self.position
        start = self._index.anchors[gop][0]
        key = self._index.start_of(start)
        if key <= self._key or not self._decoder.seeks:  # seeking would lead no nearer
            return True
        _, pts, dts, _ = self._index.keyframes[key]
        between = start - self._index.anchors[self.gop][max(self.position, 0)] - 1
        return gop == self.gop + 1 and (between <= _CHEAPER_THAN_SEEKING or pts is dts is None)

    def advance(self, gop: int, position: int, *, warping: bool) -> None:
        """Decodes up to a position that `leads_to` allows.

        Args:
            gop: number of the GOP.
            position: in that GOP.
            warping: whether the accumulated residual there will be needed. At the next position, the warped I-frame is moved
                block by block; if the position is further away, gathering it once is faster.

        Raises:
            DecodeError: a frame on the way cannot be decoded, or does not have the size in the index.
        """
        warping &= gop == self.gop and position == self.position + 1 and position > 0
        while (self.gop, self.position) < (gop, position):
            if self.position + 1 == len(self._index.anchors[self.gop]):
                self.gop, self.position = self.gop + 1, -1
            self._step(warping=warping, following=self._follower if self.gop == gop else None)

    def _step(self, *, warping: bool, following: Follower | None) -> None:
        """Goes one position on; `following`: accumulates the vectors, which is not needed in GOPs that are only passed through."""
        if warping:
            self.warped()
        self.position += 1
        decoded = self._frame_at(self.position)
        if self.position == 0:
            self._key = self._index.start_of(self._index.anchors[self.gop][0])
            self.first = self.previous = self.current = decoded
            self._warped_at = -1
            if following is not None:
                following.restart()
            return
        self.previous, self.current = self.current, decoded
        if following is not None:
            following.follow(self.vectors(), warping=warping)
            self._warped_at = self.position if warping else self._warped_at

    def _frame_at(self, position: int) -> Decoded:
        """The frame at one position; frames of later positions that the decoder gives first are kept for later."""
        packet = self._index.anchors[self.gop][position]
        shown = self._index.frame_number(packet)
        while packet not in self._pending:
            started = perf_counter()
            number, frame = next(self._decoded, (None, None))
            self._decoder.decoding_seconds += perf_counter() - started
            if number is None:
                raise DecodeError(
                    f"{self._source}: frame {shown} cannot be decoded. Copy the file again, or repair it."
                )
            self._pending[number] = frame
            if len(self._pending) > MOST_PENDING:
                raise NeedsTranscoding(f"{self._source}: the decoder never outputs frame {shown}. Transcode the file.")
        return Decoded(self._pending.pop(packet), self._colours, self._size, self._source, shown)

    def vectors(self) -> Vectors:
        """int16 [N, 20] (see motion.py): the motion vectors of the frame at this position."""
        vectors = vectors_of(self.current.frame)
        left, top = self._index.crop
        if left or top:
            vectors = vectors - np.array([[0, 0, 0, left, top, left, top, *[0] * 13]], np.int16)
        return vectors

    def chain(self) -> Chain:
        """uint32 [H, W] (see motion.py), valid until the cursor moves: the chain to the I-frame."""
        assert self._follower is not None
        return self._follower.chain

    def warped(self) -> Rows:
        """uint8 [H, 3·W], RGB, valid until the cursor moves: the I-frame, warped along the chain."""
        assert self._follower is not None
        if self._warped_at != self.position:
            if self.position == 0:
                self._follower.start_warping(self.first.rows())
            else:
                gather(self.first.rows(), self._follower.chain, self._follower.warped)
            self._warped_at = self.position
        return self._follower.warped

    def previous_moved(self, follower: Follower) -> Rows:
        """uint8 [H, 3·W], RGB, valid until the cursor moves: the frame at the position before, moved by this frame's vectors."""
        self._warped_at = -1
        follower.start_warping(self.previous.rows())
        return follower.moved(self.vectors())


def keyframe_from(decoder: Decoder, index: VideoIndex, key: int) -> Any:
    """A single keyframe, decoded; the time is counted.

    Args:
        decoder: of the file.
        index: of the file.
        key: number of the keyframe in `index.keyframes`.

    Raises:
        DecodeError: it cannot be decoded.
    """
    started = perf_counter()
    frame = decoder.decode_keyframe(index, key)
    decoder.decoding_seconds += perf_counter() - started
    return frame
