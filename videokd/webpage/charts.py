"""Answers over time, and the frames of a clip by type, as SVG inside the page."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from videokd.codec.index import VideoIndex
from videokd.errors import in_html
from videokd.prediction.windows import WindowedPrediction

#: Colours of labels, in the order of their rank; they can be told apart by most people (Okabe and Ito 2008).
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#8c6d31", "#a0306e")
#: The colour of all other labels.
OTHER = "#7f7f7f"
_FRAME_COLOURS = {"I": "#1c2330", "P": "#5b8fd6", "B": "#b9c4d6", "S": "#5b8fd6"}
_FRAME_HEIGHTS = {"I": 100, "P": 65, "S": 65, "B": 35}  # of the strip's height, in percent
_MOST_FRAMES = 250
_TICKS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600)


def timeline(found: WindowedPrediction, colours: Mapping[str, str], *, most_labels: int = 5) -> str:
    """A row for each of the leading labels, a bar for each window: as high as the label is probable, strong where it leads.

    Args:
        found: what a set of students says.
        colours: {label: colour} of the labels that have one.
        most_labels: how many rows.

    Returns:
        HTML with SVG.
    """
    rows = "".join(
        f'<span class="name">{in_html(found.class_names[label])}</span>{_bars(found, label, colours)}'
        for label in leading_labels(found, most=most_labels)
    )
    return f'<div class="timeline">{rows}<span></span><div class="axis">{_ticks(found.spans[-1][1])}</div></div>'


def _bars(found: WindowedPrediction, label: int, colours: Mapping[str, str]) -> str:
    """The row of one label. A window's bar stands in its middle, and reaches halfway to the bars beside it."""
    duration = found.spans[-1][1]
    middles = [(start + end) / 2 for start, end in found.spans]
    edges = [0.0, *((first + second) / 2 for first, second in itertools.pairwise(middles)), duration]
    name = in_html(found.class_names[label])
    colour = colours.get(found.class_names[label], OTHER)
    bars = []
    for (start, end), left, right, probabilities in zip(
        found.spans, edges, edges[1:], found.probabilities, strict=False
    ):
        x, width = 100 * left / duration, 100 * (right - left) / duration
        height = max(100 * float(probabilities[label]), 1.0)
        bars.append(
            f'<rect x="{x:.2f}%" y="{100 - height:.1f}%" width="{width:.2f}%" height="{height:.1f}%" fill="{colour}" '
            f'opacity="{1 if probabilities.argmax() == label else 0.4}">'
            f"<title>{start:.1f} to {end:.1f} s: {name} {100 * probabilities[label]:.0f} %</title></rect>"
        )
    return f'<svg role="img" aria-label="{name} over time">{"".join(bars)}</svg>'


def leading_labels(found: WindowedPrediction, *, most: int) -> list[int]:
    """Numbers of the labels worth a row: those that lead in the whole clip or in some window, by how much they lead.

    Args:
        found: what a set of students says.
        most: how many.
    """
    everything = np.vstack([found.whole, found.probabilities])
    weight = everything.max(axis=0) + found.whole
    return [int(number) for number in np.argsort(-weight, kind="stable")[:most]]


def frame_strip(index: VideoIndex) -> str:
    """The frames of a clip in the order in which they are shown: I-frames high, P-frames lower, B-frames lowest.

    Args:
        index: of the clip; of a long one the first 250 frames are drawn.

    Returns:
        SVG.
    """
    shown = sorted((number, index.types[packet].upper()) for packet, number in index.frame_numbers.items())
    kinds = [kind for _, kind in shown][:_MOST_FRAMES]
    step = 100 / max(len(kinds), 50)
    bars = "".join(
        f'<rect x="{number * step:.2f}%" y="{100 - _FRAME_HEIGHTS[kind]}%" width="{step * 0.8:.2f}%" height="{_FRAME_HEIGHTS[kind]}%" '
        f'fill="{_FRAME_COLOURS[kind]}"/>'
        for number, kind in enumerate(kinds)
    )
    return f'<svg class="strip" role="img" aria-label="frame types in the order of display">{bars}</svg>'


def legend_colours(predictions: Sequence[WindowedPrediction]) -> dict[str, str]:
    """{label: colour}: the same label has the same colour in all sets.

    Args:
        predictions: of each set.
    """
    names: dict[str, None] = {}
    for rank in range(len(COLOURS)):
        for found in predictions:
            labels = leading_labels(found, most=rank + 1)
            names |= {found.class_names[labels[-1]]: None}
    return dict(zip(names, COLOURS, strict=False))


def _ticks(duration: float) -> str:
    """Times in seconds, along the width."""
    step = next((step for step in _TICKS if duration / step <= 8), duration)
    ticks = []
    for number in range(int(duration / step + 1e-6) + 1):
        share = 100 * number * step / duration
        place = f"right:{100 - share:.1f}%" if share > 93 else f"left:{share:.1f}%"
        ticks.append(f'<span style="{place}">{number * step:g}{"" if number else " s"}</span>')
    return "".join(ticks)
