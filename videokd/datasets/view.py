"""A view of a clip: which positions and which crops of them a network sees, the same for all streams.

Sampling of positions, choice of crops, reading of pictures, and their conversion to the input of a network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from videokd.codec.reader import VideoReader
from videokd.datasets.direct_crops import DIRECT, crop_directly
from videokd.datasets.resized import resized_pictures
from videokd.errors import DataError
from videokd.kernels.block_copies import compiled
from videokd.kernels.planar import scaled
from videokd.types import STREAMS, StreamSpec

#: Sides of training crops, relative to the picture's short side (Wang et al. 2016, section 3.2; used by CoViAR).
SCALES = (1.0, 0.875, 0.75, 0.66)
#: Side of evaluation crops, relative to the short side: 224 of 256 pixels.
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

    def scaled(self, size: tuple[int, int], other: tuple[int, int]) -> Crop:
        """The same part of the picture at another size: its edges rounded to whole pixels, at least one pixel wide and high.

        Args:
            size: width and height of the picture that the crop is of, in pixels.
            other: width and height of the picture that the result is of, in pixels.

        >>> Crop(100, 20, 200, 200).scaled((340, 256), (85, 64))
        Crop(left=25, top=5, width=50, height=50, flip=False)
        """
        left, width = _scaled_span(self.left, self.width, size[0], other[0])
        top, height = _scaled_span(self.top, self.height, size[1], other[1])
        return Crop(left, top, width, height, self.flip)


def _scaled_span(start: int, length: int, side: int, other: int) -> tuple[int, int]:
    """Start and length of a span of a side, when the side has another length."""
    low = min(round(start * other / side), other - 1)
    return low, max(round((start + length) * other / side) - low, 1)


@dataclass(frozen=True)
class View:
    """Which part of a clip one sample shows: the same for all its streams, for teachers and students.

    Args:
        segments: (gop, position) of each segment.
        crops: the crops of every segment: one in training and quick evaluation, ten (five without flips) in full evaluation.
        size: width and height of the picture that the crops are of, in pixels.
    """

    segments: tuple[tuple[int, int], ...]
    crops: tuple[Crop, ...]
    size: tuple[int, int]


def sample_positions(
    gop_lengths: Sequence[int],
    *,
    num_segments: int,
    first_position: int = 0,
    rng: np.random.Generator | None = None,
    within: tuple[int, int] | None = None,
) -> tuple[tuple[int, int], ...]:
    """One (gop, position) for each of S segments: equal spans of the clip's positions (TSN, Wang et al. 2016).

    Args:
        gop_lengths: number of positions of each GOP.
        num_segments: S.
        first_position: 1 for streams that carry nothing at an I-frame, otherwise 0. For a span without such a position, the
            nearest one is taken; a clip with fewer positions than segments repeats them.
        rng: chooses a random position of each span; None: the middle one.
        within: (first, end) of the positions to divide into spans, counted through all GOPs; None: all.

    Returns:
        S pairs, in order.

    Raises:
        DataError: no GOP has a position from `first_position` on, because the clip has only I-frames or is empty.

    >>> sample_positions([4, 4], num_segments=2, first_position=1)
    ((0, 1), (1, 1))
    >>> sample_positions([4, 4], num_segments=2, first_position=1, within=(4, 8))
    ((1, 1), (1, 2))
    """
    lengths = np.asarray(gop_lengths, dtype=np.int64)
    starts = np.cumsum(lengths) - lengths
    total = int(lengths.sum())
    gop_of = np.repeat(np.arange(len(lengths)), lengths)
    position_of = np.arange(total) - starts[gop_of]
    allowed = np.flatnonzero(position_of >= first_position)
    if not len(allowed):
        raise DataError(
            f"a clip of {len(lengths)} GOPs has no position from {first_position} on: it is empty or has only I-frames "
            "(accepted: GOPs with P-frames). Run `videokd prepare` on it."
        )
    first, end = within or (0, total)
    edges = first + np.arange(num_segments + 1) * (end - first) // num_segments
    chosen = [_position_in_span(allowed, int(low), int(high), rng) for low, high in pairwise(edges)]
    return tuple((int(gop_of[at]), int(position_of[at])) for at in chosen)


def random_crop(width: int, height: int, *, flip: bool, rng: np.random.Generator) -> Crop:
    """A training crop at a random place: its sides are 1, .875, .75 or .66 of the short side, at most one step apart.

    Args:
        width: the picture's, in pixels.
        height: the picture's, in pixels.
        flip: whether mirroring is allowed; then half of the crops are mirrored.
        rng: source of randomness.
    """
    wide = int(rng.integers(len(SCALES)))
    tall = int(np.clip(wide + rng.integers(-1, 2), 0, len(SCALES) - 1))
    crop_width, crop_height = (round(min(width, height) * SCALES[scale]) for scale in (wide, tall))
    left = int(rng.integers(width - crop_width + 1))
    top = int(rng.integers(height - crop_height + 1))
    return Crop(left, top, crop_width, crop_height, flip=bool(flip and rng.random() < 0.5))


def central_crop(width: int, height: int) -> Crop:
    """The square in the middle of the picture, 7/8 of its short side wide; `width` and `height` are the picture's, in pixels."""
    side = round(min(width, height) * CENTRAL)
    return Crop((width - side) // 2, (height - side) // 2, side, side)


def ten_crops(width: int, height: int, *, flip: bool) -> tuple[Crop, ...]:
    """The four corners and the middle, also mirrored where `flip` allows it: 10 crops, or 5, of a picture of that size in pixels."""
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
    """The part of a stream that a crop shows, as the input of a network.

    The part is cut out, mirrored (which negates motion's x), quantised, and only then resized: the values are never scaled
    with the picture.

    Args:
        values: S pictures [H, W, C], uint8 or int16, in the stream's own units.
        crop: the part, within the picture.
        spec: the stream.
        size: height and width of the result in pixels, or one number for both.
        quantised: whether the values are quantised already (uint8).

    Returns:
        uint8 [S, C, height, width]; in memory the channels of a pixel lie side by side (`channels_last`).
    """
    packed = _cut_and_packed(values, crop, spec, quantised)
    return _resized(packed, len(values), spec.channels, (size, size) if isinstance(size, int) else size)


def _resized(packed: npt.NDArray[np.uint8], count: int, channels: int, size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """Quantised crops, [P, crop height, crop width, n · C], as the input of a network: [count, C, height, width]."""
    return _unpacked(resized_pictures(packed, size), count, channels).transpose(0, 3, 1, 2)


def apply_crops(
    pictures: Mapping[str, Pictures],
    crops: Sequence[Crop],
    *,
    of: tuple[int, int],
    inputs: Mapping[str, tuple[str, int]],
    quantised: bool = False,
) -> dict[str, npt.NDArray[np.uint8]]:
    """Every input through the same crops, each resized directly from the stream's pictures.

    Args:
        pictures: {stream: S pictures [H, W, C]}; those of another size than `of` show the same part of the picture.
        crops: of every picture, within it.
        of: width and height of the pictures that the crops are of, in pixels.
        inputs: {key: (stream, side of the result in pixels)}.
        quantised: as for `apply_crop`.

    Returns:
        {key: uint8 [len(crops) · S, C, side, side]}, one crop after the other, in `channels_last` order.
    """
    cropped = {}
    for name, (stream, size) in inputs.items():
        values, spec = pictures[stream], STREAMS[stream]
        height, width = values[0].shape[:2]
        own_crops = [crop.scaled(of, (width, height)) for crop in crops]
        parts = [apply_crop(values, crop, spec=spec, size=size, quantised=quantised) for crop in own_crops]
        stacked = np.concatenate([part.transpose(0, 2, 3, 1) for part in parts]) if len(parts) > 1 else None
        cropped[name] = parts[0] if stacked is None else stacked.transpose(0, 3, 1, 2)
    return cropped


def first_position_of(streams: Sequence[str]) -> int:
    """The first position of a GOP at which all the streams carry something.

    >>> first_position_of(("iframe",)), first_position_of(("iframe", "motion"))
    (0, 1)
    """
    return max(STREAMS[name].first_position for name in streams)


def read_pictures(
    video: VideoReader, streams: Sequence[str], positions: Sequence[tuple[int, int]]
) -> dict[str, Pictures]:
    """Reads streams at positions, in the streams' own units.

    Args:
        video: an open video.
        streams: names in `STREAMS`.
        positions: (gop, position) of each picture.

    Returns:
        {stream: a picture [H, W, C] for each position}.

    Raises:
        DecodeError: the video cannot be read.
    """
    fields = {name: "frame" if STREAMS[name].from_pictures else name for name in streams}
    wanted = tuple(set(fields.values()))
    read = [video.read(gop=gop, position=position, streams=wanted) for gop, position in positions]
    return {name: [getattr(each, field) for each in read] for name, field in fields.items()}


def read_inputs(
    video: VideoReader, view: View, inputs: Mapping[str, tuple[str, int]]
) -> dict[str, npt.NDArray[np.uint8]]:
    """Reads what a view shows, as `read_pictures` and `apply_crops` do; of a single crop, no more than the crop is computed.

    Args:
        video: an open video.
        view: its `size` is that of the video.
        inputs: {key: (stream, side of the result in pixels)}.

    Returns:
        {key: uint8 [crops · S, C, side, side]}, one crop after the other, in `channels_last` order.

    Raises:
        DecodeError: the video cannot be read.
    """
    streams = tuple(dict.fromkeys(stream for stream, _ in inputs.values()))
    if len(view.crops) != 1 or not DIRECT.issuperset(streams):
        pictures = read_pictures(video, streams, view.segments)
        return apply_crops(pictures, view.crops, of=view.size, inputs=inputs)
    packed = _cropped_directly(video, streams, view)
    return {
        key: _resized(packed[stream], len(view.segments), STREAMS[stream].channels, (size, size))
        for key, (stream, size) in inputs.items()
    }


def _cropped_directly(video: VideoReader, streams: Sequence[str], view: View) -> dict[str, npt.NDArray[np.uint8]]:
    """{stream: quantised crops [P, crop height, crop width, n · C]}."""
    crop, count = view.crops[0], len(view.segments)
    packed = {name: _empty(count, crop, STREAMS[name].channels) for name in streams}
    for number, place in enumerate(view.segments):
        targets = {name: _target(packed[name], number, STREAMS[name].channels) for name in streams}
        crop_directly(video, targets, place, (crop.left, crop.top), crop.flip)
    return packed


def _position_in_span(allowed: np.ndarray, low: int, high: int, rng: np.random.Generator | None) -> int:
    """A member of `allowed` in [low, high): a random one, or without `rng` or where there is none, the nearest to the middle."""
    middle = (low + max(high - 1, low)) / 2
    first, last = np.searchsorted(allowed, (low, high))
    if rng is not None and last > first:
        return int(allowed[rng.integers(first, last)])
    return int(allowed[np.argmin(np.abs(allowed - middle))])


# How crops are packed. PyTorch resizes pictures of 3 or 4 interleaved channels twice as fast as others, so n pictures of a stream
# with fewer channels share one array (motion: n = 2 pictures of 2 channels). With P = ceil(S / n) and crops of h × w pixels:
#
#   values, S × [H, W, C]  →  packed [P, h, w, n · C]  →  resized [P, height, width, n · C]  →  result [S, height, width, C]
#
# Picture s is in packed[s // n], in the C channels from s % n · C on. The result is returned as [S, C, height, width] without
# another copy: a pixel's channels stay side by side, which is PyTorch's `channels_last` order.
#
# The kernel `_quantise` writes one picture. It quantises a whole line of w · C consecutive numbers in one loop, which the
# compiler vectorises because it reads and writes one number after the other. Where the places in the target are not
# consecutive (several pictures in one array, or mirrored), the line is written to a buffer first and then copied pixel by pixel;
# a flip reads the buffer from right to left. `gains` has each channel's sign, so a flip negates motion's x before quantising.
# The indices of the copy are unsigned, because for signed ones Numba also tests whether they count from the end.
def _cut_and_packed(values: Pictures, crop: Crop, spec: StreamSpec, quantised: bool) -> npt.NDArray[np.uint8]:
    """The quantised crop of each picture, n pictures in one: [P, crop height, crop width, n · C]."""
    packed = _empty(len(values), crop, spec.channels)
    unchanged = quantised or (values[0].dtype == np.uint8 and spec.gain == 1 and spec.offset == 0)
    zero, gain = (spec.offset, 1.0) if quantised else (0, spec.gain)
    gains = np.array(spec.flip_signs if crop.flip else (1,) * spec.channels, np.float32) * np.float32(gain)
    for number, picture in enumerate(values):
        target, start = _target(packed, number, spec.channels)
        if unchanged and not crop.flip:
            part = picture[crop.top : crop.top + crop.height, crop.left : crop.left + crop.width]
            target[..., start : start + spec.channels] = part
        else:
            rows = np.ascontiguousarray(picture).reshape(len(picture), -1)  # [H, W · C]
            _quantise(rows, (crop.left, crop.top), (zero, gains, spec.offset), crop.flip, target, start)
    return packed


def _empty(count: int, crop: Crop, channels: int) -> npt.NDArray[np.uint8]:
    """Memory for the crops of some pictures: [P, crop height, crop width, n · C]."""
    per_array = _pictures_per_array(channels)
    packed = np.empty((-(-count // per_array), crop.height, crop.width, per_array * channels), np.uint8)
    if count % per_array:
        packed[-1] = 0  # the last one has fewer pictures
    return packed


def _target(packed: npt.NDArray[np.uint8], number: int, channels: int) -> tuple[npt.NDArray[np.uint8], int]:
    """Where a picture's crop is: its array, and its first channel there."""
    per_array = _pictures_per_array(channels)
    return packed[number // per_array], number % per_array * channels


def _unpacked(packed: npt.NDArray[np.uint8], count: int, channels: int) -> npt.NDArray[np.uint8]:
    """[P, height, width, n · C] → [count, height, width, C]."""
    per_array = _pictures_per_array(channels)
    if per_array == 1:
        return packed
    pixel = np.dtype(f"u{channels}")  # the channels of a pixel as one number, so that they are copied at once
    pictures = np.empty((count, *packed.shape[1:3], channels), np.uint8)
    for first in range(per_array):
        part = pictures.view(pixel)[first::per_array]
        part[..., 0] = packed.view(pixel)[: len(part), ..., first]
    return pictures


def _pictures_per_array(channels: int) -> int:
    return 1 if channels > 2 else 4 // channels


@compiled
def _quantise(
    rows: npt.NDArray[Any],
    corner: tuple[int, int],
    scale: tuple[int, npt.NDArray[np.float32], int],
    flip: bool,
    target: npt.NDArray[np.uint8],
    start: int,
) -> None:
    """Writes clip(trunc((value − zero) · gain) + offset) of a part of [H, W · C], maybe mirrored, to the channels from `start` on.

    Exact in float32: the values have 16 bits, and motion's gain, 51/8, has 6; the product fits in 24.
    """
    height, width, depth = target.shape
    zero, gains, offset = scale
    channels = len(gains)
    factors = np.empty(width * channels, np.float32)
    for i in range(width * channels):
        factors[i] = gains[i % channels]
    results = target.reshape(height, -1)
    step = np.uint64(depth)
    consecutive = channels == depth and not flip
    buffer = np.empty(width * channels, np.uint8)
    for y in range(height):
        values = rows[corner[1] + y, corner[0] * channels : (corner[0] + width) * channels]
        result = results[y]
        line = result if consecutive else buffer
        for i in range(width * channels):
            value = np.int32(np.int32(values[i]) - zero)
            line[i] = scaled(value, factors[i], np.int32(offset), np.int32(0), np.int32(255))
        if consecutive:
            continue
        for channel in range(channels):
            to, own = np.uint64(start + channel), np.uint64(channel)
            for x in range(np.uint64(width)):
                source = np.uint64(width - 1) - x if flip else x
                result[to + x * step] = buffer[source * np.uint64(channels) + own]
