"""Watches sources: every window gets its labels, those of several sources at once where they are ready together."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import numpy.typing as npt

from videokd.errors import DataError
from videokd.live.events import Change, EventSettings, EventTracker, Smoother
from videokd.live.feed import Feed, Seen, WatchSettings
from videokd.live.mailbox import Mailbox
from videokd.live.sources import LiveSource
from videokd.prediction.prediction import RankedLabel, ranked
from videokd.prediction.predictor import Predictor

# How long to wait for threads when watching ends: those that wait for a lost camera end with FFmpeg's timeout
_JOIN_SECONDS = 1.0


@dataclass(frozen=True)
class WindowLabels:
    """What the students say of one window.

    Args:
        source: name of the source.
        start_seconds: of the window, in stream time: from the first picture of the source.
        end_seconds: of the window.
        time: when the last packet came that the labels are from, in UTC (ISO 8601).
        labels: the most probable first; smoothed.
        latency_seconds: from when that packet came to when the labels were known.
        dropped_seconds: stream time of this source that got no label so far, because labelling or decoding was too slow.
        damaged_seconds: stream time that was left out so far, because packets were lost or damaged.
    """

    source: str
    start_seconds: float
    end_seconds: float
    time: str
    labels: tuple[RankedLabel, ...]
    latency_seconds: float
    dropped_seconds: float
    damaged_seconds: float


@dataclass(frozen=True)
class SourceChange:
    """The start or the end of an event in a source.

    Args:
        source: name of the source.
        time: when it was noticed, in UTC (ISO 8601).
        change: what happened.
    """

    source: str
    time: str
    change: Change


class Watching:
    """Watches sources until they end, or `stop` says so.

    Args:
        sources: what to watch.
        predictor: labels windows.
        settings: how sources are watched.
        events: smoothing, and what is an event.
        top: how many labels a window gets.
        tell: called with each message for people, from several threads.
    """

    def __init__(
        self,
        sources: Sequence[LiveSource],
        predictor: Predictor,
        *,
        settings: WatchSettings,
        events: EventSettings,
        top: int,
        tell: Callable[[str], None],
    ) -> None:
        self._predictor, self._top, self._tell = predictor, top, tell
        self._names = predictor.wanted.class_names
        self._mailbox: Mailbox[Seen] = Mailbox(len(sources))
        self._feeds = [
            Feed(source, number, predictor.wanted, settings, self._mailbox, tell)
            for number, source in enumerate(sources)
        ]
        self._failed: list[Feed] = []
        self._smoothers = [Smoother(events) for _ in sources]
        self._trackers = [EventTracker(self._names, events) if events.on is not None else None for _ in sources]

    def results(self, stops: Callable[[], bool]) -> Iterator[WindowLabels | SourceChange]:
        """Starts to watch, and yields each result at once.

        Args:
            stops: asked several times a second whether to stop.

        Raises:
            DataError: no source could be watched to its end; each is named by a message.
        """
        try:
            for feed in self._feeds:
                feed.thread.start()
            while not stops():
                seen = self._mailbox.take()
                self._tell_of_failures()
                if seen is None:
                    break
                if seen:
                    yield from self._labelled(seen)
            yield from self._finished()
        finally:
            self._end()
        if not stops():
            self._raise_if_all_failed()

    def _labelled(self, seen: Mapping[int, Seen]) -> Iterator[WindowLabels | SourceChange]:
        """The results for windows that are ready together, in one batch."""
        names = [self._feeds[number].source.name for number in seen]
        probabilities = self._predictor(_batch(list(seen.values())), names=names).probabilities
        now = time.monotonic()
        for (number, window), of_window in zip(seen.items(), probabilities, strict=True):
            yield from self._results_of(number, window, of_window, now)

    def _results_of(
        self, number: int, window: Seen, probabilities: npt.NDArray[np.float32], now: float
    ) -> Iterator[WindowLabels | SourceChange]:
        source, span = self._feeds[number].source.name, window.span
        smoothed = self._smoothers[number].add(probabilities)
        arrived = max(sight.arrived for sight in span.samples)
        yield WindowLabels(
            source,
            span.start,
            span.end,
            _utc(arrived),
            ranked(smoothed, self._names, top=self._top),
            now - arrived,
            window.dropped_seconds,
            window.damaged_seconds,
        )
        tracker = self._trackers[number]
        for change in tracker.add(span.start, span.end, smoothed) if tracker is not None else ():
            yield SourceChange(source, _utc(now), change)

    def _finished(self) -> Iterator[SourceChange]:
        """The ends of the events that are still on."""
        now = time.monotonic()
        for feed, tracker in zip(self._feeds, self._trackers, strict=True):
            for change in tracker.finish() if tracker is not None else ():
                yield SourceChange(feed.source.name, _utc(now), change)

    def _end(self) -> None:
        """Ends the threads; one that waits for FFmpeg ends a little later by itself."""
        self._mailbox.stopped.set()
        until = time.monotonic() + _JOIN_SECONDS
        for feed in self._feeds:
            if feed.thread.ident is not None:
                feed.thread.join(max(until - time.monotonic(), 0.0))

    def _tell_of_failures(self) -> None:
        """Names each source that has failed, once; a single one is named by the error at the end."""
        for feed in self._feeds:
            if feed.error is not None and feed not in self._failed:
                self._failed.append(feed)
                if len(self._feeds) > 1:
                    self._tell(str(feed.error))

    def _raise_if_all_failed(self) -> None:
        self._tell_of_failures()
        errors = [feed.error for feed in self._failed if feed.error is not None]
        if len(errors) == len(self._feeds) == 1:
            raise errors[0]
        if len(errors) == len(self._feeds):
            raise DataError(f"none of {len(errors)} sources could be watched; each is named above.")


def _batch(seen: Sequence[Seen]) -> dict[str, npt.NDArray[np.uint8]]:
    """{input: uint8 [B, S, C, side, side]} of windows."""
    keys = seen[0].span.samples[0].crops
    stacked = {
        key: np.stack([np.stack([sight.crops[key] for sight in window.span.samples]) for window in seen])
        for key in keys
    }  # [B, S, side, side, C]
    return {key: values.transpose(0, 1, 4, 2, 3) for key, values in stacked.items()}


def _utc(moment: float) -> str:
    """A time of `time.monotonic`, in UTC."""
    ago = time.monotonic() - moment
    return datetime.fromtimestamp(time.time() - ago, UTC).isoformat(timespec="milliseconds")
