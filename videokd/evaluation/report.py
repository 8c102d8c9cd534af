"""One HTML page of what runs measured: tables, curves and pictures, in one file that needs no network."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from videokd.errors import DataError
from videokd.evaluation.figures import Point, confusion_figure, cost_figure, curves_figure, short_number
from videokd.evaluation.results import read_results
from videokd.files import write_whole

_FOLDED_ABOVE = 20  # classes: larger matrices and tables are folded away until asked for


@dataclass(frozen=True)
class _Run:
    """A run folder and what the report takes from it."""

    folder: Path
    results: Mapping[str, Any]
    log: Sequence[Mapping[str, Any]]
    settings: str
    pictures: Sequence[Path]

    @property
    def name(self) -> str:
        return str(self.results["run"])


@dataclass(frozen=True)
class _Column:
    """A column of the headline table: its value, how it is written, which end is best, what stands below."""

    title: str
    value: Callable[[Mapping[str, Any]], float | None]
    text: Callable[[float], str]
    best: Callable[[Sequence[float]], float]
    small: Callable[[Mapping[str, Any]], str] = lambda entry: ""


def write_report(runs: Sequence[Path | str], save: Path | str, *, title: str = "videokd") -> Path:
    """Write one page that shows the results of runs side by side.

    Of each run folder it shows `results.json`, and where they are there `log.jsonl` (training curves), `pictures/*.png`
    and `config.yaml`. The page holds everything it shows and loads nothing from elsewhere.

    Args:
        runs: one or more run folders.
        save: the page's path.
        title: the page's heading.

    Returns:
        The page's path.

    Raises:
        DataError: there is no run, or a run's folder has no sound `results.json`.
        DataError: it cannot be written.
    """
    if not runs:
        raise DataError("no run to report on (accepted: one or more run folders). Run `videokd evaluate RUN` first.")
    loaded = [_load(Path(run)) for run in runs]
    template = resources.files("videokd.evaluation").joinpath("report.html").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["percent"] = _percent
    page = environment.from_string(template).render(_context(loaded, title))
    return write_whole(save, page.encode())


def _load(folder: Path) -> _Run:
    results = read_results(folder / "results.json")
    log, settings = folder / "log.jsonl", folder / "config.yaml"
    return _Run(
        folder=folder,
        results=results,
        log=_read_log(log.read_text(encoding="utf-8")) if log.is_file() else [],
        settings=settings.read_text(encoding="utf-8") if settings.is_file() else "",
        pictures=sorted((folder / "pictures").glob("*.png")),
    )


def _read_log(text: str) -> list[Mapping[str, Any]]:
    """The log's records; a line that a killed run left half-written is passed over."""
    records: list[Mapping[str, Any]] = []
    for line in text.splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(record, dict):
            records.append(record)
    return records


def _context(runs: Sequence[_Run], title: str) -> dict[str, Any]:
    """What the template writes out."""
    entries = [(_entry_name(run, name, runs), entry) for run in runs for name, entry in run.results["entries"].items()]
    datasets = [_dataset_line(run.results) for run in runs]
    return {
        "title": title,
        "datasets": list(dict.fromkeys(datasets)),
        "created": max(run.results["created"] for run in runs)[:10],
        "differ": len(set(datasets)) > 1,
        "intervals_over": sorted({entry["metrics"].get("intervals_over", "videos") for _, entry in entries}),
        "headline": _headline(entries),
        "pictures": _pictures(runs),
        "cost_figures": [Markup(figure) for figure in _cost_figures(entries)],
        "curves": [curves for run in runs if (curves := _curves(run, runs))],
        "comparisons": _comparisons(runs),
        "confusions": _confusions(runs),
        "class_tables": _class_tables(runs),
        "runs": [{"name": run.name, "settings": run.settings, **_provenance(run.results)} for run in runs],
    }


def _entry_name(run: _Run, name: str, runs: Sequence[_Run]) -> str:
    return name if len(runs) == 1 else f"{run.name} · {name}"


def _dataset_line(results: Mapping[str, Any]) -> str:
    dataset = results["dataset"]
    manifest = Path(dataset["manifest"])
    name = manifest.parent.name if manifest.stem == "manifest" and manifest.parent.name else manifest.stem
    split = f", split {dataset['split']}" if dataset["split"] is not None else ""
    return (
        f"{name}{split}, {dataset['part']}: {dataset['num_videos']} videos of {len(dataset['class_names'])} classes, "
        f"{results['num_segments']} segments, {results['views']} views"
    )


def _provenance(results: Mapping[str, Any]) -> dict[str, Any]:
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    return {"command": results["command"], "created": results["created"], "versions": versions}


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"


def _latency(entry: Mapping[str, Any]) -> float | None:
    return None if entry["latency_ms"] is None else float(entry["latency_ms"]["total"])


def _flops(entry: Mapping[str, Any]) -> str:
    return "" if entry["macs_per_video"] is None else f"{short_number(2 * entry['macs_per_video'])}FLOPs"


def _metric_column(title: str, name: str) -> _Column:
    def small(entry: Mapping[str, Any]) -> str:
        interval = entry["metrics"][name]
        return f"{_percent(interval['low'])}–{_percent(interval['high'])}"

    return _Column(title, lambda entry: float(entry["metrics"][name]["value"]), _percent, max, small)


_COLUMNS = (
    _Column("parameters", lambda entry: entry["parameters"], short_number, min),
    _Column("MACs/video", lambda entry: entry["macs_per_video"], short_number, min, _flops),
    _Column("ms/video", _latency, lambda value: f"{value:.1f}" if value < 100 else f"{value:.0f}", min),
    _metric_column("top-1, %", "top1"),
    _metric_column("top-5, %", "top5"),
    _metric_column("mean class, %", "mean_class"),
)


def _headline(entries: Sequence[tuple[str, Mapping[str, Any]]]) -> dict[str, Any]:
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


def _pictures(runs: Sequence[_Run]) -> list[dict[str, str]]:
    """Each different picture once, as data, with a caption from its file's name."""
    pictures: dict[bytes, dict[str, str]] = {}
    for run in runs:
        for path in run.pictures:
            content = path.read_bytes()
            source = f"data:image/png;base64,{base64.b64encode(content).decode()}"
            pictures.setdefault(content, {"caption": path.stem.replace("-", " · "), "source": source})
    return list(pictures.values())


def _cost_figures(entries: Sequence[tuple[str, Mapping[str, Any]]]) -> list[str]:
    """Accuracy over the first two costs that two models or more have."""
    costs: dict[str, Callable[[Mapping[str, Any]], float | None]] = {
        "MACs per video": lambda entry: entry["macs_per_video"],
        "ms per video": _latency,
        "parameters": lambda entry: entry["parameters"],
    }
    figures = []
    for label, cost in costs.items():
        points = []
        for name, entry in entries:
            top1, value = entry["metrics"]["top1"], cost(entry)
            if value:
                accuracy, low, high = (100 * top1[key] for key in ("value", "low", "high"))
                points.append(Point(name, entry["role"], value, accuracy, low, high))
        if len(points) > 1:
            figures.append(cost_figure(points, cost=label))
    return figures[:2]


def _curves(run: _Run, runs: Sequence[_Run]) -> dict[str, Any] | None:
    """Total losses and validation accuracies of one run, over its epochs (steps, where the log has no epochs)."""
    across = "epoch" if any("epoch" in record for record in run.log) else "step"
    losses: dict[str, dict[float, list[float]]] = {}
    accuracies: dict[str, dict[float, list[float]]] = {}
    for record in run.log:
        for key, value in record.items():
            parts = key.split("/")
            kind = losses if parts[-1] == "total" else accuracies if parts[-1] == "top1" and "val" in parts else None
            if kind is not None and _is_number(value) and _is_number(record.get(across)):
                kind.setdefault(key, {}).setdefault(record[across], []).append(value)
    figures = []
    if losses:
        means = {key: [(x, sum(y) / len(y)) for x, y in sorted(at.items())] for key, at in losses.items()}
        figures.append(curves_figure(means, across=across, up="total loss"))
    if accuracies:
        last = {key: [(x, 100 * y[-1]) for x, y in sorted(at.items())] for key, at in accuracies.items()}
        figures.append(curves_figure(last, across=across, up="validation top-1, %"))
    return {"name": run.name, "figures": [Markup(figure) for figure in figures]} if figures else None


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _comparisons(runs: Sequence[_Run]) -> list[dict[str, str]]:
    rows = []
    for run in runs:
        for comparison in run.results.get("comparisons", ()):
            difference = comparison["top1_difference"]
            value, low, high = (f"{100 * difference[key]:+.1f}".replace("-", "−") for key in ("value", "low", "high"))
            verdict = (
                "better" if difference["low"] > 0 else "worse" if difference["high"] < 0 else "no clear difference"
            )
            a, b = (_entry_name(run, comparison[key], runs) for key in ("a", "b"))
            rows.append({"a": a, "b": b, "value": value, "interval": f"{low} to {high}", "verdict": verdict})
    return rows


def _confusions(runs: Sequence[_Run]) -> list[dict[str, Any]]:
    figures = []
    for run in runs:
        class_names = run.results["dataset"]["class_names"]
        for name, entry in run.results["entries"].items():
            if "confusion" in entry["metrics"]:
                title = _entry_name(run, name, runs)
                svg = confusion_figure(entry["metrics"]["confusion"], class_names, title=title)
                figures.append({"name": title, "figure": Markup(svg), "folded": len(class_names) > _FOLDED_ABOVE})
    return figures


def _class_tables(runs: Sequence[_Run]) -> list[dict[str, Any]]:
    """One table for each different list of classes: classes down, models across."""
    tables: dict[tuple[str, ...], dict[str, Any]] = {}
    for run in runs:
        class_names = tuple(run.results["dataset"]["class_names"])
        for name, entry in run.results["entries"].items():
            per_class = entry["metrics"].get("per_class")
            if per_class is None:
                continue
            rows = {name: {"name": name, "videos": 0, "accuracies": []} for name in class_names}
            table = tables.setdefault(class_names, {"names": [], "rows": rows, "folded": len(rows) > _FOLDED_ABOVE})
            table["names"].append(_entry_name(run, name, runs))
            for class_name, row in table["rows"].items():
                figures = per_class.get(class_name, {"accuracy": None, "videos": 0})
                row["accuracies"].append(figures["accuracy"])
                row["videos"] = max(row["videos"], figures["videos"])
    return list(tables.values())
