"""Where the pictures of a file are."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import cached_property

import numpy as np

from videokd.types import Gop


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
        return max(np.searchsorted([key[0] for key in self.keyframes], packet, side="right").item() - 1, 0)

    def to_json(self) -> str:
        """One line of JSON; `from_json` takes it back."""
        return json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> VideoIndex:
        """The index that `to_json` wrote."""
        values = json.loads(text)
        for name in ("display", "seconds", "inexact_because"):
            values[name] = tuple(values[name])
        values["keyframes"] = tuple(map(tuple, values["keyframes"]))
        return cls(**values)
