"""Indexes a file: goes through its packets once, and reads their headers or decodes them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any, Literal

import numpy as np

from videokd.bitstream import headers
from videokd.bitstream.completeness import PacketCheck
from videokd.bitstream.decoder_state import STARTS_AT_KEYFRAMES, CarriedState
from videokd.bitstream.frame_rate import longest_gap
from videokd.bitstream.picture_types import UNNAMED, picture_type
from videokd.codec.container import PictureDecoder
from videokd.codec.index import DEFAULT_LIMITS, Limits, VideoIndex, checksum_of
from videokd.errors import DecodeError, NeedsTranscoding

# H.264 section A.3.1
_MOST_REFERENCES = 16
_MOST_BACKWARDS = 1.0  # seconds that times of decoding may fall by: invented ones do, by a few pictures


class _Scan:
    """Collects the packets' facts on the way through a file."""

    def __init__(self, decoder: PictureDecoder) -> None:
        self.decoder = decoder
        self._check = PacketCheck(decoder.path, decoder.container, decoder.stream)
        context = decoder.context
        self._carried = CarriedState(context.name, context.extradata or b"", context.pix_fmt or "")
        self._nal_length_size = headers.h264_length_size(context.extradata or b"")
        self.first: bytes = b""
        self.stamps: list[tuple[int | None, int | None, int | None]] = []
        self.durations: list[int] = []
        self.keys: dict[int, int] = {}  # where decoding may start: CRC-32 of each packet
        self._start = 0  # the first packet's
        self.clean = True
        self.changes = False
        self._reconfigured = False

    def add(self, packet: Any, data: bytes) -> int:
        number = len(self.stamps)
        self._check.see(packet)
        # A configuration that comes between packets (FLV, MP4) is not given again after a seek
        self._reconfigured |= number > 0 and packet.has_sidedata("new_extradata")
        independent, self.changes = self._carried.take(data, keyframe=packet.is_keyframe)
        if number == 0:
            self._start = checksum_of(data)
        if packet.is_keyframe:
            self.first = self.first or data
            h264 = self.decoder.context.name == "h264"
            if h264 and not headers.h264_starts(data, self._nal_length_size):
                self.clean &= number > 0  # FFmpeg may not show the first pictures
            elif independent and not self._reconfigured:
                self.keys[number] = checksum_of(data)
        self.clean &= not packet.is_discard and not self._reconfigured
        self.stamps.append((packet.pts, packet.dts, packet.pos))
        self.durations.append(packet.duration or 0)
        return number

    def check_length(self) -> None:
        """Whether the packets are all that the file should have."""
        self._check.end()

    def index(self, types: str, display: list[int], sequence: headers.Sequence) -> VideoIndex:
        stream, context = self.decoder.stream, self.decoder.context
        rate = float(stream.average_rate or stream.guessed_rate or 25)
        shown = [packet for packet, kind in enumerate(types) if kind != "-"]
        numbers = dict(zip(shown, display, strict=True))
        times, duration = self._times(shown, numbers, rate)
        keys = self._starts(types)
        # Without a place, keyframes are reached from the file's start only, by a new decoder
        places = (
            [(None, None, None)] * len(types)
            if self._carried.lasts or self._reconfigured or self._steps_back()
            else self.stamps
        )
        return VideoIndex(
            codec=context.name,
            width=context.width,
            height=context.height,
            frame_rate=rate,
            num_frames=len(shown),
            types=types,
            display=() if display == list(range(len(display))) else tuple(display),
            seconds=tuple(round(times[numbers[packet]], 6) for packet in shown if types[packet] == "I"),
            keyframes=tuple((key, *places[key]) for key in keys),
            inexact_because=sequence.inexact_because,
            crop=sequence.crop,
            checksums=tuple(keys.values()),
            duration=0.0 if abs(duration - len(shown) / rate) * rate < 0.5 else round(duration, 6),
            times=() if _evenly_spaced(times, duration) else tuple(round(time, 4) for time in times),
        )

    def _times(self, shown: list[int], numbers: dict[int, int], rate: float) -> tuple[list[float], float]:
        """When each frame is shown, in display order and from 0, and how long they take in all; in seconds.

        Timestamps are put in display order first: those that a container invents rise in file order. Where they are missing
        or repeated, or the clock was set anew, the frame rate stands in.
        """
        stamps = sorted(stamp for packet in shown if (stamp := self.stamps[packet][0]) is not None)
        if not stamps or len(set(stamps)) < len(shown) or self._clock_jumps():
            return [number / rate for number in range(len(shown))], len(shown) / rate
        base = float(self.decoder.stream.time_base)
        times = [(stamp - stamps[0]) * base for stamp in stamps]
        last = max(numbers, key=numbers.__getitem__)
        return times, times[-1] + (self.durations[last] * base or 1 / rate)

    def _clock_jumps(self) -> bool:
        """Whether recordings were joined, each with a clock of its own."""
        longest = longest_gap(self.decoder.container)
        return self._steps_back() or any(step > longest for step in self._steps())

    def _steps_back(self) -> bool:
        """Whether the same time comes twice, so that a seek to it finds only one of the two places."""
        return any(step < -_MOST_BACKWARDS for step in self._steps())

    def _steps(self) -> list[float]:
        """Seconds from one packet's time of decoding to the next one's."""
        base = float(self.decoder.stream.time_base)
        times = [dts * base for _, dts, _ in self.stamps if dts is not None]
        return [after - before for before, after in pairwise(times)]

    def _starts(self, types: str) -> dict[int, int]:
        """{packet: CRC-32} of each packet where decoding gives what it gives from the file's start."""
        context = self.decoder.context
        # A keyframe flag on a packet without an I-frame ("packed" XviD ends with one) is no place to start decoding
        keys = {key: checksum for key, checksum in self.keys.items() if types[key] == "I"}
        # Where the file does not begin with a keyframe, or flags none, its first packet is where its first decoding started
        first_shown = next((packet for packet, kind in enumerate(types) if kind != "-"), len(types))
        if min(keys, default=len(types)) > first_shown:
            keys = {0: self._start} | keys
        if context.name not in STARTS_AT_KEYFRAMES and not context.codec.intra_only:
            keys = dict(list(keys.items())[:1])
        return keys


def _evenly_spaced(times: list[float], duration: float) -> bool:
    """Whether no frame is shown more than half a frame's time from where even spacing puts it."""
    step = duration / max(len(times), 1)
    return all(abs(time - number * step) <= step / 2 for number, time in enumerate(times))


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

    def read(self, packet: Any, data: bytes) -> str | None:
        """A packet's picture type; None where only decoding tells."""
        if self.sequence is None:
            self.parser = _parser_of(self._decoder, data)
            unknown = headers.Sequence(references=_MOST_REFERENCES if self._decoder.context.name == "h264" else 1)
            self.sequence = self.parser.first if self.parser else unknown
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
        data = bytes(packet)
        number = scan.add(packet, data)
        kind = known.read(packet, data)
        if kind is None or not scan.clean or (number == 0 and (kind != "I" or not packet.is_keyframe)):
            return None
        types.append("B" if kind == "b" and scan.changes else kind)
    scan.check_length()
    if known.sequence is None or known.sequence.interlaced:
        return None
    stamps = [stamp[0] for stamp in scan.stamps]
    display = _display_order(types, stamps, delayed=decoder.context.name != "h264")
    sequence = replace(known.sequence, global_motion="S" in types, passes_over=_passes_over(types))
    return None if display is None else scan.index("".join(types).replace("p", "P"), display, sequence)


def _display_order(types: list[str], stamps: list[int | None], *, delayed: bool) -> list[int] | None:
    """For each picture, its number in display order; None where the timestamps do not tell it for sure.

    Some containers have one timestamp per packet, that of decoding, and FFmpeg takes it for the time of display (H.264 in AVI,
    ASF and MXF, MP4 without a ctts table). Then B-pictures seem to be shown when they are decoded.

    Args:
        types: of the pictures in file order.
        stamps: when each is shown.
        delayed: whether a B-picture is always shown before the I- or P-picture that precedes it in the file (not in H.264).
    """
    known = [stamp for stamp in stamps if stamp is not None]
    rising = all(before <= after for before, after in pairwise(known))
    if not any(kind in "Bb" for kind in types):
        return list(range(len(types))) if rising else None
    if len(set(known)) < len(stamps):
        return None
    order: list[int] = np.argsort(np.argsort(np.array(known, dtype=np.int64))).tolist()
    if order[0] != 0 or (delayed and order != _delayed_order(types)):
        return None
    latest = np.maximum.accumulate(order)
    if any(kind in "Bb" and number == shown for kind, number, shown in zip(types, order, latest, strict=True)):
        return None
    return order


def _delayed_order(types: list[str]) -> list[int]:
    """Numbers in display order where every I- and P-picture waits for the B-pictures that follow it in the file."""
    shown: list[int] = []
    waiting: int | None = None
    for packet, kind in enumerate(types):
        if kind in "Bb":
            shown.append(packet)
            continue
        if waiting is not None:
            shown.append(waiting)
        waiting = packet
    order = [0] * len(types)
    for number, packet in enumerate([*shown, *([] if waiting is None else [waiting])]):
        order[packet] = number
    return order


def from_decoding(decoder: PictureDecoder) -> VideoIndex:
    """The index by decoding the whole file once."""
    scan, known = _Scan(decoder), _Headers(decoder)
    unreferenced: set[int] = set()
    shown: list[tuple[int, str]] = []
    interlaced = False

    def note(frames: Iterable[tuple[int, Any]]) -> None:
        nonlocal interlaced
        for number, frame in frames:
            kind = picture_type(frame)
            shown.append((number, "P" if kind == UNNAMED else kind))
            interlaced |= frame.interlaced_frame

    for packet in decoder.packets():
        data = bytes(packet)
        number = scan.add(packet, data)
        if known.read(packet, data) == "p":
            unreferenced.add(number)
        note(decoder.feed(packet, number))
    scan.check_length()
    note(decoder.flush(scan.first or None))
    types = ["-"] * len(scan.stamps)
    for number, kind in shown:
        types[number] = kind
    order = {number: rank for rank, (number, _) in enumerate(shown)}
    if len(order) < len(shown):
        raise NeedsTranscoding(
            f"{decoder.path} begins inside a GOP, and FFmpeg shows a picture twice for one that is missing (accepted: each picture once). "
            "Run `videokd prepare folder` to transcode it."
        )
    sequence = known.sequence or headers.Sequence()
    kinds = ("p" if number in unreferenced and kind == "P" else kind for number, kind in enumerate(types))
    sequence = replace(
        sequence,
        interlaced=interlaced or sequence.interlaced,
        global_motion="S" in types,
        passes_over=_passes_over(kinds),
    )
    return scan.index("".join(types), [order[number] for number in sorted(order)], sequence)


def index_video(path: str | os.PathLike[str], *, limits: Limits = DEFAULT_LIMITS) -> VideoIndex:
    """Indexes a file: from the packets' headers where they tell everything, otherwise by decoding it once.

    Args:
        path: a file in any container and codec that FFmpeg reads.
        limits: what is refused.

    Raises:
        DecodeError: the file cannot be read, is cut short, breaks a limit, or no frame of it can be decoded.
    """
    decoder, index = open_indexed(path, limits=limits)
    decoder.close()
    return index


def open_indexed(path: str | os.PathLike[str], *, limits: Limits) -> tuple[PictureDecoder, VideoIndex]:
    """Opens and indexes a file, and leaves it open; errors as for `index_video`."""
    decoder = PictureDecoder(path, limits=limits)
    try:
        index = from_headers(decoder)
        if index is None:
            decoder.reopen()
            index = from_decoding(decoder)
            decoder.reopen()
        check_index(index, path, limits)
    except BaseException:
        decoder.close()
        raise
    return decoder, index


def check_index(index: VideoIndex, path: str | os.PathLike[str], limits: Limits) -> None:
    """Whether there is anything to read, within the limits.

    Raises:
        DecodeError: no frame can be decoded, or a limit is broken.
    """
    if not index.num_frames:
        raise DecodeError(
            f"{path} has no frame that can be decoded (accepted: a file with video). Check that it plays."
        )
    if not index.anchors:
        raise NeedsTranscoding(
            f"{path} shows no I-frame, so no chain of motion vectors starts in it: it was cut inside a GOP, or refreshes its pictures "
            "bit by bit (accepted: one I-frame or more). Run `videokd prepare folder` to transcode it."
        )
    longest = max(map(len, index.anchors))
    too_much: tuple[Literal["gop_frames", "reader_bytes"], str] | None = None
    if longest > limits.gop_frames:
        too_much = ("gop_frames", f"a GOP of {longest} frames (accepted: up to {limits.gop_frames})")
    if index.reader_bytes > limits.reader_bytes:
        held, accepted = index.reader_bytes >> 20, limits.reader_bytes >> 20
        too_much = ("reader_bytes", f"pictures that take {held} MiB to read (accepted: up to {accepted} MiB)")
    if too_much is not None:
        raise NeedsTranscoding(
            f"{path} has {too_much[1]}. If that is no damage, open it with limits=Limits({too_much[0]}=…)."
        )
