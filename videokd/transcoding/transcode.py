"""Transcodes any video into the training form: an MP4 with short GOPs of fixed length, only I- and P-frames, and one small size."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import chain, islice
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from videokd.bitstream.completeness import PacketCheck
from videokd.bitstream.frame_rate import RateMeter, longest_gap, rate_of
from videokd.bitstream.orientation import orientation_of
from videokd.bitstream.picture_types import picture_type
from videokd.bitstream.source import Openable, Source, source_of
from videokd.codec.opening import demuxed, open_container, reason
from videokd.errors import DataError, DecodeError
from videokd.files import written_whole
from videokd.transcoding.mp4_writer import LONGEST_SIDE, Encoding, Writer, clock


@dataclass(frozen=True)
class SourceForm:
    """How a video was encoded before it was transcoded: a network could learn that instead of the action.

    Args:
        codec: FFmpeg's name of the decoder.
        frame_rate: pictures a second, as its timestamps say; 0 if it is not known.
        types: the type of each picture in display order: I, P, B, S (global motion), or - if the decoder names none.
        num_written: pictures in the transcoded file; as many as the source has, unless it was resampled.
    """

    codec: str
    frame_rate: float
    types: str = field(repr=False)
    num_written: int

    @property
    def num_frames(self) -> int:
        """Number of pictures."""
        return len(self.types)


def transcode(source: Openable | Source, target: Path | str, encoding: Encoding | None = None) -> SourceForm:
    """Transcodes a video into the training form; the same input gives the same bytes.

    Every picture is kept, in display order, unless `encoding.resample` is set. Sound is dropped; rotation and pixel aspect are
    applied. The target gets its name only when it is complete.

    Args:
        source: path, bytes or file object; any file that FFmpeg reads.
        target: the MP4 to write; its folder is made if it is missing.
        encoding: how pictures are encoded; None: the defaults.

    Returns:
        How the source was encoded, and how many pictures were written.

    Raises:
        DecodeError: the source is missing, not a video, without pictures, damaged or cut off.
        DataError: the target cannot be written, or is the source.
    """
    encoding = encoding or Encoding()
    origin, target = _absolute(source), Path(os.path.abspath(target))
    container, stream = open_container(origin)
    with container:
        if origin.path is not None and target.exists() and target.samefile(origin.path):
            raise DataError(f"{target}: source and target are the same file. Give the target another name or folder.")
        return _transcode_opened(origin, container, stream, target, encoding)


def _absolute(source: Openable | Source) -> Source:
    """A path as an absolute one, which messages show."""
    return source_of(os.path.abspath(source) if isinstance(source, (str, os.PathLike)) else source)


def _transcode_opened(
    source: Source, container: Any, stream: VideoStream, target: Path, encoding: Encoding
) -> SourceForm:
    """Transcodes an open file."""
    with written_whole(target) as temporary:
        rate, meter = rate_of(stream), RateMeter(stream)
        types: list[str] = []
        pictures = _recording_types(_decoded_pictures(container, stream, source, meter), types)
        if encoding.resample is not None:
            start, step = _time_zero(container, stream), 1 / clock(rate)
            longest = longest_gap(container)
            pictures = resampled(pictures, clock(encoding.resample), start=start, step=step, longest=longest)
        with Writer(temporary, rate=rate, encoding=encoding) as writer:
            try:
                _write_pictures(writer, pictures, stream.sample_aspect_ratio, encoding.short_side)
            except DecodeError as error:
                raise error if str(source) in str(error) else DecodeError(f"{source}: {error}") from error
            if not writer.num_frames:
                raise DecodeError(f"{source}: no picture could be decoded. The file is damaged: fetch it again.")
            writer.finish()
            return SourceForm(stream.codec_context.name, meter.rate, "".join(types), writer.num_frames)


def _time_zero(container: Any, stream: VideoStream) -> Fraction:
    """The timestamp of the file's time 0, in seconds, rounded to a tick of the stream's clock."""
    tick = stream.time_base or Fraction(1, av.time_base)
    return round(Fraction(container.start_time or 0, av.time_base) / tick) * tick


def _recording_types(pictures: Iterator[VideoFrame], types: list[str]) -> Iterator[VideoFrame]:
    """The same pictures; their types are appended to a list."""
    for frame in pictures:
        types.append(picture_type(frame))
        yield frame


def _write_pictures(
    writer: Writer, pictures: Iterable[VideoFrame], pixel_aspect: Fraction | None, short_side: int
) -> None:
    """Writes all pictures at the size at which the first is shown; a file may change its size midway."""
    size = None
    for frame in pictures:
        orientation = orientation_of(frame)
        if size is None:
            size = _target_size(frame, pixel_aspect, short_side, transposed=orientation.transposed)
        writer.write(frame, *size, orientation=orientation)


def encode(
    frames: Iterable[npt.NDArray[np.uint8]], target: Path | str, *, frame_rate: float, encoding: Encoding | None = None
) -> int:
    """Writes pictures as a video in the training form, at their own size (`encoding.short_side` is not used).

    Args:
        frames: uint8 [H, W, 3] each, RGB, all of one even size.
        target: the MP4 to write; its folder is made if it is missing.
        frame_rate: pictures a second, unless `encoding` sets another.
        encoding: how pictures are encoded; None: the defaults.

    Returns:
        Number of pictures written.

    Raises:
        ValueError: a picture has another shape or dtype, or there is no picture.
        DataError: the target cannot be written.
    """
    target = Path(os.path.abspath(target))
    encoding = encoding or Encoding()
    with written_whole(target) as temporary:
        rate = Fraction(frame_rate)
        with Writer(temporary, rate=rate, encoding=encoding) as writer:
            shape: tuple[int, ...] | None = None
            for frame in frames:
                shape = shape or frame.shape
                if (
                    frame.shape != shape
                    or frame.dtype != np.uint8
                    or len(shape) != 3
                    or shape[2] != 3
                    or any(np.mod(shape[:2], 2))
                ):
                    raise ValueError(
                        f"frame {writer.num_frames} is {frame.dtype}{list(frame.shape)} (accepted: uint8 [H, W, 3], "
                        "H and W even, as the first frame's)"
                    )
                picture = VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
                writer.write(picture, shape[1], shape[0])
            if not writer.num_frames:
                raise ValueError("no frames (accepted: at least one)")
            return writer.finish()


def _decoded_pictures(container: Any, stream: VideoStream, source: Source, meter: RateMeter) -> Iterator[VideoFrame]:
    """Every picture in display order; DecodeError with the path and the picture if FFmpeg notices damage."""
    check, count = PacketCheck(source, container, stream), 0
    try:
        for packet in demuxed(container, stream):
            if packet.size:  # FFmpeg skips empty ones, and PyAV ends with one
                check.see(packet)
                meter.see(packet)
                for frame in packet.decode():
                    yield _undamaged(frame, source, count)
                    count += 1
        check.end()
        for frame in stream.codec_context.decode(None):
            frame.time_base = frame.time_base or stream.time_base  # PyAV takes it from the packet, but there is none
            yield _undamaged(frame, source, count)
            count += 1
    except av.error.EOFError:
        pass  # the decoder holds no more pictures
    except (av.FFmpegError, OSError) as error:
        raise _damaged(source, count, reason(error)) from error


def _undamaged(frame: VideoFrame, source: Source, count: int) -> VideoFrame:
    """The same picture, or DecodeError if FFmpeg flags it as incomplete."""
    if frame.is_corrupt:
        raise _damaged(source, count, "the picture is incomplete")
    return frame


def _damaged(source: Source, count: int, cause: str) -> DecodeError:
    return DecodeError(
        f"{source}: decoding stopped after {count} pictures ({cause}). Damaged or cut off: fetch it again."
    )


def _target_size(
    frame: VideoFrame, pixel_aspect: Fraction | None, short_side: int, *, transposed: bool
) -> tuple[int, int]:
    """(width, height) to scale a picture to, as it is shown and with square pixels."""
    sides = (frame.width * float(pixel_aspect or 1), float(frame.height))
    scale = short_side / min(sides)
    # Rounded down to even, which 4:2:0 needs: 341.3 becomes CoViAR's 340. Rounding must not shorten the short side.
    width, height = (max(short_side, int(side * scale) // 2 * 2) for side in sides)
    if max(width, height) > LONGEST_SIDE:
        raise DecodeError(
            f"{frame.width}×{frame.height} pixels of {pixel_aspect or 1}:1 become {width}×{height} with a short side of "
            f"{short_side} (accepted: up to {LONGEST_SIDE} either way). Omit the file, or crop it first."
        )
    return (height, width) if transposed else (width, height)


# Pictures whose timestamps are compared before the first is used: wrong ones are seen within one reordered group
_COMPARED_PICTURES = 8


class PictureTimes:
    """When each decoded picture is shown, in seconds; the times always rise.

    As in FFmpeg's best guess, a timestamp is the picture's own, or its packet's if those rise more reliably. If both are missing, do
    not rise or jump, the picture is shown one nominal distance after the last one.

    Args:
        start: the timestamp of the file's time 0, in seconds.
        step: nominal distance of two pictures, in seconds.
        longest: the most seconds between two pictures; more is a jump, which must not be filled with copies.
    """

    def __init__(self, start: Fraction, step: Fraction, longest: int = 3600) -> None:
        self._offset, self._step, self._longest = -start, step, longest
        self._last: Fraction | None = None
        self._last_seen: dict[str, int | None] = {"pts": None, "dts": None}
        self._faults = {"pts": 0, "dts": 0}

    def compare(self, frames: list[VideoFrame]) -> None:
        """Compares the timestamps of the first pictures, to know which kind is reliable; call it before `of`."""
        for frame in frames:
            self._stamp(frame)
        self._last_seen = {"pts": None, "dts": None}

    def of(self, frame: VideoFrame) -> Fraction:
        """The time of the next picture in display order, in seconds from the file's time 0."""
        stamp = self._stamp(frame)
        base = frame.time_base or Fraction(0)
        expected = Fraction(0) if self._last is None else self._last + self._step
        time = expected if stamp is None else stamp * base + self._offset
        if abs(time - (self._last or 0)) > self._longest:
            self._offset += expected - time
            time = expected
        self._last = time if self._last is None or time > self._last else expected
        return self._last

    def _stamp(self, frame: VideoFrame) -> int | None:
        """The timestamp that libavcodec's `guess_correct_pts` would choose."""
        stamps = {"pts": frame.pts, "dts": frame.dts}
        for name, stamp in stamps.items():
            last = self._last_seen[name]
            if stamp is not None:
                self._faults[name] += last is not None and stamp <= last
                self._last_seen[name] = stamp
        by_pts = self._faults["pts"] <= self._faults["dts"] or stamps["dts"] is None
        return stamps["pts"] if by_pts and stamps["pts"] is not None else stamps["dts"]


def resampled(
    pictures: Iterable[VideoFrame], rate: Fraction, *, start: Fraction, step: Fraction, longest: int = 3600
) -> Iterator[VideoFrame]:
    """Repeats and drops pictures to get a constant rate, as FFmpeg's filter `fps` does: each slot shows the latest that has begun.

    Args:
        pictures: decoded, in display order, with their timestamps.
        rate: pictures a second.
        start: the timestamp of the file's time 0, in seconds.
        step: nominal distance of two pictures, in seconds; also how long the last one is shown if the file does not say.
        longest: the most seconds between two pictures; more is a jump.

    Yields:
        The picture of each slot of 1 / rate seconds.
    """
    times, pictures = PictureTimes(start, step, longest), iter(pictures)
    first = list(islice(pictures, _COMPARED_PICTURES))
    times.compare(first)
    shown: VideoFrame | None = None
    next_slot, end = 0, Fraction(0)
    for frame in chain(first, pictures):
        time = times.of(frame)
        slot = _rounded(time * rate)
        if shown is None:
            next_slot = slot
        else:
            for _ in range(next_slot, slot):
                yield shown
            next_slot = max(next_slot, slot)
        shown, end = frame, time + _duration(frame, step, longest)
    if shown is not None:
        for _ in range(next_slot, _rounded(end * rate)):
            yield shown


def _duration(frame: Any, step: Fraction, longest: int) -> Fraction:
    """How long a picture is shown, in seconds."""
    duration = Fraction(frame.duration or 0) * (frame.time_base or 0)
    return duration if 0 < duration <= longest else step


def _rounded(value: Fraction) -> int:
    """The nearest integer, halves rounded away from zero, as FFmpeg rounds timestamps."""
    whole = int(abs(value) + Fraction(1, 2))
    return whole if value >= 0 else -whole
