"""How far reading is behind a stream, and when packets are left out to catch up."""

from __future__ import annotations

import math

# Being so far behind, for so long, cannot be the network's doing alone: decoding is too slow
_MOST_BEHIND, _LONGEST_BEHIND = 1.0, 2.0
# Packets that are left out take no time. So what is still behind after this long is no backlog: the stream's own clock is slow
_CATCHES_UP = 2.0
# How long the least delay is remembered: clocks of cameras drift
_MEMORY = 30.0


class Lag:
    """Compares stream time with the clock.

    `skips` is whether packets are left out now; `skipped_seconds` is how much stream time the last time that they were.
    """

    def __init__(self) -> None:
        self._first: tuple[float, float] | None = None  # (stream time, clock) of the first packet
        self._least, self._least_before = math.inf, math.inf
        self._since: float | None = None  # when it fell behind, by the clock
        self._renewed = -math.inf
        self._skips_from = self._skips_since = 0.0
        self._is_slow = False  # whether the stream's clock is known to be slower than ours
        self.skips = False
        self.skipped_seconds = 0.0

    def behind_start(self, seconds: float, now: float) -> float:
        """Seconds by which the stream has gone on more slowly than the clock since the first call.

        Args:
            seconds: stream time.
            now: the clock, in seconds.
        """
        if self._first is None:
            self._first = seconds, now
        return (now - self._first[1]) - (seconds - self._first[0])

    def is_skipped(self, seconds: float, now: float, *, keyframe: bool) -> bool:
        """Whether the next packet of a stream that comes in real time is left out.

        Once reading has been behind for a while, packets are left out until it has caught up and a keyframe comes. Where that does not
        help, the stream's timestamps are to blame (wrong rates, a clock that stands still), and none are left out any more.

        Args:
            seconds: stream time of the packet.
            now: when it was read, by the clock, in seconds.
            keyframe: whether decoding can start at it.
        """
        delay = now - seconds
        if now - self._renewed > _MEMORY:
            self._renewed, self._least_before, self._least = now, self._least, delay
        self._least = min(self._least, delay)
        behind = delay - min(self._least, self._least_before)
        if self.skips:
            self._is_slow = self._is_slow or (now - self._skips_since > _CATCHES_UP and behind >= _MOST_BEHIND / 2)
            self.skips = not (keyframe and (self._is_slow or behind < _MOST_BEHIND / 2))
            self.skipped_seconds = seconds - self._skips_from
            return self.skips
        if behind <= _MOST_BEHIND or self._is_slow:
            self._since = None
            return False
        self._since = now if self._since is None else self._since
        if now - self._since > _LONGEST_BEHIND and not keyframe:
            self.skips, self._skips_from, self._skips_since, self._since = True, seconds, now, None
        return self.skips
