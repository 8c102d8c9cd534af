"""Example clips of an evaluation: which ones, what each model predicts of them, and pictures of their streams."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from videokd.codec.index import VideoIndex
from videokd.codec.reader import open_video
from videokd.datasets.manifest import Clip, Manifest
from videokd.drawing.picture import save_picture, streams_picture
from videokd.errors import DataError
from videokd.evaluation.results import Example
from videokd.evaluation.scores import Scores

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_MOST_BYTES, _LONGEST_SIDE = 20_000_000, 30_000


def choose_examples(scores: Scores, clips: Sequence[Clip], *, count: int) -> list[Clip]:
    """Correctly classified clips, then misclassified ones: half of each where there are enough.

    The correct ones are those of median confidence, the others the most confident errors; classes differ as far as they can.

    Args:
        scores: of these clips.
        clips: in any order.
        count: how many to choose.
    """
    confidence, correct = scores.confidence(), scores.correct()
    right, wrong = np.flatnonzero(correct), np.flatnonzero(~correct)
    if len(right):
        right = right[np.argsort(np.abs(confidence[right] - np.median(confidence[right])), kind="stable")]
    wrong = wrong[np.argsort(-confidence[wrong], kind="stable")]
    num_wrong = min(len(wrong), max(count // 2, count - len(right)))
    chosen = _different_classes_first(right.tolist(), scores, count - num_wrong, seen=set())
    chosen += _different_classes_first(
        wrong.tolist(), scores, num_wrong, seen={int(scores.labels[row]) for row in chosen}
    )
    by_id = {clip.video_id: clip for clip in clips}
    return [by_id[scores.video_ids[row]] for row in chosen]


def _different_classes_first(rows: Sequence[int], scores: Scores, count: int, *, seen: set[int]) -> list[int]:
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
) -> tuple[Example, ...]:
    """Pictures of the clips' streams near the end of their longest GOP; those of an earlier evaluation are removed.

    Args:
        manifest: names the clips' files.
        clips: to draw.
        folder: of the pictures.
        part: that the clips are of; each part has its own pictures.

    Returns:
        The picture of each clip, in their order.
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
        name = f"{start}-{number:02d}.png"  # made here: a class's name comes from outside
        folder.mkdir(parents=True, exist_ok=True)
        save_picture(streams_picture([streams], title=clip.video_id), folder / name)
        examples.append(Example(name, clip.video_id, clip.class_name))
    return tuple(examples)


@dataclass(frozen=True)
class ClassPrediction:
    """What one model predicts of one video.

    Args:
        model: its name.
        class_name: the most probable class.
        probability: of that class, 0 to 1.
        correct: whether it is the video's class.
    """

    model: str
    class_name: str
    probability: float
    correct: bool


def predictions_for(video_id: str, models: Mapping[str, Scores], class_names: Sequence[str]) -> list[ClassPrediction]:
    """What each model predicts of a video; models that were not tested on it are omitted."""
    found = []
    for name, scores in models.items():
        if video_id not in scores.video_ids:
            continue
        row = scores.video_ids.index(video_id)
        predicted, probability = int(scores.predicted()[row]), float(scores.confidence()[row])
        found.append(ClassPrediction(name, class_names[predicted], probability, bool(scores.correct()[row])))
    return found


def named_picture(run: Path, name: str) -> Path:
    """Where a picture of a run is, or would be.

    Args:
        run: the run's folder.
        name: as results.json has it.

    Raises:
        DataError: it is not a bare name of a PNG file.
    """
    if not name.endswith(".png") or name != Path(name).name or any(letter in name for letter in "/\\\0:"):
        raise DataError(
            f"{run}/results.json names the picture {name!r:.200} (accepted: the bare name of a PNG file in {run}/pictures). "
            f"Run `videokd evaluate {run}` to make it again."
        )
    return run / "pictures" / name


def png_of(path: Path) -> bytes:
    """The content of a PNG file in a run's folder of pictures.

    Raises:
        DataError: it is not a PNG file, is a link out of the folder, is larger than any picture of a run, or cannot be read.
    """
    folder = path.parent
    try:
        inside = path.resolve().parent == folder.parent.resolve() / folder.name
        size = path.stat().st_size if inside and path.is_file() else 0
        content = path.read_bytes() if 24 < size <= _MOST_BYTES else b""
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}). Remove it, or make it readable.") from error
    sides = [int.from_bytes(content[place : place + 4], "big") for place in (16, 20)]
    if (
        not content.startswith(_SIGNATURE)
        or content[12:16] != b"IHDR"
        or not 0 < min(sides) <= max(sides) <= _LONGEST_SIDE
    ):
        raise DataError(
            f"{path} is not a picture of a run (accepted: PNG files of the run itself, up to {_MOST_BYTES // 10**6} MB and "
            f"{_LONGEST_SIDE} pixels a side). Remove it."
        )
    return content
