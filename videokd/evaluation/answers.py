"""What the scores of runs say beyond `results.json`: differences between models, how sure they are, and their answers."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from videokd.errors import DataError
from videokd.evaluation.results import scores_name
from videokd.evaluation.scores import CALIBRATION_BINS, Scores, paired_difference

_EXIT_ROLES = ("exit", "exits together")


@dataclass(frozen=True)
class Answer:
    """What one model says of one video.

    Args:
        name: of the model.
        answer: the likeliest class.
        probability: of that class, 0 to 1.
        right: whether it is the video's.
    """

    name: str
    answer: str
    probability: float
    right: bool


@dataclass(frozen=True)
class Bin:
    """Videos of which a model is about equally sure.

    Args:
        low: lower end of the bin, in confidence.
        high: its upper end.
        confidence: mean over its videos.
        accuracy: share of its videos that are named rightly.
        videos: how many there are.
    """

    low: float
    high: float
    confidence: float
    accuracy: float
    videos: int


def is_exit(entry: Mapping[str, Any]) -> bool:
    """Whether an entry of results.json is a part of another one: a shallow exit, or a student's exits together."""
    return entry["role"] in _EXIT_ROLES


def load_scores(folder: Path, results: Mapping[str, Any]) -> dict[str, Scores]:
    """{entry: scores} of a run folder, of the entries whose files are there.

    Raises:
        DataError: a file is damaged, or has another number of classes than the results.
    """
    found = {}
    num_classes = len(results["dataset"]["class_names"])
    for name in results["entries"]:
        path = folder / scores_name(name, part=results["dataset"]["part"])
        if not path.is_file():
            continue
        found[name] = Scores.load(path)
        if found[name].num_classes != num_classes:
            raise DataError(
                f"{path} has {found[name].num_classes} classes, and results.json beside it {num_classes} (accepted: the same "
                f"number). Run `videokd evaluate {folder}` again."
            )
    return found


def probabilities(scores: Scores) -> npt.NDArray[np.float64]:
    """Softmax over classes, [N, K].

    >>> probabilities(Scores(np.array([[1, 1]], np.float32), np.array([0]), ("a",))).tolist()
    [[0.5, 0.5]]
    """
    logits = scores.logits.astype(np.float64)
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares: npt.NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
    return shares


def reliability(scores: Scores) -> list[Bin]:
    """How often a model is right where it is so sure: the bins of the calibration error that have videos (Guo et al. 2017).

    >>> sure = Scores(np.array([[9, 0], [9, 0]], np.float32), np.array([0, 1]), ("a", "b"))
    >>> [(round(bin.confidence, 2), bin.accuracy, bin.videos) for bin in reliability(sure)]
    [(1.0, 0.5, 2)]
    """
    confidence = probabilities(scores).max(axis=1)
    hits = scores.logits.argmax(axis=1) == scores.labels
    edges = np.linspace(0, 1, CALIBRATION_BINS + 1)
    bins = []
    for low, high in itertools.pairwise(edges):
        inside = (confidence > low) & (confidence <= high)
        if inside.any():
            means = float(confidence[inside].mean()), float(hits[inside].mean())
            bins.append(Bin(float(low), float(high), *means, int(inside.sum())))
    return bins


def answers_to(video_id: str, models: Mapping[str, Scores], class_names: Sequence[str]) -> list[Answer]:
    """What each model says of a video; models that have not seen it are left out."""
    found = []
    for name, scores in models.items():
        if video_id not in scores.video_ids:
            continue
        row = scores.video_ids.index(video_id)
        best = int(scores.logits[row].argmax())
        probability = float(probabilities(scores)[row, best])
        found.append(Answer(name, class_names[best], probability, best == int(scores.labels[row])))
    return found


def differences(
    models: Mapping[str, Scores], *, reference: str, groups: Mapping[str, str], known: Iterable[tuple[str, str]] = ()
) -> list[dict[str, Any]]:
    """Top-1 of each model minus that of a reference, on the same videos.

    Args:
        models: {name: scores}; those of other videos than the reference's are left out.
        reference: one of them.
        groups: {video id: group}, drawn whole for the intervals if it has every video; otherwise videos are drawn.
        known: pairs of names to leave out.

    Returns:
        {"a", "b", "top1_difference"} each, as in results.json.
    """
    known = set(known)
    ids = models[reference].video_ids
    drawn = [groups[video] for video in ids] if all(video in groups for video in ids) else None
    rows = []
    for name, scores in models.items():
        same = sorted(scores.video_ids) == sorted(ids) and scores.num_classes == models[reference].num_classes
        if name == reference or not same or {(name, reference), (reference, name)} & known:
            continue
        # the reference comes second, so its order of videos is not the one that groups must follow
        order = None if drawn is None else [groups[video] for video in scores.video_ids]
        rows.append({"a": name, "b": reference, "top1_difference": paired_difference(scores, models[reference], order)})
    return rows
