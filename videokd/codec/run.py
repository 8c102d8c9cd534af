"""A decoder on its way forward through a video, and the chain of motion vectors that led to where it stands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from videokd.codec.container import Colours, PictureDecoder, vectors_of
from videokd.codec.index import VideoIndex
from videokd.codec.motion import Chain, Follower, Rows, start_chain
from videokd.codec.residual import gather
from videokd.errors import DecodeError

#: uint8 [H, W, 3], RGB.
Picture = npt.NDArray[np.uint8]


class Decoded:
    """A decoded frame, converted to RGB when that is first asked for.

    Args:
        frame: what PyAV gave.
        colours: the converter.
        path: of the file, for messages.
        number: of the frame in display order, for messages.
    """

    __slots__ = ("_colours", "_rows", "_where", "frame")

    def __init__(self, frame: Any, colours: Colours, path: Path, number: int) -> None:
        self.frame = frame
        self._colours = colours
        self._where = (path, number)
        self._rows: Rows | None = None

    def rows(self) -> Rows:
        """uint8 [H, 3·W or a little more], not to be written to."""
        if self._rows is None:
            try:
                self._rows = self._colours.rows(self.frame)
            except DecodeError as error:
                raise DecodeError(f"{self._where[0]}: frame {self._where[1]}: {error}") from error
        return self._rows

    def image(self) -> Picture:
        """uint8 [H, W, 3], RGB, the caller's own."""
        width = self.frame.width
        return self.rows()[:, : 3 * width].copy().reshape(-1, width, 3)


class Run:
    """A decoder on its way forward: the GOP and position it stands at, and the chain that led there.

    Args:
        decoder: of this file; it is moved.
        index: of this file.
        gop: where to start.
        colours: the converter.
        chained: whether motion vectors are followed.
    """

    def __init__(
        self, decoder: PictureDecoder, index: VideoIndex, gop: int, colours: Colours, *, chained: bool
    ) -> None:
        self._index = index
        self._path = decoder.path
        self._colours = colours
        self._chained = chained
        self._pending: dict[int, Any] = {}
        self._key = index.start_of(index.anchors[gop][0])
        self._decoded = decoder.decode_from(index, self._key)
        # A GOP whose I-frame is no keyframe is decoded from an earlier GOP on; that one may begin before the keyframe
        first = index.keyframes[self._key][0]
        self.gop = next(g for g in range(gop + 1) if index.anchors[g][0] >= first)
        self.position = -1
        self.first: Decoded
        self.previous: Decoded
        self.current: Decoded
        self._follower = Follower(index.height, index.width)
        self._identity = start_chain(index.height, index.width)
        self._chain, self._next_chain = (np.empty_like(self._identity) for _ in range(2))
        self._warped, self._next_warped = (np.empty((index.height, 3 * index.width), np.uint8) for _ in range(2))
        self._warped_at = -1

    def leads_to(self, gop: int, position: int, *, chained: bool) -> bool:
        """Whether going on from here is possible, and no detour."""
        if chained and not self._chained:
            return False
        if gop <= self.gop:
            return gop == self.gop and position >= self.position
        return gop == self.gop + 1 or self._index.start_of(self._index.anchors[gop][0]) <= self._key

    def advance(self, gop: int, position: int, *, carried: bool) -> None:
        """Decodes up to a position that `leads_to` allows.

        Args:
            gop: number of the GOP.
            position: in that GOP.
            carried: whether the residual there will be asked for. If it is the very next position, the warped I-frame is
                carried on block by block; after several, gathering it once is cheaper.
        """
        carried &= gop == self.gop and position == self.position + 1 and position > 0
        while (self.gop, self.position) < (gop, position):
            if self.position + 1 == len(self._index.anchors[self.gop]):
                self.gop, self.position = self.gop + 1, -1
            self._step(carried)

    def _step(self, carried: bool) -> None:
        if carried:
            self._warp()
        self.position += 1
        decoded = self._await(self.position)
        if self.position == 0:
            self._key = self._index.start_of(self._index.anchors[self.gop][0])
            self.first = self.previous = self.current = decoded
            self._warped_at = -1
            if self._chained:
                np.copyto(self._chain, self._identity)
            return
        self.previous, self.current = self.current, decoded
        if not self._chained:
            return
        if carried:
            self._follower.follow(
                self._chain, vectors_of(decoded.frame), self._next_chain, self._warped, self._next_warped
            )
            self._warped, self._next_warped = self._next_warped, self._warped
            self._warped_at = self.position
        else:
            self._follower.follow(self._chain, vectors_of(decoded.frame), self._next_chain)
        self._chain, self._next_chain = self._next_chain, self._chain

    def _await(self, position: int) -> Decoded:
        """The frame at one position; frames of later positions that come before it wait their turn."""
        packet = self._index.anchors[self.gop][position]
        while packet not in self._pending:
            number, frame = next(self._decoded, (None, None))
            if number is None:
                shown = self._index.gops[self.gop].frame_numbers[position]
                raise DecodeError(f"{self._path}: frame {shown} cannot be decoded. Copy the file again, or repair it.")
            self._pending[number] = frame
        frame = self._pending.pop(packet)
        shown = self._index.gops[self.gop].frame_numbers[position]
        if (frame.width, frame.height) != (self._index.width, self._index.height):
            raise DecodeError(
                f"{self._path}: frame {shown} is {frame.width}×{frame.height} (accepted: {self._index.width}×"
                f"{self._index.height}, as its index says). Transcode files that change their size: `videokd prepare folder`."
            )
        return Decoded(frame, self._colours, self._path, shown)

    def compensation(self, *, accumulate: bool, warp: bool) -> tuple[Chain, Rows | None]:
        """The chain to the I-frame, or the one to the position before, and the picture there, warped along it.

        Args:
            accumulate: to the I-frame.
            warp: whether the picture is needed.

        Returns:
            chain [H, W], and uint8 [H, 3·W] or None; good until the run goes on.
        """
        if accumulate:
            if warp:
                self._warp()
            return self._chain, self._warped if warp else None
        vectors = vectors_of(self.current.frame)
        if not warp:
            self._follower.follow(self._identity, vectors, self._next_chain)
            return self._next_chain, None
        self._warped_at = -1
        np.copyto(self._warped, self.previous.rows()[:, : self._warped.shape[1]])
        self._follower.follow(self._identity, vectors, self._next_chain, self._warped, self._next_warped)
        return self._next_chain, self._next_warped

    def _warp(self) -> None:
        """Brings the warped I-frame to where the chain is."""
        if self._warped_at == self.position:
            return
        if self.position == 0:
            np.copyto(self._warped, self.first.rows()[:, : self._warped.shape[1]])
        else:
            gather(self.first.rows(), self._chain, self._warped)
        self._warped_at = self.position
