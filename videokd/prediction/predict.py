"""`videokd.predict`: the action in one video, or in many."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, overload

from videokd.bitstream.source import Openable, Source, source_of
from videokd.prediction.batch import check_numbers, predictions_of
from videokd.prediction.loading import predictor_of
from videokd.prediction.prediction import Prediction
from videokd.prediction.predictions import Predictions
from videokd.prediction.predictor import Predictor
from videokd.prediction.reading import Transcode, read_streams

if TYPE_CHECKING:
    from videokd.models.students import Students


@overload
def predict(  # type: ignore[overload-overlap]  # a text is one path, though it is iterable
    path: Openable | Source,
    students: Students | Predictor | str | os.PathLike[str],
    *,
    top: int = 5,
    num_segments: int | None = None,
    transcode: Transcode = "auto",
    exit_threshold: float | None = None,
) -> Prediction: ...


@overload
def predict(
    path: Iterable[Openable | Source],
    students: Students | Predictor | str | os.PathLike[str],
    *,
    top: int = 5,
    num_segments: int | None = None,
    transcode: Transcode = "auto",
    exit_threshold: float | None = None,
) -> Predictions: ...


def predict(
    path: Openable | Source | Iterable[Openable | Source],
    students: Students | Predictor | str | os.PathLike[str],
    *,
    top: int = 5,
    num_segments: int | None = None,
    transcode: Transcode = "auto",
    exit_threshold: float | None = None,
) -> Prediction | Predictions:
    """Names the action in one video, or in each of many.

    Args:
        path: of a file, or bytes, or a file object, as for `videokd.open`; or an iterable of these, such as a list of paths.
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

    Returns:
        The prediction; of an iterable, an iterator of predictions, in order, each read when it is asked for. A video that cannot be
        read raises its error when it is its turn, and the iterator goes on with the next; `predict(…).good()` skips such videos, and
        keeps them in `failed`. `videokd predict` labels large archives, in several processes.

    Raises:
        DecodeError: the file cannot be read.
        DataError: the video has no P-frame.
        ConfigError: a number is out of range, there is a threshold and the students have no exits, or the GPU's memory is too small.
    """
    check_numbers(top=top, num_segments=num_segments)
    predictor = predictor_of(students, exit_threshold=exit_threshold)
    if isinstance(path, Iterable) and not (
        isinstance(path, str | bytes | bytearray | memoryview) or hasattr(path, "read")
    ):
        return Predictions(path, predictor, top=top, num_segments=num_segments, transcode=transcode)
    source = source_of(path)  # type: ignore[arg-type]  # an iterable that can be read is a file object
    read = read_streams(source, predictor.wanted, num_segments=num_segments, transcode=transcode)
    (prediction,) = predictions_of([(str(source), *read)], predictor, top=top)
    return prediction
