"""Where the frames of a file are (VideoIndex), and how large a file may be (Limits)."""

from __future__ import annotations

import json
from base64 import b64decode
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from typing import Any
from zlib import crc32

from videokd.errors import ConfigError, DecodeError
from videokd.types import Gop

# Two chains of 4 bytes, two warped pictures and three RGB pictures of 3, and four decoded frames of 1.5 (8 bits, 4:2:0)
_READER_BYTES_PER_PIXEL = 8 + 6 + 9 + 6
# Fields that are not written at their default, and that older manifests do not have
_OPTIONAL: dict[str, Any] = {
    "crop": (0, 0),
    "checksums": (),
    "duration": 0.0,
    "times": (),
    "places": None,
    "cuts": (),
    "sums": "",
}


def checksum_of(packet: Any) -> int:
    """CRC-32 of a packet's content."""
    return crc32(packet)


def sum_of(checksum: int) -> bytes:
    """What `VideoIndex.sums` has of a packet's CRC-32: its low 16 bits, lowest byte first."""
    return (checksum & 0xFFFF).to_bytes(2, "little")


@dataclass(frozen=True)
class PacketPlaces:
    """Where the bytes of a file's packets are, and what its decoder needs from the header: enough to read it without a demuxer.

    Args:
        sizes: of each packet in file order, in bytes.
        runs: (packet, byte) where packets begin to lie one after the other: of the first, and of each that does not begin where
            the one before it ends.
        extradata: the configuration of the decoder that the container has, in base64.
        tag: the container's name of the codec, four characters, by which FFmpeg knows encoders whose errors it corrects.
        steady: whether no packet changes what a decoder knows from extradata and tag.

    Raises:
        DecodeError: sizes or runs are not possible.
    """

    sizes: tuple[int, ...] = field(repr=False)
    runs: tuple[tuple[int, int], ...] = field(repr=False)
    extradata: str = field(repr=False)
    tag: str
    steady: bool = False

    def __post_init__(self) -> None:
        whole = {*map(type, self.sizes), *(type(number) for run in self.runs for number in run)} == {int}
        packets = [run[0] for run in self.runs if len(run) == 2]
        rising = packets[:1] == [0] and packets == sorted(set(packets)) and len(packets) == len(self.runs)
        if not (self.sizes and whole and rising and min(self.sizes) > 0):
            raise DecodeError("its index has impossible places of packets. Index the file again.")

    def following(self, first: int) -> Iterator[tuple[int, int]]:
        """(byte, size) of a packet and of each one after it, by the number of the first."""
        number, byte = self.runs[bisect_right(self.runs, first, key=lambda run: run[0]) - 1]
        byte += sum(self.sizes[number:first])
        jumps = dict(self.runs)
        for number in range(first, len(self.sizes)):
            byte = jumps.get(number, byte)
            yield byte, self.sizes[number]
            byte += self.sizes[number]


@dataclass(frozen=True)
class VideoIndex:
    """Where the pictures of a file are. It is made once and kept in the manifest, so that training never scans a video.

    Args:
        codec: FFmpeg's name of the decoder.
        width: in pixels.
        height: in pixels.
        frame_rate: frames per second.
        num_frames: frames that decoding the whole file gives.
        types: for each packet in file order, the type of its picture: I, P, S (global motion), B, b (a B-frame that no frame
            refers to), or - for a packet without a picture.
        display: for each packet with a picture, the number of its frame in display order; empty where that is file order.
        seconds: for each I-frame, when it is shown.
        keyframes: (packet, pts, dts, byte) of each packet where decoding can start; pts, dts and byte are all None if it can only
            be reached by decoding from the start of the file.
        inexact_because: why chains of motion vectors are approximations; empty if they are exact.
        crop: pixels (left, top) that are coded but not shown; motion vectors count from the coded picture's corner.
        checksums: CRC-32 of each keyframe's packet, which identifies it after a seek; empty in older manifests.
        duration: seconds from the first frame to the end of the last; 0 if that is num_frames / frame_rate.
        times: for each frame in display order, when it is shown, in seconds; empty if frames are evenly spaced.
        places: of the packets' bytes; None in older manifests, and where the file can only be read with a demuxer.
        cuts: packets of P-frames that begin a GOP as if they were I-frames (see `cut`).
        sums: of every packet, two bytes (see `sum_of`), in base64; empty in older manifests.
    """

    codec: str
    width: int
    height: int
    frame_rate: float
    num_frames: int
    types: str
    display: tuple[int, ...]
    seconds: tuple[float, ...]
    keyframes: tuple[tuple[int, int | None, int | None, int | None], ...]
    inexact_because: tuple[str, ...]
    crop: tuple[int, int] = (0, 0)
    checksums: tuple[int, ...] = ()
    duration: float = 0.0
    times: tuple[float, ...] = ()
    places: PacketPlaces | None = None
    cuts: tuple[int, ...] = ()
    sums: str = field(default="", repr=False)

    @property
    def duration_seconds(self) -> float:
        """From the first frame to the end of the last, as the file's timestamps say."""
        return self.duration or self.num_frames / self.frame_rate

    def seconds_of(self, number: int) -> float:
        """When a frame is shown, by its number in display order; the first frame at 0."""
        return self.times[number] if self.times else number * self.duration_seconds / self.num_frames

    @property
    def exact(self) -> bool:
        """Whether every P-frame's vectors point at the I- or P-frame before it."""
        return not self.inexact_because

    @cached_property
    def anchors(self) -> tuple[tuple[int, ...], ...]:
        """For each GOP, the packets of its positions: its first frame and the P-frames up to the next GOP."""
        cuts = frozenset(self.cuts)
        if set(self.types) <= set("IPS"):  # as in prepared clips: the same, faster
            starts = [packet for packet, kind in enumerate(self.types) if kind == "I" or packet in cuts]
            return tuple(tuple(range(*ends)) for ends in pairwise([*starts, len(self.types)]))
        gops: list[list[int]] = []
        for packet, kind in enumerate(self.types):
            if kind == "I" or packet in cuts:
                gops.append([packet])
            elif kind in "PS" and gops:
                gops[-1].append(packet)
        return tuple(map(tuple, gops))

    @cached_property
    def gops(self) -> tuple[Gop, ...]:
        """The GOPs, in order."""
        cuts = frozenset(self.cuts)
        gops: list[Gop] = []
        of_iframes = iter(self.seconds)
        for packets in self.anchors:
            numbers = tuple(self.frame_numbers[packet] for packet in packets)
            seconds = self.seconds_of(numbers[0]) if packets[0] in cuts else next(of_iframes)
            gops.append(Gop(len(gops), seconds, numbers))
        return tuple(gops)

    def cut(self, num_frames: int) -> VideoIndex:
        """The index with long GOPs cut into "virtual" ones, as if an I-frame stood where each begins.

        A P-frame that is shown `num_frames` or more after the first frame of its GOP begins a new one: at its position 0, its
        decoded picture takes the I-frame's place, and chains of motion vectors start there. GOPs whose I-frame comes sooner stay
        as they are. Decoding still starts at the keyframe before.

        Args:
            num_frames: from the start of one GOP to that of the next, B-frames included; at least 1. Cuts of before are undone.

        Raises:
            ConfigError: `num_frames` is not a whole number from 1 on.
        """
        if not hasattr(num_frames, "__index__") or isinstance(num_frames, bool) or num_frames < 1:
            raise ConfigError(f"num_frames={num_frames!r:.40} (accepted: a whole number from 1 on). Correct it.")
        uncut = replace(self, cuts=())
        cuts: list[int] = []
        for packets in uncut.anchors:
            start = self.frame_numbers[packets[0]]
            for packet in packets[1:]:
                number = self.frame_numbers[packet]
                if number - start >= num_frames:
                    cuts.append(packet)
                    start = number
        return replace(self, cuts=tuple(cuts))

    @cached_property
    def frame_numbers(self) -> dict[int, int]:
        """{packet: number of its frame in display order} of the packets with a picture."""
        pictures = [packet for packet, kind in enumerate(self.types) if kind != "-"]
        return dict(zip(pictures, self.display or range(len(pictures)), strict=True))

    def frame_number(self, packet: int) -> int:
        """The number in display order of the frame of a packet with a picture."""
        return packet if not self.display and "-" not in self.types else self.frame_numbers[packet]

    def start_of(self, packet: int) -> int:
        """The last keyframe at or before a packet, as its number in `keyframes`."""
        return max(bisect_right(self._key_packets, packet) - 1, 0)

    def keyframe_for(self, number: int) -> int:
        """The keyframe to decode from, as its number in `keyframes`, for a frame that is named by its number in display order.

        B-frames that are shown before a keyframe may need the one before it.
        """
        packet = self.packets[number]
        key = self.start_of(packet)
        while key > 0 and number < self.frame_numbers[self.keyframes[key][0]]:
            key -= 1
        return key

    @cached_property
    def _key_packets(self) -> list[int]:
        return [key[0] for key in self.keyframes]

    def last_of_run(self, packet: int) -> int:
        """The last of the B-frames that follow each other from a packet on, to which nothing refers."""
        while self.types.startswith("b", packet + 1):
            packet += 1
        return packet

    @property
    def in_order_only(self) -> bool:
        """Whether decoding must start at the start of the file, because the decoder depends on all that came before."""
        return self.keyframes[0][1:] == (None, None, None)

    @property
    def vectors_need_pictures(self) -> bool:
        """Whether vectors may be wrong if the decoder skips what only pixels need: where it corrects the errors of an old encoder.

        In MPEG-4 such corrections change pixels, never how vectors are read.
        """
        return self.in_order_only and self.codec != "mpeg4"

    @cached_property
    def packets(self) -> dict[int, int]:
        """{number of a frame in display order: its packet}."""
        return {number: packet for packet, number in self.frame_numbers.items()}

    def packet_of_keyframe(self, packet: Any) -> int | None:
        """The number of a packet that was read after a seek, if it is surely one of the keyframes; otherwise None.

        Timestamps and byte do not identify a packet: after a seek in MPEG-PS, FFmpeg gives the end of one picture with the
        timestamps and the byte of the keyframe after it, or the two joined. The content does, unless a picture is repeated.
        """
        place = packet.pts, packet.dts, packet.pos
        if not self.checksums:
            return self._by_place.get(place)
        same = self._by_checksum.get(checksum_of(packet), [])
        if len(same) > 1:
            same = [key for key in same if self.keyframes[key][1:] == place]
        return self.keyframes[same[0]][0] if len(same) == 1 else None

    @cached_property
    def _by_place(self) -> dict[tuple[int | None, int | None, int | None], int]:
        return {(pts, dts, byte): packet for packet, pts, dts, byte in self.keyframes}

    @cached_property
    def _by_checksum(self) -> dict[int, list[int]]:
        keys: dict[int, list[int]] = {}
        for key, checksum in enumerate(self.checksums):
            keys.setdefault(checksum, []).append(key)
        return keys

    @cached_property
    def checksum_at(self) -> dict[int, int]:
        """{packet: its CRC-32} of the keyframes."""
        return {key[0]: checksum for key, checksum in zip(self.keyframes, self.checksums, strict=False)}

    @cached_property
    def _sums(self) -> bytes:
        try:
            return b64decode(self.sums, validate=True)
        except (TypeError, ValueError):
            raise DecodeError("its index has impossible checksums of packets. Index the file again.") from None

    def holds(self, number: int, packet: Any) -> bool:
        """Whether a packet that was read is the one that was indexed, by its number and content; True if there are no checksums."""
        expected = self.checksum_at.get(number)
        if expected is not None:
            return checksum_of(packet) == expected
        return not self.sums or self._sums[2 * number : 2 * number + 2] == sum_of(checksum_of(packet))

    @property
    def reader_bytes(self) -> int:
        """About how much memory a reader of this video keeps: chains, warped pictures, RGB and decoded frames."""
        return self.width * self.height * _READER_BYTES_PER_PIXEL

    def to_json(self) -> str:
        """One line of JSON, which `from_json` reads."""
        values = asdict(self)
        for name, default in _OPTIONAL.items():
            if values[name] == default:
                del values[name]
        return json.dumps(values, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> VideoIndex:
        """The index that `to_json` wrote."""
        values = json.loads(text)
        for name in ("display", "seconds", "inexact_because", "crop", "checksums", "times", "cuts"):
            if name in values:
                values[name] = tuple(values[name])
        values["keyframes"] = tuple(map(tuple, values["keyframes"]))
        if "places" in values:
            places = dict(values["places"])
            runs = tuple(map(tuple, places.pop("runs", ())))
            values.setdefault("sums", places.pop("sums", ""))
            values["places"] = PacketPlaces(tuple(places.pop("sizes", ())), runs, **places)
        return cls(**values)


#: A chain keeps columns in 16 bits and rows in 15 (see motion.py).
_LARGEST_SIDE = 32767


@dataclass(frozen=True)
class Limits:
    """What a reader refuses, with a DecodeError that names the limit; `videokd.open(path, limits=Limits(...))` changes it.

    Without limits, a damaged header of a few bytes can ask for all memory.

    Args:
        side: pixels, of both width and height of the picture; at most 32767.
        gop_frames: positions of one GOP.
        reader_bytes: memory that one reader keeps between two reads, as estimated from the size of its pictures.
        stall_seconds: how long one packet may take to be read.

    Raises:
        ConfigError: a limit is not positive, or `side` is above 32767.
    """

    side: int = 8192
    gop_frames: int = 10_000
    reader_bytes: int = 1 << 30
    stall_seconds: float = 30.0

    def __post_init__(self) -> None:
        if min(self.side, self.gop_frames, self.reader_bytes, self.stall_seconds) <= 0 or self.side > _LARGEST_SIDE:
            raise ConfigError(f"{self} (accepted: all positive, side up to {_LARGEST_SIDE}). Correct the limits.")


DEFAULT_LIMITS = Limits()
