"""The values that codec, datasets, models and recipes pass to each other, and the table of streams."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from videokd.drawing.notebook import streams_png
from videokd.errors import ConfigError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

#: The label of a clip without a class: it has no cross-entropy, and is never used to validate or test.
NO_LABEL = -1
#: The number of a clip or of a view that has none.
NO_NUMBER = -1

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class StreamSpec:
    """Everything in which one stream differs from the others; a row of `STREAMS`.

    A stream's values are passed on as uint8: u = clip(trunc(value · gain) + offset, 0, 255). The network then computes
    (u/255 − mean) / std, and with `input_batch_norm` normalises the result over the batch (CoViAR, Wu et al. 2018).

    Args:
        name: the stream's key in Streams, Batch, weights, checkpoints, settings and on the command line.
        channels: number of channels.
        first_position: the first position of a GOP at which the stream carries information.
        flip_signs: factor of each channel when the picture is mirrored left to right.
        gain: factor before quantising.
        offset: added after quantising.
        mean: per channel, of u/255.
        std: per channel, of u/255.
        input_batch_norm: whether the network starts with a BatchNorm over its input.
        default_backbone: timm's name of the backbone that CoViAR uses for this stream.
        from_pictures: whether the stream is the decoded pictures (`codec/rgb.py`), not data of the codec.
    """

    name: str
    channels: int
    first_position: int
    flip_signs: tuple[int, ...]
    gain: float
    offset: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    input_batch_norm: bool
    default_backbone: str
    from_pictures: bool = False


STREAMS: Mapping[str, StreamSpec] = {
    spec.name: spec
    for spec in (
        StreamSpec("iframe", 3, 0, (1, 1, 1), 1, 0, IMAGENET_MEAN, IMAGENET_STD, False, "resnet152"),
        StreamSpec("motion", 2, 1, (-1, 1), 127.5 / 20, 128, (0.5, 0.5), (1.0, 1.0), True, "resnet18"),
        StreamSpec("residual", 3, 1, (1, 1, 1), 1, 128, (0.5, 0.5, 0.5), IMAGENET_STD, True, "resnet18"),
        StreamSpec("rgb", 3, 0, (1, 1, 1), 1, 0, IMAGENET_MEAN, IMAGENET_STD, False, "resnet50", from_pictures=True),
    )
}


def check_streams(names: Iterable[str], *, where: str) -> tuple[str, ...]:
    """Checks names of streams, and returns them as a tuple.

    Args:
        names: the names.
        where: what they belong to, for the message.

    Raises:
        ConfigError: a name is unknown or appears twice, or there is none.
    """
    names = tuple(names)
    unknown = [name for name in names if name not in STREAMS]
    if unknown or not names or len(set(names)) < len(names):
        given = ", ".join(map(str, names)) or "nothing"
        raise ConfigError(
            f"{where}: {given} (accepted: one or more of {', '.join(STREAMS)}, each once). Correct the names of the streams."
        )
    return names


def input_key(stream: str, size: int, *, main_size: int) -> str:
    """The key of an input in `Batch.streams`: the stream's name, with the side of the pictures where that is not the main one.

    Args:
        stream: its name.
        size: side of the network's input, in pixels.
        main_size: the side that a batch's unmarked streams have.

    >>> input_key("iframe", 96, main_size=96), input_key("iframe", 160, main_size=96)
    ('iframe', 'iframe@160')
    """
    return stream if size == main_size else f"{stream}@{size}"


def stream_and_size(key: str, *, main_size: int) -> tuple[str, int]:
    """What `input_key` joined: a stream's name, and the side of its pictures in pixels.

    Args:
        key: of an input.
        main_size: as it was given there.

    >>> stream_and_size("iframe@160", main_size=96), stream_and_size("motion", main_size=96)
    (('iframe', 160), ('motion', 96))
    """
    stream, _, size = key.partition("@")
    return stream, int(size or main_size)


def check_encoding(encoding: Any) -> None:
    """Checks how videos were encoded, as a manifest and exported students say it: the kinds of what is known of it.

    Args:
        encoding: what stands there, from anybody.

    Raises:
        ConfigError: names what is of another kind.
    """
    if not isinstance(encoding, Mapping) or not isinstance(encoding.get("encoding", {}), Mapping):
        raise ConfigError(f"encoding is {encoding!r:.80} (accepted: an object).")
    for key, value in encoding.get("encoding", {}).items():
        kinds = {
            "codec": (str,),
            "gop": (int,),
            "short_side": (int,),
            "quality": (int, type(None)),
            "tune": (str,),
        }.get(key)
        if kinds and (not isinstance(value, kinds) or isinstance(value, bool)):
            raise ConfigError(f"encoding.{key} is {value!r:.80}.")


def _describe(value: object) -> str:
    shape = getattr(value, "shape", None)
    if shape is not None:
        dtype = getattr(value, "dtype", "")
        kind = "struct" if getattr(dtype, "names", None) else str(dtype).removeprefix("torch.")
        return f"{kind}{list(shape)}"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_describe(item)}" for key, item in value.items()) + "}"
    if isinstance(value, tuple) and len(value) > 6:
        return f"({value[0]!r}, … {len(value)} in all)"
    return repr(value)


class _ShapesInRepr:
    """Gives a dataclass a repr that shows shapes and dtypes, not pixels."""

    def __repr__(self) -> str:
        inside = ", ".join(f"{f.name}={_describe(getattr(self, f.name))}" for f in fields(self))  # type: ignore[arg-type]
        return f"{type(self).__name__}({inside})"


@dataclass(frozen=True)
class Gop:
    """A group of pictures: an I-frame (position 0) and the P-frames before the next I-frame; B-frames have no position.

    Args:
        index: number of the GOP in its video, from 0.
        start_seconds: when its I-frame is shown.
        frame_numbers: for each position, the number of its frame in display order, from 0.
    """

    index: int
    start_seconds: float
    frame_numbers: tuple[int, ...]

    @property
    def num_positions(self) -> int:
        """Number of positions: the I-frame and its P-frames."""
        return len(self.frame_numbers)


@dataclass(frozen=True, repr=False)
class Streams(_ShapesInRepr):
    """The streams at one position of one GOP; a stream that was not read is None.

    Args:
        gop: number of the GOP.
        position: 0 for the I-frame, then 1, 2, … for the P-frames.
        iframe: uint8 [H, W, 3], RGB: the GOP's first frame. Read-only: positions of a GOP share it.
        frame: uint8 [H, W, 3], RGB: the frame at `position`.
        motion: int16 [H, W, 2], (x, y) in pixels; positive x: content moved right.
        residual: int16 [H, W, 3], RGB, in [-255, 255].
        valid: bool [H, W]: False where the motion chain meets an intra block or leaves the picture.
    """

    gop: int
    position: int
    iframe: npt.NDArray[np.uint8] | None = None
    frame: npt.NDArray[np.uint8] | None = None
    motion: npt.NDArray[np.int16] | None = None
    residual: npt.NDArray[np.int16] | None = None
    valid: npt.NDArray[np.bool_] | None = None

    _repr_png_ = streams_png


@dataclass(frozen=True, repr=False)
class Frame(_ShapesInRepr):
    """One frame of a video, as `VideoReader.frames` gives it.

    Args:
        number: in display order, from 0.
        seconds: when it is shown; the first frame at 0.
        type: I, P, B, or S (MPEG-4: a P-frame with global motion compensation).
        vectors: structured [N] of FFmpeg's fields, one a block and reference (docs/raw-vectors.md); N is 0 for an I-frame. None if not asked
            for.
        picture: uint8 [H, W, 3], RGB; None if not asked for.
    """

    number: int
    seconds: float
    type: str
    vectors: npt.NDArray[np.void] | None = None
    picture: npt.NDArray[np.uint8] | None = None


@dataclass(frozen=True, repr=False)
class Sample(_ShapesInRepr):
    """One clip as input of the networks.

    Args:
        streams: {stream: uint8 [S, C, H, W]}; at another than the main size, the key is that of `input_key`.
        label: class number, from 0; -1 without a label.
        video_id: the clip's id in its dataset.
        clip: number of the clip, among all that a run trains on; -1 where nobody counted.
        view: number of the stored view; -1 for a view that is drawn anew.
    """

    streams: Mapping[str, npt.NDArray[np.uint8]]
    label: int
    video_id: str
    clip: int = NO_NUMBER
    view: int = NO_NUMBER

    def __post_init__(self) -> None:
        for name, values in self.streams.items():
            if values.ndim != 4 or values.dtype != np.uint8:
                raise ValueError(f"{self.video_id}: {name} is {_describe(values)} (accepted: uint8 [S, C, H, W])")


@dataclass(frozen=True, repr=False)
class Batch(_ShapesInRepr):
    """Samples joined along a batch dimension.

    Args:
        streams: {stream: uint8 [B, S, C, H, W]}; at another than the main size, the key is that of `input_key`.
        label: int64 [B]; -1 without a label.
        video_ids: B ids.
        clips: int64 [B], numbers of the clips; -1 where they are not given.
        views: int64 [B], numbers of the stored views; -1 for views drawn anew, and where they are not given.
    """

    streams: Mapping[str, Tensor]
    label: Tensor
    video_ids: tuple[str, ...]
    clips: Tensor = field(default=None)  # type: ignore[assignment]  # torch is not imported here to make a default
    views: Tensor = field(default=None)  # type: ignore[assignment]

    def __post_init__(self) -> None:
        for numbers in ("clips", "views"):
            if getattr(self, numbers) is None:
                object.__setattr__(self, numbers, self.label.new_full(self.label.shape, NO_NUMBER))
        for name, values in self.streams.items():
            if values.ndim != 5 or len(values) != len(self.label):
                raise ValueError(f"{name} is {_describe(values)} (accepted: uint8 [{len(self.label)}, S, C, H, W])")

    def __len__(self) -> int:
        return len(self.label)

    def split(self, pieces: int) -> list[Batch]:
        """At most `pieces` parts of nearly equal size, in order."""
        size = -(-len(self) // pieces)
        return [self._piece(slice(start, start + size)) for start in range(0, len(self), size)]

    def _piece(self, part: slice) -> Batch:
        return replace(self._each(lambda values: values[part]), video_ids=self.video_ids[part])

    def pin_memory(self) -> Batch:
        """The batch in page-locked memory, for asynchronous copies to a GPU (called by DataLoader)."""
        return self._each(lambda values: values.pin_memory())

    def to(self, device: torch.device | str) -> Batch:
        """The batch on another device; the copy is asynchronous if the memory is page-locked."""
        return self._each(lambda values: values.to(device, non_blocking=True))

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        streams = {name: change(values) for name, values in self.streams.items()}
        return Batch(streams, change(self.label), self.video_ids, change(self.clips), change(self.views))


@dataclass(frozen=True, repr=False)
class StudentOutput(_ShapesInRepr):
    """The output of one student for a batch, averaged over segments.

    Args:
        logits: [B, K], from the deepest exit.
        exits: {exit: [B, K]}, the logits of the shallow exits; empty if there are none.
        hints: {exit: (adapted, deepest)}, pairs of features with the same shape, for the hint loss.
        features: [B, D], the pooled deepest ones; None where nobody asked for them.
        adapted: {teacher: [B, its width]}, the features behind an adapter to each teacher's; empty if there are none.
    """

    logits: Tensor
    exits: Mapping[str, Tensor] = field(default_factory=dict)
    hints: Mapping[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    features: Tensor | None = None
    adapted: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.logits.ndim != 2:
            raise ValueError(f"logits are {_describe(self.logits)} (accepted: [B, K])")
