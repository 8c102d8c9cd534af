"""The frame rate of a file: as its headers state it, and as its timestamps say."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np

_SAME_RATE = 0.02  # timestamps in milliseconds, as in MKV, are up to 1.5 % off at 30 pictures a second
_LONGEST_GAP = 10  # times the median; more is a jump, such as where two recordings were joined
# For containers whose clock may restart: FFmpeg's dts_delta_threshold. Elsewhere more is a broken timestamp
_LONGEST_SECONDS, _LONGEST_SECONDS_ELSEWHERE = 10, 3600


def rate_of(stream: Any) -> Fraction | None:
    """The frame rate that the headers state.

    In a raw bitstream without timestamps the codec's headers state it, and the container only guesses.

    Args:
        stream: a video track, as PyAV gives it.

    Returns:
        Pictures a second; None if it is not stated.
    """
    known = stream.average_rate if stream.start_time is not None else None
    return known or stream.guessed_rate or stream.average_rate


def longest_gap(container: Any) -> int:
    """The most seconds between two pictures of one recording; more means that the clock restarted, as in joined transport streams.

    Args:
        container: as PyAV opened it.
    """
    return _LONGEST_SECONDS if container.format.name in ("mpegts", "mpeg") else _LONGEST_SECONDS_ELSEWHERE


class RateMeter:
    """Measures the frame rate of a video track from its packets; files of a variable rate state a wrong one, or none.

    Args:
        stream: the track, as PyAV gives it.
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
        """Pictures a second: the stated rate if timestamps agree, are missing or repeated; 0 if no rate is known."""
        for stamps in self._stamps.values():
            known = sorted({stamp for stamp in stamps if stamp is not None})
            if len(known) < len(stamps) or len(known) < 2 or not self._tick:
                continue
            gaps = np.diff(known)
            measured = 1 / float(gaps[gaps <= _LONGEST_GAP * np.median(gaps)].mean() * self._tick)
            return self._stated if abs(measured - self._stated) <= _SAME_RATE * self._stated else measured
        return self._stated

    @property
    def seconds(self) -> float:
        """From the first picture to the last, as timestamps say, or else their rate; 0 if no rate is known."""
        stamps = self._stamps["pts"]
        known = [stamp for stamp in stamps if stamp is not None]
        if len(known) > 1 and self._tick:
            return float((max(known) - min(known)) * self._tick)
        rate = self.rate
        return len(stamps) / rate if rate else 0.0
