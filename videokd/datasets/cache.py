"""A cache of decoded clips: a few positions of each, small, so that on few cores training does not wait for the decoder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from videokd.codec.index import VideoIndex
from videokd.datasets.view import Crop, Pictures, apply_crop, sample_positions
from videokd.errors import ConfigError, DataError
from videokd.files import SHA256, written_whole
from videokd.types import STREAMS

#: The network's input is 224 of the training form's 256 pixels (CoViAR); a cached picture keeps that share.
_SHORT_SIDE_OF_INPUT = 256 / 224

#: Decodes streams at positions: (streams, (gop, position) × P) → {stream: P pictures [H, W, C]}.
Decode = Callable[[tuple[str, ...], Sequence[tuple[int, int]]], "dict[str, Pictures]"]


@dataclass(frozen=True)
class DecodedCache:
    """Quantised streams of clips at evenly spaced positions: one file per clip and stream, written when it is first needed.

    A view then takes its segments from these positions, and the pixels of its crops from these pictures: less variety than decoding, in a
    small fraction of the time. The positions do not depend on the streams, so all streams of a sample show the same moments.
    Files are named by the clip's content, so several datasets can share the folder.

    Args:
        folder: made if it does not exist; safe to delete when no run uses it.
        num_positions: P, for each clip.
        input_size: side of the networks' input in pixels; the pictures' short side is 8/7 of it, as 256 is of 224.
        sizes: {stream: the largest side of an input that shows it}, for streams where that is not `input_size`.

    Raises:
        ConfigError: num_positions or input_size is not positive.
    """

    folder: Path
    num_positions: int
    input_size: int
    sizes: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.num_positions < 1 or self.input_size < 1:
            raise ConfigError(
                f"a cache of {self.num_positions} positions at {self.input_size} pixels (accepted: 1 or more of each). "
                "Correct data.cache_positions or data.input_size."
            )

    def size(self, stream: str, width: int, height: int) -> tuple[int, int]:
        """Width and height of the cached pictures of a video's stream, never larger than the video's own; all in pixels."""
        scale = min(_SHORT_SIDE_OF_INPUT * self.sizes.get(stream, self.input_size) / min(width, height), 1.0)
        return round(width * scale), round(height * scale)

    def read(
        self, content: str, index: Callable[[], VideoIndex], streams: tuple[str, ...], decode: Decode
    ) -> dict[str, npt.NDArray[np.uint8]]:
        """The cached streams of one clip; those that are missing are decoded first.

        Args:
            content: the clip's sha256.
            index: returns the clip's index; only called if a stream is missing.
            streams: names of the streams.
            decode: reads streams of the clip.

        Returns:
            {stream: uint8 [P, H, W, C]}, quantised, memory-mapped.

        Raises:
            DataError: a file cannot be written, or is damaged.
        """
        missing = tuple(name for name in streams if not self._file(content, name).exists())
        if missing:
            self._decode(content, index(), missing, decode)
        return {name: self._memory_mapped(content, name) for name in streams}

    def _file(self, content: str, stream: str) -> Path:
        content = checked_sha256(content)  # it becomes the name of a file
        folder = f"{stream}-{self.num_positions}x{self.sizes.get(stream, self.input_size)}"
        return self.folder / folder / content[:2] / f"{content}.npy"

    def _memory_mapped(self, content: str, stream: str) -> npt.NDArray[np.uint8]:
        path = self._file(content, stream)
        try:
            pictures: npt.NDArray[np.uint8] = np.load(path, mmap_mode="r")
            if pictures.dtype != np.uint8 or pictures.ndim != 4:
                raise ValueError(f"{pictures.dtype} of {pictures.ndim} dimensions")
            found, wanted = (len(pictures), pictures.shape[3]), (self.num_positions, STREAMS[stream].channels)
            if found != wanted:
                raise ValueError("{} pictures of {} channels, not {} of {}".format(*found, *wanted))
        except (ValueError, EOFError) as error:
            raise DataError(
                f"{path} is damaged ({error}). Delete it; it is written again when it is needed."
            ) from error
        return pictures

    def _decode(self, content: str, index: VideoIndex, streams: tuple[str, ...], decode: Decode) -> None:
        lengths = [gop.num_positions for gop in index.gops]
        # An I-frame carries no motion; position 0 only for a clip that has only I-frames
        first = 1 if max(lengths, default=0) > 1 else 0
        positions = sample_positions(lengths, num_segments=self.num_positions, first_position=first)
        whole = Crop(0, 0, index.width, index.height)
        for name, pictures in decode(streams, positions).items():
            width, height = self.size(name, index.width, index.height)
            small = apply_crop(pictures, whole, spec=STREAMS[name], size=(height, width))  # [P, C, H, W]
            with written_whole(self._file(content, name)) as aside, aside.open("wb") as file:
                np.save(file, np.ascontiguousarray(small.transpose(0, 2, 3, 1)))


def checked_sha256(content: str) -> str:
    """A clip's sha256, which must be one.

    Raises:
        DataError: it is not.
    """
    if not SHA256.fullmatch(content):
        raise DataError(
            f"a clip's sha256 is {content!r:.80} (accepted: 64 hexadecimal digits). Prepare the dataset again."
        )
    return content
