"""Streams as a picture that a person reads at a glance."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from videokd.drawing.panels import INVALID, STRIPE, Picture, flow_colours, full_colour_pixels, panels, stripes
from videokd.errors import printable
from videokd.files import written_whole
from videokd.types import Streams

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


INK, FAINT = "#1c2330", "#6b7484"
#: What stands above each panel, in the order in which they are drawn.
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
_GAP, _MARGIN, _HEAD, _LEGEND = 0.12, 1.15, 0.85, 1.25  # inches


def panel_inches(shape: tuple[int, ...], *, most: float = 3.0) -> tuple[float, float]:
    """(width, height) of the box for a picture of shape [h, w, …]: as large as it may be, and no box too narrow for its caption.

    >>> panel_inches((240, 320))
    (3.0, 2.25)
    >>> panel_inches((16, 8208))
    (3.0, 0.45)
    """
    height, width = shape[:2]
    scale = min(most / width, 1.25 * most / height)
    return max(width * scale, 0.8 * most), max(height * scale, 0.45)


#: Fonts that have the letters of most scripts, taken where they are installed.
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
    """Names of files may be in any script: a font that has their letters is taken where there is one, without a warning where not."""
    from matplotlib import font_manager, rc_context

    installed = {font.name for font in font_manager.fontManager.ttflist}
    families = ["DejaVu Sans", *(name for name in _MORE_FONTS if name in installed)]
    with rc_context({"font.family": families}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield


@in_any_script()
def streams_picture(samples: Sequence[Streams], *, title: str) -> Picture:
    """One row per sample, one column per stream that any of them has, and a legend.

    Columns: the I-frame; its motion, coloured over the dimmed I-frame, with arrows from where content was to where it
    is, striped where none is known; where the motion is valid; the I-frame moved by the motion; the residual, mid-grey
    where it is zero; the frame, which is the sum of the two, as both are accumulated.

    Args:
        samples: one or more; the same colours mean the same lengths in all rows.
        title: a line above the picture, such as the file's name.

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
    figure = Figure(figsize=(width, height), dpi=_DPI, facecolor="white")
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
    picture: Picture = np.asarray(canvas.buffer_rgba())[..., :3].copy()
    return picture


def save_picture(picture: Picture, path: Path | str) -> Path:
    """Write a picture as PNG, whole or not at all.

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
    """Axes without lines or ticks at (left, bottom, width, height), in inches."""
    width, height = figure.get_size_inches()
    left, bottom, wide, high = box
    axes: Axes = figure.add_axes((left / width, bottom / height, wide / width, high / height))
    axes.set_axis_off()
    axes.set_anchor("W")  # a picture narrower than its box stands below its caption
    return axes


def write(figure: Figure, x: float, y: float, text: str, **style: Any) -> Any:
    """A line of text at a place in inches; a file's name in it may hold dollar signs."""
    width, height = figure.get_size_inches()
    line = figure.text(x / width, y / height, text, **style)
    line.set_parse_math(False)
    return line


def draw_title(figure: Figure, title: str) -> None:
    """A line at the top; what is too long for the figure is cut."""
    width, height = figure.get_size_inches()
    most = max(int((width - 0.3) / 0.125), 8)
    title = printable(title)
    title = title if len(title) <= most else f"{title[: most - 1]}…"
    write(figure, 0.18, height - 0.3, title, size=14, weight="bold", color=INK, va="center")


def caption(figure: Figure, names: Sequence[str], name: str, *, left: float, bottom: float) -> None:
    """The name of a panel above it; the moved I-frame, the residual and the frame read as a sum where all are there."""
    sign = {"residual": "+ ", "frame": "= "}.get(name, "") if set(_SUM) <= set(names) else ""
    write(figure, left, bottom, sign + COLUMNS[name], size=10.5, color=INK)


def show_panel(axes: Axes, picture: Picture, sample: Streams) -> Any:
    """Draws a panel in the coordinates of the video's pixels."""
    arrays = (sample.iframe, sample.motion, sample.residual, sample.frame)
    height, width = next(array.shape[:2] for array in arrays if array is not None)
    extent = (-0.5, width - 0.5, height - 0.5, -0.5)
    return axes.imshow(picture, extent=extent, interpolation="antialiased")


def draw_arrows(axes: Axes, sample: Streams) -> Any:
    """Arrows in true length from where a cell's centre was to where it is, where it moved; None where nothing did."""
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


def share_of(sample: Streams) -> str:
    """How much of the picture has a valid chain, in words."""
    assert sample.valid is not None
    return f"{100 * sample.valid.mean():.0f} % valid"


def draw_share(axes: Axes, sample: Streams) -> None:
    """The share of valid pixels, in a corner of a panel."""
    style = {"facecolor": "#ffffffcc", "edgecolor": "none", "pad": 2}
    axes.text(0.02, 0.03, share_of(sample), transform=axes.transAxes, size=8.5, color=INK, bbox=style)


def draw_legend(figure: Figure, *, max_pixels: float, left: float, tinted: bool) -> None:
    """The colour wheel, what its edge means, and what stripes (and tint) mean, at the bottom; `left` in inches."""
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
        (1.1, 0.62, "arrows: from where content was to where it is, true length"),
        (
            1.1 + 0.38 * len(swatches),
            0.26,
            "not valid: no motion is known, since a block was coded anew or came from beyond the picture",
        ),
    )
    for x, y, text in lines:
        write(figure, left + x, y, text, size=8.5, color=FAINT, va="center")


def _label_row(figure: Figure, sample: Streams, *, y: float) -> None:
    x = _MARGIN - 0.1
    write(figure, x, y + 0.1, f"GOP {sample.gop}", size=10, color=FAINT, ha="right", va="center")
    write(figure, x, y - 0.1, f"position {sample.position}", size=10, weight="bold", color=INK, ha="right", va="center")
