"""Videos that were read, through the students together."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from videokd.errors import ConfigError
from videokd.prediction.prediction import Prediction, Route, ranked
from videokd.prediction.predictor import Predictor

#: One video as `read_streams` gives it, after its name.
Read = tuple[str, dict[str, npt.NDArray[np.uint8]], dict[str, float], Route]


def predictions_of(read: Sequence[Read], predictor: Predictor, *, top: int) -> list[Prediction]:
    """What a predictor says about videos that were read, in one batch.

    Args:
        read: (name, streams, seconds, route) of each; the streams are of equal shape.
        predictor: the students.
        top: how many labels.

    Raises:
        VideoKDError: as for `Predictor`.
    """
    started = time.perf_counter()
    batch = {key: _together([streams[key] for _, streams, _, _ in read]) for key in read[0][1]}
    answer = predictor(batch, names=[name for name, _, _, _ in read])
    each = (time.perf_counter() - started) / len(read)
    return [
        Prediction(
            name,
            ranked(answer.probabilities[number], predictor.wanted.class_names, top=top),
            seconds | {"network": each},
            {student: exits[number] for student, exits in answer.exits.items()},
            route,
        )
        for number, (name, _, seconds, route) in enumerate(read)
    ]


def usual_batch(predictor: Predictor) -> int:
    """How many videos a predictor likes to see together; one, if it does not say.

    Args:
        predictor: the students.
    """
    return getattr(predictor, "usual_batch", 1)


def _together(videos: Sequence[npt.NDArray[np.uint8]]) -> npt.NDArray[np.uint8]:
    """[B, S, C, H, W] of B arrays [1, S, C, H, W]; a pixel's channels lie side by side, as in what was read."""
    if len(videos) == 1:
        return videos[0]
    _, segments, channels, height, width = videos[0].shape
    together = np.empty((len(videos), segments, height, width, channels), np.uint8).transpose(0, 1, 4, 2, 3)
    for number, video in enumerate(videos):
        together[number] = video[0]
    return together


def check_numbers(*, top: int, num_segments: int | None) -> None:
    """Refuses numbers of labels and of segments that nobody can mean.

    Args:
        top: how many labels.
        num_segments: places looked at; None: the usual number.

    Raises:
        ConfigError: names the number.
    """
    for name, number, most in (("top", top, 10**9), ("num_segments", num_segments, 1000)):
        if number is not None and not (isinstance(number, int) and 1 <= number <= most):
            raise ConfigError(f"{name} is {number!r:.40} (accepted: a whole number, 1 to {most}). Correct the setting.")
