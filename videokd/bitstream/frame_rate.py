"""How many pictures a second a file has: what its headers state, and what its timestamps say."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np

_SAME_RATE = 0.02  # timestamps in milliseconds, as in MKV, are up to 1.5 % off at 30 pictures a second
_LONGEST_GAP = 10  # times the middle one; more is a jump, such as where two recordings were joined
# FFmpeg's dts_delta_threshold, for containers whose clock may be set anew; elsewhere more is a broken timestamp
_LONGEST_SECONDS, _LONGEST_SECONDS_ELSEWHERE = 10, 3600


def rate_of(stream: Any) -> Fraction | None:
    """Pictures a second; in a bare bitstream, which has no timestamps, the codec knows it and the container guesses."""
    known = stream.average_rate if stream.start_time is not None else None
    return known or stream.guessed_rate or stream.average_rate


def longest_gap(container: Any) -> int:
    """Seconds between two pictures; more is no pause, but a clock that was set anew, as in joined transport streams."""
    return _LONGEST_SECONDS if container.format.name in ("mpegts", "mpeg") else _LONGEST_SECONDS_ELSEWHERE


class RateMeter:
    """Measures the pictures a second of a video track from its packets: files of a variable rate state another, or none.

    Args:
        stream: the track.
    """

    def __init__(self, stream: Any) -> None:
        self._stated = float(rate_of(stream) or 0)
        self._tick = stream.time_base
        self._stamps: dict[str, list[int | None]] = {"pts": [], "dts": []}

    def see(self, packet: Any) -> None:
        """Takes the next packet."""
        if packet.size and not packet.is_discard:
            self._stamps["pts"].append(packet.pts)
            self._stamps["dts"].append(packet.dts)

    @property
    def rate(self) -> float:
        """Pictures a second; as stated where timestamps agree, or are missing or repeated; 0 where nothing tells."""
        for stamps in self._stamps.values():
            known = sorted({stamp for stamp in stamps if stamp is not None})
            if len(known) < len(stamps) or len(known) < 2 or not self._tick:
                continue
            gaps = np.diff(known)
            measured = 1 / float(gaps[gaps <= _LONGEST_GAP * np.median(gaps)].mean() * self._tick)
            return self._stated if abs(measured - self._stated) <= _SAME_RATE * self._stated else measured
        return self._stated
