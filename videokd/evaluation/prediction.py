"""`videokd.predict`: the action in one video, and predictions as tables, JSON and CSV."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal, get_args

import torch

from videokd.bitstream.source import Openable, Source, source_of
from videokd.codec.container import MOTION_CODECS
from videokd.codec.reader import VideoReader, open_video
from videokd.datasets.view import View, central_crop, first_position_of, read_inputs, sample_positions
from videokd.distill.fusion import fuse
from videokd.errors import ConfigError, DecodeError
from videokd.files import csv_text
from videokd.models.onnx_file import random_videos
from videokd.models.students import Students
from videokd.models.students_file import load_students
from videokd.runs.memory import out_of_memory_in_a_line
from videokd.training.validate import check_logits
from videokd.transcoding.training_form import TrainingForm, form_of
from videokd.transcoding.transcode import transcode as write_transcoded
from videokd.types import STREAMS, stream_and_size

Transcode = Literal["auto", "always", "never"]
Route = Literal["as it is", "cut GOPs", "transcoded"]
_NUM_SEGMENTS = 8


@dataclass(frozen=True)
class RankedLabel:
    """A class that a video may show.

    Args:
        name: of the class.
        probability: 0 to 1.
    """

    name: str
    probability: float


@dataclass(frozen=True)
class Prediction:
    """What the students predict of one video.

    Args:
        path: of the video, or the name of a file object, or "<bytes>".
        labels: the most probable first.
        seconds: {"transcode", "read", "network"}: the time each step took; 0 for transcoding where the file needed none.
        exits: {student: the exit it stopped at}, "deepest" for the whole network; empty without a threshold.
        route: how the file was read: as it is; with its long GOPs cut to the length of training (`VideoIndex.cut`); or transcoded.
    """

    path: str
    labels: tuple[RankedLabel, ...]
    seconds: dict[str, float]
    exits: dict[str, str] = field(default_factory=dict)
    route: Route = "as it is"


def predict(
    path: Openable | Source,
    students: Students | str | os.PathLike[str],
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
            `students.half()`). Or the folder, which is then loaded at each call.
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
    for name, number, most in (("top", top, 10**9), ("num_segments", num_segments, 1000)):
        if number is not None and not (isinstance(number, int) and 1 <= number <= most):
            raise ConfigError(f"{name} is {number!r:.40} (accepted: a whole number, 1 to {most}). Correct the setting.")
    if not isinstance(students, Students):
        students = load_students(students)
    source = source_of(path)
    streams, seconds, route = read_streams(source, students, num_segments=num_segments, transcode=transcode)
    started = time.perf_counter()
    device = next(students.parameters()).device
    exits: dict[str, tuple[str, ...]] = {}
    segments = next(iter(streams.values())).shape[1]
    too_large = f"{source} in {segments} segments. Pass fewer: `--num_segments {max(segments // 2, 1)}`; in Python `num_segments=`."
    with torch.no_grad(), out_of_memory_in_a_line(lambda: too_large):
        streams = {name: values.to(device) for name, values in streams.items()}
        if exit_threshold is None:
            logits = students.eval().logits(streams)
        else:
            logits, exits = students.eval().early_logits(streams, threshold=exit_threshold)
    logits = {name: values.float() for name, values in logits.items()}
    check_logits(logits, video_ids=[str(source)])
    fused = fuse(logits, students.weights, space=students.space)[0].softmax(0).cpu()  # type: ignore[arg-type]
    seconds["network"] = time.perf_counter() - started
    best = fused.topk(min(top, len(students.class_names)))
    labels = tuple(
        RankedLabel(students.class_names[i], p) for p, i in zip(*map(torch.Tensor.tolist, best), strict=True)
    )
    return Prediction(str(source), labels, seconds, {name: exit for name, (exit,) in exits.items()}, route)


def read_streams(
    path: Openable | Source,
    students: Students,
    *,
    num_segments: int | None = None,
    transcode: Transcode = "auto",
) -> tuple[dict[str, torch.Tensor], dict[str, float], Route]:
    """A video as the students see it; arguments and errors as for `predict`.

    Returns:
        {stream: uint8 [1, S, C, H, W]}; {"transcode", "read"}: seconds; how the file was read.
    """
    started, source = time.perf_counter(), source_of(path)
    num_segments = num_segments or (students.num_segments if students.sees_order else _NUM_SEGMENTS)
    if transcode not in get_args(Transcode):
        raise ConfigError(f"transcode {transcode!r} (accepted: {', '.join(get_args(Transcode))}). Choose one of these.")
    trained = TrainingForm.from_settings(students.encoding)
    read = None if transcode == "always" else _read_untranscoded(source, students, trained, num_segments, transcode)
    if read is not None:
        return read[0], {"transcode": 0.0, "read": time.perf_counter() - started}, read[1]
    with tempfile.TemporaryDirectory(prefix="videokd-") as folder:
        target = Path(folder) / "clip.mp4"
        write_transcoded(source, target, trained.encoding_for(form_of(source).frame_rate))
        transcoded = time.perf_counter()
        with open_video(target) as video:
            streams = _cropped_streams(video, students, num_segments=num_segments)
    return streams, {"transcode": transcoded - started, "read": time.perf_counter() - transcoded}, "transcoded"


def _read_untranscoded(
    source: Source, students: Students, trained: TrainingForm, num_segments: int, transcode: Transcode
) -> tuple[dict[str, torch.Tensor], Route] | None:
    """{stream: uint8 [1, S, C, H, W]}, and how they were read; None where the file must be transcoded first."""
    if transcode == "auto":
        try:
            return _read_if_similar(source, students, trained, num_segments)
        except DecodeError:  # a file that cannot be read at random places may still play; if not, transcoding says why
            return None
    with open_video(source) as video:
        if video.codec not in MOTION_CODECS and first_position_of(students.streams):
            raise DecodeError(
                f"{video.source} is {video.codec}, which exports no motion vectors (accepted: {', '.join(MOTION_CODECS[:5])}, …). "
                "Pass `--transcode auto`."
            )
        route = _cut(video, trained.gop_at(video.num_frames / video.index.duration_seconds))
        return _cropped_streams(video, students, num_segments=num_segments), route


def _read_if_similar(
    source: Source, students: Students, trained: TrainingForm, num_segments: int
) -> tuple[dict[str, torch.Tensor], Route] | None:
    """The same, for a file in the training form or in a similar one."""
    form = form_of(source)
    same = not trained.differences(form)
    similar = _see_pictures(students) and trained.is_similar(form)
    if not (same or similar):
        return None
    with open_video(source) as video:
        route: Route = "as it is"
        if not same or trained.gop_differences(video.index):
            route = _cut(video, trained.gop_at(form.frame_rate))
            if not (similar and trained.has_similar_gops(video.index, form.frame_rate)):
                return None
        return _cropped_streams(video, students, num_segments=num_segments), route


def _see_pictures(students: Students) -> bool:
    """Whether some student sees whole pictures; motion and residuals depend more on the encoder, and on where GOPs begin."""
    return any(STREAMS[name].first_position == 0 for name in students.streams)


def _cut(video: VideoReader, length: int | None) -> Route:
    """Cuts the GOPs of a video that are longer than in training."""
    if length is not None:
        video.cut_gops(length)
    return "cut GOPs" if video.index.cuts else "as it is"


def _cropped_streams(video: VideoReader, students: Students, *, num_segments: int) -> dict[str, torch.Tensor]:
    """{input: uint8 [1, S, C, H, W]}."""
    lengths = [gop.num_positions for gop in video.gops]
    first_position = first_position_of(students.streams)
    positions = sample_positions(lengths, num_segments=num_segments, first_position=first_position)
    main_size, size = students.input_size, (video.width, video.height)
    inputs = {key: stream_and_size(key, main_size=main_size) for key in students.inputs_at(main_size)}
    cropped = read_inputs(video, View(positions, (central_crop(*size),), size), inputs)
    return {name: torch.from_numpy(values)[None] for name, values in cropped.items()}  # [1, S, C, H, W]


def check_finite_predictions(students: Students, *, where: str) -> None:
    """Refuses students whose weights are finite but too large: their logits for a random video are not.

    Args:
        students: in evaluation mode.
        where: they come from, for the error.

    Raises:
        VideoKDError: a student's logits are not finite.
    """
    with torch.no_grad():
        logits = students.logits(random_videos(students, batch=1, segments=students.num_segments), with_exits=True)
    check_logits(logits, video_ids=[f"a random video ({where})"])


def prediction_lines(predictions: Sequence[Prediction], *, layout: Literal["table", "json", "csv"]) -> list[str]:
    """Predictions as the lines that `videokd predict` prints.

    Args:
        predictions: of any number of videos.
        layout: a table to read, one JSON list, or CSV with one row a label.
    """
    if layout == "json":
        return json.dumps([asdict(prediction) for prediction in predictions], indent=1).split("\n")
    return _csv_lines(predictions) if layout == "csv" else _table_lines(predictions)


def _table_lines(predictions: Sequence[Prediction]) -> list[str]:
    lines = []
    for prediction in predictions:
        seconds = sum(prediction.seconds.values())
        parts = ", ".join(f"{name} {1000 * value:.0f} ms" for name, value in prediction.seconds.items())
        exits = "".join(f", {student} by {name}" for student, name in prediction.exits.items())
        lines.append(f"{prediction.path}  ({seconds:.3f} s: {parts}{exits}; {prediction.route})")
        lines += [f"  {100 * label.probability:5.1f} %  {label.name}" for label in prediction.labels]
    return lines


def _csv_lines(predictions: Sequence[Prediction]) -> list[str]:
    students = list(predictions[0].exits) if predictions else []
    columns = ["path", "rank", "label", "probability", "transcode_seconds", "read_seconds", "network_seconds", "route"]
    rows: list[list[object]] = [[*columns, *(f"exit_{student}" for student in students)]]
    for prediction in predictions:
        times = [f"{value:.4f}" for value in prediction.seconds.values()]
        for rank, label in enumerate(prediction.labels, start=1):
            numbers = [rank, label.name, f"{label.probability:.6f}", *times]
            rows.append([prediction.path, *numbers, prediction.route, *prediction.exits.values()])
    return csv_text(rows).removesuffix("\n").split("\n")
