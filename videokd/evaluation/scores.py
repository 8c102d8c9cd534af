"""Logits per video, and what follows from them: metrics with intervals, differences between two models."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torchmetrics.functional.classification import (
    multiclass_accuracy,
    multiclass_calibration_error,
    multiclass_confusion_matrix,
)

from videokd.errors import DataError
from videokd.evaluation.arrays import read_arrays
from videokd.files import write_whole

CALIBRATION_BINS = 15
_RESAMPLES_AT_ONCE = 64  # bounds the memory of the bootstrap: [64, N] weights

_Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, repr=False)
class Scores:
    """One model's logits for every video of a part, each video once.

    Args:
        logits: float32 [N, K], finite, K ≥ 2: the mean over segments and crops.
        labels: int64 [N], in [0, K).
        video_ids: N names, all different.

    Raises:
        DataError: a shape, dtype or label does not fit, a logit is not finite, or a video comes twice.

    >>> Scores(np.array([[2, -1], [0, 3]], np.float32), np.array([0, 1]), ("a", "b"))
    Scores(logits=float32[2, 2], labels=int64[2], video_ids=2 names)
    """

    logits: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    video_ids: tuple[str, ...]

    def __post_init__(self) -> None:
        logits, labels = self.logits, self.labels
        if logits.ndim != 2 or logits.dtype != np.float32 or logits.shape[0] < 1 or logits.shape[1] < 2:
            raise DataError(f"logits are {logits.dtype}{list(logits.shape)} (accepted: float32 [N, K], N ≥ 1, K ≥ 2)")
        if labels.shape != logits.shape[:1] or labels.dtype != np.int64:
            raise DataError(f"labels are {labels.dtype}{list(labels.shape)} (accepted: int64 [{len(logits)}])")
        if len(self.video_ids) != len(logits):
            raise DataError(f"{len(self.video_ids)} video ids for {len(logits)} rows of logits (accepted: one a row)")
        if labels.min() < 0 or labels.max() >= logits.shape[1]:
            raise DataError(f"labels lie in [{labels.min()}, {labels.max()}] (accepted: 0 to {logits.shape[1] - 1})")
        broken = np.flatnonzero(~np.isfinite(logits).all(axis=1))
        if broken.size:
            raise DataError(
                f"the logits of {_some([self.video_ids[i] for i in broken])} are not finite: the network has diverged"
            )
        if len(set(self.video_ids)) < len(self.video_ids):
            seen: set[str] = set()
            twice = [name for name in self.video_ids if name in seen or seen.add(name)]  # type: ignore[func-returns-value]
            raise DataError(f"more than one row of logits for {_some(twice)} (accepted: each video once)")

    def __repr__(self) -> str:
        logits, labels = (f"{values.dtype}{list(values.shape)}" for values in (self.logits, self.labels))
        return f"Scores(logits={logits}, labels={labels}, video_ids={len(self)} names)"

    def __len__(self) -> int:
        return len(self.video_ids)

    @property
    def num_classes(self) -> int:
        """K."""
        return int(self.logits.shape[1])

    def save(self, path: Path | str) -> Path:
        """Write `logits`, `labels` and `video_ids` into an .npz file, whole or not at all.

        Raises:
            DataError: it cannot be written.
        """
        buffer = io.BytesIO()
        np.savez(buffer, logits=self.logits, labels=self.labels, video_ids=np.array(self.video_ids, dtype=np.str_))
        return write_whole(path, buffer.getvalue())

    @classmethod
    def load(cls, path: Path | str) -> Scores:
        """Read what `save` wrote; nothing in the file is executed.

        Raises:
            DataError: the file is missing, is no scores file, or its arrays do not fit together.
        """
        if not Path(path).exists():
            raise DataError(f"{path} is not there. Run `videokd evaluate RUN` to make a run's scores files.")
        try:
            logits, labels, video_ids = read_arrays(Path(path), ("logits", "labels", "video_ids"))
            ids = tuple(map(str, video_ids.ravel()))
        except (ValueError, OSError) as error:
            raise DataError(
                f"{path} is not a scores file (accepted: .npz with logits [N, K], labels [N], video_ids [N]; found: "
                f"{error}). Run `videokd evaluate RUN` to make one."
            ) from error
        try:
            return cls(logits, labels, ids)
        except DataError as error:
            raise DataError(f"{path}: {error}") from error


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"


def align(scores: Mapping[str, Scores]) -> dict[str, Scores]:
    """The same scores with their videos in one order, that of the first.

    Args:
        scores: {name: Scores}, of the same videos.

    Returns:
        {name: Scores}, rows matching.

    Raises:
        DataError: videos, labels or the number of classes differ between two of them.

    >>> a = Scores(np.zeros((2, 3), np.float32), np.array([0, 2]), ("x", "y"))
    >>> b = Scores(np.ones((2, 3), np.float32), np.array([2, 0]), ("y", "x"))
    >>> align({"iframe": a, "motion": b})["motion"].video_ids
    ('x', 'y')
    """
    aligned: dict[str, Scores] = {}
    for name, other in scores.items():
        first_name, first = next(iter(scores.items()))
        apart = sorted(set(first.video_ids) ^ set(other.video_ids))
        if apart:
            raise DataError(
                f"scores of {first_name} and {name}: {len(apart)} videos are in only one of them ({_some(apart)}). "
                "Evaluate both on the same split and part."
            )
        if first.num_classes != other.num_classes:
            raise DataError(
                f"scores of {first_name} have {first.num_classes} classes, those of {name} {other.num_classes}"
            )
        row_of = {video_id: row for row, video_id in enumerate(other.video_ids)}
        order = np.array([row_of[video_id] for video_id in first.video_ids])
        labels = other.labels[order]
        differ = [first.video_ids[row] for row in np.flatnonzero(labels != first.labels)]
        if differ:
            raise DataError(
                f"scores of {first_name} and {name}: {len(differ)} labels differ ({_some(differ)}). "
                "Evaluate both with the same manifest."
            )
        aligned[name] = Scores(other.logits[order], labels, first.video_ids)
    return aligned


def metrics(
    scores: Scores,
    *,
    class_names: Sequence[str] | None = None,
    groups: Sequence[str] | None = None,
    bootstrap: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Accuracy, calibration and confusion of one model, each figure with its 95% percentile bootstrap interval.

    Videos of one group (one scene, one person) are not independent, so where groups are given whole groups are drawn
    (an interval over a single one has no width, and says nothing).
    The expected calibration error (Guo et al. 2017) has 15 bins of equal width over softmax confidence; resampling adds
    noise to it, so its interval sits somewhat above its value when there are few videos.

    Args:
        scores: of N videos.
        class_names: K names; "0", "1", … if not given.
        groups: N names, in the order of `scores.video_ids`.
        bootstrap: number of resamples, ≥ 1.
        seed: of the resampling.

    Returns:
        `top1`, `top5` (the min(5, K) best), `mean_class` (over classes that have videos) and `calibration_error`, each
        {"value", "low", "high"} as fractions; `confusion`, K rows (label) of K counts (prediction); `per_class`,
        {class: {"accuracy": fraction or None, "videos": count}}; `num_videos`; `intervals_over`, "groups" or "videos", and
        `interval_units`, how many of them. Plain Python numbers, fit for JSON.

    Raises:
        ValueError: the number of class names or groups does not fit, or bootstrap is not positive.

    >>> scores = Scores(np.array([[2, 1], [0, 3], [1, 0]], np.float32), np.array([0, 1, 1]), ("a", "b", "c"))
    >>> result = metrics(scores, class_names=("jump", "run"))
    >>> round(result["top1"]["value"], 3), result["confusion"], result["per_class"]["run"]
    (0.667, [[1, 0], [1, 1]], {'accuracy': 0.5, 'videos': 2})
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
            multiclass_calibration_error(logits.softmax(1), labels, num_classes, CALIBRATION_BINS)
        ),
    }
    resampled = _resample(scores, clusters, bootstrap=bootstrap, seed=seed)
    confusion = multiclass_confusion_matrix(logits, labels, num_classes)
    return {
        **{name: _interval(value, resampled[name]) for name, value in values.items()},
        "confusion": confusion.tolist(),
        "per_class": {
            name: {"accuracy": float(accuracy) if count else None, "videos": int(count)}
            for name, accuracy, count in zip(names, per_class, videos, strict=True)
        },
        "num_videos": len(scores),
        "intervals_over": "videos" if groups is None else "groups",
        "interval_units": int(clusters.max()) + 1,
    }


def top1(
    scores: Scores, groups: Sequence[str] | None = None, *, bootstrap: int = 1000, seed: int = 0
) -> dict[str, float]:
    """Top-1 accuracy with its 95% percentile bootstrap interval: that of `metrics`, without the rest.

    Args:
        scores: of N videos.
        groups: N names, in the order of `scores.video_ids`; drawn whole where given.
        bootstrap: number of resamples, ≥ 1.
        seed: of the resampling.

    Returns:
        {"value", "low", "high"}, as fractions.

    Raises:
        ValueError: the number of groups does not fit, or bootstrap is not positive.

    >>> scores = Scores(np.array([[2, 1], [0, 3]], np.float32), np.array([0, 0]), ("a", "b"))
    >>> top1(scores)["value"]
    0.5
    """
    return _mean(_hits(scores, 1).astype(np.float64), _clusters(scores, groups), bootstrap=bootstrap, seed=seed)


def first_sure(exits: Mapping[str, Scores], *, threshold: float) -> tuple[Scores, tuple[str, ...]]:
    """What a network says that stops at its first exit that is sure enough.

    Args:
        exits: {exit: its scores}, the shallowest first, of the same videos in one order; the last is taken by those left.
        threshold: what an exit's largest probability must be above.

    Returns:
        The scores of each video's exit; N names of exits.

    Raises:
        DataError: the videos or their order differ.

    >>> unsure = Scores(np.array([[9, 0], [0, 1]], np.float32), np.array([0, 0]), ("a", "b"))
    >>> deepest = Scores(np.array([[1, 0], [3, 0]], np.float32), np.array([0, 0]), ("a", "b"))
    >>> first_sure({"exit1": unsure, "deepest": deepest}, threshold=0.9)[1]
    ('exit1', 'deepest')
    """
    *shallow, last = exits
    logits, names = exits[last].logits.copy(), np.full(len(exits[last]), last, dtype=object)
    for name in reversed(shallow):
        if exits[name].video_ids != exits[last].video_ids:
            raise DataError(f"exits {name} and {last} saw other videos, or in another order. Evaluate them together.")
        sure = torch.from_numpy(exits[name].logits).double().softmax(1).amax(1).numpy() > threshold
        logits[sure], names[sure] = exits[name].logits[sure], name
    return Scores(logits, exits[last].labels, exits[last].video_ids), tuple(map(str, names))


def paired_difference(
    a: Scores, b: Scores, groups: Sequence[str] | None = None, *, bootstrap: int = 1000, seed: int = 0
) -> dict[str, float]:
    """Top-1 of a minus top-1 of b on the same videos, with its 95% percentile bootstrap interval.

    Both are resampled alike, so what makes a video hard for both cancels out.

    Args:
        a: one model's scores.
        b: another's, of the same videos in any order.
        groups: N names, in the order of `a.video_ids`; drawn whole where given.
        bootstrap: number of resamples, ≥ 1.
        seed: of the resampling.

    Returns:
        {"value", "low", "high"}, as fractions.

    Raises:
        DataError: the two are not of the same videos.
        ValueError: the number of groups does not fit, or bootstrap is not positive.

    >>> labels, ids = np.array([0, 1]), ("x", "y")
    >>> a = Scores(np.array([[1, 0], [0, 1]], np.float32), labels, ids)
    >>> b = Scores(np.array([[1, 0], [1, 0]], np.float32), labels, ids)
    >>> paired_difference(a, b)["value"]
    0.5
    """
    a, b = align({"a": a, "b": b}).values()
    gain = _hits(a, 1).astype(np.float64) - _hits(b, 1)
    return _mean(gain, _clusters(a, groups), bootstrap=bootstrap, seed=seed)


def _mean(values: _Floats, clusters: npt.NDArray[np.intp], *, bootstrap: int, seed: int) -> dict[str, float]:
    """The mean of a number for each video, with its interval."""
    resampled = [w @ values / w.sum(axis=1) for w in _weights(clusters, bootstrap=bootstrap, seed=seed)]
    return _interval(float(values.mean()), np.concatenate(resampled))


def _interval(value: float, resampled: _Floats) -> dict[str, float]:
    low, high = np.percentile(resampled, (2.5, 97.5))
    return {"value": value, "low": float(low), "high": float(high)}


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


def _hits(scores: Scores, best: int) -> npt.NDArray[np.bool_]:
    """Whether the label is among the best classes, [N]; ties fall as they do in torchmetrics."""
    if best == 1:
        chosen = scores.logits.argmax(axis=1)[:, None]
    else:
        chosen = torch.from_numpy(scores.logits).topk(best, dim=1).indices.numpy()
    hits: npt.NDArray[np.bool_] = (chosen == scores.labels[:, None]).any(axis=1)
    return hits


def _calibration_gaps(scores: Scores) -> _Floats:
    """For each video its hit minus its confidence, in the column of its bin, [N, bins + 1]: 1.0 has its own bin."""
    confidence = torch.from_numpy(scores.logits).softmax(dim=1).max(dim=1).values
    bins = torch.bucketize(confidence, torch.linspace(0, 1, CALIBRATION_BINS + 1), right=True).numpy() - 1
    gaps = np.zeros((len(scores), CALIBRATION_BINS + 1))
    gaps[np.arange(len(scores)), bins] = _hits(scores, 1) - confidence.double().numpy()
    return gaps


def _resample(
    scores: Scores, clusters: npt.NDArray[np.intp], *, bootstrap: int, seed: int
) -> dict[str, npt.NDArray[np.float64]]:
    """{metric: its value in each resample, [bootstrap]}."""
    order = np.argsort(scores.labels, kind="stable")  # videos of a class side by side, to be summed by reduceat
    starts = np.flatnonzero(np.diff(scores.labels[order], prepend=-1))
    top1 = _hits(scores, 1)[order].astype(np.float64)
    top5 = _hits(scores, min(5, scores.num_classes))[order].astype(np.float64)
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
