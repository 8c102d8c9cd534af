"""Streams as a picture that a person reads at a glance."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from videokd.files import written_whole
from videokd.types import Streams

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Picture = npt.NDArray[np.uint8]

_INK, _FAINT, _STRIPE = "#1c2330", "#6b7484", (255, 255, 255)
_COLUMNS = {
    "iframe": "I-frame",
    "motion": "motion since the I-frame",
    "residual": "residual",
    "warped": "I-frame moved by the motion",
    "frame": "the frame itself",
}
_PANEL_INCHES, _MARGIN_INCHES, _DPI = 3.3, 1.15, 110
_CELL = 16  # pixels between arrows: the side of a macroblock


def warp(iframe: Picture, motion: npt.NDArray[np.int16]) -> Picture:
    """The I-frame with its content moved: pixel p shows the I-frame's pixel p − motion(p).

    With accumulated motion and residual, warp(iframe, motion) + residual is the frame (Wu et al. 2018, section 3.1).

    Args:
        iframe: uint8 [H, W, 3].
        motion: int16 [H, W, 2], (x, y) in pixels, accumulated; p − motion(p) lies inside the picture.

    Returns:
        uint8 [H, W, 3].

    Raises:
        ValueError: the shapes do not fit, or a source lies outside the picture.

    >>> row = np.arange(4, dtype=np.uint8)[None, :, None].repeat(3, axis=2)
    >>> right = np.zeros((1, 4, 2), np.int16)
    >>> right[0, 1:, 0] = 1
    >>> warp(row, right)[0, :, 0].tolist()
    [0, 0, 1, 2]
    """
    height, width = iframe.shape[:2]
    if motion.shape != (height, width, 2):
        raise ValueError(f"motion is {list(motion.shape)} (accepted: {[height, width, 2]}, as the I-frame)")
    rows, columns = np.ogrid[:height, :width]
    x, y = columns - motion[..., 0], rows - motion[..., 1]
    if x.min() < 0 or y.min() < 0 or x.max() >= width or y.max() >= height:
        raise ValueError(
            "motion points outside the picture (accepted: every source inside it, as the codec's streams have)"
        )
    moved: Picture = iframe[y, x]
    return moved


def flow_colours(motion: npt.NDArray[Any], *, max_pixels: float) -> Picture:
    """Motion as colour: the hue is its direction (red right, yellow-green down), the brightness the root of its length.

    The root lets small motion be seen beside large; the wheel in the legend of `streams_picture` shows the same law.

    Args:
        motion: [H, W, 2], (x, y) in pixels, any integer or float dtype; no motion is black.
        max_pixels: the length, > 0, at which colours are full; longer vectors look the same.

    Returns:
        uint8 [H, W, 3], RGB.

    Raises:
        ValueError: max_pixels is not positive.

    >>> flow_colours(np.array([[[4, 0], [0, 0], [-2, 0]]]), max_pixels=4)[0].tolist()
    [[255, 0, 0], [0, 0, 0], [0, 180, 180]]
    """
    from matplotlib.colors import hsv_to_rgb

    if not max_pixels > 0:
        raise ValueError(f"max_pixels is {max_pixels} (accepted: a positive length)")
    x, y = motion[..., 0].astype(np.float64), motion[..., 1].astype(np.float64)
    hue = np.arctan2(y, x) / (2 * np.pi) % 1
    value = np.sqrt(np.clip(np.hypot(x, y) / max_pixels, 0, 1))
    return np.round(255 * hsv_to_rgb(np.stack([hue, np.ones_like(hue), value], axis=-1))).astype(np.uint8)


def streams_picture(samples: Sequence[Streams], *, title: str) -> Picture:
    """One row per sample, one column per stream that any of them has, and a legend.

    Columns: the I-frame; its motion, coloured over the dimmed I-frame, with arrows from where content was to where it
    is, white stripes where none is known; the residual, mid-grey where it is zero; the I-frame moved by the motion; the
    frame. The moved I-frame plus the residual gives the frame, as both are accumulated.

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

    panels = [_panels(sample) for sample in samples]
    columns = [name for name in _COLUMNS if any(name in row for row in panels)]
    if not columns:
        raise ValueError(f"{len(samples)} samples without any stream (accepted: one or more, with iframe, motion, …)")
    max_pixels = _full_colour_pixels(samples)
    shape = next(iter(panels[0].values())).shape if panels[0] else (3, 4)
    panel_height = _PANEL_INCHES * shape[0] / shape[1]
    width = _MARGIN_INCHES + len(columns) * (_PANEL_INCHES + 0.1)
    head, foot = 0.85, 1.25 if "motion" in columns else 0.15
    height = head + len(samples) * (panel_height + 0.1) + foot
    figure = Figure(figsize=(width, height), dpi=_DPI, facecolor="white")
    heading = figure.text(0.18 / width, 1 - 0.3 / height, title, size=15, weight="bold", color=_INK, va="center")
    heading.set_parse_math(False)  # a file's name may hold dollar signs
    for row, (sample, pictures) in enumerate(zip(samples, panels, strict=True)):
        bottom = height - head - (row + 1) * (panel_height + 0.1)
        _label_row(
            figure, sample, x=(_MARGIN_INCHES - 0.1) / width, y=(bottom + panel_height / 2) / height, line=0.1 / height
        )
        for column, name in enumerate(columns):
            left = _MARGIN_INCHES + column * (_PANEL_INCHES + 0.1)
            box = (left / width, bottom / height, _PANEL_INCHES / width, panel_height / height)
            axes = figure.add_axes(box)
            _draw_panel(axes, name, sample, pictures.get(name), max_pixels=max_pixels)
            if row == 0:
                axes.set_title(_COLUMNS[name], size=11, color=_INK, loc="left", pad=6)
    if "motion" in columns:
        _draw_legend(
            figure, max_pixels=max_pixels, left=_MARGIN_INCHES + columns.index("motion") * (_PANEL_INCHES + 0.1)
        )
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


def _panels(sample: Streams) -> dict[str, Picture]:
    """What each column shows of one sample, the motion still without its colours."""
    panels: dict[str, Picture] = {}
    if sample.iframe is not None:
        panels["iframe"] = sample.iframe
    if sample.motion is not None:
        panels["motion"] = _dimmed(sample)
    if sample.residual is not None:
        panels["residual"] = np.clip(sample.residual + 128, 0, 255).astype(np.uint8)
    if sample.iframe is not None and sample.motion is not None:
        panels["warped"] = warp(sample.iframe, sample.motion)
    if sample.frame is not None:
        panels["frame"] = sample.frame
    return panels


def _dimmed(sample: Streams) -> Picture:
    """The I-frame in dark grey, the ground for the motion's colours; plain dark grey where there is none."""
    if sample.iframe is None:
        assert sample.motion is not None
        return np.full((*sample.motion.shape[:2], 3), 40, np.uint8)
    grey = sample.iframe @ np.array([0.299, 0.587, 0.114])  # luma of BT.601
    return np.repeat((0.45 * grey)[..., None], 3, axis=2).astype(np.uint8)


def _full_colour_pixels(samples: Sequence[Streams]) -> float:
    """A round length that 98 of 100 moving pixels stay below."""
    vectors = [sample.motion.astype(np.float64) for sample in samples if sample.motion is not None]
    lengths = np.concatenate([np.hypot(xy[..., 0], xy[..., 1]).ravel() for xy in vectors] or [np.empty(0)])
    moving = lengths[lengths > 0]
    longest = float(np.percentile(moving, 98)) if moving.size else 0.0
    return next((step for step in (2, 4, 6, 8, 12, 16, 20, 32, 48, 64) if step >= longest), np.ceil(longest))


def _label_row(figure: Figure, sample: Streams, *, x: float, y: float, line: float) -> None:
    figure.text(x, y + line, f"GOP {sample.gop}", size=10, color=_FAINT, ha="right", va="center")
    figure.text(x, y - line, f"position {sample.position}", size=10, weight="bold", color=_INK, ha="right", va="center")


def _draw_panel(axes: Axes, name: str, sample: Streams, picture: Picture | None, *, max_pixels: float) -> None:
    axes.set_axis_off()
    if picture is None:
        axes.text(0.5, 0.5, "not read", transform=axes.transAxes, ha="center", va="center", color=_FAINT)
        return
    if name != "motion" or sample.motion is None:
        axes.imshow(picture, interpolation="antialiased")
        return
    colours = flow_colours(sample.motion, max_pixels=max_pixels)
    strength = colours.max(axis=2, keepdims=True) / 255
    blended = (1 - strength) * picture + colours
    if sample.valid is not None:
        blended = np.where(_stripes(~sample.valid)[..., None], 0.35 * blended + 0.65 * np.array(_STRIPE), blended)
    axes.imshow(np.clip(blended, 0, 255).astype(np.uint8), interpolation="antialiased")
    _draw_arrows(axes, sample)


def _stripes(where: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Diagonal stripes, 2 pixels in 6, inside the region."""
    rows, columns = np.ogrid[: where.shape[0], : where.shape[1]]
    stripes: npt.NDArray[np.bool_] = where & ((rows + columns) % 6 < 2)
    return stripes


def _draw_arrows(axes: Axes, sample: Streams) -> None:
    """An arrow in true length from where a cell's centre was to where it is, where it moved at least 2 pixels."""
    assert sample.motion is not None
    centres = (slice(_CELL // 2, None, _CELL),) * 2
    known = np.ones(sample.motion.shape[:2], np.bool_) if sample.valid is None else sample.valid
    vectors = sample.motion[centres].astype(np.float64)  # [rows, columns, 2]
    rows, columns = np.nonzero(known[centres] & (np.hypot(vectors[..., 0], vectors[..., 1]) >= 2))
    if not rows.size:
        return
    axes.quiver(
        columns * _CELL + _CELL // 2,
        rows * _CELL + _CELL // 2,
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


def _draw_legend(figure: Figure, *, max_pixels: float, left: float) -> None:
    """The colour wheel, what its edge means, and what the stripes mean, below the motion's column."""
    width, height = figure.get_size_inches()
    ramp = np.linspace(-1, 1, 161)
    offsets = np.stack(np.meshgrid(ramp, ramp), axis=-1)
    inside = np.clip((1 - np.hypot(offsets[..., 0], offsets[..., 1])) * 80 + 0.5, 0, 1)
    wheel = np.dstack([flow_colours(offsets, max_pixels=1), np.round(255 * inside).astype(np.uint8)])
    axes = figure.add_axes((left / width, 0.15 / height, 0.95 / width, 0.95 / height))
    axes.imshow(wheel, interpolation="antialiased")
    axes.set_axis_off()
    key = figure.add_axes(((left + 1.1) / width, 0.17 / height, 0.3 / width, 0.18 / height))
    swatch = np.full((18, 30, 3), 60, np.uint8)
    swatch[_stripes(np.ones(swatch.shape[:2], np.bool_))] = _STRIPE
    key.imshow(swatch, aspect="auto")
    key.set_axis_off()
    lines = (
        (1.1, 0.92, f"hue: direction; brightness: length, full at {max_pixels:g} px"),
        (1.1, 0.62, "arrows: from where it was to where it is, true length"),
        (1.48, 0.26, "no motion known: intra block, or beyond the picture"),
    )
    for x, y, text in lines:
        figure.text((left + x) / width, y / height, text, size=8.5, color=_FAINT, va="center")
