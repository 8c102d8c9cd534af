"""The report's first table: all models, what they cost and how good they are."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from videokd.evaluation.figures import short_number


@dataclass(frozen=True)
class _Column:
    """A column of the headline table: its value, how it is written, which end is best, what stands below."""

    title: str
    value: Callable[[Mapping[str, Any]], float | None]
    text: Callable[[float], str]
    best: Callable[[Sequence[float]], float]
    small: Callable[[Mapping[str, Any]], str] = lambda entry: ""


def percent(value: float | None) -> str:
    """A share in percent with one digit, or a dash.

    >>> percent(0.5), percent(None)
    ('50.0', '–')
    """
    return "–" if value is None else f"{100 * value:.1f}"


def latency(entry: Mapping[str, Any]) -> float | None:
    """Milliseconds a video from file to label, where they were measured."""
    return None if entry["latency_ms"] is None else float(entry["latency_ms"]["total"])


def _flops(entry: Mapping[str, Any]) -> str:
    return "" if entry["macs_per_video"] is None else f"{short_number(2 * entry['macs_per_video'])}FLOPs"


def _latency_parts(entry: Mapping[str, Any]) -> str:
    """What the median consists of, and what one video in twenty exceeds."""
    measured = entry["latency_ms"] or {}
    parts = ("read", "network", "p95")
    return "\n".join(f"{part} {measured[part]:.1f}" for part in parts if measured.get(part) is not None)


def _metric_column(title: str, name: str) -> _Column:
    return _Column(
        title,
        lambda entry: float(entry["metrics"][name]["value"]),
        percent,
        max,
        lambda entry: interval_text(entry["metrics"][name]),
    )


def interval_text(interval: Mapping[str, float] | None) -> str:
    """Both ends of an interval in percent.

    >>> interval_text({"value": 0.5, "low": 0.4, "high": 0.6})
    '40.0–60.0'
    """
    return "" if interval is None else f"{percent(interval['low'])}–{percent(interval['high'])}"


def _calibration_error(entry: Mapping[str, Any], end: str) -> float | None:
    interval = entry["metrics"].get("calibration_error")
    return None if interval is None else float(interval[end])


_COLUMNS = (
    _metric_column("top-1, %", "top1"),
    _Column(
        "validation top-1, %",
        lambda entry: None if entry.get("validation") is None else float(entry["validation"]["value"]),
        percent,
        lambda values: math.nan,  # it chose the epoch: nothing to be best in
        lambda entry: "" if entry.get("validation") is None else str(entry["validation"]["small"]),
    ),
    _metric_column("top-5, %", "top5"),
    _metric_column("mean class, %", "mean_class"),
    _Column(
        "ECE, %",
        lambda entry: _calibration_error(entry, "value"),
        percent,
        min,
        lambda entry: interval_text(entry["metrics"].get("calibration_error")),
    ),
    _Column("parameters", lambda entry: entry["parameters"], short_number, min),
    _Column("MACs/video", lambda entry: entry["macs_per_video"], short_number, min, _flops),
    _Column("ms/video", latency, lambda value: f"{value:.1f}" if value < 100 else f"{value:.0f}", min, _latency_parts),
)


def headline(entries: Sequence[tuple[str, Mapping[str, Any]]]) -> dict[str, Any]:
    """The table over all models; columns that nobody has are left out, the best of each column is marked."""
    columns = [column for column in _COLUMNS if any(column.value(entry) is not None for _, entry in entries)]
    tops = [entry["metrics"]["top1"] for _, entry in entries]
    low, high = min(top["low"] for top in tops), max(top["high"] for top in tops)
    span = max(high - low, 1e-9)
    best = {}
    for column in columns:
        known = [value for _, entry in entries if (value := column.value(entry)) is not None]
        best[column.title] = column.best(known) if len(known) > 1 else math.nan
    rows = []
    for name, entry in entries:
        cells = [_cell(column, entry, best[column.title]) for column in columns]
        top1 = entry["metrics"]["top1"]
        bar = {key: round(100 * (top1[key] - low) / span, 2) for key in ("low", "value", "high")}
        about = {"role": entry["role"], "streams": ", ".join(entry["streams"]), "backbone": entry["backbone"] or "–"}
        rows.append({"name": name, "cells": cells, "bar": bar, **about})
    return {"columns": [column.title for column in columns], "rows": rows}


def _cell(column: _Column, entry: Mapping[str, Any], best: float) -> dict[str, Any]:
    value = column.value(entry)
    return {
        "text": "–" if value is None else column.text(value),
        "best": value is not None and value == best,
        "small": column.small(entry),
        "bar": column.title.startswith("top-1"),
    }


def distinct_names(names: Sequence[str], folders: Sequence[Path]) -> list[str]:
    """A name for each run: its own, or the shortest ends of the folders' paths that tell runs of the same name apart.

    >>> distinct_names(["run", "run", "other"], [Path("/x/a/run"), Path("/x/b/run"), Path("/x/other")])
    ['a/run', 'b/run', 'other']
    """
    distinct = list(names)
    for name in {name for name in names if names.count(name) > 1}:
        same = [number for number, other in enumerate(names) if other == name]
        paths = [folders[number].resolve().parts for number in same]
        others = set(names) - {name}
        for length in range(1, max(map(len, paths)) + 1):
            ends = ["/".join(path[-length:]) for path in paths]
            if len(set(ends)) == len(ends) and not others & set(ends):
                break
        for number, end in zip(same, ends, strict=True):
            distinct[number] = end
    return distinct


def units(metrics: Mapping[str, Any]) -> str:
    """What intervals are drawn over, and how many there are: "25 groups"."""
    over, count = metrics.get("intervals_over", "videos"), metrics.get("interval_units")
    return str(over) if count is None else f"{count} {over if count != 1 else over[:-1]}"


def chances(results: Mapping[str, Any]) -> list[tuple[str, float]]:
    """What guessing gives: any class, and always the one with the most videos where that is more."""
    num_classes = len(results["dataset"]["class_names"])
    guesses = [(f"chance, 1 of {num_classes} classes", 1 / num_classes)]
    tables = [entry["metrics"].get("per_class") for entry in results["entries"].values()]
    per_class: Mapping[str, Any] = next(filter(None, tables), {})
    videos = [figures["videos"] for figures in per_class.values()]
    if videos and max(videos) / max(sum(videos), 1) > 1.005 / num_classes:
        guesses.append(("always the most frequent class", max(videos) / sum(videos)))
    return guesses
