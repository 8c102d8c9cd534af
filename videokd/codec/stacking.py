"""Streams of many positions in blocks, [S, C, H, W], as deep learning frameworks take them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from math import prod
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from videokd.bitstream.source import Source
from videokd.codec.cursor import Cursor, Decoded
from videokd.errors import ConfigError
from videokd.kernels.planar import write_colours, write_difference, write_motion, write_pixels, write_residual
from videokd.kernels.resizing import resize
from videokd.types import STREAMS

Block: TypeAlias = npt.NDArray[Any]
Size: TypeAlias = int | tuple[int, int] | None

_TYPES = ("uint8", "int16")
_CHANNELS = {"iframe": 3, "frame": 3, "motion": 2, "residual": 3}
_LARGEST_SIDE = 1 << 15
_ALIGNMENT = 64
# Offset, lowest and highest value of motion and residual in their own units
_AS_THEY_ARE = {"motion": (0, -(1 << 15), (1 << 15) - 1), "residual": (0, -255, 255)}


class Stack:
    """The blocks of a stack, and how they are filled.

    `blocks` is {stream: uint8 or int16 [S, C, height, width]}.

    Args:
        streams: their names, of those that a reader reads.
        count: S, the number of positions.
        picture: height and width of the video, in pixels.
        dtype: of motion and residual: uint8, quantised as networks take them, or int16, in their own units; pictures are uint8.
        size: as for `VideoReader.stack`.
        out: {stream: its block} of the caller; None: new ones.

    Raises:
        ConfigError: `count` is 0, or `dtype`, `size` or `out` is not possible.
    """

    def __init__(
        self,
        streams: Sequence[str],
        count: int,
        picture: tuple[int, int],
        *,
        dtype: npt.DTypeLike,
        size: Size,
        out: Mapping[str, Block] | None,
    ) -> None:
        if not count:
            raise ConfigError("positions: nothing (accepted: one or more pairs (gop, position)). See `video.gops`.")
        self._quantised = _type_of(dtype) == "uint8"
        shape = _size_of(size, picture)
        forms = {
            name: (
                np.dtype(np.uint8 if self._quantised or name not in _AS_THEY_ARE else np.int16),
                (count, _CHANNELS[name], *shape),
            )
            for name in dict.fromkeys(streams)
        }
        if out is not None:
            _check_out(out, forms)
        self.blocks = {name: _aligned(form, kind) if out is None else out[name] for name, (kind, form) in forms.items()}
        # Where pictures are resized, a whole one is written here first; it stays in the processor's cache
        self._whole = {
            name: np.empty((_CHANNELS[name], *picture), kind) for name, (kind, _) in forms.items() if shape != picture
        }
        self._iframe: tuple[Decoded, int] | None = None

    def fill(self, numbers: Sequence[int], first: Decoded | None, cursor: Cursor | None) -> None:
        """Writes the streams of one position.

        Args:
            numbers: where the position is in the blocks.
            first: the GOP's I-frame; None where no picture is wanted.
            cursor: stands at the position; None at position 0.

        Raises:
            DecodeError: FFmpeg cannot convert the pixel format of a frame.
        """
        number = numbers[0]
        for name, block in self.blocks.items():
            if name == "iframe" and self._iframe is not None and self._iframe[0] is first:
                block[number] = block[self._iframe[1]]
            else:
                target = self._whole.get(name, block[number])
                self._write(name, target, first, cursor)
                if name in self._whole:
                    resize(target, block[number])
            for other in numbers[1:]:
                block[other] = block[number]
        if first is not None:
            self._iframe = first, number

    def _write(self, name: str, target: Block, first: Decoded | None, cursor: Cursor | None) -> None:
        if name in ("iframe", "frame"):
            decoded = first if name == "iframe" or cursor is None else cursor.current
            assert decoded is not None
            _write_picture(decoded, target)
            return
        spec = STREAMS[name]
        offset, low, high = (spec.offset, 0, 255) if self._quantised else _AS_THEY_ARE[name]
        if cursor is None:
            target[:] = offset  # nothing has moved yet
        elif name == "motion":
            gain = np.float32(spec.gain if self._quantised else 1)
            write_motion(cursor.chain(), gain, (np.int32(offset), np.int32(low), np.int32(high)), target)
        else:
            limits = (np.int16(offset), np.int16(low), np.int16(high))
            _write_residual(cursor.current, cursor.warped(), limits, target)


def _write_picture(decoded: Decoded, target: Block) -> None:
    planes = decoded.planes()
    if planes is None:
        write_pixels(decoded.rows(), target)
    else:
        write_colours(*planes, target)


def _write_residual(decoded: Decoded, warped: Any, limits: tuple[np.int16, np.int16, np.int16], target: Block) -> None:
    planes = decoded.planes()
    if planes is None:
        write_difference(decoded.rows(), warped, limits, target)
    else:
        write_residual(*planes, warped, limits, target)


def pairs_of(positions: Any, source: Source) -> list[tuple[int, int]]:
    """The positions that were asked for, as pairs (gop, position).

    Args:
        positions: what was given.
        source: of the video, for messages.

    Raises:
        ConfigError: they are not pairs.
    """
    accepted = "(accepted: pairs (gop, position)). Correct it."
    if not hasattr(positions, "__iter__"):
        raise ConfigError(f"{source}: positions is {positions!r:.40} {accepted}")
    pairs = []
    for place in positions:
        try:
            gop, position = place
        except (TypeError, ValueError):
            raise ConfigError(f"{source}: positions has {place!r:.40} {accepted}") from None
        pairs.append((gop, position))
    return pairs


def _aligned(shape: tuple[int, ...], kind: np.dtype[Any]) -> Block:
    """A new block that begins at a multiple of 64 bytes: JAX copies those that do not."""
    size = prod(shape) * kind.itemsize
    room = np.empty(size + _ALIGNMENT, np.uint8)
    start = -room.ctypes.data % _ALIGNMENT
    return room[start : start + size].view(kind).reshape(shape)


def _type_of(dtype: npt.DTypeLike) -> str:
    try:
        name = np.dtype(dtype).name
    except (TypeError, ValueError):
        name = ""
    if name not in _TYPES:
        raise ConfigError(f"dtype={dtype!r:.40} (accepted: {' or '.join(_TYPES)}). Correct it.")
    return name


def _size_of(size: Size, picture: tuple[int, int]) -> tuple[int, int]:
    """Height and width of the result, in pixels."""
    if size is None:
        return picture
    sides = size if isinstance(size, (tuple, list)) else (size,)
    whole = all(isinstance(side, (int, np.integer)) and not isinstance(side, bool) for side in sides)
    if not whole or len(sides) not in (1, 2) or not all(0 < side <= _LARGEST_SIDE for side in sides):
        raise ConfigError(
            f"size={size!r:.40} (accepted: None, (height, width), or the length of the short side, in pixels up to {_LARGEST_SIDE}). "
            "Correct it."
        )
    if len(sides) == 2:
        return int(sides[0]), int(sides[1])
    short, (height, width) = int(sides[0]), picture
    return (short, short * width // height) if height <= width else (short * height // width, short)


def _check_out(out: Mapping[str, Block], forms: Mapping[str, tuple[np.dtype[Any], tuple[int, ...]]]) -> None:
    if not isinstance(out, Mapping) or out.keys() != forms.keys():
        given = ", ".join(map(str, out)) if isinstance(out, Mapping) else type(out).__name__
        raise ConfigError(f"out: {given or 'nothing'} (accepted: a dictionary of {', '.join(forms)}). Correct it.")
    for name, (kind, shape) in forms.items():
        block = out[name]
        wanted = f"a NumPy array of {kind} {list(shape)}, C-contiguous and writable"
        if not isinstance(block, np.ndarray):
            raise ConfigError(f"out[{name!r}] is a {type(block).__name__} (accepted: {wanted}). See `tensor.numpy()`.")
        if block.dtype != kind or block.shape != shape:
            given = f"{block.dtype} {list(block.shape)}"
        elif not block.flags.c_contiguous:
            given = "not contiguous"
        elif not block.flags.writeable:
            given = "read-only"
        else:
            continue
        raise ConfigError(f"out[{name!r}] is {given} (accepted: {wanted}). Make it with np.empty.")
    for name, other in combinations(forms, 2):
        if np.may_share_memory(out[name], out[other]):
            raise ConfigError(
                f"out[{name!r}] and out[{other!r}] share memory (accepted: blocks of their own). Make two."
            )
