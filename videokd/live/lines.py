"""Results of watching as lines: JSON, or a table to read."""

from __future__ import annotations

import json
from typing import Any, Literal

from videokd.live.watching import SourceChange, WindowLabels

_DIGITS = 3


def line_of(result: WindowLabels | SourceChange, *, layout: Literal["jsonl", "table"]) -> str:
    """One line for a result.

    Args:
        result: of a window, or an event's start or end.
        layout: jsonl or table.
    """
    if layout == "table":
        return _for_people(result)
    return json.dumps(_fields(result), ensure_ascii=False)


def _fields(result: WindowLabels | SourceChange) -> dict[str, Any]:
    if isinstance(result, SourceChange):
        change = result.change
        return {
            "kind": change.kind,
            "source": result.source,
            "label": change.label,
            "start_seconds": round(change.start_seconds, _DIGITS),
            "end_seconds": round(change.end_seconds, _DIGITS),
            "time": result.time,
            "probability": round(change.probability, 4),
        }
    return {
        "kind": "window",
        "source": result.source,
        "start_seconds": round(result.start_seconds, _DIGITS),
        "end_seconds": round(result.end_seconds, _DIGITS),
        "time": result.time,
        "labels": [{"name": label.name, "probability": round(label.probability, 4)} for label in result.labels],
        "latency_seconds": round(result.latency_seconds, _DIGITS),
        "dropped_seconds": round(result.dropped_seconds, _DIGITS),
        "damaged_seconds": round(result.damaged_seconds, _DIGITS),
    }


def _for_people(result: WindowLabels | SourceChange) -> str:
    if isinstance(result, SourceChange):
        change = result.change
        span = f"{change.start_seconds:8.2f} to {change.end_seconds:8.2f} s"
        return f"{result.source}  {span}  {change.kind} of {change.label} ({100 * change.probability:.0f} %)"
    span = f"{result.start_seconds:8.2f} to {result.end_seconds:8.2f} s"
    labels = ", ".join(f"{label.name} {100 * label.probability:.0f} %" for label in result.labels)
    lost = "".join(
        f", {seconds:.1f} s {word}"
        for seconds, word in ((result.dropped_seconds, "dropped"), (result.damaged_seconds, "damaged"))
        if seconds
    )
    return f"{result.source}  {span}  {labels}  ({1000 * result.latency_seconds:.0f} ms{lost})"
