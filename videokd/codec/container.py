"""Decodes a video: packets in, numbered frames out, starting at any keyframe."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import chain as concatenate
from itertools import islice
from typing import Any

import av
import numpy as np
from av.sidedata.sidedata import SideDataContainer

from videokd.bitstream.headers import end_of_first_vop
from videokd.bitstream.picture_types import picture_type
from videokd.bitstream.source import Openable, Source, source_of
from videokd.codec.decoder_options import SHRINKING_CODECS, decoded_size, decoder_options
from videokd.codec.index import DEFAULT_LIMITS, Limits, VideoIndex
from videokd.codec.opening import demuxed, open_container, reason
from videokd.errors import ConfigError, DecodeError
from videokd.kernels.motion import NO_VECTORS, Vectors

#: Codecs whose decoders in FFmpeg export motion vectors.
MOTION_CODECS = (SHRINKING_CODECS[0], "h264", *SHRINKING_CODECS[1:])
#: When these are flushed, the last P-frame comes without its vectors (see PictureDecoder.flush).
LOSES_LAST_VECTORS = ("mpeg4", "mpeg1video", "mpeg2video")
_APPENDED = -1  # number of a packet that is not in the file
_VECTOR_WORDS = 20
# How many keyframes to try to seek to: the wanted one, then those before it; and how many incomplete packets may follow a seek
_MOST_SEEKS = 3
_MOST_FRAGMENTS = 4
# Files up to this size are read once: the packets that indexing read are kept for decoding
_MOST_KEPT_BYTES = 4 << 20
_SIDE_DATA: Any = SideDataContainer


class PictureDecoder:
    """Feeds packets to FFmpeg's decoder, and tells which frame came from which packet.

    A frame is identified by the number of its packet in the file. The number passes through the decoder in the place of the
    timestamp, since in many AVI files timestamps are missing, repeated, or zero after a seek.

    Args:
        given: path, bytes or file object.
        limits: what to refuse.

    Raises:
        DecodeError: it cannot be opened, has no video, or its pictures are too large.
    """

    def __init__(self, given: Openable | Source, *, limits: Limits = DEFAULT_LIMITS) -> None:
        self.source = source_of(given)
        self.limits = limits
        self._pictures = True
        self._sketches = False
        self.seeks = True  # whether seeking works in this file, as far as is known
        self.decoding_seconds = 0.0  # counted by whoever waits for frames
        # All packets of the file, once it was read from its start to its end, if it is small
        self._kept: tuple[Any, ...] = ()
        self._open()

    def _open(self) -> None:
        self.container, self.stream = open_container(self.source, self.limits)
        self.context = self.stream.codec_context
        self.context.options = self.context.options | decoder_options(self.context.name, pictures=True)
        self._has_moved = False
        self._process = os.getpid()
        if not self._pictures:
            self._skip_pictures()

    def _skip_pictures(self) -> None:
        sketched = self.context.height if self._sketches else None
        options = decoder_options(self.context.name, pictures=False, sketched=sketched)
        self.context.options = self.context.options | options

    def set_output(self, *, pictures: bool, sketches: bool = False) -> bool:
        """Sets whether the pixels of frames will be used; if not, only their vectors and types are right.

        A decoder that has begun to decode pixels continues to.

        Args:
            pictures: whether pixels will be used.
            sketches: if they are not, whether frames still show the picture: at the size of `frame_size`, roughly.

        Returns:
            Whether the file was opened again, so that decoding starts at its first packet: also where the process was forked, since
            it would share the place in the file with its parent.
        """
        if self._process != os.getpid():
            self.reopen()
            self.set_output(pictures=pictures, sketches=sketches)
            return True
        if pictures == self._pictures or (self._pictures and self.context.is_open):
            return False
        self._pictures, self._sketches = pictures, sketches
        if pictures:
            self.reopen()
        else:
            self._skip_pictures()
        return pictures

    def frame_size(self, index: VideoIndex) -> tuple[int, int]:
        """(width, height) in pixels that frames must have: those of the index, or a part of them (see above)."""
        return decoded_size(index, pictures=self._pictures, sketches=self._sketches)

    def close(self) -> None:
        """Closes the file."""
        self.container.close()

    def packets(self) -> Iterator[Any]:
        """The video's packets from the current place in the file.

        Empty packets are omitted: FFmpeg's decoder ignores them, and PyAV's last packet is empty.

        Raises:
            DecodeError: a packet cannot be read.
        """
        kept: list[Any] | None = None if self._has_moved else []
        self._has_moved = True
        room = _MOST_KEPT_BYTES
        try:
            for packet in demuxed(self.container, self.stream):
                if self._process != os.getpid():
                    raise ConfigError(
                        f"{self.source} is read by a process that was forked meanwhile (accepted: to begin after forking). "
                        "Start `iterate` or `frames` in the new process."
                    )
                if packet.size:
                    room -= packet.size
                    kept = kept if room >= 0 else None
                    if kept is not None:
                        kept.append(packet)
                    yield packet
            self._kept = tuple(kept or self._kept)
        except (av.FFmpegError, OSError) as error:
            raise DecodeError(
                f"{self.source} cannot be read to its end: {reason(error)}. Copy the file again."
            ) from error

    def feed(self, packet: Any, number: int | None) -> list[tuple[int, Any]]:
        """Decodes one packet.

        Args:
            packet: as `packets` gives it; None flushes the decoder.
            number: of the packet, in the order of the file; None with the packet None.

        Returns:
            (number of its packet, frame) for each frame that the decoder gives.

        Raises:
            DecodeError: the packet is damaged.
        """
        return [(came_from, frame) for came_from, frame in self._decode(packet, number) if came_from != _APPENDED]

    def _decode(self, packet: Any, number: int | None) -> list[tuple[int, Any]]:
        return decode_packet(self.context, packet, number, self.source)

    def flush(self, keyframe: bytes | None) -> list[tuple[int, Any]]:
        """The frames that the decoder still holds; it can be used again afterwards.

        FFmpeg's MPEG-1/2/4 decoders return the last P-frame without its vectors unless another picture follows. So a copy of a
        keyframe is appended. If the last packet of a "packed" file holds a B-frame after the P-frame, the decoder decodes that
        when the copy comes, and drops the copy; then a second copy is needed.

        Args:
            keyframe: the content of any keyframe's packet of this video; None where the vectors are not needed.

        Returns:
            (number of its packet, frame) for each frame.

        Raises:
            DecodeError: the last packets are damaged.
        """
        frames = []
        if keyframe is not None and self.context.name in LOSES_LAST_VECTORS:
            for _ in range(2):
                decoded = self._decode(_padded(keyframe), _APPENDED)
                frames += [entry for entry in decoded if entry[0] != _APPENDED]
                if not any(number == _APPENDED and picture_type(frame) == "B" for number, frame in decoded):
                    break
        frames += self.feed(None, None)
        self.context.flush_buffers()
        return frames

    def decode_from(
        self, index: VideoIndex, key: int, *, also: frozenset[int] = frozenset()
    ) -> Iterator[tuple[int, Any]]:
        """Decodes from a keyframe to the end of the file.

        Args:
            index: of this file.
            key: number of the keyframe in `index.keyframes`.
            also: packets of B-frames that are wanted too. Other B-frames are decoded only if another frame refers to them.

        Yields:
            (number of its packet, frame) of every I- and P-frame, and of the frames in `also`.

        Raises:
            DecodeError: a packet is damaged, or the file is not the one that the index describes.
        """
        types, keyframe = index.types, None
        for number, packet in self._wanted_packets(index, key, also):
            if keyframe is None:
                keyframe = bytes(packet)
            for entry in self.feed(packet, number):
                if types[entry[0]] in "IPS" or entry[0] in also:
                    yield entry
        for entry in self.flush(keyframe):
            if types[entry[0]] in "IPS" or entry[0] in also:
                yield entry

    def _wanted_packets(self, index: VideoIndex, key: int, also: frozenset[int]) -> Iterator[tuple[int, Any]]:
        """(number, packet) from a keyframe to the end, without B-frames to which nothing refers, except those in `also`.

        In a "packed" file (see header_reader.py), a P-frame's packet is cut behind it, so that the decoder does not keep the B-frame;
        if a B-frame before the next P-frame is wanted, all of them are decoded.
        """
        first, types = index.keyframes[key][0], index.types
        decoded_to = -1
        for number, packet in self._seek(index, key):
            if number >= len(types):
                raise DecodeError(f"{self.source} has more packets than its index knows. Index it again.")
            if number < first or (types[number] == "b" and number not in also and number > decoded_to):
                continue
            check_packet(index, packet, number, self.source)
            if index.codec == "mpeg4" and types[number] != "b" and types.startswith("b", number + 1):
                end = end_of_first_vop(bytes(packet))
                last = index.last_of_run(number + 1)
                if end and also.isdisjoint(range(number + 1, last + 1)):
                    yield number, _padded(bytes(packet)[:end])
                    continue
                decoded_to = last if end else decoded_to
            yield number, packet

    def decode_keyframe(self, index: VideoIndex, key: int) -> Any:
        """Decodes a single keyframe, and flushes the decoder.

        Args:
            index: of this file.
            key: number of the keyframe in `index.keyframes`.

        Returns:
            The frame.

        Raises:
            DecodeError: it cannot be decoded, or the file is not the one that the index describes.
        """
        wanted = index.keyframes[key][0]
        frames: list[tuple[int, Any]] = []
        for number, packet in self._seek(index, key):
            if number < wanted:
                continue
            # A packet without a picture may hold the second field of this one
            if number > wanted + 1 or index.types[number : number + 1] != ("I" if number == wanted else "-"):
                break
            check_packet(index, packet, number, self.source)
            frames += self.feed(packet, number)
        frames += self.feed(None, None)
        self.context.flush_buffers()
        found = next((frame for number, frame in frames if number == wanted), None)
        if found is None:
            raise DecodeError(f"{self.source}: the keyframe in packet {wanted} cannot be decoded. Copy the file again.")
        return found

    def _seek(self, index: VideoIndex, key: int) -> Iterator[tuple[int, Any]]:
        """Moves to the `key`-th keyframe, or to an earlier one if the container cannot seek to it.

        Returns:
            (number, packet) of every packet that follows.
        """
        wanted, pts, dts, _ = index.keyframes[key]
        if self._kept:
            in_order = pts is dts is None
            if in_order and self.context.is_open:
                self.reopen()
            elif self.context.is_open:
                self.context.flush_buffers()
            first = 0 if in_order else wanted
            return enumerate(self._kept[first:], first)
        for earlier in range(key, max(key - _MOST_SEEKS, -1 if self._has_moved else 0), -1):
            found = self._try_seek(index, earlier, wanted) if self.seeks else None
            if found is not None:
                self.context.flush_buffers()
                return found
        # If seeking failed here it will fail again, and each try takes time
        self.seeks &= key < _MOST_SEEKS
        if self._has_moved:
            self.reopen()
        return enumerate(self.packets())

    def _try_seek(self, index: VideoIndex, key: int, wanted: int) -> Iterator[tuple[int, Any]] | None:
        """Seeks to the `key`-th keyframe; the numbered packets from the keyframe found, None if it is not at or before `wanted`."""
        start, pts, dts, _ = index.keyframes[key]
        at = dts if dts is not None else pts
        if at is None:
            return None
        self._has_moved = True  # even if seeking fails
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
        """Opens the file again, to read from the first packet in any container."""
        self.close()
        self._open()


def decode_packet(context: Any, packet: Any, number: int | None, source: Source) -> list[tuple[int, Any]]:
    """Decodes one packet; its number goes through the decoder in the place of the timestamp.

    Args:
        context: the decoder.
        packet: None flushes the decoder.
        number: of the packet in the file; None with the packet None.
        source: of the file, for messages.

    Returns:
        (number of its packet, frame) for each frame that the decoder gives.

    Raises:
        DecodeError: the packet is damaged.
    """
    if packet is not None:
        packet.pts = packet.dts = number
    try:
        frames = context.decode(packet)
    except av.error.EOFError:
        return []
    except (av.FFmpegError, OSError, ValueError) as error:
        where = "its end" if number is None else f"packet {number}"
        raise DecodeError(
            f"{source}: {where} cannot be decoded: {reason(error)}. Copy the file again, or repair it with `ffmpeg -i`."
        ) from error
    numbered = [(frame.pts, frame) for frame in frames]
    return [(came_from, frame) for came_from, frame in numbered if came_from is not None]


def check_packet(index: VideoIndex, packet: Any, number: int, source: Source) -> None:
    """Compares a packet with its checksum in the index; older manifests have those of keyframes, or none.

    Args:
        index: of the file.
        packet: as it was read.
        number: of the packet in the file.
        source: of the file, for messages.

    Raises:
        DecodeError: the packet is another one.
    """
    if not index.holds(number, packet):
        raise DecodeError(
            f"{source}: packet {number} is not the one that the index describes. If the file was replaced, index it "
            "again; otherwise copy it again."
        )


def _padded(data: bytes) -> Any:
    """A packet with the zeros after it that FFmpeg's decoders need: av.Packet(data) lacks them."""
    packet = av.Packet(len(data))
    packet.update(data)
    return packet


def vectors_of(frame: Any) -> Vectors:
    """The motion vectors of a decoded frame: int16 [N, 20] (see motion.py), a view that keeps the frame alive."""
    # Not frame.side_data: it makes a reference cycle, which keeps the frame's pictures until the next garbage collection
    side_data = _SIDE_DATA(frame).get("MOTION_VECTORS")
    return NO_VECTORS if side_data is None else np.frombuffer(side_data, np.int16).reshape(-1, _VECTOR_WORDS)
