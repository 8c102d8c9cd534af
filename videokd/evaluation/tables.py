"""The report's tables: all models with what they cost and how accurate they are, differences, exits and classes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from videokd.evaluation.figures import short_number
from videokd.evaluation.results import ClassAccuracy, Comparison, EarlyExitPoint, Entry, Interval, Metrics, Results

_FOLDED_ABOVE = 20  # classes: larger tables are folded until asked for


@dataclass(frozen=True)
class Validation:
    """Top-1 on the clips held out in training.

    Args:
        top1: as a fraction.
        note: its interval, or where it is from.
    """

    top1: float
    note: str


@dataclass(frozen=True)
class Model:
    """One row of the first table.

    Args:
        name: as on the page.
        entry: of results.json.
        validation: where it is known.
    """

    name: str
    entry: Entry
    validation: Validation | None = None


@dataclass(frozen=True)
class _Column:
    """A column of the first table: its value, how it is written, which value is best, and the small text below it."""

    title: str
    value: Callable[[Model], float | None]
    text: Callable[[float], str]
    best: Callable[[Sequence[float]], float]
    small: Callable[[Model], str] = lambda model: ""


def percent(value: float | None) -> str:
    """A share in percent with one digit, or a dash.

    >>> percent(0.5), percent(None)
    ('50.0', '–')
    """
    return "–" if value is None else f"{100 * value:.1f}"


def interval_text(interval: Interval | None) -> str:
    """Both ends of an interval in percent.

    >>> interval_text(Interval(0.5, 0.4, 0.6))
    '40.0–60.0'
    """
    return "" if interval is None else f"{percent(interval.low)}–{percent(interval.high)}"


def _flops(model: Model) -> str:
    macs = model.entry.macs_per_video
    return "" if macs is None else f"{short_number(2 * macs)}FLOPs"


def _latency_parts(model: Model) -> str:
    """What the median consists of, and what one video in twenty exceeds."""
    measured = model.entry.latency_ms
    parts = {"read": measured.read, "network": measured.network, "p95": measured.p95} if measured else {}
    return "\n".join(f"{name} {value:.1f}" for name, value in parts.items() if value is not None)


def _metric_column(title: str, name: str, *, best: Callable[[Sequence[float]], float] = max) -> _Column:
    def interval(model: Model) -> Interval | None:
        found: Interval | None = getattr(model.entry.metrics, name)
        return found

    return _Column(
        title,
        lambda model: None if (found := interval(model)) is None else found.value,
        percent,
        best,
        lambda model: interval_text(interval(model)),
    )


_COLUMNS = (
    _metric_column("top-1, %", "top1"),
    _Column(
        "validation top-1, %",
        lambda model: None if model.validation is None else model.validation.top1,
        percent,
        lambda values: math.nan,  # it chose the epoch, so none is best
        lambda model: "" if model.validation is None else model.validation.note,
    ),
    _metric_column("top-5, %", "top5"),
    _metric_column("mean class, %", "mean_class"),
    _metric_column("ECE, %", "calibration_error", best=min),
    _Column("parameters", lambda model: model.entry.parameters, short_number, min),
    _Column("MACs/video", lambda model: model.entry.macs_per_video, short_number, min, _flops),
    _Column(
        "ms/video",
        lambda model: model.entry.total_ms,
        lambda value: f"{value:.1f}" if value < 100 else f"{value:.0f}",
        min,
        _latency_parts,
    ),
)


def models_table(models: Sequence[Model]) -> dict[str, Any]:
    """The table of all models; columns without any value are omitted, the best value of each column is marked."""
    columns = [column for column in _COLUMNS if any(column.value(model) is not None for model in models)]
    tops = [model.entry.metrics.top1 for model in models]
    low, high = min(top.low for top in tops), max(top.high for top in tops)
    span = max(high - low, 1e-9)
    best = {}
    for column in columns:
        known = [value for model in models if (value := column.value(model)) is not None]
        best[column.title] = column.best(known) if len(known) > 1 else math.nan
    rows = []
    for model in models:
        entry, top1 = model.entry, model.entry.metrics.top1
        ends = {"low": top1.low, "value": top1.value, "high": top1.high}
        row = {
            "name": model.name,
            "cells": [_cell(column, model, best[column.title]) for column in columns],
            "bar": {name: round(100 * (end - low) / span, 2) for name, end in ends.items()},
            "role": entry.role,
            "streams": ", ".join(entry.streams),
            "backbone": entry.backbone or "–",
        }
        rows.append(row)
    return {"columns": [column.title for column in columns], "rows": rows}


def _cell(column: _Column, model: Model, best: float) -> dict[str, Any]:
    value = column.value(model)
    return {
        "text": "–" if value is None else column.text(value),
        "best": value is not None and value == best,
        "small": column.small(model),
        "bar": column.title.startswith("top-1"),
    }


def comparison_rows(comparisons: Sequence[Comparison]) -> list[dict[str, str]]:
    """Differences in percentage points, and what follows from their intervals."""
    rows = []
    for comparison in comparisons:
        difference = comparison.top1_difference
        value, low, high = (
            f"{100 * end:+.1f}".replace("-", "−") for end in (difference.value, difference.low, difference.high)
        )
        verdict = "better" if difference.low > 0 else "worse" if difference.high < 0 else "no clear difference"
        row = {"a": comparison.a, "b": comparison.b, "value": value, "interval": f"{low} to {high}"}
        rows.append({**row, "verdict": verdict})
    return rows


def exit_rows(exits: Sequence[tuple[str, str, Entry]]) -> list[dict[str, str]]:
    """Each exit of (student, exit, entry) by itself."""
    return [
        {
            "student": student,
            "exit": exit,
            "parameters": "–" if entry.parameters is None else short_number(entry.parameters),
            "macs": "–" if entry.macs_per_video is None else short_number(entry.macs_per_video),
            "top1": percent(entry.metrics.top1.value),
            "interval": interval_text(entry.metrics.top1),
        }
        for student, exit, entry in exits
    ]


def threshold_rows(curves: Mapping[str, Sequence[EarlyExitPoint]]) -> list[dict[str, str]]:
    """At each threshold, how many videos leave by which exit."""
    return [
        {
            "student": student,
            "threshold": f"{point.threshold:g}",
            "macs": short_number(point.macs_per_video),
            "top1": percent(point.top1.value),
            "interval": interval_text(point.top1),
            "exits": ", ".join(f"{name} {100 * share:.0f} %" for name, share in point.exits.items()),
        }
        for student, points in curves.items()
        for point in points
    ]


def class_tables(models: Sequence[tuple[Sequence[str], str, Metrics]]) -> list[dict[str, Any]]:
    """One table for each different list of classes: classes down, models across.

    Args:
        models: (class names, model, its metrics) of each; those without figures of each class are omitted.
    """
    tables: dict[tuple[str, ...], dict[str, Any]] = {}
    for class_names, model, metrics in models:
        if metrics.per_class is None:
            continue
        rows = {name: {"name": name, "videos": 0, "accuracies": []} for name in class_names}
        table = tables.setdefault(tuple(class_names), {"names": [], "rows": rows, "folded": is_folded(class_names)})
        table["names"].append(model)
        for class_name, row in table["rows"].items():
            found = metrics.per_class.get(class_name, ClassAccuracy(None, 0))
            row["accuracies"].append(found.accuracy)
            row["videos"] = max(row["videos"], found.videos)
    return list(tables.values())


def is_folded(class_names: Sequence[str]) -> bool:
    """Whether tables and matrices of so many classes are folded until the reader asks for them."""
    return len(class_names) > _FOLDED_ABOVE


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


def interval_units(metrics: Metrics) -> str:
    """What intervals are drawn over, and how many there are: "25 groups"."""
    over, count = metrics.intervals_over or "videos", metrics.interval_units
    return over if count is None else f"{count} {over if count != 1 else over[:-1]}"


def chances(results: Results) -> list[tuple[str, float]]:
    """The accuracy of guessing: any class, and always the one with the most videos where that is more."""
    num_classes = len(results.dataset.class_names)
    guesses = [(f"chance, 1 of {num_classes} classes", 1 / num_classes)]
    tables = (entry.metrics.per_class for entry in results.entries.values())
    per_class: Mapping[str, ClassAccuracy] = next(filter(None, tables), {})
    videos = [each.videos for each in per_class.values()]
    if videos and max(videos) / max(sum(videos), 1) > 1.005 / num_classes:
        guesses.append(("always the most frequent class", max(videos) / sum(videos)))
    return guesses
