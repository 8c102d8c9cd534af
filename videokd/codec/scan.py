"""Indexes a file: goes through its packets once, and reads their headers or decodes them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from videokd.codec import headers
from videokd.codec.index import VideoIndex
from videokd.errors import DecodeError

if TYPE_CHECKING:
    from videokd.codec.container import PictureDecoder

_PICTURE_TYPES = {1: "I", 2: "P", 3: "B", 4: "S", 5: "I", 6: "P", 7: "I"}  # AVPictureType; SI, SP and BI among them


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
        scale, per = stream.time_base.numerator, stream.time_base.denominator
        seconds = []
        for packet in (packet for packet in shown if types[packet] == "I"):
            pts = self.stamps[packet][0]
            at = numbers[packet] / rate if pts is None else (pts - start) * scale / per
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
            crop=sequence.crop,
        )


@dataclass(frozen=True)
class _Parser:
    """How to read the headers of one stream.

    Args:
        picture: a packet's picture type; None where only decoding tells.
        sequence: the sequence header of a packet, if there is one.
        first: the first of these.
    """

    picture: Callable[[bytes], str | None]
    sequence: Callable[[bytes], headers.Sequence | None]
    first: headers.Sequence


def _parser_of(decoder: PictureDecoder, packet: bytes) -> _Parser | None:
    """Made from a file's first packet; None where the headers do not tell."""
    extradata = decoder.context.extradata or b""
    name = decoder.context.name
    read: Callable[[bytes], headers.Sequence | None]
    picture: Callable[[bytes], str | None]
    try:
        if name == "mpeg4" and (first := headers.mpeg4_sequence(extradata, packet)):
            picture, read = (
                partial(headers.mpeg4_picture, time_bits=first.time_bits),
                partial(headers.mpeg4_sequence, b""),
            )
        elif name == "h264" and (first := headers.h264_sequence(extradata, packet)):
            picture = partial(headers.h264_picture, length_size=headers.h264_length_size(extradata))
            read = partial(headers.h264_sequence, extradata)
        elif name in ("mpeg1video", "mpeg2video") and (first := headers.mpeg12_sequence(packet)):
            picture, read = headers.mpeg12_picture, headers.mpeg12_sequence
        elif name == "flv":
            first, picture, read = headers.Sequence(), headers.flv_picture, lambda packet: None
        else:
            return None
    except IndexError:
        return None
    return _Parser(picture, read, first)


class _Headers:
    """Reads the headers of packet after packet."""

    def __init__(self, decoder: PictureDecoder) -> None:
        self._decoder = decoder
        self.parser: _Parser | None = None
        self.sequence: headers.Sequence | None = None

    def read(self, packet: Any) -> str | None:
        """A packet's picture type; None where only decoding tells."""
        data = bytes(packet)
        if self.sequence is None:
            self.parser = _parser_of(self._decoder, data)
            self.sequence = self.parser.first if self.parser else headers.Sequence()
        if self.parser is None:
            return None
        try:
            if packet.is_keyframe and (later := self.parser.sequence(data)):
                self.sequence = self.sequence.joined(later)
            return self.parser.picture(data)
        except IndexError:
            return None


def _passes_over(types: Iterable[str]) -> bool:
    """Whether a P-picture that nothing refers to stands before another of its GOP."""
    anchors = [kind for kind in types if kind in "IPpS"]
    return any(before == "p" and kind != "I" for before, kind in pairwise(anchors))


def from_headers(decoder: PictureDecoder) -> VideoIndex | None:
    """The index from the packets alone; None as soon as something is not plain."""
    scan, known = _Scan(decoder), _Headers(decoder)
    types: list[str] = []
    for packet in decoder.packets():
        number = scan.add(packet)
        kind = known.read(packet)
        if kind is None or (number == 0 and (kind != "I" or not packet.is_keyframe)):
            return None
        types.append(kind)
    scan.check_length()
    if known.sequence is None or not scan.clean or known.sequence.interlaced:
        return None
    display = _display_order(types, [stamp[0] for stamp in scan.stamps])
    sequence = replace(known.sequence, global_motion="S" in types, passes_over=_passes_over(types))
    return None if display is None else scan.index("".join(types).replace("p", "P"), display, sequence)


def _display_order(types: list[str], pts: list[int | None]) -> list[int] | None:
    if not any(kind in "Bb" for kind in types):
        return list(range(len(types)))
    if None in pts or len(set(pts)) < len(pts):
        return None
    return np.argsort(np.argsort(np.array(pts, dtype=np.int64))).tolist()


def from_decoding(decoder: PictureDecoder) -> VideoIndex:
    """The index by decoding the whole file once."""
    scan, known = _Scan(decoder), _Headers(decoder)
    unreferenced: set[int] = set()
    shown: list[tuple[int, str]] = []
    interlaced = False

    def note(frames: Iterable[tuple[int, Any]]) -> None:
        nonlocal interlaced
        for number, frame in frames:
            shown.append((number, _PICTURE_TYPES.get(int(frame.pict_type), "P")))
            interlaced |= frame.interlaced_frame

    for packet in decoder.packets():
        number = scan.add(packet)
        if known.read(packet) == "p":
            unreferenced.add(number)
        note(decoder.feed(packet, number))
    scan.check_length()
    note(decoder.flush(scan.first or None))
    types = ["-"] * len(scan.stamps)
    for number, kind in shown:
        types[number] = kind
    order = {number: rank for rank, (number, _) in enumerate(shown)}
    sequence = known.sequence or headers.Sequence()
    kinds = ("p" if number in unreferenced and kind == "P" else kind for number, kind in enumerate(types))
    sequence = replace(
        sequence,
        interlaced=interlaced or sequence.interlaced,
        global_motion="S" in types,
        passes_over=_passes_over(kinds),
    )
    # A keyframe flag on a packet without an I-frame ("packed" XviD ends with one) is no place to start decoding
    scan.keys = [key for key in scan.keys if types[key] == "I"]
    # Where the file does not begin with a keyframe, or flags none, its first packet is where its first decoding started
    if "I" in types and (not scan.keys or scan.keys[0] > types.index("I")):
        scan.keys.insert(0, 0)
    return scan.index("".join(types), [order[number] for number in sorted(order)], sequence)
