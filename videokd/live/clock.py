"""The time of a live stream: from its timestamps where these make sense, always rising, also where they jump, repeat or are missing."""

from __future__ import annotations

import math
from typing import Any

# A step of the decoding time that is longer, or goes back, is a restart of the clock and not a picture that was shown for so long
_LONGEST_STEP = 10.0
# How much later than it is decoded a picture may be shown: 16 reordered pictures at 5 a second
_LONGEST_DELAY = 3.2
_FALLBACK_RATE = 25.0
_HIGHEST_RATE = 1000.0
# A shorter step is what muxers write where a sender's clock stands still: one unit more for each packet
_SHORTEST_STEP = 1 / _HIGHEST_RATE / 2


class StreamClock:
    """Seconds of stream time for each packet, from 0.

    Decoding times (dts) must rise from packet to packet; a packet whose does not is one picture later than the one before. So a sender that
    starts again, or timestamps that repeat or are all zero, cannot stop the clock.

    Args:
        tick: seconds of one unit of timestamps; 0: not known.
        frame_rate: pictures a second, for packets without timestamps; 0: not known.
        start: seconds of the first packet's picture.
    """

    def __init__(self, tick: float, frame_rate: float, start: float = 0.0) -> None:
        self._tick = tick if math.isfinite(tick) and tick > 0 else 0.0
        rate = frame_rate if math.isfinite(frame_rate) and 0 < frame_rate <= _HIGHEST_RATE else _FALLBACK_RATE
        self._step = 1 / rate
        self._start = start
        self._now: float | None = None
        self._last: float | None = None  # decoding time of the last packet, as the stream says
        self.jumps = 0

    def of(self, packet: Any) -> float:
        """When the picture of the next packet is shown, in seconds.

        Args:
            packet: as PyAV gives it.
        """
        pts, dts = packet.pts, packet.dts
        decoded = dts if dts is not None else pts
        given = None if decoded is None or not self._tick else decoded * self._tick
        delay = 0.0 if pts is None or dts is None else (pts - dts) * self._tick
        delay = delay if 0 <= delay <= _LONGEST_DELAY else 0.0
        if self._now is None:
            self._now = self._start - delay
        else:
            self._now += self._step_to(given)
        self._last = given if given is not None else self._last
        return self._now + delay

    def _step_to(self, given: float | None) -> float:
        if given is None or self._last is None:
            return self._step
        step = given - self._last
        if _SHORTEST_STEP <= step <= _LONGEST_STEP:
            return step
        self.jumps += not 0 <= step < _SHORTEST_STEP
        return self._step
