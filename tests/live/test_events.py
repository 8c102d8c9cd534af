"""Smoothing and events."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from videokd.errors import ConfigError
from videokd.live.events import Change, EventSettings, EventTracker, Smoother


def changes(probabilities: list[float], **settings: Any) -> list[Change]:
    tracker = EventTracker(["wave"], EventSettings(on=0.6, off=0.4, **settings))
    found = []
    for number, value in enumerate(probabilities):
        found += tracker.add(number, number + 2, np.array([value], np.float32))
    return found + tracker.finish()


def test_an_event_lasts_until_the_lower_probability() -> None:
    found = changes([0.1, 0.7, 0.5, 0.8, 0.5, 0.3, 0.5])
    assert [(each.kind, each.start_seconds, each.end_seconds) for each in found] == [("start", 1, 3), ("end", 1, 6)]
    assert found[-1].probability == pytest.approx(0.8)


def test_what_is_short_is_no_event() -> None:
    assert changes([0.7, 0.1, 0.1], min_seconds=3) == []
    assert [each.kind for each in changes([0.7, 0.7, 0.1], min_seconds=3)] == ["start", "end"]


def test_an_event_ends_with_the_source() -> None:
    assert [(each.kind, each.end_seconds) for each in changes([0.9, 0.9])] == [("start", 2), ("end", 3)]


def test_one_probability_serves_as_both() -> None:
    tracker = EventTracker(["wave"], EventSettings(on=0.5))
    kinds = [each.kind for value in (0.5, 0.49, 0.5) for each in tracker.add(0, 1, np.array([value], np.float32))]
    assert kinds == ["start", "end", "start"]


def test_means() -> None:
    values = [np.array([value], np.float32) for value in (1, 0, 0, 0)]
    mean = Smoother(EventSettings(smooth=3))
    assert [float(mean.add(value)[0]) for value in values] == pytest.approx([1, 1 / 2, 1 / 3, 0])
    exponential = Smoother(EventSettings(smooth=3, smoothing="exponential"))
    assert [float(exponential.add(value)[0]) for value in values] == pytest.approx([1, 1 / 2, 1 / 4, 1 / 8])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"smooth": 0}, "smooth is 0"),
        ({"smoothing": "median"}, "smoothing 'median'"),
        ({"on": 0.0}, "on is 0.0"),
        ({"on": 0.4, "off": 0.5}, "off is 0.5"),
        ({"off": 0.5}, "Pass `--on 0.6` too"),
        ({"min_seconds": 2.0}, "Pass `--on 0.6` too"),
        ({"on": 0.4, "min_seconds": -1.0}, "min_seconds is -1.0"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        EventSettings(**settings)
