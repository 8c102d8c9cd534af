"""Reads the streams of a video: (GOP, position) → Streams."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cached_property
from operator import index
from typing import Any

import numpy as np
import numpy.typing as npt

from videokd.bitstream.source import Openable, Source, source_of
from videokd.codec.assembly import first_streams, streams_at
from videokd.codec.colours import Colours
from videokd.codec.container import MOTION_CODECS
from videokd.codec.cursor import Cursor, Decoded, keyframe_from
from videokd.codec.frames import decode_frames
from videokd.codec.index import Limits, VideoIndex
from videokd.codec.indexed_decoder import Decoder, open_decoder
from videokd.codec.indexing import check_index, open_indexed
from videokd.codec.stacking import Size, Stack, pairs_of
from videokd.drawing.notebook import video_png
from videokd.errors import ConfigError, NeedsTranscoding
from videokd.kernels.motion import Chain, Follower
from videokd.types import Frame, Gop, Streams

READABLE = ("iframe", "motion", "residual", "frame")
_DEFAULT = ("iframe", "motion", "residual")
_ONLY_IFRAME = {"iframe"}
_CHAINED = {"motion", "residual"}
_PICTURES = {"iframe", "frame"}
_FROM_PICTURES = {"iframe", "frame", "residual"}
# iframe 3, frame 3, motion 4, residual 6, valid 1
_OUTPUT_BYTES_PER_PIXEL = 17
_LARGEST_KEPT = (32 << 20) - (1 << 16)


class VideoReader:
    """The streams of one compressed video; `videokd.open` makes it, `with` closes it.

    Use a reader in one thread only; a forked process may go on with it. Reading forward is fastest: decoding continues where the last read stopped. Any order gives
    the same arrays, except in damaged files: there FFmpeg conceals errors with what it decoded before. As long as only motion
    is read, the decoder skips the pictures, which is faster.

    Args:
        path: of a file, or bytes, or a file object; any container and codec that FFmpeg reads.
        index: of this file, from a manifest; None: the file is scanned once.
        limits: what to refuse; None: the defaults of `Limits`.

    Raises:
        DecodeError: as for `open_video`.
    """

    def __init__(
        self, path: Openable | Source, *, index: VideoIndex | None = None, limits: Limits | None = None
    ) -> None:
        self.source = source_of(path)
        self.index: VideoIndex
        self._decoder: Decoder
        self._closed = False
        self._colours = Colours()
        self._cursor: Cursor | None = None
        self._iframe: tuple[int, Decoded] | None = None
        self._turn: object = None  # whose turn it is to move the decoder, while frames are read
        limits = limits or Limits()
        if index is None:
            self._decoder, self.index = open_indexed(self.source, limits=limits)
        else:
            check_index(index, self.source, limits)
            self._decoder, self.index = open_decoder(self.source, index, limits=limits), index
        _keep_freed_memory(self.index)

    def __repr__(self) -> str:
        index, state = self.index, "closed" if self._closed else "exact" if self.exact else "not exact"
        return (
            f"VideoReader({self.source.name!r}: {self.codec}, {self.width}×{self.height}, {self.num_frames} frames in "
            f"{index.duration_seconds:.2f} s, {len(self.gops)} GOPs, {state})"
        )

    _repr_png_ = video_png
    codec = property(lambda self: self.index.codec, doc="FFmpeg's name of the codec.")
    width = property(lambda self: self.index.width, doc="In pixels.")
    height = property(lambda self: self.index.height, doc="In pixels.")
    frame_rate = property(lambda self: self.index.frame_rate, doc="Frames per second.")
    num_frames = property(lambda self: self.index.num_frames, doc="Frames that decoding the whole file gives.")
    decoding_seconds = property(lambda self: self._decoder.decoding_seconds, doc="Waited for frames, with their bytes.")
    exact = property(lambda self: self.index.exact, doc="False where a motion chain is an approximation.")

    @cached_property
    def _follower(self) -> Follower:
        return Follower(self.index.height, self.index.width)

    @property
    def gops(self) -> tuple[Gop, ...]:
        """The groups of pictures, in order."""
        return self.index.gops

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def cut_gops(self, num_frames: int) -> None:
        """Reads the video from now on as if its GOPs were shorter: long ones are cut into "virtual" GOPs (see `VideoIndex.cut`).

        `gops` then has more GOPs, and `iframe` is the decoded P-frame where a virtual one begins. An `iterate` that has begun cannot go on.

        Args:
            num_frames: from the start of one GOP to that of the next, such as 12, as in prepared clips.

        Raises:
            ConfigError: `num_frames` is not a whole number from 1 on.
        """
        self.index = self.index.cut(num_frames)
        self._cursor = self._iframe = None

    def close(self) -> None:
        """Closes the file; reading from a closed reader raises ConfigError."""
        self._closed = True
        self._cursor = self._iframe = self._turn = None
        self._decoder.close()

    def read(self, *, gop: int, position: int, streams: tuple[str, ...] = _DEFAULT, accumulate: bool = True) -> Streams:
        """The streams at one position.

        Args:
            gop: number of the GOP, from 0.
            position: 0 for its I-frame, then 1, 2, … for its P-frames.
            streams: one or more of iframe, motion, residual, frame; what the others need is not computed.
            accumulate: motion and residual relative to the GOP's I-frame, or (False) to the position before.

        Returns:
            The streams that were asked for; `valid` comes with motion. The arrays belong to the caller, except `iframe`: the positions of a
            GOP share one array, which is read-only. `streams.iframe.copy()` can be written to.

        Raises:
            ConfigError: an unknown stream, a GOP or position that the video does not have, or a closed reader.
            NeedsTranscoding: the codec exports no motion vectors, and motion or residual were asked for.
            DecodeError: the file is damaged.
        """
        wanted = self._check(streams)
        self._check_place(gop, position)
        return self._read(gop, position, wanted, accumulate)

    def iterate(self, *, streams: tuple[str, ...] = _DEFAULT, accumulate: bool = True) -> Iterator[Streams]:
        """Reads every position of every GOP, in order, in one decoding pass.

        Args:
            streams: as for `read`.
            accumulate: as for `read`.

        Yields:
            The streams at each position. All positions of a GOP have the same array as `iframe`, which is read-only.

        Raises:
            ConfigError, DecodeError: as for `read`.
        """
        wanted, gops = self._check(streams), self.gops
        for gop in gops:
            for position in range(gop.num_positions):
                if self.gops is not gops:
                    raise ConfigError(f"{self.source}: its GOPs were cut while it was read. Start `iterate` again.")
                yield self._read(gop.index, position, wanted, accumulate)

    def stack(
        self,
        positions: Sequence[tuple[int, int]],
        streams: tuple[str, ...] = _DEFAULT,
        *,
        dtype: npt.DTypeLike = "uint8",
        size: Size = None,
        out: Mapping[str, npt.NDArray[Any]] | None = None,
    ) -> dict[str, npt.NDArray[Any]]:
        """Reads many positions into one block for each stream, ready for networks: less time and memory than to build it from `Streams`.

        PyTorch and JAX take the blocks without a copy: `torch.from_dlpack(blocks["motion"])`, `jax.dlpack.from_dlpack(…)`.

        Args:
            positions: S pairs (gop, position), in any order, repeated or not. They are decoded in file order, each once.
            streams: as for `read`; motion and residual are accumulated.
            dtype: of motion and residual. uint8: quantised as the input of a network, clip(trunc(value · gain) + offset, 0, 255), with
                gain 6.375 and offset 128 for motion, gain 1 and offset 128 for residual, as in training. int16: their own units, the
                values of `Streams`. iframe and frame are uint8 in both cases.
            size: of the pictures in the blocks, which show the whole picture: None, the video's; (height, width) in pixels; or one number,
                the short side in pixels. Values are quantised first, then resized, bilinear with antialiasing; they are not scaled
                with the picture.
            out: {stream: block} to fill, of the shapes and types that are returned, C-contiguous, which saves the time
                that new memory costs; None: new blocks. After an error some of it may be written.

        Returns:
            {stream: uint8 or int16 [S, C, height, width]}, C-contiguous; `out`'s own blocks where it is given.

        Raises:
            ConfigError: no positions, or as for `read`; another type or size; `out` does not fit.
            NeedsTranscoding, DecodeError: as for `read`.
        """
        wanted = self._check(streams)
        numbers: dict[tuple[int, int], list[int]] = {}
        pairs = pairs_of(positions, self.source)
        for number, place in enumerate(pairs):
            numbers.setdefault(self._check_place(*place), []).append(number)
        stack = Stack(streams, len(pairs), (self.index.height, self.index.width), dtype=dtype, size=size, out=out)
        self._turn = None
        try:
            self._set_output(wanted)
            for place in sorted(numbers):  # file order
                stack.fill(numbers[place], *self._decoded_for(*place, wanted))
        except BaseException:
            self._cursor = None  # an error may leave it between two frames
            raise
        return stack.blocks

    def frames(self, *, vectors: bool = True, pictures: bool = False) -> Iterator[Frame]:
        """Reads every frame in display order, B-frames included, with its motion vectors as FFmpeg exports them.

        As long as no pictures are read, the decoder skips them, which is faster. `read` may be called in between: decoding then
        starts again at the keyframe before the next frame.

        Args:
            vectors: whether to give motion vectors.
            pictures: whether to give the decoded pictures, RGB.

        Yields:
            Each frame; its arrays belong to the caller.

        Raises:
            ConfigError: the reader is closed.
            NeedsTranscoding: the codec exports no motion vectors, and they were asked for.
            DecodeError: the file is damaged.
        """
        number = 0
        while number < self.num_frames:
            self._check(("motion",) if vectors else ("frame",))
            self._decoder.set_output(pictures=pictures or self.index.vectors_need_pictures)
            self._cursor = None
            turn = self._turn = object()
            for frame in decode_frames(
                self._decoder, self.index, self._colours, first=number, vectors=vectors, pictures=pictures
            ):
                yield frame
                number += 1
                if self._turn is not turn:
                    break

    def _check(self, streams: tuple[str, ...]) -> frozenset[str]:
        wanted = frozenset(streams if isinstance(streams, Collection) and not isinstance(streams, str) else ())
        if not wanted or not wanted.issubset(READABLE):
            given = ", ".join(map(str, wanted.difference(READABLE)))
            given = given or (repr(streams) if isinstance(streams, str) else "nothing")
            raise ConfigError(f"streams: {given} (accepted: one or more of {', '.join(READABLE)}, in a tuple).")
        if wanted & _CHAINED and self.codec not in MOTION_CODECS:
            raise NeedsTranscoding(
                f"{self.source} is {self.codec}, which exports no motion vectors (accepted: {', '.join(MOTION_CODECS[:5])}, …). "
                "Run `videokd prepare folder` to transcode it."
            )
        if self._closed:
            raise ConfigError(f"{self.source} is closed (accepted: an open reader). Read inside its `with` block.")
        return wanted

    def _check_place(self, gop: int, position: int) -> tuple[int, int]:
        for name, number in (("gop", gop), ("position", position)):
            if not hasattr(number, "__index__"):
                raise ConfigError(f"{self.source}: {name}={number!r:.40} (accepted: a whole number). Correct it.")
        if not 0 <= gop < len(self.gops):
            raise ConfigError(f"{self.source}: gop={gop} (accepted: 0 to {len(self.gops) - 1}). See `videokd inspect`.")
        if not 0 <= position < self.gops[gop].num_positions:
            accepted = f"(accepted: 0 to {self.gops[gop].num_positions - 1}). See `videokd inspect`."
            raise ConfigError(f"{self.source}: position={position} of GOP {gop} {accepted}")
        return index(gop), index(position)

    def decoded_at(self, gop: int, position: int, streams: tuple[str, ...]) -> tuple[Decoded, Decoded, Chain | None]:
        """What `read` computes accumulated streams from, for those who need only a part of the picture.

        Args:
            gop: number of the GOP, from 0.
            position: in that GOP.
            streams: as for `read`; what they do not need may be wrong.

        Returns:
            The I-frame, the frame, and the chain of vectors between them (uint32 [H, W], see motion.py), valid until the next call.

        Raises:
            ConfigError, DecodeError: as for `read`.
        """
        wanted = self._check(streams)
        try:
            self._set_output(wanted)
            if wanted == _ONLY_IFRAME:
                iframe = self._only_iframe(gop)
                return iframe, iframe, None
            chained = not wanted.isdisjoint(_CHAINED)
            cursor = self._cursor_at(gop, position, chained=chained, warping=False)
            return cursor.first, cursor.current, cursor.chain() if chained else None
        except BaseException:
            self._cursor = None  # an error may leave it between two frames
            raise

    def _set_output(self, wanted: frozenset[str]) -> None:
        # Where a decoder corrects an old encoder's errors, vectors may depend on pictures
        pictures = self.index.vectors_need_pictures or not wanted.isdisjoint(_FROM_PICTURES)
        if self._decoder.set_output(pictures=pictures):
            self._cursor = None

    def _read(self, gop: int, position: int, wanted: frozenset[str], accumulate: bool) -> Streams:
        self._turn = None
        try:
            self._set_output(wanted)
            if wanted == _ONLY_IFRAME:
                return Streams(gop=gop, position=position, iframe=self._only_iframe(gop).shared_image())
            chained = accumulate and not wanted.isdisjoint(_CHAINED)
            size = self.index.height, self.index.width
            if position == 0:  # nothing is decoded if no picture is wanted
                pictures = not wanted.isdisjoint(_PICTURES)
                first = self._cursor_at(gop, 0, chained=chained, warping=False).first if pictures else None
                return first_streams(gop, size, first, wanted)
            cursor = self._cursor_at(gop, position, chained=chained, warping=chained and "residual" in wanted)
            return streams_at(cursor, size, wanted, None if accumulate else self._follower)
        except BaseException:
            self._cursor = None  # an error may leave it between two frames
            raise

    def _decoded_for(self, gop: int, position: int, wanted: frozenset[str]) -> tuple[Decoded | None, Cursor | None]:
        """The GOP's first frame, None if no picture is wanted; and a cursor at the position, None at position 0, where nothing has moved."""
        if wanted == _ONLY_IFRAME:
            return self._only_iframe(gop), None
        if position == 0 and wanted.isdisjoint(_PICTURES):
            return None, None
        chained = not wanted.isdisjoint(_CHAINED)
        warping = position > 0 and "residual" in wanted
        cursor = self._cursor_at(gop, position, chained=chained, warping=warping)
        return cursor.first, cursor if position > 0 else None

    def _cursor_at(self, gop: int, position: int, *, chained: bool, warping: bool) -> Cursor:
        cursor = self._cursor
        if cursor is None or not cursor.leads_to(gop, position, chained=chained):
            cursor = self._cursor = Cursor(
                self._decoder, self.index, gop, self._colours, self._follower if chained else None
            )
        cursor.advance(gop, position, warping=warping)
        return cursor

    def _only_iframe(self, gop: int) -> Decoded:
        """The I-frame of a GOP; nothing else is decoded if it is a keyframe."""
        if self._iframe is not None and self._iframe[0] == gop:
            return self._iframe[1]
        packet = self.index.anchors[gop][0]
        key = self.index.start_of(packet)
        on_the_way = self._cursor is not None and self._cursor.leads_to(gop, 0, chained=False)
        if on_the_way or self.index.keyframes[key][0] != packet:
            decoded = self._cursor_at(gop, 0, chained=False, warping=False).first
        else:
            self._cursor = None
            frame, number = keyframe_from(self._decoder, self.index, key), self.index.gops[gop].frame_numbers[0]
            decoded = Decoded(frame, self._colours, self._decoder.frame_size(self.index), self._decoder.source, number)
        self._iframe = (gop, decoded)
        return decoded


def _keep_freed_memory(index: VideoIndex) -> None:
    """Makes glibc keep freed memory, so that the arrays of one position reuse that of the arrays before.

    By default glibc returns large freed blocks to the system, and every page of the next array costs a page fault: a quarter
    of the time of reading MPEG-4. But it keeps blocks up to the size (at most 32 MiB) of the largest one that it has ever mapped
    and freed. So one such block is mapped and freed here.
    """
    wanted = 4 * index.width * index.height * _OUTPUT_BYTES_PER_PIXEL
    np.empty(min(wanted, _LARGEST_KEPT), np.uint8)


def open_video(
    path: Openable | Source, *, index: VideoIndex | None = None, limits: Limits | None = None
) -> VideoReader:
    """Opens a video to read its I-frames, motion and residuals; `videokd.open`.

    Args:
        path: of a file, in any container and codec that FFmpeg reads; or the bytes of one; or a file object, which is anything
            with `read` and `seek` that is open in binary mode, such as a file of fsspec. A file object is read from its first byte
            and never closed; close it after the reader. While a reader is open, its position changes with each read.
        index: of this file, from a manifest; None: the file is scanned once.
        limits: what to refuse; None: the defaults of `videokd.codec.index.Limits`, which are pictures above 8192 pixels on a
            side, GOPs above 10,000 frames, and videos of which a reader would keep more than 1 GiB.

    Returns:
        The reader; close it, or use it in a `with` block. It cannot be pickled: to read in another process, hand over the path or the
        bytes, and `reader.index` so that nothing is scanned twice, and open it there. Processes and threads must not share a file object.

    Raises:
        DecodeError: the file is missing, empty, cut short, damaged, not a video, or exceeds a limit; or the file object cannot seek.
        ConfigError: `path` is none of the three.

    >>> with videokd.open("clip.mp4") as video:            # doctest: +SKIP
    ...     streams = video.read(gop=3, position=5)
    ...     streams.motion.shape
    (256, 340, 2)
    """
    return VideoReader(path, index=index, limits=limits)
