"""`videokd evaluate`: the test protocol on a run."""

from __future__ import annotations

import datetime
import platform
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from einops import rearrange
from torch import nn

import videokd
from videokd.datasets.dataset import ClipDataset, collate
from videokd.datasets.manifest import Clip, Manifest
from videokd.errors import ConfigError, DataError
from videokd.evaluation.cost import macs, parameters, time_ms
from videokd.evaluation.results import results_name, scores_name, write_results
from videokd.evaluation.scores import Scores, metrics
from videokd.messages import say
from videokd.models.students import Students
from videokd.recipes.command_line import parse
from videokd.recipes.examples import choose_examples, draw_examples
from videokd.recipes.exit_results import ENSEMBLE, cost_of, early_exit_curves, path_to
from videokd.recipes.overlap import Seen, unseen_clips
from videokd.recipes.runs import TrainedRun, check_same_classes, load_run, read_manifest
from videokd.recipes.scoring import (
    finished_results,
    finished_scores,
    key_of,
    partial_scores,
    pictures_are_there,
    score,
    scores_key,
)
from videokd.recipes.settings import Device, PrecisionName
from videokd.training.session import Precision, pick_device

#: Segments of a video in each protocol; the full one is CoViAR's (25 segments, 10 crops).
_NUM_SEGMENTS = {"quick": 8, "full": 25}
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
    manifest = read_manifest(settings.manifest or run.settings["manifest"])
    check_same_classes(run, manifest)
    precision = Precision(settings.precision, pick_device(settings.device))
    students = run.students.to(precision.device)
    split = settings.split or run.settings["split"]
    clips = _clips(manifest, run, part=settings.part, split=split)
    clips, num_trained_on = unseen_clips(run, clips, part=settings.part, seen=settings.seen)
    dataset = _dataset(settings, run, manifest, clips)
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
    _check_file_names(scores)
    results = {
        **about(run.path.name, verb="evaluate", command=command),
        "dataset": describe_dataset(manifest, split=split, part=settings.part, num_videos=len(clips))
        | ({"trained_on": num_trained_on} if num_trained_on else {}),
        "seen": settings.seen,
        "views": settings.views,
        "num_segments": dataset.num_segments,
        "made_from": made_from,
        **_measured(settings, run, scores, dataset, precision),
    }
    shown = choose_examples(scores.get("fused", next(iter(scores.values()))), clips, count=settings.pictures)
    results["examples"] = draw_examples(manifest, shown, run.path / "pictures", part=settings.part)
    for name, each in scores.items():
        each.save(run.path / scores_name(name, part=settings.part))
    write_results(run.path / results_name(settings.part), results)
    partial.remove()
    _tell(run, results)
    return results


def _dataset(settings: Evaluate, run: TrainedRun, manifest: Manifest, clips: tuple[Clip, ...]) -> ClipDataset:
    students = run.students
    return ClipDataset(
        manifest,
        clips,
        students.streams,
        # networks that see the segments' order see as many as they were trained with
        num_segments=settings.num_segments
        or (students.num_segments if students.sees_order else _NUM_SEGMENTS[settings.views]),
        input_size=students.input_size,
        views=settings.views,
        blank_invalid=bool(run.settings.get("data", {}).get("blank_invalid", False)),
    )


def _measured(
    settings: Evaluate, run: TrainedRun, scores: Mapping[str, Scores], dataset: ClipDataset, precision: Precision
) -> dict[str, Any]:
    """Accuracy and cost of each entry, and of early exits where there are exits."""
    groups = {clip.video_id: clip.group for clip in dataset.clips}
    timing = _timing(run.students, scores, dataset, precision, videos=settings.timed_videos)
    entries = {name: _entry(name, each, run, dataset, groups, timing) for name, each in scores.items()}
    view = {name: values[:1] for name, values in _views(dataset, precision.device).items()}
    curves = early_exit_curves(
        run.students, scores, view, num_views=dataset.num_views, groups=[clip.group for clip in dataset.clips]
    )
    return {"entries": entries} | ({"early_exit": curves} if curves else {})


def _other_settings(settings: Evaluate, clips: Sequence[Clip], precision: Precision) -> str:
    """A name for what the results depend on beside the scores."""
    values = {name: getattr(settings, name) for name in ("part", "split", "seen", "timed_videos", "pictures")}
    machine = [platform.node(), str(precision.device), torch.get_num_threads()]
    return key_of([values, [clip.group for clip in clips], machine])


def _check_file_names(scores: Mapping[str, Scores]) -> None:
    """See that each network's scores have files of their own, in both parts."""
    names = [(scores_name(name, part=part), name) for part in ("test", "val") for name in scores]
    owner: dict[str, str] = {}
    for file, name in names:
        if owner.setdefault(file, name) != name:
            raise ConfigError(
                f"the scores of {owner[file]} and of {name} would both be {file} (accepted: names that differ in more than `val-` or "
                "`-exit1`). Train with other names of students."
            )


def _tell(run: TrainedRun, results: Mapping[str, Any]) -> None:
    part = "" if results["dataset"]["part"] == "test" else f" on {results['dataset']['part']}"
    for name, entry in results["entries"].items():
        top1 = entry["metrics"]["top1"]
        interval = f"{100 * top1['low']:.1f} to {100 * top1['high']:.1f}"
        say(f"{run.path.name}: {name}: top-1{part} {100 * top1['value']:.1f}% ({interval})")


def about(run: str, *, verb: str, command: str) -> dict[str, Any]:
    """The head of results.json: which run, made how, when and with what."""
    return {
        "run": run,
        "verb": verb,
        "command": command,
        "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "versions": {
            "videokd": videokd.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
            "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
        },
    }


def describe_dataset(manifest: Manifest, *, split: int, part: str, num_videos: int) -> dict[str, Any]:
    """The dataset as results.json names it."""
    return {
        "manifest": str(manifest.root),
        "split": split,
        "part": part,
        "num_videos": num_videos,
        "class_names": list(manifest.class_names),
    }


def _clips(manifest: Manifest, run: TrainedRun, *, part: Literal["test", "val"], split: int) -> tuple[Clip, ...]:
    val_fraction = float(run.settings.get("data", {}).get("val_fraction", 0.0))
    clips = (
        manifest.select(part, split=split, val_fraction=val_fraction, seed=0) if part == "test" or val_fraction else ()
    )
    if not clips:
        raise DataError(f"{manifest.root}: split {split} has no clips for {part}. Choose another part or split.")
    return clips


def _entry(
    name: str,
    scores: Scores,
    run: TrainedRun,
    dataset: ClipDataset,
    groups: Mapping[str, str],
    timing: Mapping[str, Mapping[str, float]],
) -> dict[str, Any]:
    students = run.students
    members = list(students.specs) if name == "fused" else [name.partition(":")[0]]
    views = _views(dataset, next(students.parameters()).device)
    if ":" in name:
        first = {stream: values[:1] for stream, values in views.items()}
        cost = cost_of(path_to(students, name), first, num_views=dataset.num_views)
    else:
        cost = {
            "parameters": sum(parameters(students.members[member]) for member in members),
            "macs_per_video": sum(macs(students.members[member], views) for member in members),
        }
    backbones = sorted({students.specs[member].backbone for member in members})
    return {
        "role": _role(name, run),
        "streams": list(dict.fromkeys(s for member in members for s in students.specs[member].streams)),
        "backbone": " + ".join(backbones),
        **cost,
        "latency_ms": dict(timing[name]) if name in timing else None,
        "metrics": metrics(scores, class_names=students.class_names, groups=[groups[v] for v in scores.video_ids]),
    }


def _role(name: str, run: TrainedRun) -> str:
    if ":" in name:
        return "exits together" if name.endswith(f":{ENSEMBLE}") else "exit"
    return "students fused" if name == "fused" else run.role


def _views(dataset: ClipDataset, device: torch.device) -> dict[str, torch.Tensor]:
    """One video's views side by side: {stream: uint8 [V, S, C, H, W]}."""
    streams = collate([dataset[0]]).to(device).streams
    return {
        name: rearrange(values, "1 (v s) c h w -> v s c h w", v=dataset.num_views) for name, values in streams.items()
    }


def _timing(
    students: Students, names: Iterable[str], dataset: ClipDataset, precision: Precision, *, videos: int
) -> dict[str, dict[str, float]]:
    """{network: milliseconds a video, from file to label}, one video at a time: medians, and the 95th percentile of the total.

    A network's reading time is that of its own streams.
    """
    videos = min(videos, len(dataset))
    if not videos:
        return {}
    timing = {}
    for name in names:
        members = list(students.specs) if name == "fused" else [name.partition(":")[0]]
        networks = [path_to(students, name)] if ":" in name else [students.members[member] for member in members]
        streams = tuple(dict.fromkeys(s for member in members for s in students.specs[member].streams))
        own = ClipDataset(
            dataset.manifest,
            dataset.clips,
            streams,
            num_segments=dataset.num_segments,
            input_size=dataset.input_size,
            views=dataset.views,
            blank_invalid=dataset.blank_invalid,
        )
        timing[name] = _time_networks(networks, own, precision, videos=videos)
    return timing


def _time_networks(
    networks: Sequence[nn.Module], dataset: ClipDataset, precision: Precision, *, videos: int
) -> dict[str, float]:
    views = _views(dataset, precision.device)

    def network() -> None:
        with torch.no_grad(), precision.autocast():
            for each in networks:
                each(views)

    def milliseconds(work: Callable[[], object]) -> float:
        return time_ms(work, repeats=1, warmup=0, device=precision.device)["p50"]

    shown = np.linspace(0, len(dataset) - 1, videos).astype(int).tolist()
    times = [(milliseconds(partial(dataset.__getitem__, at)), milliseconds(network)) for at in (shown[0], *shown)]
    each_video = np.array(times[1:])  # [videos, 2]; the first went before to warm up
    read, run = np.median(each_video, axis=0).tolist()
    p50, p95 = np.percentile(each_video.sum(axis=1), (50, 95)).tolist()
    return {"read": read, "network": run, "total": p50, "p95": p95}
