"""Sliding windows over a stream."""

from __future__ import annotations

import numpy as np
import pytest

from videokd.datasets.view import sample_positions
from videokd.errors import ConfigError
from videokd.live.windows import SlidingWindow, Span


def fed(window: SlidingWindow[int], times: list[float], *, seen: list[float] | None = None) -> list[Span[int]]:
    spans = []
    for number, seconds in enumerate(times):
        if window.wants(seconds):
            window.put(seconds, number)
            if seen is not None:
                seen.append(seconds)
        spans += window.take()
    return spans


def every(step: float, until: float) -> list[float]:
    return [round(number * step, 6) for number in range(int(until / step))]


def test_positions_are_those_of_a_file_up_to_one() -> None:
    spans = fed(SlidingWindow(window=2.0, stride=2.0, num_segments=8), every(0.04, 2.0))
    expected = [position for _, position in sample_positions([50], num_segments=8)]
    assert len(spans) == 1
    assert np.abs(np.subtract(spans[0].samples, expected)).max() <= 1
    assert (spans[0].start, spans[0].end) == (0.0, 2.0)


def test_windows_overlap_and_share_what_was_read() -> None:
    seen: list[float] = []
    spans = fed(SlidingWindow(window=2.0, stride=0.5, num_segments=4), every(0.04, 10.0), seen=seen)
    assert [span.start for span in spans] == [0.5 * number for number in range(17)]
    assert len(set(seen)) == len(seen) <= 22  # every half second, not 4 times as often
    assert spans[0].samples[1:] == spans[1].samples[:3]


def test_only_what_is_sampled_is_wanted() -> None:
    seen: list[float] = []
    fed(SlidingWindow(window=1.0, stride=10.0, num_segments=2), every(0.04, 20.0), seen=seen)
    assert seen == [0.24, 0.72, 10.24, 10.72]


def test_a_window_is_complete_before_its_end() -> None:
    window = SlidingWindow[int](window=1.0, stride=1.0, num_segments=2)
    assert [len(fed(window, [seconds])) for seconds in (0.0, 0.1, 0.2, 0.3, 0.7, 0.8, 0.9)] == [0, 0, 0, 0, 1, 0, 0]


def test_a_slow_stream_repeats_positions() -> None:
    spans = fed(SlidingWindow(window=2.0, stride=2.0, num_segments=4), every(1.0, 8.0))
    assert [span.samples for span in spans] == [(1, 1, 1, 1), (2, 2, 3, 3), (4, 4, 5, 5), (6, 6, 7, 7)]


def test_a_gap_costs_the_windows_in_it_only() -> None:
    window = SlidingWindow[int](window=1.0, stride=1.0, num_segments=2)
    spans = fed(window, [*every(0.1, 2.0), 100_000.2, 100_000.4, 100_000.6, 100_000.9])
    assert [span.start for span in spans] == [0.0, 1.0, 100_000.0]


def test_a_window_that_ends_in_a_gap_is_given_with_what_it_has() -> None:
    window = SlidingWindow[int](window=1.0, stride=1.0, num_segments=2)
    assert [span.samples for span in fed(window, [0.0, 0.1, 0.3, 5.0])] == [(2, 2)]


@pytest.mark.parametrize("seconds", [0.4, 1.5])
def test_a_stream_shorter_than_a_window_has_one(seconds: float) -> None:
    window = SlidingWindow[int](window=2.0, stride=1.0, num_segments=8)
    fed(window, every(0.04, seconds))
    window.end(seconds)
    (span,) = window.take()
    assert (span.start, span.end) == (0.0, seconds)
    assert len(span.samples) == 8


def test_an_unfinished_window_after_others_is_not_given() -> None:
    window = SlidingWindow[int](window=1.0, stride=1.0, num_segments=2)
    assert len(fed(window, every(0.1, 1.5))) == 1
    window.end(1.5)
    assert window.take() == []


def test_memory_is_bounded() -> None:
    window = SlidingWindow[int](window=5.0, stride=0.1, num_segments=16)
    most = 0
    for number in range(10_000):
        if window.wants(number * 0.04):
            window.put(number * 0.04, number)
        window.take()
        most = max(most, len(window._open))
    assert most <= 51


@pytest.mark.parametrize(
    ("window", "stride", "segments", "message"),
    [
        (0.0, 1.0, 8, "window is 0.0"),
        (float("nan"), 1.0, 8, "window is nan"),
        (2.0, -1.0, 8, "stride is -1.0"),
        (2.0, 1.0, 0, "num_segments is 0"),
        (3600.0, 0.04, 8, "up to 1000 windows at a time"),
    ],
)
def test_impossible_windows_are_refused(window: float, stride: float, segments: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SlidingWindow(window=window, stride=stride, num_segments=segments)
