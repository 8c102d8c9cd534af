"""Planes of streams against the formulas in NumPy."""

from __future__ import annotations

import numpy as np
import pytest

from videokd.kernels.conversion import convert, convert_and_subtract
from videokd.kernels.motion import start_chain
from videokd.kernels.planar import (
    scaled,
    write_colours,
    write_difference,
    write_motion,
    write_pixels,
    write_residual,
)

SIZES = ((2, 2), (2, 34), (34, 2), (98, 147), (96, 150))
QUANTISED, AS_THEY_ARE = (128, 0, 255), (0, -255, 255)


def picture(height: int, width: int) -> tuple[np.ndarray, ...]:
    """Y, U and V with padded rows, and an RGB picture."""
    rng = np.random.default_rng((height, width))
    half = (height // 2, (width + 1) // 2 + 5)
    shapes = ((height, width + 9), half, half, (height, 3 * width))
    return tuple(rng.integers(0, 256, shape, np.uint8) for shape in shapes)


def planes(rows: np.ndarray, width: int) -> np.ndarray:
    return rows.reshape(len(rows), width, 3).transpose(2, 0, 1)


@pytest.mark.parametrize("size", SIZES)
def test_colours_and_residuals(size: tuple[int, int]) -> None:
    y, u, v, warped = picture(*size)
    rows, residual = np.empty(warped.shape, np.uint8), np.empty(warped.shape, np.int16)
    convert(y, u, v, rows)
    convert_and_subtract(y, u, v, warped, residual)
    padded = np.pad(rows, ((0, 0), (0, 7)))
    for write in (lambda target: write_colours(y, u, v, target), lambda target: write_pixels(padded, target)):
        target = np.empty((3, *size), np.uint8)
        write(target)
        assert np.array_equal(target, planes(rows, size[1]))
    for kind, limits in ((np.uint8, QUANTISED), (np.int16, AS_THEY_ARE)):
        target, other = np.empty((3, *size), kind), np.empty((3, *size), kind)
        write_residual(y, u, v, warped, tuple(map(np.int16, limits)), target)
        write_difference(padded, warped, tuple(map(np.int16, limits)), other)
        expected = np.clip(residual.astype(int) + limits[0], *limits[1:])
        assert np.array_equal(target, planes(expected, size[1]))
        assert np.array_equal(other, target)


@pytest.mark.parametrize("size", SIZES)
def test_motion(size: tuple[int, int]) -> None:
    height, width = size
    chain = np.random.default_rng(0).permutation(start_chain(height, width).reshape(-1)).reshape(size)
    chain[::3] |= np.uint32(1 << 31)  # not valid: the motion is the same
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    motion = np.stack([x - (chain & 0xFFFF).astype(int), y - (chain >> 16 & 0x7FFF).astype(int)])
    for kind, gain, limits in ((np.uint8, 127.5 / 20, QUANTISED), (np.int16, 1, (0, -32768, 32767))):
        target = np.empty((2, *size), kind)
        write_motion(chain, np.float32(gain), tuple(map(np.int32, limits)), target)
        assert np.array_equal(target, np.clip(np.trunc(motion * gain) + limits[0], *limits[1:]))


def test_quantising_is_exact_for_every_motion() -> None:
    gain, limits = np.float32(127.5 / 20), tuple(map(np.int32, QUANTISED))
    values = range(-32768, 32768, 1)
    found = [scaled(np.int32(value), gain, *limits) for value in values]
    assert found == [min(max(int(value * 51 / 8) + 128, 0), 255) for value in values]
