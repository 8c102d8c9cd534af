"""A picture of the distributions of an archive's columns."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from videokd.description.clip import ClipDescription
from videokd.errors import ConfigError
from videokd.files import written_whole

_SUFFIXES = (".svg", ".png")
#: {column: (title with unit, whether its axis is logarithmic)}
_PANELS = {
    "seconds": ("length, seconds", True),
    "motion": ("motion, mean: heights a second", True),
    "motion_p95": ("motion, 95th percentile: heights a second", True),
    "still": ("still: share of the picture", False),
    "intra": ("intra: share of the picture", True),
    "camera": ("camera: heights a second", True),
    "shake": ("shake: heights a second", True),
    "cuts": ("cuts", False),
    "frame_rate": ("frames a second", False),
}
_COLUMNS, _BINS = 3, 40
_SMALLEST = 1e-3  # on logarithmic axes; smaller values are in the first bin
_FEW = 30  # from the smallest to the largest value; with more, 2 and 5 have no room between powers of ten
_INK, _BAR = "#333333", "#2f6fed"


def check_picture_name(path: Path) -> None:
    """Checks the ending of a picture's name.

    Raises:
        ConfigError: it is neither .svg nor .png.
    """
    if path.suffix.lower() not in _SUFFIXES:
        raise ConfigError(f"{path} (accepted: a name that ends with {' or '.join(_SUFFIXES)}). Choose another name.")


def write_distributions(descriptions: Sequence[ClipDescription], path: Path) -> None:
    """Draws a histogram of each column of numbers, with its median.

    Args:
        descriptions: of the clips.
        path: the picture, .svg or .png.

    Raises:
        ConfigError: the name has another ending.
        DataError: it cannot be written.
    """
    check_picture_name(path)
    from matplotlib.figure import Figure

    num_rows = -(-len(_PANELS) // _COLUMNS)
    figure = Figure(figsize=(4 * _COLUMNS, 2.6 * num_rows), layout="constrained")
    figure.suptitle(f"{len(descriptions)} clips", color=_INK)
    for axes, name in zip(figure.subplots(num_rows, _COLUMNS).flat, _PANELS, strict=True):
        title, logarithmic = _PANELS[name]
        values = [value for description in descriptions if (value := getattr(description, name)) is not None]
        unknown = len(descriptions) - len(values)
        axes.set_title(title + (f" ({unknown} unknown)" if unknown else ""), fontsize=9, color=_INK)
        _draw(axes, np.array(values, np.float64), logarithmic)
    with written_whole(path) as aside:
        figure.savefig(aside, format=path.suffix.lower()[1:], dpi=110)


def _draw(axes: Any, values: Any, logarithmic: bool) -> None:
    axes.tick_params(labelsize=8, colors=_INK)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    if not len(values):
        return
    median = float(np.median(values))
    if logarithmic:
        values = values.clip(min=_SMALLEST)
        edges = np.geomspace(values.min(), max(values.max(), 10 * values.min()), _BINS + 1)
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}" if value > _SMALLEST else f"≤ {_SMALLEST:g}")
        axes.xaxis.set_minor_formatter(lambda value, _: f"{value:g}" if edges[-1] < _FEW * edges[0] else "")
        axes.xaxis.get_minor_locator().set_params(subs=(2, 5))
        axes.tick_params(which="minor", labelsize=7, labelcolor=_INK)
    elif (values == values.round()).all() and values.max() - values.min() < _BINS:
        edges = np.arange(values.min() - 0.5, values.max() + 1.5)
        axes.xaxis.get_major_locator().set_params(integer=True)
    else:
        edges = np.linspace(values.min(), max(values.max(), values.min() + 1e-6), _BINS + 1)
    axes.hist(values, edges, color=_BAR)
    axes.axvline(max(median, edges[0]), color=_INK, linewidth=1, linestyle="--")
    axes.set_title(f"{axes.get_title()}; median {median:.3g}", fontsize=9, color=_INK)
