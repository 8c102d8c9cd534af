"""How values show themselves in a notebook: streams and videos as pictures, students as a table, predictions as bars."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from videokd.drawing.panels import DrawnStreams, Image
from videokd.drawing.picture import places_to_show, streams_picture
from videokd.errors import NeedsTranscoding, in_html

_DPI = 72
_BAR = "#2f6fed"
_LISTED = 12  # classes that a table names


class _DrawnVideo(Protocol):
    """What is drawn of a `VideoReader`."""

    codec: Any
    width: Any
    height: Any
    source: Any

    @property
    def gops(self) -> Sequence[Any]: ...

    def read(self, *, gop: int, position: int, streams: tuple[str, ...]) -> DrawnStreams: ...


class _DescribedStudents(Protocol):
    """What a table says of `Students`."""

    class_names: tuple[str, ...]
    num_segments: int
    weights: dict[str, float]
    members: Any

    @property
    def specs(self) -> Mapping[str, Any]: ...


def streams_png(streams: DrawnStreams) -> bytes | None:
    """The picture of `videokd show`, of one position.

    Args:
        streams: that are drawn, as far as they were read.

    Returns:
        A PNG file; None where they cannot be drawn: a notebook then shows their text.
    """
    try:
        return _png(streams_picture([streams], title="", dots_per_inch=_DPI))
    except Exception:  # arrays that somebody else made can be wrong in any way, and a display is no place for an error
        return None


def video_png(video: _DrawnVideo) -> bytes | None:
    """The picture of `videokd show`, of three positions of a video.

    Args:
        video: an open reader; it may be read before and after.

    Returns:
        A PNG file; None where the reader is closed or the video cannot be read: a notebook then shows its text.
    """
    try:
        gop, positions = places_to_show([group.num_positions for group in video.gops])
        try:
            samples = [_read(video, gop, position, ("iframe", "motion", "residual", "frame")) for position in positions]
        except NeedsTranscoding:
            samples = [_read(video, gop, position, ("iframe", "frame")) for position in positions]
        title = f"{video.source.name.rpartition('/')[2]}   ({video.codec}, {video.width}×{video.height})"
        return _png(streams_picture(samples, title=title, dots_per_inch=_DPI))
    except Exception:  # a file object raises what it likes, and a display is no place for an error
        return None


def _read(video: _DrawnVideo, gop: int, position: int, streams: tuple[str, ...]) -> DrawnStreams:
    return video.read(gop=gop, position=position, streams=streams)


def _png(picture: Image) -> bytes:
    from matplotlib.image import imsave

    buffer = io.BytesIO()
    imsave(buffer, picture, format="png")
    return buffer.getvalue()


def students_html(students: _DescribedStudents) -> str:
    """A table of students: what each sees, and how large it is.

    Args:
        students: with their networks.
    """
    names = students.class_names
    listed = ", ".join(names[:_LISTED]) + (f", … {len(names)} in all" if len(names) > _LISTED else "")
    rows = [
        [
            name,
            " + ".join(spec.streams),
            f"{spec.input_size}×{spec.input_size}",
            spec.backbone,
            f"{sum(each.numel() for each in students.members[name].parameters()):,}",
            f"{students.weights[name]:g}",
        ]
        for name, spec in students.specs.items()
    ]
    columns = ["student", "streams", "input, pixels", "backbone", "parameters", "weight"]
    about = f"{len(names)} classes: {listed}. {students.num_segments} segments in training."
    return _table(columns, [[in_html(cell) for cell in row] for row in rows], about)


def bars_html(values: Iterable[tuple[str, float]], *, about: str) -> str:
    """Bars for shares, the longest of them 1.

    Args:
        values: (name, 0 to 1) of each bar.
        about: a line below them.
    """
    rows = []
    for name, value in values:
        percent = 100 * min(max(value, 0.0), 1.0) if math.isfinite(value) else 0.0
        bar = f'<div style="background:{_BAR};height:0.9em;width:{percent:.1f}%;min-width:1px"></div>'
        cell = f'<div style="width:16em" title="{percent:.2f} %">{bar}</div>'
        rows.append([in_html(name), cell, f"{percent:.1f} %"])
    return _table([], rows, about)


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]], about: str) -> str:
    """Cells that are HTML already, below the columns' titles; a line of text below them."""
    head = f"<thead><tr>{''.join(f'<th>{in_html(title)}</th>' for title in columns)}</tr></thead>" if columns else ""
    style = 'style="text-align:left"'
    body = "".join(f"<tr>{''.join(f'<td {style}>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table>{head}<tbody>{body}</tbody></table><div><small>{in_html(about)}</small></div>"
