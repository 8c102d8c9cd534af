from __future__ import annotations

import itertools

import numpy as np
import pytest

from videokd.datasets.view import sample_positions
from videokd.errors import DataError

CLIPS = [[12] * 10 + [5], [4, 4], [1, 1, 1, 9], [2], [30, 1, 2, 250], [1] * 20 + [2]]


def numbers(lengths: list[int], pairs: tuple[tuple[int, int], ...]) -> list[int]:
    return [sum(lengths[:gop]) + position for gop, position in pairs]


@pytest.mark.parametrize("lengths", CLIPS)
@pytest.mark.parametrize("num_segments", [1, 3, 25])
@pytest.mark.parametrize("first_position", [0, 1])
def test_positions_exist_are_in_order_and_late_enough(
    lengths: list[int], num_segments: int, first_position: int
) -> None:
    for rng in (None, *map(np.random.default_rng, range(20))):
        pairs = sample_positions(lengths, num_segments=num_segments, first_position=first_position, rng=rng)
        assert len(pairs) == num_segments
        assert all(first_position <= position < lengths[gop] for gop, position in pairs)
        assert numbers(lengths, pairs) == sorted(numbers(lengths, pairs))


@pytest.mark.parametrize("num_segments", [1, 3, 7])
def test_each_position_comes_from_its_own_span_and_every_one_can(num_segments: int) -> None:
    lengths = [5, 7, 9]
    seen: list[set[int]] = [set() for _ in range(num_segments)]
    rng = np.random.default_rng(0)
    for _ in range(400):
        pairs = sample_positions(lengths, num_segments=num_segments, rng=rng)
        for span, number in zip(seen, numbers(lengths, pairs), strict=True):
            span.add(number)
    bounds = [21 * segment // num_segments for segment in range(num_segments + 1)]
    assert seen == [set(range(low, high)) for low, high in itertools.pairwise(bounds)]


def test_a_span_without_a_late_position_takes_the_nearest() -> None:
    # Positions 0 to 3 are I-frames; the spans are 0-1, 2-3, 4-5: the first P-frame is number 5
    assert sample_positions([1, 1, 1, 1, 2], num_segments=3, first_position=1) == ((4, 1), (4, 1), (4, 1))
    rng = np.random.default_rng(0)
    assert sample_positions([2, 1, 1, 1, 1], num_segments=3, first_position=1, rng=rng) == ((0, 1),) * 3


def test_a_short_clip_repeats_its_positions() -> None:
    assert sample_positions([2], num_segments=5) == ((0, 0), (0, 0), (0, 0), (0, 1), (0, 1))
    assert sample_positions([2], num_segments=5, first_position=1) == ((0, 1),) * 5


def test_evaluation_takes_the_middle() -> None:
    assert sample_positions([9], num_segments=1) == ((0, 4),)
    assert sample_positions([15, 15], num_segments=2) == ((0, 7), (1, 7))


@pytest.mark.parametrize("lengths", [[], [1], [1, 1, 1]])
def test_clips_of_i_frames_alone_are_refused(lengths: list[int]) -> None:
    with pytest.raises(
        DataError, match=r"has no position from 1 on: it is empty or has I-frames alone .* Run `videokd"
    ):
        sample_positions(lengths, num_segments=3, first_position=1)
    if lengths:
        assert len(sample_positions(lengths, num_segments=3)) == 3
