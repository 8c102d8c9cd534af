"""Reads picture types and sequence headers of a stream, whatever its codec, without decoding it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

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
            picture, read = (
                partial(mpeg4_picture, time_bits=first.time_bits),
                partial(mpeg4_sequence, b""),
            )
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
            The type of its picture: I, P, S, B, or p or b if no picture refers to it; None if only decoding tells.
        """
        if self.sequence is None:
            self._parser = _parser_of(self._codec, self._extradata, packet)
            unknown = Sequence(references=_MOST_REFERENCES if self._codec == "h264" else 1)
            self.sequence = self._parser.first if self._parser else unknown
        if self._parser is None:
            return None
        try:
            if keyframe and (later := self._parser.sequence(packet)):
                self.sequence = self.sequence.joined(later)
            return self._parser.picture(packet)
        except IndexError:
            return None
