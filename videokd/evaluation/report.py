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
from videokd.evaluation.examples import predictions_for
from videokd.evaluation.figures import (
    Point,
    confusion_figure,
    cost_figure,
    curves_figure,
    early_exit_figure,
    reliability_figure,
    short_number,
)
from videokd.evaluation.metrics import differences, is_exit, reliability
from videokd.evaluation.pictures import named_picture, png_of
from videokd.evaluation.results import read_results, results_name, results_of
from videokd.evaluation.scores import Scores, load_scores
from videokd.evaluation.tables import chances, distinct_names, headline, interval_text, latency, percent, units
from videokd.files import write_whole

_MOST_EXAMPLES = 8
_FOLDED_ABOVE = 20  # classes: larger matrices and tables are folded away until asked for


@dataclass(frozen=True)
class _Run:
    """A run folder and what the report takes from it."""

    folder: Path
    results: Mapping[str, Any]
    log: Sequence[Mapping[str, Any]]
    settings: str
    pictures: Sequence[Path]
    scores: Mapping[str, Scores]
    validation: Mapping[str, Any] | None
    name: str


def write_report(
    runs: Sequence[Path | str], save: Path | str, *, title: str = "videokd", groups: Mapping[str, str] | None = None
) -> Path:
    """Write one page that shows the results of runs side by side.

    Of each run folder it shows `results.json`, and where they are there `log.jsonl` (training curves), `pictures/*.png`,
    `scores-*.npz` (answers, calibration, differences) and `config.yaml`. The page holds everything it shows and loads nothing from elsewhere.

    Args:
        runs: one or more run folders.
        save: the page's path.
        title: the page's heading.
        groups: {video id: group} of the manifests, for the intervals of differences; without it videos are drawn.

    Returns:
        The page's path.

    Raises:
        DataError: there is no run, a run's folder has no sound `results.json`, or its scores are damaged.
        DataError: it cannot be written.
    """
    if not runs:
        raise DataError("no run to report on (accepted: one or more run folders). Run `videokd evaluate RUN` first.")
    folders = list({Path(run).resolve(): Path(run) for run in runs}.values())  # a run that is named twice is shown once
    found = [results_of(folder) for folder in folders]
    names = distinct_names([str(results["run"]) for results in found], folders)
    loaded = [_load(folder, results, name) for folder, results, name in zip(folders, found, names, strict=True)]
    template = resources.files("videokd.evaluation").joinpath("report.html").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["percent"] = percent
    page = environment.from_string(template).render(_context(loaded, title, groups or {}))
    return write_whole(save, page.encode(errors="backslashreplace"))


def _load(folder: Path, results: Mapping[str, Any], name: str) -> _Run:
    log, settings, validation = folder / "log.jsonl", folder / "config.yaml", folder / results_name("val")
    of_test = results["dataset"]["part"] == "test"
    return _Run(
        folder=folder,
        results=results,
        log=_read_log(log.read_text(encoding="utf-8", errors="replace")) if log.is_file() else [],
        settings=settings.read_text(encoding="utf-8", errors="replace") if settings.is_file() else "",
        pictures=sorted(p for p in (folder / "pictures").glob("*.png") if not p.name.startswith("streams-val-")),
        scores=load_scores(folder, results),
        validation=read_results(validation) if of_test and validation.is_file() else None,
        name=name,
    )


def _read_log(text: str) -> list[Mapping[str, Any]]:
    """The log's records; a line that a killed run left half-written is passed over."""
    records: list[Mapping[str, Any]] = []
    for line in text.splitlines():
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(record, dict):
            records.append(record)
    return records


def _context(runs: Sequence[_Run], title: str, groups: Mapping[str, str]) -> dict[str, Any]:
    """What the template writes out."""
    entries = [
        (_entry_name(run, name, runs), {**entry, "validation": _validation(run, name)})
        for run in runs
        for name, entry in _whole(run.results["entries"]).items()
    ]
    datasets = [_dataset_line(run.results) for run in runs]
    return {
        "title": title,
        "datasets": list(dict.fromkeys(datasets)),
        "created": max(run.results["created"] for run in runs)[:10],
        "differ": len(set(datasets)) > 1,
        "intervals_over": list(dict.fromkeys(units(entry["metrics"]) for _, entry in entries)),
        "headline": headline(entries),
        "chances": list(dict.fromkeys(chance for run in runs for chance in chances(run.results))),
        "examples": _examples(runs),
        "pictures": _pictures(runs),
        "cost_figures": [Markup(figure) for figure in _cost_figures(entries)],
        "curves": [curves for run in runs if (curves := _curves(run, runs))],
        "early_exits": [exits for run in runs if (exits := _early_exits(run, runs))],
        "reliabilities": _reliabilities(runs),
        "comparisons": _comparisons(runs, groups),
        "confusions": _confusions(runs),
        "class_tables": _class_tables(runs),
        "runs": [{"name": run.name, "settings": run.settings, **_provenance(run.results)} for run in runs],
    }


def _validation(run: _Run, name: str) -> dict[str, Any] | None:
    """Top-1 on the clips held out in training: as evaluated, or as the log has it at the best epoch."""
    if run.validation is not None and name in run.validation["entries"]:
        top1 = run.validation["entries"][name]["metrics"]["top1"]
        return {"value": top1["value"], "small": interval_text(top1)}
    whole = list(_whole(run.results["entries"]))
    key = "val/top1" if name == "fused" or len(whole) == 1 else f"val/{name}"
    seen = [record for record in run.log if _is_number(record.get("val/top1")) and _is_number(record.get(key))]
    if not seen or run.results["dataset"]["part"] != "test":
        return None
    return {"value": max(seen, key=lambda record: float(record["val/top1"]))[key], "small": "best epoch"}


def _whole(entries: Mapping[str, Any]) -> dict[str, Any]:
    """Entries that are models of their own; shallow exits have a section for themselves."""
    whole = {name: entry for name, entry in entries.items() if not is_exit(entry)}
    return whole or dict(entries)


def _models(runs: Sequence[_Run]) -> dict[str, Scores]:
    """{name as on the page: scores} of all models whose scores are there."""
    return {
        _entry_name(run, name, runs): scores
        for run in runs
        for name, scores in run.scores.items()
        if name in _whole(run.results["entries"])
    }


def _entry_name(run: _Run, name: str, runs: Sequence[_Run]) -> str:
    """The entry's own name, that of its run where the run has no other, or both."""
    if len(runs) == 1:
        return name
    return (
        run.name
        if len(_whole(run.results["entries"])) == 1 and not is_exit(run.results["entries"][name])
        else f"{run.name} · {name}"
    )


def _dataset_line(results: Mapping[str, Any]) -> str:
    dataset = results["dataset"]
    manifest = Path(dataset["manifest"])
    name = manifest.parent.name if manifest.stem == "manifest" and manifest.parent.name else manifest.stem
    split = f", split {dataset['split']}" if dataset["split"] is not None else ""
    known = dataset.get("trained_on")  # after `videokd evaluate --seen score`
    warning = f"; {known} of the videos were in training: their accuracy is too high" if known else ""
    return (
        f"{name}{split}, {dataset['part']}: {dataset['num_videos']} videos of {len(dataset['class_names'])} classes, "
        f"{results['num_segments']} segments, {results['views']} views{warning}"
    )


def _provenance(results: Mapping[str, Any]) -> dict[str, Any]:
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    return {"command": results["command"], "created": results["created"], "versions": versions}


def _as_data(path: Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(png_of(path)).decode()}"


def _examples(runs: Sequence[_Run]) -> list[dict[str, Any]]:
    """Clips with their streams and what each model says of them, those first that most models name rightly."""
    examples: dict[str, dict[str, Any]] = {}
    models = _models(runs)
    for run in runs:
        class_names = run.results["dataset"]["class_names"]
        for example in run.results.get("examples", ()):
            path, video_id = named_picture(run.folder, example["picture"]), example["video_id"]
            answers = predictions_for(video_id, models, class_names)
            if path.is_file() and answers and video_id not in examples:
                names = {"video_id": video_id, "class_name": example["class_name"]}
                examples[video_id] = {**names, "source": _as_data(path), "answers": answers}
    shown = list(examples.values())[:_MOST_EXAMPLES]
    return sorted(shown, key=lambda example: -sum(answer.right for answer in example["answers"]))


def _pictures(runs: Sequence[_Run]) -> list[dict[str, str]]:
    """Each different picture that is no example's once, as data, with a caption from its file's name."""
    pictures: dict[str, dict[str, str]] = {}
    for run in runs:
        examples = {example["picture"] for example in run.results.get("examples", ())} if run.scores else set()
        for path in run.pictures:
            if path.name not in examples:
                source = _as_data(path)
                pictures.setdefault(source, {"caption": path.stem.replace("-", " · "), "source": source})
    return list(pictures.values())


def _early_exits(run: _Run, runs: Sequence[_Run]) -> dict[str, Any] | None:
    """The curve of one run whose students have exits, and a table of the exits alone."""
    curves = run.results.get("early_exit")
    if not curves:
        return None
    alone: dict[str, list[Point]] = {}
    rows = []
    for name, entry in run.results["entries"].items():
        student, _, part = name.partition(":")
        if student not in curves or (part and not is_exit(entry)):
            continue
        top1, cost = entry["metrics"]["top1"], entry["macs_per_video"]
        if cost and entry["role"] != "exits together":
            ends = (100 * top1[key] for key in ("value", "low", "high"))
            alone.setdefault(student, []).append(Point(part or "deepest", entry["role"], cost, *ends))
        rows.append((student, part or "the whole network", entry))
    rows.sort(
        key=lambda row: (list(curves).index(row[0]), row[2]["macs_per_video"] or 0, row[2]["role"] == "exits together")
    )
    table = [
        {
            "student": student,
            "exit": part,
            "parameters": "–" if entry["parameters"] is None else short_number(entry["parameters"]),
            "macs": "–" if entry["macs_per_video"] is None else short_number(entry["macs_per_video"]),
            "top1": percent(entry["metrics"]["top1"]["value"]),
            "interval": interval_text(entry["metrics"]["top1"]),
        }
        for student, part, entry in rows
    ]
    return {
        "name": run.name if len(runs) > 1 else "",
        "figure": Markup(early_exit_figure(curves, alone)),
        "table": table,
        "shares": _shares(curves),
    }


def _shares(curves: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """How many videos leave where, at each threshold."""
    return [
        {
            "student": student,
            "threshold": f"{point['threshold']:g}",
            "macs": short_number(point["macs_per_video"]),
            "top1": percent(point["top1"]["value"]),
            "interval": interval_text(point["top1"]),
            "exits": ", ".join(f"{name} {100 * share:.0f} %" for name, share in point["exits"].items()),
        }
        for student, points in curves.items()
        for point in points
    ]


def _reliabilities(runs: Sequence[_Run]) -> list[dict[str, Any]]:
    entries = {_entry_name(run, name, runs): entry for run in runs for name, entry in run.results["entries"].items()}
    figures = []
    for name, scores in _models(runs).items():
        error = entries[name]["metrics"].get("calibration_error")
        about = f"{percent(error['value'])} % ({interval_text(error)})" if error else ""
        figure = Markup(reliability_figure(reliability(scores), title=name))
        figures.append({"name": name, "error": about, "figure": figure})
    return figures


def _cost_figures(entries: Sequence[tuple[str, Mapping[str, Any]]]) -> list[str]:
    """Accuracy over the first two costs that two models or more have."""
    costs: dict[str, Callable[[Mapping[str, Any]], float | None]] = {
        "MACs per video": lambda entry: entry["macs_per_video"],
        "ms per video": latency,
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
            kind = losses if parts[-1] == "total" else accuracies if parts[0] == "val" else None
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


def _comparisons(runs: Sequence[_Run], groups: Mapping[str, str]) -> list[dict[str, str]]:
    """The runs' own comparisons, then every model against the fused teachers, or else against the best model."""
    found = [
        {**comparison, **{key: _entry_name(run, comparison[key], runs) for key in ("a", "b")}}
        for run in runs
        for comparison in run.results.get("comparisons", ())
    ]
    models = _models(runs)
    if len(models) > 1:
        entries = {
            _entry_name(run, name, runs): entry for run in runs for name, entry in run.results["entries"].items()
        }
        fused = [name for name in models if entries[name]["role"] == "fused teachers"]
        reference = max(fused or models, key=lambda name: float(entries[name]["metrics"]["top1"]["value"]))
        known = [(comparison["a"], comparison["b"]) for comparison in found]
        found += differences(models, reference=reference, groups=groups, known=known)
    rows = []
    for comparison in found:
        difference = comparison["top1_difference"]
        value, low, high = (f"{100 * difference[key]:+.1f}".replace("-", "−") for key in ("value", "low", "high"))
        verdict = "better" if difference["low"] > 0 else "worse" if difference["high"] < 0 else "no clear difference"
        row = {"a": comparison["a"], "b": comparison["b"], "value": value, "interval": f"{low} to {high}"}
        rows.append({**row, "verdict": verdict})
    return rows


def _confusions(runs: Sequence[_Run]) -> list[dict[str, Any]]:
    figures = []
    for run in runs:
        class_names = run.results["dataset"]["class_names"]
        for name, entry in _whole(run.results["entries"]).items():
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
        for name, entry in _whole(run.results["entries"]).items():
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
