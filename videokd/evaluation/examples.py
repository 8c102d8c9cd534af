"""Example clips of an evaluation: which ones, and pictures of their streams."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from videokd.codec.index import VideoIndex
from videokd.codec.reader import open_video
from videokd.datasets.manifest import Clip, Manifest
from videokd.drawing.picture import save_picture, streams_picture
from videokd.evaluation.metrics import probabilities
from videokd.evaluation.scores import Scores


def choose_examples(scores: Scores, clips: Sequence[Clip], *, count: int) -> list[Clip]:
    """Clips that are named rightly, then some that are not: half of each where there are as many.

    Those rightly named are the ones of middling confidence, the others the surest mistakes; classes differ as far as they can.

    Args:
        scores: of these clips.
        clips: in any order.
        count: how many are wanted.
    """
    confidence = probabilities(scores).max(axis=1)
    hits = scores.logits.argmax(axis=1) == scores.labels
    right, wrong = np.flatnonzero(hits), np.flatnonzero(~hits)
    if len(right):
        right = right[np.argsort(np.abs(confidence[right] - np.median(confidence[right])), kind="stable")]
    wrong = wrong[np.argsort(-confidence[wrong], kind="stable")]
    num_wrong = min(len(wrong), max(count // 2, count - len(right)))
    chosen = _of_other_classes(right.tolist(), scores, count - num_wrong, seen=set())
    chosen += _of_other_classes(wrong.tolist(), scores, num_wrong, seen={int(scores.labels[row]) for row in chosen})
    by_id = {clip.video_id: clip for clip in clips}
    return [by_id[scores.video_ids[row]] for row in chosen]


def _of_other_classes(rows: Sequence[int], scores: Scores, count: int, *, seen: set[int]) -> list[int]:
    """The first rows whose classes have not been seen, then the first of the others."""
    fresh: list[int] = []
    others: list[int] = []
    for row in rows:
        label = int(scores.labels[row])
        (others if label in seen else fresh).append(row)
        seen.add(label)
    return [*fresh, *others][:count]


def draw_examples(
    manifest: Manifest, clips: Sequence[Clip], folder: Path, *, part: str = "test"
) -> list[dict[str, str]]:
    """Pictures of the clips' streams near the end of their longest GOP; those of an earlier evaluation are removed.

    Args:
        manifest: where the clips lie.
        clips: to draw.
        folder: of the pictures.
        part: that the clips are of; each part has its own pictures.

    Returns:
        For results.json: {"picture": file name, "video_id", "class_name"} of each.
    """
    start = "streams-val" if part == "val" else "streams"
    for old in folder.glob(f"{start}-[0-9]*.png"):
        old.unlink()
    examples = []
    for number, clip in enumerate(clips, start=1):
        index = VideoIndex.from_json(clip.index)
        gop = max(range(len(index.gops)), key=lambda number: index.gops[number].num_positions)
        with open_video(manifest.root / clip.path, index=index) as video:
            last = index.gops[gop].num_positions - 1
            streams = video.read(gop=gop, position=last, streams=("iframe", "motion", "residual", "frame"))
        name = f"{start}-{number:02d}.png"  # made here: a class's name may come from a stranger
        folder.mkdir(parents=True, exist_ok=True)
        save_picture(streams_picture([streams], title=clip.video_id), folder / name)
        examples.append({"picture": name, "video_id": clip.video_id, "class_name": clip.class_name})
    return examples


@dataclass(frozen=True)
class ClassPrediction:
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


def predictions_for(video_id: str, models: Mapping[str, Scores], class_names: Sequence[str]) -> list[ClassPrediction]:
    """What each model says of a video; models that have not seen it are left out."""
    found = []
    for name, scores in models.items():
        if video_id not in scores.video_ids:
            continue
        row = scores.video_ids.index(video_id)
        best = int(scores.logits[row].argmax())
        probability = float(probabilities(scores)[row, best])
        found.append(ClassPrediction(name, class_names[best], probability, best == int(scores.labels[row])))
    return found
