"""Pictures dropped or repeated by time, so that each second has the same number of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import chain, islice
from typing import Any

from av.video.frame import VideoFrame

_FIRST_LOOK = (
    8  # pictures whose timestamps are compared before the first is used: wrong ones show within a reordered group
)


class PictureTimes:
    """When each decoded picture is shown, in seconds; always rising.

    Timestamps are FFmpeg's best guess: the picture's own, or the packet's where these rise more reliably. Where both are missing, stand still or
    jump, the picture follows the last one after the nominal distance.

    Args:
        start: the timestamp of the file's time 0, in seconds.
        step: nominal distance of two pictures, in seconds.
        longest: seconds between two pictures; more is a jump, and would be filled with copies.
    """

    def __init__(self, start: Fraction, step: Fraction, longest: int = 3600) -> None:
        self._offset, self._step, self._longest = -start, step, longest
        self._last: Fraction | None = None
        self._last_seen: dict[str, int | None] = {"pts": None, "dts": None}
        self._faults = {"pts": 0, "dts": 0}

    def look_at(self, frames: list[VideoFrame]) -> None:
        """Tell from the first pictures which of their timestamps can be trusted."""
        for frame in frames:
            self._stamp(frame)
        self._last_seen = {"pts": None, "dts": None}

    def of(self, frame: VideoFrame) -> Fraction:
        """The time of the next picture in display order."""
        stamp = self._stamp(frame)
        base = frame.time_base or Fraction(0)
        expected = Fraction(0) if self._last is None else self._last + self._step
        time = expected if stamp is None else stamp * base + self._offset
        if abs(time - (self._last or 0)) > self._longest:
            self._offset += expected - time
            time = expected
        self._last = time if self._last is None or time > self._last else expected
        return self._last

    def _stamp(self, frame: VideoFrame) -> int | None:
        """As libavcodec's `guess_correct_pts` chooses."""
        stamps = {"pts": frame.pts, "dts": frame.dts}
        for name, stamp in stamps.items():
            last = self._last_seen[name]
            if stamp is not None:
                self._faults[name] += last is not None and stamp <= last
                self._last_seen[name] = stamp
        by_pts = self._faults["pts"] <= self._faults["dts"] or stamps["dts"] is None
        return stamps["pts"] if by_pts and stamps["pts"] is not None else stamps["dts"]


def resampled(
    pictures: Iterable[VideoFrame], rate: Fraction, *, start: Fraction, step: Fraction, longest: int = 3600
) -> Iterator[VideoFrame]:
    """The pictures at a constant rate, as FFmpeg's filter `fps` gives them: each shows the latest that has begun.

    Args:
        pictures: decoded, in display order, with their timestamps.
        rate: pictures a second.
        start: the timestamp of the file's time 0, in seconds.
        step: nominal distance of two pictures, in seconds; also how long the last one is shown where the file does not say.
        longest: seconds between two pictures; more is a jump.
    """
    times, pictures = PictureTimes(start, step, longest), iter(pictures)
    first = list(islice(pictures, _FIRST_LOOK))
    times.look_at(first)
    shown: VideoFrame | None = None
    next_slot, end = 0, Fraction(0)
    for frame in chain(first, pictures):
        time = times.of(frame)
        slot = _nearest(time * rate)
        if shown is None:
            next_slot = slot
        else:
            for _ in range(next_slot, slot):
                yield shown
            next_slot = max(next_slot, slot)
        shown, end = frame, time + _duration(frame, step, longest)
    if shown is not None:
        for _ in range(next_slot, _nearest(end * rate)):
            yield shown


def _duration(frame: Any, step: Fraction, longest: int) -> Fraction:
    """How long a picture is shown, in seconds."""
    duration = Fraction(frame.duration or 0) * (frame.time_base or 0)
    return duration if 0 < duration <= longest else step


def _nearest(value: Fraction) -> int:
    """The nearest whole number; halves away from zero, as FFmpeg rounds timestamps."""
    whole = int(abs(value) + Fraction(1, 2))
    return whole if value >= 0 else -whole
