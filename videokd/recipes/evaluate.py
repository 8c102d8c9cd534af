"""`videokd evaluate`: the test protocol on a run."""

from __future__ import annotations

import platform
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from videokd.datasets.manifest import Clip, read_manifest
from videokd.errors import ConfigError
from videokd.evaluation.examples import choose_examples, draw_examples
from videokd.evaluation.overlap import Seen, unseen_clips
from videokd.evaluation.protocol import (
    check_file_names,
    finished_results,
    finished_scores,
    key_of,
    measure,
    partial_scores,
    pictures_are_there,
    protocol_clips,
    protocol_dataset,
    score,
    scores_key,
)
from videokd.evaluation.results import about, describe_dataset, results_name, scores_name, write_results
from videokd.messages import say
from videokd.recipes.command_line import parse
from videokd.training.device import Precision, pick_device
from videokd.training.run_folder import TrainedRun, check_same_classes, load_run
from videokd.training.settings import Device, PrecisionName

_MOST_PICTURES = 12


@dataclass(frozen=True)
class Evaluate:
    """Runs the test protocol on a run, and writes scores, results and pictures into it.

    Stopped and started again, it resumes; each part has files of its own (`results-val.json`, `scores-val-*.npz`).

    Args:
        run: folder of `videokd teach` or `videokd distill`.
        manifest: other clips than those the run was trained on.
        split: another split than the run's.
        part: test, or val: the clips held out in training.
        seen: clips that the run was trained on: refuse them all, omit them, or score them all the same.
        views: full is CoViAR's 25 segments and 10 crops (5 where mirroring is off); quick is 8 segments and 1 crop.
        num_segments: another number of segments.
        batch_size: videos at a time.
        workers: processes that load videos.
        device: auto takes CUDA where there is one.
        precision: fp32, bf16, or fp16 (CUDA only).
        timed_videos: how many videos are timed from file to label, one at a time; 0 times none.
        pictures: of how many videos the streams are drawn: half of them such that were named wrongly, if there are as many.
    """

    run: str
    manifest: str | None = None
    split: int | None = None
    part: Literal["test", "val"] = "test"
    seen: Seen = "refuse"
    views: Literal["quick", "full"] = "full"
    num_segments: int | None = None
    batch_size: int = 4
    workers: int = 2
    device: Device = "auto"
    precision: PrecisionName = "fp32"
    timed_videos: int = 10
    pictures: int = 6

    def __post_init__(self) -> None:
        segments = 1 if self.num_segments is None else self.num_segments
        if not 1 <= self.batch_size <= 10_000 or not 1 <= segments <= 1000:
            raise ConfigError(
                f"batch_size is {self.batch_size}, num_segments {self.num_segments} (accepted: 1 to 10000, 1 to 1000). Correct the settings."
            )
        if not 0 <= self.pictures <= _MOST_PICTURES or not 0 <= self.workers <= 256 or self.timed_videos < 0:
            raise ConfigError(
                f"pictures is 0 to {_MOST_PICTURES}, workers 0 to 256, timed_videos 0 or more. Correct the settings."
            )


def main(arguments: Sequence[str]) -> None:
    """The verb."""
    settings = parse(Evaluate, arguments, verb="evaluate", positional=("run",))
    evaluate(settings, command="videokd evaluate " + shlex.join(arguments))


def evaluate(settings: Evaluate, *, command: str) -> dict[str, Any]:
    """Evaluates every network of a run, and all together; returns what results.json holds."""
    run = load_run(settings.run)
    manifest = read_manifest(settings.manifest or run.settings.manifest)
    check_same_classes(run, manifest)
    precision = Precision(settings.precision, pick_device(settings.device))
    students = run.students.to(precision.device)
    split = settings.split or run.settings.split
    clips = protocol_clips(manifest, run, part=settings.part, split=split)
    clips, num_trained_on = unseen_clips(run, clips, part=settings.part, seen=settings.seen)
    dataset = protocol_dataset(run, manifest, clips, views=settings.views, num_segments=settings.num_segments)
    key = scores_key(run.weights, dataset, precision)
    made_from = {"scores": key, "settings": _other_settings(settings, clips, precision)}
    before = finished_results(run.path, part=settings.part, key=key)
    if before is not None and before["made_from"] == made_from and pictures_are_there(run.path, before):
        name = results_name(settings.part)
        say(f"{run.path.name}: evaluated already, on {before['created']}. Delete {name} to measure again.")
        _tell(run, before)
        return before
    partial = partial_scores(run.path, key=key, num_videos=len(clips))
    how = {"batch_size": settings.batch_size, "workers": settings.workers, "title": run.path.name}
    scores = finished_scores(run.path, before, dataset) if before is not None else None
    scores = scores or score(students, dataset, precision, partial, **how)  # type: ignore[arg-type]
    check_file_names(scores)
    results = {
        **about(run.path.name, verb="evaluate", command=command),
        "dataset": describe_dataset(manifest, split=split, part=settings.part, num_videos=len(clips))
        | ({"trained_on": num_trained_on} if num_trained_on else {}),
        "seen": settings.seen,
        "views": settings.views,
        "num_segments": dataset.num_segments,
        "made_from": made_from,
        **measure(run, scores, dataset, precision, timed_videos=settings.timed_videos),
    }
    shown = choose_examples(scores.get("fused", next(iter(scores.values()))), clips, count=settings.pictures)
    results["examples"] = draw_examples(manifest, shown, run.path / "pictures", part=settings.part)
    for name, each in scores.items():
        each.save(run.path / scores_name(name, part=settings.part))
    write_results(run.path / results_name(settings.part), results)
    partial.remove()
    _tell(run, results)
    return results


def _other_settings(settings: Evaluate, clips: Sequence[Clip], precision: Precision) -> str:
    """A name for what the results depend on beside the scores."""
    values = {name: getattr(settings, name) for name in ("part", "split", "seen", "timed_videos", "pictures")}
    machine = [platform.node(), str(precision.device), torch.get_num_threads()]
    return key_of([values, [clip.group for clip in clips], machine])


def _tell(run: TrainedRun, results: Mapping[str, Any]) -> None:
    part = "" if results["dataset"]["part"] == "test" else f" on {results['dataset']['part']}"
    for name, entry in results["entries"].items():
        top1 = entry["metrics"]["top1"]
        interval = f"{100 * top1['low']:.1f} to {100 * top1['high']:.1f}"
        say(f"{run.path.name}: {name}: top-1{part} {100 * top1['value']:.1f}% ({interval})")
