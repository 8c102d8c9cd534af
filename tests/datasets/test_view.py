from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as transforms

from videokd.datasets.view import SCALES, Crop, apply_crop, central_crop, random_crop, sample_positions, ten_crops
from videokd.errors import DataError
from videokd.types import STREAMS, StreamSpec

GOP_LENGTHS = [[12] * 10 + [5], [4, 4], [1, 1, 1, 9], [2], [30, 1, 2, 250], [1] * 20 + [2]]


def position_numbers(lengths: list[int], pairs: tuple[tuple[int, int], ...]) -> list[int]:
    return [sum(lengths[:gop]) + position for gop, position in pairs]


@pytest.mark.parametrize("lengths", GOP_LENGTHS)
@pytest.mark.parametrize("num_segments", [1, 3, 25])
@pytest.mark.parametrize("first_position", [0, 1])
def test_positions_exist_are_in_order_and_late_enough(
    lengths: list[int], num_segments: int, first_position: int
) -> None:
    for rng in (None, *map(np.random.default_rng, range(20))):
        pairs = sample_positions(lengths, num_segments=num_segments, first_position=first_position, rng=rng)
        assert len(pairs) == num_segments
        assert all(first_position <= position < lengths[gop] for gop, position in pairs)
        assert position_numbers(lengths, pairs) == sorted(position_numbers(lengths, pairs))


@pytest.mark.parametrize("num_segments", [1, 3, 7])
def test_each_position_comes_from_its_own_span_and_every_one_can(num_segments: int) -> None:
    lengths = [5, 7, 9]
    seen: list[set[int]] = [set() for _ in range(num_segments)]
    rng = np.random.default_rng(0)
    for _ in range(400):
        pairs = sample_positions(lengths, num_segments=num_segments, rng=rng)
        for span, number in zip(seen, position_numbers(lengths, pairs), strict=True):
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
    with pytest.raises(DataError, match=r"has no position from 1 on: it is empty or has only I-frames .* Run `videokd"):
        sample_positions(lengths, num_segments=3, first_position=1)
    if lengths:
        assert len(sample_positions(lengths, num_segments=3)) == 3


WIDTH, HEIGHT = 34, 26


def pictures(spec: StreamSpec, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if spec.offset == 0:
        return rng.integers(0, 256, (3, HEIGHT, WIDTH, spec.channels), dtype=np.uint8)
    return rng.integers(-300, 300, (3, HEIGHT, WIDTH, spec.channels)).astype(np.int16)


def quantise(values: np.ndarray, spec: StreamSpec) -> np.ndarray:
    """As StreamSpec defines it: u = clip(trunc(value · gain) + offset, 0, 255)."""
    return np.clip(np.trunc(values * spec.gain) + spec.offset, 0, 255).astype(np.uint8)


def by_hand(values: np.ndarray, crop: Crop, spec: StreamSpec, size: int) -> np.ndarray:
    part = values[:, crop.top : crop.top + crop.height, crop.left : crop.left + crop.width].astype(np.int64)
    if crop.flip:
        part = np.flip(part, axis=2) * np.array(spec.flip_signs)
    quantised = torch.from_numpy(np.ascontiguousarray(quantise(part, spec).transpose(0, 3, 1, 2)))
    return transforms.resize(quantised, [size, size], antialias=True).numpy()


@pytest.mark.parametrize("spec", STREAMS.values(), ids=lambda spec: spec.name)
@pytest.mark.parametrize("crop", [Crop(3, 2, 20, 20), Crop(0, 0, 34, 26, flip=True), Crop(5, 1, 17, 23, flip=True)])
@pytest.mark.parametrize("size", [16, 20, 31])
def test_a_crop_equals_the_plain_way(spec: StreamSpec, crop: Crop, size: int) -> None:
    values = pictures(spec)
    result = apply_crop(values, crop, spec=spec, size=size)
    assert (result.shape, result.dtype) == ((3, spec.channels, size, size), np.uint8)
    assert np.array_equal(result, by_hand(values, crop, spec, size))
    assert np.array_equal(result, apply_crop(list(values), crop, spec=spec, size=size))


@pytest.mark.parametrize("spec", STREAMS.values(), ids=lambda spec: spec.name)
def test_flipping_twice_changes_nothing(spec: StreamSpec) -> None:
    crop = Crop(3, 2, 20, 20)
    values = pictures(spec)
    once = values[:, :, ::-1] * np.array(spec.flip_signs).astype(values.dtype)
    mirrored = replace(crop, left=WIDTH - crop.left - crop.width, flip=True)
    twice = apply_crop(once, mirrored, spec=spec, size=20)
    assert np.array_equal(twice, apply_crop(values, crop, spec=spec, size=20))


def test_a_flip_negates_motions_x_alone_and_before_quantising() -> None:
    spec = STREAMS["motion"]
    values = np.zeros((1, 8, 8, 2), np.int16)
    values[0, :, :4] = (3, 5)  # the left half moves right and down
    seen = apply_crop(values, Crop(0, 0, 8, 8, flip=True), spec=spec, size=8)
    left_and_down = quantise(np.array([-3, 5]), spec)
    assert (seen[0, :, :, 4:] == left_and_down[:, None, None]).all()
    assert (seen[0, :, :, :4] == 128).all()
    # trunc makes the two differ: 3 · 6.375 = 19.125 → 147, −19.125 → 109; mirrored after quantising it would be 108
    assert left_and_down[0] == 109


def test_values_are_not_rescaled_with_the_picture() -> None:
    spec = STREAMS["motion"]
    for size in (8, 32, 64):
        values = np.full((1, 32, 32, 2), 7, np.int16)
        assert (apply_crop(values, Crop(0, 0, 32, 32), spec=spec, size=size) == quantise(np.array(7), spec)).all()


def test_every_16_bit_value_is_quantised_as_the_stream_says() -> None:
    values = np.arange(-(2**15), 2**15).astype(np.int16).reshape(1, 256, 256, 1)
    for spec in (STREAMS["motion"], STREAMS["residual"]):
        both = np.concatenate([values] * spec.channels, axis=3)
        for flip in (False, True):
            seen = apply_crop(both, Crop(0, 0, 256, 256, flip=flip), spec=spec, size=256)
            assert np.array_equal(seen, by_hand(both, Crop(0, 0, 256, 256, flip=flip), spec, 256))


def test_training_crops() -> None:
    rng = np.random.default_rng(0)
    crops = [random_crop(340, 256, flip=True, rng=rng) for _ in range(3000)]
    sides = [round(256 * scale) for scale in SCALES]
    pairs = {(sides.index(crop.width), sides.index(crop.height)) for crop in crops}
    assert pairs == {(a, b) for a in range(4) for b in range(4) if abs(a - b) <= 1}
    assert all(0 <= crop.left <= 340 - crop.width and 0 <= crop.top <= 256 - crop.height for crop in crops)
    assert {crop.left for crop in crops if crop.width == 256} >= {0, 84}
    assert 0.45 < np.mean([crop.flip for crop in crops]) < 0.55
    assert not any(random_crop(340, 256, flip=False, rng=rng).flip for _ in range(50))


def test_evaluation_crops() -> None:
    assert central_crop(340, 256) == Crop(58, 16, 224, 224)
    full = ten_crops(340, 256, flip=True)
    assert len(set(full)) == 10
    assert [crop.flip for crop in full] == [False] * 5 + [True] * 5
    assert [(crop.left, crop.top) for crop in full[:5]] == [(0, 0), (116, 0), (0, 32), (116, 32), (58, 16)]
    assert ten_crops(340, 256, flip=False) == full[:5]


def test_a_scaled_crop_is_the_same_part_and_stays_inside() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        (width, height), (other_width, other_height) = rng.integers(1, 400, (2, 2)).tolist()
        left, top = int(rng.integers(width)), int(rng.integers(height))
        sides = int(rng.integers(1, width - left + 1)), int(rng.integers(1, height - top + 1))
        crop = Crop(left, top, *sides, flip=bool(rng.integers(2)))
        scaled = crop.scaled((width, height), (other_width, other_height))
        assert scaled.flip == crop.flip
        spans = [
            (scaled.left, scaled.width, other_width, crop.left, crop.width, width),
            (scaled.top, scaled.height, other_height, crop.top, crop.height, height),
        ]
        for start, length, side, old_start, old_length, old_side in spans:
            assert 0 <= start < start + length <= side
            assert abs(start / side - old_start / old_side) <= 1 / side
            assert abs((start + length) / side - (old_start + old_length) / old_side) <= 1 / side
        assert crop.scaled((width, height), (width, height)) == crop
