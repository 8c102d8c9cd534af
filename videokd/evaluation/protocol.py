"""The test protocol: which clips, in which views; their logits, resumed where an evaluation was interrupted; what results.json says of each network."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from einops import rearrange
from torch import nn
from tqdm import tqdm

import videokd
from videokd.datasets.dataset import ClipDataset, collate, evaluation_batches
from videokd.datasets.manifest import Clip, Manifest
from videokd.errors import ConfigError, DataError
from videokd.evaluation.cost import macs, parameters, time_ms
from videokd.evaluation.exits import ENSEMBLE, cost_of, early_exit_curves, path_to, with_ensembles
from videokd.evaluation.metrics import metrics
from videokd.evaluation.partial_scores import PartialScores
from videokd.evaluation.results import read_results, results_name, scores_name
from videokd.evaluation.scores import Scores, load_scores
from videokd.messages import say
from videokd.models.students import Students
from videokd.training.device import Precision
from videokd.training.run_folder import TrainedRun
from videokd.training.validate import predict_batches

#: Segments of a video in each protocol; the full one is CoViAR's (25 segments, 10 crops).
_NUM_SEGMENTS = {"quick": 8, "full": 25}


def protocol_dataset(
    run: TrainedRun,
    manifest: Manifest,
    clips: tuple[Clip, ...],
    *,
    views: Literal["quick", "full"],
    num_segments: int | None = None,
) -> ClipDataset:
    """The clips as the protocol sees them.

    Args:
        run: the trained networks.
        manifest: of the clips.
        clips: to score.
        views: full is CoViAR's 25 segments and 10 crops; quick is 8 segments and 1 crop.
        num_segments: another number of segments.
    """
    students = run.students
    return ClipDataset(
        manifest,
        clips,
        students.streams,
        # networks that see the segments' order see as many as they were trained with
        num_segments=num_segments or (students.num_segments if students.sees_order else _NUM_SEGMENTS[views]),
        input_size=students.input_size,
        views=views,
    )


def measure(
    run: TrainedRun, scores: Mapping[str, Scores], dataset: ClipDataset, precision: Precision, *, timed_videos: int
) -> dict[str, Any]:
    """Accuracy and cost of each entry, and of early exits where there are exits; of so many videos the latency."""
    groups = {clip.video_id: clip.group for clip in dataset.clips}
    timing = latency_of(run.students, scores, dataset, precision, videos=timed_videos)
    entries = {name: _entry_of(name, each, run, dataset, groups, timing) for name, each in scores.items()}
    view = {name: values[:1] for name, values in one_video(dataset, precision.device).items()}
    curves = early_exit_curves(
        run.students, scores, view, num_views=dataset.num_views, groups=[clip.group for clip in dataset.clips]
    )
    return {"entries": entries} | ({"early_exit": curves} if curves else {})


def check_file_names(scores: Mapping[str, Scores]) -> None:
    """See that each network's scores have files of their own, in both parts."""
    names = [(scores_name(name, part=part), name) for part in ("test", "val") for name in scores]
    owner: dict[str, str] = {}
    for file, name in names:
        if owner.setdefault(file, name) != name:
            raise ConfigError(
                f"the scores of {owner[file]} and of {name} would both be {file} (accepted: names that differ in more than `val-` or "
                "`-exit1`). Train with other names of students."
            )


def protocol_clips(
    manifest: Manifest, run: TrainedRun, *, part: Literal["test", "val"], split: int
) -> tuple[Clip, ...]:
    """The clips of a part.

    Raises:
        DataError: it has none.
    """
    val_fraction = run.settings.data.val_fraction
    clips = (
        manifest.select(part, split=split, val_fraction=val_fraction, seed=0) if part == "test" or val_fraction else ()
    )
    if not clips:
        raise DataError(f"{manifest.root}: split {split} has no clips for {part}. Choose another part or split.")
    return clips


def _entry_of(
    name: str,
    scores: Scores,
    run: TrainedRun,
    dataset: ClipDataset,
    groups: Mapping[str, str],
    timing: Mapping[str, Mapping[str, float]],
) -> dict[str, Any]:
    students = run.students
    members = list(students.specs) if name == "fused" else [name.partition(":")[0]]
    views = one_video(dataset, next(students.parameters()).device)
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


_PARTIAL = ".partial-scores"


def scores_key(weights: str, dataset: ClipDataset, precision: Precision) -> str:
    """A name for what the logits depend on: the networks, the clips and how they are seen.

    Args:
        weights: sha256 of the networks' file.
        dataset: the clips, and their views.
        precision: of the computation.
    """
    seen = {
        "weights": weights,
        "clips": [(clip.video_id, clip.sha256, clip.label) for clip in dataset.clips],
        "streams": dataset.streams,
        "views": dataset.views,
        "flip": dataset.manifest.flip,
        "num_segments": dataset.num_segments,
        "input_size": dataset.input_size,
        "precision": [precision.name, precision.device.type],
        "versions": [videokd.__version__, torch.__version__],
    }
    return key_of(seen)


def key_of(values: Any) -> str:
    """A short name for values that JSON holds."""
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:24]


def finished_results(run: Path, *, part: str, key: str) -> dict[str, Any] | None:
    """The results of a run's part, if they come from the scores of this key."""
    try:
        results = read_results(run / results_name(part))
    except DataError:
        return None
    made_from = results.get("made_from")
    return results if isinstance(made_from, Mapping) and made_from.get("scores") == key else None


def pictures_are_there(run: Path, results: Mapping[str, Any]) -> bool:
    """Whether the pictures of all examples are in the run's folder."""
    return all((run / "pictures" / example["picture"]).is_file() for example in results.get("examples", ()))


def finished_scores(run: Path, results: Mapping[str, Any], dataset: ClipDataset) -> dict[str, Scores] | None:
    """The scores of a finished evaluation; None where files are missing, damaged or of other clips."""
    try:
        scores = load_scores(run, results)
    except DataError:
        return None
    ids = tuple(clip.video_id for clip in dataset.clips)
    labels = [clip.label for clip in dataset.clips]
    same = all(each.video_ids == ids and each.labels.tolist() == labels for each in scores.values())
    return scores if same and list(scores) == list(results["entries"]) else None


def partial_scores(run: Path, *, key: str, num_videos: int) -> PartialScores:
    """What an evaluation of this key has scored so far."""
    return PartialScores(run / _PARTIAL / key, num_videos=num_videos)


def score(
    students: Students,
    dataset: ClipDataset,
    precision: Precision,
    partial: PartialScores,
    *,
    batch_size: int,
    workers: int,
    title: str,
) -> dict[str, Scores]:
    """{network: scores}, and "fused" if there are several: one row of logits a video, the mean over its views.

    Where students have exits, there are `student:exit1` and so on, and `student:ensemble`, too. Stopped by Ctrl-C, it keeps the
    batches that are finished.
    """
    done = partial.num_done
    if done:
        say(f"{title}: resumes after {done} of {len(dataset)} videos")
    rest = replace(dataset, clips=dataset.clips[done:])
    shown = tqdm(
        predict_batches(
            students,
            evaluation_batches(rest, batch_size=batch_size, workers=workers) if len(rest) else iter(()),
            precision,
            num_views=dataset.num_views,
            with_exits=True,
        ),
        initial=done // batch_size,
        total=-(-len(dataset) // batch_size),
        desc=f"{title}: evaluate",
        unit="batch",
        disable=None,
    )
    try:
        for logits, _ in shown:
            partial.add({name: values.numpy() for name, values in logits.items()})
    finally:
        partial.flush()
    rows = partial.rows()
    if len(students.specs) == 1:
        del rows["fused"]
    labels = np.array([clip.label for clip in dataset.clips], dtype=np.int64)
    ids = tuple(clip.video_id for clip in dataset.clips)
    try:
        return with_ensembles({name: Scores(values, labels, ids) for name, values in rows.items()})
    except DataError as error:
        raise DataError(f"{title}: {error}. Train it again with a lower rate, or pass `--precision fp32`.") from error


def one_video(dataset: ClipDataset, device: torch.device) -> dict[str, torch.Tensor]:
    """One video's views side by side: {stream: uint8 [V, S, C, H, W]}."""
    streams = collate([dataset[0]]).to(device).streams
    return {
        name: rearrange(values, "1 (v s) c h w -> v s c h w", v=dataset.num_views) for name, values in streams.items()
    }


def latency_of(
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
        )
        timing[name] = _time_networks(networks, own, precision, videos=videos)
    return timing


def _time_networks(
    networks: Sequence[nn.Module], dataset: ClipDataset, precision: Precision, *, videos: int
) -> dict[str, float]:
    views = one_video(dataset, precision.device)

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
