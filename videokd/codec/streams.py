"""(video, gop, position) → Streams."""

from __future__ import annotations

import os
from collections.abc import Iterator
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
from av.video.reformatter import VideoReformatter

from videokd.codec.container import MOTION_CODECS, PictureDecoder, index_video
from videokd.codec.index import VideoIndex
from videokd.codec.motion import VECTOR, Chain, displacement, follow, is_valid, start_chain
from videokd.codec.residual import Picture, compensated_difference
from videokd.errors import ConfigError, DecodeError
from videokd.types import Gop, Streams

READABLE = ("iframe", "motion", "residual", "frame")
_DEFAULT = ("iframe", "motion", "residual")


class VideoReader:
    """The streams of one compressed video; `videokd.open` makes it, `with` closes it.

    A reader belongs to one thread. Reading forward goes on decoding where the last read stopped; any order gives the same
    arrays.
    """

    def __init__(self, path: str | os.PathLike[str], *, index: VideoIndex | None = None) -> None:
        self.path = path
        self.index = index if index is not None else index_video(path)
        self._decoder = PictureDecoder(path)
        self._colours = VideoReformatter()
        self._run: _Run | None = None

    codec = property(lambda self: self.index.codec, doc="FFmpeg's name of the codec.")
    width = property(lambda self: self.index.width, doc="In pixels.")
    height = property(lambda self: self.index.height, doc="In pixels.")
    frame_rate = property(lambda self: self.index.frame_rate, doc="Frames per second.")
    num_frames = property(lambda self: self.index.num_frames, doc="Frames that decoding the whole file gives.")
    exact = property(lambda self: self.index.exact, doc="False where a motion chain is an approximation.")

    @property
    def gops(self) -> tuple[Gop, ...]:
        """The groups of pictures, in order."""
        return self.index.gops

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file; a closed reader reads no more."""
        self._run = None
        self._decoder.close()

    def read(self, *, gop: int, position: int, streams: tuple[str, ...] = _DEFAULT, accumulate: bool = True) -> Streams:
        """The streams at one position.

        Args:
            gop: number of the GOP, from 0.
            position: 0 for its I-frame, then 1, 2, … for its P-frames.
            streams: which of iframe, motion, residual, frame; only the work for these is done.
            accumulate: motion and residual from the GOP's I-frame, or (False) from the position before.

        Raises:
            ConfigError: an unknown stream, or a GOP or position that the video does not have.
            DecodeError: the file is damaged, or its codec exports no motion vectors.
        """
        self._check(streams)
        if not 0 <= gop < len(self.gops):
            raise ConfigError(f"{self.path}: gop={gop} (accepted: 0 to {len(self.gops) - 1}). See `videokd inspect`.")
        if not 0 <= position < self.gops[gop].num_positions:
            last = self.gops[gop].num_positions - 1
            raise ConfigError(
                f"{self.path}: position={position} of GOP {gop} (accepted: 0 to {last}). See `videokd inspect`."
            )
        if position == 0 or set(streams) == {"iframe"}:
            return self._at_iframe(gop, position, streams)
        run = self._run_to(gop, position, chained=bool({"motion", "residual"} & set(streams)))
        return self._compose(run, streams, accumulate)

    def iterate(self, *, streams: tuple[str, ...] = _DEFAULT, accumulate: bool = True) -> Iterator[Streams]:
        """Every position of every GOP, in order, in one decoding pass; arguments and errors as in `read`."""
        self._check(streams)
        for gop in self.gops:
            for position in range(gop.num_positions):
                yield self.read(gop=gop.index, position=position, streams=streams, accumulate=accumulate)

    def _check(self, streams: tuple[str, ...]) -> None:
        unknown = [name for name in streams if name not in READABLE]
        if unknown or not streams:
            given = ", ".join(map(str, unknown)) or "nothing"
            raise ConfigError(f"streams: {given} (accepted: one or more of {', '.join(READABLE)}). Correct the names.")
        if {"motion", "residual"} & set(streams) and self.codec not in MOTION_CODECS:
            raise DecodeError(
                f"{self.path} is {self.codec}, which exports no motion vectors (accepted: {', '.join(MOTION_CODECS[:5])}, …). "
                "Run `videokd prepare folder` to transcode it."
            )

    def _run_to(self, gop: int, position: int, *, chained: bool) -> _Run:
        if self._run is None or not self._run.leads_to(gop, position, chained=chained):
            self._run = _Run(self._decoder, self.index, gop, self._colours, chained=chained)
        self._run.advance(gop, position)
        return self._run

    def _at_iframe(self, gop: int, position: int, streams: tuple[str, ...]) -> Streams:
        """Position 0, or the I-frame alone at any: the decoder goes no further than the I-frame."""
        shape = (self.height, self.width)
        wanted = {"iframe", "frame"} & set(streams)
        picture = self._iframe(gop, alone=set(streams) == {"iframe"}) if wanted else None
        return Streams(
            gop=gop,
            position=position,
            iframe=picture if "iframe" in streams else None,
            frame=picture.copy() if picture is not None and "frame" in streams else None,
            motion=np.zeros((*shape, 2), np.int16) if "motion" in streams else None,
            residual=np.zeros((*shape, 3), np.int16) if "residual" in streams else None,
            valid=np.ones(shape, np.bool_) if "motion" in streams else None,
        )

    def _iframe(self, gop: int, *, alone: bool) -> Picture:
        packet = self.index.anchors[gop][0]
        key = self.index.start_of(packet)
        running = self._run is not None and self._run.leads_to(gop, 0, chained=False)
        if not alone or running or self.index.keyframes[key][0] != packet:
            return self._run_to(gop, 0, chained=not alone).picture(0).copy()
        self._run = None
        frame = self._decoder.decode_alone(self.index, key)
        return _to_rgb(frame, self._colours)

    def _compose(self, run: _Run, streams: tuple[str, ...], accumulate: bool) -> Streams:
        residual = None
        if "residual" in streams:
            reference = run.picture(0 if accumulate else run.position - 1)
            residual = compensated_difference(run.picture(run.position), reference, run.chain(accumulate))
        return Streams(
            gop=run.gop,
            position=run.position,
            iframe=run.picture(0).copy() if "iframe" in streams else None,
            frame=run.picture(run.position).copy() if "frame" in streams else None,
            motion=displacement(run.chain(accumulate)) if "motion" in streams else None,
            residual=residual,
            valid=is_valid(run.chain(accumulate)) if "motion" in streams else None,
        )


def _to_rgb(frame: Any, colours: VideoReformatter) -> Picture:
    """uint8 [H, W, 3]. One reused converter with one thread: FFmpeg's default starts threads for each frame."""
    picture: Picture = np.ascontiguousarray(colours.reformat(frame, format="rgb24", threads=1).to_ndarray())
    return picture


class _Run:
    """A decoder on its way forward: the GOP and position it stands at, and the chain that led there."""

    def __init__(
        self, decoder: PictureDecoder, index: VideoIndex, gop: int, colours: VideoReformatter, *, chained: bool
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
        self._frames: dict[int, Any] = {}
        self._pictures: dict[int, Picture] = {}
        self._chain: Chain = start_chain(index.height, index.width)

    def leads_to(self, gop: int, position: int, *, chained: bool) -> bool:
        """Whether going on from here is possible, and no detour."""
        if chained and not self._chained:
            return False
        if gop <= self.gop:
            return gop == self.gop and position >= self.position
        return gop == self.gop + 1 or self._index.start_of(self._index.anchors[gop][0]) <= self._key

    def advance(self, gop: int, position: int) -> None:
        """Decodes up to a position that `leads_to` allows."""
        while (self.gop, self.position) < (gop, position):
            if self.position + 1 == len(self._index.anchors[self.gop]):
                self.gop, self.position = self.gop + 1, -1
            self._step()

    def _step(self) -> None:
        self.position += 1
        frame = self._await(self._index.anchors[self.gop][self.position])
        if self.position == 0:
            self._key = self._index.start_of(self._index.anchors[self.gop][0])
            self._frames, self._pictures = {}, {}
            self._chain = start_chain(self._index.height, self._index.width)
        elif self._chained:
            self._chain = follow(self._chain, _vectors(frame))
        for kept in (self._frames, self._pictures):
            for old in [p for p in kept if 0 < p < self.position - 1]:
                del kept[old]
        self._frames[self.position] = frame

    def _await(self, packet: int) -> Any:
        """The frame of one packet; frames of later positions that come before it wait their turn."""
        while packet not in self._pending:
            number, frame = next(self._decoded, (None, None))
            if number is None:
                shown = self._index.gops[self.gop].frame_numbers[self.position]
                raise DecodeError(f"{self._path}: frame {shown} cannot be decoded. Copy the file again, or repair it.")
            self._pending[number] = frame
        return self._pending.pop(packet)

    def chain(self, accumulate: bool) -> Chain:
        """The chain to the I-frame, or the one to the position before."""
        if accumulate:
            return self._chain
        return follow(start_chain(*self._chain.shape), _vectors(self._frames[self.position]))

    def picture(self, position: int) -> Picture:
        """uint8 [H, W, 3], RGB, at position 0, the one before, or this one; converted once."""
        if position not in self._pictures:
            self._pictures[position] = _to_rgb(self._frames[position], self._colours)
        return self._pictures[position]


def _vectors(frame: Any) -> npt.NDArray[np.void] | None:
    """The frame's motion vectors, a view that is good as long as the frame is kept."""
    side_data = frame.side_data.get("MOTION_VECTORS")
    return None if side_data is None else np.frombuffer(side_data, dtype=VECTOR)


def open_video(path: str | os.PathLike[str], *, index: VideoIndex | None = None) -> VideoReader:
    """Opens a video to read what its codec computed; `videokd.open`.

    Args:
        path: a file in any container and codec that FFmpeg reads.
        index: of this very file, from a manifest; without it the file is scanned once.

    Raises:
        DecodeError: the file is missing, empty, cut short, damaged, or no video.

    >>> with videokd.open("clip.mp4") as video:            # doctest: +SKIP
    ...     streams = video.read(gop=3, position=5)
    ...     streams.motion.shape
    (256, 340, 2)
    """
    return VideoReader(path, index=index)
