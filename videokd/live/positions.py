"""Positions of a live stream: packets in; GOPs, positions and the chain of motion vectors out, with the values that `videokd.open` gives.

What differs from a file: nothing is indexed and nothing is sought; GOPs have no known end; and what arrives may be damaged. After damage,
positions are left out until an I-frame comes.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import av
import numpy as np

from videokd.bitstream.decoder_state import CarriedState
from videokd.bitstream.h264_headers import PictureNumbers
from videokd.bitstream.header_reader import HeaderReader
from videokd.bitstream.picture_types import picture_type
from videokd.codec.container import LOSES_LAST_VECTORS, MOTION_CODECS, vectors_of
from videokd.codec.cursor import MOST_PENDING
from videokd.codec.index import DEFAULT_LIMITS
from videokd.errors import DecodeError
from videokd.kernels.motion import Chain, Follower, Vectors

# A stream that has no I-frames refreshes its pictures bit by bit: after so many seconds without one, any picture is taken for whole
_LONGEST_WAIT = 15.0
# What one stream may keep: a chain and its successor, RGB of two pictures, and decoded pictures
_BYTES_PER_PIXEL = 29
_MOST_BYTES = DEFAULT_LIMITS.reader_bytes
# Pictures whose times are kept, to count those between two: more than a GOP that is cut can have
_MOST_COUNTED = 2048


@dataclass(frozen=True)
class LivePosition:
    """One position of a stream, valid until the next one is asked for.

    Args:
        gop: number of the GOP, from 0; those between which a long GOP is cut count too.
        position: in the GOP, from 0.
        seconds: stream time.
        arrived: when its packet came, by the clock of `time.monotonic`.
        first: the GOP's first picture, decoded.
        current: the picture at the position, decoded.
        chain: the chain of vectors between them (see motion.py); None at position 0, and where nobody wants it.
    """

    gop: int
    position: int
    seconds: float
    arrived: float
    first: Any
    current: Any
    chain: Chain | None


class PositionReader:
    """Decodes packets, and follows GOPs.

    `damaged_seconds` is the stream time that was left out because of damage.

    Args:
        context: the decoder, which exports vectors.
        chained: whether chains are wanted.
        gop: pictures after which a GOP is cut, as `VideoIndex.cut` does; None: never.
    """

    def __init__(self, context: Any, *, chained: bool, gop: int | None) -> None:
        self._context = context
        self._chained = chained and context.name in MOTION_CODECS
        self._gop_frames = gop
        extradata = context.extradata or b""
        self._headers = HeaderReader(context.name, extradata)
        self._state = CarriedState(context.name, extradata, context.pix_fmt or "")
        self._numbers = PictureNumbers(extradata) if context.name == "h264" else None
        self._waiting: dict[
            int, tuple[float, float, bool]
        ] = {}  # {packet: (seconds, when it came, whether it is corrupt)}
        self._times: list[float] = []  # of pictures from the start of the GOP, in the order in which they are shown
        self._number = -1
        self._whole = False  # whether pictures are undamaged since the last I-frame
        self._bad_from = 0  # packets from this one on are damaged until an I-frame; pictures before it may still come
        self._damaged_since: float | None = None
        self._was_skipped = False  # whether that is because packets were left out
        self._first: Any = None
        self._gop, self._position, self._start = -1, 0, 0.0
        self._follower: Follower | None = None
        self._latest = 0.0  # seconds of the last picture that was decoded
        self.damaged_seconds = 0.0

    def feed(self, packet: Any, seconds: float, arrived: float) -> Iterator[LivePosition]:
        """Decodes the next packet.

        Args:
            packet: as PyAV gives it.
            seconds: its stream time.
            arrived: when it came.

        Yields:
            Each position that the decoder gives.

        Raises:
            DecodeError: its pictures need too much memory.
        """
        self._number += 1
        data = bytes(packet)
        kind = self._headers.read(data, keyframe=packet.is_keyframe)
        _, changes = self._state.take(data, keyframe=packet.is_keyframe)
        self._note(seconds, shown=kind != "-")
        missed = self._numbers is not None and self._numbers.misses(data, keyframe=packet.is_keyframe)
        if packet.is_corrupt or missed:
            self._damage(seconds)
        if kind == "b" and not changes and self._context.name == "h264":
            return  # no picture refers to it, and it is no position
        self._waiting[self._number] = seconds, arrived, packet.is_corrupt
        if len(self._waiting) > MOST_PENDING:
            del self._waiting[min(self._waiting)]
        packet.pts = packet.dts = self._number
        yield from self._decode(packet, seconds)

    def flush(self) -> Iterator[LivePosition]:
        """Yields the positions that the decoder still holds, at the end of the stream; not those that it gives without their vectors."""
        if self._context.is_open and self._context.name not in LOSES_LAST_VECTORS:
            yield from self._decode(None, self._latest)

    def skip(self, seconds: float) -> None:
        """Packets were left out: positions begin again at an I-frame, and the time until then is no damage.

        Args:
            seconds: stream time of the next packet.
        """
        self._count_damage(seconds)
        self._damage(seconds)
        self._was_skipped = True
        if self._context.is_open:
            self._context.flush_buffers()

    def _note(self, seconds: float, *, shown: bool) -> None:
        if shown and self._gop_frames is not None:
            insort(self._times, seconds)
            del self._times[:-_MOST_COUNTED]

    def _damage(self, seconds: float) -> None:
        """What is decoded from the newest packet on is damaged."""
        if self._damaged_since is None:
            self._damaged_since, self._bad_from = seconds, max(self._number, 0)

    def _count_damage(self, until: float) -> None:
        """Counts the stream time that is left out because of damage up to now, and ends it."""
        if self._damaged_since is not None and self._first is not None and not self._was_skipped:
            self.damaged_seconds += max(until - self._damaged_since, 0.0)
        self._damaged_since, self._was_skipped = None, False

    def _decode(self, packet: Any, seconds: float) -> Iterator[LivePosition]:
        try:
            frames = self._context.decode(packet)
        except av.error.EOFError:
            return
        except (av.FFmpegError, OSError, ValueError):
            self._damage(seconds)
            return
        for frame in frames:
            number = frame.pts
            known = self._waiting.pop(number, None) if number is not None else None
            if known is None:
                continue
            self._latest = known[0]
            if self._damaged_since is not None and number >= self._bad_from:
                self._whole = False
            position = self._take(frame, *known[:2], corrupt=known[2] or frame.is_corrupt)
            if position is not None:
                yield position

    def _take(self, frame: Any, seconds: float, arrived: float, *, corrupt: bool) -> LivePosition | None:
        """The position of a decoded picture; None for a B-frame, and for one that is damaged."""
        kind = picture_type(frame)
        if kind == "B":
            return None
        another_size = self._first is not None and (frame.width, frame.height) != (
            self._first.width,
            self._first.height,
        )
        if corrupt or (another_size and kind != "I"):
            self._whole = False
        if not corrupt and (kind == "I" or self._is_cut(seconds) or self._has_waited(seconds)):
            self._begin(frame, seconds)
        elif not self._whole:
            self._damage(seconds)
            return None
        else:
            self._position += 1
            if self._follower is not None:
                self._follower.follow(self._vectors(frame), warping=False)
        chain = self._follower.chain if self._follower is not None else None
        return LivePosition(self._gop, self._position, seconds, arrived, self._first, frame, chain)

    def _is_cut(self, seconds: float) -> bool:
        """Whether a P-frame begins a GOP: it is shown so many pictures after the start of the last one."""
        if self._gop_frames is None or not self._whole:
            return False
        return bisect_right(self._times, seconds) - bisect_right(self._times, self._start) >= self._gop_frames

    def _has_waited(self, seconds: float) -> bool:
        since = self._damaged_since
        return not self._whole and since is not None and seconds - since >= _LONGEST_WAIT

    def _begin(self, frame: Any, seconds: float) -> None:
        """A GOP begins with a picture."""
        if not self._whole:
            self._count_damage(seconds)
        if frame.width * frame.height * _BYTES_PER_PIXEL > _MOST_BYTES:
            needed, accepted = frame.width * frame.height * _BYTES_PER_PIXEL >> 20, _MOST_BYTES >> 20
            raise DecodeError(
                f"its pictures of {frame.width}×{frame.height} take {needed} MiB to read (accepted: up to {accepted} MiB). Send smaller ones."
            )
        self._whole = True
        before = self._first
        self._first, self._start = frame, seconds
        self._gop, self._position = self._gop + 1, 0
        del self._times[: bisect_right(self._times, seconds) - 1]
        if not self._chained:
            return
        if self._follower is None or before is None or (before.width, before.height) != (frame.width, frame.height):
            self._follower = Follower(frame.height, frame.width)
        self._follower.restart()

    def _vectors(self, frame: Any) -> Vectors:
        vectors = vectors_of(frame)
        left, top = self._headers.sequence.crop if self._headers.sequence is not None else (0, 0)
        if left or top:
            vectors = vectors - np.array([[0, 0, 0, left, top, left, top, *[0] * 13]], np.int16)
        return vectors
