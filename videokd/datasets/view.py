"""What of a clip the networks see: its positions, its pictures, one crop for every stream, and the values networks take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeAlias

import numba
import numpy as np
import numpy.typing as npt
import torch
from torchvision.transforms.v2 import functional as transforms

from videokd.codec.reader import VideoReader
from videokd.errors import DataError
from videokd.types import STREAMS, StreamSpec


def sample_positions(
    gop_lengths: Sequence[int],
    *,
    num_segments: int,
    first_position: int = 0,
    rng: np.random.Generator | None = None,
) -> tuple[tuple[int, int], ...]:
    """One (gop, position) for each segment.

    Args:
        gop_lengths: number of positions of each GOP.
        num_segments: S.
        first_position: 1 where a stream is read that carries nothing at an I-frame, otherwise 0. A span without such a
            position takes the nearest one; a clip with fewer positions than segments repeats them.
        rng: takes a random position of each span; without it, the middle one.

    Returns:
        S pairs, in order.

    Raises:
        DataError: no position is late enough: the clip is made of I-frames alone, or is empty.

    >>> sample_positions([4, 4], num_segments=2, first_position=1)
    ((0, 1), (1, 1))
    """
    lengths = np.asarray(gop_lengths, dtype=np.int64)
    starts = np.cumsum(lengths) - lengths
    total = int(lengths.sum())
    gop_of = np.repeat(np.arange(len(lengths)), lengths)
    position_of = np.arange(total) - starts[gop_of]
    allowed = np.flatnonzero(position_of >= first_position)
    if not len(allowed):
        raise DataError(
            f"a clip of {len(lengths)} GOPs has no position from {first_position} on: it is empty or has I-frames alone "
            "(accepted: GOPs with P-frames). Run `videokd prepare` on it."
        )
    edges = np.arange(num_segments + 1) * total // num_segments
    chosen = [_choose(allowed, int(low), int(high), rng) for low, high in pairwise(edges)]
    return tuple((int(gop_of[at]), int(position_of[at])) for at in chosen)


def _choose(allowed: np.ndarray, low: int, high: int, rng: np.random.Generator | None) -> int:
    """A member of `allowed` in [low, high), or the one nearest to its middle."""
    middle = (low + max(high - 1, low)) / 2
    first, last = np.searchsorted(allowed, (low, high))
    if rng is not None and last > first:
        return int(allowed[rng.integers(first, last)])
    return int(allowed[np.argmin(np.abs(allowed - middle))])


#: Sides of training crops, of the picture's short side (Wang et al. 2016, section 3.2; used by CoViAR).
SCALES = (1.0, 0.875, 0.75, 0.66)
#: Side of evaluation crops: 224 of 256 pixels.
CENTRAL = 0.875

Pictures: TypeAlias = "Sequence[npt.NDArray[Any]] | npt.NDArray[Any]"
"""S pictures [H, W, C]: a list of them, or one array."""


@dataclass(frozen=True)
class Crop:
    """A part of the picture, in pixels, and whether it is mirrored left to right."""

    left: int
    top: int
    width: int
    height: int
    flip: bool = False


@dataclass(frozen=True)
class View:
    """The record of one sample: the same for all its streams, for teachers and students.

    Args:
        segments: (gop, position) of each segment.
        crops: crops taken of every segment: one in training and quick evaluation, ten (five without flips) in full.
    """

    segments: tuple[tuple[int, int], ...]
    crops: tuple[Crop, ...]


def random_crop(width: int, height: int, *, flip: bool, rng: np.random.Generator) -> Crop:
    """A training crop: sides of 1, .875, .75 or .66 of the short side, at most one step apart, anywhere; mirrored or not.

    Args:
        width: of the picture, in pixels.
        height: of the picture, in pixels.
        flip: whether mirroring is allowed; then every other crop is mirrored.
        rng: source of randomness.
    """
    wide = int(rng.integers(len(SCALES)))
    tall = int(np.clip(wide + rng.integers(-1, 2), 0, len(SCALES) - 1))
    crop_width, crop_height = (round(min(width, height) * SCALES[scale]) for scale in (wide, tall))
    left = int(rng.integers(width - crop_width + 1))
    top = int(rng.integers(height - crop_height + 1))
    return Crop(left, top, crop_width, crop_height, flip=bool(flip and rng.random() < 0.5))


def central_crop(width: int, height: int) -> Crop:
    """The middle of the picture, 7/8 of its short side wide and high."""
    side = round(min(width, height) * CENTRAL)
    return Crop((width - side) // 2, (height - side) // 2, side, side)


def ten_crops(width: int, height: int, *, flip: bool) -> tuple[Crop, ...]:
    """Corners and middle, each also mirrored where mirroring is allowed: 10 crops, or 5."""
    side = round(min(width, height) * CENTRAL)
    right, bottom = width - side, height - side
    places = ((0, 0), (right, 0), (0, bottom), (right, bottom), (right // 2, bottom // 2))
    return tuple(
        Crop(*place, side, side, flip=mirrored)
        for mirrored in ((False, True) if flip else (False,))
        for place in places
    )


def apply_crop(
    values: Pictures, crop: Crop, *, spec: StreamSpec, size: int | tuple[int, int], quantised: bool = False
) -> npt.NDArray[np.uint8]:
    """The part of a stream that a crop shows, as the networks take it.

    Cut out, mirrored (which negates motion's x), quantised, and only then resized: the values themselves are never scaled.

    Args:
        values: S pictures [H, W, C], uint8 or int16, in the stream's own units.
        crop: within the picture.
        spec: the stream.
        size: side of the result, or its height and width, in pixels.
        quantised: whether the values are quantised already (uint8).

    Returns:
        uint8 [S, C, size, size]; in memory the channels of a pixel lie side by side.
    """
    height, width = (size, size) if isinstance(size, int) else size
    # PyTorch resizes pictures of three or four interleaved channels twice as fast as others: two of motion share one
    shared = 1 if spec.channels > 2 else 4 // spec.channels
    cut = np.empty((-(-len(values) // shared), crop.height, crop.width, shared * spec.channels), np.uint8)
    if len(values) % shared:
        cut[-1] = 0  # where only some of the channels are filled
    as_they_are = quantised or (values[0].dtype == np.uint8 and spec.gain == 1 and spec.offset == 0)
    zero, gain = (spec.offset, 1.0) if quantised else (0, spec.gain)
    gains = np.array(spec.flip_signs if crop.flip else (1,) * spec.channels, np.float32) * np.float32(gain)
    for number, picture in enumerate(values):
        target, start = cut[number // shared], number % shared * spec.channels
        if as_they_are and not crop.flip:
            part = picture[crop.top : crop.top + crop.height, crop.left : crop.left + crop.width]
            target[..., start : start + spec.channels] = part
        else:
            rows = np.ascontiguousarray(picture).reshape(len(picture), -1)  # [H, W·C]
            _quantise(rows, (crop.left, crop.top), (zero, gains, spec.offset), crop.flip, target, start)
    resized = transforms.resize(torch.from_numpy(cut).permute(0, 3, 1, 2), [height, width], antialias=True)
    result: npt.NDArray[np.uint8] = resized.permute(0, 2, 3, 1).contiguous().numpy()  # [S, height, width, C]
    if shared > 1:
        pixel = np.dtype(f"u{spec.channels}")  # its channels as one number, which is copied at once
        together, result = result.view(pixel), np.empty((len(values), height, width, spec.channels), np.uint8)
        for first in range(shared):
            ours = result.view(pixel)[first::shared]
            ours[..., 0] = together[: len(ours), ..., first]
    return result.transpose(0, 3, 1, 2)


@numba.njit(cache=True, nogil=True)
def _quantise(
    rows: npt.NDArray[Any],
    corner: tuple[int, int],
    scale: tuple[int, npt.NDArray[np.float32], int],
    flip: bool,
    target: npt.NDArray[np.uint8],
    start: int,
) -> None:
    """Puts clip(trunc((value − zero) · gain) + offset) of a part of [H, W·C], mirrored or not, into the channels from `start` on.

    16-bit values times the gains there are stay exact in float32.
    """
    height, width, depth = target.shape
    zero, gains, offset = scale
    channels = len(gains)
    factors = np.empty(width * channels, np.float32)
    for i in range(width * channels):
        factors[i] = gains[i % channels]
    results = target.reshape(height, -1)
    places = np.uint64(depth)
    direct = channels == depth and not flip
    aside = np.empty(width * channels, np.uint8)
    for y in range(height):
        values = rows[corner[1] + y, corner[0] * channels : (corner[0] + width) * channels]
        result = results[y]
        line = result if direct else aside
        for i in range(width * channels):  # one value after the other, so that the compiler takes many at once
            scaled = np.int32(np.float32(np.int32(values[i]) - zero) * factors[i]) + np.int32(offset)
            line[i] = np.uint8(min(max(scaled, np.int32(0)), np.int32(255)))
        if direct:
            continue
        for channel in range(channels):
            to, own = np.uint64(start + channel), np.uint64(channel)
            for x in range(np.uint64(width)):  # unsigned, which spares the test for negative places
                at = np.uint64(width - 1) - x if flip else x
                result[to + x * places] = aside[at * np.uint64(channels) + own]


def read_pictures(
    video: VideoReader, streams: Sequence[str], positions: Sequence[tuple[int, int]]
) -> dict[str, Pictures]:
    """Streams at positions, in the streams' own units.

    Args:
        video: an open one.
        streams: names in `STREAMS`.
        positions: (gop, position) of each picture.

    Returns:
        {stream: a picture [H, W, C] for each position}.

    Raises:
        DecodeError: the video cannot be read.
    """
    shown = {name: "frame" if STREAMS[name].from_pictures else name for name in streams}
    wanted = tuple(set(shown.values()))
    parts = [video.read(gop=gop, position=position, streams=wanted) for gop, position in positions]
    return {name: [getattr(part, shown[name]) for part in parts] for name in streams}
