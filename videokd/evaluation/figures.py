"""The report's figures, as SVG that takes its colours and fonts from the page around it."""

from __future__ import annotations

import io
import re
import unicodedata
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from videokd.drawing.picture import in_any_script
from videokd.errors import printable
from videokd.evaluation.metrics import Bin
from videokd.evaluation.results import EarlyExitPoint

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Stand-ins that `_svg` replaces by the page's own colours, so that one drawing serves light and dark.
_INK, _FAINT, _LINE, _PAPER = "#010203", "#040506", "#070809", "#0a0b0c"
_VARIABLES = {_INK: "--ink", _FAINT: "--faint", _LINE: "--line", _PAPER: "--paper"}
_ACCENT = "#2f6fed"
_CYCLE = ("#2f6fed", "#e07a1f", "#2a9d72", "#b14fc5", "#d64550", "#7a8699", "#0f9fb8", "#a88b12")
_ROLES = {
    "teacher": ("o", "#e07a1f"),
    "fused teachers": ("D", "#e07a1f"),
    "student": ("o", "#2f6fed"),
    "students fused": ("D", "#2f6fed"),
    "exit": ("v", "#2f6fed"),
    "exits together": ("^", "#2f6fed"),
}
_OTHER_ROLE = ("s", "#7a8699")
_COUNTS_UP_TO = 12  # classes: with more, the counts of a confusion matrix are too small to be read


@dataclass(frozen=True)
class Point:
    """One model in the plane of cost and accuracy; accuracies in percent.

    Args:
        name: written beside the point.
        role: sets its marker and colour.
        cost: > 0, in any unit.
        accuracy: top-1.
        low: lower end of its interval.
        high: upper end.
    """

    name: str
    role: str
    cost: float
    accuracy: float
    low: float
    high: float


def pareto_front(points: Sequence[Point]) -> list[Point]:
    """The points that no other beats in accuracy at the same or a lower cost, cheapest first.

    >>> points = [Point("a", "", 1, 80, 0, 0), Point("b", "", 2, 79, 0, 0), Point("c", "", 3, 90, 0, 0)]
    >>> [point.name for point in pareto_front(points)]
    ['a', 'c']
    """
    front: list[Point] = []
    for point in sorted(points, key=lambda point: (point.cost, -point.accuracy)):
        if not front or point.accuracy > front[-1].accuracy:
            front.append(point)
    return front


def cost_figure(points: Sequence[Point], *, cost: str) -> str:
    """Top-1 over cost on a logarithmic axis, intervals as bars, the Pareto front as a line.

    Args:
        points: one or more.
        cost: the horizontal axis' label.

    Returns:
        An <svg> element.
    """
    figure, axes = _figure(width=6.4, height=4.2)
    front = pareto_front(points)
    best, steps = [point.accuracy for point in front], [point.cost for point in front]
    axes.plot(steps, best, drawstyle="steps-post", color=_FAINT, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    for point in points:
        marker, colour = _ROLES.get(point.role, _OTHER_ROLE)
        axes.plot([point.cost] * 2, [point.low, point.high], color=colour, linewidth=1.4, alpha=0.45, zorder=2)
        axes.plot(point.cost, point.accuracy, marker, color=colour, markersize=7, markeredgecolor=_PAPER, zorder=3)
    axes.set_xscale("log")
    lowest, highest = min(point.cost for point in points), max(point.cost for point in points)
    axes.set_xlim(lowest / 1.6, highest * 2.2)
    axes.xaxis.set_major_locator(_ticks(lowest / 1.6, highest * 2.2))
    axes.xaxis.set_major_formatter(lambda value, _: short_number(value))
    axes.xaxis.set_minor_formatter(lambda value, _: "")
    axes.set_xlabel(cost)
    axes.set_ylabel("top-1 accuracy, %")
    _label_points(axes, points)
    return _svg(figure, label=f"Top-1 accuracy over {cost}")


def curves_figure(curves: Mapping[str, Sequence[tuple[float, float]]], *, across: str, up: str) -> str:
    """Lines over training.

    Args:
        curves: {name: (x, y) pairs}, one or more.
        across: the horizontal axis' label.
        up: the vertical axis' label.

    Returns:
        An <svg> element.
    """
    from matplotlib.ticker import MaxNLocator

    figure, axes = _figure(width=5.6, height=3.2)
    for number, (name, pairs) in enumerate(curves.items()):
        x, y = zip(*pairs, strict=True)
        colour = _CYCLE[number % len(_CYCLE)]
        axes.plot(x, y, color=colour, linewidth=1.8, marker="o" if len(x) < 3 else None, markersize=5, label=name)
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if len(curves) > 1:
        axes.legend(frameon=False, fontsize=9, labelcolor=_INK)
    return _svg(figure, label=f"{up} over {across}")


def early_exit_figure(curves: Mapping[str, Sequence[EarlyExitPoint]], exits: Mapping[str, Sequence[Point]]) -> str:
    """Top-1 over the mean MACs of a video as the threshold changes, and that of each exit by itself.

    Args:
        curves: {student: points of results.json's `early_exit`}, one or more.
        exits: {student: its exits, cheapest first}; students may be missing.

    Returns:
        An <svg> element.
    """
    from matplotlib.ticker import MaxNLocator

    figure, axes = _figure(width=6.4, height=4.0)
    for number, (name, points) in enumerate(curves.items()):
        colour = _CYCLE[number % len(_CYCLE)]
        line = sorted(points, key=lambda point: point.macs_per_video)
        x, tops = [point.macs_per_video for point in line], [point.top1 for point in line]
        low, high = [100 * top.low for top in tops], [100 * top.high for top in tops]
        axes.fill_between(x, low, high, color=colour, alpha=0.10, linewidth=0)
        axes.plot(x, [100 * top.value for top in tops], "o-", color=colour, linewidth=1.8, markersize=4.5, label=name)
        own = exits.get(name, ())
        places = [point.cost for point in own], [point.accuracy for point in own]
        axes.plot(*places, "D", color=colour, markersize=6, markerfacecolor="none", linestyle="none")
    axes.set_xlabel("MACs per video, mean")
    axes.set_ylabel("top-1 accuracy, %")
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.xaxis.set_major_formatter(lambda value, _: short_number(value))
    if len(curves) > 1:
        axes.legend(frameon=False, fontsize=9, labelcolor=_INK, loc="lower right")
    return _svg(figure, label="Top-1 accuracy over the mean MACs of a video, by threshold of early exit")


def reliability_figure(bins: Sequence[Bin], *, title: str) -> str:
    """Accuracy over confidence; the line of a calibrated model; how many videos there are, as faint bars.

    Args:
        bins: one or more, in order.
        title: what it is of, for those who cannot see it.

    Returns:
        An <svg> element.
    """
    figure, axes = _figure(width=3.1, height=2.9)
    most = max(bin.videos for bin in bins)
    for bin in bins:
        width = 100 * (bin.high - bin.low)
        axes.bar(100 * bin.low, 22 * bin.videos / most, width, align="edge", color=_FAINT, alpha=0.22, linewidth=0)
    axes.plot([0, 100], [0, 100], color=_FAINT, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    confidence, accuracy = [100 * bin.confidence for bin in bins], [100 * bin.accuracy for bin in bins]
    axes.vlines(confidence, confidence, accuracy, color=_ACCENT, linewidth=1.6, alpha=0.35, zorder=2)
    axes.plot(confidence, accuracy, "o-", color=_ACCENT, linewidth=1.4, markersize=4.5, zorder=3)
    axes.set(xlim=(0, 101), ylim=(0, 102), xlabel="confidence, %", ylabel="accuracy, %")
    axes.set_xticks(range(0, 101, 25))
    axes.set_yticks(range(0, 101, 25))
    return _svg(figure, label=f"Reliability of {title}: accuracy over confidence")


def confusion_figure(confusion: Sequence[Sequence[int]], class_names: Sequence[str], *, title: str) -> str:
    """A confusion matrix, each row shaded by its share of the row's videos; counts are written where there is room.

    Args:
        confusion: K rows (label) of K counts (prediction).
        class_names: K names.
        title: what it is of, for those who cannot see it.

    Returns:
        An <svg> element.
    """
    figure = _draw_confusion(confusion, class_names)
    return _svg(figure, label=f"Confusion matrix of {title}: labels down, predictions across")


@in_any_script()
def confusion_png(confusion: Sequence[Sequence[int]], class_names: Sequence[str]) -> bytes:
    """The same confusion matrix as a PNG file, on white.

    Args:
        confusion: K rows (label) of K counts (prediction).
        class_names: K names.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure = _draw_confusion(confusion, [printable(name) for name in class_names])
    figure.set_facecolor("white")
    figure.set_dpi(150)
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)  # type: ignore[no-untyped-call]
    return buffer.getvalue()


def _draw_confusion(confusion: Sequence[Sequence[int]], class_names: Sequence[str]) -> Figure:
    """The matrix, in colours that `_svg` replaces by the page's."""
    counts = np.asarray(confusion, dtype=np.float64)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)  # [K, K]
    num_classes = len(class_names)
    few = num_classes <= _COUNTS_UP_TO
    side = num_classes * (0.42 if few else 0.15)
    margin = 0.3 + 0.085 * max(map(_columns, class_names)) * (1 if few else 0.95)
    figure, axes = _figure(width=side + margin, height=side + margin)
    red, green, blue = (int(_ACCENT[start : start + 2], 16) / 255 for start in (1, 3, 5))
    shade = np.stack(np.broadcast_arrays(red, green, blue, shares**0.7), axis=-1)
    axes.imshow(shade, interpolation="nearest")
    size = 9 if few else 8.5
    axes.set_xticks(range(num_classes), class_names, rotation=90, size=size, parse_math=False)
    axes.set_yticks(range(num_classes), class_names, size=size, parse_math=False)
    axes.tick_params(length=0, pad=3)
    axes.grid(visible=False)
    for spine in axes.spines.values():
        spine.set_visible(True)
    if few:
        for row, column in zip(*np.nonzero(counts), strict=True):
            colour = "#ffffff" if shares[row, column] > 0.45 else _INK
            axes.text(column, row, f"{counts[row, column]:g}", ha="center", va="center", size=9, color=colour)
    return figure


@contextmanager
def without_glyph_warnings() -> Iterator[None]:
    """Ignores what Matplotlib's own font lacks: text stays text in the SVG, and the browser has the fonts."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield


def _columns(text: str) -> int:
    """How wide a text is, in Latin letters: Chinese, Japanese and Korean ones are twice as wide."""
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)


def short_number(value: float) -> str:
    """A count in three figures with k, M or G.

    >>> [short_number(value) for value in (950, 11_176_512, 1.2e9)]
    ['950', '11.2 M', '1.2 G']
    """
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= 0.9995 * size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.3g}"


def _figure(*, width: float, height: float) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), facecolor="none", layout="constrained")
    axes = figure.add_subplot(facecolor="none")
    axes.spines[["top", "right"]].set_visible(False)
    for spine in axes.spines.values():
        spine.set_color(_LINE)
    axes.tick_params(which="both", colors=_FAINT, labelsize=9, color=_LINE)
    axes.grid(color=_LINE, linewidth=0.7)
    axes.set_axisbelow(True)
    for axis in (axes.xaxis, axes.yaxis):
        axis.label.set(color=_FAINT, size=9.5)
    return figure, axes


def _svg(figure: Figure, *, label: str) -> str:
    """The figure as an element to stand inside a page: text stays text, and nothing in it names another address."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    buffer = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": label}), without_glyph_warnings():
        FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None})  # type: ignore[no-untyped-call]
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", svg)
    svg = re.sub(r"font(?:-family)?: [^;\"<]*;? ?", lambda found: _plain_font(found.group()), svg)
    for stand_in, variable in _VARIABLES.items():
        svg = svg.replace(stand_in, f"var({variable})")
    return svg.replace("<svg", f'<svg role="img" aria-label="{_escape(label)}"', 1).strip()


def _plain_font(style: str) -> str:
    """Only the size of a font: its family is the page's."""
    size = re.search(r"[\d.]+px", style)
    return f"font-size: {size.group()}; " if size else ""


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")


def _ticks(low: float, high: float) -> Any:
    from matplotlib.ticker import FixedLocator

    decades = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    steps = (1,) if high / low > 300 else (1, 3) if high / low > 20 else (1, 2, 5)
    return FixedLocator([step * 10.0**decade for decade in decades for step in steps])


def _label_points(axes: Axes, points: Sequence[Point]) -> None:
    """Names beside the points, each at the first place where it covers no point, interval or other name.

    A name that finds no such place is omitted, unless the point is on the Pareto front: those come first, and are always named.
    """
    with without_glyph_warnings():
        axes.figure.draw_without_rendering()  # type: ignore[union-attr]
    places = {point: axes.transData.transform((point.cost, point.accuracy)) for point in points}
    taken = []
    for point, (x, y) in places.items():
        (_, low), (_, high) = axes.transData.transform([(point.cost, point.low), (point.cost, point.high)])
        taken += [(x - 6, y - 6, x + 6, y + 6), (x - 2, low, x + 2, high)]
    points_a_pixel = 72 / axes.figure.dpi
    front = pareto_front(points)
    left, right = axes.transAxes.transform([(0, 0), (1, 0)])[:, 0]
    for point in sorted(points, key=lambda point: point not in front):
        x, y = places[point]
        width, height = 6.6 * _columns(point.name), 13
        candidates = [(dx, dy) for dy in (4, -17, 18, -30, 32, -44) for dx in (9, -9 - width)]
        boxes = [(x + dx, y + dy, x + dx + width, y + dy + height) for dx, dy in candidates]
        inside = [box for box in boxes if left <= box[0] and box[2] <= right + 20]
        free = [box for box in inside if not any(_overlap(box, other) for other in taken)]
        if not free and point not in front:
            continue
        box = [*free, *inside, *boxes][0]
        taken.append(box)
        offset = ((box[0] - x) * points_a_pixel, (box[1] - y + 3) * points_a_pixel)
        place = (point.cost, point.accuracy)
        label = axes.annotate(point.name, place, xytext=offset, textcoords="offset points", size=9, color=_INK)
        label.set_parse_math(False)


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
