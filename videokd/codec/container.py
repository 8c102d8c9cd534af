"""Opens a file and decodes its pictures from any GOP on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import chain as concatenate
from itertools import islice
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.sidedata.sidedata import SideDataContainer
from av.video.reformatter import VideoReformatter

from videokd.bitstream.picture_types import picture_type
from videokd.codec.index import DEFAULT_LIMITS, Limits, VideoIndex, checksum_of
from videokd.codec.motion import NO_VECTORS, Rows, Vectors
from videokd.codec.opening import open_container, reason
from videokd.errors import DecodeError

#: Codecs of which FFmpeg's decoders export motion vectors.
MOTION_CODECS = (
    *("mpeg4", "h264", "mpeg1video", "mpeg2video", "h263", "h263p", "h263i", "flv"),
    *("msmpeg4v1", "msmpeg4v2", "msmpeg4", "wmv1", "wmv2", "rv10", "rv20"),
)
# These put out the last P-frame without its vectors when they are flushed (see PictureDecoder.flush)
_LOSES_LAST_VECTORS = ("mpeg4", "mpeg1video", "mpeg2video")
_APPENDED = -1
_EXPORT_VECTORS = {"flags2": "+export_mvs"}
# Where only vectors are wanted, no pixel need be right: this leaves them as they are, and decoding takes up to a third less
_VECTORS_ALONE = {"skip_loop_filter": "all", "skip_idct": "all"}
# These can also decode at an eighth of the size, which makes motion compensation nearly free
_SHRINKS = tuple(codec for codec in MOTION_CODECS if codec != "h264")
_SHRINK_BITS = 3
_VECTOR_WORDS = 20
# Seeks to try for one keyframe, to it and to those before it; and pieces of packets that may come before the first whole one
_MOST_SEEKS = 3
_MOST_FRAGMENTS = 4
_SIDE_DATA: Any = SideDataContainer


class PictureDecoder:
    """Feeds packets to FFmpeg's decoder and tells which frame came from which packet.

    A frame is known by the number of its packet in the file, which travels through the decoder in place of the
    timestamp: timestamps are missing, repeated or zero after a seek in many AVI files.
    """

    def __init__(self, path: str | os.PathLike[str], *, limits: Limits = DEFAULT_LIMITS) -> None:
        self.path = Path(path)
        self.limits = limits
        self._pictures = True
        self.seeks = True  # whether the container is known to find keyframes
        self._open()

    def _open(self) -> None:
        self.container, self.stream = open_container(self.path, self.limits)
        self.context = self.stream.codec_context
        self.context.options = self.context.options | _EXPORT_VECTORS
        self._moved = False
        if not self._pictures:
            self._leave_pictures()

    def _leave_pictures(self) -> None:
        shrunk = {"lowres": str(_SHRINK_BITS)} if self.context.name in _SHRINKS else {}
        self.context.options = self.context.options | _VECTORS_ALONE | shrunk

    def want(self, *, pictures: bool) -> bool:
        """Says whether frames must show what was filmed; without that, only their vectors and types are right.

        A decoder that has begun to put out pictures goes on to.

        Returns:
            whether the decoder was changed, so that decoding starts anew.
        """
        if pictures == self._pictures or (self._pictures and self.context.is_open):
            return False
        self._pictures = pictures
        if pictures:
            self.reopen()
        else:
            self._leave_pictures()
        return pictures

    def frame_size(self, index: VideoIndex) -> tuple[int, int]:
        """Width and height that frames must have, in pixels."""
        bits = _SHRINK_BITS if not self._pictures and self.context.name in _SHRINKS else 0
        return -(-index.width >> bits), -(-index.height >> bits)

    def close(self) -> None:
        """Closes the file."""
        self.container.close()

    def packets(self) -> Iterator[Any]:
        """The video's packets from where the file stands, without empty ones: FFmpeg skips these, and PyAV ends with one.

        Raises:
            DecodeError: a packet cannot be read.
        """
        self._moved = True
        try:
            for packet in self.container.demux(self.stream):
                if packet.size:
                    yield packet
        except (av.FFmpegError, OSError) as error:
            raise DecodeError(f"{self.path} cannot be read on: {reason(error)}. Copy the file again.") from error

    def feed(self, packet: Any, number: int | None) -> list[tuple[int, Any]]:
        """Decodes one packet; None flushes.

        Returns:
            (number of its packet, frame) for each frame that comes out.

        Raises:
            DecodeError: the packet is damaged.
        """
        return [(came_from, frame) for came_from, frame in self._decode(packet, number) if came_from != _APPENDED]

    def _decode(self, packet: Any, number: int | None) -> list[tuple[int, Any]]:
        if packet is not None:
            packet.pts = packet.dts = number
        try:
            frames = self.context.decode(packet)
        except av.error.EOFError:
            return []
        except (av.FFmpegError, OSError, ValueError) as error:
            where = "its end" if number is None else f"packet {number}"
            raise DecodeError(
                f"{self.path}: {where} cannot be decoded: {reason(error)}. Copy the file again, or repair it with `ffmpeg -i`."
            ) from error
        numbered = [(frame.pts, frame) for frame in frames]
        return [(came_from, frame) for came_from, frame in numbered if came_from is not None]

    def flush(self, keyframe: bytes | None) -> list[tuple[int, Any]]:
        """The frames that the decoder still holds.

        MPEG-1/2/4 decoders put the last P-frame out without its vectors, unless another picture follows: a copy of a
        keyframe does. Where the last packet of a "packed" file holds a B-frame behind the P-frame, the decoder takes the
        first copy as the sign to decode that, and drops the copy: only the second follows.
        """
        frames = []
        if keyframe is not None and self.context.name in _LOSES_LAST_VECTORS:
            for _ in range(2):
                decoded = self._decode(av.Packet(keyframe), _APPENDED)
                frames += [entry for entry in decoded if entry[0] != _APPENDED]
                if not any(number == _APPENDED and picture_type(frame) == "B" for number, frame in decoded):
                    break
        frames += self.feed(None, None)
        self.context.flush_buffers()
        return frames

    def decode_from(
        self, index: VideoIndex, key: int, *, also: frozenset[int] = frozenset()
    ) -> Iterator[tuple[int, Any]]:
        """(packet, frame) of every I- and P-frame from the `key`-th keyframe to the end of the file.

        B-frames that nothing refers to are not decoded, and no B-frame is given, but those of the packets in `also`.

        Raises:
            DecodeError: a packet is damaged, or the file is not the one that the index describes.
        """
        first, types = index.keyframes[key][0], index.types
        keyframe = None
        for number, packet in self._seek(index, key):
            if number >= len(types):
                raise DecodeError(f"{self.path} has more packets than its index knows. Index it again.")
            if number < first or (types[number] == "b" and number not in also):
                continue
            self._check(index, packet, number)
            if keyframe is None:
                keyframe = bytes(packet)
            for entry in self.feed(packet, number):
                if types[entry[0]] in "IPS" or entry[0] in also:
                    yield entry
        for entry in self.flush(keyframe):
            if types[entry[0]] in "IPS" or entry[0] in also:
                yield entry

    def decode_alone(self, index: VideoIndex, key: int) -> Any:
        """The frame of the `key`-th keyframe, the decoder going no further.

        Raises:
            DecodeError: it cannot be decoded, or the file is not the one that the index describes.
        """
        wanted = index.keyframes[key][0]
        frames: list[tuple[int, Any]] = []
        for number, packet in self._seek(index, key):
            if number < wanted:
                continue
            # A packet without a picture of its own may hold the second field
            if number > wanted + 1 or index.types[number : number + 1] != ("I" if number == wanted else "-"):
                break
            self._check(index, packet, number)
            frames += self.feed(packet, number)
        frames += self.feed(None, None)
        self.context.flush_buffers()
        found = next((frame for number, frame in frames if number == wanted), None)
        if found is None:
            raise DecodeError(f"{self.path}: the keyframe in packet {wanted} cannot be decoded. Copy the file again.")
        return found

    def _check(self, index: VideoIndex, packet: Any, number: int) -> None:
        expected = index.checksum_at.get(number)
        if expected is not None and checksum_of(packet) != expected:
            raise DecodeError(
                f"{self.path}: packet {number} is not the one that the index describes. If the file was replaced, index it "
                "again; otherwise copy it again."
            )

    def _seek(self, index: VideoIndex, key: int) -> Iterator[tuple[int, Any]]:
        """Moves to the `key`-th keyframe, or to one before it where the container seeks no better.

        Returns:
            (number, packet) of every packet that follows.
        """
        wanted = index.keyframes[key][0]
        for earlier in range(key, max(key - _MOST_SEEKS, -1 if self._moved else 0), -1):
            found = self._seek_to(index, earlier, wanted) if self.seeks else None
            if found is not None:
                self.context.flush_buffers()
                return found
        # Where seeking failed it will fail again, and each try takes time
        self.seeks &= key < _MOST_SEEKS
        if self._moved:
            self.reopen()
        return enumerate(self.packets())

    def _seek_to(self, index: VideoIndex, key: int, wanted: int) -> Iterator[tuple[int, Any]] | None:
        """The packets from a keyframe on that is not behind `wanted`; None where none is found close to the `key`-th."""
        start, pts, dts, _ = index.keyframes[key]
        at = dts if dts is not None else pts
        if at is None:
            return None
        self._moved = True  # even where seeking fails
        try:
            self.container.seek(at, stream=self.stream, backward=True)
        except (av.FFmpegError, OSError):
            return None
        packets = self.packets()
        for packet in islice(packets, wanted - start + _MOST_FRAGMENTS):
            number = index.packet_of_keyframe(packet)
            if number is not None:
                return enumerate(concatenate((packet,), packets), number) if number <= wanted else None
        return None

    def reopen(self) -> None:
        """Goes back to the first packet, whatever the container."""
        self.close()
        self._open()


class Colours:
    """Converts decoded frames to RGB: one reused converter, and one thread, since FFmpeg's default starts some per frame."""

    def __init__(self) -> None:
        self._reformatter = VideoReformatter()

    def rows(self, frame: Any) -> Rows:
        """uint8 [H, 3·W or a little more], RGB: the rows as FFmpeg pads them.

        Raises:
            DecodeError: FFmpeg cannot convert the frame's pixel format.
        """
        try:
            plane: Any = self._reformatter.reformat(frame, format="rgb24", threads=1).planes[0]
        except (av.FFmpegError, ValueError) as error:
            raise DecodeError(f"{frame.format.name} cannot be converted to RGB: {reason(error)}") from error
        return np.frombuffer(plane, np.uint8, plane.height * plane.line_size).reshape(plane.height, plane.line_size)


def vectors_of(frame: Any) -> Vectors:
    """int16 [N, 20] (see motion.py): the frame's motion vectors, a view that keeps the frame alive."""
    # Not frame.side_data: the frame would keep that, a cycle, and its pictures until the next garbage collection
    side_data = _SIDE_DATA(frame).get("MOTION_VECTORS")
    return NO_VECTORS if side_data is None else np.frombuffer(side_data, np.int16).reshape(-1, _VECTOR_WORDS)
