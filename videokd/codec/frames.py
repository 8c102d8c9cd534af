"""Every frame in display order, B-frames included, with its motion vectors as FFmpeg exports them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from videokd.codec.colours import Colours
from videokd.codec.container import vectors_of
from videokd.codec.cursor import MOST_PENDING, Decoded
from videokd.codec.index import VideoIndex
from videokd.codec.indexed_decoder import Decoder
from videokd.errors import DecodeError, NeedsTranscoding
from videokd.types import Frame

#: FFmpeg's AVMotionVector (libavutil/motion_vector.h), 40 bytes with the padding of C.
_VECTOR = np.dtype(
    [
        ("source", np.int32),
        ("w", np.uint8),
        ("h", np.uint8),
        ("src_x", np.int16),
        ("src_y", np.int16),
        ("dst_x", np.int16),
        ("dst_y", np.int16),
        ("flags", np.uint64),
        ("motion_x", np.int32),
        ("motion_y", np.int32),
        ("motion_scale", np.uint16),
    ],
    align=True,
)
# The words of 16 bits that are padding: FFmpeg does not set them
_PADDING = (7, 17, 18, 19)


def decode_frames(
    decoder: Decoder, index: VideoIndex, colours: Colours, *, first: int, vectors: bool, pictures: bool
) -> Iterator[Frame]:
    """Decodes frames in display order.

    Args:
        decoder: of this file; nothing else may move it meanwhile.
        index: of this file.
        colours: the converter to RGB.
        first: number of the first frame that is wanted.
        vectors: whether vectors are wanted.
        pictures: whether pictures are wanted.

    Yields:
        Each frame, to the end of the video.

    Raises:
        DecodeError: a frame cannot be decoded.
        NeedsTranscoding: a frame does not have the size in the index, or the decoder never gives it.
    """
    size, source, number = decoder.frame_size(index), decoder.source, first
    b_frames = frozenset(packet for packet, kind in enumerate(index.types) if kind in "Bb")
    waiting: dict[int, tuple[str, Any]] = {}
    for packet, frame in decoder.decode_from(index, index.keyframe_for(first), also=b_frames):
        shown = index.frame_numbers[packet]
        if shown >= number:
            waiting[shown] = index.types[packet].upper(), frame
        while number in waiting:
            kind, next_frame = waiting.pop(number)
            decoded = Decoded(next_frame, colours, size, source, number)
            yield Frame(
                number=number,
                seconds=index.seconds_of(number),
                type=kind,
                vectors=_copy_of_vectors(next_frame) if vectors else None,
                picture=decoded.image() if pictures else None,
            )
            number += 1
        if len(waiting) > MOST_PENDING:
            raise NeedsTranscoding(f"{source}: the decoder never outputs frame {number}. Transcode the file.")
    if number < index.num_frames:
        raise DecodeError(f"{source}: frame {number} cannot be decoded. Copy the file again, or repair it.")


def _copy_of_vectors(frame: Any) -> npt.NDArray[np.void]:
    """Structured [N], of FFmpeg's fields; it does not keep the frame's pictures in memory."""
    words = vectors_of(frame).copy()
    words[:, _PADDING] = 0
    return words.view(_VECTOR).reshape(-1)
