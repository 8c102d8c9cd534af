"""The logits of a run's networks for the clips of a part: resumed where an evaluation was stopped, read where it is finished."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

import videokd
from videokd.datasets.dataset import ClipDataset, evaluation_batches
from videokd.errors import DataError
from videokd.evaluation.answers import load_scores
from videokd.evaluation.partial_scores import PartialScores
from videokd.evaluation.results import read_results, results_name
from videokd.evaluation.scores import Scores
from videokd.messages import say
from videokd.models.students import Students
from videokd.recipes.exit_results import with_ensembles
from videokd.recipes.learn import predict_batches
from videokd.training.session import Precision

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
        "blank_invalid": dataset.blank_invalid,
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
