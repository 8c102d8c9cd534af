"""Reads a video as students want to see it: as it is, with its GOPs cut, or transcoded first."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal, TypeVar, get_args

import numpy as np
import numpy.typing as npt

from videokd.bitstream.source import Openable, Source, source_of
from videokd.codec.container import MOTION_CODECS
from videokd.codec.reader import VideoReader, open_video
from videokd.datasets.view import View, central_crop, first_position_of, read_inputs, sample_positions
from videokd.errors import ConfigError, DecodeError
from videokd.files import temporary_folder
from videokd.prediction.prediction import Route
from videokd.prediction.wanted import Wanted
from videokd.transcoding.training_form import TrainingForm, form_of
from videokd.transcoding.transcode import transcode as write_transcoded
from videokd.types import STREAMS

Transcode = Literal["auto", "always", "never"]
Result = TypeVar("Result")


def read_streams(
    path: Openable | Source,
    wanted: Wanted,
    *,
    num_segments: int | None = None,
    transcode: Transcode = "auto",
    scratch: str = "",
) -> tuple[dict[str, npt.NDArray[np.uint8]], dict[str, float], Route]:
    """A video as students see it.

    Args:
        path: of a file, or bytes, or a file object, as for `videokd.open`.
        wanted: what the students want.
        num_segments: S, places looked at; None: `wanted.usual_segments`.
        transcode: as for `videokd.predict`.
        scratch: what the names of temporary folders begin with.

    Returns:
        {stream: uint8 [1, S, C, H, W]}; {"transcode", "read", "decode", "streams"}: seconds, as `Prediction` has them; how the file
        was read.

    Raises:
        DecodeError: the file cannot be read.
        DataError: the video has no P-frame.
        ConfigError: `transcode` is none of its choices.
    """
    read = partial(_cropped_streams, wanted=wanted, num_segments=num_segments or wanted.usual_segments)
    cropped, seconds, route = read_as_trained(source_of(path), wanted, read, transcode=transcode, scratch=scratch)
    opening = max(seconds["read"] - cropped.decoding - cropped.computing, 0.0)
    split = {"read": opening, "decode": cropped.decoding, "streams": cropped.computing}
    return cropped.streams, {"transcode": seconds["transcode"], **split}, route


def read_as_trained(
    source: Source,
    wanted: Wanted,
    read: Callable[[VideoReader], Result],
    *,
    transcode: Transcode = "auto",
    scratch: str = "",
) -> tuple[Result, dict[str, float], Route]:
    """Reads a video in the form that students learned from: as it is, with its GOPs cut, or transcoded.

    Args:
        source: the video.
        wanted: what the students want.
        read: reads what is needed from the open video. It is called again, with a transcoded copy, if the file cannot be read as it is.
        transcode: as for `videokd.predict`.
        scratch: what the names of temporary folders begin with.

    Returns:
        What `read` gives; {"transcode", "read"}: seconds; how the file was read.

    Raises:
        DecodeError: the file cannot be read.
        DataError: the video has no P-frame.
        ConfigError: `transcode` is none of its choices.
    """
    started = time.perf_counter()
    if transcode not in get_args(Transcode):
        raise ConfigError(f"transcode {transcode!r} (accepted: {', '.join(get_args(Transcode))}). Choose one of these.")
    trained = TrainingForm.from_settings(wanted.encoding)
    untouched = None if transcode == "always" else _read_untranscoded(source, wanted, trained, read, transcode)
    if untouched is not None:
        return untouched[0], {"transcode": 0.0, "read": time.perf_counter() - started}, untouched[1]
    with temporary_folder(scratch) as folder:
        target = folder / "clip.mp4"
        write_transcoded(source, target, trained.encoding_for(form_of(source).frame_rate))
        transcoded = time.perf_counter()
        with open_video(target) as video:
            result = read(video)
    return result, {"transcode": transcoded - started, "read": time.perf_counter() - transcoded}, "transcoded"


@dataclass(frozen=True)
class _Cropped:
    """What was read of an open video, and how long it took."""

    streams: dict[str, npt.NDArray[np.uint8]]  # [1, S, C, H, W]
    decoding: float
    computing: float


def _read_untranscoded(
    source: Source, wanted: Wanted, trained: TrainingForm, read: Callable[[VideoReader], Result], transcode: Transcode
) -> tuple[Result, Route] | None:
    """What `read` gives, and how the file was read; None where it must be transcoded first."""
    if transcode == "auto":
        try:
            return _read_if_similar(source, wanted, trained, read)
        except DecodeError:  # a file that cannot be read at random places may still play; if not, transcoding says why
            return None
    with open_video(source) as video:
        if video.codec not in MOTION_CODECS and first_position_of(wanted.streams):
            raise DecodeError(
                f"{video.source} is {video.codec}, which exports no motion vectors (accepted: {', '.join(MOTION_CODECS[:5])}, …). "
                "Pass `--transcode auto`."
            )
        route = _cut(video, trained.gop_at(video.num_frames / video.index.duration_seconds))
        return read(video), route


def _read_if_similar(
    source: Source, wanted: Wanted, trained: TrainingForm, read: Callable[[VideoReader], Result]
) -> tuple[Result, Route] | None:
    """The same, for a file in the training form or in a similar one."""
    form = form_of(source)
    same = not trained.differences(form)
    similar = _see_pictures(wanted) and trained.is_similar(form)
    if not (same or similar):
        return None
    with open_video(source) as video:
        route: Route = "as it is"
        if not same or trained.gop_differences(video.index):
            route = _cut(video, trained.gop_at(form.frame_rate))
            if not (similar and trained.has_similar_gops(video.index, form.frame_rate)):
                return None
        return read(video), route


def _see_pictures(wanted: Wanted) -> bool:
    """Whether some student sees whole pictures; motion and residuals depend more on the encoder, and on where GOPs begin."""
    return any(STREAMS[name].first_position == 0 for name in wanted.streams)


def _cut(video: VideoReader, length: int | None) -> Route:
    """Cuts the GOPs of a video that are longer than in training."""
    if length is not None:
        video.cut_gops(length)
    return "cut GOPs" if video.index.cuts else "as it is"


def _cropped_streams(video: VideoReader, *, wanted: Wanted, num_segments: int) -> _Cropped:
    """The central crop of every input at the middles of S equal parts."""
    started, decoded_before = time.perf_counter(), video.decoding_seconds
    lengths = [gop.num_positions for gop in video.gops]
    first_position = first_position_of(wanted.streams)
    positions = sample_positions(lengths, num_segments=num_segments, first_position=first_position)
    size = (video.width, video.height)
    cropped = read_inputs(video, View(positions, (central_crop(*size),), size), wanted.inputs)
    decoding = video.decoding_seconds - decoded_before
    streams = {name: values[None] for name, values in cropped.items()}  # [1, S, C, H, W]
    return _Cropped(streams, decoding, time.perf_counter() - started - decoding)
