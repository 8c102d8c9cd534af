"""Logits per video, and what they predict: probabilities, classes, and which of these are correct."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from videokd.datasets.manifest import Clip
from videokd.errors import DataError
from videokd.evaluation.partial_scores import read_arrays
from videokd.evaluation.results import Results, scores_name
from videokd.files import sha256_of, write_whole
from videokd.prediction.predictor import softmax


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

    def probabilities(self) -> npt.NDArray[np.float64]:
        """Softmax over classes, [N, K].

        >>> Scores(np.array([[1, 1]], np.float32), np.array([0]), ("a",)).probabilities().tolist()
        [[0.5, 0.5]]
        """
        return softmax(self.logits)

    def confidence(self) -> npt.NDArray[np.float64]:
        """The probability of the predicted class, [N]."""
        return self.probabilities().max(axis=1)

    def predicted(self) -> npt.NDArray[np.intp]:
        """The most probable class of each video, [N]."""
        return self.logits.argmax(axis=1)

    def correct(self, *, top: int = 1) -> npt.NDArray[np.bool_]:
        """Whether the label is among the `top` most probable classes, [N]; ties are broken as torchmetrics does."""
        if top == 1:
            return self.predicted() == self.labels
        best = torch.from_numpy(self.logits).topk(top, dim=1).indices.numpy()
        found: npt.NDArray[np.bool_] = (best == self.labels[:, None]).any(axis=1)
        return found

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
            DataError: the file is missing, is not a scores file, or its arrays do not fit together.
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


def save_scores(folder: Path, scores: Mapping[str, Scores], *, part: str) -> dict[str, str]:
    """Writes each entry's scores file.

    Args:
        folder: of the run.
        scores: {entry: its scores}.
        part: test or val.

    Returns:
        {entry: sha256 of its file}, for results.json: a run that is interrupted here leaves files that its results do not describe.

    Raises:
        DataError: a file cannot be written.
    """
    return {name: sha256_of(each.save(folder / scores_name(name, part=part))) for name, each in scores.items()}


def check_described(path: Path, entry: str, results: Results) -> None:
    """Refuses a scores file that is not the one its results describe.

    Args:
        path: of the file.
        entry: the entry it belongs to.
        results: beside it; those of earlier versions name no file's content, and are believed.

    Raises:
        DataError: the file is another one.
    """
    wanted = (results.scores_sha256 or {}).get(entry)
    if wanted is not None and sha256_of(path) != wanted:
        raise DataError(
            f"{path} is not the file that the results beside it describe: an evaluation was interrupted (accepted: both of one "
            f"evaluation). Run `videokd evaluate {path.parent}` again."
        )


def load_scores(folder: Path, results: Results) -> dict[str, Scores]:
    """{entry: scores} of a run folder, of the entries whose files are there.

    Raises:
        DataError: a file is damaged, is not the one that the results describe, or has another number of classes than they.
    """
    found = {}
    num_classes = len(results.dataset.class_names)
    for name in results.entries:
        path = folder / scores_name(name, part=results.dataset.part)
        if not path.is_file():
            continue
        check_described(path, name, results)
        found[name] = Scores.load(path)
        if found[name].num_classes != num_classes:
            raise DataError(
                f"{path} has {found[name].num_classes} classes, and results.json beside it {num_classes} (accepted: the same "
                f"number). Run `videokd evaluate {folder}` again."
            )
    return found


def finished_scores(run: Path, results: Results, clips: Sequence[Clip]) -> dict[str, Scores] | None:
    """The scores of a finished evaluation.

    Args:
        run: the run's folder.
        results: of the evaluation.
        clips: to score.

    Returns:
        {network: scores}; None where files are missing, damaged or of other clips.
    """
    try:
        scores = load_scores(run, results)
    except DataError:
        return None
    ids = tuple(clip.video_id for clip in clips)
    labels = [clip.label for clip in clips]
    same = all(each.video_ids == ids and each.labels.tolist() == labels for each in scores.values())
    known = results.scores_sha256 is not None and list(scores) == list(results.entries)
    return scores if same and known else None
