"""From probabilities of windows to events with a start and an end: smoothing and hysteresis."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from videokd.errors import ConfigError

Smoothing = Literal["mean", "exponential"]
Probabilities = npt.NDArray[np.float32]
_MOST_WINDOWS = 10_000


@dataclass(frozen=True)
class EventSettings:
    """How labels of windows become events.

    Args:
        smooth: windows that are averaged; 1: none.
        smoothing: mean of the last windows, or an exponential mean with the same centre of weight, 2 / (smooth + 1) for the newest.
        on: probability from which a label is on; None: no events.
        off: probability below which it is off again; None: `on`.
        min_seconds: how long a label must be on to be an event.

    Raises:
        ConfigError: a number is out of range.
    """

    smooth: int = 1
    smoothing: Smoothing = "mean"
    on: float | None = None
    off: float | None = None
    min_seconds: float = 0.0

    def __post_init__(self) -> None:
        if not 1 <= self.smooth <= _MOST_WINDOWS:
            raise ConfigError(f"smooth is {self.smooth} (accepted: 1 to {_MOST_WINDOWS} windows). Correct it.")
        if self.smoothing not in get_args(Smoothing):
            raise ConfigError(f"smoothing {self.smoothing!r} (accepted: {', '.join(get_args(Smoothing))}). Correct it.")
        if self.on is None and (self.off is not None or self.min_seconds):
            raise ConfigError("off and min_seconds are about events (accepted: with `on`). Pass `--on 0.6` too.")
        if self.on is not None and not 0 < self.on <= 1:
            raise ConfigError(f"on is {self.on} (accepted: above 0, up to 1). Correct it.")
        if self.on is not None and self.off is not None and not 0 <= self.off <= self.on:
            raise ConfigError(f"off is {self.off} (accepted: 0 to {self.on}, which is `on`). Correct it.")
        if not 0 <= self.min_seconds <= 86400:
            raise ConfigError(f"min_seconds is {self.min_seconds} (accepted: 0 to 86400). Correct it.")


class Smoother:
    """Averages the probabilities of one source's windows.

    Args:
        settings: how.
    """

    def __init__(self, settings: EventSettings) -> None:
        self._weight = 2 / (settings.smooth + 1) if settings.smoothing == "exponential" else None
        self._last: deque[Probabilities] = deque(maxlen=settings.smooth if self._weight is None else 1)

    def add(self, probabilities: Probabilities) -> Probabilities:
        """The mean with the windows before.

        Args:
            probabilities: [K], of the next window.

        >>> smoother = Smoother(EventSettings(smooth=2))
        >>> [float(smoother.add(np.float32([p]))[0]) for p in (1, 0, 0)]
        [1.0, 0.5, 0.0]
        """
        if self._weight is not None and self._last:
            probabilities = (self._weight * probabilities + (1 - self._weight) * self._last[-1]).astype(np.float32)
        self._last.append(probabilities)
        if self._weight is not None or len(self._last) == 1:
            return probabilities
        return np.mean(self._last, axis=0, dtype=np.float32)


@dataclass(frozen=True)
class Change:
    """The start or the end of an event.

    Args:
        kind: start or end.
        label: the class.
        start_seconds: stream time of the start of the first window in which it was on.
        end_seconds: stream time of the end of the last one; so far, at the start of an event.
        probability: the highest, smoothed; so far, at the start of an event.
    """

    kind: Literal["start", "end"]
    label: str
    start_seconds: float
    end_seconds: float
    probability: float


@dataclass
class _On:
    """A label that is on."""

    start: float
    end: float
    highest: float
    is_event: bool = False


class EventTracker:
    """Finds events in one source: a label is on from one probability up, and off below a lower one (hysteresis).

    Args:
        class_names: K names.
        settings: with `on`.
    """

    def __init__(self, class_names: Sequence[str], settings: EventSettings) -> None:
        assert settings.on is not None
        self._names, self._shortest = class_names, settings.min_seconds
        self._on = settings.on
        self._off = settings.on if settings.off is None else settings.off
        self._now: dict[int, _On] = {}

    def add(self, start: float, end: float, probabilities: Probabilities) -> list[Change]:
        """The events that start or end with a window.

        Args:
            start: of the window, in seconds of stream time.
            end: of the window.
            probabilities: [K], smoothed.
        """
        changes = []
        for number in [number for number in self._now if probabilities[number] < self._off]:
            changes += self._ended(number)
        for number in set(np.flatnonzero(probabilities >= self._on).tolist()) | set(self._now):
            state = self._now.setdefault(number, _On(start, end, 0.0))
            state.end, state.highest = end, max(state.highest, float(probabilities[number]))
            if not state.is_event and state.end - state.start >= self._shortest:
                state.is_event = True
                changes.append(Change("start", self._names[number], state.start, state.end, state.highest))
        return changes

    def finish(self) -> list[Change]:
        """The ends of the events that are still on, where the source ends."""
        return [change for number in list(self._now) for change in self._ended(number)]

    def _ended(self, number: int) -> list[Change]:
        state = self._now.pop(number)
        if not state.is_event:
            return []
        return [Change("end", self._names[number], state.start, state.end, state.highest)]
