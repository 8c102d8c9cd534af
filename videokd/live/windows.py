"""A sliding window over a stream: which positions it looks at, and when it has seen them all."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from videokd.errors import ConfigError

T = TypeVar("T")
_MOST_SEGMENTS, _MOST_AT_ONCE = 1000, 1000
_SHORTEST, _LONGEST = 0.04, 3600.0


@dataclass(frozen=True)
class Span(Generic[T]):
    """A window that was seen.

    Args:
        start: seconds of stream time.
        end: seconds of stream time.
        samples: of each segment, in order; neighbours may be the same one.
    """

    start: float
    end: float
    samples: tuple[T, ...]


@dataclass
class _Open(Generic[T]):
    """A window that is not complete yet; `samples` are those of the first segments."""

    start: float
    samples: list[T] = field(default_factory=list)


class SlidingWindow(Generic[T]):
    """Chooses the positions of each window, as they come, and collects what was read there.

    A window's seconds are cut into S equal spans (TSN, Wang et al. 2016), and each takes the position that is shown at its middle: that of
    `sample_positions` for a file, up to one. So a window is complete with the last of these, before its end. Where none is, because
    pictures are missing or nothing can be read at them, the next one is taken; at the end of a window, the one before.

    Args:
        window: length of a window, in seconds.
        stride: from the start of a window to that of the next, in seconds.
        num_segments: S.

    Raises:
        ConfigError: a number is out of range.
    """

    def __init__(self, *, window: float, stride: float, num_segments: int) -> None:
        for name, seconds in (("window", window), ("stride", stride)):
            if not _SHORTEST <= seconds <= _LONGEST:
                raise ConfigError(f"{name} is {seconds} (accepted: {_SHORTEST} to {_LONGEST:g} seconds). Correct it.")
        if not 1 <= num_segments <= _MOST_SEGMENTS:
            raise ConfigError(f"num_segments is {num_segments} (accepted: 1 to {_MOST_SEGMENTS}). Correct it.")
        if window / stride > _MOST_AT_ONCE:
            raise ConfigError(
                f"stride is {stride} and window {window} (accepted: up to {_MOST_AT_ONCE} windows at a time). Raise the stride."
            )
        self._window, self._stride, self._segments = window, stride, num_segments
        self._origin: float | None = None
        self._begun = 0  # windows that have begun, or were passed over
        self._open: list[_Open[T]] = []
        self._complete: list[Span[T]] = []
        self._any = False
        self._last: float | None = None
        self._steps = (0.0, 0.0)  # seconds between the last positions

    def wants(self, seconds: float) -> bool:
        """Whether a position is looked at.

        Args:
            seconds: its time; never earlier than at the call before.
        """
        if self._last is not None:
            self._steps = self._steps[1], seconds - self._last
        self._last = seconds
        self._move_to(seconds)
        return any(self._next_middle(window) < self._shown_until(seconds) for window in self._open)

    def put(self, seconds: float, sample: T) -> None:
        """Takes what was read at a position that is wanted.

        Args:
            seconds: its time.
            sample: what was read; windows share it.
        """
        for window in self._open:
            while len(window.samples) < self._segments and self._next_middle(window) < self._shown_until(seconds):
                window.samples.append(sample)
        self._close(lambda window: len(window.samples) == self._segments)

    def end(self, seconds: float) -> None:
        """The stream has ended; if it was shorter than a window, what was seen of the first one is complete.

        Args:
            seconds: when its last position was shown.
        """
        if not self._any and self._open and self._open[0].samples:
            first = self._open[0]
            missing = self._segments - len(first.samples)
            samples = (*first.samples, *(first.samples[-1:] * missing))
            self._complete.append(Span(first.start, max(seconds, first.start), samples))
        self._open.clear()

    def take(self) -> list[Span[T]]:
        """The windows that are complete since the last call."""
        complete, self._complete = self._complete, []
        return complete

    def _shown_until(self, seconds: float) -> float:
        """When the next position is expected; the lesser of two steps, since one of them may be a gap."""
        return seconds + max(min(self._steps), 0.001)

    def _next_middle(self, window: _Open[T]) -> float:
        segment = len(window.samples)
        if segment == self._segments:
            return math.inf
        return window.start + (segment + 0.5) * self._window / self._segments

    def _move_to(self, seconds: float) -> None:
        """Begins windows, and ends those that are over."""
        if self._origin is None:
            self._origin = seconds
        self._close(lambda window: window.start + self._window <= seconds)
        # After a gap, windows that would be over already are passed over
        over = math.floor((seconds - self._origin - self._window) / self._stride) + 1
        self._begun = max(self._begun, over)
        while self._origin + self._begun * self._stride <= seconds:
            self._open.append(_Open(self._origin + self._begun * self._stride))
            self._begun += 1

    def _close(self, over: Callable[[_Open[T]], bool]) -> None:
        for window in [window for window in self._open if over(window)]:
            self._open.remove(window)
            if not window.samples:
                continue
            self._any = True
            missing = self._segments - len(window.samples)
            samples = (*window.samples, *(window.samples[-1:] * missing))
            self._complete.append(Span(window.start, window.start + self._window, samples))
