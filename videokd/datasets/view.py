"""What of a clip the networks see: one record for each sample, applied to every stream alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torchvision.transforms.v2 import functional as transforms

from videokd.types import StreamSpec

#: Sides of training crops, of the picture's short side (Wang et al. 2016, section 3.2; used by CoViAR).
SCALES = (1.0, 0.875, 0.75, 0.66)
#: Side of evaluation crops: 224 of 256 pixels.
CENTRAL = 0.875


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


def apply_crop(values: npt.NDArray[Any], crop: Crop, *, spec: StreamSpec, size: int) -> npt.NDArray[np.uint8]:
    """The part of a stream that a crop shows, as the networks take it.

    Cut out, mirrored (which negates motion's x), quantised, and only then resized: the values themselves are never scaled.

    Args:
        values: [S, H, W, C], in the stream's own units.
        crop: within the picture.
        spec: the stream.
        size: side of the result, in pixels.

    Returns:
        uint8 [S, C, size, size].
    """
    part = values[:, crop.top : crop.top + crop.height, crop.left : crop.left + crop.width]
    if crop.flip:
        part = part[:, :, ::-1]
        if min(spec.flip_signs) < 0:
            part = part * np.array(spec.flip_signs, dtype=part.dtype)
    quantised = torch.from_numpy(np.ascontiguousarray(spec.quantise(part))).permute(0, 3, 1, 2)  # [S, C, H, W]
    resized = transforms.resize(quantised, [size, size], antialias=True)
    result: npt.NDArray[np.uint8] = resized.contiguous().numpy()
    return result
