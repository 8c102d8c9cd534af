"""The test protocol: which clips, in which views; their logits, resumed where an evaluation was interrupted; each network's results."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from einops import rearrange
from torch import nn
from tqdm import tqdm

import videokd
from videokd.datasets.batches import collate, evaluation_batches
from videokd.datasets.dataset import ClipDataset
from videokd.datasets.manifest import Clip, Manifest
from videokd.errors import ConfigError, DataError
from videokd.evaluation.cost import Cost, macs, parameters, time_ms
from videokd.evaluation.exits import ENSEMBLE, cost_of, early_exit_curves, path_to, with_ensembles
from videokd.evaluation.metrics import metrics
from videokd.evaluation.partial_scores import PartialScores
from videokd.evaluation.results import (
    EarlyExitPoint,
    Entry,
    Latency,
    Results,
    read_results,
    results_name,
    scores_name,
    write_results,
)
from videokd.evaluation.scores import Scores, save_scores
from videokd.messages import say
from videokd.models.students import Students
from videokd.runs.device import Precision
from videokd.runs.ranks import Ranks
from videokd.runs.run_folder import TrainedRun
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
        students.inputs_at(students.input_size),
        # networks that see the segments' order see as many as they were trained with
        num_segments=num_segments or (students.num_segments if students.sees_order else _NUM_SEGMENTS[views]),
        input_size=students.input_size,
        views=views,
    )


def measure_networks(
    run: TrainedRun, scores: Mapping[str, Scores], dataset: ClipDataset, precision: Precision, *, timed_videos: int
) -> tuple[dict[str, Entry], dict[str, tuple[EarlyExitPoint, ...]]]:
    """Accuracy and cost of each network, and of early exit.

    Args:
        run: the trained networks, on their device.
        scores: {network: its scores}, in the dataset's order.
        dataset: the clips, as the protocol sees them.
        precision: of the timed networks.
        timed_videos: how many videos are timed from file to label.

    Returns:
        {network: its entry of results.json}; {student: its early-exit curve}, empty without exits.
    """
    with precision.autocast():
        latency = latency_of(run.students, scores, dataset, precision, videos=timed_videos)
        entries = {name: _entry_of(name, each, run, dataset, latency.get(name)) for name, each in scores.items()}
        first_view = {name: values[:1] for name, values in one_video(dataset, precision.device).items()}
        groups = [clip.group for clip in dataset.clips]
        curves = early_exit_curves(run.students, scores, first_view, num_views=dataset.num_views, groups=groups)
    return entries, curves


def _check_file_names(scores: Mapping[str, Scores]) -> None:
    """Refuses networks of which two would write their scores into the same file, in either part."""
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

    Args:
        manifest: all clips.
        run: whose validation share decides which clips were held out.
        part: test, or val: the clips held out in training.
        split: its number.

    Returns:
        One or more clips, in the manifest's order.

    Raises:
        DataError: the part has none.
    """
    val_fraction = run.settings.data.val_fraction
    clips = (
        manifest.select(part, split=split, val_fraction=val_fraction, seed=0) if part == "test" or val_fraction else ()
    )
    if not clips:
        raise DataError(f"{manifest.root}: split {split} has no clips for {part}. Choose another part or split.")
    return clips


def _entry_of(name: str, scores: Scores, run: TrainedRun, dataset: ClipDataset, latency: Latency | None) -> Entry:
    students, members = run.students, _members(run.students, name)
    views = one_video(dataset, next(students.parameters()).device)
    if ":" in name:
        first_view = {stream: values[:1] for stream, values in views.items()}
        cost = cost_of(path_to(students, name), first_view, num_views=dataset.num_views)
    else:
        networks = [students.members[member] for member in members]
        cost = Cost(sum(map(parameters, networks)), sum(macs(network, views) for network in networks))
    return Entry(
        role=_role(name, run),
        streams=_streams_of(students, members),
        backbone=" + ".join(sorted({students.specs[member].backbone for member in members})),
        parameters=cost.parameters,
        macs_per_video=cost.macs_per_video,
        latency_ms=latency,
        metrics=metrics(scores, class_names=students.class_names, groups=[clip.group for clip in dataset.clips]),
    )


def _members(students: Students, name: str) -> list[str]:
    """The students that an entry consists of."""
    return list(students.specs) if name == "fused" else [name.partition(":")[0]]


def _streams_of(students: Students, members: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(stream for member in members for stream in students.specs[member].streams))


def _role(name: str, run: TrainedRun) -> str:
    if ":" in name:
        return "exits together" if name.endswith(f":{ENSEMBLE}") else "exit"
    return "students fused" if name == "fused" else run.role


def keys_of(
    run: TrainedRun, dataset: ClipDataset, precision: Precision, *, settings: Mapping[str, object]
) -> dict[str, str]:
    """Names for what an evaluation depends on; with the same ones it need not be done again.

    Args:
        run: the trained networks.
        dataset: the clips, and their views.
        precision: of the computation.
        settings: what the results depend on beside the scores.

    Returns:
        {"scores": of the networks, the clips and how they are seen; "settings": of the settings, the clips' groups and the machine
        that latency is measured on}.
    """
    seen = {
        "weights": run.weights,
        "clips": [(clip.video_id, clip.sha256, clip.label) for clip in dataset.clips],
        "streams": dataset.streams,
        "views": dataset.views,
        "flip": dataset.manifest.flip,
        "num_segments": dataset.num_segments,
        "input_size": dataset.input_size,
        "precision": [precision.name, precision.device.type],
        "versions": [videokd.__version__, torch.__version__],
    }
    machine = [platform.node(), str(precision.device), torch.get_num_threads()]
    groups = [clip.group for clip in dataset.clips]
    return {"scores": _short_name(seen), "settings": _short_name([settings, groups, machine])}


def _short_name(values: Any) -> str:
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:24]


def finished_results(run: Path, *, part: str, key: str) -> Results | None:
    """The results of a run's part, if they come from the same scores.

    Args:
        run: the run's folder.
        part: test or val.
        key: "scores" of `keys_of`.

    Returns:
        None where there are none, or they are damaged or of other scores.
    """
    try:
        results = read_results(run / results_name(part))
    except DataError:
        return None
    return results if (results.made_from or {}).get("scores") == key else None


def pictures_are_there(run: Path, results: Results) -> bool:
    """Whether the pictures of all examples are in the run's folder.

    Args:
        run: the run's folder.
        results: that name them.
    """
    return all((run / "pictures" / example.picture).is_file() for example in results.examples or ())


def write_evaluation(run: Path, results: Results, scores: Mapping[str, Scores]) -> None:
    """Writes each network's scores, then the results, into the run's folder.

    Args:
        run: the run's folder.
        results: of all networks.
        scores: {network: its scores}.

    Raises:
        ConfigError: two networks' scores would have the same file.
        DataError: they cannot be written.
    """
    _check_file_names(scores)
    written = save_scores(run, scores, part=results.dataset.part)
    write_results(run / results_name(results.dataset.part), replace(results, scores_sha256=written))


def say_accuracies(results: Results) -> None:
    """One line on stderr for each network: its top-1 with the interval, and the accuracy of guessing."""
    part = "" if results.dataset.part == "test" else f" on {results.dataset.part}"
    chance = 100 / len(results.dataset.class_names)
    for name, entry in results.entries.items():
        top1 = entry.metrics.top1
        interval = f"95% interval {100 * top1.low:.1f} to {100 * top1.high:.1f}"
        say(f"{results.run}: {name}: top-1{part} {100 * top1.value:.1f}% ({interval}), chance {chance:.1f}%")


@dataclass(frozen=True)
class Loading:
    """How clips to be scored are loaded.

    Args:
        batch_size: videos at a time.
        workers: processes that load videos.
        ranks: those of torchrun, which take batches in turns.
    """

    batch_size: int
    workers: int
    ranks: Ranks = Ranks()


def score(
    run: TrainedRun,
    dataset: ClipDataset,
    precision: Precision,
    partial: PartialScores,
    loading: Loading,
) -> dict[str, Scores]:
    """One row of logits a video: the mean over its views.

    Interrupted by Ctrl-C, it keeps the batches that are finished.

    Args:
        run: the trained networks, on their device.
        dataset: the clips, as the protocol sees them.
        precision: of the networks.
        partial: what has been scored before; the rest is added to it.
        loading: how videos are loaded, and by whom.

    Returns:
        {network: scores}, and "fused" if there are several; where students have exits, `student:exit1` and so on, and
        `student:ensemble`, too. Empty on all ranks but the first.

    Raises:
        DataError: a network's logits are not finite.
    """
    title, ranks = run.path.name, loading.ranks
    done, *_ = ranks.gather(partial.num_done)  # as the first rank says: others may find less on their machine
    if done:
        say(f"{title}: resumes after {done} of {len(dataset)} videos")
    try:
        for logits in _predictions(run, dataset, precision, loading, done=done):
            if ranks.is_first:
                partial.add({name: values.numpy() for name, values in logits.items()})
    finally:
        partial.flush()
    if not ranks.is_first:
        return {}
    rows = partial.rows()
    if len(run.students.specs) == 1:
        del rows["fused"]
    labels = np.array([clip.label for clip in dataset.clips], dtype=np.int64)
    ids = tuple(clip.video_id for clip in dataset.clips)
    try:
        return with_ensembles({name: Scores(values, labels, ids) for name, values in rows.items()})
    except DataError as error:
        raise DataError(f"{title}: {error}. Train it again with a lower rate, or pass `--precision fp32`.") from error


def _predictions(
    run: TrainedRun, dataset: ClipDataset, precision: Precision, loading: Loading, *, done: int
) -> Iterator[dict[str, torch.Tensor]]:
    """{network: logits} of all batches that are not done, in order, on every rank."""
    batches = evaluation_batches(
        replace(dataset, clips=dataset.clips[done:]),
        batch_size=loading.batch_size,
        workers=loading.workers,
        device=precision.device,
        turn=(loading.ranks.rank, loading.ranks.num_ranks),
    )
    own = predict_batches(run.students, batches, precision, num_views=dataset.num_views, with_exits=True)
    total, missing = (-(-videos // loading.batch_size) for videos in (len(dataset), len(dataset) - done))
    name, hidden = f"{run.path.name}: evaluate", None if loading.ranks.is_first else True
    shared = loading.ranks.in_turns(own, missing)
    for logits, _ in tqdm(shared, initial=total - missing, total=total, desc=name, unit="batch", disable=hidden):
        yield logits


def one_video(dataset: ClipDataset, device: torch.device) -> dict[str, torch.Tensor]:
    """One video's views side by side: {input: uint8 [V, S, C, H, W]}."""
    streams = collate([dataset[0]]).to(device).streams
    return {key: rearrange(each, "1 (v s) c h w -> v s c h w", v=dataset.num_views) for key, each in streams.items()}


def latency_of(
    students: Students, names: Iterable[str], dataset: ClipDataset, precision: Precision, *, videos: int
) -> dict[str, Latency]:
    """{network: its latency}, one video at a time, each network reading only its own inputs; empty where no video is timed."""
    videos = min(videos, len(dataset))
    if not videos:
        return {}
    latency = {}
    for name in names:
        members = _members(students, name)
        networks = [path_to(students, name)] if ":" in name else [students.members[member] for member in members]
        own_inputs = replace(dataset, streams=students.inputs_at(dataset.input_size, only=members))
        latency[name] = _time_networks(networks, own_inputs, precision, videos=videos)
    return latency


def _time_networks(
    networks: Sequence[nn.Module], dataset: ClipDataset, precision: Precision, *, videos: int
) -> Latency:
    views = one_video(dataset, torch.device("cpu"))

    def compute_labels() -> None:
        with torch.no_grad(), precision.autocast():
            copied = {name: values.to(precision.device) for name, values in views.items()}
            for network in networks:
                network(copied)

    def milliseconds(work: Callable[[], object]) -> float:
        return time_ms(work, repeats=1, warmup=0, device=precision.device)["p50"]

    timed = np.linspace(0, len(dataset) - 1, videos).astype(int).tolist()
    times = [
        (milliseconds(partial(dataset.__getitem__, number)), milliseconds(compute_labels))
        for number in (timed[0], *timed)  # the first warms up
    ]
    each_video = np.array(times[1:])  # [videos, 2]
    read, network = np.median(each_video, axis=0).tolist()
    p50, p95 = np.percentile(each_video.sum(axis=1), (50, 95)).tolist()
    return Latency(read, network, p50, p95)
