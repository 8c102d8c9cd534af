"""Indexes a file: reads all packets once, and takes picture types from their headers or by decoding them."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable
from dataclasses import replace
from itertools import pairwise
from typing import Any, Literal

import numpy as np

from videokd.bitstream.completeness import PacketCheck
from videokd.bitstream.decoder_state import STARTS_AT_KEYFRAMES, CarriedState
from videokd.bitstream.frame_rate import longest_gap
from videokd.bitstream.h264_headers import h264_length_size, h264_starts
from videokd.bitstream.header_reader import HeaderReader
from videokd.bitstream.headers import Sequence
from videokd.bitstream.picture_types import UNNAMED, picture_type
from videokd.bitstream.source import Openable, Source
from videokd.codec.container import PictureDecoder
from videokd.codec.index import DEFAULT_LIMITS, Limits, VideoIndex, checksum_of, sum_of
from videokd.codec.indexed_decoder import with_places
from videokd.errors import DecodeError, NeedsTranscoding

# Seconds by which decoding times may go back: those that a container makes up do, by a few pictures
_MOST_BACKWARDS = 1.0


class _PacketCollector:
    """Collects what an index needs, packet by packet, except picture types."""

    def __init__(self, decoder: PictureDecoder) -> None:
        self.decoder = decoder
        self._check = PacketCheck(decoder.source, decoder.container, decoder.stream)
        context = decoder.context
        self._state = CarriedState(context.name, context.extradata or b"", context.pix_fmt or "")
        self._nal_length_size = h264_length_size(context.extradata or b"")
        self.first_keyframe: bytes = b""
        self.stamps: list[tuple[int | None, int | None, int | None]] = []
        self.durations: list[int] = []
        self.keys: dict[int, int] = {}  # {packet: CRC-32} where decoding may start
        self._first_checksum = 0
        self._sums = bytearray()
        self.plain = True  # whether headers are enough: no packet needs the decoder to tell what it shows
        self.changes_state = False  # whether the last packet changed what a decoder keeps
        self._reconfigured = False

    def add(self, packet: Any, data: bytes) -> int:
        """Takes the next packet; its number in the file."""
        number = len(self.stamps)
        self._check.see(packet)
        # A decoder configuration between packets (FLV, MP4) is not repeated after a seek
        self._reconfigured |= number > 0 and packet.has_sidedata("new_extradata")
        checksum = checksum_of(data)
        self._sums += sum_of(checksum)
        independent, self.changes_state = self._state.take(data, keyframe=packet.is_keyframe)
        if number == 0:
            self._first_checksum = checksum
        if packet.is_keyframe:
            self.first_keyframe = self.first_keyframe or data
            h264 = self.decoder.context.name == "h264"
            if h264 and not h264_starts(data, self._nal_length_size):
                self.plain &= number > 0  # FFmpeg may drop the first pictures
            elif independent and not self._reconfigured:
                self.keys[number] = checksum
        self.plain &= not packet.is_discard and not self._reconfigured
        self.stamps.append((packet.pts, packet.dts, packet.pos))
        self.durations.append(packet.duration or 0)
        return number

    def check_length(self) -> None:
        """Raises DecodeError if packets are missing at the end."""
        self._check.end()

    def index(self, types: str, display: list[int], sequence: Sequence) -> VideoIndex:
        """The index, given the picture types of the packets and the display order of the pictures."""
        stream, context = self.decoder.stream, self.decoder.context
        rate = float(stream.average_rate or stream.guessed_rate or 25)
        shown = [packet for packet, kind in enumerate(types) if kind != "-"]
        numbers = dict(zip(shown, display, strict=True))
        times, duration = self._times(shown, numbers, rate)
        keys = self._decoding_starts(types)
        # Keyframes without a place are reached by decoding from the start of the file
        places = (
            [(None, None, None)] * len(types)
            if self._state.outlives_keyframes or self._reconfigured or self._clock_goes_back()
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
            sums=b64encode(self._sums).decode(),
        )

    def _times(self, shown: list[int], numbers: dict[int, int], rate: float) -> tuple[list[float], float]:
        """When each frame is shown, in display order and from 0, and the duration of the video; in seconds.

        Timestamps are sorted first: those that a container makes up rise in file order, not in display order. If timestamps are
        missing or repeated, or the clock jumps, times follow from the frame rate.
        """
        stamps = sorted(stamp for packet in shown if (stamp := self.stamps[packet][0]) is not None)
        if not stamps or len(set(stamps)) < len(shown) or self._clock_jumps():
            return [number / rate for number in range(len(shown))], len(shown) / rate
        base = float(self.decoder.stream.time_base)
        times = [(stamp - stamps[0]) * base for stamp in stamps]
        last = max(numbers, key=numbers.__getitem__)
        return times, times[-1] + (self.durations[last] * base or 1 / rate)

    def _clock_jumps(self) -> bool:
        """Whether recordings with different clocks were joined."""
        longest = longest_gap(self.decoder.container)
        return self._clock_goes_back() or any(step > longest for step in self._decoding_steps())

    def _clock_goes_back(self) -> bool:
        """Whether the same time occurs twice, so that a seek finds only one of the two places."""
        return any(step < -_MOST_BACKWARDS for step in self._decoding_steps())

    def _decoding_steps(self) -> list[float]:
        """Seconds from the decoding time of each packet to that of the next."""
        base = float(self.decoder.stream.time_base)
        times = [dts * base for _, dts, _ in self.stamps if dts is not None]
        return [after - before for before, after in pairwise(times)]

    def _decoding_starts(self, types: str) -> dict[int, int]:
        """{packet: CRC-32} of each packet where decoding can start, with the same result as from the start of the file."""
        context = self.decoder.context
        # Decoding cannot start at a packet without an I-frame, even if it is flagged as a keyframe ("packed" XviD ends with one)
        keys = {key: checksum for key, checksum in self.keys.items() if types[key] == "I"}
        # If the file does not begin with a keyframe, or flags none, its first pictures can only be reached from its first packet
        first_shown = next((packet for packet, kind in enumerate(types) if kind != "-"), len(types))
        if min(keys, default=len(types)) > first_shown:
            keys = {0: self._first_checksum} | keys
        if context.name not in STARTS_AT_KEYFRAMES and not context.codec.intra_only:
            keys = dict(list(keys.items())[:1])
        return keys


def _evenly_spaced(times: list[float], duration: float) -> bool:
    """Whether each frame is shown within half a frame of the time that even spacing gives."""
    step = duration / max(len(times), 1)
    return all(abs(time - number * step) <= step / 2 for number, time in enumerate(times))


def _has_disposable_p_frame(types: Iterable[str]) -> bool:
    """Whether a P-picture that no picture refers to (p) comes before another P-picture of its GOP."""
    anchors = [kind for kind in types if kind in "IPpS"]
    return any(before == "p" and kind != "I" for before, kind in pairwise(anchors))


def index_from_headers(decoder: PictureDecoder) -> VideoIndex | None:
    """The index of a file without decoding it; None if the headers do not tell everything."""
    collected = _PacketCollector(decoder)
    known = HeaderReader(decoder.context.name, decoder.context.extradata or b"")
    types: list[str] = []
    for packet in decoder.packets():
        data = bytes(packet)
        number = collected.add(packet, data)
        kind = known.read(data, keyframe=packet.is_keyframe)
        if kind is None or not collected.plain or (number == 0 and (kind != "I" or not packet.is_keyframe)):
            return None
        if kind == "b" and collected.changes_state:
            if known.is_delayed:
                return None  # what FFmpeg keeps of a "packed" file must be passed over as a whole
            kind = "B"
        types.append(kind)
    collected.check_length()
    if known.sequence is None or known.sequence.interlaced:
        return None
    shown = [(kind, stamp[0]) for kind, stamp in zip(types, collected.stamps, strict=True) if kind != "-"]
    kinds, stamps = [kind for kind, _ in shown], [stamp for _, stamp in shown]
    if known.is_delayed:
        display: list[int] | None = _delayed_order(kinds)
    else:
        display = _display_order(kinds, stamps, delayed=decoder.context.name != "h264")
    sequence = replace(known.sequence, global_motion="S" in types, disposable_p_frames=_has_disposable_p_frame(types))
    return None if display is None else collected.index("".join(types).replace("p", "P"), display, sequence)


def _display_order(types: list[str], stamps: list[int | None], *, delayed: bool) -> list[int] | None:
    """For each picture, its number in display order; None if the timestamps do not tell it surely.

    Some containers have only the decoding time of each packet, which FFmpeg takes for the display time (H.264 in AVI, ASF and MXF,
    MP4 without a ctts table). Then B-pictures seem to be shown when they are decoded.

    Args:
        types: of the pictures in file order.
        stamps: their display times, in any unit.
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
    """Numbers in display order if every I- and P-picture is shown after the B-pictures that follow it in the file."""
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


def index_by_decoding(decoder: PictureDecoder) -> VideoIndex:
    """The index of a file, by decoding all of it once."""
    collected = _PacketCollector(decoder)
    known = HeaderReader(decoder.context.name, decoder.context.extradata or b"")
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
        number = collected.add(packet, data)
        if known.read(data, keyframe=packet.is_keyframe) == "p":
            unreferenced.add(number)
        note(decoder.feed(packet, number))
    collected.check_length()
    note(decoder.flush(collected.first_keyframe or None))
    types = ["-"] * len(collected.stamps)
    for number, kind in shown:
        types[number] = kind
    order = {number: rank for rank, (number, _) in enumerate(shown)}
    if len(order) < len(shown):
        raise NeedsTranscoding(
            f"{decoder.source} begins inside a GOP, and FFmpeg shows a picture twice for one that is missing (accepted: each picture once). "
            "Run `videokd prepare folder` to transcode it."
        )
    sequence = known.sequence or Sequence()
    kinds = ("p" if number in unreferenced and kind == "P" else kind for number, kind in enumerate(types))
    sequence = replace(
        sequence,
        interlaced=interlaced or sequence.interlaced,
        global_motion="S" in types,
        disposable_p_frames=_has_disposable_p_frame(kinds),
    )
    return collected.index("".join(types), [order[number] for number in sorted(order)], sequence)


def index_video(path: Openable | Source, *, limits: Limits = DEFAULT_LIMITS) -> VideoIndex:
    """Indexes a file: from the packets' headers where they tell everything, otherwise by decoding it once.

    Args:
        path: of a file, or bytes, or a file object; any container and codec that FFmpeg reads.
        limits: what to refuse.

    Returns:
        The index.

    Raises:
        DecodeError: the file cannot be read, is cut short, exceeds a limit, or no frame of it can be decoded.
    """
    decoder, index = open_indexed(path, limits=limits)
    try:
        return with_places(index, decoder)
    finally:
        decoder.close()


def open_indexed(given: Openable | Source, *, limits: Limits) -> tuple[PictureDecoder, VideoIndex]:
    """Opens and indexes a file, and leaves it open at its first packet.

    Args:
        given: path, bytes or file object; any container and codec that FFmpeg reads.
        limits: what to refuse.

    Returns:
        The decoder, which the caller closes, and the index.

    Raises:
        DecodeError: as for `index_video`.
    """
    decoder = PictureDecoder(given, limits=limits)
    try:
        index = index_from_headers(decoder)
        if index is None:
            decoder.reopen()
            index = index_by_decoding(decoder)
            decoder.reopen()
        check_index(index, decoder.source, limits)
    except BaseException:
        decoder.close()
        raise
    return decoder, index


def check_index(index: VideoIndex, source: Source, limits: Limits) -> None:
    """Checks that a video has frames to read and keeps the limits.

    Args:
        index: of the video.
        source: of the video, for messages.
        limits: what to refuse.

    Raises:
        DecodeError: no frame can be decoded, or a limit is exceeded.
        NeedsTranscoding: the file plays, but shows no I-frame.
    """
    if not index.num_frames:
        raise DecodeError(
            f"{source} has no frame that can be decoded (accepted: a file with video). Check that it plays."
        )
    if not index.anchors:
        raise NeedsTranscoding(
            f"{source} shows no I-frame, so no chain of motion vectors starts in it: it was cut inside a GOP, or refreshes its pictures "
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
            f"{source} has {too_much[1]}. If the file is not damaged, open it with limits=Limits({too_much[0]}=…)."
        )
