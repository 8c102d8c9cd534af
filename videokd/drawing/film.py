"""Draws streams side by side as a short film: MP4 that plays everywhere, or GIF."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any

import av
import numpy as np

from videokd.drawing.panels import DrawnStreams, Image, panels
from videokd.drawing.picture import (
    COLUMNS,
    FAINT,
    INK,
    add_axes,
    caption,
    draw_arrows,
    draw_legend,
    draw_title,
    panel_inches,
    share_of,
    show_panel,
    write,
)
from videokd.errors import DataError
from videokd.files import written_whole

#: {ending: dots per inch} of the films that `save_film` writes; a GIF has fewer, since its size grows with its pixels.
FILMS = {".mp4": 110, ".gif": 66}
_ENCODER = "libx264"
_SHOWN = ("iframe", "motion", "residual", "frame")
_GAP, _MARGIN, _HEAD, _BAR, _LEGEND = 0.12, 0.2, 0.85, 0.5, 1.2  # inches


class Film:
    """Draws the pictures of a film: captions and legend once, then the panels of each picture.

    Args:
        first: a sample of the film; its streams decide which panels there are.
        title: a line above the panels.
        max_pixels: the length of motion at full brightness, the same in every picture.
        dots_per_inch: the size of the pictures.

    Raises:
        ValueError: the sample has none of iframe, motion, residual and frame.
    """

    def __init__(
        self, first: DrawnStreams, *, title: str, max_pixels: float, dots_per_inch: int = FILMS[".mp4"]
    ) -> None:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        self._max_pixels = max_pixels
        pictures = panels(first, max_pixels=max_pixels, names=_SHOWN)
        names = [name for name in COLUMNS if name in pictures]
        if not names:
            raise ValueError(f"a sample without any of {', '.join(_SHOWN)} (accepted: at least one)")
        wide, high = panel_inches(pictures[names[0]].shape, most=3.4)
        foot = _BAR + (_LEGEND if "motion" in names else 0)
        width = max(2 * _MARGIN - _GAP + len(names) * (wide + _GAP), 4.0)
        figure = Figure(figsize=(width, _HEAD + high + foot), dpi=dots_per_inch, facecolor="white")
        draw_title(figure, title)
        self._axes = {}
        for column, name in enumerate(names):
            left = _MARGIN + column * (wide + _GAP)
            self._axes[name] = add_axes(figure, (left, foot, wide, high))
            caption(figure, names, name, left=left, bottom=foot + high + 0.08)
        if "motion" in names:
            draw_legend(figure, max_pixels=max_pixels, left=_MARGIN, tinted=False)
        self._draw_bar(figure, foot - 0.16, width - 2 * _MARGIN)
        self._note = write(figure, _MARGIN, foot - 0.36, "", size=9.5, color=INK, va="center", animated=True)
        canvas: Any = FigureCanvasAgg(figure)
        canvas.draw()
        self._canvas, self._still = canvas, canvas.copy_from_bbox(figure.bbox)

    def _draw_bar(self, figure: Any, bottom: float, length: float) -> None:
        """Draws the bar that shows the progress; places in inches."""
        from matplotlib.patches import Rectangle

        width, height = figure.get_size_inches()
        self._bar_length = length / width
        box = {"xy": (_MARGIN / width, bottom / height), "height": 0.05 / height, "transform": figure.transFigure}
        figure.add_artist(Rectangle(width=self._bar_length, color="#dfe4ea", **box))
        self._bar = figure.add_artist(Rectangle(width=0, color=FAINT, animated=True, **box))

    def draw(self, sample: DrawnStreams, *, note: str, progress: float) -> Image:
        """Draws one picture.

        Args:
            sample: with the same streams as the first one, of the same size.
            note: a line below the panels, such as the position in the video.
            progress: how far into the film, 0 to 1.

        Returns:
            uint8 [height, width, 3], RGB; both sides are even, as H.264 requires.
        """
        self._canvas.restore_region(self._still)
        pictures = panels(sample, max_pixels=self._max_pixels, names=self._axes)
        for name, axes in self._axes.items():
            image = show_panel(axes, pictures[name], sample)
            arrows = draw_arrows(axes, sample) if name == "motion" else None
            for artist in (image, arrows):
                if artist is not None:
                    axes.draw_artist(artist)
                    artist.remove()
        valid = "" if sample.valid is None else f" · {share_of(sample)}"
        self._note.set_text(note + valid)
        self._bar.set_width(self._bar_length * progress)
        for artist in (self._note, self._bar):
            artist.draw(self._canvas.get_renderer())
        drawn = np.asarray(self._canvas.buffer_rgba())[..., :3]
        picture: Image = np.ascontiguousarray(drawn[: drawn.shape[0] // 2 * 2, : drawn.shape[1] // 2 * 2])
        return picture


def save_film(pictures: Iterable[Image], path: Path | str, *, pictures_per_second: float) -> Path:
    """Writes pictures as a film: MP4 (H.264, 4:2:0, with the index at its start) or GIF; it gets its name only when it is complete.

    Args:
        pictures: uint8 [H, W, 3] each, RGB, of one size with even sides; at least one.
        path: of the file, ending in .mp4 or .gif; folders on the way are made.
        pictures_per_second: of the film.

    Returns:
        The path.

    Raises:
        ValueError: another ending, or no pictures.
        DataError: it cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() not in FILMS:
        raise ValueError(f"{path} (accepted: a name ending in {' or '.join(FILMS)})")
    waiting = iter(pictures)
    first = next(waiting, None)
    if first is None:
        raise ValueError(f"{path}: no pictures (accepted: at least one)")
    save = _save_mp4 if path.suffix.lower() == ".mp4" else _save_gif
    with written_whole(path) as aside:
        save(chain((first,), waiting), first.shape, aside, pictures_per_second)
    return path


def _save_mp4(pictures: Iterator[Image], shape: tuple[int, ...], path: Path, pictures_per_second: float) -> None:
    rate = Fraction(pictures_per_second).limit_denominator(1000)
    colours = {"colorspace": "bt709", "color_primaries": "bt709", "color_trc": "bt709", "color_range": "tv"}
    with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as output:
        try:
            stream: Any = output.add_stream(_ENCODER, rate=rate, options={"crf": "18", "preset": "veryfast", **colours})
        except ValueError as error:  # PyAV was built without it; its wheels have it
            raise DataError(
                f"this build of PyAV has no {_ENCODER}, which makes MP4 films (accepted: a name ending in .gif). Change the name."
            ) from error
        stream.height, stream.width = shape[:2]
        stream.pix_fmt = "yuv420p"
        for number, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame = frame.reformat(format="yuv420p", dst_colorspace="ITU709", threads=1)
            frame.pts, frame.time_base = number, 1 / rate
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))


def _save_gif(pictures: Iterator[Image], shape: tuple[int, ...], path: Path, pictures_per_second: float) -> None:
    from PIL import Image

    # Without dithering: its noise flickers, and compresses badly
    images = (
        Image.fromarray(picture).quantize(256, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
        for picture in pictures
    )
    # GIF counts in hundredths of a second, and viewers play pictures shorter than two of them slowly
    duration = max(round(100 / pictures_per_second), 2) * 10
    next(images).save(path, format="GIF", save_all=True, append_images=images, duration=duration, loop=0)
