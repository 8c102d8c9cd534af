"""Reads fully decoded RGB frames by their numbers, B-frames included."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from videokd.bitstream.source import Openable, Source, source_of
from videokd.codec.colours import Colours
from videokd.codec.cursor import Decoded
from videokd.codec.index import Limits, VideoIndex
from videokd.codec.indexed_decoder import Decoder, open_decoder
from videokd.codec.indexing import check_index, open_indexed
from videokd.errors import DecodeError

Frames = npt.NDArray[np.uint8]


def read_rgb(
    path: Openable | Source,
    frame_numbers: Sequence[int],
    *,
    index: VideoIndex | None = None,
    limits: Limits | None = None,
) -> Frames:
    """Reads frames of a video by their numbers.

    Args:
        path: of the video, or bytes, or a file object.
        frame_numbers: T numbers in display order, from 0, as in `Gop.frame_numbers`; in any order, repeated or not.
        index: of this file, from a manifest or an open reader; None: the file is scanned once.
        limits: what to refuse, as in `open_video`.

    Returns:
        uint8 [T, H, W, 3], RGB.

    Raises:
        DecodeError: the file cannot be read, or has no frame of one of the numbers.
    """
    source, limits = source_of(path), limits or Limits()
    if not len(frame_numbers) or min(frame_numbers) < 0:
        raise DecodeError(
            f"{source}: frames {list(frame_numbers)} (accepted: one or more numbers from 0 on). Correct them."
        )
    decoder: Decoder
    if index is None:
        decoder, index = open_indexed(source, limits=limits)
    else:
        check_index(index, source, limits)
        decoder = open_decoder(source, index, limits=limits)
    try:
        if max(frame_numbers) >= index.num_frames:
            raise DecodeError(
                f"{source} has no frame {max(frame_numbers)} (accepted: 0 to {index.num_frames - 1}). See `videokd inspect`."
            )
        found = _decode_frames(decoder, index, sorted(set(frame_numbers)))
    finally:
        decoder.close()
    return np.stack([found[number] for number in frame_numbers])


def _decode_frames(decoder: Decoder, index: VideoIndex, numbers: list[int]) -> dict[int, Frames]:
    """The frames of rising numbers; decoding continues unless a later keyframe is nearer to the next frame."""
    wanted = {index.packets[number]: number for number in numbers}
    colours, size = Colours(), decoder.frame_size(index)
    found: dict[int, Frames] = {}
    key = -1
    frames: Iterator[tuple[int, Any]] = iter(())
    for number in numbers:
        start = index.keyframe_for(number)
        if number not in found and (key < 0 or (start > key + 1 and decoder.seeks)):
            key, frames = start, decoder.decode_from(index, start, also=frozenset(wanted))
        while number not in found:
            packet, frame = next(frames, (-1, None))
            if frame is None:
                raise DecodeError(
                    f"{decoder.source}: frame {number} cannot be decoded. Copy the file again, or repair it."
                )
            shown = wanted.get(packet)
            if shown is not None and shown not in found:
                found[shown] = Decoded(frame, colours, size, decoder.source, shown).image()
        key = max(key, start)
    return found
