"""What networks see of one position of a live stream: the central crop of each stream, quantised, at the network's size."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from videokd.codec.colours import Colours
from videokd.datasets.direct_crops import write_crops
from videokd.datasets.resized import resized_pictures
from videokd.datasets.view import central_crop
from videokd.kernels.motion import Rows
from videokd.live.positions import LivePosition
from videokd.types import STREAMS

Crops: TypeAlias = Mapping[str, npt.NDArray[np.uint8]]
"""{input: uint8 [side, side, C]}; the positions of a GOP share the array of its I-frame."""
# PyTorch resizes pictures of 3 or 4 interleaved channels twice as fast as others
_RESIZED_CHANNELS = {2: 4}


class _Picture:
    """A decoded picture, converted to RGB when it is first needed."""

    def __init__(self, frame: Any, colours: Colours) -> None:
        self.frame = frame
        self._colours = colours
        self._rows: Rows | None = None

    def rows(self) -> Rows:
        """uint8 [H, 3·W or a little more], RGB."""
        if self._rows is None:
            self._rows = self._colours.rows(self.frame)
        return self._rows


class Cropper:
    """Crops the streams of positions; of a GOP's I-frame only once.

    Args:
        inputs: {input: (stream, side in pixels)}.
    """

    def __init__(self, inputs: Mapping[str, tuple[str, int]]) -> None:
        self._inputs = dict(inputs)
        self._colours = Colours()
        self._first: _Picture | None = None
        self._of_first: dict[str, npt.NDArray[np.uint8]] = {}

    def crops_at(self, place: LivePosition) -> Crops:
        """The inputs at a position.

        Args:
            place: the position.

        Raises:
            DecodeError: FFmpeg cannot convert the pixel format of the stream.
        """
        if self._first is None or self._first.frame is not place.first:
            self._first, self._of_first = _Picture(place.first, self._colours), {}
        is_first = place.current is place.first
        pictures = (self._first, self._first if is_first else _Picture(place.current, self._colours))
        wanted = {name for key, (name, _) in self._inputs.items() if key not in self._of_first}
        crop = central_crop(place.first.width, place.first.height)
        packed = {name: _empty(crop.height, crop.width, STREAMS[name].channels) for name in wanted}
        targets = {name: (target, 0) for name, target in packed.items()}
        write_crops(targets, pictures, place.chain, (crop.left, crop.top), False)
        crops = dict(self._of_first)
        for key, (name, side) in self._inputs.items():
            if key not in crops:
                resized = resized_pictures(packed[name][None], (side, side))[0]  # [side, side, 4 or C]
                crops[key] = np.ascontiguousarray(resized[..., : STREAMS[name].channels])
                if name == "iframe":
                    self._of_first[key] = crops[key]
        return crops


def _empty(height: int, width: int, channels: int) -> npt.NDArray[np.uint8]:
    return np.zeros((height, width, _RESIZED_CHANNELS.get(channels, channels)), np.uint8)
