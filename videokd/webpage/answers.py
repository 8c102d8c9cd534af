"""What the page says about one clip: computed here, drawn by `markup.py`."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from videokd.bitstream.source import Source, source_of
from videokd.codec.index import VideoIndex
from videokd.codec.reader import VideoReader, open_video
from videokd.errors import ConfigError, DataError, DecodeError
from videokd.jobs.failures import any_error_named
from videokd.prediction.predictor import Predictor
from videokd.prediction.reading import read_as_trained
from videokd.prediction.windows import WindowedPrediction, answer_windows, with_times
from videokd.transcoding.training_form import form_of
from videokd.webpage.film_strip import StreamsFilm, film_streams

#: A long clip gets a longer stride: more bars than these cannot be told apart, and take long.
MOST_WINDOWS = 60
_MEGABYTE = 1_000_000


@dataclass(frozen=True)
class PageLimits:
    """What the page accepts, and how it looks at a clip.

    Args:
        window: length of a window, in seconds.
        stride: from the start of one window to that of the next, in seconds; longer where there would be more than 60 windows.
        most_megabytes: of a clip's file.
        most_seconds: of a clip.

    Raises:
        ConfigError: a number is not positive.
    """

    window: float
    stride: float
    most_megabytes: float
    most_seconds: float

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not (math.isfinite(value) and value > 0):
                raise ConfigError(f"{name} is {value} (accepted: a number above 0). Correct it.")


@dataclass(frozen=True)
class ClipAnswer:
    """What the page says about a clip.

    Args:
        name: of the clip.
        num_bytes: of its file.
        index: of its file, as it is; None where it can only be read after transcoding.
        unreadable: why it is None, else empty.
        predictions: {name of a set of students: what it says}.
        film: of the streams, in the form that the first set sees.
        index_seconds: the time that finding the clip's frames took.
        film_seconds: the time that the film took.
    """

    name: str
    num_bytes: int
    index: VideoIndex | None
    unreadable: str
    predictions: Mapping[str, WindowedPrediction]
    film: StreamsFilm
    index_seconds: float
    film_seconds: float


def answer_clip(
    path: Path,
    sets: Mapping[str, Predictor],
    *,
    name: str,
    limits: PageLimits,
    tell: Callable[[float, str], None],
) -> ClipAnswer:
    """Looks at one clip.

    Args:
        path: of its file.
        sets: {name: students}, one or two.
        name: of the clip, for messages and the page.
        limits: what is accepted.
        tell: is told how far the work is, 0 to 1, and what comes next; what it raises ends the work.

    Raises:
        DecodeError, DataError: the clip cannot be read, or is larger or longer than accepted.
        ConfigError: the memory is too small.
    """
    tell(0.0, "finding the frames")
    with any_error_named(name, done="answered"):
        source = source_of(path)
        source.name = name
        _check_size(source, limits)
        started = time.perf_counter()
        index, unreadable = _index_of(source)
        index_seconds = time.perf_counter() - started
        _check_length(name, form_of(source).seconds if index is None else index.duration_seconds, limits)
        filming, predictions = _Filming(tell), {}
        for number, (set_name, predictor) in enumerate(sets.items()):
            tell(0.1 + 0.8 * number / len(sets), "reading the clip")
            read = partial(_look, predictor=predictor, filming=filming, limits=limits, name=name)
            found, seconds, route = read_as_trained(source, predictor.wanted, read)
            if number == 0:
                seconds["read"] -= filming.seconds
            predictions[set_name] = with_times(found, seconds, route)
    assert filming.film is not None  # there is at least one set
    return ClipAnswer(name, source.size, index, unreadable, predictions, filming.film, index_seconds, filming.seconds)


def _index_of(source: Source) -> tuple[VideoIndex | None, str]:
    """The index of a file, or why it has none: students may still answer about a transcoded copy, as for `videokd.predict`."""
    try:
        with open_video(source) as video:
            return video.index, ""
    except DecodeError as error:
        return None, str(error)


class _Filming:
    """Films the first video that it is shown: two sets of students share a film."""

    def __init__(self, tell: Callable[[float, str], None]) -> None:
        self.film: StreamsFilm | None = None
        self.seconds = 0.0
        self.tell = tell

    def see(self, video: VideoReader) -> None:
        if self.film is None:
            self.tell(0.2, "drawing the streams")
            started = time.perf_counter()
            self.film = film_streams(video)
            self.seconds = time.perf_counter() - started
            self.tell(0.5, "asking the students")


def _look(
    video: VideoReader, *, predictor: Predictor, filming: _Filming, limits: PageLimits, name: str
) -> WindowedPrediction:
    _check_length(name, video.index.duration_seconds, limits)  # of a transcoded copy
    filming.see(video)
    stride = max(limits.stride, (video.index.duration_seconds - limits.window) / (MOST_WINDOWS - 1))
    return answer_windows(video, predictor, window_seconds=limits.window, stride_seconds=stride, name=name)


def _check_size(source: Source, limits: PageLimits) -> None:
    megabytes = source.size / _MEGABYTE
    if megabytes > limits.most_megabytes:
        raise DataError(
            f"{source} has {megabytes:.1f} MB (accepted: at most {limits.most_megabytes:g} MB). "
            "Take a smaller file, or start the page with a larger `--most_megabytes`."
        )


def _check_length(name: str, seconds: float, limits: PageLimits) -> None:
    if seconds > limits.most_seconds:
        raise DataError(
            f"{name} lasts {seconds:.1f} s (accepted: at most {limits.most_seconds:g} s). "
            "Cut it, or start the page with a larger `--most_seconds`."
        )
