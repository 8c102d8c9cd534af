"""Scores files of several networks fused into one: with given weights or the best ones, and as a run of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from videokd.distill.calibration import calibrate as best_temperature
from videokd.distill.fusion import fuse, sweep_weights
from videokd.errors import DataError
from videokd.evaluation.metrics import metrics, top1
from videokd.evaluation.overlap import check_scores_file
from videokd.evaluation.results import (
    Entry,
    Interval,
    Latency,
    Metrics,
    Results,
    read_results,
    results_name,
    scores_name,
    write_results,
)
from videokd.evaluation.scores import Scores, align, check_described, save_scores
from videokd.messages import say


@dataclass(frozen=True)
class FusedScores:
    """What `fuse_scores` returns.

    Args:
        scores: the fused ones.
        metrics: of them.
        weights: {name: share}, whose sum is 1.
        temperatures: {name: what its logits were divided by}.
        top1_of_each: {name: top-1 of its own scores}.
    """

    scores: Scores
    metrics: Metrics
    weights: dict[str, float]
    temperatures: dict[str, float]
    top1_of_each: dict[str, Interval]

    def as_plain(self) -> dict[str, Any]:
        """What `videokd fuse --format json` prints: accuracies in [0, 1]."""
        accuracies = {name: getattr(self.metrics, name).value for name in ("top1", "top5", "mean_class")}
        return {
            **accuracies,
            "weights": self.weights,
            "temperatures": self.temperatures,
            "num_videos": len(self.scores),
            "alone": {name: interval.value for name, interval in self.top1_of_each.items()},
        }

    def as_table(self) -> list[str]:
        """What `videokd fuse` prints: weight, temperature and top-1 of each, and of all fused."""
        lines = [f"{'':<16}{'weight':>8}{'T':>8}{'top-1 %':>10}"]
        for name, each in self.top1_of_each.items():
            numbers = f"{self.weights[name]:>8.3f}{self.temperatures[name]:>8.3f}{100 * each.value:>10.2f}"
            lines.append(f"{name:<16}{numbers}")
        found = self.metrics
        lines.append(f"{'fused':<16}{'':>16}{100 * found.top1.value:>10.2f}")
        rest = f"top-5 {100 * found.top5.value:.2f}, mean class {100 * found.mean_class.value:.2f}"
        return [*lines, f"{len(self.scores)} videos; {rest}"]


def fuse_scores(
    paths: Mapping[str, Path],
    *,
    weights: Mapping[str, float] | None = None,
    space: Literal["logits", "probs"] = "logits",
    temperature: float = 1.0,
    calibrate: bool = False,
    sweep: bool = False,
) -> FusedScores:
    """Fuses scores files of the same videos.

    Args:
        paths: {name: scores-*.npz}.
        weights: {name: weight}; equal ones by default.
        space: fuse logits or probabilities.
        temperature: of fusing probabilities.
        calibrate: divide each one's logits by the temperature that suits these scores best, before fusing.
        sweep: find the weights that are best on these scores, instead of taking given ones.

    Raises:
        DataError: a file cannot be read, the videos differ, or a run was trained on some of them.
    """
    found = {path: _found_beside(path) for path in paths.values()}
    for path, beside in found.items():
        if beside is not None:
            check_described(path, beside[1], beside[0])
    scores = align({name: Scores.load(path) for name, path in paths.items()})
    first = next(iter(scores.values()))
    labels = torch.from_numpy(first.labels)
    for path, beside in found.items():
        check_scores_file(path, beside[0] if beside is not None else None, first.video_ids)
    if sweep or calibrate:
        _warn_of_choices_on_test(paths, found=" and --".join(["sweep"] * sweep + ["calibrate"] * calibrate))
    logits = {name: torch.from_numpy(each.logits) for name, each in scores.items()}
    temperatures = dict.fromkeys(scores, 1.0)
    if calibrate:
        temperatures = {name: best_temperature(values, labels) for name, values in logits.items()}
        logits = {name: values / temperatures[name] for name, values in logits.items()}
    used = dict(weights or {}) or dict.fromkeys(scores, 1.0)
    if sweep:
        used, _ = sweep_weights(logits, labels, space=space, temperature=temperature)
    fused = fuse(logits, used, space=space, temperature=temperature)  # type: ignore[arg-type]
    together = Scores(fused.numpy(), first.labels, first.video_ids)
    total = sum(used.values())
    return FusedScores(
        scores=together,
        metrics=metrics(together),
        weights={name: weight / total for name, weight in used.items()},
        temperatures=temperatures,
        top1_of_each={name: top1(each, bootstrap=1) for name, each in scores.items()},
    )


def write_fused_run(out: Path, paths: Sequence[Path], fused: Scores, *, command: str) -> None:
    """Writes fused scores and their results into a folder of their own, for `videokd report`.

    Args:
        out: the folder.
        paths: of the fused scores files; costs are the sums of those in the results beside them.
        fused: their fused scores.
        command: that the results name.

    Raises:
        DataError: there are no results beside a file, or the folder cannot be written.
    """
    out.mkdir(parents=True, exist_ok=True)
    parts = [_entry_beside(path) for path in paths]
    first, entries = parts[0][0], [results.entries[name] for results, name in parts]
    groups = first.groups()
    known = all(video_id in groups for video_id in fused.video_ids)
    entry = Entry(
        role="fused teachers" if {each.role for each in entries} == {"teacher"} else "students fused",
        streams=tuple(dict.fromkeys(stream for each in entries for stream in each.streams)),
        backbone=" + ".join(sorted({str(each.backbone) for each in entries})),
        parameters=_sum([each.parameters for each in entries]),
        macs_per_video=_sum([each.macs_per_video for each in entries]),
        latency_ms=_sum_of_latencies([each.latency_ms for each in entries]),
        metrics=metrics(
            fused,
            class_names=first.dataset.class_names,
            groups=[groups[video_id] for video_id in fused.video_ids] if known else None,
        ),
    )
    trained_on = max(results.dataset.trained_on or 0 for results, _ in parts)
    results = Results(
        run=out.name,
        verb="fuse",
        command=command,
        dataset=replace(first.dataset, trained_on=trained_on or None),
        views=first.views,
        num_segments=first.num_segments,
        entries={"fused": entry},
    )
    part = first.dataset.part
    written = save_scores(out, {"fused": fused}, part=part)
    write_results(out / results_name(part), replace(results, scores_sha256=written))
    say(f"{out}: fused scores and {results_name(part)}")


def _sum(counts: Sequence[int | None]) -> int | None:
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None


def _sum_of_latencies(latencies: Sequence[Latency | None]) -> Latency | None:
    """Networks that run one after the other; None where one of them was not timed."""
    known = [each for each in latencies if each is not None]
    if len(known) < len(latencies):
        return None
    read = [each.read for each in known if each.read is not None]
    network = [each.network for each in known if each.network is not None]
    return Latency(
        read=sum(read) if len(read) == len(known) else None,
        network=sum(network) if len(network) == len(known) else None,
        total=sum(each.total for each in known),
    )


def _found_beside(path: Path) -> tuple[Results, str] | None:
    """The results beside a scores file, and the name of the entry it belongs to; None where they are missing or damaged."""
    try:
        return _entry_beside(path)
    except DataError:
        return None


def _entry_beside(path: Path) -> tuple[Results, str]:
    """The results beside a scores file, and the name of the entry that it belongs to.

    Raises:
        DataError: there are none, or they have no such entry.
    """
    for part in ("val", "test"):
        if part == "val" and not (path.parent / results_name(part)).is_file():
            continue
        results = read_results(path.parent / results_name(part))
        for name in results.entries:
            if scores_name(name, part=part) == path.name:
                return results, name
    raise DataError(
        f"{path.parent} has no results for {path.name} (accepted: scores files as `videokd evaluate` names them). Run "
        f"`videokd evaluate {path.parent}` again."
    )


def _warn_of_choices_on_test(paths: Mapping[str, Path], *, found: str) -> None:
    """Weights and temperatures that suit the test videos make any result on them too good."""
    for path in paths.values():
        beside = _found_beside(path)
        if beside is not None and beside[0].dataset.part == "test":
            say(
                f"warning: {path} has scores of the test part: do not test there what --{found} finds there. "
                f"Make validation scores with `videokd evaluate {path.parent} --part val`, which writes scores-val-*.npz."
            )
            return
