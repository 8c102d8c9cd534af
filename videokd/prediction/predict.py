"""`videokd.predict`: the action in one video."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from videokd.bitstream.source import Openable, Source, source_of
from videokd.errors import ConfigError
from videokd.prediction.loading import predictor_of
from videokd.prediction.prediction import Prediction, ranked
from videokd.prediction.predictor import Predictor
from videokd.prediction.reading import Transcode, read_streams

if TYPE_CHECKING:
    from videokd.models.students import Students


def predict(
    path: Openable | Source,
    students: Students | Predictor | str | os.PathLike[str],
    *,
    top: int = 5,
    num_segments: int | None = None,
    transcode: Transcode = "auto",
    exit_threshold: float | None = None,
) -> Prediction:
    """Names the action in one video.

    Args:
        path: of a file, or bytes, or a file object, as for `videokd.open`.
        students: from `videokd.load_students`; what they compute on and in follows from them (`students.to("cuda")`,
            `students.half()`). Or a predictor (`load_predictor`), or the folder, which is then loaded at each call.
        top: how many labels.
        num_segments: places looked at, one crop each; by default 8, or as many as in training where students see their order.
        transcode: bring the video into the form that the students learned from: never, always, or (auto) where its form is
            another: codec, GOPs, B-frames, size, pixel format and aspect, orientation, or frame rate. If some student sees pictures
            (iframe, rgb), auto does not transcode a file that is similar: with motion vectors, upright, at most a quarter larger or
            smaller. Long GOPs of a file that is not transcoded are cut to the length of training.
        exit_threshold: each student stops computing at its first exit whose probability is above this, 0 to 1; their logits are then
            fused as without a threshold. None: every student computes its whole network.

    Raises:
        DecodeError: the file cannot be read.
        DataError: the video has no P-frame.
        ConfigError: a number is out of range, there is a threshold and the students have no exits, or the GPU's memory is too small.
    """
    check_numbers(top=top, num_segments=num_segments)
    predictor = predictor_of(students, exit_threshold=exit_threshold)
    source = source_of(path)
    streams, seconds, route = read_streams(source, predictor.wanted, num_segments=num_segments, transcode=transcode)
    started = time.perf_counter()
    answer = predictor(streams, names=[str(source)])
    seconds["network"] = time.perf_counter() - started
    labels = ranked(answer.probabilities[0], predictor.wanted.class_names, top=top)
    return Prediction(str(source), labels, seconds, {name: exit for name, (exit,) in answer.exits.items()}, route)


def check_numbers(*, top: int, num_segments: int | None) -> None:
    """Refuses numbers of labels and of segments that nobody can mean.

    Raises:
        ConfigError: names the number.
    """
    for name, number, most in (("top", top, 10**9), ("num_segments", num_segments, 1000)):
        if number is not None and not (isinstance(number, int) and 1 <= number <= most):
            raise ConfigError(f"{name} is {number!r:.40} (accepted: a whole number, 1 to {most}). Correct the setting.")
