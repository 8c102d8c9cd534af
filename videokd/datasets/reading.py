"""The pictures of any streams at some positions of a video, whether the codec holds them or they must be decoded."""

from __future__ import annotations

from collections.abc import Sequence

from videokd.codec.streams import VideoReader
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
    coded = tuple(name for name in streams if not STREAMS[name].from_pictures)
    found = _read_coded(video, coded, positions, blank_invalid=blank_invalid) if coded else {}
    if pictured := [name for name in streams if STREAMS[name].from_pictures]:
        from videokd.codec.rgb import read_rgb  # brings a second FFmpeg along

        numbers = [video.gops[gop].frame_numbers[position] for gop, position in positions]
        found |= dict.fromkeys(pictured, read_rgb(video.path, numbers))
    return found


def _read_coded(
    video: VideoReader, streams: tuple[str, ...], positions: Sequence[tuple[int, int]], *, blank_invalid: bool
) -> dict[str, Pictures]:
    # Reading motion brings the mask of valid pixels along
    wanted = (*streams, "motion") if blank_invalid and "motion" not in streams else streams
    parts = [video.read(gop=gop, position=position, streams=wanted) for gop, position in positions]
    found: dict[str, Pictures] = {name: [getattr(part, name) for part in parts] for name in streams}
    if blank_invalid:
        valid = [part.valid[..., None] for part in parts if part.valid is not None]  # S × [H, W, 1]
        for name in streams:
            if STREAMS[name].first_position:
                found[name] = [values * seen for values, seen in zip(found[name], valid, strict=True)]
    return found
