"""The action in a video as time goes by: sliding windows over one file, which is decoded once for all of them."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import numpy.typing as npt

from videokd.bitstream.source import Openable, Source, source_of
from videokd.codec.reader import VideoReader
from videokd.datasets.view import View, central_crop, first_position_of, read_inputs, sample_positions
from videokd.errors import ConfigError
from videokd.prediction.batch import check_numbers
from videokd.prediction.loading import predictor_of
from videokd.prediction.prediction import Route
from videokd.prediction.predictor import Predictor
from videokd.prediction.reading import Transcode, read_as_trained

if TYPE_CHECKING:
    from videokd.models.students import Students

# Pictures that are read at once, and windows that the students see at once: what is kept in memory grows with both
_READ_TOGETHER, _ANSWERED_TOGETHER = 16, 4
_MOST_WINDOWS = 100_000

Item = TypeVar("Item")
#: (GOP, position) of each segment of a window.
Places = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class WindowedPrediction:
    """What students say about a video, and about each window of it.

    Args:
        class_names: K names.
        whole: float32 [K], the probabilities for the whole video, as `videokd.predict` gives them.
        spans: (start, end) of each of N windows, in seconds from the first frame.
        probabilities: float32 [N, K], for each window.
        seconds: {"transcode", "read", "network"}: the time that each step took, for all windows and the whole video.
        route: how the file was read: as it is; with its long GOPs cut to the length of training; or transcoded.
    """

    class_names: tuple[str, ...]
    whole: npt.NDArray[np.float32]
    spans: tuple[tuple[float, float], ...]
    probabilities: npt.NDArray[np.float32]
    seconds: Mapping[str, float]
    route: Route = "as it is"


def predict_windows(
    path: Openable | Source,
    students: Students | Predictor | str | os.PathLike[str],
    *,
    window_seconds: float = 2.0,
    stride_seconds: float = 1.0,
    num_segments: int | None = None,
    transcode: Transcode = "auto",
) -> WindowedPrediction:
    """Names the action in each window of a video, and in the whole video; the file is decoded once for all of them.

    Args:
        path: of a file, or bytes, or a file object, as for `videokd.open`.
        students: as for `videokd.predict`.
        window_seconds: the length of a window; a shorter video is one window.
        stride_seconds: from the start of one window to that of the next. The last window ends with the video.
        num_segments: places looked at in each window, and in the whole video; None: as for `videokd.predict`.
        transcode: as for `videokd.predict`.

    Raises:
        DecodeError: the file cannot be read.
        DataError: the video has no P-frame.
        ConfigError: a number is out of range, or the memory is too small.
    """
    check_numbers(top=1, num_segments=num_segments)
    predictor, source = predictor_of(students), source_of(path)
    read = partial(
        answer_windows,
        predictor=predictor,
        window_seconds=window_seconds,
        stride_seconds=stride_seconds,
        num_segments=num_segments,
        name=str(source),
    )
    return with_times(*read_as_trained(source, predictor.wanted, read, transcode=transcode))


def answer_windows(
    video: VideoReader,
    predictor: Predictor,
    *,
    window_seconds: float,
    stride_seconds: float,
    num_segments: int | None = None,
    name: str,
) -> WindowedPrediction:
    """As `predict_windows`, for a video that is open in the form that the students learned from.

    Args:
        video: the video.
        predictor: the students.
        window_seconds, stride_seconds, num_segments: as for `predict_windows`.
        name: of the video, for errors.

    Raises:
        DecodeError: the file cannot be read.
        DataError: the video has no P-frame.
        ConfigError: a number is out of range, or the memory is too small.
    """
    duration, wanted = video.index.duration_seconds, predictor.wanted
    spans = window_spans(duration, window_seconds=window_seconds, stride_seconds=stride_seconds)
    views = _views(video, spans, wanted.streams, num_segments or wanted.usual_segments)
    probabilities, network = _answers(video, predictor, views, name=name)
    seconds = {"network": network}
    return WindowedPrediction(wanted.class_names, probabilities[0], spans, probabilities[1:], seconds)


def with_times(found: WindowedPrediction, seconds: Mapping[str, float], route: Route) -> WindowedPrediction:
    """The prediction of `answer_windows` with the rest of what is known about its reading.

    Args:
        found: what `answer_windows` gave.
        seconds: {"transcode", "read"}: as `read_as_trained` measured them; "read" includes the networks.
        route: how the file was read.
    """
    network = found.seconds["network"]
    times = {"transcode": seconds["transcode"], "read": seconds["read"] - network, "network": network}
    return replace(found, seconds=times, route=route)


def window_spans(
    duration_seconds: float, *, window_seconds: float, stride_seconds: float
) -> tuple[tuple[float, float], ...]:
    """(start, end) of windows that cover a video, in seconds; the last one ends with it.

    Args:
        duration_seconds: of the video.
        window_seconds: the length of a window; a shorter video is one window.
        stride_seconds: from one start to the next; the last step may be shorter.

    Raises:
        ConfigError: a length is not positive, or the stride so short that there would be more than 100,000 windows.

    >>> window_spans(5.0, window_seconds=2.0, stride_seconds=2.0)
    ((0.0, 2.0), (2.0, 4.0), (3.0, 5.0))
    """
    for name, seconds in (("window_seconds", window_seconds), ("stride_seconds", stride_seconds)):
        if not (math.isfinite(seconds) and seconds > 0):
            raise ConfigError(f"{name} is {seconds} (accepted: a number above 0). Correct it.")
    rest = max(duration_seconds - window_seconds, 0.0)
    steps = math.ceil(rest / stride_seconds - 1e-9)
    if steps >= _MOST_WINDOWS:
        raise ConfigError(
            f"stride_seconds is {stride_seconds:g}: {steps + 1} windows (accepted: at most {_MOST_WINDOWS}). Take a longer stride."
        )
    starts = (min(step * stride_seconds, rest) for step in range(steps + 1))
    return tuple((start, min(start + window_seconds, duration_seconds)) for start in starts)


def _views(
    video: VideoReader, spans: Sequence[tuple[float, float]], streams: Sequence[str], num_segments: int
) -> list[Places]:
    """Where the whole video and each window are looked at: the middles of equal parts of their positions."""
    sample = partial(
        sample_positions,
        [gop.num_positions for gop in video.gops],
        num_segments=num_segments,
        first_position=first_position_of(streams),
    )
    shown = [video.index.seconds_of(number) for gop in video.gops for number in gop.frame_numbers]
    views = [sample()]
    for start, end in np.searchsorted(shown, spans).tolist():
        first = min(start, len(shown) - 1)  # a window may fall between two positions
        views.append(sample(within=(first, max(end, first + 1))))
    return views


def _answers(
    video: VideoReader, predictor: Predictor, views: Sequence[Places], *, name: str
) -> tuple[npt.NDArray[np.float32], float]:
    """float32 [N, K], for each view, in one pass over the video; seconds that the networks took.

    Places are read in the order of the file. A view is answered as soon as its last place is read, and what no other view needs is
    dropped: windows overlap, and memory must not grow with the video's length.
    """
    size = (video.width, video.height)
    crop, wanted = central_crop(*size), predictor.wanted
    probabilities = np.empty((len(views), len(wanted.class_names)), np.float32)
    waiting, network = list(range(len(views))), 0.0
    kept: dict[tuple[int, int], dict[str, npt.NDArray[np.uint8]]] = {}
    for places in _in_groups(sorted({place for view in views for place in view}), _READ_TOGETHER):
        read = read_inputs(video, View(tuple(places), (crop,), size), wanted.inputs)
        kept |= {place: {key: values[at] for key, values in read.items()} for at, place in enumerate(places)}
        ready = [number for number in waiting if max(views[number]) <= places[-1]]
        for numbers in _in_groups(ready, _ANSWERED_TOGETHER):
            seen = {
                key: np.stack([np.stack([kept[place][key] for place in views[number]]) for number in numbers])
                for key in wanted.inputs
            }  # [B, S, C, H, W]
            started = time.perf_counter()
            probabilities[numbers] = predictor(seen, names=[name] * len(numbers)).probabilities
            network += time.perf_counter() - started
        waiting = [number for number in waiting if max(views[number]) > places[-1]]
        needed = {place for number in waiting for place in views[number]}
        kept = {place: values for place, values in kept.items() if place in needed}
    return probabilities, network


def _in_groups(items: Sequence[Item], size: int) -> Iterator[list[Item]]:
    """The items, some at a time."""
    for start in range(0, len(items), size):
        yield list(items[start : start + size])
