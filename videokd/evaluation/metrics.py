"""Metrics of scores with their intervals, and differences between two models."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torchmetrics.functional.classification import (
    multiclass_accuracy,
    multiclass_calibration_error,
    multiclass_confusion_matrix,
)

from videokd.evaluation.results import ClassAccuracy, Comparison, Interval, Metrics
from videokd.evaluation.scores import Scores, align

_Floats = npt.NDArray[np.float64]

CALIBRATION_BINS = 15
_RESAMPLES_AT_ONCE = 64  # bounds the memory of the bootstrap: [64, N] weights


def metrics(
    scores: Scores,
    *,
    class_names: Sequence[str] | None = None,
    groups: Sequence[str] | None = None,
    bootstrap: int = 1000,
    seed: int = 0,
) -> Metrics:
    """Accuracy, calibration and confusion of one model, each figure with its 95% percentile bootstrap interval.

    Videos of one group (one scene, one person) are not independent, so where groups are given whole groups are drawn
    (an interval over a single group has no width and no meaning).
    The expected calibration error (Guo et al. 2017) has 15 bins of equal width over softmax confidence; resampling adds
    noise to it, so its interval sits somewhat above its value when there are few videos.

    Args:
        scores: of N videos.
        class_names: K names; "0", "1", … if not given.
        groups: N names, in the order of `scores.video_ids`.
        bootstrap: number of resamples, ≥ 1.
        seed: of the resampling.

    Returns:
        All metrics, none of them None.

    Raises:
        ValueError: the number of class names or groups does not fit, or bootstrap is not positive.

    >>> scores = Scores(np.array([[2, 1], [0, 3], [1, 0]], np.float32), np.array([0, 1, 1]), ("a", "b", "c"))
    >>> result = metrics(scores, class_names=("jump", "run"))
    >>> round(result.top1.value, 3), result.confusion, result.per_class["run"]
    (0.667, ((1, 0), (1, 1)), ClassAccuracy(accuracy=0.5, videos=2))
    """
    num_classes = scores.num_classes
    names = tuple(class_names) if class_names is not None else tuple(map(str, range(num_classes)))
    if len(names) != num_classes or len(set(names)) != num_classes:
        raise ValueError(f"{len(set(names))} different class names for {num_classes} classes (accepted: one each)")
    clusters = _clusters(scores, groups)
    logits, labels = torch.from_numpy(scores.logits), torch.from_numpy(scores.labels)
    videos = np.bincount(scores.labels, minlength=num_classes)
    per_class = multiclass_accuracy(logits, labels, num_classes, average="none").double().numpy()
    top5 = multiclass_accuracy(logits, labels, num_classes, average="micro", top_k=min(5, num_classes))
    values = {
        "top1": float(multiclass_accuracy(logits, labels, num_classes, average="micro")),
        "top5": float(top5),
        "mean_class": float(per_class[videos > 0].mean()),
        "calibration_error": float(
            multiclass_calibration_error(_float32_probabilities(scores), labels, num_classes, CALIBRATION_BINS)
        ),
    }
    resampled = _resample(scores, clusters, bootstrap=bootstrap, seed=seed)
    confusion = multiclass_confusion_matrix(logits, labels, num_classes)
    return Metrics(
        **{name: _interval(value, resampled[name]) for name, value in values.items()},
        confusion=tuple(map(tuple, confusion.tolist())),
        per_class={
            name: ClassAccuracy(float(accuracy) if count else None, int(count))
            for name, accuracy, count in zip(names, per_class, videos, strict=True)
        },
        num_videos=len(scores),
        intervals_over="videos" if groups is None else "groups",
        interval_units=int(clusters.max()) + 1,
    )


def top1(scores: Scores, groups: Sequence[str] | None = None, *, bootstrap: int = 1000, seed: int = 0) -> Interval:
    """Top-1 accuracy with its 95% percentile bootstrap interval: that of `metrics`, without the rest.

    Args:
        scores: of N videos.
        groups: N names, in the order of `scores.video_ids`; drawn whole where given.
        bootstrap: number of resamples, ≥ 1.
        seed: of the resampling.

    Raises:
        ValueError: the number of groups does not fit, or bootstrap is not positive.

    >>> scores = Scores(np.array([[2, 1], [0, 3]], np.float32), np.array([0, 0]), ("a", "b"))
    >>> top1(scores).value
    0.5
    """
    return _mean(scores.correct().astype(np.float64), _clusters(scores, groups), bootstrap=bootstrap, seed=seed)


def paired_difference(
    a: Scores, b: Scores, groups: Sequence[str] | None = None, *, bootstrap: int = 1000, seed: int = 0
) -> Interval:
    """Top-1 of a minus top-1 of b on the same videos, with its 95% percentile bootstrap interval.

    Both are resampled alike, so what makes a video hard for both cancels out.

    Args:
        a: one model's scores.
        b: another's, of the same videos in any order.
        groups: N names, in the order of `a.video_ids`; drawn whole where given.
        bootstrap: number of resamples, ≥ 1.
        seed: of the resampling.

    Raises:
        DataError: the two are not of the same videos.
        ValueError: the number of groups does not fit, or bootstrap is not positive.

    >>> labels, ids = np.array([0, 1]), ("x", "y")
    >>> a = Scores(np.array([[1, 0], [0, 1]], np.float32), labels, ids)
    >>> b = Scores(np.array([[1, 0], [1, 0]], np.float32), labels, ids)
    >>> paired_difference(a, b).value
    0.5
    """
    a, b = align({"a": a, "b": b}).values()
    gain = a.correct().astype(np.float64) - b.correct()
    return _mean(gain, _clusters(a, groups), bootstrap=bootstrap, seed=seed)


def _mean(values: _Floats, clusters: npt.NDArray[np.intp], *, bootstrap: int, seed: int) -> Interval:
    """The mean of a number for each video, with its interval."""
    resampled = [w @ values / w.sum(axis=1) for w in _weights(clusters, bootstrap=bootstrap, seed=seed)]
    return _interval(float(values.mean()), np.concatenate(resampled))


def _interval(value: float, resampled: _Floats) -> Interval:
    low, high = np.percentile(resampled, (2.5, 97.5))
    return Interval(value, float(low), float(high))


def _clusters(scores: Scores, groups: Sequence[str] | None) -> npt.NDArray[np.intp]:
    """The number of the cluster that each video is drawn with, [N]."""
    if groups is None:
        return np.arange(len(scores))
    if len(groups) != len(scores):
        raise ValueError(f"{len(groups)} groups for {len(scores)} videos (accepted: one a video)")
    return np.unique(np.asarray(groups, dtype=np.str_), return_inverse=True)[1].reshape(-1)


def _weights(clusters: npt.NDArray[np.intp], *, bootstrap: int, seed: int) -> Iterator[_Floats]:
    """How often each video is drawn, [R, N], until `bootstrap` rows have been given."""
    if bootstrap < 1:
        raise ValueError(f"bootstrap is {bootstrap} (accepted: a positive number of resamples)")
    rng = np.random.default_rng(seed)
    num_clusters = int(clusters.max()) + 1
    for start in range(0, bootstrap, _RESAMPLES_AT_ONCE):
        rows = min(_RESAMPLES_AT_ONCE, bootstrap - start)
        drawn = rng.integers(num_clusters, size=(rows, num_clusters)) + num_clusters * np.arange(rows)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=rows * num_clusters).reshape(rows, num_clusters)
        yield counts[:, clusters].astype(np.float64)  # [R, N]


def _float32_probabilities(scores: Scores) -> torch.Tensor:
    """[N, K]; in float32 a prediction beyond doubt has the probability 1, which torchmetrics counts in a bin of its own."""
    return torch.from_numpy(scores.probabilities().astype(np.float32))


def _calibration_gaps(scores: Scores) -> _Floats:
    """For each video 1 or 0 for its prediction minus its confidence, in the column of its bin, [N, bins + 1]: 1.0 has its own bin."""
    confidence = _float32_probabilities(scores).max(dim=1).values
    bins = torch.bucketize(confidence, torch.linspace(0, 1, CALIBRATION_BINS + 1), right=True).numpy() - 1
    gaps = np.zeros((len(scores), CALIBRATION_BINS + 1))
    gaps[np.arange(len(scores)), bins] = scores.correct() - confidence.double().numpy()
    return gaps


def _resample(
    scores: Scores, clusters: npt.NDArray[np.intp], *, bootstrap: int, seed: int
) -> dict[str, npt.NDArray[np.float64]]:
    """{metric: its value in each resample, [bootstrap]}."""
    order = np.argsort(scores.labels, kind="stable")  # videos of a class side by side, to be summed by reduceat
    starts = np.flatnonzero(np.diff(scores.labels[order], prepend=-1))
    top1 = scores.correct()[order].astype(np.float64)
    top5 = scores.correct(top=min(5, scores.num_classes))[order].astype(np.float64)
    gaps = _calibration_gaps(scores)[order]
    parts: dict[str, list[_Floats]] = {"top1": [], "top5": [], "mean_class": [], "calibration_error": []}
    for weights in _weights(clusters[order], bootstrap=bootstrap, seed=seed):
        total = weights.sum(axis=1)
        parts["top1"].append(weights @ top1 / total)
        parts["top5"].append(weights @ top5 / total)
        parts["calibration_error"].append(np.abs(weights @ gaps).sum(axis=1) / total)
        videos = np.add.reduceat(weights, starts, axis=1)  # [R, classes that have videos]
        hits = np.add.reduceat(weights * top1, starts, axis=1)
        accuracy = np.divide(hits, videos, out=np.zeros_like(hits), where=videos > 0)
        parts["mean_class"].append(accuracy.sum(axis=1) / (videos > 0).sum(axis=1))
    return {name: np.concatenate(values) for name, values in parts.items()}


@dataclass(frozen=True)
class Bin:
    """Videos that a model predicts with about the same confidence.

    Args:
        low: lower end of the bin, in confidence.
        high: its upper end.
        confidence: mean over its videos.
        accuracy: share of its videos that are correctly classified.
        videos: how many there are.
    """

    low: float
    high: float
    confidence: float
    accuracy: float
    videos: int


def reliability(scores: Scores) -> list[Bin]:
    """Accuracy at each level of confidence: the bins of the calibration error that have videos (Guo et al. 2017).

    >>> confident = Scores(np.array([[9, 0], [9, 0]], np.float32), np.array([0, 1]), ("a", "b"))
    >>> [(round(bin.confidence, 2), bin.accuracy, bin.videos) for bin in reliability(confident)]
    [(1.0, 0.5, 2)]
    """
    confidence, correct = scores.confidence(), scores.correct()
    edges = np.linspace(0, 1, CALIBRATION_BINS + 1)
    bins = []
    for low, high in itertools.pairwise(edges):
        inside = (confidence > low) & (confidence <= high)
        if inside.any():
            means = float(confidence[inside].mean()), float(correct[inside].mean())
            bins.append(Bin(float(low), float(high), *means, int(inside.sum())))
    return bins


def differences(
    models: Mapping[str, Scores], *, reference: str, groups: Mapping[str, str], known: Iterable[tuple[str, str]] = ()
) -> list[Comparison]:
    """Top-1 of each model minus that of a reference, on the same videos.

    Args:
        models: {name: scores}; those of other videos than the reference's are omitted.
        reference: one of them.
        groups: {video id: group}, drawn whole for the intervals if it has every video; otherwise videos are drawn.
        known: pairs of names to omit.
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
        rows.append(Comparison(name, reference, paired_difference(scores, models[reference], order)))
    return rows
