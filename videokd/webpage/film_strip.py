"""The streams of a clip side by side, as a short film that browsers play."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from videokd.codec.container import MOTION_CODECS
from videokd.codec.reader import VideoReader
from videokd.drawing.film import save_film
from videokd.drawing.panels import Image, full_colour_pixels, panels
from videokd.files import temporary_folder

#: Of a longer clip, evenly spaced ones are shown.
MOST_PICTURES = 120
_PICTURES_PER_SECOND = 30.0
#: Positions that decide which length of motion has full brightness.
_MEASURED = 12
_PANEL_SIDE, _GAP = 320, 8  # pixels


@dataclass(frozen=True)
class StreamsFilm:
    """A film of a clip's streams, which plays as long as the clip.

    Args:
        mp4: the file: H.264, 4:2:0.
        panels: names of the streams that are shown, from left to right.
        pictures: how many the film has.
        positions: how many the clip has; evenly spaced ones are shown.
        max_pixels: the length of motion at full brightness.
    """

    mp4: bytes
    panels: tuple[str, ...]
    pictures: int
    positions: int
    max_pixels: float


def film_streams(video: VideoReader) -> StreamsFilm:
    """Films picture, motion and residual of a clip, at the clip's own speed.

    Args:
        video: the open clip; a codec without motion vectors gives the picture alone.

    Raises:
        DecodeError: the clip cannot be read.
        DataError: the film cannot be written.
    """
    shown = ("frame", "motion", "residual") if video.codec in MOTION_CODECS else ("frame",)
    positions = [(gop.index, position) for gop in video.gops for position in range(gop.num_positions)]
    seconds = video.index.duration_seconds
    most = max(min(MOST_PICTURES, int(_PICTURES_PER_SECOND * seconds)), 1)
    places = positions[:: -(-len(positions) // most)]
    max_pixels = _full_brightness(video, places) if "motion" in shown else 1.0
    wanted = ("iframe", *shown) if "motion" in shown else shown  # motion is drawn over the dimmed I-frame

    def pictures() -> Iterator[Image]:
        for gop, position in places:
            sample = video.read(gop=gop, position=position, streams=wanted)
            drawn = panels(sample, max_pixels=max_pixels, names=shown)
            yield side_by_side([drawn[stream] for stream in shown])

    with temporary_folder() as folder:
        film = save_film(pictures(), folder / "film.mp4", pictures_per_second=len(places) / seconds)
        return StreamsFilm(film.read_bytes(), shown, len(places), len(positions), max_pixels)


def _full_brightness(video: VideoReader, places: list[tuple[int, int]]) -> float:
    chosen = places[:: -(-len(places) // _MEASURED)]
    motions = (video.read(gop=gop, position=position, streams=("motion",)).motion for gop, position in chosen)
    return full_colour_pixels(motion for motion in motions if motion is not None)


def side_by_side(pictures: list[Image]) -> Image:
    """Pictures of one size in a row on white, each 320 pixels wide or high, whichever is the longer side.

    Args:
        pictures: uint8 [h, w, 3] each, RGB.

    Returns:
        uint8 [H, W, 3]; both sides are even, as H.264 requires.
    """
    from PIL import Image as Pillow

    height, width = pictures[0].shape[:2]
    scale = _PANEL_SIDE / max(height, width)
    size = (max(round(width * scale / 2) * 2, 2), max(round(height * scale / 2) * 2, 16))
    resized = [np.asarray(Pillow.fromarray(picture).resize(size, Pillow.Resampling.BILINEAR)) for picture in pictures]
    gap = np.full((size[1], _GAP, 3), 255, np.uint8)
    row = [part for picture in resized for part in (gap, picture)][1:]
    joined: Image = np.ascontiguousarray(np.hstack(row))
    return joined
