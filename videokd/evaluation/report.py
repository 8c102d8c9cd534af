"""One HTML page of what runs measured: tables, curves and pictures, in one file that needs no network."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from videokd.errors import DataError
from videokd.evaluation.examples import named_picture, png_of, predictions_for
from videokd.evaluation.figures import (
    Point,
    confusion_figure,
    cost_figure,
    curves_figure,
    early_exit_figure,
    reliability_figure,
)
from videokd.evaluation.metrics import differences, reliability
from videokd.evaluation.results import Comparison, Entry, Results, read_results, results_name, results_of
from videokd.evaluation.scores import Scores, load_scores
from videokd.evaluation.tables import (
    Model,
    Validation,
    chances,
    class_tables,
    comparison_rows,
    distinct_names,
    exit_rows,
    interval_text,
    interval_units,
    is_folded,
    models_table,
    percent,
    threshold_rows,
)
from videokd.files import write_whole

_MOST_EXAMPLES = 8


@dataclass(frozen=True)
class _Run:
    """A run folder and what the report takes from it."""

    folder: Path
    results: Results
    log: Sequence[Mapping[str, Any]]
    settings: str
    pictures: Sequence[Path]
    scores: Mapping[str, Scores]
    validation: Results | None
    name: str


def write_report(
    runs: Sequence[Path | str], save: Path | str, *, title: str = "videokd", groups: Mapping[str, str] | None = None
) -> Path:
    """Write one page that shows the results of runs side by side.

    Of each run folder it shows `results.json`, and where they are there `log.jsonl` (training curves), `pictures/*.png`,
    `scores-*.npz` (predictions, calibration, differences) and `config.yaml`. The page holds everything it shows and loads nothing from elsewhere.

    Args:
        runs: one or more run folders.
        save: the page's path.
        title: the page's heading.
        groups: {video id: group}, drawn whole for the intervals of differences; without them videos are drawn.

    Returns:
        The page's path.

    Raises:
        DataError: there is no run; a run's folder has no `results.json`, or it or its scores are damaged; the page cannot be written.
    """
    if not runs:
        raise DataError("no run to report on (accepted: one or more run folders). Run `videokd evaluate RUN` first.")
    folders = list({Path(run).resolve(): Path(run) for run in runs}.values())  # a run that is named twice is shown once
    found = [results_of(folder) for folder in folders]
    names = distinct_names([results.run for results in found], folders)
    loaded = [_load_run(folder, results, name) for folder, results, name in zip(folders, found, names, strict=True)]
    template = resources.files("videokd.evaluation").joinpath("report.html").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["percent"] = percent
    page = environment.from_string(template).render(_context(loaded, title, groups or {}))
    return write_whole(save, page.encode(errors="backslashreplace"))


def groups_of_runs(runs: Sequence[Path | str]) -> dict[str, str]:
    """{video id: group} of the manifests that the runs' results name, where these are still at their paths."""
    groups: dict[str, str] = {}
    for run in runs:
        with suppress(DataError):
            groups |= results_of(run).groups()
    return groups


def _load_run(folder: Path, results: Results, name: str) -> _Run:
    log, settings, validation = folder / "log.jsonl", folder / "config.yaml", folder / results_name("val")
    of_test = results.dataset.part == "test"
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
    """The log's records; a line that was not written to its end is ignored."""
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
    """What the template shows."""
    models = [
        Model(_name_on_page(run, name, runs), entry, _validation(run, name))
        for run in runs
        for name, entry in run.results.models.items()
    ]
    datasets = [_dataset_line(run.results) for run in runs]
    return {
        "title": title,
        "datasets": list(dict.fromkeys(datasets)),
        "created": max(run.results.created for run in runs)[:10],
        "differ": len(set(datasets)) > 1,
        "intervals_over": list(dict.fromkeys(interval_units(model.entry.metrics) for model in models)),
        "models": models_table(models),
        "chances": list(dict.fromkeys(chance for run in runs for chance in chances(run.results))),
        "examples": _examples(runs),
        "pictures": _pictures(runs),
        "cost_figures": [Markup(figure) for figure in _cost_figures(models)],
        "curves": [curves for run in runs if (curves := _curves(run, runs))],
        "early_exits": [exits for run in runs if (exits := _early_exits(run, runs))],
        "reliabilities": _reliabilities(runs),
        "comparisons": comparison_rows(_comparisons(runs, groups)),
        "confusions": _confusions(runs),
        "class_tables": class_tables(
            [
                (run.results.dataset.class_names, _name_on_page(run, name, runs), entry.metrics)
                for run in runs
                for name, entry in run.results.models.items()
            ]
        ),
        "runs": [{"name": run.name, "settings": run.settings, **_provenance(run.results)} for run in runs],
    }


def _validation(run: _Run, name: str) -> Validation | None:
    """Top-1 on the clips held out in training: as evaluated, or as the log has it at the best epoch."""
    if run.validation is not None and name in run.validation.entries:
        top1 = run.validation.entries[name].metrics.top1
        return Validation(top1.value, interval_text(top1))
    key = "val/top1" if name == "fused" or len(run.results.models) == 1 else f"val/{name}"
    epochs = [record for record in run.log if _is_number(record.get("val/top1")) and _is_number(record.get(key))]
    if not epochs or run.results.dataset.part != "test":
        return None
    return Validation(max(epochs, key=lambda record: float(record["val/top1"]))[key], "best epoch")


def _scores_of_models(runs: Sequence[_Run]) -> dict[str, Scores]:
    """{name on the page: scores} of all models whose scores are there."""
    return {
        _name_on_page(run, name, runs): scores
        for run in runs
        for name, scores in run.scores.items()
        if name in run.results.models
    }


def _name_on_page(run: _Run, name: str, runs: Sequence[_Run]) -> str:
    """The entry's own name, that of its run where the run has no other, or both."""
    if len(runs) == 1:
        return name
    only_model = len(run.results.models) == 1 and not run.results.entries[name].is_exit
    return run.name if only_model else f"{run.name} · {name}"


def _dataset_line(results: Results) -> str:
    dataset = results.dataset
    manifest = Path(dataset.manifest)
    name = manifest.parent.name if manifest.stem == "manifest" and manifest.parent.name else manifest.stem
    split = f", split {dataset.split}" if dataset.split is not None else ""
    known = dataset.trained_on  # after `videokd evaluate --seen score`
    warning = f"; {known} of the videos were in training: their accuracy is too high" if known else ""
    return (
        f"{name}{split}, {dataset.part}: {dataset.num_videos} videos of {len(dataset.class_names)} classes, "
        f"{results.num_segments} segments, {results.views} views{warning}"
    )


def _provenance(results: Results) -> dict[str, str]:
    versions = ", ".join(f"{name} {version}" for name, version in results.versions.items())
    return {"command": results.command, "created": results.created, "versions": versions}


def _as_data(path: Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(png_of(path)).decode()}"


def _examples(runs: Sequence[_Run]) -> list[dict[str, Any]]:
    """Clips with their streams and each model's prediction, first those that most models classify correctly."""
    examples: dict[str, dict[str, Any]] = {}
    models = _scores_of_models(runs)
    for run in runs:
        for example in run.results.examples or ():
            path, video_id = named_picture(run.folder, example.picture), example.video_id
            predictions = predictions_for(video_id, models, run.results.dataset.class_names)
            if path.is_file() and predictions and video_id not in examples:
                names = {"video_id": video_id, "class_name": example.class_name}
                examples[video_id] = {**names, "source": _as_data(path), "predictions": predictions}
    shown = list(examples.values())[:_MOST_EXAMPLES]
    return sorted(shown, key=lambda example: -sum(prediction.correct for prediction in example["predictions"]))


def _pictures(runs: Sequence[_Run]) -> list[dict[str, str]]:
    """Each different picture that is not an example's, once, as data, with a caption from its file's name."""
    pictures: dict[str, dict[str, str]] = {}
    for run in runs:
        examples = {example.picture for example in run.results.examples or ()} if run.scores else set()
        for path in run.pictures:
            if path.name not in examples:
                source = _as_data(path)
                pictures.setdefault(source, {"caption": path.stem.replace("-", " · "), "source": source})
    return list(pictures.values())


def _early_exits(run: _Run, runs: Sequence[_Run]) -> dict[str, Any] | None:
    """The curve of one run whose students have exits, and tables of the exits and of the thresholds."""
    curves = run.results.early_exit
    if not curves:
        return None
    order = list(curves)
    each_exit: dict[str, list[Point]] = {}
    rows = []
    for name, entry in run.results.entries.items():
        student, _, part = name.partition(":")
        if student not in curves or (part and not entry.is_exit):
            continue
        if entry.macs_per_video and entry.role != "exits together":
            each_exit.setdefault(student, []).append(_point(part or "deepest", entry, entry.macs_per_video))
        rows.append((student, part or "the whole network", entry))
    rows.sort(key=lambda row: (order.index(row[0]), row[2].macs_per_video or 0, row[2].role == "exits together"))
    return {
        "name": run.name if len(runs) > 1 else "",
        "figure": Markup(early_exit_figure(curves, each_exit)),
        "table": exit_rows(rows),
        "thresholds": threshold_rows(curves),
    }


def _point(name: str, entry: Entry, cost: float) -> Point:
    top1 = entry.metrics.top1
    return Point(name, entry.role, cost, 100 * top1.value, 100 * top1.low, 100 * top1.high)


def _reliabilities(runs: Sequence[_Run]) -> list[dict[str, Any]]:
    entries = {_name_on_page(run, name, runs): entry for run in runs for name, entry in run.results.entries.items()}
    figures = []
    for name, scores in _scores_of_models(runs).items():
        error = entries[name].metrics.calibration_error
        about = f"{percent(error.value)} % ({interval_text(error)})" if error else ""
        figure = Markup(reliability_figure(reliability(scores), title=name))
        figures.append({"name": name, "error": about, "figure": figure})
    return figures


def _cost_figures(models: Sequence[Model]) -> list[str]:
    """Accuracy over the first two costs that two models or more have."""
    costs: dict[str, Callable[[Entry], float | None]] = {
        "MACs per video": lambda entry: entry.macs_per_video,
        "ms per video": lambda entry: entry.total_ms,
        "parameters": lambda entry: entry.parameters,
    }
    figures = []
    for label, cost in costs.items():
        points = [_point(model.name, model.entry, value) for model in models if (value := cost(model.entry))]
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


def _comparisons(runs: Sequence[_Run], groups: Mapping[str, str]) -> list[Comparison]:
    """The runs' own comparisons, then every model against the fused teachers, or else against the best model."""
    found = [
        replace(each, a=_name_on_page(run, each.a, runs), b=_name_on_page(run, each.b, runs))
        for run in runs
        for each in run.results.comparisons or ()
    ]
    models = _scores_of_models(runs)
    if len(models) > 1:
        entries = {_name_on_page(run, name, runs): entry for run in runs for name, entry in run.results.entries.items()}
        fused = [name for name in models if entries[name].role == "fused teachers"]
        reference = max(fused or models, key=lambda name: entries[name].metrics.top1.value)
        found += differences(models, reference=reference, groups=groups, known=[(each.a, each.b) for each in found])
    return found


def _confusions(runs: Sequence[_Run]) -> list[dict[str, Any]]:
    figures = []
    for run in runs:
        class_names = run.results.dataset.class_names
        for name, entry in run.results.models.items():
            if entry.metrics.confusion is not None:
                title = _name_on_page(run, name, runs)
                svg = confusion_figure(entry.metrics.confusion, class_names, title=title)
                figures.append({"name": title, "figure": Markup(svg), "folded": is_folded(class_names)})
    return figures
