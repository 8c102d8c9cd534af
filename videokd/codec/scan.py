"""Indexes a file: goes through its packets once, and reads their headers or decodes them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
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
            crop=sequence.crop,
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


def from_headers(decoder: PictureDecoder) -> VideoIndex | None:
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
    sequence = replace(parser[1], global_motion="S" in types)
    return None if display is None else scan.index("".join(types), display, sequence)


def _display_order(types: list[str], pts: list[int | None]) -> list[int] | None:
    if not any(kind in "Bb" for kind in types):
        return list(range(len(types)))
    if None in pts or len(set(pts)) < len(pts):
        return None
    return np.argsort(np.argsort(np.array(pts, dtype=np.int64))).tolist()


def from_decoding(decoder: PictureDecoder) -> VideoIndex:
    """The index by decoding the whole file once."""
    scan = _Scan(decoder)
    shown: list[tuple[int, str]] = []
    interlaced = False

    def note(frames: Iterable[tuple[int, Any]]) -> None:
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
        interlaced=interlaced or (sequence is not None and sequence.interlaced),
        global_motion="S" in types,
    )
    # A keyframe flag on a packet without an I-frame ("packed" XviD ends with one) is no place to start decoding
    scan.keys = [key for key in scan.keys if types[key] == "I"]
    # Where the file does not begin with a keyframe, or flags none, its first packet is where its first decoding started
    if "I" in types and (not scan.keys or scan.keys[0] > types.index("I")):
        scan.keys.insert(0, 0)
    return scan.index("".join(types), [order[number] for number in sorted(order)], sequence)
