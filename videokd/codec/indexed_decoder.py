"""Decodes a video whose index has the places of its packets: no demuxer, and only what is decoded is read. And finds the places."""

from __future__ import annotations

import os
from base64 import b64decode, b64encode
from collections.abc import Iterator
from dataclasses import replace
from io import FileIO
from itertools import islice
from typing import Any, TypeAlias

import av
import numpy as np

from videokd.bitstream.decoder_state import CarriedState
from videokd.bitstream.source import Readable, Source
from videokd.codec.colours import Colours
from videokd.codec.container import (
    PictureDecoder,
    check_packet,
    decode_packet,
    vectors_of,
)
from videokd.codec.decoder_options import decoded_size, decoder_options
from videokd.codec.index import DEFAULT_LIMITS, Limits, PacketPlaces, VideoIndex
from videokd.codec.opening import check_side, check_source, open_container, reason, set_up
from videokd.errors import ConfigError, DecodeError

#: Codecs that are decoded in this way: those of prepared datasets.
INDEXED_CODECS = ("mpeg4", "h264")
#: How far behind the place that FFmpeg gives a packet may begin: AVI, Matroska and FLV give the place of its header.
_LONGEST_HEADER = 64
_COMPARED_FRAMES = 2
#: FFmpeg's decoders that this process keeps for the next files of the same configuration, which saves a twentieth of a sample's time:
#: (see `IndexedDecoder._configuration`) → decoder. One that is in use is not among them.
_SPARE: dict[tuple[object, ...], Any] = {}
_MOST_SPARE = 8
_COMPARED_WORDS = 7  # of a vector (see motion.py); what follows may be padding


class IndexedDecoder:
    """Feeds packets, each read from its place, to FFmpeg's decoder; readers use it as they use `PictureDecoder`.

    The video has no B-frames, so each packet gives its frame at once ("low delay") and none is left to flush.

    Args:
        source: of the video.
        index: of this file.
        places: those of the index.
        limits: what to refuse.

    Raises:
        DecodeError: the file cannot be opened, its pictures are too large, or the index is damaged.
    """

    def __init__(
        self, source: Source, index: VideoIndex, places: PacketPlaces, *, limits: Limits = DEFAULT_LIMITS
    ) -> None:
        check_source(source)
        self.source = source
        self.limits = limits
        self.seeks = True
        self.decoding_seconds = 0.0  # counted by whoever waits for frames
        check_side(self.source, index.width, index.height, limits)
        if len(places.sizes) != len(index.types):
            raise DecodeError(
                f"{self.source}: its index has {len(index.types)} packets, and places of {len(places.sizes)}. Index it again."
            )
        self._index, self._places = index, places
        self._pictures = True
        self._context: Any = None
        self._has_failed = False
        try:
            self._open_file()
            self._num_bytes = source.size
        except OSError as error:
            raise DecodeError(f"{self.source} cannot be opened: {reason(error)}. Check its permissions.") from error

    def _open_file(self) -> None:
        self._file = None if self.source.path is None else FileIO(self.source.path)
        self._process = os.getpid()

    def set_output(self, *, pictures: bool) -> bool:
        """Sets whether the pixels of frames will be used, as `PictureDecoder.set_output` does.

        Args:
            pictures: whether pixels will be used.

        Returns:
            Whether decoding starts anew.
        """
        if pictures == self._pictures or (self._pictures and self._context is not None):
            return False
        self._put_aside()
        self._pictures = pictures
        return pictures

    def frame_size(self, index: VideoIndex) -> tuple[int, int]:
        """(width, height) in pixels that frames must have, as `PictureDecoder.frame_size` gives it."""
        return decoded_size(index, pictures=self._pictures)

    def close(self) -> None:
        """Closes the file."""
        self._put_aside()
        if self._file is not None:
            self._file.close()

    def decode_from(
        self, index: VideoIndex, key: int, *, also: frozenset[int] = frozenset()
    ) -> Iterator[tuple[int, Any]]:
        """Decodes from a keyframe to the end of the file.

        Args:
            index: of this file.
            key: number of the keyframe in `index.keyframes`.
            also: as for `PictureDecoder`; there are no B-frames here.

        Yields:
            (number of its packet, frame) of every frame.

        Raises:
            DecodeError: a packet is damaged, or the file is not the one that the index describes.
        """
        context = self._restarted()
        first = index.keyframes[key][0]
        for number, place in enumerate(self._places.following(first), first):
            yield from self._decode(context, number, place)
        yield from self._decode(context, None)

    def decode_keyframe(self, index: VideoIndex, key: int) -> Any:
        """Decodes a single keyframe.

        Args:
            index: of this file.
            key: number of the keyframe in `index.keyframes`.

        Returns:
            The frame.

        Raises:
            DecodeError: it cannot be decoded, or the file is not the one that the index describes.
        """
        context = self._restarted()
        number = index.keyframes[key][0]
        place = next(self._places.following(number), None)
        frames = self._decode(context, number, place) + self._decode(context, None) if place else []
        if not frames:
            raise DecodeError(f"{self.source}: the keyframe in packet {number} cannot be decoded. Copy the file again.")
        return frames[0][1]

    def _restarted(self) -> Any:
        """The decoder, with nothing left of what it decoded before."""
        if self._context is not None:
            self._context.flush_buffers()
            return self._context
        self._context = _SPARE.pop(self._configuration, None)
        if self._context is None:
            self._context = self._new_context()
        return self._context

    @property
    def _configuration(self) -> tuple[object, ...]:
        """All on which what a decoder does depends, before its first packet."""
        index, places = self._index, self._places
        return index.codec, index.width, index.height, places.extradata, places.tag, self._pictures, self.limits.side

    def _new_context(self) -> Any:
        context: Any = av.CodecContext.create(self._index.codec, "r")
        set_up(context, self.limits, flags="+low_delay")
        context.options = context.options | decoder_options(self._index.codec, pictures=self._pictures)
        context.width, context.height = self._index.width, self._index.height
        try:
            context.codec_tag = self._places.tag
            context.extradata = b64decode(self._places.extradata, validate=True) or None
        except (TypeError, ValueError) as error:
            raise DecodeError(f"{self.source}: its index has no decoder configuration. Index it again.") from error
        return context

    def _put_aside(self) -> None:
        """Keeps the decoder for the next file, unless it may have learned something of this one."""
        context, self._context = self._context, None
        # Without checksums of all packets, it may have decoded something else than was indexed
        kept = self._places.steady and self._index.sums and not self._has_failed
        if context is None or not context.is_open or not kept:
            return
        context.flush_buffers()
        if len(_SPARE) < _MOST_SPARE:
            _SPARE[self._configuration] = context

    def _decode(self, context: Any, number: int | None, place: tuple[int, int] | None = None) -> list[tuple[int, Any]]:
        """Decodes a packet, or flushes the decoder if the number is None."""
        if context is not self._context:  # by now another reader may use it
            raise ConfigError(f"{self.source} is closed (accepted: an open reader). Read inside its `with` block.")
        packet = None if number is None or place is None else self._packet(number, *place)
        try:
            return decode_packet(context, packet, number, self.source)
        except DecodeError:
            self._has_failed = True
            raise

    def _packet(self, number: int, byte: int, size: int) -> Any:
        """A packet, read from the file into memory with the padding that FFmpeg's decoders read."""
        if not 0 <= byte <= self._num_bytes - size:  # before memory is taken for it
            raise self._ends_before(number)
        packet: Any = av.Packet(size)
        try:
            if self._process != os.getpid():  # a forked process would share the place in the file with its parent
                self._open_file()
            if self._file is not None:
                self._file.seek(byte)
                num_read = self._file.readinto(packet)
            elif (num_read := len(data := self.source.read_at(byte, size))) == size:
                packet.update(data)
        except OSError as error:
            raise DecodeError(
                f"{self.source}: packet {number} cannot be read: {reason(error)}. Copy the file again."
            ) from error
        if num_read != size:
            raise self._ends_before(number)
        try:
            check_packet(self._index, packet, number, self.source)
        except DecodeError:
            self._check_that_it_is_a_video()
            raise
        return packet

    def _check_that_it_is_a_video(self) -> None:
        """Raises DecodeError, with a better reason, if the file is none."""
        container, _ = open_container(self.source, self.limits)
        container.close()

    def _ends_before(self, number: int) -> DecodeError:
        self._check_that_it_is_a_video()
        return DecodeError(
            f"{self.source} ends before packet {number} does, as its index describes it: it was cut off or replaced. Copy the file "
            "again, or index it again."
        )


Decoder: TypeAlias = PictureDecoder | IndexedDecoder


def open_decoder(source: Source, index: VideoIndex, *, limits: Limits = DEFAULT_LIMITS) -> Decoder:
    """The decoder of a file that has an index: by the places of its packets if the index has them, otherwise with a demuxer.

    Args:
        source: of the video.
        index: of this file.
        limits: what to refuse.

    Returns:
        The decoder, which the caller closes.

    Raises:
        DecodeError: the file cannot be opened.
    """
    # Without checksums of keyframes, another file would not be recognised
    if index.places is not None and index.checksums and index.codec in INDEXED_CODECS:
        return IndexedDecoder(source, index, index.places, limits=limits)
    return PictureDecoder(source, limits=limits)


def with_places(index: VideoIndex, decoder: PictureDecoder) -> VideoIndex:
    """An index with the places of the packets, if the file can be read by them: checked byte by byte, and by decoding its start.

    That is not so where packets are not whole in the file (MPEG-TS), for other codecs than those of prepared datasets, and with
    B-frames.

    Args:
        index: of the file.
        decoder: of the file; it is moved.

    Returns:
        The index, with places or as it was.
    """
    if index.codec not in INDEXED_CODECS or not set(index.types) <= set("IP") or index.display or index.in_order_only:
        return index
    try:
        places, frames = _collected(decoder, len(index.types))
    except DecodeError:  # the first frames are damaged: readers say so when they come to them
        return index
    return replace(index, places=places) if places and _decodes_to(frames, index, places, decoder) else index


def _collected(decoder: PictureDecoder, num_packets: int) -> tuple[PacketPlaces | None, list[tuple[int, Any]]]:
    """The places of all packets, None where one is not in the file as it is; and the first frames."""
    decoder.reopen()
    extradata = decoder.context.extradata or b""
    state, steady = CarriedState(decoder.context.name, extradata, decoder.context.pix_fmt or ""), True
    found: list[tuple[int, int]] = []
    frames: list[tuple[int, Any]] = []
    keyframe = b""
    with decoder.source.open() as file:
        for number, packet in enumerate(decoder.packets()):
            data = bytes(packet)
            byte = _place_of(data, packet.pos, file)
            if byte is None:
                return None, []
            found.append((byte, len(data)))
            steady &= not state.take(data, keyframe=packet.is_keyframe)[1]
            if number < _COMPARED_FRAMES:
                keyframe = keyframe or data
                frames += decoder.feed(packet, number)
    frames += decoder.flush(keyframe)
    tag = _tag_of(decoder.context)
    if len(found) != num_packets or tag is None:
        return None, []
    sizes = tuple(size for _, size in found)
    return PacketPlaces(sizes, _runs(found), b64encode(extradata).decode(), tag, steady), frames


def _place_of(data: bytes, pos: int | None, file: Readable) -> int | None:
    """The byte of the file where a packet begins; None if it is not there as it is."""
    if pos is None or pos < 0:
        return None
    file.seek(pos)
    at = file.read(len(data) + _LONGEST_HEADER).find(data)
    return None if at < 0 else pos + at


def _runs(found: list[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """(packet, byte) of each packet that does not begin where the one before it ends."""
    ends = [-1, *(byte + size for byte, size in found)]
    return tuple((number, byte) for number, (byte, _) in enumerate(found) if byte != ends[number])


def _tag_of(context: Any) -> str | None:
    """The container's name of the codec; None if it has characters that PyAV cannot set."""
    try:
        tag = context.codec_tag
    except UnicodeDecodeError:
        return None
    return str(tag)


def _decodes_to(
    frames: list[tuple[int, Any]], index: VideoIndex, places: PacketPlaces, decoder: PictureDecoder
) -> bool:
    """Whether the first packets, read from their places, give the frames that the demuxer's decoder gave."""
    try:
        direct = IndexedDecoder(decoder.source, index, places, limits=decoder.limits)
        try:
            others = list(islice(direct.decode_from(index, 0), len(frames)))
            return [number for number, _ in others] == [number for number, _ in frames] and all(
                _alike(frame, other) for (_, frame), (_, other) in zip(frames, others, strict=True)
            )
        finally:
            direct.close()
    except DecodeError:
        return False


def _alike(frame: Any, other: Any) -> bool:
    """Whether two frames have the same form, pixels and vectors."""
    form, other_form = (
        (each.width, each.height, each.format.name, each.colorspace, each.color_range, each.interlaced_frame)
        for each in (frame, other)
    )
    colours = Colours()
    return (
        form == other_form
        and np.array_equal(colours.rows(frame)[:, : 3 * frame.width], colours.rows(other)[:, : 3 * frame.width])
        and np.array_equal(vectors_of(frame)[:, :_COMPARED_WORDS], vectors_of(other)[:, :_COMPARED_WORDS])
    )
