"""Draws streams as one picture: a row for each position, a column for each stream, and a legend."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from videokd.drawing.panels import (
    INVALID,
    STRIPE,
    DrawnStreams,
    Image,
    flow_colours,
    full_colour_pixels,
    panels,
    stripes,
)
from videokd.errors import printable
from videokd.files import written_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


INK, FAINT = "#1c2330", "#6b7484"
#: The caption of each panel, in the order of the columns.
COLUMNS = {
    "iframe": "I-frame",
    "motion": "motion since the I-frame",
    "valid": "where that motion is valid",
    "warped": "I-frame moved by the motion",
    "residual": "residual",
    "frame": "frame",
}
_SUM = ("warped", "residual", "frame")
_DPI = 110
#: The last position that a picture shows by default: errors add up along a chain, and GOPs of the training form are this long.
_LAST_SHOWN = 12
_GAP, _MARGIN, _HEAD, _LEGEND = 0.12, 1.15, 0.85, 1.25  # inches


def panel_inches(shape: tuple[int, ...], *, most: float = 3.0) -> tuple[float, float]:
    """The size of the box for a panel: as large as possible, and not too narrow for its caption.

    Args:
        shape: [h, w, …] of the panel.
        most: inches, of the box's width; its height may be a quarter more.

    Returns:
        (width, height) in inches.

    >>> panel_inches((240, 320))
    (3.0, 2.25)
    >>> panel_inches((16, 8208))
    (3.0, 0.45)
    """
    height, width = shape[:2]
    scale = min(most / width, 1.25 * most / height)
    return max(width * scale, 0.8 * most), max(height * scale, 0.45)


#: Fonts with the letters of many scripts, used if they are installed.
_MORE_FONTS = (
    "Noto Sans CJK JP",
    "Noto Sans CJK SC",
    "WenQuanYi Zen Hei",
    "Source Han Sans",
    "PingFang SC",
    "Hiragino Sans",
    "MS Gothic",
    "Arial Unicode MS",
)


@contextmanager
def in_any_script() -> Iterator[None]:
    """Draws text in any script (file names may have any): adds fonts that have the letters; without them there is no warning."""
    from matplotlib import font_manager, rc_context

    installed = {font.name for font in font_manager.fontManager.ttflist}
    families = ["DejaVu Sans", *(name for name in _MORE_FONTS if name in installed)]
    with rc_context({"font.family": families}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield


def places_to_show(lengths: Sequence[int]) -> tuple[int, tuple[int, ...]]:
    """Which GOP a picture of a video shows, and which positions of it: three of the first twelve of the longest of the first ten GOPs.

    Args:
        lengths: positions of each GOP.

    Returns:
        Number of the GOP; positions in order.

    >>> places_to_show([5, 30, 12])
    (1, (1, 6, 12))
    >>> places_to_show([1])
    (0, (0,))
    """
    gop = max(range(min(len(lengths), 10)), key=lambda number: lengths[number])
    return gop, positions_to_show(lengths[gop])


def positions_to_show(length: int) -> tuple[int, ...]:
    """Three positions among the first twelve of a GOP, from its second to its last one.

    Args:
        length: how many positions it has.

    Returns:
        Positions in order; fewer where the GOP has fewer.
    """
    last = min(length - 1, _LAST_SHOWN)
    return tuple(sorted({min(1, last), (last + 1) // 2, last}))


@in_any_script()
def streams_picture(samples: Sequence[DrawnStreams], *, title: str, dots_per_inch: int = _DPI) -> Image:
    """Draws one row per sample, one column per stream that any of them has, and a legend.

    Columns: the I-frame; the motion, in colours over the dimmed I-frame, with arrows from where content was to where it is, and
    stripes where it is not valid; where the motion is valid; the I-frame warped by the motion; the residual, mid-grey where it is
    zero; the frame. If motion and residual are accumulated, warped I-frame + residual = frame.

    Args:
        samples: one or more; a colour means the same length in all rows.
        title: a line above the picture, such as the file's name.
        dots_per_inch: the size of the picture.

    Returns:
        uint8 [height, width, 3], RGB.

    Raises:
        ValueError: there is no sample, or none of them has any stream.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    max_pixels = full_colour_pixels(sample.motion for sample in samples if sample.motion is not None)
    rows = [panels(sample, max_pixels=max_pixels) for sample in samples]
    names = [name for name in COLUMNS if any(name in row for row in rows)]
    if not names:
        raise ValueError(f"{len(samples)} samples without any stream (accepted: one or more, with iframe, motion, …)")
    wide, high = panel_inches(next(picture for row in rows for picture in row.values()).shape)
    width = _MARGIN + len(names) * (wide + _GAP)
    height = _HEAD + len(samples) * (high + _GAP) + (_LEGEND if "motion" in names else 0.1)
    figure = Figure(figsize=(width, height), dpi=dots_per_inch, facecolor="white")
    draw_title(figure, title)
    for number, (sample, pictures) in enumerate(zip(samples, rows, strict=True)):
        bottom = height - _HEAD - number * (high + _GAP) - high
        _label_row(figure, sample, y=bottom + high / 2)
        for column, name in enumerate(names):
            axes = add_axes(figure, (_MARGIN + column * (wide + _GAP), bottom, wide, high))
            if name in pictures:
                show_panel(axes, pictures[name], sample)
            else:
                axes.text(0.5, 0.5, "not read", transform=axes.transAxes, ha="center", va="center", color=FAINT)
            if name == "motion" and name in pictures:
                draw_arrows(axes, sample)
            if name == "valid" and sample.valid is not None:
                draw_share(axes, sample)
            if number == 0:
                caption(figure, names, name, left=_MARGIN + column * (wide + _GAP), bottom=bottom + high + 0.08)
    if "motion" in names:
        left = _MARGIN + names.index("motion") * (wide + _GAP)
        draw_legend(figure, max_pixels=max_pixels, left=left, tinted="valid" in names)
    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    picture: Image = np.asarray(canvas.buffer_rgba())[..., :3].copy()
    return picture


def save_picture(picture: Image, path: Path | str) -> Path:
    """Writes a picture as PNG; the file gets its name only when it is complete.

    Args:
        picture: uint8 [H, W, 3], RGB.
        path: of the file; folders on the way are made.

    Returns:
        The path.

    Raises:
        DataError: it cannot be written.
    """
    from matplotlib.image import imsave

    with written_whole(path) as aside:
        imsave(aside, picture, format="png")
    return Path(path)


def add_axes(figure: Figure, box: tuple[float, float, float, float]) -> Axes:
    """Adds axes without lines or ticks.

    Args:
        figure: where to add them.
        box: (left, bottom, width, height) in inches.
    """
    width, height = figure.get_size_inches()
    left, bottom, wide, high = box
    axes: Axes = figure.add_axes((left / width, bottom / height, wide / width, high / height))
    axes.set_axis_off()
    axes.set_anchor("W")  # a panel narrower than its box starts below its caption
    return axes


def write(figure: Figure, x: float, y: float, text: str, **style: Any) -> Any:
    """Writes a line of text, without math mode: names of files may have dollar signs.

    Args:
        figure: where to write.
        x: inches from the left.
        y: inches from the bottom.
        text: the line.
        **style: of matplotlib's Text.

    Returns:
        The text, an artist of matplotlib.
    """
    width, height = figure.get_size_inches()
    line = figure.text(x / width, y / height, text, **style)
    line.set_parse_math(False)
    return line


def draw_title(figure: Figure, title: str) -> None:
    """Writes a line at the top; a line that is too long for the figure is cut."""
    width, height = figure.get_size_inches()
    most = max(int((width - 0.3) / 0.125), 8)
    title = printable(title)
    title = title if len(title) <= most else f"{title[: most - 1]}…"
    write(figure, 0.18, height - 0.3, title, size=14, weight="bold", color=INK, va="center")


def caption(figure: Figure, names: Sequence[str], name: str, *, left: float, bottom: float) -> None:
    """Writes the name of a panel above it; warped I-frame, residual and frame are written as a sum if all three are drawn.

    Args:
        figure: where to write.
        names: of all panels of the row.
        name: of this panel.
        left: inches.
        bottom: inches.
    """
    sign = {"residual": "+ ", "frame": "= "}.get(name, "") if set(_SUM) <= set(names) else ""
    write(figure, left, bottom, sign + COLUMNS[name], size=10.5, color=INK)


def show_panel(axes: Axes, picture: Image, sample: DrawnStreams) -> Any:
    """Draws a panel with axes in pixels of the video.

    Args:
        axes: where to draw.
        picture: uint8 [h, w, 3], RGB, maybe shrunk.
        sample: what it shows.

    Returns:
        The image, an artist of matplotlib.
    """
    arrays = (sample.iframe, sample.motion, sample.residual, sample.frame)
    height, width = next(array.shape[:2] for array in arrays if array is not None)
    extent = (-0.5, width - 0.5, height - 0.5, -0.5)
    return axes.imshow(picture, extent=extent, interpolation="antialiased")


def draw_arrows(axes: Axes, sample: DrawnStreams) -> Any:
    """Draws the motion as arrows of true length, from where the centre of a cell was to where it is.

    Args:
        axes: with the motion's panel.
        sample: with motion.

    Returns:
        The arrows, an artist of matplotlib; None if nothing moved.
    """
    assert sample.motion is not None
    # About 20 arrows across, whatever the size of the picture
    cell = 8 * max(round(max(sample.motion.shape[:2]) / 176), 1)
    centres = (slice(cell // 2, None, cell),) * 2
    known = np.ones(sample.motion.shape[:2], np.bool_) if sample.valid is None else sample.valid
    vectors = sample.motion[centres].astype(np.float64)  # [rows, columns, 2]
    rows, columns = np.nonzero(known[centres] & (np.hypot(vectors[..., 0], vectors[..., 1]) >= cell / 8))
    if not rows.size:
        return None
    return axes.quiver(
        columns * cell + cell // 2,
        rows * cell + cell // 2,
        vectors[rows, columns, 0],
        vectors[rows, columns, 1],
        angles="xy",
        scale_units="xy",
        scale=1,
        pivot="tip",
        color="white",
        edgecolor="#00000099",
        linewidth=0.4,
        width=0.0042,
        headwidth=4,
        headlength=4,
        headaxislength=3.6,
    )


def share_of(sample: DrawnStreams) -> str:
    """The share of pixels with valid motion, in words."""
    assert sample.valid is not None
    return f"{100 * sample.valid.mean():.0f} % valid"


def draw_share(axes: Axes, sample: DrawnStreams) -> None:
    """Writes the share of pixels with valid motion in a corner of a panel."""
    style = {"facecolor": "#ffffffcc", "edgecolor": "none", "pad": 2}
    axes.text(0.02, 0.03, share_of(sample), transform=axes.transAxes, size=8.5, color=INK, bbox=style)


def draw_legend(figure: Figure, *, max_pixels: float, left: float, tinted: bool) -> None:
    """Draws the colour wheel and explains colours, arrows, stripes and tint, at the bottom of the figure.

    Args:
        figure: where to draw.
        max_pixels: the length of motion at full brightness.
        left: inches.
        tinted: whether there is a panel with the tint.
    """
    ramp = np.linspace(-1, 1, 161)
    offsets = np.stack(np.meshgrid(ramp, ramp), axis=-1)
    inside = np.clip((1 - np.hypot(offsets[..., 0], offsets[..., 1])) * 80 + 0.5, 0, 1)
    wheel = np.dstack([flow_colours(offsets, max_pixels=1), np.round(255 * inside).astype(np.uint8)])
    add_axes(figure, (left, 0.15, 0.95, 0.95)).imshow(wheel, interpolation="antialiased")
    swatches = np.full((1 + tinted, 18, 30, 3), 60, np.uint8)
    swatches[0, stripes(np.ones((18, 30), np.bool_))] = STRIPE
    swatches[1:] = INVALID
    for number, swatch in enumerate(swatches):
        add_axes(figure, (left + 1.1 + 0.38 * number, 0.17, 0.3, 0.18)).imshow(swatch, aspect="auto")
    lines = (
        (1.1, 0.92, f"hue: direction of motion; brightness: its length, full at {max_pixels:g} px"),
        (1.1, 0.62, "arrows: from where content was to where it is, in true length"),
        (
            1.1 + 0.38 * len(swatches),
            0.26,
            "not valid: no motion is known, since a block was intra-coded or came from outside the picture",
        ),
    )
    for x, y, text in lines:
        write(figure, left + x, y, text, size=8.5, color=FAINT, va="center")


def _label_row(figure: Figure, sample: DrawnStreams, *, y: float) -> None:
    """Writes GOP and position to the left of a row; `y` is its middle, in inches."""
    x = _MARGIN - 0.1
    write(figure, x, y + 0.1, f"GOP {sample.gop}", size=10, color=FAINT, ha="right", va="center")
    write(figure, x, y - 0.1, f"position {sample.position}", size=10, weight="bold", color=INK, ha="right", va="center")
