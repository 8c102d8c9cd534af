"""Reads picture types and sequence headers of a stream, whatever its codec, without decoding it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from videokd.bitstream.h264_headers import h264_length_size, h264_picture, h264_sequence
from videokd.bitstream.headers import (
    Sequence,
    flv_picture,
    mpeg4_picture,
    mpeg4_sequence,
    mpeg12_picture,
    mpeg12_sequence,
)

# H.264 section A.3.1
_MOST_REFERENCES = 16
_VOP, _USER_DATA = b"\x00\x00\x01\xb6", b"\x00\x00\x01\xb2"
# FFmpeg takes a stream for "packed" if its encoder says so: DivX503b1393p. It drops what it kept where a new sequence starts
_DIVX = re.compile(rb"\x00\x00\x01\xb2DivX\d+(?:Build|b)\d+(p?)")
_SEQUENCE_STARTS = re.compile(rb"\x00*\x00\x00\x01\xb0")


@dataclass(frozen=True)
class _HeaderParser:
    """How to read the headers of one stream.

    Args:
        picture: gives a packet's picture type; None if only decoding tells.
        sequence: gives the sequence header of a packet, or None.
        first: the first sequence header of the stream.
    """

    picture: Callable[[bytes], str | None]
    sequence: Callable[[bytes], Sequence | None]
    first: Sequence


def _parser_of(codec: str, extradata: bytes, packet: bytes) -> _HeaderParser | None:
    """The parser for a stream, from its first packet; None if its headers do not tell the picture types."""
    read: Callable[[bytes], Sequence | None]
    picture: Callable[[bytes], str | None]
    try:
        if codec == "mpeg4" and (first := mpeg4_sequence(extradata, packet)):
            single = partial(mpeg4_picture, time_bits=first.time_bits)
            picture = PackedPictures(first, extradata).read if first.delayed else single
            read = partial(mpeg4_sequence, b"")
        elif codec == "h264" and (first := h264_sequence(extradata, packet)):
            picture = partial(h264_picture, length_size=h264_length_size(extradata))
            read = partial(h264_sequence, extradata)
        elif codec in ("mpeg1video", "mpeg2video") and (first := mpeg12_sequence(packet)):
            picture, read = mpeg12_picture, mpeg12_sequence
        elif codec == "flv":
            first, picture, read = Sequence(), flv_picture, lambda packet: None
        else:
            return None
    except IndexError:
        return None
    return _HeaderParser(picture, read, first)


class HeaderReader:
    """Reads the headers of a stream, packet by packet.

    `sequence` is what holds for all packets so far; None before the first.

    Args:
        codec: FFmpeg's name of the decoder.
        extradata: from the container's header; may be empty.
    """

    def __init__(self, codec: str, extradata: bytes) -> None:
        self._codec, self._extradata = codec, extradata
        self._parser: _HeaderParser | None = None
        self.sequence: Sequence | None = None

    def read(self, packet: bytes, *, keyframe: bool) -> str | None:
        """Takes the next packet.

        Args:
            packet: its content.
            keyframe: whether the container flags it as a keyframe.

        Returns:
            The type of its picture: I, P, S, B, or p or b if no picture refers to it, or - if it shows none; None if only decoding tells.
        """
        if self.sequence is None:
            self._parser = _parser_of(self._codec, self._extradata, packet)
            unknown = Sequence(references=_MOST_REFERENCES if self._codec == "h264" else 1)
            self.sequence = self._parser.first if self._parser else unknown
        if self._parser is None:
            return None
        try:
            if keyframe and (later := self._parser.sequence(packet)):
                if _clock_of(later) != _clock_of(self.sequence):
                    return None
                self.sequence = self.sequence.joined(later)
            return self._parser.picture(packet)
        except IndexError:
            return None

    @property
    def is_delayed(self) -> bool:
        """Whether each I- and P-picture is surely shown after the B-pictures that follow it, whatever timestamps say."""
        return self._codec == "mpeg4" and self.sequence is not None and self.sequence.delayed


def _clock_of(sequence: Sequence) -> tuple[int, int, bool]:
    return sequence.time_bits, sequence.ticks, sequence.delayed


class _Vop(NamedTuple):
    """What the header of an MPEG-4 picture says: its type, when it is shown, and whether it has content."""

    kind: str
    seconds: int
    ticks: int
    coded: bool


# A "packed" file (DivX, XviD) has two pictures in a packet: a P-picture, and the B-picture that is shown before it. FFmpeg decodes the
# first, and keeps the rest. When the next packet comes, it decodes what it kept in that packet's place. That packet has a picture
# without content, which only keeps the count of packets, or the next B-picture, which is kept in turn:
#
#     packet      I    P B    B    -    P B    -    P
#     picture     I    P      B    B    P      B    P
#
# FFmpeg leaves out a B-picture that has not two I- or P-pictures before it, or whose time is not between theirs. Each packet of which
# this class is not sure gives None: then the file is decoded to index it.
class PackedPictures:
    """Tells what FFmpeg's decoder shows for each packet of an MPEG-4 stream that may be "packed" (ISO/IEC 14496-2 section 6.2.5).

    Args:
        sequence: of the stream, with `delayed`.
        extradata: from the container's header; may be empty.
    """

    def __init__(self, sequence: Sequence, extradata: bytes) -> None:
        self._sequence = sequence
        self._is_packed = False
        self._note_encoder(extradata)
        self._kept: _Vop | None = None
        self._references = 0
        self._second = self._second_before = 0
        self._shown_at = self._distance = 0

    def read(self, packet: bytes) -> str | None:
        """Takes the next packet; the type of the picture that the decoder shows for it, - for none, None if that is not sure.

        Raises:
            IndexError: a header ends early.
        """
        first = packet.find(_VOP)
        if first < 0:
            return self._show_kept(None) if len(packet) == 1 and self._is_packed else None
        if packet.find(_USER_DATA, 0, first) >= 0:
            self._note_encoder(packet[:first])
        second = packet.find(_VOP, first + 4)
        vop = self._header(packet, first)
        if second < 0:
            if self._kept is not None:
                return None if _SEQUENCE_STARTS.match(packet) else self._show_kept(vop)
            return self._show(vop)
        following = self._header(packet, second)
        alone = packet.find(_VOP, second + 4) < 0 and self._kept is None
        if not (
            self._is_packed and alone and vop.coded and vop.kind != "b" and following.coded and following.kind == "b"
        ):
            return None
        self._kept = following
        return self._show(vop)

    def _note_encoder(self, headers: bytes) -> None:
        for name in _DIVX.finditer(headers):
            self._is_packed = bool(name[1])

    def _header(self, packet: bytes, at: int) -> _Vop:
        head, time_bits = packet[at + 4 : at + 35], self._sequence.time_bits
        bits, left, seconds = int.from_bytes(head, "big"), 8 * len(head) - 2, 0
        if not head:
            raise IndexError("header ends early")
        kind = "IPbS"[bits >> left & 3]
        while left > 0 and bits >> left - 1 & 1:
            left, seconds = left - 1, seconds + 1
        left -= 2 + time_bits + 2  # the end of the seconds and a marker, the time, a marker and whether it is coded
        if left < 0 or not bits >> left + 1 & 1:
            raise IndexError(
                "header ends early, or a marker is missing"
            )  # FFmpeg would guess another length of the time
        return _Vop(kind, seconds, bits >> left + 2 & (1 << time_bits) - 1, bool(bits >> left & 1))

    def _show_kept(self, replaced: _Vop | None) -> str | None:
        """The picture that was kept is decoded in the place of another, which is then kept if it is a B-picture."""
        kept, self._kept = self._kept, None
        if replaced is not None and replaced.coded:
            if replaced.kind != "b":
                return None  # FFmpeg loses it
            self._kept = replaced
        elif replaced is not None and replaced.kind != "P":
            return None
        return "-" if kept is None else self._show(kept)

    def _show(self, vop: _Vop) -> str | None:
        if vop.kind == "b":
            at = (self._second_before + vop.seconds) * self._sequence.ticks + vop.ticks
            from_previous = self._distance - (self._shown_at - at)
            is_between = vop.coded and self._references >= 2 and 0 < from_previous < self._distance
            return "b" if is_between else None
        self._second_before, self._second = self._second, self._second + vop.seconds
        at = self._second * self._sequence.ticks + vop.ticks
        self._distance, self._shown_at = at - self._shown_at, at
        self._references += vop.coded
        return vop.kind if vop.coded else "-"
