"""`videokd fuse`: fuses scores files, or finds weights for them."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from videokd.datasets.manifest import Manifest
from videokd.distill.calibration import calibrate
from videokd.distill.fusion import fuse, sweep_weights
from videokd.errors import ConfigError, DataError
from videokd.evaluation.metrics import metrics
from videokd.evaluation.overlap import check_scores_file
from videokd.evaluation.results import about, read_results, results_name, scores_name, write_results
from videokd.evaluation.scores import Scores, align
from videokd.messages import give, say
from videokd.recipes.command_line import parse

_COUNTED = ("parameters", "macs_per_video")


@dataclass(frozen=True)
class Fuse:
    """Fuses scores files of the same videos, with weights.

    Args:
        scores: {name: scores-*.npz}.
        weights: {name: weight}; equal ones if left out.
        space: fuse logits or probabilities.
        temperature: of fusing probabilities.
        calibrate: divide each one's logits by the temperature that suits these scores best, before fusing, and print it; use
            validation scores, and pass what it prints to `videokd distill` as `--temperatures.NAME`.
        sweep: find the weights that do best on these scores; use validation scores (`videokd evaluate --part val` writes
            scores-val-*.npz).
        out: a folder to write the fused scores and results.json to, for `videokd report`.
        format: of what is printed.
    """

    scores: dict[str, str] = field(default_factory=dict)
    weights: dict[str, float] = field(default_factory=dict)
    space: Literal["logits", "probs"] = "logits"
    temperature: float = 1.0
    calibrate: bool = False
    sweep: bool = False
    out: str | None = None
    format: Literal["table", "json"] = "table"

    def __post_init__(self) -> None:
        if not self.scores:
            raise ConfigError(
                "no scores given (accepted: one or more). Name them as `--scores.motion RUN/scores-motion.npz`."
            )
        if self.weights and set(self.weights) != set(self.scores):
            raise ConfigError(
                f"weights: {', '.join(self.weights)} (accepted: {', '.join(self.scores)}). Give one for each scores file."
            )
        if self.weights and self.sweep:
            raise ConfigError("weights and sweep exclude each other. Leave one of them out.")


def main(arguments: Sequence[str]) -> None:
    """The verb."""
    settings = parse(Fuse, arguments, verb="fuse")
    results = fuse_scores(settings, command="videokd fuse " + shlex.join(arguments))
    give([json.dumps(results)] if settings.format == "json" else _table(results))


def fuse_scores(settings: Fuse, *, command: str) -> dict[str, Any]:
    """Fuses, and writes the folder if one is named.

    Returns:
        {"top1", "top5", "mean_class", each in [0, 1]; "weights": {name: share}; "temperatures": {name: T}; "num_videos"; "alone": {name: top-1}}.
    """
    scores = align({name: Scores.load(path) for name, path in settings.scores.items()})
    for path in settings.scores.values():
        check_scores_file(Path(path), _results_beside(Path(path)), next(iter(scores.values())).video_ids)
    _warn_of_choices_on_test(settings)
    logits = {name: torch.from_numpy(each.logits) for name, each in scores.items()}
    first = next(iter(scores.values()))
    temperatures = dict.fromkeys(scores, 1.0)
    if settings.calibrate:
        temperatures = {name: calibrate(values, torch.from_numpy(first.labels)) for name, values in logits.items()}
        logits = {name: values / temperatures[name] for name, values in logits.items()}
    weights = dict(settings.weights) or dict.fromkeys(scores, 1.0)
    if settings.sweep:
        labels = torch.from_numpy(first.labels)
        weights, _ = sweep_weights(logits, labels, space=settings.space, temperature=settings.temperature)
    fused = fuse(logits, weights, space=settings.space, temperature=settings.temperature)  # type: ignore[arg-type]
    together = Scores(fused.numpy(), first.labels, first.video_ids)
    numbers = metrics(together)
    total = sum(weights.values())
    if settings.out is not None:
        _write_run(settings, together, command=command)
    return {
        **{name: numbers[name]["value"] for name in ("top1", "top5", "mean_class")},
        "weights": {name: weight / total for name, weight in weights.items()},
        "temperatures": temperatures,
        "num_videos": len(together),
        "alone": {name: metrics(each, bootstrap=1)["top1"]["value"] for name, each in scores.items()},
    }


def _results_beside(path: Path) -> dict[str, Any] | None:
    try:
        return _entry_beside(path)[0]
    except DataError:
        return None


def _table(results: Mapping[str, Any]) -> list[str]:
    lines = [f"{'':<16}{'weight':>8}{'T':>8}{'top-1 %':>10}"]
    for name, top1 in results["alone"].items():
        lines.append(
            f"{name:<16}{results['weights'][name]:>8.3f}{results['temperatures'][name]:>8.3f}{100 * top1:>10.2f}"
        )
    lines.append(f"{'fused':<16}{'':>16}{100 * results['top1']:>10.2f}")
    lines.append(
        f"{results['num_videos']} videos; top-5 {100 * results['top5']:.2f}, mean class {100 * results['mean_class']:.2f}"
    )
    return lines


def _write_run(settings: Fuse, fused: Scores, *, command: str) -> None:
    """results.json with one entry: costs are the sums of those whose results lie beside their scores."""
    if settings.out is None:
        return
    out = Path(settings.out)
    out.mkdir(parents=True, exist_ok=True)
    parts = [_entry_beside(Path(path)) for path in settings.scores.values()]
    results, entries = parts[0][0], [entry for _, entry in parts]
    roles = {entry["role"] for entry in entries}
    latency = [entry["latency_ms"] for entry in entries]
    entry = {
        "role": "fused teachers" if roles == {"teacher"} else "students fused",
        "streams": list(dict.fromkeys(stream for entry in entries for stream in entry["streams"])),
        "backbone": " + ".join(sorted({str(entry["backbone"]) for entry in entries})),
        **{name: _sum([entry[name] for entry in entries]) for name in _COUNTED},
        "latency_ms": None
        if None in latency
        else {part: _sum([each[part] for each in latency]) for part in ("read", "network", "total")},
        "metrics": metrics(fused, class_names=results["dataset"]["class_names"], groups=_groups(results, fused)),
    }
    part = results["dataset"]["part"]
    fused.save(out / scores_name("fused", part=part))
    head = {name: results[name] for name in ("dataset", "views", "num_segments")}
    most_trained_on = max(each["dataset"].get("trained_on", 0) for each, _ in parts)
    if most_trained_on:
        head["dataset"] = head["dataset"] | {"trained_on": most_trained_on}
    write_results(
        out / results_name(part), about(out.name, verb="fuse", command=command) | head | {"entries": {"fused": entry}}
    )
    say(f"{out}: fused scores and {results_name(part)}")


def _entry_beside(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The results beside a scores file, and the entry that it belongs to.

    Raises:
        DataError: there are none, or they have no such entry.
    """
    for part in ("val", "test"):
        if part == "val" and not (path.parent / results_name(part)).is_file():
            continue
        results = read_results(path.parent / results_name(part))
        for name, entry in results["entries"].items():
            if scores_name(name, part=part) == path.name:
                return results, entry
    raise DataError(
        f"{path.parent} has no results for {path.name}. Run `videokd evaluate {path.parent}` again, and name the file as it was written."
    )


def _warn_of_choices_on_test(settings: Fuse) -> None:
    """Weights and temperatures that suit the test videos make any result on them too good."""
    if not (settings.sweep or settings.calibrate):
        return
    for path in map(Path, settings.scores.values()):
        try:
            results, _ = _entry_beside(path)
        except DataError:
            continue
        if results["dataset"]["part"] == "test":
            found = " and --".join(name for name in ("sweep", "calibrate") if getattr(settings, name))
            say(
                f"warning: {path} has scores of the test part: what --{found} finds there must not be tested there. "
                f"Make validation scores with `videokd evaluate {path.parent} --part val`, which writes scores-val-*.npz."
            )
            return


def _groups(results: Mapping[str, Any], scores: Scores) -> list[str] | None:
    """The videos' groups, for the intervals; None where the manifest has moved since."""
    try:
        groups = {clip.video_id: clip.group for clip in Manifest.read(results["dataset"]["manifest"]).clips}
        return [groups[video_id] for video_id in scores.video_ids]
    except (DataError, KeyError):
        return None


def _sum(values: Sequence[float | None]) -> float | None:
    return None if None in values else sum(value for value in values if value is not None)
