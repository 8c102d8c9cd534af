"""Where the pictures of a file are."""

from __future__ import annotations

import json
from bisect import bisect_right
from dataclasses import asdict, dataclass
from functools import cached_property

from videokd.types import Gop

# Two chains of 4 bytes, two warped pictures and three RGB pictures of 3, and four decoded frames of 1.5 (8 bits, 4:2:0)
_READER_BYTES_PER_PIXEL = 8 + 6 + 9 + 6


@dataclass(frozen=True)
class VideoIndex:
    """Where the pictures of a file are: found once, kept in the manifest, so that training never scans a video.

    Args:
        codec: FFmpeg's name of the decoder.
        width: in pixels.
        height: in pixels.
        frame_rate: frames per second.
        num_frames: frames that decoding the whole file gives.
        types: for each packet in file order, the type of its picture: I, P, S (global motion), B, b (a B-frame that nothing
            refers to), or - for none.
        display: for each packet with a picture, the number of its frame in display order; empty where that is file order.
        seconds: for each I-frame, when it is shown.
        keyframes: (packet, pts, dts, byte) of each packet where decoding can start.
        inexact_because: why chains of motion vectors are approximations; empty where they are exact.
        crop: pixels (left, top) that are coded but not shown; motion vectors count from the coded picture's corner.
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

    @property
    def exact(self) -> bool:
        """Whether every P-frame's vectors point at the I- or P-frame before it."""
        return not self.inexact_because

    @cached_property
    def anchors(self) -> tuple[tuple[int, ...], ...]:
        """For each GOP, the packets of its positions: the I-frame and the P-frames up to the next I-frame."""
        gops: list[list[int]] = []
        for packet, kind in enumerate(self.types):
            if kind == "I":
                gops.append([packet])
            elif kind in "PS" and gops:
                gops[-1].append(packet)
        return tuple(map(tuple, gops))

    @cached_property
    def gops(self) -> tuple[Gop, ...]:
        """The GOPs, in order."""
        pictures = [packet for packet, kind in enumerate(self.types) if kind != "-"]
        number = dict(zip(pictures, self.display or range(len(pictures)), strict=True))
        return tuple(
            Gop(index, seconds, tuple(number[packet] for packet in packets))
            for index, (seconds, packets) in enumerate(zip(self.seconds, self.anchors, strict=True))
        )

    def start_of(self, packet: int) -> int:
        """Number in `keyframes` of the last one at or before a packet."""
        return max(bisect_right(self._key_packets, packet) - 1, 0)

    @cached_property
    def _key_packets(self) -> list[int]:
        return [key[0] for key in self.keyframes]

    @cached_property
    def places(self) -> dict[tuple[int | None, int | None, int | None], int]:
        """{(pts, dts, byte): packet} of the keyframes: how a packet is known again after a seek."""
        return {(pts, dts, byte): packet for packet, pts, dts, byte in self.keyframes}

    @property
    def reader_bytes(self) -> int:
        """About what a reader of this video keeps: chains, warped pictures, RGB and decoded frames."""
        return self.width * self.height * _READER_BYTES_PER_PIXEL

    def to_json(self) -> str:
        """One line of JSON; `from_json` takes it back."""
        values = asdict(self)
        if self.crop == (0, 0):
            del values["crop"]
        return json.dumps(values, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> VideoIndex:
        """The index that `to_json` wrote."""
        values = json.loads(text)
        for name in ("display", "seconds", "inexact_because", "crop"):
            if name in values:
                values[name] = tuple(values[name])
        values["keyframes"] = tuple(map(tuple, values["keyframes"]))
        return cls(**values)
