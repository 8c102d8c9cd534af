"""When packets are left out to catch up."""

from __future__ import annotations

import pytest

from videokd.live.lag import Lag


def skipped(lag: Lag, start: float, arrivals: list[float], *, gop: int = 25) -> list[bool]:
    return [
        lag.is_skipped(start + number * 0.04, now, keyframe=number % gop == 0) for number, now in enumerate(arrivals)
    ]


def test_a_stream_that_is_read_in_time_loses_nothing() -> None:
    lag = Lag()
    jitter = [number * 0.04 + (number % 7) * 0.1 for number in range(500)]
    assert not any(skipped(lag, 0.0, jitter))


def test_a_burst_after_a_pause_loses_nothing() -> None:
    lag = Lag()
    assert not any(skipped(lag, 0.0, [number * 0.04 for number in range(100)]))
    assert not any(skipped(lag, 4.0, [9.0 + number * 0.005 for number in range(200)]))


def test_reading_that_is_too_slow_goes_on_at_a_keyframe() -> None:
    lag = Lag()
    slow = skipped(lag, 0.0, [number * 0.06 for number in range(300)])
    assert any(slow)
    first = slow.index(True)
    behind = first * 0.02
    assert behind > 1.0
    # What is left out takes no time, so it catches up soon, and then waits for a keyframe
    begin = first * 0.04
    quick = [first * 0.06 + number * 0.0001 for number in range(200)]
    caught_up = skipped(lag, begin, quick)
    resumed = caught_up.index(False)
    assert resumed % 25 == 0
    assert lag.skipped_seconds > 1.0


def test_a_clock_that_drifts_is_not_a_delay() -> None:
    lag = Lag()
    assert not any(lag.is_skipped(number * 0.04 * 0.99, number * 0.04, keyframe=False) for number in range(20_000))


@pytest.mark.parametrize("rate", [0.5, 0.0])
def test_a_clock_of_the_stream_that_is_too_slow_costs_packets_once(rate: float) -> None:
    lag = Lag()
    skipped = [lag.is_skipped(number * 0.04 * rate, number * 0.04, keyframe=number % 25 == 0) for number in range(5000)]
    assert sum(skipped) < 150
    assert not any(skipped[500:])
