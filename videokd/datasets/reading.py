"""The pictures of any streams at some positions of a video, whether the codec holds them or they must be decoded."""

from __future__ import annotations

from collections.abc import Sequence

from videokd.codec.reader import VideoReader
from videokd.datasets.view import Pictures
from videokd.types import STREAMS


def read_pictures(
    video: VideoReader, streams: Sequence[str], positions: Sequence[tuple[int, int]], *, blank_invalid: bool = False
) -> dict[str, Pictures]:
    """Streams at positions, in the streams' own units.

    Args:
        video: an open one.
        streams: names in `STREAMS`.
        positions: (gop, position) of each picture.
        blank_invalid: set motion and residual to zero where the motion chain is not valid.

    Returns:
        {stream: a picture [H, W, C] for each position}.

    Raises:
        DecodeError: the video cannot be read.
    """
    shown = {name: "frame" if STREAMS[name].from_pictures else name for name in streams}
    # Reading motion brings the mask of valid pixels along
    wanted = {*shown.values(), *(["motion"] if blank_invalid else [])}
    parts = [video.read(gop=gop, position=position, streams=tuple(wanted)) for gop, position in positions]
    found: dict[str, Pictures] = {name: [getattr(part, shown[name]) for part in parts] for name in streams}
    if blank_invalid:
        valid = [part.valid[..., None] for part in parts if part.valid is not None]  # S × [H, W, 1]
        for name in streams:
            if STREAMS[name].first_position:
                found[name] = [values * seen for values, seen in zip(found[name], valid, strict=True)]
    return found
