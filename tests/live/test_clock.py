"""The time of a live stream."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest

from videokd.live.clock import StreamClock


def packet(dts: int | None, pts: int | None = None) -> Any:
    return SimpleNamespace(dts=dts, pts=dts if pts is None else pts)


def times(stamps: list[int | None], *, tick: float = 0.04, rate: float = 25.0) -> list[float]:
    clock = StreamClock(tick, rate)
    return [round(clock.of(packet(stamp)), 6) for stamp in stamps]


def test_timestamps_count_from_the_first_picture() -> None:
    assert times([1000, 1001, 1003]) == [0.0, 0.04, 0.12]


@pytest.mark.parametrize(
    "stamps",
    [[1000, 1001, 5, 6], [5, 6, 10**7, 10**7 + 1], [0, 0, 0, 0], [None, None, None, None], [3, 2, 1, 0]],
    ids=["back", "far ahead", "all zero", "none", "falling"],
)
def test_a_jump_is_one_picture_long(stamps: list[int | None]) -> None:
    assert times(stamps) == [0.0, 0.04, 0.08, 0.12]


@pytest.mark.parametrize(("tick", "rate"), [(0.0, 0.0), (math.nan, math.inf), (-1.0, -5.0), (0.0, 1e9)])
def test_impossible_rates_do_not_stop_it(tick: float, rate: float) -> None:
    assert times([7, 8, 9], tick=tick, rate=rate) == [0.0, 0.04, 0.08]


def test_pictures_are_shown_when_their_pts_says() -> None:
    clock = StreamClock(0.04, 25.0)
    shown = [clock.of(packet(dts, pts)) for dts, pts in ((0, 2), (1, 5), (2, 3), (3, 4))]
    assert shown == pytest.approx([0.0, 0.12, 0.04, 0.08])


def test_an_impossible_delay_is_ignored() -> None:
    clock = StreamClock(0.04, 25.0)
    assert [clock.of(packet(0, 10**6)), clock.of(packet(1, -(10**6)))] == pytest.approx([0.0, 0.04])


def test_a_later_connection_goes_on() -> None:
    clock = StreamClock(0.04, 25.0, 12.0)
    assert [clock.of(packet(500, 502)), clock.of(packet(501, 503))] == pytest.approx([12.0, 12.04])


def test_a_clock_that_stands_still_goes_on_at_the_nominal_rate() -> None:
    """Muxers write each repeated timestamp as one unit more than the last."""
    assert times([90000, 90001, 90002, 90003], tick=1 / 90000) == [0.0, 0.04, 0.08, 0.12]
    assert times([0, 375, 750], tick=1 / 90000) == pytest.approx([0.0, 1 / 240, 2 / 240], abs=1e-5)  # 240 a second
