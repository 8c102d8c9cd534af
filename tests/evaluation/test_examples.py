"""Which clips `evaluate` shows."""

from __future__ import annotations

import numpy as np

from videokd.datasets.manifest import Clip
from videokd.evaluation.examples import choose_examples
from videokd.evaluation.scores import Scores

NAMES = ("wave", "clap", "throw")


def clip(name: str, label: int) -> Clip:
    return Clip(
        video_id=name,
        path=f"{name}.mp4",
        label=label,
        class_name=NAMES[label],
        group="g",
        **dict.fromkeys(("split1", "split2", "split3"), "test"),
        **dict.fromkeys(("codec", "index", "source_sha256", "sha256"), ""),
        **dict.fromkeys(("width", "height", "num_frames", "seconds", "bytes"), 1),
    )


def scores_and_clips(*videos: tuple[int, int, float]) -> tuple[Scores, list[Clip]]:
    """Videos of (label, answer, how much larger the answer's logit is than the others)."""
    logits = np.zeros((len(videos), 3), np.float32)
    for row, (_, answer, margin) in enumerate(videos):
        logits[row, answer] = margin
    labels = np.array([label for label, _, _ in videos])
    ids = tuple(f"v{row}" for row in range(len(videos)))
    clips = [clip(name, label) for name, label in zip(ids, labels.tolist(), strict=True)]
    return Scores(logits, labels, ids), clips


def chosen(count: int, *videos: tuple[int, int, float]) -> list[str]:
    scores, clips = scores_and_clips(*videos)
    return [clip.video_id for clip in choose_examples(scores, clips, count=count)]


def test_half_are_wrong_and_the_surest_mistake_comes_first() -> None:
    videos = ((0, 0, 1.0), (1, 1, 2.0), (2, 2, 3.0), (0, 1, 1.0), (1, 2, 4.0), (2, 0, 2.0))
    assert chosen(4, *videos) == ["v1", "v2", "v3", "v4"]  # v3 before the surer v4: its class has not been shown
    assert chosen(2, *videos) == ["v1", "v5"]
    assert chosen(0, *videos) == []
    assert sorted(chosen(9, *videos)) == [f"v{row}" for row in range(6)]


def test_where_all_are_right_or_all_are_wrong() -> None:
    assert chosen(3, (0, 0, 1.0), (1, 1, 2.0), (2, 2, 3.0)) == ["v1", "v2", "v0"]
    assert chosen(2, (0, 1, 1.0), (1, 2, 2.0), (2, 0, 3.0)) == ["v2", "v1"]


def test_classes_differ_as_far_as_they_can() -> None:
    assert chosen(3, (0, 0, 1.0), (0, 0, 1.0), (0, 0, 1.0), (1, 1, 9.0), (2, 2, 9.5)) == ["v0", "v3", "v4"]
