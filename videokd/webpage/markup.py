"""What the page shows, as HTML: no scripts, nothing from elsewhere, every name escaped."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from videokd.codec.container import MOTION_CODECS
from videokd.codec.index import VideoIndex
from videokd.errors import in_html
from videokd.prediction.prediction import ranked
from videokd.prediction.predictor import Predictor
from videokd.prediction.windows import WindowedPrediction
from videokd.webpage.answers import ClipAnswer, PageLimits
from videokd.webpage.charts import OTHER, frame_strip, legend_colours, timeline
from videokd.webpage.film_strip import StreamsFilm

_CAPTIONS = {
    "frame": ("the picture", "decoded"),
    "motion": ("motion", "how content has moved since the last I-frame"),
    "residual": ("residual", "what motion does not explain; grey is zero"),
}
_ROUTES = {
    "as it is": "read as it is",
    "cut GOPs": "read with its long GOPs cut to the length of training",
    "transcoded": "transcoded first: its form differs from that of the training clips",
}
_MOST_WHOLE = 5


def style() -> str:
    """The page's style sheet."""
    return Path(__file__).with_name("page.css").read_text(encoding="utf-8")


def heading(sets: Mapping[str, Predictor], limits: PageLimits) -> str:
    """What the page is for, and who answers.

    Args:
        sets: {name: students}.
        limits: what is accepted.
    """
    lines = []
    for name, predictor in sets.items():
        wanted = predictor.wanted
        lines.append(
            f"<li><b>{in_html(name)}</b>: {len(wanted.class_names)} classes, sees {', '.join(wanted.streams)}</li>"
        )
    return (
        '<div class="vkd"><h1>Which action does this clip show?</h1><p>The students look at what the video codec has stored: '
        "whole pictures (I-frames), motion vectors, and residuals. "
        f"A clip may have up to {limits.most_megabytes:g} MB and {limits.most_seconds:g} seconds; it is deleted once it is answered.</p>"
        f'<ul class="sets">{"".join(lines)}</ul></div>'
    )


def problem(text: str) -> str:
    """A message in one line.

    Args:
        text: what is wrong, what is accepted and what to do.
    """
    return f'<div class="vkd"><p class="problem" role="alert">{in_html(text)}</p></div>'


def answer(found: ClipAnswer, limits: PageLimits) -> str:
    """All that the page says about a clip.

    Args:
        found: what is said.
        limits: what the page looks for.
    """
    colours = legend_colours(list(found.predictions.values()))
    sets = "".join(
        _of_set(name, prediction, colours, limits, titled=len(found.predictions) > 1)
        for name, prediction in found.predictions.items()
    )
    return (
        f'<div class="vkd answer"><h2>{in_html(found.name)}</h2>{_film(found.film)}'
        f'<div class="columns n{len(found.predictions)}">{sets}</div>{_coding(found)}{_times(found)}</div>'
    )


def _film(film: StreamsFilm) -> str:
    source = base64.b64encode(film.mp4).decode("ascii")
    captions = "".join(
        f"<div><b>{title}</b><br>{text}</div>" for title, text in (_CAPTIONS[name] for name in film.panels)
    )
    sampled = (
        "" if film.pictures == film.positions else f" {film.pictures} of {film.positions} I- and P-frames are shown."
    )
    legend = ""
    if "motion" in film.panels:
        legend = (
            f'<p class="note"><span class="wheel"></span>Colour is the direction of motion, as on the wheel; brightest from {film.max_pixels:g} pixels. '
            f"Stripes: no motion is stored there.{sampled}</p>"
        )
    return (
        f'<div class="film"><div class="captions n{len(film.panels)}">{captions}</div>'
        f'<video src="data:video/mp4;base64,{source}" autoplay loop muted playsinline controls></video>{legend}</div>'
    )


def _of_set(
    name: str, found: WindowedPrediction, colours: Mapping[str, str], limits: PageLimits, *, titled: bool
) -> str:
    """One set of students: the whole clip, then its windows."""
    best = ranked(found.whole, found.class_names, top=_MOST_WHOLE)
    rows = "".join(
        f'<tr><td>{in_html(label.name)}</td><td class="bar"><span style="width:{100 * label.probability:.1f}%;'
        f'background:{colours.get(label.name, OTHER)}"></span></td><td class="number">{100 * label.probability:.1f} %</td></tr>'
        for label in best
    )
    title = f"<h3>{in_html(name)}</h3>" if titled else ""
    count = len(found.spans)
    stride = f"one every {np.diff([start for start, _ in found.spans])[0]:.2g} s" if count > 1 else "the whole clip"
    length = f"{min(limits.window, found.spans[-1][1]):.2g} s"
    return (
        f'<section>{title}<p class="headline" style="border-color:{colours.get(best[0].name, OTHER)}">{in_html(best[0].name)} '
        f"<span>{100 * best[0].probability:.0f} %</span></p>"
        f'<div class="parts"><div><h4>The whole clip</h4><table class="whole">{rows}</table></div>'
        f"<div><h4>Over time</h4>{timeline(found, colours)}"
        f'<p class="note">{count} window{"s" if count > 1 else ""} of {length}, {stride}. '
        "A bar is as high as its label is probable, and strong where the label leads.</p></div></div></section>"
    )


def _coding(found: ClipAnswer) -> str:
    """How the file is coded: frames, GOPs, and whether motion is exact."""
    index = found.index
    if index is None:
        why = in_html(found.unreadable.partition(" (accepted")[0])
        rows = [
            ("file", f"{found.num_bytes / 1e6:.2f} MB"),
            ("exact motion", f"none: {why}; the students saw a transcoded copy"),
        ]
        return f"<h4>How the file is coded</h4>{_table(rows)}"
    kinds = index.types.upper()
    counts = ", ".join(f"{kinds.count(kind)} {kind}" for kind in "IPSB" if kind in kinds)
    lengths = [gop.num_positions for gop in index.gops]
    gops = f"{len(lengths)}, of {_range(lengths)} I- and P-frames"
    rows = [
        ("file", f"{index.codec}, {index.width} × {index.height}, {found.num_bytes / 1e6:.2f} MB"),
        ("length", f"{index.duration_seconds:.2f} s, {index.num_frames} frames, {index.num_frames / index.duration_seconds:.3g} a second"),
        ("frame types", f"{counts}{frame_strip(index)}"
         "<span class='key i'></span>I: a whole picture <span class='key p'></span>P: motion and residual to an earlier frame "
         "<span class='key b'></span>B: also to a later one"),
        ("GOPs", f"{gops} <span class='faint'>(a GOP is an I-frame and what follows until the next)</span>"),
        ("exact motion", _exactness(index)),
    ]  # fmt: skip
    return f"<h4>How the file is coded</h4>{_table(rows)}"


def _range(lengths: Sequence[int]) -> str:
    shortest, longest = min(lengths), max(lengths)
    return f"{shortest}" if shortest == longest else f"{shortest} to {longest}"


def _exactness(index: VideoIndex) -> str:
    if index.codec not in MOTION_CODECS:
        return f"none: {in_html(index.codec)} exports no motion vectors; the students saw a transcoded copy"
    if index.exact:
        return "yes: every P-frame's vectors point at the frame before it"
    return f"no: {in_html('; '.join(index.inexact_because))}; motion read from this file is an approximation"


def _times(found: ClipAnswer) -> str:
    """How long each step took."""
    rows = []
    for name, prediction in found.predictions.items():
        times = ", ".join(f"{step} {1000 * seconds:.0f} ms" for step, seconds in prediction.seconds.items() if seconds)
        rows.append((in_html(name), f"{times}; {_ROUTES[prediction.route]}"))
    shared = (
        f"finding the frames {1000 * found.index_seconds:.0f} ms, drawing the film {1000 * found.film_seconds:.0f} ms"
    )
    return f"<h4>Times</h4>{_table([*rows, ('besides', shared)])}"


def _table(rows: Sequence[tuple[str, str]]) -> str:
    cells = "".join(f"<tr><th>{name}</th><td>{text}</td></tr>" for name, text in rows)
    return f'<table class="facts">{cells}</table>'
