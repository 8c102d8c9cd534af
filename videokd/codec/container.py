"""Opens a file, indexes its pictures, and decodes them from any GOP on."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import chain as concatenate
from pathlib import Path
from typing import Any

import av
import numpy as np

from videokd.codec import headers
from videokd.codec.index import VideoIndex
from videokd.errors import DecodeError

#: Codecs of which FFmpeg's decoders export motion vectors.
MOTION_CODECS = (
    *("mpeg4", "h264", "mpeg1video", "mpeg2video", "h263", "h263p", "h263i", "flv1"),
    *("msmpeg4v1", "msmpeg4v2", "msmpeg4", "wmv1", "wmv2"),
)
#: Titles and comments need not be UTF-8. PyAV 19 no longer minds, and no longer takes the argument.
LENIENT: dict[str, Any] = {"metadata_errors": "ignore"} if int(av.__version__.partition(".")[0]) < 19 else {}
# These put out the last P-frame without its vectors when they are flushed (see PictureDecoder.pictures)
_LOSES_LAST_VECTORS = ("mpeg4", "mpeg1video", "mpeg2video")
_PICTURE_TYPES = {1: "I", 2: "P", 3: "B", 4: "S", 5: "I", 6: "P", 7: "I"}  # AVPictureType; SI, SP and BI among them
_APPENDED = -1


def check_path(path: str | os.PathLike[str]) -> Path:
    """The path, if there is a file that may be a video.

    Raises:
        DecodeError: there is none, it is a directory, or it is empty.
    """
    path = Path(path)
    if path.is_dir():
        raise DecodeError(f"{path} is a directory (accepted: a video file). Name one of the files in it.")
    if not path.exists():
        raise DecodeError(f"{path} is not there (accepted: a video file). Check the path.")
    if path.is_file() and not path.stat().st_size:
        raise DecodeError(f"{path} is empty (accepted: a video file). Copy or download it again.")
    return path


def open_container(path: str | os.PathLike[str]) -> tuple[Any, Any]:
    """(container, video stream) of a file, its decoder set to one thread and to export motion vectors.

    One thread because frame-threaded H.264 decoding with exported vectors is a race in FFmpeg: vectors go missing, at
    each run others, while the pictures are right. Parallelism is across videos.

    Raises:
        DecodeError: FFmpeg cannot read the file, or there is no video in it.
    """
    path = check_path(path)
    try:
        container = av.open(os.path.abspath(path), **LENIENT)
    except (av.FFmpegError, OSError) as error:
        raise DecodeError(
            f"{path} cannot be read as a video: {_reason(error)} (accepted: any container and codec that FFmpeg reads). "
            "Check that it plays, or copy it again."
        ) from error
    stream = container.streams.best("video")
    if stream is None or stream.codec_context is None:
        container.close()
        raise DecodeError(
            f"{path} has no video track that FFmpeg can decode (accepted: a file with video). Check that it plays."
        )
    context = stream.codec_context
    context.thread_type = "NONE"
    context.thread_count = 1
    context.options = {"flags2": "+export_mvs"}
    return container, stream


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


class PictureDecoder:
    """Feeds packets to FFmpeg's decoder and tells which frame came from which packet.

    A frame is known by the number of its packet in the file, which travels through the decoder in place of the
    timestamp: timestamps are missing, repeated or zero after a seek in many AVI files.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.container, self.stream = open_container(path)
        self.context = self.stream.codec_context
        self._moved = False

    def close(self) -> None:
        """Closes the file."""
        self.container.close()

    def packets(self) -> Iterator[Any]:
        """The video's packets from where the file stands, without the empty one at its end.

        Raises:
            DecodeError: a packet cannot be read.
        """
        demuxed = self.container.demux(self.stream)
        while True:
            try:
                packet = next(demuxed, None)
            except (av.FFmpegError, OSError) as error:
                raise DecodeError(f"{self.path} cannot be read on: {_reason(error)}. Copy the file again.") from error
            if packet is None or not packet.size:
                return
            yield packet

    def feed(self, packet: Any, number: int | None) -> Iterator[tuple[int, Any]]:
        """Decodes one packet; None flushes. Gives (number of its packet, frame) for each frame that comes out.

        Raises:
            DecodeError: the packet is damaged.
        """
        if packet is not None:
            packet.pts = packet.dts = number
        try:
            frames = self.context.decode(packet)
        except av.error.EOFError:
            return
        except (av.FFmpegError, OSError) as error:
            where = "its end" if number is None else f"packet {number}"
            raise DecodeError(
                f"{self.path}: {where} cannot be decoded: {_reason(error)}. Copy the file again, or repair it with `ffmpeg -i`."
            ) from error
        for frame in frames:
            if frame.pts is not None and frame.pts != _APPENDED:
                yield frame.pts, frame

    def flush(self, keyframe: bytes | None) -> Iterator[tuple[int, Any]]:
        """The frames that the decoder still holds.

        MPEG-1/2/4 decoders put the last P-frame out without its vectors, unless another picture follows: a copy of a
        keyframe does.
        """
        if keyframe is not None and self.context.name in _LOSES_LAST_VECTORS:
            yield from self.feed(av.Packet(keyframe), _APPENDED)
        yield from self.feed(None, None)
        self.context.flush_buffers()

    def decode_from(self, index: VideoIndex, key: int) -> Iterator[tuple[int, Any]]:
        """(packet, frame) of every I- and P-frame from the `key`-th keyframe to the end of the file.

        B-frames that nothing refers to are not decoded.
        """
        first = index.keyframes[key][0]
        start, packets = self._seek(index, key)
        keyframe = None
        for number, packet in enumerate(packets, start):
            if number < first or index.types[number] == "b":
                continue
            keyframe = keyframe or bytes(packet)
            yield from self._anchors_only(self.feed(packet, number), index)
        yield from self._anchors_only(self.flush(keyframe), index)

    @staticmethod
    def _anchors_only(frames: Iterator[tuple[int, Any]], index: VideoIndex) -> Iterator[tuple[int, Any]]:
        return ((number, frame) for number, frame in frames if index.types[number] in "IPS")

    def decode_alone(self, index: VideoIndex, key: int) -> Any:
        """The frame of the `key`-th keyframe, the decoder going no further.

        Raises:
            DecodeError: it cannot be decoded.
        """
        wanted = index.keyframes[key][0]
        number, packets = self._seek(index, key)
        packet = next((p for n, p in enumerate(packets, start=number) if n == wanted), None)
        frames = [] if packet is None else [*self.feed(packet, wanted), *self.feed(None, None)]
        self.context.flush_buffers()
        if not frames:
            raise DecodeError(f"{self.path}: the keyframe in packet {wanted} cannot be decoded. Copy the file again.")
        return frames[0][1]

    def _seek(self, index: VideoIndex, key: int) -> tuple[int, Iterator[Any]]:
        """Moves to the `key`-th keyframe, or to one before it where the container seeks no better.

        Returns:
            the number of the first packet that follows, and the packets.
        """
        known = {entry[1:]: entry[0] for entry in index.keyframes}
        for earlier in range(key, -1 if self._moved else 0, -1):
            _, pts, dts, _ = index.keyframes[earlier]
            at = dts if dts is not None else pts
            if at is None:
                break
            try:
                self.container.seek(at, stream=self.stream, backward=True)
            except (av.FFmpegError, OSError):
                break
            self._moved = True
            packets = self.packets()
            packet = next(packets, None)
            number = None if packet is None else known.get((packet.pts, packet.dts, packet.pos))
            if number is not None and number <= index.keyframes[key][0]:
                self.context.flush_buffers()
                return number, concatenate((packet,), packets)
        if self._moved:
            self.reopen()
        self._moved = True
        return 0, self.packets()

    def reopen(self) -> None:
        """Goes back to the first packet, whatever the container."""
        self.close()
        self.container, self.stream = open_container(self.path)
        self.context = self.stream.codec_context
        self._moved = False


def index_video(path: str | os.PathLike[str]) -> VideoIndex:
    """Indexes a file: from the packets' headers where they tell everything, otherwise by decoding it once.

    Raises:
        DecodeError: the file cannot be read, is cut short, or no frame of it can be decoded.
    """
    decoder = PictureDecoder(path)
    try:
        index = _from_headers(decoder)
        if index is None:
            decoder.reopen()
            index = _from_decoding(decoder)
    finally:
        decoder.close()
    if not index.num_frames or not index.anchors:
        raise DecodeError(
            f"{path} has no frame that can be decoded (accepted: a file with video). Check that it plays."
        )
    return index


class _Scan:
    """Collects the packets' facts on the way through a file."""

    def __init__(self, decoder: PictureDecoder) -> None:
        self.decoder = decoder
        self.first: bytes = b""
        self.stamps: list[tuple[int | None, int | None, int | None]] = []
        self.keys: list[int] = []
        self.clean = True

    def add(self, packet: Any) -> int:
        number = len(self.stamps)
        if packet.is_corrupt:
            raise DecodeError(f"{self.decoder.path} is cut short or damaged at packet {number}. Copy the file again.")
        if packet.is_keyframe:
            self.keys.append(number)
            self.first = self.first or bytes(packet)
        self.clean &= not packet.is_discard
        self.stamps.append((packet.pts, packet.dts, packet.pos))
        return number

    def check_length(self) -> None:
        """MP4 says how many samples there must be; other containers' headers are often wrong."""
        expected = self.decoder.stream.frames
        if "mp4" in self.decoder.container.format.name and len(self.stamps) < expected:
            raise DecodeError(
                f"{self.decoder.path} is cut short: {len(self.stamps)} of {expected} packets are there. Copy the file again."
            )

    def index(self, types: str, display: list[int], sequence: headers.Sequence) -> VideoIndex:
        stream, context = self.decoder.stream, self.decoder.context
        rate = float(stream.average_rate or stream.guessed_rate or 25)
        shown = [packet for packet, kind in enumerate(types) if kind != "-"]
        numbers = dict(zip(shown, display, strict=True))
        times = (self.stamps[packet][0] for packet in shown)
        start = min((time for time in times if time is not None), default=0)
        seconds = []
        for packet in (packet for packet in shown if types[packet] == "I"):
            pts = self.stamps[packet][0]
            at = numbers[packet] / rate if pts is None else float((pts - start) * stream.time_base)
            seconds.append(round(at, 6))
        return VideoIndex(
            codec=context.name,
            width=context.width,
            height=context.height,
            frame_rate=rate,
            num_frames=len(shown),
            types=types,
            display=() if display == list(range(len(display))) else tuple(display),
            seconds=tuple(seconds),
            keyframes=tuple((key, *self.stamps[key]) for key in self.keys),
            inexact_because=sequence.inexact_because,
        )


_Parser = tuple[Callable[[bytes], "str | None"], headers.Sequence]


def _picture_parser(decoder: PictureDecoder, first: bytes) -> _Parser | None:
    """How to read the picture type of a packet, and the sequence header; None where the headers do not tell."""
    extradata = decoder.context.extradata or b""
    name = decoder.context.name
    try:
        if name == "mpeg4" and (sequence := headers.mpeg4_sequence(extradata, first)):
            time_bits = sequence.time_bits
            return lambda data: headers.mpeg4_picture(data, time_bits), sequence
        if name == "h264" and (sequence := headers.h264_sequence(extradata, first)):
            length_size = headers.h264_length_size(extradata)
            return lambda data: headers.h264_picture(data, length_size), sequence
        if name in ("mpeg1video", "mpeg2video") and (sequence := headers.mpeg12_sequence(first)):
            return headers.mpeg12_picture, sequence
    except IndexError:
        pass
    return None


def _from_headers(decoder: PictureDecoder) -> VideoIndex | None:
    """The index from the packets alone; None as soon as something is not plain."""
    scan = _Scan(decoder)
    parser: _Parser | None = None
    types: list[str] = []
    for packet in decoder.packets():
        number = scan.add(packet)
        if parser is None:
            parser = _picture_parser(decoder, bytes(packet))
            if parser is None or not packet.is_keyframe:
                return None
        try:
            kind = parser[0](bytes(packet))
        except IndexError:
            return None
        if kind is None or (number == 0 and kind != "I"):
            return None
        types.append(kind)
    scan.check_length()
    if parser is None or not scan.clean or parser[1].interlaced:
        return None
    display = _display_order(types, [stamp[0] for stamp in scan.stamps])
    return None if display is None else scan.index("".join(types), display, parser[1])


def _display_order(types: list[str], pts: list[int | None]) -> list[int] | None:
    if not any(kind in "Bb" for kind in types):
        return list(range(len(types)))
    if None in pts or len(set(pts)) < len(pts):
        return None
    return np.argsort(np.argsort(np.array(pts, dtype=np.int64))).tolist()


def _from_decoding(decoder: PictureDecoder) -> VideoIndex:
    """The index by decoding the whole file once."""
    scan = _Scan(decoder)
    shown: list[tuple[int, str]] = []
    interlaced = False

    def note(frames: Iterator[tuple[int, Any]]) -> None:
        nonlocal interlaced
        for number, frame in frames:
            shown.append((number, _PICTURE_TYPES.get(int(frame.pict_type), "P")))
            interlaced |= frame.interlaced_frame

    sequence = None
    for packet in decoder.packets():
        number = scan.add(packet)
        if sequence is None:
            parser = _picture_parser(decoder, bytes(packet))
            sequence = parser[1] if parser else headers.Sequence()
        note(decoder.feed(packet, number))
    scan.check_length()
    note(decoder.flush(scan.first or None))
    types = ["-"] * len(scan.stamps)
    for number, kind in shown:
        types[number] = kind
    order = {number: rank for rank, (number, _) in enumerate(shown)}
    sequence = replace(
        sequence or headers.Sequence(),
        interlaced=interlaced,
        global_motion=any(kind == "S" for kind in types),
    )
    # A keyframe flag on a packet without an I-frame ("packed" XviD ends with one) is no place to start decoding
    scan.keys = [key for key in scan.keys if types[key] == "I"] or [0]
    return scan.index("".join(types), [order[number] for number in sorted(order)], sequence)
